//! One reading after the other: opening the library, opening it anew, pausing longer while it fails, giving up.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::Reason;

use super::super::config::Config;
use super::super::nvml::Session;
use super::super::snapshot::{Gpu, Gpus, WhyNone};
use super::super::{health, other};
use crate::error::Error;

/// The longest pause while there is nothing to read: a driver may be loaded later.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A library that was opened before a GPU was lost may not see it come back, so it is opened anew so often.
const OPEN_ANEW: Duration = Duration::from_secs(60);
/// Giving up needs that many failures in a row as well.
const FAILURES: u32 = 3;

/// What one step brought.
#[derive(Debug)]
pub(super) struct Step {
    /// The GPUs.
    pub(super) gpus: Gpus,
    /// Until the next one.
    pub(super) pause: Duration,
    /// Whether to give up.
    pub(super) lost_for_good: Option<Error>,
}

/// Reads one step at a time.
pub(super) struct Poller {
    library: Option<String>,
    interval: Duration,
    give_up_after: Duration,
    /// The open library, and since when it is open.
    session: Option<(Session, Instant)>,
    known: Vec<Gpu>,
    worked_at: Option<Instant>,
    failures: u32,
}

impl Poller {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            library: config.library().map(str::to_owned),
            interval: config.interval.get(),
            give_up_after: config.give_up_after.get(),
            session: None,
            known: Vec::new(),
            worked_at: None,
            failures: 0,
        }
    }

    /// Reads. `session` is told when a library was opened and when it was closed.
    pub(super) fn step(&mut self, now: Timestamp, session: &dyn Fn(bool)) -> Step {
        let read = self.read(now, session);
        match &read {
            Ok(gpus) => self.succeeded(gpus, session),
            Err(why) => {
                if self.failures == 0 && !why.word.is_no_gpu() {
                    tracing::warn!(hint = why.hint, "{}", why.what);
                }
                self.failures = self.failures.saturating_add(1);
                self.close(session);
            }
        }
        let lost_for_good = read.as_ref().err().and_then(|why| self.give_up(why));
        Step { pause: pause(self.interval, self.failures), gpus: finished(read, now), lost_for_good }
    }

    fn read(&mut self, now: Timestamp, session: &dyn Fn(bool)) -> Result<Gpus, WhyNone> {
        let (open, _) = match &mut self.session {
            Some(open) => open,
            closed => {
                let opened = Session::open(self.library.as_deref())?.remembering(&self.known);
                session(true);
                closed.insert((opened, Instant::now()))
            }
        };
        open.read(now)
    }

    fn succeeded(&mut self, gpus: &Gpus, session: &dyn Fn(bool)) {
        if self.failures > 0 {
            tracing::info!(gpus = gpus.devices.len(), "NVML works");
        }
        self.failures = 0;
        self.worked_at = Some(Instant::now());
        let gone = |gpu: &Gpu| gpu.lost || gpu.reset_required;
        for gpu in &gpus.devices {
            let before = self.known.iter().any(|known| known.index == gpu.index && gone(known));
            match (before, gone(gpu)) {
                (false, true) => tracing::warn!(index = gpu.index, uuid = gpu.uuid, "a GPU is out of reach"),
                (true, false) => tracing::info!(index = gpu.index, uuid = gpu.uuid, "a GPU is back"),
                _ => {}
            }
        }
        self.known.clone_from(&gpus.devices);
        let old = self.session.as_ref().is_some_and(|(_, opened)| opened.elapsed() >= OPEN_ANEW);
        if old && gpus.devices.iter().any(gone) {
            self.close(session);
        }
    }

    fn close(&mut self, session: &dyn Fn(bool)) {
        if self.session.take().is_some() {
            session(false);
        }
    }

    fn give_up(&self, why: &WhyNone) -> Option<Error> {
        let after = self.worked_at?.elapsed();
        let enough =
            !self.give_up_after.is_zero() && after >= self.give_up_after && self.failures >= FAILURES;
        enough.then(|| {
            let what = format!("the GPUs could be read and cannot since {} s: {}", after.as_secs(), why.what);
            Error::new(Reason::HostUnhealthy, what, why.hint.clone())
        })
    }
}

/// Until the next reading: doubled with every failure, up to a minute.
fn pause(interval: Duration, failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    interval.saturating_mul(factor).min(LONGEST_PAUSE.max(interval))
}

/// The snapshot of a reading: other makers' GPUs where NVML has none, and the verdict on each.
pub(super) fn finished(read: Result<Gpus, WhyNone>, now: Timestamp) -> Gpus {
    let mut gpus = read.unwrap_or_else(|why| other::read(now).unwrap_or_else(|| Gpus::none(why, now)));
    for gpu in &mut gpus.devices {
        gpu.health = health::of_gpu(gpu, now);
    }
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_no_further() {
        let interval = Duration::from_millis(100);
        let first: Vec<_> = (0..5).map(|failures| pause(interval, failures)).collect();
        assert_eq!(first, [1, 1, 2, 4, 8].map(|factor| factor * interval));
        assert_eq!(pause(interval, u32::MAX), Duration::from_secs(60));
        let slow = Duration::from_secs(300);
        assert_eq!(pause(slow, 5), slow);
    }
}
