//! Counts the parameters of a model from its shape, split by what quantisation does with them.

use serde::Serialize;

use super::architecture::{Architecture, Linear, Mla, Moe};

/// Parameters by what becomes of them: only `linear` is quantised, the rest stays 16-bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Parameters {
    /// Matrices inside the layers.
    pub linear: u64,
    /// The token embedding.
    pub embedding: u64,
    /// The head; 0 where it is tied to the embedding.
    pub head: u64,
    /// Norms, biases, routers, position tables.
    pub other: u64,
    /// The family's structure is known, so that the sum equals the model's own count.
    pub exact: bool,
}

impl Parameters {
    /// All parameters.
    pub fn total(&self) -> u64 {
        self.linear.saturating_add(self.embedding).saturating_add(self.head).saturating_add(self.other)
    }
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |all, n| all.saturating_mul(*n))
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |all, n| all.saturating_add(*n))
}

/// Linear and other parameters of one block.
type Block = (u64, u64);

fn attention(a: &Architecture) -> Block {
    let s = &a.structure;
    let query = product(&[a.heads, a.head_dim, if s.query_gate { 2 } else { 1 }]);
    let key = a.kv_heads.saturating_mul(a.head_dim);
    let out = a.heads.saturating_mul(a.head_dim);
    let linear = product(&[a.hidden, sum(&[query, key, key, out])]);
    let mut other = 0;
    if s.qkv_bias {
        other = sum(&[other, query, key, key]);
    }
    if s.out_bias {
        other = sum(&[other, a.hidden]);
    }
    if s.qk_norm {
        other = sum(&[other, a.head_dim, a.head_dim]);
    }
    if s.qk_norm_all_heads {
        other = sum(&[other, query, key]);
    }
    if s.sinks {
        other = sum(&[other, a.heads]);
    }
    (linear, other)
}

fn latent(a: &Architecture, m: &Mla) -> Block {
    let query = a.heads.saturating_mul(m.qk_nope_head_dim.saturating_add(m.qk_rope_head_dim));
    let (q, q_norm) = match m.q_lora_rank {
        Some(rank) => (product(&[rank, a.hidden.saturating_add(query)]), rank),
        None => (a.hidden.saturating_mul(query), 0),
    };
    let down = a.hidden.saturating_mul(m.kv_lora_rank.saturating_add(m.qk_rope_head_dim));
    let up = product(&[m.kv_lora_rank, a.heads, m.qk_nope_head_dim.saturating_add(m.v_head_dim)]);
    let out = product(&[a.heads, m.v_head_dim, a.hidden]);
    (sum(&[q, down, up, out]), sum(&[q_norm, m.kv_lora_rank]))
}

/// Gated DeltaNet, as in Qwen3-Next and Qwen3.5.
fn delta(a: &Architecture, l: &Linear) -> Block {
    let key = l.key_heads.saturating_mul(l.key_head_dim);
    let value = l.value_heads.saturating_mul(l.value_head_dim);
    let mixed = sum(&[key, key, value]);
    let linear = a.hidden.saturating_mul(sum(&[mixed, value, l.value_heads, l.value_heads, value]));
    (linear, sum(&[mixed.saturating_mul(l.conv_kernel), l.value_heads, l.value_heads, l.value_head_dim]))
}

fn mlp(a: &Architecture, width: u64) -> Block {
    let s = &a.structure;
    let inner = width.saturating_mul(if s.gated { 2 } else { 1 });
    let linear = a.hidden.saturating_mul(inner.saturating_add(width));
    (linear, if s.mlp_bias { inner.saturating_add(a.hidden) } else { 0 })
}

fn experts(a: &Architecture, m: &Moe) -> Block {
    let s = &a.structure;
    let (linear, bias) = mlp(a, m.intermediate);
    let (shared, _) = mlp(a, m.shared_intermediate);
    let router = a.hidden.saturating_mul(m.experts);
    let other = sum(&[
        m.experts.saturating_mul(bias),
        router,
        if s.router_bias { m.experts } else { 0 },
        if s.shared_gate && m.shared_intermediate > 0 { a.hidden } else { 0 },
    ]);
    (sum(&[m.experts.saturating_mul(linear), shared]), other)
}

impl Architecture {
    /// Parameters of the matrices of all routed experts.
    pub(super) fn routed_linear(&self) -> u64 {
        self.moe.as_ref().map_or(0, |m| {
            let sparse = self.layers.saturating_sub(m.dense_layers);
            product(&[sparse, m.experts, mlp(self, m.intermediate).0])
        })
    }

    /// The model's parameters, without vision towers and multi-token-prediction layers.
    pub fn parameters(&self) -> Parameters {
        let s = &self.structure;
        let norm = self.hidden.saturating_mul(if s.norm_bias { 2 } else { 1 });
        let (mut linear, mut other) = (0, 0);
        let mut add = |n: u64, block: Block| {
            linear = sum(&[linear, n.saturating_mul(block.0)]);
            other = sum(&[other, n.saturating_mul(block.1)]);
        };
        let block = self.mla.as_ref().map_or_else(|| attention(self), |m| latent(self, m));
        add(self.attention_layers(), block);
        if let Some(l) = &self.linear {
            add(l.layers, delta(self, l));
        }
        let sparse = self.moe.as_ref().map_or(0, |m| self.layers.saturating_sub(m.dense_layers));
        add(self.layers.saturating_sub(sparse), mlp(self, self.intermediate));
        if let Some(m) = &self.moe {
            add(sparse, experts(self, m));
        }
        add(self.layers, (0, s.norms.saturating_mul(norm)));
        if s.final_norm {
            add(1, (0, norm));
        }
        add(1, (0, s.positions.saturating_mul(self.hidden)));
        if self.embedding_width != self.hidden {
            add(2, (self.embedding_width.saturating_mul(self.hidden), 0));
        }
        if s.head_bias {
            add(1, (0, self.vocab));
        }
        let embedding = self.vocab.saturating_mul(self.embedding_width);
        let head = if self.tied_embeddings { 0 } else { embedding };
        Parameters { linear, embedding, head, other, exact: s.known }
    }
}
