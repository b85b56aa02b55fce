//! Adds up what a model takes on a card: weights, cache, activations, logits, context, workspace.
//!
//! An engine goes through phases (load, prefill, decode), and the card must hold the largest of them. The terms of an
//! estimate are those of that phase, so that their sum is the total. The formulas and their sources stand at the
//! functions; bytes are computed as floats, which are exact below 8 PiB and saturate instead of overflowing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Unknown};
use super::engine::Engine;
use super::parts::Parts;
use super::provenance::{Provenance, Source};
use super::request::Request;
use super::verdict::Correction;
use super::weights::WeightFacts;

/// Parts of an estimate, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub struct Terms {
    /// Weights.
    pub weights: u64,
    /// Keys and values, or the state of recurrent layers, with what their growth costs.
    pub kv_cache: u64,
    /// Activations of the widest moment.
    pub activations: u64,
    /// Logits, if they are alive at that moment.
    pub logits: u64,
    /// CUDA context.
    pub context: u64,
    /// Workspaces: cuBLAS, dequantisation, tables, graphs, copies made while loading.
    pub workspace: u64,
}

impl Terms {
    /// The sum.
    pub fn total(&self) -> u64 {
        [self.weights, self.kv_cache, self.activations, self.logits, self.context, self.workspace]
            .iter()
            .fold(0, |all, n| all.saturating_add(*n))
    }
}

/// The moment at which most memory is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// While weights are loaded.
    Load,
    /// While the prompt is computed.
    Prefill,
    /// At the end of the answer.
    Decode,
}

/// What a model takes, per card.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Estimate {
    /// The parts, on the fullest card.
    pub terms: Terms,
    /// Their sum, bytes.
    pub total: u64,
    /// Lower end of the interval that the truth is expected in, bytes.
    pub low: u64,
    /// Upper end, bytes.
    pub high: u64,
    /// Sum over all cards, bytes.
    pub all_cards: u64,
    /// The moment of the peak.
    pub phase: Phase,
    /// The context is longer than the model is made for.
    pub exceeds_model_context: bool,
    /// The longest context that it is made for, in tokens.
    pub model_context: Option<u64>,
    /// The engine that was asked about, whose share of the card bounds the total.
    pub engine: Engine,
    /// Where the inputs come from.
    pub provenance: Provenance,
}

/// Terms as floats, of one card.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) weights: f64,
    pub(super) cache: f64,
    pub(super) activations: f64,
    pub(super) logits: f64,
    pub(super) context: f64,
    pub(super) workspace: f64,
}

impl Sizes {
    pub(super) fn sum(&self) -> f64 {
        self.weights + self.cache + self.activations + self.logits + self.context + self.workspace
    }

    fn terms(&self, ratio: f64) -> Terms {
        // `as` saturates, and NaN cannot arise: every factor is finite and not negative.
        let bytes = |n: f64| (n * ratio).ceil() as u64;
        Terms {
            weights: bytes(self.weights),
            kv_cache: bytes(self.cache),
            activations: bytes(self.activations),
            logits: bytes(self.logits),
            context: bytes(self.context),
            workspace: bytes(self.workspace),
        }
    }
}

/// What a model takes under `request`. A `correction` from a calibration scales every term.
pub fn estimate(
    architecture: &Architecture,
    weights: &WeightFacts,
    request: &Request,
    correction: Option<&Correction>,
) -> Result<Estimate, Unknown> {
    request.check()?;
    let ratio = match correction {
        Some(c) => c.checked()?,
        None => 1.0,
    };
    let parts = Parts { a: architecture, w: weights, r: request, o: &request.options };
    let (phase, card) = parts.peak();
    let terms = card.terms(ratio);
    let total = terms.total();
    let all = (parts.all_cards(&card) * ratio).ceil() as u64;
    let error = correction.map_or(request.engine.error(), |c| c.error);
    Ok(Estimate {
        terms,
        total,
        low: (total as f64 * (1.0 - error.min(1.0))) as u64,
        high: (total as f64 * (1.0 + error)).ceil() as u64,
        all_cards: if request.gpus == 1 { total } else { all.max(total) },
        phase,
        exceeds_model_context: architecture.max_position.is_some_and(|most| request.total > most),
        model_context: architecture.max_position,
        engine: request.engine,
        provenance: Provenance {
            architecture: architecture.source,
            weights: weights.source,
            overhead: if correction.is_some() { Source::Calibrated } else { Source::Assumed },
            unverified: correction.is_none() && !request.engine.verified(),
        },
    })
}
