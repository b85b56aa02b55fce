//! What must be known of a decoder model before its memory can be told: its shape, as numbers.
//!
//! The numbers come from a `config.json` ([`Architecture::from_config`]) or from a GGUF header
//! ([`Architecture::from_gguf`]). A value that is missing or absurd gives [`Unknown`], never a guess.

use serde::{Deserialize, Serialize};

use super::provenance::Source;
use super::quantization::Quantization;

/// Why a number cannot be told, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Unknown {
    /// What is missing or wrong.
    pub what: String,
    /// What to do, as an imperative.
    pub hint: String,
}

impl Unknown {
    /// `what` names the thing and says what is wrong with it; `hint` is an imperative.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

impl std::error::Error for Unknown {}

/// Experts of a mixture-of-experts model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Moe {
    /// Routed experts per sparse layer.
    pub experts: u64,
    /// Routed experts that one token visits.
    pub experts_per_token: u64,
    /// Inner width of one routed expert.
    pub intermediate: u64,
    /// Inner width of all shared experts together; 0 without any.
    pub shared_intermediate: u64,
    /// Layers with an ordinary MLP instead of experts.
    pub dense_layers: u64,
}

/// Multi-head latent attention: the cache holds one compressed vector per token instead of keys and values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Mla {
    /// Width of the compressed vector.
    pub kv_lora_rank: u64,
    /// Part of a key head that carries the position.
    pub qk_rope_head_dim: u64,
    /// Part of a key head that does not.
    pub qk_nope_head_dim: u64,
    /// Width of a value head.
    pub v_head_dim: u64,
    /// Width of the compressed query, if queries are compressed as well.
    pub q_lora_rank: Option<u64>,
}

/// Layers that look back only a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Sliding {
    /// Tokens of the window.
    pub window: u64,
    /// How many layers have it.
    pub layers: u64,
}

/// Layers with a recurrent state of constant size instead of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Linear {
    /// How many layers.
    pub layers: u64,
    /// Key heads.
    pub key_heads: u64,
    /// Width of a key head.
    pub key_head_dim: u64,
    /// Value heads.
    pub value_heads: u64,
    /// Width of a value head.
    pub value_head_dim: u64,
    /// Taps of the causal convolution.
    pub conv_kernel: u64,
}

/// What a family has beside its big matrices, so that its parameters can be counted exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Structure {
    /// The family's structure is known, so that the count is exact.
    pub(super) known: bool,
    /// Three matrices in the MLP (gate, up, down) instead of two.
    pub(super) gated: bool,
    /// Norms of the hidden width per layer.
    pub(super) norms: u64,
    /// Norms carry a bias (LayerNorm).
    pub(super) norm_bias: bool,
    /// A norm stands behind the last layer.
    pub(super) final_norm: bool,
    /// Query, key and value projections carry a bias.
    pub(super) qkv_bias: bool,
    /// The output projection carries a bias.
    pub(super) out_bias: bool,
    /// The MLP's matrices carry a bias.
    pub(super) mlp_bias: bool,
    /// The head carries a bias.
    pub(super) head_bias: bool,
    /// Queries and keys are normalised per head.
    pub(super) qk_norm: bool,
    /// Queries and keys are normalised over all heads at once.
    pub(super) qk_norm_all_heads: bool,
    /// The query projection has a gate of the same width.
    pub(super) query_gate: bool,
    /// One learned sink per head.
    pub(super) sinks: bool,
    /// Rows of a learned position table; 0 without one.
    pub(super) positions: u64,
    /// The router has a bias per expert.
    pub(super) router_bias: bool,
    /// The shared expert has a gate of its own.
    pub(super) shared_gate: bool,
    /// The model class has a head module, which a loader may fill before it ties it.
    pub(super) head_module: bool,
    /// Gate and up are one matrix, so that its whole output lives until the product is made.
    pub(super) fused_gate: bool,
    /// The activation is written in Python from several operations, each with a result of its own.
    pub(super) composed_activation: bool,
    /// A block keeps the output of its attention until its end.
    pub(super) keeps_attention: bool,
    /// The logits go through a soft cap.
    pub(super) soft_cap: bool,
    /// Experts are weighted in 32 bits.
    pub(super) routes_fp32: bool,
    /// One key and value head is broadcast to all query heads, which no fused kernel takes.
    pub(super) broadcast_kv: bool,
    /// The eager softmax stays in the model's own width.
    pub(super) narrow_softmax: bool,
}

impl Default for Structure {
    fn default() -> Self {
        Self {
            known: false,
            gated: true,
            norms: 2,
            norm_bias: false,
            final_norm: true,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            head_bias: false,
            qk_norm: false,
            qk_norm_all_heads: false,
            query_gate: false,
            sinks: false,
            positions: 0,
            router_bias: false,
            shared_gate: false,
            head_module: true,
            fused_gate: false,
            composed_activation: false,
            keeps_attention: false,
            soft_cap: false,
            routes_fp32: false,
            broadcast_kv: false,
            narrow_softmax: false,
        }
    }
}

