//! `config.json` with the keys that each `model_type` really uses, other names included.

use serde_json::{Map, Value, json};

use super::Row;
use super::tensors::{dense_and_shared, has_draft, mla};

/// The config of a row's model.
pub(super) fn of(row: &Row) -> Value {
    let mut text = text_config(row);
    let dtype = match row.dtype() {
        "F32" => "float32",
        "F16" => "float16",
        _ => "bfloat16",
    };
    text.insert("torch_dtype".into(), dtype.into());
    if row.torch_dtype.starts_with("float8") {
        let blocks = json!({ "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128] });
        text.insert("quantization_config".into(), blocks);
    } else if row.torch_dtype.starts_with("MXFP4") {
        text.insert("quantization_config".into(), json!({ "quant_method": "mxfp4" }));
    }
    let outer = match row.model_type.as_str() {
        "gemma3_text" if row.surplus() > 0 => Some(("gemma3", "Gemma3ForConditionalGeneration")),
        "qwen3_5_text" => Some(("qwen3_5", "Qwen3_5ForConditionalGeneration")),
        _ => None,
    };
    let Some((model_type, architecture)) = outer else {
        text.insert("architectures".into(), json!([architecture(&row.model_type)]));
        return Value::Object(text);
    };
    let tower =
        json!({ "depth": 27, "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304 });
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "torch_dtype": dtype,
        "tie_word_embeddings": row.tied,
        "text_config": text,
        "vision_config": tower,
    })
}

fn architecture(model_type: &str) -> String {
    let class = match model_type {
        "gpt2" => return "GPT2LMHeadModel".to_owned(),
        "gpt_neox" => "GPTNeoX",
        "gpt_bigcode" => "GPTBigCode",
        "gpt_oss" => "GptOss",
        "opt" => "OPT",
        "mpt" => "Mpt",
        "gemma3_text" => "Gemma3",
        "qwen2_moe" => "Qwen2Moe",
        "qwen3_moe" => "Qwen3Moe",
        "deepseek_v2" => "DeepseekV2",
        "deepseek_v3" => "DeepseekV3",
        "glm4_moe" => "Glm4Moe",
        "glm4_moe_lite" => "Glm4MoeLite",
        other => {
            let (first, rest) = other.split_at(1);
            return format!("{}{rest}ForCausalLM", first.to_uppercase());
        }
    };
    format!("{class}ForCausalLM")
}

/// What the language model is, under the names of its family.
fn text_config(row: &Row) -> Map<String, Value> {
    let get = |column: &str| json!(row.get(column));
    let value = match row.model_type.as_str() {
        "gpt2" | "gpt_bigcode" => json!({
            "n_embd": get("hidden"), "n_layer": get("layers"), "n_head": get("heads"),
            "n_positions": get("max_position"), "n_inner": get("intermediate"),
            "multi_query": row.get("kv_heads") == Some(1),
        }),
        "mpt" => json!({
            "d_model": get("hidden"), "n_layers": get("layers"), "n_heads": get("heads"),
            "expansion_ratio": 4, "max_seq_len": get("max_position"),
        }),
        "falcon" => json!({
            "hidden_size": get("hidden"), "num_hidden_layers": get("layers"), "num_attention_heads": get("heads"),
            "multi_query": true, "new_decoder_architecture": false, "parallel_attn": true, "bias": false,
            "alibi": false,
        }),
        "opt" => json!({
            "hidden_size": get("hidden"), "num_hidden_layers": get("layers"), "num_attention_heads": get("heads"),
            "ffn_dim": get("intermediate"), "word_embed_proj_dim": 512, "do_layer_norm_before": false,
            "max_position_embeddings": get("max_position"),
        }),
        _ => modern(row),
    };
    let Value::Object(mut map) = value else { unreachable!("all of these are maps") };
    map.insert("model_type".into(), json!(row.model_type));
    map.insert("vocab_size".into(), get("vocab"));
    map.insert("tie_word_embeddings".into(), json!(row.tied));
    map.retain(|_, value| !value.is_null());
    map
}

fn modern(row: &Row) -> Value {
    let get = |column: &str| json!(row.get(column));
    let mut map = json!({
        "hidden_size": get("hidden"), "num_hidden_layers": get("layers"), "num_attention_heads": get("heads"),
        "intermediate_size": get("intermediate"), "max_position_embeddings": get("max_position"),
        "num_key_value_heads": row.get("kv_heads").or(row.get("heads")),
        "num_experts_per_tok": get("experts_per_tok"), "moe_intermediate_size": get("moe_intermediate"),
    });
    let kind = row.model_type.as_str();
    if row.get("head_dim").is_some_and(|head| Some(head * row.need("heads")) != row.get("hidden")) {
        map["head_dim"] = get("head_dim");
    }
    let experts = match kind {
        "mixtral" | "gpt_oss" => "num_local_experts",
        "qwen2_moe" | "qwen3_moe" => "num_experts",
        _ => "n_routed_experts",
    };
    map[experts] = get("n_experts");
    if kind == "qwen2_moe" {
        map["shared_expert_intermediate_size"] = json!(8 * row.need("moe_intermediate"));
    }
    map["sliding_window"] = get("sliding_window");
    let (layers, full) = (row.need("layers"), row.get("full_attention_layers"));
    let layer_types = |period: u64, other: &str| {
        let word = |layer: u64| if layer % period == period - 1 { "full_attention" } else { other };
        (0..layers).map(|layer| json!(word(layer))).collect::<Vec<_>>()
    };
    match kind {
        "gemma3_text" => map["sliding_window_pattern"] = json!(6),
        "gpt_oss" if full.is_some() => map["layer_types"] = json!(layer_types(2, "sliding_attention")),
        "qwen3_5_text" => {
            map["layer_types"] = json!(layer_types(4, "linear_attention"));
            for (key, value) in [("key_heads", 16), ("value_heads", 48)] {
                map[format!("linear_num_{key}")] = json!(value);
            }
            for (key, value) in [("key_head_dim", 128), ("value_head_dim", 128), ("conv_kernel_dim", 4)] {
                map[format!("linear_{key}")] = json!(value);
            }
        }
        _ => {}
    }
    if row.get("n_experts").is_some() && dense_and_shared(row) != (0, 0) {
        let (dense, shared) = dense_and_shared(row);
        map["first_k_dense_replace"] = json!(dense);
        map["n_shared_experts"] = json!(shared);
        map["num_nextn_predict_layers"] = json!(u64::from(has_draft(row)));
    }
    if let Some(mla) = mla(row) {
        map["q_lora_rank"] = json!((mla.q_rank > 0).then_some(mla.q_rank));
        map["kv_lora_rank"] = json!(mla.kv_rank);
        map["qk_rope_head_dim"] = json!(mla.rope);
        map["qk_nope_head_dim"] = json!(mla.nope);
        map["v_head_dim"] = json!(mla.value);
    }
    map
}
