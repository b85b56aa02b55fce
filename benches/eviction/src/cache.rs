//! A cache of a fixed size that a trace is played against.
//!
//! A model that is not there when it is used is staged, whatever it pushes out: nothing can be used from elsewhere, so
//! no policy may decline. Staging takes no time in the simulation, and nothing is in use while another is staged.

use std::collections::HashSet;

use anyhow::{Result, ensure};

use crate::trace::Trace;

/// Seconds that staging takes before the first byte comes, as `larder::plan` assumes; it does not export the figure.
const OVERHEAD: f64 = 5.0;
/// Bytes that come per second, as `larder::plan` assumes.
const SPEED: f64 = 300e6;

/// Seconds that it takes to stage so many bytes.
pub(crate) fn staging_seconds(bytes: u64) -> f64 {
    OVERHEAD + bytes as f64 / SPEED
}

/// A policy at work: it knows what is in the cache by what it was told.
pub(crate) trait Evictor {
    /// The model of this use is in the cache, and is used.
    fn used(&mut self, step: usize);

    /// The models that go so that so many bytes become free for this use. They are gone then.
    fn make_room(&mut self, bytes: u64, step: usize) -> Vec<usize>;
}

/// What came of one trace.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Bytes of all uses.
    pub(crate) used: u64,
    /// Those that were there.
    pub(crate) hit: u64,
    /// Those that had to come, and had been there before.
    pub(crate) again: u64,
    /// Seconds it took for the latter to come, as larder reckons.
    pub(crate) seconds: f64,
}

/// Plays `trace` against an empty cache of `capacity` bytes.
pub(crate) fn replay(trace: &Trace, capacity: u64, evictor: &mut dyn Evictor) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut seen = HashSet::new();
    let mut present = HashSet::new();
    let mut taken = 0;
    for (step, model) in trace.uses.iter().map(|one| one.model).enumerate() {
        let bytes = trace.models[model];
        outcome.used += bytes;
        if present.contains(&model) {
            outcome.hit += bytes;
        } else {
            ensure!(bytes <= capacity, "a model of {bytes} bytes does not fit into a cache of {capacity}");
            if taken + bytes > capacity {
                for gone in evictor.make_room(taken + bytes - capacity, step) {
                    ensure!(present.remove(&gone), "model {gone} was evicted, but is not there");
                    taken -= trace.models[gone];
                }
            }
            taken += bytes;
            ensure!(taken <= capacity, "too little was evicted for model {model}");
            present.insert(model);
            if !seen.insert(model) {
                outcome.again += bytes;
                outcome.seconds += staging_seconds(bytes);
            }
        }
        evictor.used(step);
    }
    Ok(outcome)
}
