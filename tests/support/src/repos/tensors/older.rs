//! Families before Llama's names became everybody's: GPT-2, StarCoder 1, Pythia, OPT, Falcon, MPT, Phi.

use super::{Out, Tensor};

impl Out<'_> {
    /// GPT-2 and its multi-query sibling. GPT-2's file has no prefix and stores the causal masks.
    pub(super) fn gpt2(&mut self) {
        let (hidden, inner, context) = (self.hidden, self.inner, self.row.need("max_position"));
        let bigcode = self.is(&["gpt_bigcode"]);
        let model = if bigcode { "transformer." } else { "" };
        self.add(&format!("{model}wte.weight"), &[self.vocab, hidden]);
        self.add(&format!("{model}wpe.weight"), &[context, hidden]);
        for layer in 0..self.layers {
            let qkv = hidden + 2 * self.kv_heads * self.head;
            self.in_layer(&format!("{model}h"), layer, |out| {
                out.norm("ln_1", hidden, true);
                out.norm("ln_2", hidden, true);
                out.linear("attn.c_attn", qkv, hidden, true);
                out.linear("attn.c_proj", hidden, hidden, true);
                out.linear("mlp.c_fc", inner, hidden, true);
                out.linear("mlp.c_proj", hidden, inner, true);
                if !bigcode {
                    out.add("attn.bias", &[1, 1, context, context]);
                }
            });
        }
        self.norm(&format!("{model}ln_f"), hidden, true);
        if !bigcode {
            // GPT-2 stores its matrices transposed.
            let matrix = |tensor: &&mut Tensor| tensor.name.contains(".c_") && tensor.shape.len() == 2;
            self.tensors.iter_mut().filter(matrix).for_each(|tensor| tensor.shape.reverse());
        }
    }

    pub(super) fn gpt_neox(&mut self) {
        let (hidden, inner, context) = (self.hidden, self.inner, self.row.need("max_position"));
        self.add("gpt_neox.embed_in.weight", &[self.vocab, hidden]);
        for layer in 0..self.layers {
            self.in_layer("gpt_neox.layers", layer, |out| {
                out.norm("input_layernorm", hidden, true);
                out.norm("post_attention_layernorm", hidden, true);
                out.typed("attention.bias", "U8", &[1, 1, context, context]);
                out.add("attention.rotary_emb.inv_freq", &[8]);
                out.linear("attention.query_key_value", 3 * hidden, hidden, true);
                out.linear("attention.dense", hidden, hidden, true);
                out.linear("mlp.dense_h_to_4h", inner, hidden, true);
                out.linear("mlp.dense_4h_to_h", hidden, inner, true);
            });
        }
        self.norm("gpt_neox.final_layer_norm", hidden, true);
        self.add("embed_out.weight", &[self.vocab, hidden]);
    }

    /// OPT-350m, whose embedding is half as wide as its layers.
    pub(super) fn opt(&mut self) {
        let (hidden, inner) = (self.hidden, self.inner);
        self.add("model.decoder.embed_tokens.weight", &[self.vocab, 512]);
        self.add("model.decoder.embed_positions.weight", &[self.row.need("max_position") + 2, hidden]);
        self.add("model.decoder.project_in.weight", &[hidden, 512]);
        self.add("model.decoder.project_out.weight", &[512, hidden]);
        for layer in 0..self.layers {
            self.in_layer("model.decoder.layers", layer, |out| {
                for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
                    out.linear(&format!("self_attn.{name}"), hidden, hidden, true);
                }
                out.norm("self_attn_layer_norm", hidden, true);
                out.linear("fc1", inner, hidden, true);
                out.linear("fc2", hidden, inner, true);
                out.norm("final_layer_norm", hidden, true);
            });
        }
    }

    /// Falcon-7b, which stores its tied head.
    pub(super) fn falcon(&mut self) {
        let (hidden, inner) = (self.hidden, self.inner);
        self.add("transformer.word_embeddings.weight", &[self.vocab, hidden]);
        for layer in 0..self.layers {
            let qkv = (self.heads + 2 * self.kv_heads) * self.head;
            self.in_layer("transformer.h", layer, |out| {
                out.norm("input_layernorm", hidden, true);
                out.linear("self_attention.query_key_value", qkv, hidden, false);
                out.linear("self_attention.dense", hidden, hidden, false);
                out.linear("mlp.dense_h_to_4h", inner, hidden, false);
                out.linear("mlp.dense_4h_to_h", hidden, inner, false);
            });
        }
        self.norm("transformer.ln_f", hidden, true);
        self.add("lm_head.weight", &[self.vocab, hidden]);
    }

    pub(super) fn mpt(&mut self) {
        let (hidden, inner) = (self.hidden, self.inner);
        self.add("transformer.wte.weight", &[self.vocab, hidden]);
        for layer in 0..self.layers {
            self.in_layer("transformer.blocks", layer, |out| {
                out.norm("norm_1", hidden, false);
                out.linear("attn.Wqkv", 3 * hidden, hidden, false);
                out.linear("attn.out_proj", hidden, hidden, false);
                out.norm("norm_2", hidden, false);
                out.linear("ffn.up_proj", inner, hidden, false);
                out.linear("ffn.down_proj", hidden, inner, false);
            });
        }
        self.norm("transformer.norm_f", hidden, false);
    }

    pub(super) fn phi(&mut self) {
        let (hidden, inner) = (self.hidden, self.inner);
        self.add("model.embed_tokens.weight", &[self.vocab, hidden]);
        for layer in 0..self.layers {
            self.in_layer("model.layers", layer, |out| {
                out.norm("input_layernorm", hidden, true);
                for name in ["q_proj", "k_proj", "v_proj", "dense"] {
                    out.linear(&format!("self_attn.{name}"), hidden, hidden, true);
                }
                out.linear("mlp.fc1", inner, hidden, true);
                out.linear("mlp.fc2", hidden, inner, true);
            });
        }
        self.norm("model.final_layernorm", hidden, true);
        self.linear("lm_head", self.vocab, hidden, true);
    }
}
