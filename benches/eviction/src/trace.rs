//! Synthetic traces: which model is used when. The same seed gives the same trace.
//!
//! Sizes are log-normal, interactive use follows Zipf's law, and sizes and popularity are independent of each other
//! (but for [`Kind::Mix`], which is about their being not). A use is one load of a model on one host.

use std::ops::Range;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{LogNormal, Zipf};
use rand_pcg::Pcg64;

/// Length of every trace.
const DAYS: u32 = 30;
const HOUR: f64 = 1.0 / 24.0;
/// Exponent of Zipf's law for interactive use.
const SKEW: f64 = 0.9;
/// Interactive uses in a day.
const USES: u32 = 200;
const GB: f64 = 1e9;

/// Models and their uses, the first use in front.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Size of each model in bytes.
    pub(crate) models: Vec<u64>,
    pub(crate) uses: Vec<Use>,
}

/// One use of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) at: Timestamp,
    /// A number into [`Trace::models`].
    pub(crate) model: usize,
}

impl Trace {
    /// Bytes of all models together.
    pub(crate) fn bytes(&self) -> u64 {
        self.models.iter().sum()
    }
}

/// What kind of use a trace is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Popularity drifts.
    Drift,
    /// A batch of the same models every night.
    Nightly,
    /// Sweeps over models that are used once.
    Scan,
    /// Small models used often, huge ones rarely.
    Mix,
    /// Uses of a model come close together.
    Sessions,
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Kind; 5] = [Kind::Drift, Kind::Nightly, Kind::Scan, Kind::Mix, Kind::Sessions];

impl Kind {
    /// Its name in tables and in the plot.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::Nightly => "nightly batch",
            Self::Scan => "scan",
            Self::Mix => "small and large",
            Self::Sessions => "sessions",
        }
    }

    /// What happens in it.
    pub(crate) fn story(self) -> &'static str {
        match self {
            Self::Drift => {
                "300 models, 200 uses a day by Zipf's law (0.9). Every midnight one model in twenty gets a new, random \
                 rank."
            }
            Self::Nightly => {
                "300 models, 200 uses between 8 and 20 o'clock by Zipf's law (0.9). Between 1 and 4 o'clock the same \
                 40 models are used once each, in the same order."
            }
            Self::Scan => {
                "200 models, 200 uses a day by Zipf's law (0.9). On four days an evaluation goes through 30 candidates \
                 of 20 to 150 GB within six hours, each of which is used once in the whole trace."
            }
            Self::Mix => {
                "260 models of 0.3 to 5 GB, 200 uses a day by Zipf's law (0.9); 40 models of 50 to 150 GB, 10 uses a \
                 day by Zipf's law (0.9)."
            }
            Self::Sessions => {
                "300 models, 50 sessions a day by Zipf's law (0.9). A session uses its model once to seven times, 5 \
                 minutes to 2 hours apart. In the other traces a use says nothing of when the next one comes."
            }
        }
    }

    /// A trace of this kind.
    pub(crate) fn draw(self, seed: u64) -> Result<Trace> {
        let mut draft = Draft { rng: Pcg64::seed_from_u64(seed), models: Vec::new(), uses: Vec::new() };
        match self {
            Self::Drift => drift(&mut draft)?,
            Self::Nightly => nightly(&mut draft)?,
            Self::Scan => scan(&mut draft)?,
            Self::Mix => mix(&mut draft)?,
            Self::Sessions => sessions(&mut draft)?,
        }
        Ok(draft.finish())
    }
}

fn drift(draft: &mut Draft) -> Result<()> {
    let mut ranks = draft.add_models(300, &ORDINARY)?;
    for day in 0..DAYS {
        draft.use_by_rank(&ranks, USES, day_from(day, 0.0, 24.0))?;
        for _ in 0..ranks.len() / 20 {
            let model = ranks.remove(draft.rng.random_range(0..ranks.len()));
            ranks.insert(draft.rng.random_range(0..=ranks.len()), model);
        }
    }
    Ok(())
}

fn nightly(draft: &mut Draft) -> Result<()> {
    let ranks = draft.add_models(300, &ORDINARY)?;
    let batch: Vec<usize> = ranks.sample(&mut draft.rng, 40).copied().collect();
    for day in 0..DAYS {
        draft.use_in_turn(&batch, day_from(day, 1.0, 4.0));
        draft.use_by_rank(&ranks, USES, day_from(day, 8.0, 20.0))?;
    }
    Ok(())
}

