//! From an estimate and a budget to an answer: fits, tight, no or unknown, with the reason in words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architecture::Unknown;
use super::estimate::Estimate;

/// What may be used of one card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Budget {
    /// Bytes per card; `None` if that is not known.
    pub bytes: Option<u64>,
}

impl Budget {
    /// That many bytes per card.
    pub const fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes) }
    }

    /// That many GiB per card; what is no size is unknown.
    pub fn gib(gib: f64) -> Self {
        let valid = gib.is_finite() && gib > 0.0;
        Self { bytes: valid.then_some((gib * (1_u64 << 30) as f64) as u64) }
    }

    /// Nobody knows.
    pub const fn unknown() -> Self {
        Self { bytes: None }
    }
}

/// What is kept free beyond the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Margin {
    /// Share of the estimate.
    pub share: f64,
    /// Bytes on top.
    pub bytes: u64,
}

impl Margin {
    /// Until the host is calibrated: 10 % and 0.5 GiB.
    pub const DEFAULT: Margin = Margin { share: 0.10, bytes: 1 << 29 };
    /// Afterwards: 5 %.
    pub const CALIBRATED: Margin = Margin { share: 0.05, bytes: 0 };

    /// The margin of a host, by whether it has a correction.
    pub const fn of(correction: Option<&Correction>) -> Self {
        if correction.is_some() { Self::CALIBRATED } else { Self::DEFAULT }
    }

    /// Bytes to keep free beside `total`.
    pub fn on(&self, total: u64) -> u64 {
        let share = if self.share.is_finite() { self.share.max(0.0) } else { 0.0 };
        ((total as f64 * share).ceil() as u64).saturating_add(self.bytes)
    }
}

impl Default for Margin {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a calibration found: how many times the prediction was measured, and how well that is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Correction {
    /// Measured over predicted.
    pub ratio: f64,
    /// Relative error that is left.
    pub error: f64,
}

impl Correction {
    /// The ratio, if both numbers can be.
    pub(super) fn checked(&self) -> Result<f64, Unknown> {
        let sane = (0.1..=10.0).contains(&self.ratio) && (0.0..=10.0).contains(&self.error);
        if sane {
            return Ok(self.ratio);
        }
        Err(Unknown::new(
            format!("a correction of {} ± {} cannot be", self.ratio, self.error),
            "drop this calibration and measure again",
        ))
    }
}

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FitVerdict")]
pub enum Verdict {
    /// It fits with the margin.
    Fits,
    /// It fits, but not with the margin.
    Tight,
    /// It does not fit.
    No,
    /// Something that must be known is not.
    Unknown,
}

impl Verdict {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Tight => "tight",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// The answer with everything that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Fit {
    /// The answer.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: String,
    /// What it takes per card, if that can be told.
    pub estimate: Option<Estimate>,
    /// Bytes per card that may be used.
    pub budget_bytes: Option<u64>,
    /// Bytes that are kept free beyond the estimate.
    pub margin_bytes: Option<u64>,
}

/// Bytes as GiB for sentences.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

/// Compares what is needed with what is there.
pub fn decide(estimate: Result<Estimate, Unknown>, budget: Budget, margin: Margin) -> Fit {
    let unknown = |reason: String, estimate: Option<Estimate>| Fit {
        verdict: Verdict::Unknown,
        reason,
        estimate,
        budget_bytes: budget.bytes,
        margin_bytes: None,
    };
    let estimate = match estimate {
        Ok(estimate) => estimate,
        Err(error) => return unknown(error.to_string(), None),
    };
    let Some(bytes) = budget.bytes else {
        return unknown(
            "how much memory the card has is not known; name a card or give a size".to_owned(),
            Some(estimate),
        );
    };
    let kept = margin.on(estimate.total);
    let usable = (bytes as f64 * estimate.engine.share()) as u64;
    let (need, have) = (gib(estimate.total), gib(bytes));
    let (verdict, reason) = if estimate.exceeds_model_context {
        let most = estimate.model_context.map_or_else(String::new, |most| format!(" of at most {most}"));
        (Verdict::No, format!("the context is longer than the model is made for; ask for one{most} tokens"))
    } else if estimate.total > bytes {
        (Verdict::No, format!("needs {need}, has {have}"))
    } else if estimate.total > usable {
        (Verdict::No, format!("needs {need}, and {} takes only {} of {have}", estimate.engine, gib(usable)))
    } else if estimate.total.saturating_add(kept) > bytes {
        (
            Verdict::Tight,
            format!("needs {need} of {have}, which leaves less than the margin of {}", gib(kept)),
        )
    } else {
        (Verdict::Fits, format!("needs {need} of {have}"))
    };
    Fit { verdict, reason, estimate: Some(estimate), budget_bytes: Some(bytes), margin_bytes: Some(kept) }
}
