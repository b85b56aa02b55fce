//! Counts what happens to jobs, and tells of those that ended, the same for every store.

use std::sync::{Arc, OnceLock};

use larder_jobs::{Batch, Ended, Reason, State};

use super::Record;
use crate::metrics;

/// Writes down that somebody is to be told of an end, and says whether it is written. It may be called twice of one end,
/// and must not block.
pub type Tell = Arc<dyn Fn(&Ended<'_>) -> bool + Send + Sync>;

/// Who is told, once there is somebody.
#[derive(Default)]
pub(super) struct Observer(OnceLock<Tell>);

impl Observer {
    /// The first one stays.
    pub(super) fn set(&self, tell: Tell) {
        let _ = self.0.set(tell);
    }

    /// All jobs of a batch have ended.
    pub(super) fn all_ended(&self, batch: &Batch, records: &[Record]) {
        if let Some(tell) = self.0.get() {
            tell(&Ended::Batch(batch, records));
        }
    }

    /// The step from `before` to `now`.
    pub(super) fn step(&self, before: Option<&Record>, now: &Record) {
        step(before, now);
        if let Some(tell) = self.0.get()
            && now.state.is_terminal()
            && !before.is_some_and(|before| before.state.is_terminal())
        {
            tell(&Ended::Job(now));
        }
    }
}

/// Counts the step from `before` to `now`.
pub(super) fn step(before: Option<&Record>, now: &Record) {
    let was = before.map(|record| record.state);
    if now.state.is_terminal() && !was.is_some_and(State::is_terminal) {
        if let (State::Failed, Some(reason)) = (now.state, now.reason) {
            metrics::job_failed(now.kind, reason);
        }
        if let (Some(started), Some(finished)) = (now.started_at, now.finished_at) {
            let seconds = finished.duration_since(started).as_secs_f64().max(0.0);
            metrics::job_ended(now.kind, now.state.word(), seconds);
        }
    }
    let Some(before) = before.filter(|record| record.state.is_running()) else { return };
    match (now.state, now.reason) {
        (State::Waiting, Some(reason)) if reason.is_transient() => metrics::job_retried(now.kind, reason),
        // Back without its attempt: the worker vanished.
        (State::Queued, _) if now.attempts == before.attempts => {
            metrics::job_retried(now.kind, Reason::LeaseLost);
        }
        _ => {}
    }
}
