//! Jobs that were asked for together: one want for several hosts, or the models of a night. What they come to is
//! summed up when somebody looks, so there is no second state that could contradict theirs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ChildView, Job, JobId, JobView, Kind, Reason, Record, State};

/// Most jobs of one batch.
pub const MAX_BATCH: usize = 4_096;
/// Most failures that the summary names.
const NAMED: usize = 8;

/// Jobs that were asked for together, all of them or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The version of this record.
    pub v: u64,
    /// Its id, which stands for all of its jobs.
    pub id: JobId,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Who asked for it.
    pub requested_by: Option<String>,
    /// A second request with this key answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The keys of those who asked for the same later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_keys: Vec<String>,
    /// What it is called, if it has a name: that of a manifest.
    pub name: Option<String>,
    /// The payload as it was asked for, if it was one for several hosts.
    pub job: Option<Value>,
    /// What was asked for, as a text that is the same whenever the same is: a key answers nothing else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asks: String,
    /// Who is told when all of its jobs have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// Its jobs; one that was in flight before belongs to it, too.
    pub jobs: Vec<JobId>,
}

/// Something that has ended, of which somebody may want to be told.
#[derive(Debug, Clone, Copy)]
pub enum Ended<'a> {
    /// A job.
    Job(&'a Record),
    /// All jobs of a batch, those that are still known.
    Batch(&'a Batch, &'a [Record]),
}

impl Batch {
    /// Whether this key answers it.
    pub fn has_key(&self, key: &str) -> bool {
        self.idempotency_key.as_deref() == Some(key) || self.more_keys.iter().any(|known| known == key)
    }

    /// All jobs as one; `records` are those that are still known, `only` names the host of a queue without a fleet.
    pub fn view(&self, records: &[Record], only: Option<&str>) -> JobView {
        let views: Vec<JobView> = records.iter().map(|record| record.view(only)).collect();
        let asked = self.job.clone().and_then(|job| Job::from_json(job).ok());
        let (repo, revision) = asked.as_ref().map_or((None, None), |job| {
            let (repo, revision) = job.work.model();
            (repo.cloned(), revision.cloned())
        });
        let kind = views.first().map_or(Kind::Download, |view| view.kind);
        let state = state(kind, &views);
        let (reason, message) = trouble(state, &views, self.jobs.len().max(views.len()));
        let sum = |of: fn(&JobView) -> u64| views.iter().map(of).sum();
        let known = |of: fn(&JobView) -> Option<u64>| views.iter().map(of).sum();
        let commits: Vec<_> = views.iter().filter_map(|view| view.commit.as_ref()).collect();
        let same = commits.first().filter(|first| commits.iter().all(|commit| commit == *first));
        let ended = state.is_terminal().then(|| views.iter().filter_map(|view| view.finished_at).max());
        let rate = views.iter().filter_map(|view| view.bytes_per_second).reduce(|sum, rate| sum + rate);
        JobView {
            id: self.id,
            kind,
            state,
            reason,
            message,
            until: views.iter().filter_map(|view| view.until).min().filter(|_| state == State::Waiting),
            repo,
            revision,
            commit: same.map(|commit| (*commit).clone()),
            path: None,
            bytes_total: known(|view| view.bytes_total),
            bytes_done: sum(|view| view.bytes_done),
            bytes_verified: sum(|view| view.bytes_verified),
            bytes_fetched: sum(|view| view.bytes_fetched),
            bytes_per_second: rate,
            // Of the slowest: the others go on beside it.
            seconds_left: views.iter().filter_map(|view| view.seconds_left).max(),
            files_total: known(|view| view.files_total),
            files_done: sum(|view| view.files_done),
            active: Vec::new(),
            evicted: Vec::new(),
            came_back: None,
            chosen: None,
            report: None,
            bytes_by_source: sources(&views),
            hosts: views.iter().flat_map(|view| view.hosts.clone()).collect(),
            placed: self.name.clone(),
            parent: None,
            children: views.iter().map(child).collect(),
            deadline: views.iter().filter_map(|view| view.deadline).min(),
            priority: views.iter().map(|view| view.priority).max().unwrap_or_default(),
            requested_by: self.requested_by.iter().cloned().collect(),
            attempts: views.iter().map(|view| view.attempts).max().unwrap_or_default(),
            created_at: self.created_at,
            started_at: views.iter().filter_map(|view| view.started_at).min(),
            finished_at: ended.flatten(),
        }
    }
}

/// Bytes by source, of all of them.
fn sources(views: &[JobView]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (source, bytes) in views.iter().flat_map(|view| &view.bytes_by_source) {
        *all.entry(source.clone()).or_default() += bytes;
    }
    all
}

fn child(view: &JobView) -> ChildView {
    ChildView {
        id: view.id,
        host: view.hosts.first().cloned(),
        repo: view.repo.clone(),
        state: view.state,
        reason: view.reason,
        bytes_total: view.bytes_total,
        bytes_done: view.bytes_done,
    }
}

