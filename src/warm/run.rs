//! A run of a manifest: what was planned for it, and what its jobs have come to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use larder_jobs::{JobId, Record, State};
use serde::{Deserialize, Serialize};

/// A run, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name, the same whoever asks.
    pub run: String,
    /// When it was due.
    pub due: Timestamp,
    /// When all of it should be there.
    pub deadline: Option<Timestamp>,
    /// Its jobs; `None` if nothing was asked for.
    pub batch: Option<JobId>,
    /// The bytes to fetch for each job of the batch, in its order; `None` if the plan could not tell.
    pub planned: Vec<Option<u64>>,
    /// Models that were not asked for, since they could not be there.
    pub dropped: u64,
    /// What had become of it when it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Tally>,
}

/// What of a job is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    state: State,
    /// Bytes that are not there; `None` before anybody knows how many there are.
    missing: Option<u64>,
    total: u64,
}

impl Seen {
    /// Of this record.
    pub fn of(record: &Record) -> Self {
        let progress = &record.progress;
        let is_there = matches!(record.state, State::Ready | State::Done);
        let missing = progress.bytes_total.map(|total| total.saturating_sub(progress.bytes_done));
        Self {
            state: record.state,
            missing: if is_there { Some(0) } else { missing },
            total: progress.bytes_total.unwrap_or(0),
        }
    }
}

/// How many models are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// Queued, or waiting for their time.
    pub waiting: u64,
    /// A worker is at them.
    pub running: u64,
    /// They are there.
    pub done: u64,
    /// They failed for good.
    pub failed: u64,
    /// They were called off.
    pub cancelled: u64,
    /// They were not asked for, since they could not be there.
    pub dropped: u64,
}

/// What has become of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Bytes that it was to fetch.
    pub planned: u64,
    /// Those of them that are there.
    pub done: u64,
    /// Bytes that its open jobs still lack; what failed or was called off does not come any more.
    pub remaining: u64,
    /// Its models.
    pub models: Models,
}

impl Tally {
    /// Whether nothing of it is to come any more.
    pub fn is_over(&self) -> bool {
        self.models.waiting + self.models.running == 0
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (one, two) = (self.models, other.models);
        Self {
            planned: self.planned.saturating_add(other.planned),
            done: self.done.saturating_add(other.done),
            remaining: self.remaining.saturating_add(other.remaining),
            models: Models {
                waiting: one.waiting + two.waiting,
                running: one.running + two.running,
                done: one.done + two.done,
                failed: one.failed + two.failed,
                cancelled: one.cancelled + two.cancelled,
                dropped: one.dropped + two.dropped,
            },
        }
    }
}

/// One manifest's run in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Night {
    /// When it was due.
    pub due: Timestamp,
    /// When all of it should be there.
    pub deadline: Option<Timestamp>,
    /// What has become of it.
    pub tally: Tally,
}

impl Asked {
    /// What has become of it; `jobs` are those of its batch in their order, `seen` what is known of them. A job that is
    /// forgotten is in no number.
    pub fn tally(&self, jobs: &[JobId], seen: &BTreeMap<JobId, Seen>) -> Tally {
        let mut tally =
            Tally { models: Models { dropped: self.dropped, ..Models::default() }, ..Tally::default() };
        let mut counted = BTreeSet::new();
        for (n, id) in jobs.iter().enumerate() {
            // Two wants of the manifest may be one job.
            let Some(job) = seen.get(id).filter(|_| counted.insert(*id)) else { continue };
            let planned = self.planned.get(n).copied().flatten();
            let is_open = !job.state.is_terminal();
            // Of what nobody could tell the size, all that is missing when it is known was to be fetched.
            let to_fetch = planned.unwrap_or(job.total);
            let missing = job.missing.unwrap_or(to_fetch);
            tally.planned = tally.planned.saturating_add(to_fetch);
            tally.done = tally.done.saturating_add(to_fetch.saturating_sub(missing));
            tally.remaining = tally.remaining.saturating_add(if is_open { missing } else { 0 });
            let models = &mut tally.models;
            *match job.state {
                State::Ready | State::Done => &mut models.done,
                State::Failed => &mut models.failed,
                State::Cancelled => &mut models.cancelled,
                state if state.is_running() => &mut models.running,
                _ => &mut models.waiting,
            } += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::Kind;

    fn id(n: u8) -> JobId {
        JobId::new(Timestamp::UNIX_EPOCH, n.into())
    }

    fn record(n: u8, state: State, total: Option<u64>, done: u64) -> Record {
        let mut record = Record::new(id(n), Kind::Download, n.into(), Timestamp::UNIX_EPOCH);
        record.state = state;
        (record.progress.bytes_total, record.progress.bytes_done) = (total, done);
        record
    }

    fn asked(planned: &[Option<u64>]) -> Asked {
        Asked {
            run: "warm/1".into(),
            due: Timestamp::UNIX_EPOCH,
            deadline: None,
            batch: Some(id(99)),
            planned: planned.to_vec(),
            dropped: 1,
            ended: None,
        }
    }

    fn tally(planned: &[Option<u64>], jobs: &[JobId], records: &[Record]) -> Tally {
        asked(planned).tally(jobs, &records.iter().map(|record| (record.id, Seen::of(record))).collect())
    }

    #[test]
    fn planned_is_done_and_what_remains_and_what_failed() {
        let planned = [Some(0), Some(100), Some(100), Some(100), Some(100)];
        let records = [
            // There before, or half of it there: its files are larger than what was to be fetched.
            record(1, State::Ready, Some(70), 70),
            record(2, State::Ready, Some(300), 300),
            record(3, State::Fetching, Some(300), 250),
            record(4, State::Queued, None, 0),
            record(5, State::Failed, Some(100), 40),
        ];
        let found = tally(&planned, &[1, 2, 3, 4, 5].map(id), &records);
        assert_eq!((found.planned, found.done, found.remaining), (400, 100 + 50 + 40, 50 + 100));
        let models = Models { waiting: 1, running: 1, done: 2, failed: 1, cancelled: 0, dropped: 1 };
        assert_eq!(found.models, models);
        assert!(!found.is_over());
        assert_eq!(found.and(Tally::default()), found);
    }

    #[test]
    fn what_the_plan_could_not_tell_is_known_when_the_job_is() {
        let before = tally(&[None], &[id(1)], &[record(1, State::Queued, None, 0)]);
        assert_eq!((before.planned, before.remaining), (0, 0));
        let during = tally(&[None], &[id(1)], &[record(1, State::Fetching, Some(80), 20)]);
        assert_eq!((during.planned, during.done, during.remaining), (80, 20, 60));
    }

    #[test]
    fn one_job_counts_once_and_a_forgotten_one_not_at_all() {
        let one = record(1, State::Ready, Some(10), 10);
        let found = tally(&[Some(10), Some(10), Some(10)], &[id(1), id(1), id(2)], &[one]);
        assert_eq!((found.planned, found.done, found.models.done), (10, 10, 1));
        assert!(found.is_over());
    }
}
