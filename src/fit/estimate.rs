//! Adds up what a model takes on a card: weights, cache, activations, logits, context, workspace.
//!
//! An engine goes through phases (load, prefill, decode), and the card must hold the largest of them. The terms of an
//! estimate are those of that phase, so that their sum is the total. The formulas and their sources stand at the
//! functions; bytes are computed as floats, which are exact below 8 PiB and saturate instead of overflowing.

use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Unknown};
use super::engine::{Engine, Options};
use super::provenance::{Provenance, Source};
use super::quantization::Quantization;
use super::request::{Request, View};
use super::verdict::Correction;
use super::weights::WeightFacts;

/// One mebibyte and one gibibyte, in bytes.
const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = (1_u64 << 30) as f64;

/// A CUDA context with the kernels of PyTorch or llama.cpp: 0.25 to 0.43 GiB are published, 0.5 is safe.
const CONTEXT: f64 = 0.5 * GIB;
/// cuBLAS workspace that PyTorch reserves, see `CUBLAS_WORKSPACE_CONFIG` in its CUDA notes: 2 × 4 MiB + 8 × 16 KiB,
/// and 32 MiB on Hopper.
const CUBLAS: f64 = 8.125 * MIB;
const CUBLAS_HOPPER: f64 = 32.0 * MIB;
/// CUDA graphs of vLLM: its startup log reports 0.3 to 0.8 GiB for models of 1 to 14B. Assumed, not measured here.
const VLLM_GRAPHS: f64 = 0.5 * GIB;
/// Bytes per logit that vLLM's sampler holds for every sequence while it profiles (logits in 16 and 32 bits, sorted
/// copies, probabilities). Fitted to a few published logs, hence weak.
const VLLM_SAMPLER: f64 = 39.0;

/// Parts of an estimate, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The engine that was asked about, whose share of the card bounds the total.
    pub engine: Engine,
    /// Where the inputs come from.
    pub provenance: Provenance,
}

/// Terms as floats, of one card.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    weights: f64,
    cache: f64,
    activations: f64,
    logits: f64,
    context: f64,
    workspace: f64,
}

impl Sizes {
    fn sum(&self) -> f64 {
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
        engine: request.engine,
        provenance: Provenance {
            architecture: architecture.source,
            weights: weights.source,
            overhead: if correction.is_some() { Source::Calibrated } else { Source::Assumed },
            unverified: correction.is_none() && !request.engine.verified(),
        },
    })
}

/// The inputs, and the formulas as methods.
struct Parts<'a> {
    a: &'a Architecture,
    w: &'a WeightFacts,
    r: &'a Request,
    o: &'a Options,
}

