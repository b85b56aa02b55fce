//! The verify job: one revision after the other is read by the keeper; what is damaged is asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{Job, ModelRef, Progress, Reason, State, Verify, Work};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::error::{Error, Result};
use crate::keeper::{Checked, Keeper};
use crate::ledger::ModelView;
use crate::queue::Done;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Most damaged files that an error names.
const MAX_NAMED: usize = 5;

/// Runs the job; returns beside its result the jobs that bring damaged models back. What was read since `asked_at` in an
/// earlier attempt is not read again.
pub(super) async fn verify(
    context: &Context,
    want: &Verify,
    asked_at: Timestamp,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> (Result<Done>, Vec<Job>) {
    let mut again = Vec::new();
    let result = all(context, want, asked_at, report, stop, &mut again).await;
    (result, again)
}

async fn all(
    context: &Context,
    want: &Verify,
    asked_at: Timestamp,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
    again: &mut Vec<Job>,
) -> Result<Done> {
    let keeper = context.keeper()?;
    let models = chosen(keeper, want)?;
    let total: u64 = models.iter().map(|model| model.bytes).sum();
    let files: u64 = models.iter().map(|model| model.files).sum();
    let read = Arc::new(AtomicU64::new(0));
    let mut sum = Checked::default();
    for model in models {
        let before = read.load(Relaxed);
        if model.verified_at.is_none_or(|then| then < asked_at) {
            let progress = |bytes| Progress {
                bytes_total: Some(total),
                bytes_done: bytes,
                files_total: Some(files),
                files_done: sum.files,
                ..Progress::default()
            };
            let tell = || report(State::Running, progress(read.load(Relaxed)));
            match one(keeper, &model, want, &read, &tell, stop).await {
                Ok(checked) => sum.take(&model, checked, again),
                // Somebody removed it meanwhile.
                Err(error) if error.reason() == Reason::NotFound => {}
                Err(error) => return Err(error),
            }
        } else {
            sum.files += model.files;
        }
        read.store(before.saturating_add(model.bytes), Relaxed);
    }
    let progress = Progress {
        bytes_total: Some(total),
        bytes_done: total,
        files_total: Some(files),
        files_done: sum.files,
        ..Progress::default()
    };
    if sum.wrong.is_empty() {
        return Ok(Done { path: None, progress });
    }
    report(State::Running, progress);
    let named: Vec<_> = sum.wrong.iter().take(MAX_NAMED).map(|wrong| wrong.path.as_str()).collect();
    let more = sum.wrong.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let hint = match again.len() {
        0 => {
            "stage the model again; check the disk (dmesg, smartctl), since bytes do not change by themselves"
        }
        _ => {
            "the model is being staged again; check the disk (dmesg, smartctl), since bytes do not change by themselves"
        }
    };
    Err(Error::new(
        Reason::IntegrityMismatch,
        format!("the bytes are not those that the hub promised: {}{more}", named.join(", ")),
        hint,
    ))
}

/// The revisions that the job means.
fn chosen(keeper: &Keeper, want: &Verify) -> Result<Vec<ModelView>> {
    let now = Timestamp::now();
    match &want.repo {
        Some(repo) => keeper.find(&ModelRef::new(repo.clone(), want.revision.clone()), now),
        None => Ok(keeper.ledger().shelf().views(now)),
    }
}

/// Reads one revision, and reports meanwhile.
async fn one(
    keeper: &Keeper,
    model: &ModelView,
    want: &Verify,
    read: &Arc<AtomicU64>,
    report: &impl Fn(),
    stop: &CancellationToken,
) -> Result<Checked> {
    let _work = keeper.repos().work(&model.repo).await;
    let reading = {
        let (keeper, stop, read) = (keeper.clone(), stop.clone(), Arc::clone(read));
        let (repo, commit, speed) = (model.repo.clone(), model.commit.clone(), want.max_bytes_per_second);
        blocking(move || {
            let count = |bytes| {
                read.fetch_add(bytes, Relaxed);
            };
            keeper.verify(&repo, &commit, speed, &count, &|| stop.is_cancelled())
        })
    };
    tokio::pin!(reading);
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            result = &mut reading => return result,
            _ = tick.tick() => report(),
        }
    }
}

impl Checked {
    fn take(&mut self, model: &ModelView, checked: Checked, again: &mut Vec<Job>) {
        self.files += checked.files;
        self.bytes += checked.bytes;
        self.unknown += checked.unknown;
        let named = checked.wrong.into_iter();
        self.wrong.extend(named.map(|mut wrong| {
            wrong.path = format!("{} of {}@{}", wrong.path, model.repo, model.commit.short());
            wrong
        }));
        again.extend(checked.again.into_iter().map(|want| {
            let mut job = Job::new(Work::Download(want));
            job.common.requested_by = Some("verify".into());
            job
        }));
    }
}