/// While some are not over: what the busiest does. Then: failed if one has, else cancelled if one was, else done. Those that
/// are forgotten were done: with one that was not the batch is forgotten, too.
fn state(kind: Kind, views: &[JobView]) -> State {
    const BY_WEIGHT: [State; 8] = [
        State::Fetching,
        State::Verifying,
        State::Planning,
        State::Running,
        State::Queued,
        State::Waiting,
        State::Failed,
        State::Cancelled,
    ];
    let there = |state: &State| views.iter().any(|view| view.state == *state);
    BY_WEIGHT.into_iter().find(there).unwrap_or_else(|| kind.success())
}

/// The reason that most have, and the sentence about those that failed.
fn trouble(state: State, views: &[JobView], asked: usize) -> (Option<Reason>, Option<String>) {
    let of_state: Vec<_> = views.iter().filter(|view| view.state == state).collect();
    let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
    of_state.iter().filter_map(|view| view.reason).for_each(|reason| *counts.entry(reason).or_default() += 1);
    let reason = counts.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| *reason);
    let failed: Vec<_> = views.iter().filter(|view| view.state == State::Failed).collect();
    let forgotten = asked.saturating_sub(views.len());
    if failed.is_empty() {
        let what = || format!("{forgotten} of {asked} jobs have ended long ago and are not known any more");
        return (reason, (forgotten > 0).then(what));
    }
    let named = failed.iter().take(NAMED).map(|view| {
        let what = view.hosts.first().cloned().or_else(|| view.repo.as_ref().map(ToString::to_string));
        let why = view.reason.map_or("failed", Reason::word);
        format!("{} {why}", what.unwrap_or_else(|| view.id.to_string()))
    });
    let named: Vec<_> = named.collect();
    let more = if failed.len() > NAMED { ", …" } else { "" };
    let message = format!(
        "{} of {asked} failed: {}{more}; hint: see each with larder jobs show, and run it again with larder jobs retry",
        failed.len(),
        named.join(", ")
    );
    (reason, Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;
    use serde_json::json;

    fn batch() -> Batch {
        Batch {
            v: 1,
            id: JobId::new(Timestamp::UNIX_EPOCH, 99),
            created_at: Timestamp::UNIX_EPOCH,
            requested_by: Some("night".into()),
            idempotency_key: None,
            more_keys: Vec::new(),
            name: None,
            job: Some(json!({"v": 1, "kind": "download", "repo": "a/b", "revision": "main", "hosts": "all"})),
            asks: String::new(),
            notify: None,
            jobs: Vec::new(),
        }
    }

    fn record(n: u8, state: State, reason: Option<Reason>) -> Record {
        let id = JobId::new(Timestamp::UNIX_EPOCH, n.into());
        let mut record = Record::new(id, Kind::Download, n.into(), Timestamp::UNIX_EPOCH);
        record.target = Target::Host(format!("gpu-{n}").parse().expect("a name"));
        (record.state, record.reason) = (state, reason);
        record.finished_at = state.is_terminal().then_some(Timestamp::UNIX_EPOCH);
        (record.progress.bytes_total, record.progress.bytes_done) = (Some(10), 4);
        record
    }

    #[test]
    fn many_jobs_come_to_one_answer() {
        use State::{Cancelled, Failed, Fetching, Queued, Ready, Waiting};
        for (states, expected) in [
            (vec![Ready, Ready], Ready),
            (vec![Ready, Failed], Failed),
            (vec![Ready, Cancelled], Cancelled),
            (vec![Failed, Cancelled], Failed),
            (vec![Failed, Queued], Queued),
            (vec![Ready, Waiting], Waiting),
            (vec![Waiting, Queued, Fetching], Fetching),
        ] {
            let records: Vec<_> = states.iter().zip(1..).map(|(state, n)| record(n, *state, None)).collect();
            let view = batch().view(&records, None);
            assert_eq!(view.state, expected, "{states:?}");
            assert_eq!(view.finished_at.is_some(), expected.is_terminal());
            let count = states.len() as u64;
            assert_eq!((view.bytes_total, view.bytes_done), (Some(10 * count), 4 * count));
            assert_eq!(view.children.len(), states.len());
        }
    }

    #[test]
    fn those_that_failed_are_named() {
        let records = [
            record(1, State::Ready, None),
            record(2, State::Failed, Some(Reason::Gated)),
            record(3, State::Failed, Some(Reason::InsufficientDisk)),
            record(4, State::Failed, Some(Reason::InsufficientDisk)),
        ];
        let view = batch().view(&records, None);
        assert_eq!((view.state, view.reason), (State::Failed, Some(Reason::InsufficientDisk)));
        let message = view.message.expect("a message");
        assert!(
            message.starts_with("3 of 4 failed: gpu-2 gated, gpu-3 insufficient_disk, gpu-4"),
            "{message}"
        );
        assert_eq!(view.repo.map(String::from).as_deref(), Some("a/b"));
    }

    #[test]
    fn what_one_does_not_know_the_sum_does_not_either() {
        let mut unknown = record(1, State::Queued, None);
        unknown.progress.bytes_total = None;
        let view = batch().view(&[unknown, record(2, State::Ready, None)], None);
        assert_eq!((view.bytes_total, view.bytes_done), (None, 8));
    }
}
