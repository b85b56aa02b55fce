//! Where each job lies: in the memory, rebuilt from the records at every start.
//!
//! Only the records are on the disk, so a crash cannot leave an index that contradicts them, and a step of
//! a job costs one write. The number of records is bounded by `queue.max_queued` and `queue.max_finished`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{JobId, Kind, State};

use crate::queue::store::SLACK_OF;
use crate::queue::{Filter, Record, Stats, rules};

#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    /// Queued jobs, the one that goes first at the front.
    ready: BTreeMap<(Kind, i64, u64), JobId>,
    /// Queued jobs by how long they have been so.
    queued: BTreeSet<(Kind, Timestamp, u64)>,
    /// Waiting jobs, the next due at the front.
    delayed: BTreeMap<(Kind, Timestamp, u64), JobId>,
    /// Jobs that have not ended by when they must have.
    deadlines: BTreeSet<(Kind, Timestamp, JobId)>,
    /// Running jobs, the next to expire at the front.
    leases: BTreeSet<(Timestamp, JobId)>,
    /// Ended jobs, the oldest at the front.
    ended: BTreeSet<(Timestamp, JobId)>,
    /// Jobs in flight by their want.
    wants: HashMap<String, JobId>,
    /// All jobs by their idempotency keys.
    keys: HashMap<String, JobId>,
    /// All jobs in the order of asking.
    all: BTreeMap<u64, (JobId, Kind, State)>,
    counts: BTreeMap<(Kind, State), usize>,
}

impl Index {
    pub(super) fn insert(&mut self, record: &Record) {
        let (id, kind, seq) = (record.id, record.kind, record.seq);
        match record.state {
            State::Queued => {
                self.ready.insert((kind, rules::place(record), seq), id);
                self.queued.insert((kind, record.due.unwrap_or(record.created_at), seq));
            }
            State::Waiting => {
                self.delayed.insert((kind, due(record), seq), id);
            }
            state if state.is_terminal() => {
                self.ended.insert((ended_at(record), id));
            }
            _ => {
                self.leases.insert((expiry(record), id));
            }
        }
        if let Some(deadline) = record.deadline.filter(|_| !record.state.is_terminal()) {
            self.deadlines.insert((kind, deadline, id));
        }
        if record.is_joinable() {
            self.wants.entry(record.want.clone()).or_insert(id);
        }
        for key in &record.keys {
            self.keys.entry(key.clone()).or_insert(id);
        }
        self.all.insert(seq, (id, kind, record.state));
        *self.counts.entry((kind, record.state)).or_default() += 1;
    }

    /// Takes out what [`Index::insert`] put in for the same record.
    pub(super) fn remove(&mut self, record: &Record) {
        let (id, kind, seq) = (record.id, record.kind, record.seq);
        self.ready.remove(&(kind, rules::place(record), seq));
        self.queued.remove(&(kind, record.due.unwrap_or(record.created_at), seq));
        self.delayed.remove(&(kind, due(record), seq));
        self.leases.remove(&(expiry(record), id));
        if let Some(deadline) = record.deadline {
            self.deadlines.remove(&(kind, deadline, id));
        }
        self.ended.remove(&(ended_at(record), id));
        if self.wants.get(&record.want) == Some(&id) {
            self.wants.remove(&record.want);
        }
        for key in &record.keys {
            if self.keys.get(key) == Some(&id) {
                self.keys.remove(key);
            }
        }
        self.all.remove(&seq);
        self.uncount(kind, record.state);
    }

    /// Takes out a job whose record cannot be read any more. Slow: looks at every job.
    pub(super) fn forget(&mut self, id: JobId) {
        let Some((&seq, &(_, kind, state))) = self.all.iter().find(|(_, (known, ..))| *known == id) else {
            return;
        };
        self.ready.retain(|_, known| *known != id);
        self.queued.retain(|(.., known)| *known != seq);
        self.delayed.retain(|_, known| *known != id);
        self.leases.retain(|(_, known)| *known != id);
        self.deadlines.retain(|(.., known)| *known != id);
        self.ended.retain(|(_, known)| *known != id);
        self.wants.retain(|_, known| *known != id);
        self.keys.retain(|_, known| *known != id);
        self.all.remove(&seq);
        self.uncount(kind, state);
    }

