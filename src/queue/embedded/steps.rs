//! The steps of the embedded queue: lock, read, apply a rule, write, index. None of them waits.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::client::keyed_otherwise;
use larder_jobs::{Batch as Batched, Invalid, Job, JobId, Kind, Progress, Reason, State};
use serde_json::Value;

use super::{Embedded, Inner, JOBS, Scope, key};
use crate::error::{Error, Result};
use crate::queue::{
    Cancelled, Claim, Claimed, Enqueued, Filter, Reaped, Record, Renewal, Settled, Settlement, bounds, rules,
};
use crate::store::Batch;

/// Most records that one batch changes, so that no step holds the lock for long.
const CHUNK: usize = 512;

/// Records before and after a step, written together.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) batch: Batch,
    steps: Vec<(Option<Record>, Option<Record>)>,
}

impl Changes {
    pub(super) fn put(&mut self, before: Option<Record>, after: Record) {
        self.batch.put(JOBS, &key(after.id), &after);
        self.steps.push((before, Some(after)));
    }

    fn delete(&mut self, before: Record) {
        self.batch.delete(JOBS, &key(before.id));
        self.forget_batch_of(&before);
        self.steps.push((Some(before), None));
    }
}

impl Embedded {
    /// Writes, then indexes, so that a failed write changes nothing.
    pub(super) fn apply(&self, inner: &mut Inner, changes: Changes) -> Result<()> {
        self.store.commit(changes.batch)?;
        let mut ended = Vec::new();
        for (before, after) in changes.steps {
            if let Some(before) = &before {
                inner.index.remove(before);
            }
            if let Some(after) = &after {
                inner.index.insert(after);
                self.observer.step(before.as_ref(), after);
                if after.state.is_terminal() {
                    inner.own.remove(&after.id);
                    ended.push(after.id);
                }
            }
        }
        self.tell_of_batches(&ended);
        Ok(())
    }

    fn step(&self, inner: &mut Inner, before: Record, after: Record) -> Result<Record> {
        if before != after {
            let mut changes = Changes::default();
            changes.put(Some(before), after.clone());
            self.apply(inner, changes)?;
        }
        Ok(after)
    }

    /// A job that the index names. One whose record got damaged since the start becomes a dead letter, so
    /// that it does not stop the others.
    fn live(&self, inner: &mut Inner, id: JobId) -> Result<Option<Record>> {
        let error = match self.find(id) {
            Ok(record) => return Ok(Some(record)),
            Err(error) if error.reason() == Reason::IoError => return Err(error),
            Err(error) => error,
        };
        tracing::error!(job = %id, %error, "a job cannot be read; it is kept as failed");
        let invalid = Invalid::new(error.to_string(), "ask for the job again if it is still wanted");
        let letter = bounds::unreadable(id, inner.index.next_seq(), &Value::Null, &invalid, self.now());
        let mut changes = Changes::default();
        changes.put(None, letter);
        inner.index.forget(id);
        inner.own.remove(&id);
        self.apply(inner, changes)?;
        Ok(None)
    }

    pub(in crate::queue) fn accept(&self, id: JobId, job: &Job) -> Result<Enqueued> {
        job.validate()?;
        let now = self.now();
        let mut inner = self.lock();
        let batches = if job.common.idempotency_key.is_some() { self.batches()? } else { Vec::new() };
        if let Some(record) = self.keyed(&inner, &batches, job)? {
            if !rules::answers(&record, job) {
                return Err(keyed_otherwise(record.id).into());
            }
            self.adopt(&mut inner, &record);
            return Ok(Enqueued { record, created: false });
        }
        if let Some(id) = inner.index.wanted(&job.work.want_hash()) {
            let before = self.find(id)?;
            let after = rules::join(before.clone(), job, now);
            let record = self.step(&mut inner, before, after)?;
            self.adopt(&mut inner, &record);
            return Ok(Enqueued { record, created: false });
        }
        if inner.index.backlog() >= self.config.max_queued {
            return Err(super::full(inner.index.backlog()));
        }
        let record = rules::accept(job, id, inner.index.next_seq(), now)?;
        let mut changes = Changes::default();
        changes.put(None, record.clone());
        self.apply(&mut inner, changes)?;
        self.adopt(&mut inner, &record);
        Ok(Enqueued { record, created: true })
    }

