//! What each engine adds to the weights: how its cache grows, what a prefill holds, what it sets aside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::architecture::Unknown;

/// A program that runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// Hugging Face transformers on PyTorch.
    #[serde(rename = "transformers")]
    Transformers,
    /// vLLM.
    #[serde(rename = "vllm")]
    Vllm,
    /// llama.cpp and what is built on it.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl Engine {
    /// Every engine.
    pub const ALL: &'static [Engine] = &[Engine::Transformers, Engine::Vllm, Engine::LlamaCpp];

    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Vllm => "vllm",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// The formulas were checked against enough published measurements.
    pub const fn verified(self) -> bool {
        matches!(self, Self::Transformers)
    }

    /// Relative error that an estimate has before the host is calibrated: the 90th percentile over
    /// `tests/fixtures/fit/ground_truth.csv`, rounded up, or a cautious guess where few rows exist.
    pub const fn error(self) -> f64 {
        if self.verified() { 0.09 } else { 0.25 }
    }

    /// The share of the card that the engine may take; vLLM's `gpu_memory_utilization` is 0.9.
    pub const fn share(self) -> f64 {
        match self {
            Self::Vllm => 0.9,
            Self::Transformers | Self::LlamaCpp => 1.0,
        }
    }

    /// The cache holds the compressed vector of latent attention. transformers' classes expand it first.
    pub const fn compresses(self) -> bool {
        !matches!(self, Self::Transformers)
    }

    /// Layers with a window keep no more than the window. transformers' default cache keeps everything in the
    /// versions that the measurements come from.
    pub const fn keeps_window_only(self) -> bool {
        !matches!(self, Self::Transformers)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Engine {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text.trim().to_lowercase().as_str() {
            "transformers" | "hf" => Ok(Self::Transformers),
            "vllm" => Ok(Self::Vllm),
            "llama.cpp" | "llamacpp" | "llama-cpp" | "ollama" => Ok(Self::LlamaCpp),
            _ => Err(Unknown::new(
                format!("`{text}` is not an engine that larder knows"),
                "write transformers, vllm or llama.cpp",
            )),
        }
    }
}

/// How attention is computed during prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Flash Attention or SDPA: the scores are never written out.
    Fused,
    /// transformers' eager path: scores in 16 bits, softmax in 32, copy in 16.
    Eager,
    /// The same with a 32-bit copy in front of the softmax (AutoAWQ's fused modules).
    EagerCopy,
}

impl Attention {
    /// Bytes per score that are alive at once.
    pub const fn bytes_per_score(self) -> f64 {
        match self {
            Self::Fused => 0.0,
            Self::Eager => 8.0,
            Self::EagerCopy => 10.0,
        }
    }
}

/// Settings and habits of an engine that change how much it takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Options {
    /// How attention is computed during prefill.
    pub attention: Attention,
    /// Logits of every prompt token are computed, in 16 and in 32 bits (transformers before 4.45), not only of the
    /// last one.
    pub full_logits: bool,
    /// Every layer holds its own table of sines and cosines for `max_position` tokens (transformers before 4.45).
    pub rotary_per_layer: bool,
    /// A cache is kept; a single pass for perplexity may go without.
    pub cache: bool,
    /// The loader copies query, key and value into one matrix while the originals are alive (AutoAWQ).
    pub copies_qkv: bool,
    /// The loader never ties the head to the embedding when the file has both (AutoAWQ, fp8 checkpoints).
    pub keeps_head: bool,
    /// Bits per element of the cache, scales included.
    pub kv_bits: f64,
    /// Tokens of one physical batch (llama.cpp's `--ubatch-size`).
    pub micro_batch: u64,
    /// Sequences that vLLM prepares for (`max_num_seqs`).
    pub max_sequences: u64,
    /// Tokens of one step of vLLM (`max_num_batched_tokens`).
    pub max_batched_tokens: u64,
}

impl Default for Options {
    /// What the engines do today when nobody sets anything.
    fn default() -> Self {
        Self {
            attention: Attention::Fused,
            full_logits: false,
            rotary_per_layer: false,
            cache: true,
            copies_qkv: false,
            keeps_head: false,
            kv_bits: 16.0,
            micro_batch: 512,
            max_sequences: 256,
            max_batched_tokens: 2048,
        }
    }
}