impl Parts<'_> {
    fn gpus(&self) -> f64 {
        self.r.gpus as f64
    }

    fn tensor_parallel(&self) -> bool {
        self.r.engine == Engine::Vllm
    }

    /// The share of the layers that the fullest card holds. vLLM cuts every matrix; transformers (`device_map`) and
    /// llama.cpp hand out whole layers.
    fn layer_share(&self) -> f64 {
        let layers = self.a.layers.max(1);
        layers.div_ceil(self.r.gpus) as f64 / layers as f64
    }

    /// A head that is tied to the embedding and yet resident: fp8 checkpoints of tied models bring their own, and
    /// transformers keeps it (Qwen3 0.6B to 4B, measured); AutoAWQ's loader never ties.
    fn untied_copy(&self) -> f64 {
        let stored = self.w.tied_copy.file_bytes > 0 || self.w.is_derived();
        let fp8 = self.r.engine == Engine::Transformers && self.r.quantization == Quantization::Fp8;
        if self.a.tied_embeddings && self.a.structure.head_module && stored && (fp8 || self.o.keeps_head) {
            self.w.embedding_bytes(self.r.quantization)
        } else {
            0.0
        }
    }

    fn weights(&self) -> f64 {
        let q = self.r.quantization;
        let (linear, other) = (self.w.linear_bytes(q), self.w.other_bytes(q));
        let (embedding, head) = (self.w.embedding_bytes(q), self.w.head_bytes(q) + self.untied_copy());
        if self.r.engine == Engine::LlamaCpp {
            // The embedding is looked up on the CPU; the head is on the GPU, as a copy of it if it is tied.
            let tied = self.a.tied_embeddings || (head == 0.0 && !self.w.is_derived());
            let head = if tied { embedding } else { head };
            return (linear + other) * self.layer_share() + head;
        }
        if self.r.gpus == 1 {
            linear + other + embedding + head
        } else if self.tensor_parallel() {
            (linear + embedding + head) / self.gpus() + other
        } else {
            // The first card holds the embedding, the last one the head.
            (linear + other) * self.layer_share() + embedding.max(head)
        }
    }

    /// Weights of all cards together.
    fn all_weights(&self) -> f64 {
        let one = Request { gpus: 1, ..*self.r };
        let whole = Parts { r: &one, ..*self }.weights();
        if self.tensor_parallel() {
            whole + (self.gpus() - 1.0) * self.w.other_bytes(self.r.quantization)
        } else {
            whole
        }
    }

    /// Cache of all sequences at `tokens`, over all layers: `2 · layers · kv_heads · head_dim · bytes` per token.
    fn cache(&self, tokens: u64) -> f64 {
        if !self.o.cache {
            return 0.0;
        }
        let per_layer = self.a.cache_elements(self.r.engine.compresses()) as f64 * self.o.kv_bits / 8.0;
        let layers = self.a.attention_layers();
        let windowed = self.a.sliding.as_ref().filter(|_| self.r.engine.keeps_window_only());
        let (near, window) = windowed.map_or((0, 0), |s| (s.layers.min(layers), s.window));
        // llama.cpp keeps one physical batch beyond the window.
        let window = window.saturating_add(self.o.micro_batch);
        // vLLM hands out blocks of 16 tokens.
        let tokens =
            if self.r.engine == Engine::Vllm { tokens.div_ceil(16).saturating_mul(16) } else { tokens };
        let far = (layers - near) as f64 * tokens as f64 + near as f64 * tokens.min(window) as f64;
        let state = self.a.state_elements() as f64 * 2.0;
        self.r.batch as f64 * (per_layer * far + state)
    }

    /// The fullest card's share of the cache.
    fn cache_share(&self) -> f64 {
        if !self.tensor_parallel() {
            return self.layer_share();
        }
        // Latent attention has one vector for all heads, which every card needs.
        let heads = if self.a.mla.is_some() { 1 } else { self.a.kv_heads.max(1) };
        1.0 / self.r.gpus.min(heads) as f64
    }

    /// MLP of one layer over `tokens` of every sequence: gate, up and their product, and some copies of the residual:
    /// `2 · B · S · (3 I + 4.5 H)`.
    fn mlp(&self, tokens: f64, split: f64) -> f64 {
        2.0 * tokens * (3.0 * self.a.active_intermediate() as f64 / split + 4.5 * self.a.hidden as f64)
    }

    /// Scores of one layer, where they are written out, beside its hidden states.
    fn scores(&self, tokens: f64) -> f64 {
        let bytes = self.o.attention.bytes_per_score() * self.a.heads as f64;
        let hidden = 2.0 * 4.5 * self.a.hidden as f64;
        let batch = self.r.batch as f64;
        if bytes == 0.0 { 0.0 } else { batch * (bytes * tokens * tokens + hidden * tokens) }
    }

    /// Logits in 16 and 32 bits beside the hidden states.
    fn logits(&self, tokens: f64) -> f64 {
        let rows = if self.o.full_logits { tokens } else { 1.0 };
        let hidden = 4.0 * self.a.hidden as f64 * tokens;
        self.r.batch as f64 * (6.0 * rows * self.a.vocab as f64 + hidden)
    }

    fn workspace(&self) -> f64 {
        let hopper = self.r.capability.is_some_and(|c| c.0 == 9);
        let cublas = if hopper { CUBLAS_HOPPER } else { CUBLAS };
        let largest = 2.0 * self.a.largest_linear() as f64;
        let scratch = match self.r.quantization {
            // exllama and bitsandbytes unpack one matrix at a time to 16 bits.
            Quantization::GptqInt4 { .. }
            | Quantization::GptqInt8 { .. }
            | Quantization::Int8
            | Quantization::Nf4
            | Quantization::Nf4Dq => largest,
            _ => 0.0,
        };
        let scratch = if self.tensor_parallel() { scratch / self.gpus() } else { scratch };
        let tables = if self.o.rotary_per_layer {
            let dim = self.a.mla.as_ref().map_or(self.a.head_dim, |m| m.qk_rope_head_dim);
            4.0 * self.a.layers as f64
                * self.layer_share()
                * self.a.max_position.unwrap_or(0) as f64
                * dim as f64
        } else {
            0.0
        };
        cublas + scratch + tables
    }

    /// Copies that exist only while the weights are loaded.
    fn load_copies(&self) -> f64 {
        let q = self.r.quantization;
        let mut copies = 0.0;
        // The AWQ loader fills the head and ties it afterwards.
        if matches!(q, Quantization::AwqInt4 { .. })
            && self.a.tied_embeddings
            && self.a.structure.head_module
            && !self.o.keeps_head
        {
            copies += self.w.embedding_bytes(q);
        }
        // Families that store one matrix for query, key and value have nothing to copy.
        if self.o.copies_qkv && self.a.structure.gated && self.a.mla.is_none() {
            let width = (self.a.heads as f64 + 2.0 * self.a.kv_heads as f64) * self.a.head_dim as f64;
            copies += self.a.hidden as f64 * width * self.a.layers as f64 * q.bytes_per_linear();
        }
        copies * self.layer_share()
    }

    fn peak(&self) -> (Phase, Sizes) {
        match self.r.engine {
            Engine::Transformers => self.transformers(),
            Engine::Vllm => (Phase::Prefill, self.vllm()),
            Engine::LlamaCpp => (Phase::Prefill, self.llama_cpp()),
        }
    }

    fn transformers(&self) -> (Phase, Sizes) {
        let base = Sizes {
            weights: self.weights(),
            context: if self.r.view == View::Process { CONTEXT } else { 0.0 },
            workspace: self.workspace(),
            ..Sizes::default()
        };
        let share = self.layer_share();
        let last = self.r.batch as f64 * 6.0 * self.a.vocab as f64;
        let decode_cache = self.cache(self.r.total) * share;
        if self.r.view == View::Settled {
            return (Phase::Decode, Sizes { cache: decode_cache, ..base });
        }
        let prompt = self.r.prompt.min(self.r.total);
        let tokens = prompt as f64;
        let (body, head) =
            (self.mlp(self.r.batch as f64 * tokens, 1.0).max(self.scores(tokens)), self.logits(tokens));
        let (activations, logits) = if body >= head { (body, 0.0) } else { (0.0, head) };
        let prefill = Sizes { cache: self.cache(prompt) * share, activations, logits, ..base };
        // Concatenation needs old and new keys and values of one layer at once; the allocator keeps the outgrown
        // blocks, which in the end are as many again.
        let growth = match self.r.view {
            View::Process => 2.0,
            _ => 1.0 + 1.0 / self.a.layers.max(1) as f64,
        };
        let decode = Sizes { cache: decode_cache * growth, logits: last, ..base };
        let load = Sizes { workspace: base.workspace + self.load_copies(), ..base };
        let mut peak = (Phase::Prefill, prefill);
        if self.r.decodes && decode.sum() > peak.1.sum() {
            peak = (Phase::Decode, decode);
        }
        if load.sum() > peak.1.sum() {
            peak = (Phase::Load, load);
        }
        peak
    }

    fn vllm(&self) -> Sizes {
        let cache = self.cache(self.r.total) * self.cache_share();
        let batch = self.r.batch as f64;
        let tokens = (batch * self.r.prompt as f64).min(self.o.max_batched_tokens as f64);
        let body = self.mlp(tokens.max(self.o.max_batched_tokens as f64), self.gpus());
        let sampler = VLLM_SAMPLER * batch.max(self.o.max_sequences as f64) * self.a.vocab as f64;
        let (activations, logits) = if body >= sampler { (body, 0.0) } else { (0.0, sampler) };
        let process = self.r.view == View::Process;
        Sizes {
            weights: self.weights(),
            cache,
            activations,
            logits,
            context: if process { CONTEXT } else { 0.0 },
            workspace: self.workspace() + if process { VLLM_GRAPHS } else { 0.0 },
        }
    }

    fn llama_cpp(&self) -> Sizes {
        // The compute buffer is as large as its largest tensors: the logits of a physical batch in 32 bits, or the MLP.
        let tokens = self.o.micro_batch as f64;
        let logits = 4.0 * tokens * self.a.vocab as f64;
        let body = 2.0 * self.mlp(tokens, 1.0);
        let (activations, logits) = if body >= logits { (body, 0.0) } else { (0.0, logits) };
        Sizes {
            weights: self.weights(),
            cache: self.cache(self.r.total) * self.layer_share(),
            activations,
            logits,
            context: if self.r.view == View::Process { CONTEXT } else { 0.0 },
            workspace: 0.0,
        }
    }

    /// Sum over all cards: weights and cache once, everything else once per card.
    fn all_cards(&self, card: &Sizes) -> f64 {
        let others = self.gpus() - 1.0;
        let cache = card.cache / self.cache_share()
            * if self.tensor_parallel() { self.gpus() * self.cache_share() } else { 1.0 };
        let fixed = (card.context + card.workspace) * self.gpus();
        let passing = if self.r.engine == Engine::Transformers && card.logits > 0.0 {
            // Cards without the head see only layers, but the logits are copied back to the first one in 32 bits.
            let tokens = self.r.prompt as f64;
            let copy = if self.o.full_logits {
                4.0 * self.r.batch as f64 * tokens * self.a.vocab as f64
            } else {
                0.0
            };
            copy.max(self.mlp(self.r.batch as f64 * tokens, 1.0))
        } else {
            card.activations
        };
        let moving = card.activations + card.logits + others * passing;
        self.all_weights() + cache + fixed + moving
    }
}
