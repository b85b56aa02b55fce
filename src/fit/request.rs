//! What shall run: engine, quantisation, tokens, batch, cards.

use serde::{Deserialize, Serialize};

use super::architecture::Unknown;
use super::engine::{Engine, Options};
use super::quantization::{Capability, Quantization};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// All that the process takes from the card, as NVML and nvidia-smi show it. The one to decide by.
    Process,
    /// The peak of PyTorch's own counter (`max_memory_allocated`): without context and without cached blocks.
    Allocated,
    /// PyTorch's counter after a generation (`memory_allocated`): weights, cache and workspace.
    Settled,
}

/// What shall run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Request {
    /// The engine.
    pub engine: Engine,
    /// Its settings.
    pub options: Options,
    /// How the weights are stored.
    pub quantization: Quantization,
    /// Tokens of the prompt, which are computed at once.
    pub prompt: u64,
    /// Tokens of the prompt and the answer.
    pub total: u64,
    /// An answer of more than one token is generated.
    pub decodes: bool,
    /// Sequences at the same time.
    pub batch: u64,
    /// Equal cards that share the model.
    pub gpus: u64,
    /// What is counted.
    pub view: View,
    /// Compute capability of the card, if known.
    pub capability: Option<Capability>,
}

impl Request {
    /// One sequence of up to `context` tokens on one card, however it splits into prompt and answer.
    pub fn new(engine: Engine, quantization: Quantization, context: u64) -> Self {
        Self {
            engine,
            options: Options::default(),
            quantization,
            prompt: context,
            total: context,
            decodes: true,
            batch: 1,
            gpus: 1,
            view: View::Process,
            capability: None,
        }
    }

    /// The same with another batch.
    #[must_use]
    pub fn with_batch(self, batch: u64) -> Self {
        Self { batch, ..self }
    }

    /// The same with another context.
    #[must_use]
    pub fn with_context(self, context: u64) -> Self {
        Self { prompt: context, total: context, ..self }
    }

    /// The same on several equal cards.
    #[must_use]
    pub fn with_gpus(self, gpus: u64) -> Self {
        Self { gpus, ..self }
    }

    /// Whether the numbers can be.
    pub(super) fn check(&self) -> Result<(), Unknown> {
        let zero = |what: &str| Unknown::new(format!("{what} is 0"), "give a number of at least 1");
        match () {
            () if self.batch == 0 => Err(zero("the batch")),
            () if self.gpus == 0 => Err(zero("the number of GPUs")),
            () if self.total == 0 => Err(zero("the context")),
            () if !self.options.kv_bits.is_finite() || !(1.0..=64.0).contains(&self.options.kv_bits) => {
                Err(Unknown::new(
                    format!("{} bits per cache element cannot be", self.options.kv_bits),
                    "give a number from 1 to 64",
                ))
            }
            () => Ok(()),
        }
    }
}
