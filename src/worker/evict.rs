//! The evict job: the keeper does it, the job tells of it.

use jiff::Timestamp;
use larder_jobs::{Evict, EvictedModel, Progress, State};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::error::Result;
use crate::keeper::Outcome;
use crate::metrics;
use crate::queue::Done;

/// Runs the job. What is gone is reported also if it then fails: that it freed too little is an error.
pub(super) async fn evict(
    context: &Context,
    want: &Evict,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    let (keeper, wanted, stop) = (context.keeper()?.clone(), want.clone(), stop.clone());
    if want.dry_run {
        let planned = blocking(move || {
            let now = Timestamp::now();
            keeper.plan(&keeper.goal(&wanted, now)?, now)
        });
        let planned = planned.await?.evict.into_iter().map(|chosen| {
            let (repo, commit) = chosen.name;
            EvictedModel { repo, commit, bytes: chosen.bytes, reason: chosen.reason.word().to_owned() }
        });
        let planned: Vec<EvictedModel> = planned.collect();
        let bytes = planned.iter().map(|model| model.bytes).sum();
        return Ok(Done { path: None, progress: Progress { bytes_done: 0, ..progress(planned, bytes) } });
    }
    let outcome = blocking(move || {
        let goal = keeper.goal(&wanted, Timestamp::now())?;
        keeper.evict(&goal, &|| stop.is_cancelled())
    });
    let outcome = outcome.await?;
    let progress = progress(outcome.evicted.clone(), outcome.freed);
    if let Some(wanted) = want.free_bytes.filter(|_| outcome.short > 0 && !outcome.is_stopped) {
        metrics::eviction_short();
        report(State::Running, progress);
        return Err(Outcome::too_little(&outcome, wanted.bytes()));
    }
    Ok(Done { path: None, progress })
}

fn progress(evicted: Vec<EvictedModel>, bytes: u64) -> Progress {
    let number = u64::try_from(evicted.len()).unwrap_or(u64::MAX);
    Progress {
        bytes_total: Some(bytes),
        bytes_done: bytes,
        files_total: Some(number),
        files_done: number,
        evicted,
        ..Progress::default()
    }
}
