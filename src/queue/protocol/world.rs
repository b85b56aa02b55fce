//! The world around the store: two workers, a reaper, a user, a network and a clock, and every step that one
//! of them may take next.
//!
//! The model is timed. A worker that is awake renews before the clock goes on, as long as the store answers;
//! all that keeps it from doing so is a surprise, and a search has a bounded number of those. A worker that
//! sleeps may still compute: running twice at once is allowed, two valid tokens are not.

use super::store::{How, Store};
use super::{Bounds, Broken, Fate, LEASE, Step, Variant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Claim { worker: usize, nonce: u8 },
    Claimed { worker: usize, nonce: u8, job: usize, token: u64 },
    Renew { job: usize, token: u64 },
    Settle { job: usize, token: u64, how: How },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Belief {
    Idle,
    Asking { nonce: u8 },
    Working { job: usize, token: u64 },
    Settling { job: usize, token: u64, how: How },
}

impl Belief {
    fn claim(self) -> Option<(usize, u64)> {
        match self {
            Self::Working { job, token } | Self::Settling { job, token, .. } => Some((job, token)),
            Self::Idle | Self::Asking { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy, Hash)]
struct Worker {
    belief: Belief,
    asleep: bool,
    /// It did not renew when it should have, so it may lose its claim.
    late: bool,
    /// It need not renew before the clock goes on.
    fresh: bool,
}

const IDLE: Worker = Worker { belief: Belief::Idle, asleep: false, late: false, fresh: false };

impl Worker {
    fn is_on_time(&self) -> bool {
        let done = self.fresh && !matches!(self.belief, Belief::Settling { .. });
        self.asleep || done || self.belief.claim().is_none()
    }
}

#[derive(Clone, Hash)]
pub(super) struct World {
    tick: u8,
    surprises: u8,
    up: bool,
    store: Store,
    workers: [Worker; 2],
    network: Vec<Message>,
    /// From when on the reaper takes jobs; `None` until the store has answered it after a gap.
    ripe: Option<u8>,
}

impl World {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            tick: 0,
            surprises: bounds.surprises,
            up: true,
            store: Store::with_jobs(bounds.jobs),
            workers: [IDLE; 2],
            network: Vec::new(),
            ripe: Some(0),
        }
    }

    /// Every step that may come next.
    pub(super) fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps = Vec::new();
        let surprise = self.surprises > 0;
        let fates: &[Fate] =
            if surprise { &[Fate::Answered, Fate::Unheard, Fate::Delayed] } else { &[Fate::Answered] };
        for (n, worker) in self.workers.iter().enumerate() {
            if worker.asleep {
                steps.push(Step::Wake(n));
            } else if self.up {
                for fate in fates.iter().copied() {
                    match worker.belief {
                        Belief::Idle | Belief::Asking { .. } => steps.push(Step::Claim(n, fate)),
                        Belief::Settling { how, .. } => steps.push(Step::Settle(n, how, fate)),
                        Belief::Working { .. } => {
                            steps.push(Step::Renew(n, fate));
                            steps.extend([How::Done, How::Retry].map(|how| Step::Settle(n, how, fate)));
                        }
                    }
                }
            }
            if surprise {
                let busy = worker.belief != Belief::Idle;
                // With host 0 the reaper begins anew.
                if busy || n == 0 {
                    steps.push(Step::Crash(n));
                }
                if busy && !worker.asleep {
                    steps.push(Step::Sleep(n));
                }
                // A host that is drained; for ever, a release and a claim would make ever new worlds.
                if self.up && !worker.asleep && matches!(worker.belief, Belief::Working { .. }) {
                    steps.push(Step::Settle(n, How::Release, Fate::Answered));
                }
            }
        }
        if self.up {
            steps.extend((0..self.network.len()).map(Step::Arrive));
            if !self.workers[0].asleep {
                steps.push(Step::Reap);
            }
            if surprise {
                steps.extend((0..bounds.jobs).map(Step::Cancel));
                steps.push(Step::StoreStops);
            }
        } else {
            steps.extend((0..=self.store.forgettable()).map(|forgets| Step::StoreStarts { forgets }));
        }
        if self.tick < bounds.ticks && (!self.up || self.workers.iter().all(Worker::is_on_time)) {
            steps.push(Step::Tick);
        }
        steps
    }

    /// The world after `step`, or what it broke.
    pub(super) fn after(&self, step: Step, variant: Variant) -> Result<Self, Broken> {
        let mut world = self.clone();
        world.take(step, variant)?;
        world.check()?;
        world.tidy();
        Ok(world)
    }

    /// Drops what makes no difference any more, so that equal futures are one state.
    fn tidy(&mut self) {
        if self.surprises == 0 && self.up {
            self.store.all_is_durable();
        }
        for worker in &mut self.workers {
            let claimed = worker.belief.claim().is_some();
            worker.late &= claimed;
            worker.fresh &= claimed;
        }
        let workers = &self.workers;
        self.network.retain(|message| match *message {
            Message::Claimed { worker, nonce, .. } => workers[worker].belief == Belief::Asking { nonce },
            _ => true,
        });
        self.network.sort_unstable();
    }

    /// What this world becomes when it has no more surprises: worlds that agree on this come to the same end.
    pub(super) fn calm(&self) -> Self {
        let mut calm = Self { surprises: 0, up: true, ..self.clone() };
        calm.tidy();
        calm
    }

    fn check(&self) -> Result<(), Broken> {
        let [one, other] = self.workers.map(|worker| worker.belief.claim());
        match one {
            Some((job, token)) if one == other && self.store.job(job).is_held_by(token) => {
                Err("two workers hold a valid token of the same job")
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, step: Step, variant: Variant) -> Result<(), Broken> {
        match step {
            Step::Settle(_, How::Release, _) => self.surprises -= 1,
            Step::Claim(_, fate) | Step::Renew(_, fate) | Step::Settle(_, _, fate) => {
                self.surprises -= u8::from(fate != Fate::Answered);
            }
            Step::Crash(_) | Step::Sleep(_) | Step::Cancel(_) | Step::StoreStops => self.surprises -= 1,
            _ => {}
        }
        match step {
            Step::Claim(n, fate) => self.claim(n, fate, variant)?,
            Step::Renew(n, fate) => self.renew(n, fate)?,
            Step::Settle(n, how, fate) => self.settle(n, how, fate, variant)?,
            Step::Arrive(n) => self.arrive(n, variant)?,
            Step::Crash(n) => {
                self.workers[n] = IDLE;
                self.gap(n, variant, Some(self.tick));
            }
            Step::Sleep(n) => {
                self.workers[n].asleep = true;
                // Who sleeps beside the reaper is not robbed by it.
                self.workers[n].late |= n != 0;
            }
            Step::Wake(n) => {
                self.workers[n].asleep = false;
                self.gap(n, variant, Some(self.tick + LEASE));
            }
            Step::Cancel(job) => self.store.cancel(self.tick, job)?,
            Step::Reap => self.reap(variant)?,
            Step::StoreStops => self.up = false,
            Step::StoreStarts { forgets } => {
                self.up = true;
                self.store.forget(forgets);
                if forgets > 0 {
                    // A renewal may be among what is gone.
                    self.workers.iter_mut().for_each(|worker| worker.late = true);
                }
            }
            Step::Tick => self.tick(variant),
        }
        Ok(())
    }

    fn claim(&mut self, n: usize, fate: Fate, variant: Variant) -> Result<(), Broken> {
        let (nonce, again) = match self.workers[n].belief {
            Belief::Asking { nonce } => (nonce, true),
            _ => (self.fresh_nonce(n), false),
        };
        self.workers[n].belief = Belief::Asking { nonce };
        if fate == Fate::Delayed {
            self.network.push(Message::Claim { worker: n, nonce });
            return Ok(());
        }
        let Some((job, token)) = self.store.claim(variant, self.tick, n, nonce)? else {
            self.workers[n].belief = Belief::Idle;
            return Ok(());
        };
        if fate == Fate::Unheard {
            self.network.push(Message::Claimed { worker: n, nonce, job, token });
        } else {
            self.begin(n, job, token, again);
        }
        Ok(())
    }

    /// A number that nobody has in mind as one of this worker's; a small one, so that worlds stay the same.
    fn fresh_nonce(&self, n: usize) -> u8 {
        let travels = |wanted: u8| {
            self.network.iter().any(|message| match *message {
                Message::Claim { worker, nonce } | Message::Claimed { worker, nonce, .. } => {
                    (worker, nonce) == (n, wanted)
                }
                _ => false,
            })
        };
        (0..).find(|nonce| !travels(*nonce) && !self.store.remembers(n, *nonce)).expect("few are in use")
    }

    /// A worker learns of its claim; `late` if the lease may be nearly over by then.
    fn begin(&mut self, n: usize, job: usize, token: u64, late: bool) {
        self.workers[n] = Worker { belief: Belief::Working { job, token }, late, fresh: !late, ..IDLE };
    }

    fn renew(&mut self, n: usize, fate: Fate) -> Result<(), Broken> {
        let Some((job, token)) = self.workers[n].belief.claim() else { return Ok(()) };
        if fate == Fate::Delayed {
            self.network.push(Message::Renew { job, token });
            return Ok(());
        }
        let held = self.store.renew(self.tick, job, token)?;
        let worker = &mut self.workers[n];
        if fate == Fate::Answered && held {
            (worker.late, worker.fresh) = (false, true);
        } else if fate == Fate::Answered {
            worker.belief = Belief::Idle;
        }
        Ok(())
    }

    fn settle(&mut self, n: usize, how: How, fate: Fate, variant: Variant) -> Result<(), Broken> {
        let Some((job, token)) = self.workers[n].belief.claim() else { return Ok(()) };
        self.workers[n].belief = Belief::Settling { job, token, how };
        if fate == Fate::Delayed {
            self.network.push(Message::Settle { job, token, how });
            return Ok(());
        }
        self.store.settle(variant, self.tick, job, token, how)?;
        if fate == Fate::Answered {
            self.workers[n].belief = Belief::Idle;
        }
        Ok(())
    }

    fn arrive(&mut self, n: usize, variant: Variant) -> Result<(), Broken> {
        match self.network.remove(n) {
            Message::Claim { worker, nonce } => {
                if let Some((job, token)) = self.store.claim(variant, self.tick, worker, nonce)? {
                    self.network.push(Message::Claimed { worker, nonce, job, token });
                }
            }
            Message::Claimed { worker, nonce, job, token } => {
                if !self.workers[worker].asleep && self.workers[worker].belief == (Belief::Asking { nonce }) {
                    self.begin(worker, job, token, true);
                }
            }
            Message::Renew { job, token } => {
                self.store.renew(self.tick, job, token)?;
            }
            Message::Settle { job, token, how } => self.store.settle(variant, self.tick, job, token, how)?,
        }
        Ok(())
    }

    /// The reaper lost sight of the store. `before` is what the first version of it did then.
    fn gap(&mut self, host: usize, variant: Variant, before: Option<u8>) {
        if host == 0 {
            self.ripe = match variant {
                Variant::HastyReaper => self.ripe,
                Variant::ForgetfulReaper => before,
                _ => None,
            };
        }
    }

    fn reap(&mut self, variant: Variant) -> Result<(), Broken> {
        let ripe = *self.ripe.get_or_insert(self.tick + LEASE);
        if ripe > self.tick {
            return Ok(());
        }
        while let Some(job) = self.store.expired(self.tick) {
            let token = self.store.job(job).token;
            let robbed = |worker: &Worker| worker.belief.claim() == Some((job, token)) && !worker.late;
            if self.workers.iter().any(robbed) {
                return Err("a job was taken from a worker that renewed whenever it could");
            }
            self.store.expire(variant, self.tick, job)?;
        }
        Ok(())
    }

    fn tick(&mut self, variant: Variant) {
        if !self.up && !self.workers[0].asleep {
            let waits = self.ripe.filter(|ripe| *ripe > self.tick);
            self.gap(0, variant, waits.or(Some(self.tick + LEASE)));
        }
        self.tick += 1;
        self.store.pass(self.tick);
        self.workers.iter_mut().for_each(|worker| worker.fresh = false);
    }

    /// Whether every job of a [`World::calm`] comes to an end: the clock goes on and the workers work.
    /// With `poison`, the job itself kills each worker that takes it.
    pub(super) fn comes_to_an_end(&self, variant: Variant, poison: bool) -> Result<(), Broken> {
        let mut world = self.clone();
        while !world.network.is_empty() {
            world.take(Step::Arrive(0), variant)?;
        }
        for _ in 0..16 {
            for n in 0..world.workers.len() {
                if world.workers[n].asleep {
                    world.take(Step::Wake(n), variant)?;
                }
                if world.workers[n].belief.claim().is_none() {
                    world.take(Step::Claim(n, Fate::Answered), variant)?;
                }
                let how = match world.workers[n].belief {
                    Belief::Settling { how, .. } => how,
                    Belief::Working { .. } if !poison => How::Done,
                    // The host stays up, and asks for the next job.
                    _ => {
                        world.workers[n].belief = Belief::Idle;
                        continue;
                    }
                };
                world.take(Step::Settle(n, how, Fate::Answered), variant)?;
            }
            world.take(Step::Reap, variant)?;
            if world.store.all_ended() {
                return Ok(());
            }
            world.take(Step::Tick, variant)?;
        }
        Err(if poison { "a job that kills its workers is tried for ever" } else { "a job never ends" })
    }
}
