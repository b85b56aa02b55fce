//! The profile job: how fast this host is, or what a staged model is made of and how soon it would be loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{CommitId, ModelRef, Profile, Progress, RepoId, State, Test};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::disk::load::{LoadSeconds, ReadSpeeds, seconds};
use crate::disk::residency::{Residency, residency};
use crate::disk::speed::{self, Missing, Speeds};
use crate::error::{Error, Result};
use crate::fit::Parameters;
use crate::host::{self, Roots};
use crate::layout;
use crate::ledger::{Measured, ModelView};
use crate::queue::Done;
use crate::scout::Staged;
use crate::weights::Finding;
use crate::weights::summary::DtypeSum;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Readers of the parallel reading: what one engine's loader has by default.
const READERS: usize = 4;
/// Writing, two cold readings and a warm one.
const PASSES: u64 = 4;

/// What a profile of a model says; the job's `report`.
#[derive(Debug, Serialize)]
struct ModelProfile {
    repo: RepoId,
    commit: CommitId,
    bytes: u64,
    files: u64,
    quantization: Option<String>,
    parameters: Option<u64>,
    by_shape: Option<Parameters>,
    dtypes: Vec<DtypeSum>,
    /// Errors first; empty if the weight files belong together and are whole.
    findings: Vec<Finding>,
    residency: Residency,
    seconds_to_load: LoadSeconds,
    fit: serde_json::Value,
    notes: Vec<String>,
}

/// Runs the job.
pub(super) async fn profile(
    context: &Context,
    want: &Profile,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    match &want.repo {
        Some(repo) => model(context, &ModelRef::new(repo.clone(), want.revision.clone()), report, stop).await,
        None => host_profile(context, want, report, stop).await,
    }
}

async fn host_profile(
    context: &Context,
    want: &Profile,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    let wanted = |test: Test| want.tests.is_empty() || want.tests.contains(&test);
    let keeper = context.keeper()?.clone();
    let mut measured = Measured { at: Timestamp::now(), ..Measured::default() };
    let mut done = Progress::default();
    if wanted(Test::Hub) {
        match context.hub.round_trip(stop).await {
            Ok(trip) => measured.hub_round_trip = Some(trip.as_secs_f64()),
            Err(error) if stop.is_cancelled() => return Err(error),
            Err(error) => measured.notes.push(format!("hub: {error}")),
        }
    }
    if wanted(Test::Memory) {
        let copied = blocking(|| Ok(host::bandwidth(&Roots::default()))).await?;
        match copied {
            Some(copied) => measured.memory_copy = Some(copied.bytes_per_second),
            None => measured.notes.push("memory: too little is free to measure it".into()),
        }
    }
    if wanted(Test::Disk) {
        let bytes = want.disk_bytes.map_or(speed::BYTES, larder_jobs::Size::bytes);
        let speeds = disk(context, bytes, &report, stop).await?;
        measured.disk_write = Some(speeds.write.bytes_per_second);
        let mut rate = |what: &str, one: speed::Measured| {
            if let Some(why) = one.missing.map(Missing::sentence) {
                measured.notes.push(format!("{what}: {why}"));
            }
            one.rate.map(|rate| rate.bytes_per_second)
        };
        let (cold, parallel, warm) = (
            rate("disk, cold", speeds.cold),
            rate("disk, cold, several readers", speeds.cold_parallel),
            rate("disk, warm", speeds.warm),
        );
        (measured.disk_read_cold, measured.disk_read_cold_parallel, measured.disk_read_warm) =
            (cold, parallel, warm);
        // The file is smaller where the disk has less room.
        done.bytes_total = Some(speeds.write.bytes * PASSES);
        done.bytes_done = speeds.write.bytes * PASSES;
    }
    keeper.ledger().measured(&measured)?;
    keeper.ledger().durable().await?;
    done.report = Some(Box::new(json(&measured)?));
    Ok(Done { path: None, progress: done })
}