    /// The job that an idempotency key stands for.
    ///
    /// # Errors
    /// `invalid_request` if that does something else.
    pub(super) fn keyed(&self, inner: &Inner, batches: &[Batched], job: &Job) -> Result<Option<Record>> {
        let Some(key) = job.common.idempotency_key.as_deref() else { return Ok(None) };
        let Some(record) = inner.index.keyed(key).map(|id| self.find(id)).transpose()? else {
            return match batches.iter().find(|batch| batch.has_key(key)) {
                Some(batch) => Err(keyed_otherwise(batch.id).into()),
                None => Ok(None),
            };
        };
        // Of what could not be read nobody knows what it wanted.
        if !record.want.is_empty() && record.want != job.work.want_hash() {
            return Err(keyed_otherwise(record.id).into());
        }
        Ok(Some(record))
    }

    /// A foreground command runs what it asked for.
    pub(super) fn adopt(&self, inner: &mut Inner, record: &Record) {
        if self.scope == Scope::Own && !record.state.is_terminal() {
            inner.own.insert(record.id);
        }
    }

    pub(super) fn take(&self, kind: Kind) -> Result<Claimed> {
        let now = self.now();
        let mut inner = self.lock();
        loop {
            self.wake(&mut inner, kind, now)?;
            let first = match self.scope {
                Scope::All => inner.index.first(kind),
                Scope::Own => {
                    self.own_jobs(&inner, kind)?.into_iter().find(|r| r.state == State::Queued).map(|r| r.id)
                }
            };
            let Some(id) = first else {
                return Ok(Claimed::Nothing { wait: self.next_due(&inner, kind, now)? });
            };
            let Some(before) = self.live(&mut inner, id)? else { continue };
            let after = rules::claim(before.clone(), &self.config, now);
            let record = self.step(&mut inner, before, after)?;
            if record.state.is_running() {
                let token = record.token;
                return Ok(Claimed::Job(Box::new(Claim { record, token })));
            }
        }
    }

    /// Queues the jobs whose time has come.
    fn wake(&self, inner: &mut Inner, kind: Kind, now: Timestamp) -> Result<()> {
        let mut changes = Changes::default();
        for id in inner.index.due(kind, now, CHUNK) {
            let Some(before) = self.live(inner, id)? else { continue };
            let after = rules::wake(before.clone(), now);
            changes.put(Some(before), after);
        }
        self.apply(inner, changes)
    }

    /// The jobs of this handle that have not ended, the one that goes first at the front.
    fn own_jobs(&self, inner: &Inner, kind: Kind) -> Result<Vec<Record>> {
        let all: Result<Vec<_>> = inner.own.iter().map(|id| self.find(*id)).collect();
        let mut own: Vec<_> = all?.into_iter().filter(|record| record.kind == kind).collect();
        own.sort_by_key(|record| (rules::place(record), record.seq));
        Ok(own)
    }

