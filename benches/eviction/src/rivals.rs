//! The policies that larder is compared with: each gives a model a score at every use, and the least scores go.
//!
//! As in larder's plan, what turned out not to be needed for the room is kept after all.

use std::collections::HashMap;

use crate::cache::{Evictor, staging_seconds};
use crate::trace::Trace;

/// How a model is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Least frequently used: the number of uses since the model came.
    Lfu,
    /// Greedy-Dual-Size-Frequency (Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency
    /// caching policy", 1998): uses since the model came × seconds to stage it / bytes, plus the greatest score that
    /// went so far, which is how it ages.
    Gdsf,
    /// Whatever is used again last goes first. The optimum where all sizes are the same (Belady, 1966). With sizes the
    /// optimum is NP-hard to find, and this is a greedy stand-in that another policy may beat.
    Clairvoyant,
}

/// A rule at work.
pub(crate) struct Ranked<'a> {
    trace: &'a Trace,
    rule: Rule,
    /// For each use, the one at which its model is used again.
    next: Vec<Option<usize>>,
    present: HashMap<usize, Standing>,
    /// The greatest score that went.
    floor: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    uses: f64,
    score: f64,
    last: usize,
}

impl<'a> Ranked<'a> {
    pub(crate) fn new(trace: &'a Trace, rule: Rule) -> Self {
        Self { trace, rule, next: next_uses(trace), present: HashMap::new(), floor: 0.0 }
    }

    fn score(&self, step: usize, uses: f64) -> f64 {
        let bytes = self.trace.models[self.trace.uses[step].model];
        match self.rule {
            Rule::Lfu => uses,
            Rule::Gdsf => self.floor + uses * staging_seconds(bytes) / bytes as f64,
            Rule::Clairvoyant => self.next[step].map_or(f64::NEG_INFINITY, |next| -(next as f64)),
        }
    }
}

impl Evictor for Ranked<'_> {
    fn used(&mut self, step: usize) {
        let model = self.trace.uses[step].model;
        let uses = self.present.get(&model).map_or(0.0, |one| one.uses) + 1.0;
        let score = self.score(step, uses);
        self.present.insert(model, Standing { uses, score, last: step });
    }

    fn make_room(&mut self, bytes: u64, _step: usize) -> Vec<usize> {
        let mut order: Vec<(usize, Standing)> =
            self.present.iter().map(|(model, one)| (*model, *one)).collect();
        order.sort_by(|(_, a), (_, b)| a.score.total_cmp(&b.score).then(a.last.cmp(&b.last)));
        let mut freed = 0;
        let mut chosen = Vec::new();
        for (model, _) in order {
            if freed >= bytes {
                break;
            }
            freed += self.trace.models[model];
            chosen.push(model);
        }
        for n in (0..chosen.len()).rev() {
            let size = self.trace.models[chosen[n]];
            if freed >= bytes + size {
                freed -= size;
                chosen.remove(n);
            }
        }
        for model in &chosen {
            if let Some(gone) = self.present.remove(model) {
                self.floor = self.floor.max(gone.score);
            }
        }
        chosen
    }
}

fn next_uses(trace: &Trace) -> Vec<Option<usize>> {
    let mut later = HashMap::new();
    let mut next: Vec<Option<usize>> =
        trace.uses.iter().enumerate().rev().map(|(step, one)| later.insert(one.model, step)).collect();
    next.reverse();
    next
}
