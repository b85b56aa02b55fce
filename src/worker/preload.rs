//! The preload job: a model's files are brought into the page cache when that gains something and memory is there for it,
//! and never while others wait for memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{ModelRef, Preload, Progress, Reason, State};
use tokio_util::sync::CancellationToken;

use super::profile::{files, json, one, resident};
use super::{Context, blocking};
use crate::disk::load::ReadSpeeds;
use crate::disk::preload::{self, Facts, Manner, No, Policy};
use crate::error::{Error, Result};
use crate::host::{Memory, Pressures, Roots};
use crate::ledger::ModelView;
use crate::queue::Done;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long a preload waits for memory.
const SHORT_OF_MEMORY: Duration = Duration::from_secs(60);

/// Runs the job. That it is not worth the while is a result and no failure; that memory is short is waited for.
pub(super) async fn preload(
    context: &Context,
    want: &Preload,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    let keeper = context.keeper()?.clone();
    let model = ModelRef::new(want.repo.clone(), Some(want.revision.clone()));
    let view = one(keeper.find(&model, Timestamp::now())?, &model)?;
    let _work = keeper.repos().work(&view.repo).await;
    let residency = resident(context, &view, stop).await?;
    let rates = keeper.ledger().rates();
    let (memory, policy) = (Memory::read(&Roots::default()), Policy::default());
    let facts = Facts {
        bytes: residency.bytes,
        resident: residency.resident,
        free_memory: memory.effective_available,
        speeds: ReadSpeeds { cold: rates.disk_read_cold, warm: rates.disk_read_warm },
        pressure: pressure(),
    };
    let needed = residency.bytes.saturating_add(policy.keep_free);
    let has = memory.cgroup_limit.or(memory.total);
    let nothing = preload::Preloaded { bytes: residency.bytes, ..preload::Preloaded::default() };
    let (reason, done) = match preload::worth_it(&facts, &policy) {
        preload::Preload::Go { .. } => (None, load(context, &view, &policy, &report, stop).await?),
        preload::Preload::No { reason } => match reason {
            // Waiting would not help.
            No::TooLittleMemory { .. } if has.is_some_and(|has| has < needed) => (Some(reason), nothing),
            No::UnderPressure { .. } | No::TooLittleMemory { .. } => return Err(short(&reason)),
            No::SpeedUnknown | No::GainTooSmall { .. } | No::ResidencyUnknown if want.force => {
                let free = facts.free_memory.unwrap_or(0);
                let missing = residency.bytes.saturating_sub(residency.resident.unwrap_or(0));
                if missing.saturating_add(policy.keep_free) > free {
                    return Err(short(&No::TooLittleMemory { needed, free }));
                }
                (None, load(context, &view, &policy, &report, stop).await?)
            }
            _ => (Some(reason), nothing),
        },
    };
    keeper.ledger().touch(&view.repo, &view.commit, Timestamp::now())?;
    let resident_after = resident(context, &view, stop).await?.resident;
    let words = reason.map(|reason| reason.sentence());
    let told = serde_json::json!({
        "bytes": residency.bytes,
        "resident_before": residency.resident,
        "resident_after": resident_after,
        "read": done.read,
        "skipped": words,
    });
    let progress = Progress {
        commit: Some(view.commit.clone()),
        bytes_total: Some(residency.bytes),
        bytes_done: resident_after.unwrap_or(done.found + done.read),
        files_total: Some(view.files),
        files_done: view.files,
        report: Some(Box::new(json(&told)?)),
        ..Progress::default()
    };
    Ok(Done { path: Some(view.path.clone()), progress })
}

/// The share of time in which somebody waited for memory, in per cent.
fn pressure() -> Option<f64> {
    Pressures::read(&Roots::default()).worst().map(|pressure| pressure.some_avg10)
}

fn short(reason: &No) -> Error {
    Error::new(
        Reason::MemoryPressure,
        reason.sentence(),
        "it is tried again when memory is free; stop something, or preload a smaller model",
    )
    .with_retry_after(Some(SHORT_OF_MEMORY))
}

/// Reads the files, and reports meanwhile; stops when memory becomes short.
async fn load(
    context: &Context,
    view: &ModelView,
    policy: &Policy,
    report: &impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<preload::Preloaded> {
    let read = Arc::new(AtomicU64::new(0));
    let loading = {
        let (context, view, stop, read) = (context.clone(), view.clone(), stop.clone(), Arc::clone(&read));
        let policy = *policy;
        blocking(move || {
            let files = files(&context, &view)?;
            let go_on = || {
                let is_calm = pressure().is_none_or(|pressure| pressure <= policy.most_pressure);
                let free = Memory::read(&Roots::default()).effective_available;
                is_calm && free.is_none_or(|free| free >= policy.keep_free)
            };
            let progress = |bytes| {
                read.fetch_add(bytes, Relaxed);
            };
            let stop = || stop.is_cancelled();
            let manner = Manner { rate: None, quiet: false, go_on: &go_on, stop: &stop, progress: &progress };
            preload::preload(&files, &manner)
        })
    };
    tokio::pin!(loading);
    let mut tick = tokio::time::interval(REPORT_EVERY);
    let loaded = loop {
        tokio::select! {
            result = &mut loading => break result?,
            _ = tick.tick() => report(State::Running, Progress {
                commit: Some(view.commit.clone()),
                bytes_total: Some(view.bytes),
                bytes_done: read.load(Relaxed),
                ..Progress::default()
            }),
        }
    };
    if !loaded.whole {
        return Err(Error::new(
            Reason::MemoryPressure,
            format!("memory became short when {} of {} bytes were read", loaded.read, loaded.bytes),
            "it is tried again when memory is free",
        )
        .with_retry_after(Some(SHORT_OF_MEMORY)));
    }
    Ok(loaded)
}
