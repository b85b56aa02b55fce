//! Does it fit? What a model takes on a card, before it is downloaded. Pure: facts in, answers out.
//!
//! ```
//! use larder::fit::{
//!     Architecture, Budget, Capability, Engine, Quantization, Request, Verdict, can_fit, optimal_batch_size,
//!     recommend_quantization,
//! };
//!
//! // Llama-2-7B on an RTX 4090, of which 23.6 GiB can be used.
//! let config = serde_json::json!({
//!     "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
//!     "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096,
//!     "tie_word_embeddings": false, "torch_dtype": "float16"
//! });
//! let llama = Architecture::from_config(&config)?;
//! assert_eq!(llama.parameters().total(), 6_738_415_616);
//!
//! let card = Budget::gib(23.6);
//! let request = Request::new(Engine::Transformers, Quantization::Bits16, 2048);
//! let fit = can_fit(&llama, &request, card);
//! assert_eq!(fit.verdict, Verdict::Fits);
//!
//! let batch = optimal_batch_size(&llama, &request, card)?;
//! assert_eq!(batch.value, 3);
//!
//! // With 8 GiB the 16-bit weights alone are too much.
//! let choice = recommend_quantization(&llama, &request, Budget::gib(8.0), Some(Capability(8, 9)));
//! assert_eq!(choice.recommended, Some(Quantization::AwqInt4 { group: 128 }));
//! # Ok::<(), larder::fit::Unknown>(())
//! ```
//!
//! The formulas stand at [`estimate`](fn@estimate); `examples/fit_accuracy.rs` compares them with published
//! measurements and with our own.

mod architecture;
mod config;
mod engine;
mod estimate;
mod family;
mod gguf;
mod limits;
mod params;
mod parts;
mod prefill;
mod provenance;
mod quantization;
mod request;
mod variants;
mod verdict;
mod weights;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use architecture::{Architecture, Linear, Mla, Moe, Sliding, Unknown};
pub use engine::{Attention, Engine, Logits, Options, Release};
pub use estimate::{Estimate, Phase, Terms, estimate};
pub use gguf::Meta;
pub use limits::{Bound, Limit, MAX_BATCH, MAX_CONTEXT, Setting};
pub use params::Parameters;
pub use provenance::{Provenance, Source};
pub use quantization::{Capability, Gguf, Quantization, Tier};
pub use request::{Request, View};
pub use variants::{Choice, Policy, Row, Variant, choose};
pub use verdict::{Budget, Correction, Fit, Margin, Verdict, decide, gib};
pub use weights::{Amount, Tensor, WeightFacts};

/// Whether a model fits, from its shape alone, at the default margin.
pub fn can_fit(architecture: &Architecture, request: &Request, budget: Budget) -> Fit {
    let weights = WeightFacts::from_architecture(architecture);
    decide(estimate(architecture, &weights, request, None), budget, Margin::DEFAULT)
}

/// The largest batch at the request's context that fits at the default margin.
pub fn optimal_batch_size(
    architecture: &Architecture,
    request: &Request,
    budget: Budget,
) -> Result<Limit, Unknown> {
    let weights = WeightFacts::from_architecture(architecture);
    let setting =
        Setting { architecture, weights: &weights, budget, margin: Margin::DEFAULT, correction: None };
    setting.largest_batch(request)
}

/// The best quantisation that fits, if every usual variant were published. What is really published decides in the
/// end: see [`choose`].
pub fn recommend_quantization(
    architecture: &Architecture,
    request: &Request,
    budget: Budget,
    capability: Option<Capability>,
) -> Choice {
    let usual = [
        architecture.quantized.unwrap_or(Quantization::Bits16),
        Quantization::Bits16,
        Quantization::Fp8,
        Quantization::GptqInt8 { group: 128 },
        Quantization::AwqInt4 { group: 128 },
        Quantization::GptqInt4 { group: 128 },
        Quantization::Gguf(Gguf::Q6_K),
        Quantization::Gguf(Gguf::Q5_K_M),
        Quantization::Gguf(Gguf::Q4_K_M),
        Quantization::Gguf(Gguf::IQ4_XS),
        Quantization::Nf4Dq,
    ];
    let mut variants: Vec<Variant> = Vec::with_capacity(usual.len());
    for quantization in usual {
        if variants.iter().all(|v| v.quantization != quantization) {
            variants.push(Variant::of(quantization));
        }
    }
    let weights = WeightFacts::from_architecture(architecture);
    let setting =
        Setting { architecture, weights: &weights, budget, margin: Margin::DEFAULT, correction: None };
    choose(&setting, request, &variants, capability, &Policy::BestFit)
}