fn scan(draft: &mut Draft) -> Result<()> {
    let ranks = draft.add_models(200, &ORDINARY)?;
    for day in 0..DAYS {
        draft.use_by_rank(&ranks, USES, day_from(day, 0.0, 24.0))?;
    }
    for day in [6, 12, 18, 24] {
        let candidates = draft.add_models(30, &CANDIDATE)?;
        draft.use_in_turn(&candidates, day_from(day, 9.0, 15.0));
    }
    Ok(())
}

fn mix(draft: &mut Draft) -> Result<()> {
    let small = draft.add_models(260, &SMALL)?;
    let huge = draft.add_models(40, &HUGE)?;
    for day in 0..DAYS {
        draft.use_by_rank(&small, USES, day_from(day, 0.0, 24.0))?;
        draft.use_by_rank(&huge, 10, day_from(day, 0.0, 24.0))?;
    }
    Ok(())
}

fn sessions(draft: &mut Draft) -> Result<()> {
    let ranks = draft.add_models(300, &ORDINARY)?;
    draft.use_by_rank(&ranks, 50 * DAYS, 0.0..f64::from(DAYS))?;
    for (start, model) in draft.uses.clone() {
        let mut at = start;
        for _ in 0..draft.rng.random_range(0..7) {
            at += draft.rng.random_range(HOUR / 12.0..2.0 * HOUR);
            draft.uses.push((at, model));
        }
    }
    Ok(())
}

/// Hours of a day, in days since the beginning.
fn day_from(day: u32, from: f64, to: f64) -> Range<f64> {
    f64::from(day) + from * HOUR..f64::from(day) + to * HOUR
}

/// How sizes are distributed: log-normally, and drawn again when outside of the range.
struct Sizes {
    median: f64,
    sigma: f64,
    range: Range<f64>,
}

const ORDINARY: Sizes = Sizes { median: 12.0 * GB, sigma: 1.2, range: 0.3 * GB..150.0 * GB };
const CANDIDATE: Sizes = Sizes { median: 40.0 * GB, sigma: 0.7, range: 20.0 * GB..150.0 * GB };
const SMALL: Sizes = Sizes { median: 1.0 * GB, sigma: 0.7, range: 0.3 * GB..5.0 * GB };
const HUGE: Sizes = Sizes { median: 90.0 * GB, sigma: 0.3, range: 50.0 * GB..150.0 * GB };

/// A trace in the making.
struct Draft {
    rng: Pcg64,
    models: Vec<u64>,
    /// Days since the beginning, and the model.
    uses: Vec<(f64, usize)>,
}

impl Draft {
    /// The new models' numbers, in random order.
    fn add_models(&mut self, count: usize, sizes: &Sizes) -> Result<Vec<usize>> {
        let first = self.models.len();
        let drawn = (&mut self.rng).sample_iter(LogNormal::new(sizes.median.ln(), sizes.sigma)?);
        let fitting = drawn.filter(|bytes| sizes.range.contains(bytes)).take(count);
        self.models.extend(fitting.map(|bytes| bytes as u64));
        let mut numbers: Vec<usize> = (first..self.models.len()).collect();
        numbers.shuffle(&mut self.rng);
        Ok(numbers)
    }

    /// So many uses at random times; the model in front is the most popular one.
    fn use_by_rank(&mut self, ranks: &[usize], uses: u32, when: Range<f64>) -> Result<()> {
        let rank = Zipf::new(ranks.len() as f64, SKEW)?;
        for _ in 0..uses {
            let at = self.rng.random_range(when.clone());
            let model = ranks[self.rng.sample(rank) as usize - 1];
            self.uses.push((at, model));
        }
        Ok(())
    }

    /// One use of each model, at equal intervals.
    fn use_in_turn(&mut self, models: &[usize], when: Range<f64>) {
        let step = (when.end - when.start) / models.len() as f64;
        self.uses.extend(models.iter().enumerate().map(|(n, model)| (when.start + n as f64 * step, *model)));
    }

    fn finish(mut self) -> Trace {
        self.uses.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let at = |days: f64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(days * 86_400.0);
        let uses = self.uses.into_iter().map(|(days, model)| Use { at: at(days), model }).collect();
        Trace { models: self.models, uses }
    }
}