    fn next_due(&self, inner: &Inner, kind: Kind, now: Timestamp) -> Result<Option<Duration>> {
        let due = match self.scope {
            Scope::All => inner.index.next_due(kind),
            Scope::Own => {
                let own = self.own_jobs(inner, kind)?;
                own.into_iter().filter(|r| r.state == State::Waiting).filter_map(|r| r.due).min()
            }
        };
        Ok(due.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default()))
    }

    pub(super) fn prolong(&self, id: JobId, token: u64, state: State, progress: Progress) -> Result<Renewal> {
        let now = self.now();
        let mut inner = self.lock();
        let Some(before) = self.store.get(JOBS, &key(id))? else { return Ok(Renewal::Lost) };
        if !before.is_held_by(token) {
            return Ok(Renewal::Lost);
        }
        let after = rules::renew(before.clone(), state, progress, &self.config, now);
        let record = self.step(&mut inner, before, after)?;
        Ok(Renewal::Held { cancel: record.cancel })
    }

    pub(super) fn end_attempt(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled> {
        let now = self.now();
        let mut inner = self.lock();
        let Some(before) = self.store.get(JOBS, &key(id))? else { return Ok(Settled::Fenced) };
        if before.token != token || before.token == 0 {
            return Ok(Settled::Fenced);
        }
        if !before.state.is_running() {
            // This token has settled before, and the answer got lost.
            return Ok(Settled::Done(Box::new(before)));
        }
        let after = rules::settle(before.clone(), settlement, &self.config, now);
        Ok(Settled::Done(Box::new(self.step(&mut inner, before, after)?)))
    }

    pub(super) fn call_off(&self, id: JobId, requester: Option<&str>) -> Result<Cancelled> {
        let now = self.now();
        let mut inner = self.lock();
        let before = self.find(id)?;
        let (after, outcome) = rules::cancel(before.clone(), requester, now);
        let record = self.step(&mut inner, before, after)?;
        Ok(Cancelled { record, outcome })
    }

    pub(super) fn run_again(&self, id: JobId) -> Result<Record> {
        let now = self.now();
        let mut inner = self.lock();
        let before = self.find(id)?;
        let after = rules::retry(before.clone(), now)?;
        if let Some(other) = inner.index.wanted(&after.want) {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("the job {other} in flight does the same as {id}"),
                format!("follow it with `larder jobs show {other}`"),
            ));
        }
        let record = self.step(&mut inner, before, after)?;
        self.adopt(&mut inner, &record);
        Ok(record)
    }

    pub(super) fn run_failed_again(&self, kind: Kind) -> Result<usize> {
        let now = self.now();
        let mut count = 0;
        let failed =
            Filter { kind: Some(kind), state: Some(State::Failed), limit: usize::MAX, ..Filter::default() };
        let ids = self.lock().index.list(failed);
        for id in ids {
            let mut inner = self.lock();
            // It may have been retried or forgotten since; one that cannot be read stays where it is.
            let Some(before) = self.store.get(JOBS, &key(id))? else { continue };
            let Ok(after) = rules::retry(before.clone(), now) else { continue };
            if before.state == State::Failed && inner.index.wanted(&after.want).is_none() {
                self.step(&mut inner, before, after)?;
                count += 1;
            }
        }
        Ok(count)
    }

    pub(super) fn tidy(&self) -> Result<Reaped> {
        let now = self.now();
        let mut reaped = Reaped::default();
        loop {
            let mut inner = self.lock();
            let mut changes = Changes::default();
            for id in inner.index.expired(now, CHUNK) {
                let Some(before) = self.live(&mut inner, id)? else { continue };
                let after = rules::expire(before.clone(), &self.config, now);
                tracing::warn!(job = %id, attempt = before.attempts, state = %after.state, "the worker of a job vanished");
                if after.state.is_terminal() {
                    reaped.ended += 1;
                } else {
                    reaped.returned += 1;
                }
                changes.put(Some(before), after);
            }
            let done = changes.steps.is_empty();
            self.apply(&mut inner, changes)?;
            if done {
                break;
            }
        }
        reaped.ended += self.miss_deadlines(now)?;
        let retention = SignedDuration::try_from(self.config.retention.get()).unwrap_or(SignedDuration::MAX);
        let horizon = now.checked_sub(retention).unwrap_or(Timestamp::MIN);
        loop {
            let mut inner = self.lock();
            let old = inner.index.forgettable(horizon, self.config.max_finished, CHUNK);
            if old.is_empty() {
                drop(inner);
                self.tidy_batches()?;
                return Ok(reaped);
            }
            let mut changes = Changes::default();
            for id in old {
                let Some(before) = self.live(&mut inner, id)? else { continue };
                changes.delete(before);
            }
            reaped.purged += changes.steps.len();
            self.apply(&mut inner, changes)?;
        }
    }

    /// Ends the jobs that wait and have passed their deadline; says how many. A running one is its worker's to stop.
    fn miss_deadlines(&self, now: Timestamp) -> Result<usize> {
        let mut inner = self.lock();
        let mut changes = Changes::default();
        for id in inner.index.late(now) {
            let Some(before) = self.live(&mut inner, id)? else { continue };
            if before.state.is_running() || before.state.is_terminal() {
                continue;
            }
            tracing::warn!(job = %id, "a job was not done by its deadline");
            let after = rules::miss_deadline(before.clone(), now);
            changes.put(Some(before), after);
        }
        let count = changes.steps.len();
        self.apply(&mut inner, changes)?;
        Ok(count)
    }
}

#[cfg(test)]
impl Embedded {
    /// Puts a record there as another program, or an older larder, would have.
    pub(in crate::queue) fn plant(&self, record: Record) {
        let mut changes = Changes::default();
        changes.put(None, record);
        self.apply(&mut self.lock(), changes).expect("planted");
    }
}
