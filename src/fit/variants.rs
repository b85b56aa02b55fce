//! Chooses among the variants of a model: 16-bit, fp8, int4, GGUF, quantised at load.
//!
//! A smaller variant is another artifact, not a flag: bitsandbytes quantises at load, so that the 16-bit files are
//! downloaded all the same, and comes last.

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::estimate::estimate;
use super::limits::Setting;
use super::quantization::{Capability, Quantization, Tier};
use super::request::Request;
use super::verdict::{Correction, Fit, Margin, Verdict, decide};
use super::weights::WeightFacts;

/// Which variants may stand in for the model as published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// None: the model as published.
    Exact,
    /// These, in this order.
    Allow(Vec<Quantization>),
    /// Whatever is best and fits.
    BestFit,
}

/// One artifact that could be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// How its weights are stored.
    pub quantization: Quantization,
    /// Repo or file, for people.
    pub label: String,
    /// Bytes to download, if known.
    pub download_bytes: Option<u64>,
    /// Its weights, if its headers were read; else they are derived from the model's.
    pub weights: Option<WeightFacts>,
    /// The engine that shall run it; `None` for the first that can.
    pub engine: Option<Engine>,
    /// What a calibration found for it; that of the setting applies without.
    pub correction: Option<Correction>,
}

impl Variant {
    /// A variant of which only the quantisation is known.
    pub fn of(quantization: Quantization) -> Self {
        Self {
            quantization,
            label: quantization.to_string(),
            download_bytes: None,
            weights: None,
            engine: None,
            correction: None,
        }
    }
}

/// One line of the table that people want.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Row {
    /// How the weights are stored.
    pub quantization: Quantization,
    /// Repo or file.
    pub label: String,
    /// Quality.
    pub tier: Tier,
    /// Engine that runs it.
    pub engine: Engine,
    /// Bytes to download.
    pub download_bytes: Option<u64>,
    /// Bytes on the card.
    pub vram_bytes: Option<u64>,
    /// The answer with its reason.
    pub fit: Fit,
    /// Largest batch at the context asked for.
    pub largest_batch: Option<u64>,
    /// Longest context at the batch asked for.
    pub largest_context: Option<u64>,
    /// This one.
    pub recommended: bool,
    /// Why not this one; `None` for the recommended.
    pub rejected: Option<String>,
    /// The compute capability that the card lacks for it.
    pub lacks: Option<Capability>,
}

/// The table, best first, and the choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Choice {
    /// Every variant in the order in which they were tried.
    pub rows: Vec<Row>,
    /// The recommended quantisation, if any will do.
    pub recommended: Option<Quantization>,
    /// Why that one, or why none.
    pub reason: String,
}

/// Orders the variants, judges each, and recommends the first that the policy allows and that fits. `request` gives
/// context, batch and cards; its quantisation and engine are replaced by each variant's.
pub fn choose(
    setting: &Setting<'_>,
    request: &Request,
    variants: &[Variant],
    capability: Option<Capability>,
    policy: &Policy,
) -> Choice {
    let mut ordered: Vec<&Variant> = variants.iter().collect();
    ordered.sort_by_key(|variant| place(variant.quantization, policy));
    let mut rows: Vec<Row> = ordered.iter().map(|v| row(setting, request, v, capability, policy)).collect();
    let first = |verdict: Verdict| rows.iter().position(|r| r.rejected.is_none() && r.fit.verdict == verdict);
    let chosen = first(Verdict::Fits).or_else(|| first(Verdict::Tight));
    for (index, row) in rows.iter_mut().enumerate() {
        row.recommended = Some(index) == chosen;
        if row.rejected.is_none() && !row.recommended {
            row.rejected = Some(match row.fit.verdict {
                Verdict::Fits | Verdict::Tight if chosen.is_some_and(|c| c < index) => {
                    "a better variant fits".to_owned()
                }
                Verdict::Fits => "a better variant fits".to_owned(),
                Verdict::Tight | Verdict::No | Verdict::Unknown => row.fit.reason.clone(),
            });
        }
    }
    let (recommended, reason) = match chosen.and_then(|index| rows.get(index)) {
        Some(row) => {
            let how = if row.fit.verdict == Verdict::Tight {
                "the best that fits, if tightly"
            } else {
                "the best that fits"
            };
            (Some(row.quantization), format!("{} is {how}: {}", row.label, row.fit.reason))
        }
        None if rows.is_empty() => (None, "there is no variant to choose from".to_owned()),
        None => (None, "no variant that the policy allows fits".to_owned()),
    };
    Choice { rows, recommended, reason }
}

