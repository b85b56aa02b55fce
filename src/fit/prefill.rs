//! The peak of transformers on PyTorch: what a prefill holds beside weights and cache, by the structure of the model.
//!
//! Widths are counted in elements per token at the widest moment, the MLP of one layer: the copies of the residual
//! stream (`H`) that are alive there, and the results of the MLP's own steps (`I`). They follow from the order of
//! operations in the model classes (<https://github.com/huggingface/transformers>, `src/transformers/models`), and agree
//! with measurements on an H100 (`tests/fixtures/fit/README.md`).

use super::engine::{Attention, Logits};
use super::estimate::{Phase, Sizes};
use super::parts::Parts;
use super::quantization::Quantization;
use super::request::View;

/// What the allocator takes for a byte of cache that grows by copies, in all it holds: outgrown blocks are kept for
/// the next layer. 1.1 to 1.9 measured, 1.5 in the middle.
const GROWN: f64 = 1.5;
/// The same where an answer is so long that every block is replaced.
const REPLACED: f64 = 2.0;
/// The same for a cache that is filled once.
const FILLED: f64 = 1.25;
/// The same for a byte of activations.
const PASSING: f64 = 1.08;

impl Parts<'_> {
    /// Elements per token that are alive in a dense MLP of that inner width, without the residual stream.
    fn dense(&self, inner: u64) -> f64 {
        let s = &self.a.structure;
        let inner = inner as f64;
        let copies = match self.r.quantization {
            // LLM.int8() adds the 32-bit result of its product.
            Quantization::Int8 if s.gated => 5.0,
            // The output of the joint matrix, the activated half, the product; or the steps of the activation.
            _ if s.fused_gate || s.composed_activation => 4.0,
            // Activated gate, up, product.
            _ if s.gated => 3.0,
            // Input and output of the activation.
            _ => 2.0,
        };
        copies * inner
    }

    /// Copies of the residual stream that are alive beside the MLP: the layer's input, the sum with the attention's
    /// output, its norm, and the result.
    fn held(&self) -> f64 {
        let s = &self.a.structure;
        match () {
            () if s.keeps_attention => 5.0,
            () if !self.o.release.groups_experts() || self.r.quantization == Quantization::Int8 => 4.5,
            () => 4.0,
        }
    }

    /// Elements per token in a layer of experts, where all of them run in one grouped product: inputs sorted by
    /// expert, results, weighted results (in 32 bits where the router's weights are), or gate, up and their product.
    fn grouped(&self) -> f64 {
        let (s, hidden) = (&self.a.structure, self.a.hidden as f64);
        let Some(moe) = &self.a.moe else { return 0.0 };
        let visits = moe.experts_per_token as f64;
        let weighted = if s.routes_fp32 { 6.0 } else { 4.0 };
        let inner = 4.0 * moe.intermediate as f64;
        // A shared expert with a gate runs first, and its output waits.
        let waiting = if s.shared_gate && moe.shared_intermediate > 0 { 2.0 * hidden } else { 0.0 };
        visits * (weighted * hidden).max(hidden + inner) + waiting
    }

    /// Elements per token at the widest MLP, residual stream included.
    fn width(&self) -> f64 {
        let held = self.held() * self.a.hidden as f64;
        let Some(moe) = &self.a.moe else { return self.dense(self.a.intermediate) + held };
        if !self.o.release.groups_experts() {
            return 3.0 * self.a.active_intermediate() as f64 + held;
        }
        let dense = if moe.dense_layers > 0 { self.a.intermediate } else { 0 };
        self.grouped().max(self.dense(dense.max(moe.shared_intermediate))) + held
    }

    /// Bytes of the MLP of one layer.
    fn mlp_bytes(&self, tokens: f64) -> f64 {
        let plain = self.element() * tokens * self.width();
        if !matches!(self.r.quantization, Quantization::Nf4 | Quantization::Nf4Dq) || self.a.moe.is_some() {
            return plain;
        }
        // bitsandbytes unpacks a matrix before it multiplies: the last one while two results are alive.
        let hidden = self.held() * self.a.hidden as f64;
        let unpacking = 2.0 * self.a.intermediate as f64 + hidden;
        plain.max(self.element() * tokens * unpacking + 2.0 * self.a.largest_linear() as f64)
    }

    /// Bytes per score that are alive at once, where scores are written out.
    fn bytes_per_score(&self) -> f64 {
        let s = &self.a.structure;
        let float16 = self.a.dtype.as_deref().is_some_and(|d| d.starts_with("float16") || d == "fp16");
        match self.o.attention {
            // PyTorch's plain path computes scores and their softmax in 32 bits.
            Attention::Fused if s.broadcast_kv => 8.0,
            Attention::Fused => 0.0,
            Attention::Eager if s.narrow_softmax => 2.0 * self.element(),
            // PyTorch's softmax reads fp16 and writes fp32 in one kernel; bf16 is copied to fp32 first.
            Attention::Eager if float16 || self.r.quantization == Quantization::Fp32 => 8.0,
            Attention::Eager | Attention::EagerCopy => 10.0,
        }
    }

    /// Bytes of an explicit mask: SDPA needs one for padded sequences, and for a window shorter than the prompt.
    fn mask(&self, tokens: f64) -> f64 {
        let windowed = self.a.sliding.as_ref().is_some_and(|s| tokens >= s.window as f64);
        let masked = self.o.padded || (windowed && self.o.release.groups_experts());
        if masked { self.r.batch as f64 * tokens * tokens } else { 0.0 }
    }

    /// Bytes that one layer holds during the prefill, over `tokens` of every sequence.
    pub(super) fn body(&self, tokens: f64) -> f64 {
        let batch = self.r.batch as f64;
        let (heads, hidden) = (self.a.heads as f64, self.a.hidden as f64);
        let mask = self.mask(tokens);
        let mut widest = self.mlp_bytes(batch * tokens) + mask;
        let scores = self.bytes_per_score() * batch * heads * tokens * tokens;
        if scores > 0.0 {
            // PyTorch's plain path copies queries and broadcast keys and values to 32 bits, scales two of them, and
            // has its result in 32 bits.
            let copies = if self.o.attention == Attention::Fused { 6.0 } else { 0.0 };
            let beside = self.element() * 7.0 * hidden + copies * 4.0 * heads * self.a.head_dim as f64;
            widest = widest.max(scores + batch * tokens * beside);
        }
        if mask > 0.0 {
            // The kernel takes the mask as numbers of the model's width.
            let added = (1.0 + self.element()) * mask;
            widest = widest.max(added + self.element() * batch * tokens * 8.0 * hidden);
        }
        widest
    }

    /// Logits beside the hidden states.
    pub(super) fn logits(&self, tokens: f64) -> f64 {
        let element = self.element();
        let old = !self.o.release.last_logits();
        let soft = if self.a.structure.soft_cap { 2.0 } else { 1.0 };
        let (rows, bytes) = match self.o.logits {
            // What the sampler reads is a 32-bit copy.
            Logits::Last => (1.0, element * soft + 4.0),
            Logits::All if old => (tokens, element + 4.0),
            Logits::All => (tokens, element * soft),
            // 32-bit copy and log-probabilities.
            Logits::Scored if element > 2.0 => (tokens, 8.0),
            Logits::Scored => (tokens, element + 8.0),
        };
        let hidden = 2.0 * element * self.a.hidden as f64 * tokens;
        self.r.batch as f64 * (bytes * rows * self.a.vocab as f64 + hidden)
    }

    /// What passes through a card that has layers but not the head, where `card` is the one with the head. Logits are
    /// copied back to the first card in 32 bits.
    pub(super) fn passing(&self, card: &Sizes) -> f64 {
        if card.logits == 0.0 {
            return card.activations;
        }
        let tokens = self.r.prompt as f64;
        let copied = if self.o.logits == Logits::Last { 0.0 } else { tokens };
        let copy = 4.0 * self.r.batch as f64 * copied * self.a.vocab as f64;
        copy.max(self.body(tokens))
    }

    /// The fullest moment of load, prefill and decode.
    pub(super) fn transformers(&self) -> (Phase, Sizes) {
        let base = Sizes {
            weights: self.weights(),
            context: self.context(),
            workspace: self.workspace(),
            ..Sizes::default()
        };
        let share = self.layer_share();
        let cut = self.o.keeps_window_only(self.r.engine);
        let grown = self.cache(self.r.total, cut) * share;
        if self.r.view == View::Settled {
            return (Phase::Decode, Sizes { cache: grown, ..base });
        }
        let prompt = self.r.prompt.min(self.r.total);
        let tokens = prompt as f64;
        let (body, head) = (self.body(tokens), self.logits(tokens));
        let (activations, logits) = if body >= head { (body, 0.0) } else { (0.0, head) };
        // A prompt longer than a window is kept whole until the first step after it.
        let filled = self.cache(prompt, false) * share;
        let prefill = Sizes { cache: filled, activations, logits, ..base };
        // Concatenation needs old and new keys and values of one layer at once.
        let growth = 1.0 + 1.0 / self.a.layers.max(1) as f64;
        let last = self.r.batch as f64 * 6.0 * self.a.vocab as f64;
        let decode = Sizes { cache: grown * growth, logits: last, ..base };
        let load = Sizes { workspace: base.workspace + self.load_copies(), ..base };
        let mut peak = (Phase::Prefill, prefill);
        if self.r.decodes && decode.sum() > peak.1.sum() {
            peak = (Phase::Decode, decode);
        }
        if self.r.view == View::Process {
            // The blocks of the layers are too small for the logits of a whole prompt, and stay beside them.
            let beside = self.o.logits != Logits::Last && self.o.release.groups_experts();
            let held = if beside { Sizes { activations: body, logits: head, ..prefill } } else { prefill };
            peak = self.kept(&held, &decode, filled, grown);
        }
        if load.sum() > peak.1.sum() {
            peak = (Phase::Load, load);
        }
        peak
    }

    /// What the allocator holds in the end: it never gives back, and its blocks rarely fit the next request. The prefill
    /// leaves room that a short answer's cache grows into; a long answer replaces every block of the cache.
    fn kept(&self, prefill: &Sizes, decode: &Sizes, filled: f64, grown: f64) -> (Phase, Sizes) {
        let (cache, passing) = match () {
            () if self.o.expandable_segments => (filled.max(if self.r.decodes { grown } else { 0.0 }), 1.0),
            () if self.r.decodes => (GROWN * filled.max(grown), PASSING),
            () if self.o.release.groups_experts() => (FILLED * filled, PASSING),
            // The single passes published for older releases held what they needed.
            () => (filled, 1.0),
        };
        let apart = if prefill.activations > 0.0 { self.apart() } else { 1.0 };
        let short = Sizes {
            cache,
            activations: prefill.activations * passing * apart,
            logits: prefill.logits * passing,
            ..*prefill
        };
        let generated = self.r.total.saturating_sub(self.r.prompt);
        // Where nobody says how prompt and answer share the context, the answer may be most of it. How short answers
        // fare was measured with the current releases only.
        let long =
            generated == 0 || generated.saturating_mul(4) >= self.r.total || !self.o.release.groups_experts();
        let replaced = Sizes { cache: REPLACED * grown, ..*decode };
        if self.r.decodes && long && !self.o.expandable_segments && replaced.sum() > short.sum() {
            (Phase::Decode, replaced)
        } else if filled + prefill.activations + prefill.logits < grown && self.r.decodes {
            (Phase::Decode, short)
        } else {
            (Phase::Prefill, short)
        }
    }

    /// Scores in two widths lie in blocks that do not serve each other: 14 to 15 bytes per score were held for bf16
    /// (measured), of which 10 are alive.
    fn apart(&self) -> f64 {
        let eager = self.o.attention == Attention::Eager;
        if eager && self.bytes_per_score() > 8.0 { 1.35 } else { 1.0 }
    }
}
