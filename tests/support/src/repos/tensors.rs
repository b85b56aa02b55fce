//! Names and shapes of a model's tensors, as transformers writes them for each `model_type`.

mod older;

use super::{Row, Tensor};

/// MLA ranks and head widths: query rank (0: none), rotary, without rotary, value. From the published configs.
pub(super) struct Mla {
    pub(super) q_rank: u64,
    pub(super) kv_rank: u64,
    pub(super) rope: u64,
    pub(super) nope: u64,
    pub(super) value: u64,
}

/// The layout of latent attention in those models that have it.
pub(super) fn mla(row: &Row) -> Option<Mla> {
    let of = |q_rank, nope, value| Some(Mla { q_rank, kv_rank: 512, rope: 64, nope, value });
    match row.model_type.as_str() {
        "deepseek_v2" => of(0, 128, 128),
        "deepseek_v3" => of(1536, 128, 128),
        "glm4_moe_lite" => of(768, 192, 256),
        _ => None,
    }
}

/// Layers with a dense MLP in front of the layers with experts, and experts that every token takes.
pub(super) fn dense_and_shared(row: &Row) -> (u64, u64) {
    match (row.model_type.as_str(), row.hf_id.as_str()) {
        ("deepseek_v3", "moonshotai/Kimi-K2-Instruct") => (1, 1),
        ("deepseek_v3", _) => (3, 1),
        ("deepseek_v2", _) => (1, 2),
        ("glm4_moe" | "glm4_moe_lite", _) => (1, 1),
        _ => (0, 0),
    }
}

/// The repo stores layers for drafting tokens behind the last one.
pub(super) fn has_draft(row: &Row) -> bool {
    matches!(row.model_type.as_str(), "deepseek_v3" | "glm4_moe" | "glm4_moe_lite")
        && row.surplus() > 1_000_000
}

/// All tensors of the files.
pub(super) fn of(row: &Row) -> Vec<Tensor> {
    let mut out = Out::new(row);
    match row.model_type.as_str() {
        "gpt2" | "gpt_bigcode" => out.gpt2(),
        "gpt_neox" => out.gpt_neox(),
        "opt" => out.opt(),
        "falcon" => out.falcon(),
        "mpt" => out.mpt(),
        "phi" => out.phi(),
        _ => out.modern(),
    }
    out.tensors
}

struct Out<'a> {
    row: &'a Row,
    tensors: Vec<Tensor>,
    prefix: String,
    fp8: bool,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head: u64,
    vocab: u64,
    inner: u64,
    layers: u64,
}

impl<'a> Out<'a> {
    fn new(row: &'a Row) -> Self {
        let (hidden, heads) = (row.need("hidden"), row.need("heads"));
        Self {
            row,
            tensors: Vec::new(),
            prefix: String::new(),
            fp8: row.torch_dtype.starts_with("float8"),
            hidden,
            heads,
            kv_heads: row.get("kv_heads").unwrap_or(heads),
            head: row.get("head_dim").unwrap_or(hidden / heads),
            vocab: row.need("vocab"),
            inner: row.need("intermediate"),
            layers: row.need("layers"),
        }
    }

    fn is(&self, types: &[&str]) -> bool {
        types.contains(&self.row.model_type.as_str())
    }

    fn typed(&mut self, name: &str, dtype: &'static str, shape: &[u64]) {
        let name = format!("{}{name}", self.prefix);
        self.tensors.push(Tensor { name, dtype, shape: shape.to_vec() });
    }

    fn add(&mut self, name: &str, shape: &[u64]) {
        self.typed(name, self.row.dtype(), shape);
    }

    /// Weight and bias of a norm, or the weight alone.
    fn norm(&mut self, name: &str, width: u64, bias: bool) {
        self.add(&format!("{name}.weight"), &[width]);
        if bias {
            self.add(&format!("{name}.bias"), &[width]);
        }
    }

