//! What each engine adds to the weights: how its cache grows, what a prefill holds, what it sets aside.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architecture::Unknown;

/// A program that runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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

    /// Relative error that an estimate has before the host is calibrated: the 90th percentile of what whole processes
    /// take (`tests/fixtures/fit/measured_h100.csv`), rounded up, or a cautious guess where few rows exist.
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

/// Which tokens of the prompt get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logits {
    /// The last one, as a generation needs.
    Last,
    /// All of them, as a plain forward pass returns.
    All,
    /// All of them, with log-probabilities or a loss in 32 bits, as evaluation by likelihood does.
    Scored,
}

/// A release of transformers: major and minor. What it takes depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Release(pub u32, pub u32);

impl Release {
    /// The one that the formulas were last checked against.
    pub const CURRENT: Release = Release(5, 17);

    /// Generation computes the logits of the last token only (`num_logits_to_keep`).
    pub const fn last_logits(self) -> bool {
        self.at_least(4, 45)
    }

    /// SDPA is the default where a model has it.
    pub const fn sdpa(self) -> bool {
        self.at_least(4, 36)
    }

    /// The cache of a layer with a window is cut to the window after the prompt.
    pub const fn cuts_windows(self) -> bool {
        self.at_least(4, 56)
    }

    /// The cache keeps the compressed vector of latent attention, all experts run in one grouped product, and their
    /// three-dimensional weights are no linear layers that bitsandbytes would quantise.
    pub const fn groups_experts(self) -> bool {
        self.at_least(5, 0)
    }

    const fn at_least(self, major: u32, minor: u32) -> bool {
        self.0 > major || (self.0 == major && self.1 >= minor)
    }
}

/// Settings and habits of an engine that change how much it takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Options {
    /// How attention is computed during prefill.
    pub attention: Attention,
    /// The release of transformers.
    pub release: Release,
    /// Which prompt tokens get logits.
    pub logits: Logits,
    /// Sequences of unequal length are padded, so that SDPA gets a mask of `batch · tokens²` bytes.
    pub padded: bool,
    /// PyTorch's allocator grows its segments (`expandable_segments:True`) instead of adding new ones.
    pub expandable_segments: bool,
    /// Every layer holds its own table of sines and cosines for `max_position` tokens (transformers before 4.45).
    pub rotary_per_layer: bool,
    /// A cache is kept; a single pass for perplexity may go without.
    pub cache: bool,
    /// The loader copies query, key and value into one matrix while the originals are alive (AutoAWQ).
    pub copies_qkv: bool,
    /// The loader never ties the head to the embedding when the file has both (AutoAWQ, fp8 checkpoints).
    pub keeps_head: bool,
    /// Bits per element of the cache of a model that runs in 16 bits, scales included; in 32 bits it is twice that.
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
            release: Release::CURRENT,
            logits: Logits::Last,
            padded: false,
            expandable_segments: false,
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

impl Options {
    /// What a release of transformers does when nobody sets anything.
    pub fn of_release(release: Release) -> Self {
        Self {
            attention: if release.sdpa() { Attention::Fused } else { Attention::Eager },
            release,
            logits: if release.last_logits() { Logits::Last } else { Logits::All },
            ..Self::default()
        }
    }

    /// The cache holds the compressed vector of latent attention instead of the keys and values made from it.
    pub fn compresses(&self, engine: Engine) -> bool {
        engine != Engine::Transformers || self.release.groups_experts()
    }

    /// Layers with a window keep no more than the window, once the prompt is done.
    pub fn keeps_window_only(&self, engine: Engine) -> bool {
        engine != Engine::Transformers || self.release.cuts_windows()
    }
}
