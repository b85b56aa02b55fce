//! The largest batch for a context and the longest context for a batch, found by bisection over the estimate.

use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Unknown};
use super::estimate::estimate;
use super::request::Request;
use super::verdict::{Budget, Correction, Margin, Verdict, decide};
use super::weights::WeightFacts;

/// No engine runs more sequences at once.
pub const MAX_BATCH: u64 = 65_536;
/// Where the model names no maximum.
pub const MAX_CONTEXT: u64 = 1 << 24;

/// What stops a number from being larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The card's memory.
    Memory,
    /// The context that the model is made for.
    ModelContext,
    /// A bound of larder's own ([`MAX_BATCH`], [`MAX_CONTEXT`]).
    Cap,
}

/// A largest number, and what stops it. 0 means that not even 1 fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Limit {
    /// The number.
    pub value: u64,
    /// What stops it.
    pub bound: Bound,
    /// The same in words.
    pub reason: String,
}

/// All that a limit depends on.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The model's shape.
    pub architecture: &'a Architecture,
    /// Its weights.
    pub weights: &'a WeightFacts,
    /// The card.
    pub budget: Budget,
    /// What is kept free.
    pub margin: Margin,
    /// What a calibration found.
    pub correction: Option<&'a Correction>,
}

impl Setting<'_> {
    /// Whether `request` fits with the margin.
    fn fits(&self, request: &Request) -> Result<bool, Unknown> {
        let need = estimate(self.architecture, self.weights, request, self.correction)?;
        Ok(decide(Ok(need), self.budget, self.margin).verdict == Verdict::Fits)
    }

    fn known(&self) -> Result<(), Unknown> {
        match self.budget.bytes {
            Some(_) => Ok(()),
            None => {
                Err(Unknown::new("how much memory the card has is not known", "name a card or give a size"))
            }
        }
    }

    /// The largest batch at the request's context that fits with the margin. A context that the model is not made
    /// for is an error, not a 0.
    pub fn largest_batch(&self, request: &Request) -> Result<Limit, Unknown> {
        self.known()?;
        if let Some(most) = self.architecture.max_position.filter(|most| request.total > *most) {
            return Err(Unknown::new(
                format!(
                    "a context of {} is longer than the {most} that the model is made for",
                    request.total
                ),
                format!("ask for at most {most} tokens"),
            ));
        }
        let value = last(MAX_BATCH, |batch| self.fits(&request.with_batch(batch)))?;
        let (bound, reason) = match value {
            MAX_BATCH => (Bound::Cap, format!("larder does not look beyond a batch of {MAX_BATCH}")),
            0 => (Bound::Memory, "not even one sequence fits with the margin".to_owned()),
            n => (Bound::Memory, format!("a batch of {} would not fit with the margin", n + 1)),
        };
        Ok(Limit { value, bound, reason })
    }

    /// The longest context at the request's batch that fits with the margin, at most what the model is made for.
    pub fn largest_context(&self, request: &Request) -> Result<Limit, Unknown> {
        self.known()?;
        let model = self.architecture.max_position.filter(|n| *n <= MAX_CONTEXT);
        let most = model.unwrap_or(MAX_CONTEXT);
        let value = last(most, |context| self.fits(&request.with_context(context)))?;
        let (bound, reason) = match value {
            n if n == most && model.is_some() => {
                (Bound::ModelContext, format!("the model is made for {most} tokens"))
            }
            n if n == most => (Bound::Cap, format!("larder does not look beyond {MAX_CONTEXT} tokens")),
            0 => (Bound::Memory, "not even one token fits with the margin".to_owned()),
            n => (Bound::Memory, format!("a context of {} would not fit with the margin", n + 1)),
        };
        Ok(Limit { value, bound, reason })
    }
}

/// The largest number up to `most` for which `holds` is true; it must be true up to some number and false beyond. Where
/// it is not, the answer is one of its edges. It asks at most 64 times, whatever `holds` says.
fn last(most: u64, holds: impl Fn(u64) -> Result<bool, Unknown>) -> Result<u64, Unknown> {
    let (mut yes, mut no) = (0, most.saturating_add(1));
    // Each turn halves the distance, so that 64 of them are enough for any pair of numbers.
    for _ in 0..u64::BITS {
        let middle = yes + no.saturating_sub(yes) / 2;
        if middle == yes {
            break;
        }
        if holds(middle)? {
            yes = middle;
        } else {
            no = middle;
        }
    }
    Ok(yes)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_search_ends_whatever_it_is_told(most in any::<u64>(), seed in any::<u64>()) {
            let asked = Cell::new(0_u32);
            let noise = |n: u64| {
                asked.set(asked.get() + 1);
                // As many turns as any search may take, and some: a search that goes on fails instead of hanging.
                if asked.get() > 100 {
                    return Err(Unknown::new("asked too often", "stop"));
                }
                Ok((n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1)
            };
            let found = last(most, noise).expect("it ends");
            prop_assert!(found <= most && asked.get() <= 64);
        }

        #[test]
        fn the_search_finds_the_edge(most in 0_u64..u64::MAX, edge in any::<u64>()) {
            prop_assert_eq!(last(most, |n| Ok(n <= edge)), Ok(edge.min(most)));
        }
    }
}
