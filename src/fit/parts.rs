//! What stays on a card (weights, cache, workspaces), and the peaks of vLLM and llama.cpp.
//!
//! The peak of transformers, whose prefill was measured in detail, stands in `prefill.rs`.

use super::architecture::Architecture;
use super::engine::{Engine, Options};
use super::estimate::{Phase, Sizes};
use super::quantization::{Capability, Quantization};
use super::request::{Request, View};
use super::weights::WeightFacts;

/// One mebibyte and one gibibyte, in bytes.
const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = (1_u64 << 30) as f64;

/// A CUDA context with the kernels of PyTorch or llama.cpp: 0.25 to 0.43 GiB are published, 0.5 is safe.
const CONTEXT: f64 = 0.5 * GIB;
/// On an H100 with CUDA 13: 0.60 GiB bare, 0.66 to 0.74 GiB after a generation, most often 0.68 (measured, see
/// `tests/fixtures/fit/README.md`). Later cards have more multiprocessors still.
const CONTEXT_HOPPER: f64 = 0.69 * GIB;
/// cuBLAS workspace that PyTorch reserves, see `CUBLAS_WORKSPACE_CONFIG` in its CUDA notes: 2 × 4 MiB + 8 × 16 KiB,
/// and 32 MiB on Hopper, with 1 MiB for cuBLASLt.
const CUBLAS: f64 = 8.125 * MIB;
const CUBLAS_HOPPER: f64 = 33.0 * MIB;
/// CUDA graphs of vLLM: its startup log reports 0.3 to 0.8 GiB for models of 1 to 14B. Assumed, not measured here.
const VLLM_GRAPHS: f64 = 0.5 * GIB;
/// Bytes per logit that vLLM's sampler holds for every sequence while it profiles (logits in 16 and 32 bits, sorted
/// copies, probabilities). Fitted to a few published logs, hence weak.
const VLLM_SAMPLER: f64 = 39.0;

/// The inputs, and the formulas as methods.
pub(super) struct Parts<'a> {
    pub(super) a: &'a Architecture,
    pub(super) w: &'a WeightFacts,
    pub(super) r: &'a Request,
    pub(super) o: &'a Options,
}

impl Parts<'_> {
    pub(super) fn gpus(&self) -> f64 {
        self.r.gpus as f64
    }

    fn tensor_parallel(&self) -> bool {
        self.r.engine == Engine::Vllm
    }

    /// The share of the layers that the fullest card holds. vLLM cuts every matrix; transformers (`device_map`) and
    /// llama.cpp hand out whole layers.
    pub(super) fn layer_share(&self) -> f64 {
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

    /// The layers' matrices. bitsandbytes quantises linear layers, and the experts of transformers 5 are none.
    fn linear(&self) -> f64 {
        let q = self.r.quantization;
        let all = self.w.linear_bytes(q);
        let spared = self.r.engine == Engine::Transformers
            && q.at_load()
            && self.o.release.groups_experts()
            && self.w.linear.packed_bytes == 0;
        if !spared {
            return all;
        }
        let experts = self.a.routed_linear().min(self.w.linear.elements) as f64;
        all + experts * (2.0 - q.bytes_per_linear())
    }

    pub(super) fn weights(&self) -> f64 {
        let q = self.r.quantization;
        let (linear, other) = (self.linear(), self.w.other_bytes(q));
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

    /// Bytes of one element of the residual stream.
    pub(super) fn element(&self) -> f64 {
        if self.r.quantization == Quantization::Fp32 { 4.0 } else { 2.0 }
    }

    /// Cache of all sequences at `tokens`, over all layers: `2 · layers · kv_heads · head_dim · bytes` per token.
    /// `cut` says that layers with a window hold no more than it.
    pub(super) fn cache(&self, tokens: u64, cut: bool) -> f64 {
        if !self.o.cache {
            return 0.0;
        }
        let bytes = self.o.kv_bits / 16.0 * self.element();
        let per_layer = self.a.cache_elements(self.o.compresses(self.r.engine)) as f64 * bytes;
        let layers = self.a.attention_layers();
        let windowed = self.a.sliding.as_ref().filter(|_| cut);
        let (near, window) = windowed.map_or((0, 0), |s| (s.layers.min(layers), s.window));
        // llama.cpp keeps one physical batch beyond the window.
        let beyond = if self.r.engine == Engine::Transformers { 0 } else { self.o.micro_batch };
        let window = window.saturating_add(beyond);
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

    /// MLP of one layer over `tokens` of every sequence, for engines whose own figures are not known:
    /// `2 · tokens · (3 I + 4.5 H)`.
    fn mlp(&self, tokens: f64, split: f64) -> f64 {
        2.0 * tokens * (3.0 * self.a.active_intermediate() as f64 / split + 4.5 * self.a.hidden as f64)
    }

    /// The CUDA context, where it is counted.
    pub(super) fn context(&self) -> f64 {
        match self.r.view {
            View::Process
                if self.r.engine != Engine::LlamaCpp && self.r.capability >= Some(Capability(9, 0)) =>
            {
                CONTEXT_HOPPER
            }
            View::Process => CONTEXT,
            View::Allocated | View::Settled => 0.0,
        }
    }

    pub(super) fn workspace(&self) -> f64 {
        let hopper = self.r.capability.is_some_and(|c| c.0 == 9);
        let cublas = if hopper { CUBLAS_HOPPER } else { CUBLAS };
        let largest = 2.0 * self.a.largest_linear() as f64;
        let scratch = match self.r.quantization {
            // exllama and LLM.int8() unpack one matrix at a time to 16 bits.
            Quantization::GptqInt4 { .. } | Quantization::GptqInt8 { .. } | Quantization::Int8 => largest,
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
    pub(super) fn load_copies(&self) -> f64 {
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

    pub(super) fn peak(&self) -> (Phase, Sizes) {
        match self.r.engine {
            Engine::Transformers => self.transformers(),
            Engine::Vllm => (Phase::Prefill, self.vllm()),
            Engine::LlamaCpp => (Phase::Prefill, self.llama_cpp()),
        }
    }

    fn vllm(&self) -> Sizes {
        let cache = self.cache(self.r.total, true) * self.cache_share();
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
            context: self.context(),
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
            cache: self.cache(self.r.total, true) * self.layer_share(),
            activations,
            logits,
            context: self.context(),
            workspace: 0.0,
        }
    }

    /// Sum over all cards: weights and cache once, everything else once per card.
    pub(super) fn all_cards(&self, card: &Sizes) -> f64 {
        let others = self.gpus() - 1.0;
        let cache = card.cache / self.cache_share()
            * if self.tensor_parallel() { self.gpus() * self.cache_share() } else { 1.0 };
        let fixed = (card.context + card.workspace) * self.gpus();
        let passing =
            if self.r.engine == Engine::Transformers { self.passing(card) } else { card.activations };
        let moving = card.activations + card.logits + others * passing;
        self.all_weights() + cache + fixed + moving
    }
}
