//! One reading after the other: opening the library, opening it anew, pausing longer while it fails, giving up.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::Reason;

use super::super::snapshot::{Gpu, Gpus, WhyNone};
use super::super::{health, other};
use crate::error::Error;

/// The longest pause while there is nothing to read: a driver may be loaded later.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A library that was opened before a GPU was lost may not see it come back, so it is opened anew so often.
const OPEN_ANEW: Duration = Duration::from_secs(60);
/// Giving up needs that many failures in a row as well.
const FAILURES: u32 = 3;

/// Something that reads GPUs.
pub(super) trait Reader: Send {
    /// Reads them. May block for ever.
    fn read(&mut self, now: Timestamp) -> Result<Gpus, WhyNone>;
}

/// Opens a reader that begins with what was known. May block for ever.
pub(super) trait Open: FnMut(&[Gpu]) -> Result<Box<dyn Reader>, WhyNone> + Send + 'static {}

impl<F: FnMut(&[Gpu]) -> Result<Box<dyn Reader>, WhyNone> + Send + 'static> Open for F {}

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
pub(super) struct Poller<O> {
    interval: Duration,
    give_up_after: Duration,
    open: O,
    reader: Option<(Box<dyn Reader>, Instant)>,
    known: Vec<Gpu>,
    worked_at: Option<Instant>,
    failures: u32,
}

impl<O: Open> Poller<O> {
    pub(super) fn new(interval: Duration, give_up_after: Duration, open: O) -> Self {
        Self { interval, give_up_after, open, reader: None, known: Vec::new(), worked_at: None, failures: 0 }
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
        Step { pause: self.pause(), gpus: finished(read, now), lost_for_good }
    }

    fn read(&mut self, now: Timestamp, session: &dyn Fn(bool)) -> Result<Gpus, WhyNone> {
        let (reader, _) = match &mut self.reader {
            Some(open) => open,
            closed => {
                let opened = (self.open)(&self.known)?;
                session(true);
                closed.insert((opened, Instant::now()))
            }
        };
        reader.read(now)
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
        let old = self.reader.as_ref().is_some_and(|(_, opened)| opened.elapsed() >= OPEN_ANEW);
        if old && gpus.devices.iter().any(gone) {
            self.close(session);
        }
    }

    fn close(&mut self, session: &dyn Fn(bool)) {
        if self.reader.take().is_some() {
            session(false);
        }
    }

    /// Doubles while nothing can be read.
    fn pause(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures.saturating_sub(1).min(16));
        self.interval.saturating_mul(factor).min(LONGEST_PAUSE.max(self.interval))
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

/// The snapshot of a reading: other makers' GPUs where NVML has none, and the verdict on each.
pub(super) fn finished(read: Result<Gpus, WhyNone>, now: Timestamp) -> Gpus {
    let mut gpus = read.unwrap_or_else(|why| other::read(now).unwrap_or_else(|| Gpus::none(why, now)));
    for gpu in &mut gpus.devices {
        gpu.health = health::of_gpu(gpu, now);
    }
    gpus
}