/// Measures the cache's disk, and reports meanwhile.
async fn disk(
    context: &Context,
    bytes: u64,
    report: &impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Speeds> {
    let done = Arc::new(AtomicU64::new(0));
    let measuring = {
        let (root, stop, done) = (context.cache.root().to_owned(), stop.clone(), Arc::clone(&done));
        let total = crate::disk::usage(&root)?.total;
        let keep_free = context.keep_free.of(total);
        blocking(move || {
            // A cache that is not there yet has a disk all the same.
            let folder = root.ancestors().find(|folder| folder.is_dir()).unwrap_or(&root);
            let ask = speed::Ask { folder, bytes, keep_free, readers: READERS, quiet: true };
            let progress = |step, at: u64, _| {
                let pass = match step {
                    speed::Step::Write => 0,
                    speed::Step::Cold => 1,
                    speed::Step::ColdParallel => 2,
                    speed::Step::Warm => 3,
                };
                done.store(pass * bytes + at, Relaxed);
            };
            speed::measure(&ask, &|| stop.is_cancelled(), &progress)
        })
    };
    tokio::pin!(measuring);
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            result = &mut measuring => return result,
            _ = tick.tick() => report(State::Running, Progress {
                bytes_total: Some(bytes * PASSES),
                bytes_done: done.load(Relaxed),
                ..Progress::default()
            }),
        }
    }
}

async fn model(
    context: &Context,
    model: &ModelRef,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    let keeper = context.keeper()?.clone();
    let view = one(keeper.find(model, Timestamp::now())?, model)?;
    let _work = keeper.repos().work(&view.repo).await;
    report(State::Running, Progress { bytes_total: Some(view.bytes), ..Progress::default() });
    let Staged { looked, fit } = context.scout.staged(&view.repo, &view.commit, stop).await?;
    let residency = resident(context, &view, stop).await?;
    let rates = keeper.ledger().rates();
    let speeds = ReadSpeeds { cold: rates.disk_read_cold, warm: rates.disk_read_warm };
    let mut notes = Vec::new();
    if speeds.cold.is_none() {
        notes.push(
            "the disk was not measured yet, so nobody knows how long loading takes: larder profile".into(),
        );
    }
    if let Err(unknown) = looked.architecture.as_ref().and(looked.weights.as_ref().map(|_| ())) {
        notes.push(unknown.to_string());
    }
    let profile = ModelProfile {
        repo: view.repo.clone(),
        commit: view.commit.clone(),
        bytes: view.bytes,
        files: view.files,
        quantization: looked.architecture.is_ok().then(|| looked.quantization().to_string()),
        parameters: looked.parameters,
        by_shape: looked.architecture.as_ref().ok().map(crate::fit::Architecture::parameters),
        dtypes: looked.summary.map(|summary| summary.by_dtype).unwrap_or_default(),
        findings: looked.findings,
        seconds_to_load: seconds(residency.bytes, residency.resident, speeds),
        residency,
        fit: json(&fit)?,
        notes,
    };
    let progress = Progress {
        commit: Some(view.commit.clone()),
        bytes_total: Some(view.bytes),
        bytes_done: view.bytes,
        files_total: Some(view.files),
        files_done: view.files,
        report: Some(Box::new(json(&profile)?)),
        ..Progress::default()
    };
    Ok(Done { path: Some(view.path.clone()), progress })
}

/// The one revision that a name means; of several the one that was used last.
pub(super) fn one(mut found: Vec<ModelView>, model: &ModelRef) -> Result<ModelView> {
    found.sort_by_key(|view| view.last_used_at);
    found.pop().ok_or_else(|| Error::internal(format!("{model} was found and is not there")))
}

/// The paths of a revision's files.
pub(super) fn files(context: &Context, view: &ModelView) -> Result<Vec<std::path::PathBuf>> {
    let found = layout::scan_repo(&context.cache, &view.repo).repos.into_iter().next();
    let revisions = found.map(|found| found.revisions).unwrap_or_default();
    let files = revisions.into_iter().find(|one| one.commit == view.commit).map(|one| one.files);
    let snapshot = context.cache.repo(&view.repo).snapshot(&view.commit);
    let files: Vec<_> = files.into_iter().flatten().map(|file| snapshot.join(file.path)).collect();
    if files.is_empty() {
        return Err(Error::new(
            larder_jobs::Reason::NotFound,
            format!("{}@{} is no longer in the cache", view.repo, view.commit.short()),
            format!("stage it again: larder stage {}", view.repo),
        ));
    }
    Ok(files)
}

/// How much of a model is in memory.
pub(super) async fn resident(
    context: &Context,
    view: &ModelView,
    stop: &CancellationToken,
) -> Result<Residency> {
    let (context, view, stop) = (context.clone(), view.clone(), stop.clone());
    blocking(move || residency(files(&context, &view)?, &|| stop.is_cancelled())).await
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::internal(format!("a report became no JSON: {error}")))
}