    /// A linear layer; in FP8 models with the scales of its 128 x 128 blocks.
    fn linear(&mut self, name: &str, outputs: u64, inputs: u64, bias: bool) {
        if self.fp8 {
            self.typed(&format!("{name}.weight"), "F8_E4M3", &[outputs, inputs]);
            let blocks = [outputs.div_ceil(128), inputs.div_ceil(128)];
            self.typed(&format!("{name}.weight_scale_inv"), "F32", &blocks);
        } else {
            self.add(&format!("{name}.weight"), &[outputs, inputs]);
        }
        if bias {
            self.add(&format!("{name}.bias"), &[outputs]);
        }
    }

    fn in_layer(&mut self, prefix: &str, layer: u64, fill: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.prefix, format!("{prefix}.{layer}."));
        fill(self);
        self.prefix = outer;
    }

    /// Everything since Llama: `embed_tokens`, layers, `norm`, `lm_head`.
    fn modern(&mut self) {
        let model = match self.row.model_type.as_str() {
            "gemma3_text" if self.row.surplus() > 0 => "language_model.model",
            "qwen3_5_text" => "model.language_model",
            _ => "model",
        };
        self.add(&format!("{model}.embed_tokens.weight"), &[self.vocab, self.hidden]);
        let draft = u64::from(has_draft(self.row));
        for layer in 0..self.layers + draft {
            self.in_layer(&format!("{model}.layers"), layer, |out| out.modern_layer(layer));
        }
        let bias = self.is(&["starcoder2"]);
        self.norm(&format!("{model}.norm"), self.hidden, bias);
        // Some repos store the head although it is tied.
        if !self.row.tied || self.row.surplus() == self.vocab * self.hidden {
            self.add("lm_head.weight", &[self.vocab, self.hidden]);
        }
        if model == "language_model.model" {
            self.siglip();
        }
        if model == "model.language_model" {
            self.qwen_tower();
            self.qwen_draft();
        }
    }

    fn modern_layer(&mut self, layer: u64) {
        let hidden = self.hidden;
        let biased_norms = self.is(&["starcoder2"]);
        self.norm("input_layernorm", hidden, biased_norms);
        if self.is(&["qwen3_5_text"]) && layer % 4 != 3 {
            self.delta_net();
        } else {
            self.attention();
        }
        self.norm("post_attention_layernorm", hidden, biased_norms);
        if self.is(&["gemma2", "gemma3_text"]) {
            self.norm("pre_feedforward_layernorm", hidden, false);
            self.norm("post_feedforward_layernorm", hidden, false);
        }
        if self.is(&["glm4"]) {
            self.norm("post_self_attn_layernorm", hidden, false);
            self.norm("post_mlp_layernorm", hidden, false);
        }
        self.mlp(layer);
        if layer >= self.layers {
            self.add("embed_tokens.weight", &[self.vocab, hidden]);
            self.norm("enorm", hidden, false);
            self.norm("hnorm", hidden, false);
            self.add("eh_proj.weight", &[hidden, 2 * hidden]);
            self.add("shared_head.head.weight", &[self.vocab, hidden]);
            self.norm("shared_head.norm", hidden, false);
        }
    }

    fn attention(&mut self) {
        let (hidden, q, kv) = (self.hidden, self.heads * self.head, self.kv_heads * self.head);
        if let Some(mla) = mla(self.row) {
            return self.latent_attention(&mla);
        }
        let all_biased = self.is(&["starcoder2", "gpt_oss"]);
        let biased = all_biased || self.is(&["qwen2", "qwen2_moe", "glm4", "glm4_moe"]);
        if self.is(&["phi3"]) {
            self.linear("self_attn.qkv_proj", q + 2 * kv, hidden, false);
        } else {
            let gate = if self.is(&["qwen3_5_text"]) { 2 } else { 1 };
            self.linear("self_attn.q_proj", gate * q, hidden, biased);
            self.linear("self_attn.k_proj", kv, hidden, biased);
            self.linear("self_attn.v_proj", kv, hidden, biased);
        }
        self.linear("self_attn.o_proj", hidden, q, all_biased);
        if self.is(&["qwen3", "qwen3_moe", "gemma3_text", "qwen3_5_text"]) {
            self.norm("self_attn.q_norm", self.head, false);
            self.norm("self_attn.k_norm", self.head, false);
        }
        if self.is(&["gpt_oss"]) {
            self.add("self_attn.sinks", &[self.heads]);
        }
        // The first Llama 2 conversions stored the rotary frequencies.
        if self.is(&["llama"]) && self.row.surplus() == self.layers * self.head / 2 {
            self.add("self_attn.rotary_emb.inv_freq", &[self.head / 2]);
        }
    }

    fn latent_attention(&mut self, mla: &Mla) {
        let (hidden, heads) = (self.hidden, self.heads);
        if mla.q_rank > 0 {
            self.linear("self_attn.q_a_proj", mla.q_rank, hidden, false);
            self.norm("self_attn.q_a_layernorm", mla.q_rank, false);
            self.linear("self_attn.q_b_proj", heads * (mla.nope + mla.rope), mla.q_rank, false);
        } else {
            self.linear("self_attn.q_proj", heads * (mla.nope + mla.rope), hidden, false);
        }
        self.linear("self_attn.kv_a_proj_with_mqa", mla.kv_rank + mla.rope, hidden, false);
        self.norm("self_attn.kv_a_layernorm", mla.kv_rank, false);
        self.linear("self_attn.kv_b_proj", heads * (mla.nope + mla.value), mla.kv_rank, false);
        self.linear("self_attn.o_proj", hidden, heads * mla.value, false);
    }

    /// Gated DeltaNet with 16 key and 48 value heads of 128.
    fn delta_net(&mut self) {
        let (keys, values, heads) = (16 * 128, 48 * 128, 48);
        self.linear("linear_attn.in_proj_qkv", 2 * keys + values, self.hidden, false);
        self.linear("linear_attn.in_proj_z", values, self.hidden, false);
        self.linear("linear_attn.in_proj_b", heads, self.hidden, false);
        self.linear("linear_attn.in_proj_a", heads, self.hidden, false);
        self.add("linear_attn.conv1d.weight", &[2 * keys + values, 1, 4]);
        self.add("linear_attn.A_log", &[heads]);
        self.add("linear_attn.dt_bias", &[heads]);
        self.norm("linear_attn.norm", 128, false);
        self.linear("linear_attn.out_proj", self.hidden, values, false);
    }

    fn mlp(&mut self, layer: u64) {
        let (hidden, inner) = (self.hidden, self.inner);
        let (dense, _) = dense_and_shared(self.row);
        if self.row.get("n_experts").is_some() && layer >= dense {
            return self.experts();
        }
        if self.is(&["starcoder2"]) {
            self.linear("mlp.c_fc", inner, hidden, true);
            self.linear("mlp.c_proj", hidden, inner, true);
        } else if self.is(&["phi3", "glm4"]) {
            self.linear("mlp.gate_up_proj", 2 * inner, hidden, false);
            self.linear("mlp.down_proj", hidden, inner, false);
        } else {
            self.gated("mlp", inner);
        }
    }

    fn gated(&mut self, name: &str, inner: u64) {
        self.linear(&format!("{name}.gate_proj"), inner, self.hidden, false);
        self.linear(&format!("{name}.up_proj"), inner, self.hidden, false);
        self.linear(&format!("{name}.down_proj"), self.hidden, inner, false);
    }

    fn experts(&mut self) {
        let (hidden, count) = (self.hidden, self.row.need("n_experts"));
        let inner = self.row.get("moe_intermediate").unwrap_or(self.inner);
        if self.is(&["mixtral"]) {
            self.add("block_sparse_moe.gate.weight", &[count, hidden]);
            for expert in 0..count {
                self.linear(&format!("block_sparse_moe.experts.{expert}.w1"), inner, hidden, false);
                self.linear(&format!("block_sparse_moe.experts.{expert}.w2"), hidden, inner, false);
                self.linear(&format!("block_sparse_moe.experts.{expert}.w3"), inner, hidden, false);
            }
            return;
        }
        if self.is(&["gpt_oss"]) {
            self.add("mlp.router.weight", &[count, hidden]);
            self.add("mlp.router.bias", &[count]);
            self.mxfp4("mlp.experts.gate_up_proj", count, 2 * inner, hidden);
            self.mxfp4("mlp.experts.down_proj", count, hidden, inner);
            return;
        }
        self.add("mlp.gate.weight", &[count, hidden]);
        if self.is(&["deepseek_v3", "glm4_moe", "glm4_moe_lite"]) {
            self.typed("mlp.gate.e_score_correction_bias", "F32", &[count]);
        }
        for expert in 0..count {
            self.gated(&format!("mlp.experts.{expert}"), inner);
        }
        let (_, shared) = dense_and_shared(self.row);
        if shared > 0 {
            self.gated("mlp.shared_experts", shared * inner);
        }
        if self.is(&["qwen2_moe"]) {
            self.gated("mlp.shared_expert", 8 * inner);
            self.add("mlp.shared_expert_gate.weight", &[1, hidden]);
        }
    }

    fn mxfp4(&mut self, name: &str, count: u64, outputs: u64, inputs: u64) {
        self.typed(&format!("{name}_blocks"), "U8", &[count, outputs, inputs / 32, 16]);
        self.typed(&format!("{name}_scales"), "U8", &[count, outputs, inputs / 32]);
        self.add(&format!("{name}_bias"), &[count, outputs]);
    }

    /// Gemma 3's vision tower (SigLIP so400m at 896 pixels) and its projector.
    fn siglip(&mut self) {
        let (width, inner) = (1152, 4304);
        let model = "vision_tower.vision_model";
        self.add(&format!("{model}.embeddings.patch_embedding.weight"), &[width, 3, 14, 14]);
        self.add(&format!("{model}.embeddings.patch_embedding.bias"), &[width]);
        self.add(&format!("{model}.embeddings.position_embedding.weight"), &[4096, width]);
        for layer in 0..27 {
            self.in_layer(&format!("{model}.encoder.layers"), layer, |out| {
                out.norm("layer_norm1", width, true);
                out.norm("layer_norm2", width, true);
                for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    out.linear(&format!("self_attn.{name}"), width, width, true);
                }
                out.linear("mlp.fc1", inner, width, true);
                out.linear("mlp.fc2", width, inner, true);
            });
        }
        self.norm(&format!("{model}.post_layernorm"), width, true);
        self.add("multi_modal_projector.mm_input_projection_weight", &[width, self.hidden]);
        self.add("multi_modal_projector.mm_soft_emb_norm.weight", &[width]);
    }

    /// Qwen3.6's vision tower.
    fn qwen_tower(&mut self) {
        let (width, inner) = (1152, 4304);
        self.add("model.visual.patch_embed.proj.weight", &[width, 3, 2, 16, 16]);
        self.add("model.visual.patch_embed.proj.bias", &[width]);
        self.add("model.visual.pos_embed.weight", &[2304, width]);
        for layer in 0..27 {
            self.in_layer("model.visual.blocks", layer, |out| {
                out.norm("norm1", width, true);
                out.norm("norm2", width, true);
                out.linear("attn.qkv", 3 * width, width, true);
                out.linear("attn.proj", width, width, true);
                out.linear("mlp.linear_fc1", inner, width, true);
                out.linear("mlp.linear_fc2", width, inner, true);
            });
        }
        self.norm("model.visual.merger.norm", width, true);
        self.linear("model.visual.merger.linear_fc1", 4 * width, 4 * width, true);
        self.linear("model.visual.merger.linear_fc2", self.hidden, 4 * width, true);
    }

    fn qwen_draft(&mut self) {
        self.add("mtp.fc.weight", &[self.hidden, 2 * self.hidden]);
        self.in_layer("mtp.layers", 0, |out| out.modern_layer(3));
        for name in ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"] {
            self.norm(&format!("mtp.{name}"), self.hidden, false);
        }
    }
}