    fn uncount(&mut self, kind: Kind, state: State) {
        if let Some(count) = self.counts.get_mut(&(kind, state)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(kind, state));
            }
        }
    }

    /// The queued job of `kind` that goes first.
    pub(super) fn first(&self, kind: Kind) -> Option<JobId> {
        let from = (kind, i64::MIN, 0);
        let to = (kind, i64::MAX, u64::MAX);
        self.ready.range(from..=to).next().map(|(_, id)| *id)
    }

    /// At most `limit` waiting jobs of `kind` whose time has come.
    pub(super) fn due(&self, kind: Kind, now: Timestamp, limit: usize) -> Vec<JobId> {
        self.delayed.range(from(kind)..=(kind, now, u64::MAX)).take(limit).map(|(_, id)| *id).collect()
    }

    /// When the next waiting job of `kind` may run.
    pub(super) fn next_due(&self, kind: Kind) -> Option<Timestamp> {
        self.delayed.range(from(kind)..=(kind, Timestamp::MAX, u64::MAX)).next().map(|((_, due, _), _)| *due)
    }

    /// At most `limit` running jobs whose lease has ended.
    pub(super) fn expired(&self, now: Timestamp, limit: usize) -> Vec<JobId> {
        self.leases.iter().take_while(|(until, _)| *until <= now).take(limit).map(|(_, id)| *id).collect()
    }

    /// At most `limit` ended jobs, the oldest first, that ended before `horizon` or are beyond `keep`.
    pub(super) fn forgettable(&self, horizon: Timestamp, keep: usize, limit: usize) -> Vec<JobId> {
        let surplus = self.ended.len().saturating_sub(keep);
        let old = self.ended.iter().enumerate().take_while(|(n, (at, _))| *n < surplus || *at <= horizon);
        old.take(limit).map(|(_, (_, id))| *id).collect()
    }

    /// The job in flight that does `want`.
    pub(super) fn wanted(&self, want: &str) -> Option<JobId> {
        self.wants.get(want).copied()
    }

    /// The job that `key` stands for.
    pub(super) fn keyed(&self, key: &str) -> Option<JobId> {
        self.keys.get(key).copied()
    }

    /// Jobs that match, the newest first.
    pub(super) fn list(&self, filter: Filter) -> Vec<JobId> {
        let fits = |kind: Kind, state: State| {
            filter.kind.is_none_or(|k| k == kind) && filter.state.is_none_or(|s| s == state)
        };
        let below = filter.after.map_or(u64::MAX, |after| after.seq);
        let all = self.all.range(..below).rev().filter(|(_, (_, kind, state))| fits(*kind, *state));
        all.take(filter.limit).map(|(_, (id, ..))| *id).collect()
    }

    /// Number of jobs that wait for a worker or for their time.
    pub(super) fn backlog(&self) -> usize {
        self.ready.len() + self.delayed.len()
    }

    /// The place that the next job gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.all.last_key_value().map_or(0, |(seq, _)| seq + 1)
    }

    /// The jobs that have not ended and whose deadline has passed.
    pub(super) fn late(&self, now: Timestamp) -> Vec<JobId> {
        let of = |kind: Kind| self.deadlines.range((kind, Timestamp::MIN, JobId::MIN)..);
        let late = Kind::ALL.iter().flat_map(|kind| {
            of(*kind).take_while(move |(found, deadline, _)| found == kind && *deadline <= now)
        });
        late.map(|(.., id)| *id).collect()
    }

    /// The first jobs of a kind whose deadline is ahead.
    pub(super) fn ahead(&self, kind: Kind, now: Timestamp) -> Vec<(JobId, Timestamp)> {
        let ahead = self.deadlines.range((kind, now, JobId::MIN)..).take_while(|(found, ..)| *found == kind);
        ahead.take(SLACK_OF).map(|(_, deadline, id)| (*id, *deadline)).collect()
    }

    /// The numbers, without the time that jobs have to spare.
    pub(super) fn stats(&self, now: Timestamp) -> Stats {
        let oldest = |kind: Kind| {
            let (_, since, _) = self.queued.range(from(kind)..=(kind, Timestamp::MAX, u64::MAX)).next()?;
            Some((kind, Duration::try_from(now.duration_since(*since)).unwrap_or_default()))
        };
        Stats {
            deadline_slack: BTreeMap::new(),
            jobs: self.counts.clone(),
            oldest_queued: Kind::ALL.iter().filter_map(|kind| oldest(*kind)).collect(),
        }
    }
}

fn from(kind: Kind) -> (Kind, Timestamp, u64) {
    (kind, Timestamp::MIN, 0)
}

fn due(record: &Record) -> Timestamp {
    record.due.unwrap_or(record.created_at)
}

fn expiry(record: &Record) -> Timestamp {
    record.lease_until.unwrap_or(record.created_at)
}

fn ended_at(record: &Record) -> Timestamp {
    record.finished_at.unwrap_or(record.created_at)
}
