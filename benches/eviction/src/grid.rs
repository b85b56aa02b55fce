//! Every policy on every trace and every size of cache.

use anyhow::{Context as _, Result};
use larder::plan::Order;

use crate::cache::{Evictor, Outcome, replay};
use crate::rivals::{Ranked, Rule};
use crate::shipped::{Memory, Shipped};
use crate::trace::{self, Kind, Trace};

/// Sizes of the cache, in percent of all models of a trace.
pub(crate) const CAPACITIES: [u64; 3] = [10, 25, 50];

/// Who decides what goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decider {
    /// larder's, `cache.order = "lru"`.
    Lru,
    /// [`Rule::Lfu`].
    Lfu,
    /// [`Rule::Gdsf`].
    Gdsf,
    /// larder's, `cache.order = "value"`.
    Value,
    /// The same, but a model that went has no history when it comes back.
    Forgetful,
    /// [`Rule::Clairvoyant`].
    Clairvoyant,
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Decider; 6] =
    [Decider::Lru, Decider::Lfu, Decider::Gdsf, Decider::Value, Decider::Forgetful, Decider::Clairvoyant];

impl Decider {
    /// Its name in tables and in the plot.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU (larder)",
            Self::Lfu => "LFU",
            Self::Gdsf => "GDSF",
            Self::Value => "value (larder)",
            Self::Forgetful => "value, forgetful",
            Self::Clairvoyant => "clairvoyant",
        }
    }

    /// The policy, ready for one run over `trace`.
    pub(crate) fn evictor<'a>(self, trace: &'a Trace) -> Result<Box<dyn Evictor + 'a>> {
        Ok(match self {
            Self::Lru => Box::new(Shipped::new(trace, Order::Lru, Memory::Forgets)?),
            Self::Lfu => Box::new(Ranked::new(trace, Rule::Lfu)),
            Self::Gdsf => Box::new(Ranked::new(trace, Rule::Gdsf)),
            Self::Value => Box::new(Shipped::new(trace, Order::Value, Memory::Remembers)?),
            Self::Forgetful => Box::new(Shipped::new(trace, Order::Value, Memory::Forgets)?),
            Self::Clairvoyant => Box::new(Ranked::new(trace, Rule::Clairvoyant)),
        })
    }
}

/// One policy on one kind of trace in one size of cache.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    pub(crate) percent: u64,
    pub(crate) decider: Decider,
    /// One for each seed, in their order.
    pub(crate) outcomes: Vec<Outcome>,
}

/// One policy beside another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    /// That of the means.
    pub(crate) mean: f64,
    /// The least of a single seed.
    pub(crate) least: f64,
    /// The greatest of a single seed.
    pub(crate) greatest: f64,
}

/// All cells of a run.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) seeds: u64,
    cells: Vec<Cell>,
    /// Bytes of all models of each kind of trace, mean of the seeds.
    bytes: Vec<(Kind, f64)>,
}

impl Grid {
    /// Runs everything, with the seeds from 0 on.
    pub(crate) fn run(seeds: u64) -> Result<Self> {
        let mut grid = Self { seeds, cells: Vec::new(), bytes: Vec::new() };
        for kind in trace::ALL {
            let traces = (0..seeds).map(|seed| kind.draw(seed)).collect::<Result<Vec<_>>>()?;
            grid.bytes.push((kind, mean(traces.iter().map(|trace| trace.bytes() as f64))));
            for percent in CAPACITIES {
                for decider in ALL {
                    let play = |trace: &Trace| {
                        replay(trace, trace.bytes() / 100 * percent, &mut *decider.evictor(trace)?)
                    };
                    let outcomes = traces.iter().map(play).collect::<Result<Vec<_>>>()?;
                    grid.cells.push(Cell { kind, percent, decider, outcomes });
                }
            }
        }
        Ok(grid)
    }

    /// One cell.
    pub(crate) fn cell(&self, kind: Kind, percent: u64, decider: Decider) -> Result<&Cell> {
        let is_it = |cell: &&Cell| (cell.kind, cell.percent, cell.decider) == (kind, percent, decider);
        self.cells.iter().find(is_it).context("a cell of the grid is missing")
    }

    /// Bytes that `decider` staged again, divided by LRU's.
    pub(crate) fn over_lru(&self, kind: Kind, percent: u64, decider: Decider) -> Result<Ratio> {
        let (ours, lru) = (self.cell(kind, percent, decider)?, self.cell(kind, percent, Decider::Lru)?);
        let again = |one: &Outcome| one.again as f64;
        let each = || ours.outcomes.iter().zip(&lru.outcomes).map(|(ours, lru)| again(ours) / again(lru));
        Ok(Ratio {
            mean: ours.mean(again) / lru.mean(again),
            least: each().fold(f64::INFINITY, f64::min),
            greatest: each().fold(0.0, f64::max),
        })
    }

    /// Bytes of all models of a kind of trace, mean of the seeds.
    pub(crate) fn bytes(&self, kind: Kind) -> f64 {
        self.bytes.iter().find(|(known, _)| *known == kind).map_or(0.0, |(_, bytes)| *bytes)
    }
}

impl Cell {
    /// The mean of `what` over the seeds.
    pub(crate) fn mean(&self, what: impl Fn(&Outcome) -> f64) -> f64 {
        mean(self.outcomes.iter().map(what))
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}
