//! The store of the model: the production rules on real records, each step one atomic write, and the loss of
//! the last ones.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use jiff::Timestamp;
use larder_jobs::{JobId, Progress, Reason, State};

use super::{Broken, LEASE, TICK, Variant};
use crate::queue::testing::{config, job, span};
use crate::queue::{Config, Done, Record, Settlement, rules};

/// Most writes that a restart forgets.
const FORGETTABLE: usize = 2;

/// How a worker ends an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum How {
    Done,
    Retry,
    Release,
}

/// A job in the store. Two rows are the same if their future is: what a person reads does not count.
#[derive(Clone)]
pub(super) struct Row(Rc<Record>);

impl Hash for Row {
    fn hash<H: Hasher>(&self, to: &mut H) {
        let Record { state, due, attempts, token, lease_until, cancel, .. } = &*self.0;
        (state, due, attempts, token, lease_until, cancel).hash(to);
    }
}

/// The store remembers for one lease which claim answered a nonce.
#[derive(Debug, Clone, Copy, Hash)]
struct Answered {
    nonce: u8,
    job: usize,
    token: u64,
    until: u8,
}

/// What is on the disk.
#[derive(Clone, Hash)]
struct Saved {
    jobs: Vec<Row>,
    answered: [Option<Answered>; 2],
}

#[derive(Clone, Hash)]
pub(super) struct Store {
    saved: Saved,
    /// The disk before each of the last writes, the newest last.
    before: Vec<Saved>,
    /// Restarts that lost writes: each takes a moment, so that no claim after it is as early as one before.
    moments: u8,
}

fn settings() -> Config {
    let tick = span(TICK);
    Config {
        max_attempts: 2,
        lease: span(TICK * u64::from(LEASE)),
        backoff_min: tick,
        backoff_max: tick,
        ..config()
    }
}