/// The shape of a decoder model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Architecture {
    /// `model_type` of the text part, or `general.architecture` of a GGUF.
    pub model_type: String,
    /// First entry of `architectures`.
    pub class: Option<String>,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the embedding, where it differs from `hidden` (OPT-350m).
    pub embedding_width: u64,
    /// Decoder layers.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of one head; with latent attention that of a whole key head.
    pub head_dim: u64,
    /// Rows of the embedding.
    pub vocab: u64,
    /// Inner width of the (dense) MLP.
    pub intermediate: u64,
    /// Experts, if it has any.
    pub moe: Option<Moe>,
    /// Latent attention, if it has that.
    pub mla: Option<Mla>,
    /// Layers with a window, if there are any.
    pub sliding: Option<Sliding>,
    /// Layers with a constant state, if there are any.
    pub linear: Option<Linear>,
    /// The head is the embedding.
    pub tied_embeddings: bool,
    /// Longest context the model is made for.
    pub max_position: Option<u64>,
    /// `torch_dtype` or `dtype` of the file.
    pub dtype: Option<String>,
    /// How the repo's weights are quantised already.
    pub quantized: Option<Quantization>,
    /// The text model sits inside a multimodal one.
    pub multimodal: bool,
    /// Where the shape comes from; who reads it from a registry says so here.
    pub source: Source,
    #[serde(skip)]
    pub(super) structure: Structure,
}

impl Architecture {
    /// Layers whose cache grows with the context.
    pub fn attention_layers(&self) -> u64 {
        self.layers.saturating_sub(self.linear.as_ref().map_or(0, |linear| linear.layers))
    }

    /// Elements that one token adds to the cache of one attention layer. With latent attention
    /// `compressed` says whether the engine keeps the compressed vector (vLLM, llama.cpp) or the expanded keys
    /// and values (transformers).
    pub fn cache_elements(&self, compressed: bool) -> u64 {
        match &self.mla {
            Some(mla) if compressed => mla.kv_lora_rank.saturating_add(mla.qk_rope_head_dim),
            Some(mla) => self.heads.saturating_mul(
                mla.qk_nope_head_dim.saturating_add(mla.qk_rope_head_dim).saturating_add(mla.v_head_dim),
            ),
            None => self.kv_heads.saturating_mul(self.head_dim).saturating_mul(2),
        }
    }

    /// Elements of the constant state of all recurrent layers, for one sequence.
    pub fn state_elements(&self) -> u64 {
        self.linear.as_ref().map_or(0, |l| {
            let state = l.value_heads.saturating_mul(l.key_head_dim).saturating_mul(l.value_head_dim);
            let width = l
                .key_heads
                .saturating_mul(l.key_head_dim)
                .saturating_mul(2)
                .saturating_add(l.value_heads.saturating_mul(l.value_head_dim));
            l.layers.saturating_mul(state.saturating_add(width.saturating_mul(l.conv_kernel)))
        })
    }

    /// Inner width that a token's MLP activation has: the dense one, or that of all experts it visits.
    pub fn active_intermediate(&self) -> u64 {
        self.moe.as_ref().map_or(self.intermediate, |moe| {
            let routed = moe.experts_per_token.saturating_mul(moe.intermediate);
            let dense = if moe.dense_layers > 0 { self.intermediate } else { 0 };
            routed.max(moe.shared_intermediate).max(dense)
        })
    }

    /// Elements of the largest single matrix of a layer.
    pub fn largest_linear(&self) -> u64 {
        let inner = self.moe.as_ref().map_or(self.intermediate, |moe| {
            let dense = if moe.dense_layers > 0 { self.intermediate } else { 0 };
            moe.intermediate.max(moe.shared_intermediate).max(dense)
        });
        self.hidden.saturating_mul(inner.max(self.heads.saturating_mul(self.head_dim)))
    }

    /// A dense decoder of about that many parameters, interpolated from the shapes that published models have:
    /// for models whose config cannot be had. Every estimate from it is an assumption.
    pub fn generic(params: u64) -> Result<Self, Unknown> {
        let billions = params as f64 / 1e9;
        if !(0.01..=2000.0).contains(&billions) {
            return Err(Unknown::new(
                format!("{params} parameters are outside of what decoder models have"),
                "give the parameter count of the whole model, in units of one",
            ));
        }
        // 12 · layers · hidden² parameters with hidden = 128 · layers (Kaplan et al., arXiv:2001.08361, and the shapes
        // of Llama 7B to 70B); the MLP takes what is left.
        let layers = (params as f64 / (12.0 * 128.0 * 128.0)).cbrt().clamp(8.0, 96.0).round();
        let hidden = ((params as f64 / (12.0 * layers)).sqrt() / 128.0).round().max(1.0) * 128.0;
        let vocab = if billions < 0.3 { 50_000.0 } else { 100_000.0 };
        let tied = billions < 4.0;
        let heads = hidden / 128.0;
        let kv_heads = if billions >= 1.5 && heads >= 8.0 { 8.0 } else { heads };
        let embeddings = vocab * hidden * if tied { 1.0 } else { 2.0 };
        let attention = 2.0 * hidden * (hidden + kv_heads * 128.0);
        let mlp = (params as f64 - embeddings - layers * attention) / (3.0 * hidden * layers);
        Ok(Self {
            model_type: "generic".to_owned(),
            class: None,
            hidden: hidden as u64,
            embedding_width: hidden as u64,
            layers: layers as u64,
            heads: heads as u64,
            kv_heads: kv_heads as u64,
            head_dim: 128,
            vocab: vocab as u64,
            intermediate: mlp.max(64.0) as u64,
            moe: None,
            mla: None,
            sliding: None,
            linear: None,
            tied_embeddings: tied,
            max_position: None,
            dtype: None,
            quantized: None,
            multimodal: false,
            source: Source::Assumed,
            structure: Structure::default(),
        })
    }
}
