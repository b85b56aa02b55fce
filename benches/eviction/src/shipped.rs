//! larder's own decisions: what goes is what `larder::plan::plan_eviction` says, with `cache.min_age` at 0, since no
//! other policy here has such a rule.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use larder::plan::{
    Allowed, Candidate, Goal, KeepFree, Name, Order, Policy, Stock, Use, Watermarks, heat, plan_eviction,
};

use crate::cache::Evictor;
use crate::trace::Trace;

/// What becomes of the heat of a model that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It is forgotten: a model that comes back begins with the heat of one use. larder does not do that; the difference
    /// tells what remembering is worth.
    Forgets,
    /// It is kept, and goes on cooling, as in larder's ledger.
    Remembers,
}

/// larder as a policy of the simulation.
pub(crate) struct Shipped<'a> {
    trace: &'a Trace,
    policy: Policy,
    memory: Memory,
    /// Every model is one blob, of its own number.
    stock: Stock,
    names: Vec<Name>,
    numbers: HashMap<Name, usize>,
    /// Heat and last use of the models that went, if those are remembered.
    gone: HashMap<usize, (f64, Timestamp)>,
}

impl<'a> Shipped<'a> {
    pub(crate) fn new(trace: &'a Trace, order: Order, memory: Memory) -> Result<Self> {
        let policy = Policy {
            allowed: Allowed::Staged,
            order,
            min_age: Duration::ZERO,
            expire_after: None,
            keep_free: KeepFree::Bytes(0),
            capacity: None,
            watermarks: Watermarks { high: 100, low: 100 },
        };
        let names = (0..trace.models.len()).map(name).collect::<Result<Vec<_>>>()?;
        let numbers = names.iter().cloned().enumerate().map(|(number, name)| (name, number)).collect();
        let stock = Stock { blobs: trace.models.clone(), ..Stock::default() };
        Ok(Self { trace, policy, memory, stock, names, numbers, gone: HashMap::new() })
    }

    fn candidate(&mut self, model: usize, now: Timestamp) -> Candidate {
        let (before, last_used_at) = self.gone.remove(&model).unwrap_or((0.0, now));
        Candidate {
            name: self.names[model].clone(),
            blobs: vec![model],
            staged: true,
            last_used_at: now,
            heat: heat(before, last_used_at, now),
            pinned: false,
            leased_until: None,
            fetching: false,
            used: Use::Free,
        }
    }
}

impl Evictor for Shipped<'_> {
    fn used(&mut self, step: usize) {
        let (now, model) = (self.trace.uses[step].at, self.trace.uses[step].model);
        match self.stock.revisions.iter_mut().find(|one| one.blobs == [model]) {
            Some(one) => {
                one.heat = heat(one.heat, one.last_used_at, now);
                one.last_used_at = now;
            }
            None => {
                let candidate = self.candidate(model, now);
                self.stock.revisions.push(candidate);
            }
        }
    }

    fn make_room(&mut self, bytes: u64, step: usize) -> Vec<usize> {
        let plan = plan_eviction(&self.stock, &self.policy, &Goal::Room(bytes), self.trace.uses[step].at);
        let chosen: Vec<usize> = plan.evict.iter().map(|one| self.numbers[&one.name]).collect();
        for one in self.stock.revisions.extract_if(.., |one| chosen.contains(&one.blobs[0])) {
            if self.memory == Memory::Remembers {
                self.gone.insert(one.blobs[0], (one.heat, one.last_used_at));
            }
        }
        chosen
    }
}

fn name(number: usize) -> Result<Name> {
    let repo = format!("bench/model-{number}").parse().context("a name")?;
    let commit = format!("{number:040x}").parse().context("a commit")?;
    Ok((repo, commit))
}