impl Store {
    /// Jobs that were accepted and are durable.
    pub(super) fn with_jobs(count: usize) -> Self {
        let accept = |n: usize| {
            let id = JobId::new(Timestamp::UNIX_EPOCH, n as u128);
            let record = rules::accept(&job(&format!("a/{n}")), id, n as u64, now(0, 0));
            Row(Rc::new(record.expect("the job is valid")))
        };
        let saved = Saved { jobs: (0..count).map(accept).collect(), answered: [None; 2] };
        Self { saved, before: Vec::new(), moments: 0 }
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Record> {
        self.saved.jobs.iter().map(|row| &*row.0)
    }

    pub(super) fn job(&self, job: usize) -> &Record {
        &self.saved.jobs[job].0
    }

    pub(super) fn all_ended(&self) -> bool {
        self.jobs().all(|record| record.state.is_terminal())
    }

    /// How many of the last writes may be forgotten.
    pub(super) fn forgettable(&self) -> usize {
        self.before.len()
    }

    pub(super) fn forget(&mut self, writes: usize) {
        for _ in 0..writes {
            self.saved = self.before.pop().expect("it was written");
        }
        self.moments += u8::from(writes > 0);
    }

    /// No fault is left to make a difference of them.
    pub(super) fn all_is_durable(&mut self) {
        self.before.clear();
    }

    /// Nonces are remembered for one lease.
    pub(super) fn pass(&mut self, tick: u8) {
        for saved in self.before.iter_mut().chain([&mut self.saved]) {
            saved.answered = saved.answered.map(|answered| answered.filter(|answered| answered.until > tick));
        }
    }

    /// Whether the store may still know `nonce` of `worker`.
    pub(super) fn remembers(&self, worker: usize, nonce: u8) -> bool {
        let known = |saved: &Saved| saved.answered[worker].is_some_and(|answered| answered.nonce == nonce);
        known(&self.saved) || self.before.iter().any(known)
    }

    /// Takes the first job that may run. A nonce whose claim still holds gets the same claim again.
    pub(super) fn claim(
        &mut self,
        variant: Variant,
        tick: u8,
        worker: usize,
        nonce: u8,
    ) -> Result<Option<(usize, u64)>, Broken> {
        if let Some(answered) = self.saved.answered[worker].filter(|answered| answered.nonce == nonce)
            && self.job(answered.job).is_held_by(answered.token)
        {
            return Ok(Some((answered.job, answered.token)));
        }
        let now = now(tick, self.moments);
        let ready = |(_, record): &(usize, Record)| record.state == State::Queued;
        let awake = self.jobs().map(|record| rules::wake(record.clone(), now)).enumerate();
        let Some((job, before)) = awake.into_iter().find(ready) else { return Ok(None) };
        let (attempts, token) = (before.attempts, before.token);
        let mut after = rules::claim(before, &settings(), now);
        match variant {
            Variant::CountedTokens => after.token = token + 1,
            Variant::UncountedAttempts => after.attempts = attempts,
            _ => {}
        }
        let token = after.token;
        let answered = Answered { nonce, job, token, until: tick + LEASE };
        self.write(job, after, Some((worker, answered)))?;
        Ok(Some((job, token)))
    }

    /// Whether the claim holds.
    pub(super) fn renew(&mut self, tick: u8, job: usize, token: u64) -> Result<bool, Broken> {
        let before = self.job(job);
        if !before.is_held_by(token) {
            return Ok(false);
        }
        let now = now(tick, self.moments);
        let after = rules::renew(before.clone(), before.state, Progress::default(), &settings(), now);
        self.write(job, after, None)?;
        Ok(true)
    }

    /// Ends an attempt as a store does: a stale token changes nothing, a token that has settled may say so again.
    pub(super) fn settle(
        &mut self,
        variant: Variant,
        tick: u8,
        job: usize,
        token: u64,
        how: How,
    ) -> Result<(), Broken> {
        let before = self.job(job).clone();
        let unchecked = variant == Variant::UncheckedSettle && before.state.is_running();
        if before.token != token && !unchecked {
            return Ok(());
        }
        if !before.state.is_running() {
            let true_answer = how != How::Done || before.state == State::Ready;
            return if true_answer { Ok(()) } else { Err("a result was acknowledged and thrown away") };
        }
        let settlement = match how {
            How::Done => Settlement::Done(Done::default()),
            How::Retry => {
                Settlement::Retry { reason: Reason::Stalled, message: "it broke".into(), after: None }
            }
            How::Release => Settlement::Release,
        };
        let after = rules::settle(before.clone(), settlement, &settings(), now(tick, self.moments));
        if !before.is_held_by(token) && after != before {
            return Err("a stale token changed a job");
        }
        if how == How::Release && !before.cancel && after.attempts + 1 != before.attempts {
            return Err("a release did not give the attempt back");
        }
        self.write(job, after, None)
    }

    pub(super) fn cancel(&mut self, tick: u8, job: usize) -> Result<(), Broken> {
        let (after, _) = rules::cancel(self.job(job).clone(), None, now(tick, self.moments));
        self.write(job, after, None)
    }

    /// The first job whose lease is over.
    pub(super) fn expired(&self, tick: u8) -> Option<usize> {
        let now = now(tick, self.moments);
        self.jobs().position(|record| record.lease_until.is_some_and(|until| until <= now))
    }

    pub(super) fn expire(&mut self, variant: Variant, tick: u8, job: usize) -> Result<(), Broken> {
        let before = self.job(job);
        let token = before.token;
        let mut after = rules::expire(before.clone(), &settings(), now(tick, self.moments));
        if variant == Variant::KeptToken {
            after.token = token;
        }
        self.write(job, after, None)
    }

    fn write(
        &mut self,
        job: usize,
        after: Record,
        answered: Option<(usize, Answered)>,
    ) -> Result<(), Broken> {
        let before = self.job(job);
        if *before == after {
            return Ok(());
        }
        if before.state == State::Ready {
            return Err("a job that is ready went on");
        }
        check(&after)?;
        if self.before.len() == FORGETTABLE {
            self.before.remove(0);
        }
        self.before.push(self.saved.clone());
        self.saved.jobs[job] = Row(Rc::new(after));
        if let Some((worker, answered)) = answered {
            self.saved.answered[worker] = Some(answered);
        }
        Ok(())
    }
}

/// What holds for every record that is written.
fn check(record: &Record) -> Result<(), Broken> {
    let running = record.state.is_running();
    let places =
        [record.state == State::Queued, record.state == State::Waiting, running, record.state.is_terminal()];
    if places.into_iter().filter(|there| *there).count() != 1
        || running != record.lease_until.is_some()
        || record.state.is_terminal() != record.finished_at.is_some()
    {
        return Err("a job is lost: it is not in exactly one place");
    }
    if record.attempts > settings().max_attempts {
        return Err("a job had more attempts than it may");
    }
    if record.cancel && !running && !record.state.is_terminal() {
        return Err("a cancelled job goes on");
    }
    Ok(())
}

fn now(tick: u8, moments: u8) -> Timestamp {
    let begin = Timestamp::from_second(1_767_323_045).expect("a time");
    rules::after(begin, span(u64::from(tick) * TICK + u64::from(moments)).get())
}