/// Where a variant stands in the order; a list in the policy is an order of its own.
fn place(quantization: Quantization, policy: &Policy) -> (usize, u32) {
    let listed = match policy {
        Policy::Allow(list) => list.iter().position(|q| *q == quantization).unwrap_or(list.len()),
        Policy::Exact | Policy::BestFit => 0,
    };
    (listed, quantization.rank())
}

fn row(
    setting: &Setting<'_>,
    request: &Request,
    variant: &Variant,
    capability: Option<Capability>,
    policy: &Policy,
) -> Row {
    let quantization = variant.quantization;
    let engines = quantization.engines();
    let fallback = engines.first().copied().unwrap_or(request.engine);
    let wanted = variant.engine.unwrap_or(request.engine);
    let engine = if engines.contains(&wanted) { wanted } else { fallback };
    let request = Request { quantization, engine, capability, ..*request };
    let correction = variant.correction.as_ref();
    let setting = Setting {
        weights: variant.weights.as_ref().unwrap_or(setting.weights),
        correction: correction.or(setting.correction),
        margin: correction.map_or(setting.margin, |found| Margin::of(Some(found))),
        ..*setting
    };
    let need = estimate(setting.architecture, setting.weights, &request, setting.correction);
    let fit = decide(need, setting.budget, setting.margin);
    let lacks =
        quantization.least_capability(engine).filter(|least| capability.is_some_and(|have| have < *least));
    let too_old = lacks
        .zip(capability)
        .map(|(least, have)| format!("needs compute capability {least} with {engine}, the card has {have}"));
    Row {
        quantization,
        label: variant.label.clone(),
        tier: quantization.tier(),
        engine,
        download_bytes: variant.download_bytes,
        vram_bytes: fit.estimate.map(|e| e.total),
        fit,
        largest_batch: setting.largest_batch(&request).ok().map(|limit| limit.value),
        largest_context: setting.largest_context(&request).ok().map(|limit| limit.value),
        recommended: false,
        rejected: unlisted(&setting, quantization, policy)
            .or(too_old)
            .or_else(|| unwanted(&setting, quantization, policy)),
        lacks,
    }
}

/// Why the policy does not have a variant.
fn unlisted(setting: &Setting<'_>, quantization: Quantization, policy: &Policy) -> Option<String> {
    let native = setting.architecture.quantized.unwrap_or(Quantization::Bits16);
    match policy {
        Policy::Exact if quantization != native => {
            Some(format!("the policy asks for the model as published, which is {native}"))
        }
        Policy::Allow(list) if !list.contains(&quantization) => {
            Some("the policy does not list it".to_owned())
        }
        Policy::Exact | Policy::Allow(_) | Policy::BestFit => None,
    }
}

/// Why nobody wants a variant who did not list it.
fn unwanted(setting: &Setting<'_>, quantization: Quantization, policy: &Policy) -> Option<String> {
    if matches!(policy, Policy::Allow(_)) {
        return None;
    }
    if quantization.tier() == Tier::Low {
        return Some("below four bits only on request; list it in the policy".to_owned());
    }
    let leaves_experts = quantization.at_load() && setting.architecture.moe.is_some();
    leaves_experts.then(|| "bitsandbytes leaves the experts of this model in 16 bits".to_owned())
}
