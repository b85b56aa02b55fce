//! What each model family has beside its big matrices: norms, biases, position tables, routers.
//!
//! Facts of the model classes in transformers (<https://github.com/huggingface/transformers>, `src/transformers/models`).
//! A family that is not listed counts as a plain decoder with gated MLP and no biases, and its parameter count as assumed.

use super::architecture::{Structure, Unknown};
use super::config::Keys;

/// The structure of a family, with what the config overrides.
pub(super) fn structure(model_type: &str, keys: &Keys<'_>) -> Result<Structure, Unknown> {
    let mut s = base(model_type);
    if let Some(bias) = keys.flag(&["attention_bias"]) {
        s.qkv_bias = bias;
        // GLM and Qwen have biases on query, key and value only.
        s.out_bias = bias && !matches!(model_type, "glm4" | "glm4_moe" | "qwen2" | "qwen2_moe");
    }
    if let Some(bias) = keys.flag(&["mlp_bias"]) {
        s.mlp_bias = bias;
    }
    if let Some(bias) = keys.flag(&["use_bias"]) {
        (s.qkv_bias, s.out_bias, s.mlp_bias) = (bias, bias, bias);
    }
    if let Some(norm) = keys.flag(&["use_qk_norm"]) {
        s.qk_norm = norm;
    }
    // `gelu_new` and its kin are compositions; `gelu`, `gelu_pytorch_tanh`, `silu` and `relu` are kernels.
    if let Some(act) = keys.text(&["activation_function", "hidden_activation", "hidden_act"]) {
        s.composed_activation = matches!(
            act,
            "gelu_new" | "gelu_fast" | "gelu_python" | "quick_gelu" | "gelu_accurate" | "laplace"
        );
    }
    s.soft_cap = keys.positive("final_logit_softcapping").unwrap_or(s.soft_cap);
    let positions = keys.number(&["max_position_embeddings", "n_positions"], 1, 1 << 32)?.unwrap_or(0);
    match model_type {
        "gpt2" | "gpt_bigcode" => s.positions = positions,
        // OPT leaves two rows free in front (padding offset).
        "opt" => {
            s.positions = positions.saturating_add(2);
            s.final_norm = keys.flag(&["do_layer_norm_before"]).unwrap_or(true);
        }
        "falcon" => {
            let new = keys.flag(&["new_decoder_architecture"]).unwrap_or(false);
            let parallel = keys.flag(&["parallel_attn"]).unwrap_or(true);
            s.norms = if parallel && !new { 1 } else { 2 };
            let bias = keys.flag(&["bias"]).unwrap_or(false);
            (s.qkv_bias, s.out_bias, s.mlp_bias) = (bias, bias, bias);
            s.broadcast_kv = !new && keys.flag(&["multi_query"]).unwrap_or(true);
        }
        _ => {}
    }
    Ok(s)
}

fn base(model_type: &str) -> Structure {
    let plain = Structure { known: true, ..Structure::default() };
    let classic = Structure {
        gated: false,
        norm_bias: true,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        ..plain.clone()
    };
    match model_type {
        // The correction bias of DeepSeek's and GLM's routers is a buffer there, and no parameter.
        "llama" | "mistral" | "gemma" | "granite" | "ministral" => plain,
        "phi3" => Structure { fused_gate: true, ..plain },
        "mixtral" | "deepseek_v2" | "deepseek_v3" | "kimi_k2" | "glm4_moe_lite" => {
            Structure { routes_fp32: true, ..plain }
        }
        "olmoe" => Structure { qk_norm_all_heads: true, ..plain },
        "qwen2" => Structure { qkv_bias: true, ..plain },
        "qwen2_moe" => Structure { qkv_bias: true, shared_gate: true, ..plain },
        "qwen3" | "qwen3_moe" => Structure { qk_norm: true, ..plain },
        "qwen3_next" | "qwen3_5_moe_text" => {
            Structure { qk_norm: true, query_gate: true, shared_gate: true, ..plain }
        }
        "qwen3_5_text" => Structure { qk_norm: true, query_gate: true, ..plain },
        "gemma2" => Structure { norms: 4, soft_cap: true, ..plain },
        "gemma3_text" => Structure { norms: 4, qk_norm: true, ..plain },
        "glm4" => Structure { norms: 4, qkv_bias: true, fused_gate: true, ..plain },
        "glm4_moe" => Structure { qkv_bias: true, routes_fp32: true, ..plain },
        "gpt_oss" => Structure {
            qkv_bias: true,
            out_bias: true,
            mlp_bias: true,
            sinks: true,
            router_bias: true,
            ..plain
        },
        "gpt2" => {
            Structure { composed_activation: true, keeps_attention: true, narrow_softmax: true, ..classic }
        }
        "gpt_bigcode" => Structure { keeps_attention: true, ..classic },
        "gpt_neox" | "opt" | "starcoder2" => classic,
        "phi" => Structure { norms: 1, head_bias: true, composed_activation: true, ..classic },
        "falcon" => {
            Structure { qkv_bias: false, out_bias: false, mlp_bias: false, narrow_softmax: true, ..classic }
        }
        "mpt" => Structure { gated: false, head_module: false, ..plain },
        _ => Structure::default(),
    }
}
