//! Reads the shape of a model from its `config.json`, old key names and nested text configs included.
//!
//! Key names are those of the transformers configuration classes
//! (<https://huggingface.co/docs/transformers/main_classes/configuration>).

use serde_json::Value;

use super::architecture::{Architecture, Linear, Mla, Moe, Sliding, Unknown};
use super::family::structure;
use super::provenance::Source;
use super::quantization::Quantization;

/// Bounds beyond which a number is a mistake or an attack, not a model.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_LAYERS: u64 = 4096;
const MAX_VOCAB: u64 = 1 << 25;
const MAX_EXPERTS: u64 = 1 << 16;
const MAX_CONTEXT: u64 = 1 << 32;

/// Names of the longest context.
const POSITIONS: [&str; 5] =
    ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"];

const HINT: &str = "check the model's config.json, or give the numbers by hand";

/// The part of a config that describes the text model.
pub(super) struct Keys<'a>(&'a Value);

impl Keys<'_> {
    fn raw(&self, names: &[&str]) -> Option<(String, &Value)> {
        names
            .iter()
            .find_map(|name| self.0.get(*name).filter(|v| !v.is_null()).map(|v| ((*name).to_owned(), v)))
    }

    /// A whole number between `least` and `most`; `None` if no key has one.
    pub(super) fn number(&self, names: &[&str], least: u64, most: u64) -> Result<Option<u64>, Unknown> {
        let Some((name, value)) = self.raw(names) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=1e15).contains(f)).map(|f| f as u64)
        });
        match whole {
            Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(Unknown::new(
                format!("`{name}` is {}, which is not a number from {least} to {most}", brief(value)),
                HINT,
            )),
        }
    }

    fn need(&self, names: &[&str], most: u64) -> Result<u64, Unknown> {
        self.number(names, 1, most)?.ok_or_else(|| Unknown::new(format!("`{}` is missing", names[0]), HINT))
    }

    pub(super) fn flag(&self, names: &[&str]) -> Option<bool> {
        self.raw(names).and_then(|(_, value)| value.as_bool())
    }

    /// Whether a key holds a positive number; `None` if it does not exist or holds null.
    pub(super) fn positive(&self, name: &str) -> Option<bool> {
        self.raw(&[name]).map(|(_, value)| value.as_f64().is_some_and(|n| n > 0.0))
    }

    pub(super) fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.0.get(*name).and_then(Value::as_str))
    }
}

/// A value, short enough for a message.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(40).collect(),
    }
}

impl Architecture {
    /// The shape in a `config.json`. A multimodal config is read through its `text_config` (or `llm_config`).
    pub fn from_config(config: &Value) -> Result<Self, Unknown> {
        if !config.is_object() {
            return Err(Unknown::new("config.json is not an object", HINT));
        }
        let nested = ["text_config", "llm_config", "language_config"]
            .iter()
            .find_map(|name| config.get(*name).filter(|v| v.is_object()));
        let outer = Keys(config);
        let keys = Keys(nested.unwrap_or(config));
        let model_type = keys
            .text(&["model_type"])
            .or_else(|| outer.text(&["model_type"]))
            .ok_or_else(|| Unknown::new("`model_type` is missing", HINT))?
            .chars()
            .take(64)
            .collect::<String>();
        let hidden = keys.need(&["hidden_size", "n_embd", "d_model", "dim"], MAX_WIDTH)?;
        let layers = keys.need(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"], MAX_LAYERS)?;
        let heads = keys.need(&["num_attention_heads", "n_head", "n_heads"], MAX_WIDTH)?;
        let mla = mla(&keys)?;
        let head_dim = head_dim(&keys, hidden, heads, mla.as_ref())?;
        let vocab = keys
            .number(&["vocab_size", "padded_vocab_size"], 1, MAX_VOCAB)?
            .map_or_else(|| outer.need(&["vocab_size"], MAX_VOCAB), Ok)?;
        let intermediate = intermediate(&keys, &model_type, hidden)?;
        let tied = keys
            .flag(&["tie_word_embeddings"])
            .or_else(|| outer.flag(&["tie_word_embeddings"]))
            .unwrap_or_else(|| tied_by_default(&model_type));
        let linear = linear(&keys, layers)?;
        Ok(Self {
            class: class(config),
            embedding_width: keys.number(&["word_embed_proj_dim"], 1, MAX_WIDTH)?.unwrap_or(hidden),
            kv_heads: kv_heads(&keys, &model_type, heads)?,
            moe: moe(&keys, layers, intermediate)?,
            sliding: sliding(&keys, layers, linear.as_ref())?,
            max_position: keys.number(&POSITIONS, 1, MAX_CONTEXT)?,
            dtype: keys
                .text(&["torch_dtype", "dtype"])
                .or_else(|| outer.text(&["torch_dtype", "dtype"]))
                .map(|s| s.chars().take(32).collect()),
            quantized: config
                .get("quantization_config")
                .or_else(|| config.get("compression_config"))
                .or_else(|| keys.0.get("quantization_config"))
                .and_then(Quantization::from_config),
            multimodal: nested.is_some(),
            source: Source::ConfigJson,
            structure: structure(&model_type, &keys)?,
            tied_embeddings: tied,
            model_type,
            hidden,
            layers,
            heads,
            head_dim,
            vocab,
            intermediate,
            mla,
            linear,
        })
    }
}

fn class(config: &Value) -> Option<String> {
    let first = config.get("architectures")?.get(0)?.as_str()?;
    Some(first.chars().take(80).collect())
}

/// These classes tie the head to the embedding unless the config says otherwise.
fn tied_by_default(model_type: &str) -> bool {
    matches!(
        model_type,
        "gpt2"
            | "opt"
            | "gpt_bigcode"
            | "falcon"
            | "mpt"
            | "bloom"
            | "gemma"
            | "gemma2"
            | "gemma3_text"
            | "gemma3"
    ) || model_type == "starcoder2"
}

fn mla(keys: &Keys<'_>) -> Result<Option<Mla>, Unknown> {
    let Some(kv_lora_rank) = keys.number(&["kv_lora_rank"], 1, MAX_WIDTH)? else { return Ok(None) };
    Ok(Some(Mla {
        kv_lora_rank,
        qk_rope_head_dim: keys.need(&["qk_rope_head_dim"], MAX_WIDTH)?,
        qk_nope_head_dim: keys.need(&["qk_nope_head_dim"], MAX_WIDTH)?,
        v_head_dim: keys.need(&["v_head_dim"], MAX_WIDTH)?,
        q_lora_rank: keys.number(&["q_lora_rank"], 1, MAX_WIDTH)?,
    }))
}

/// `hidden / heads` only where no key says more and the division leaves no rest.
fn head_dim(keys: &Keys<'_>, hidden: u64, heads: u64, mla: Option<&Mla>) -> Result<u64, Unknown> {
    if let Some(mla) = mla {
        return Ok(mla.qk_nope_head_dim.saturating_add(mla.qk_rope_head_dim));
    }
    if let Some(dim) = keys.number(&["head_dim", "attention_head_dim", "kv_channels"], 1, MAX_WIDTH)? {
        return Ok(dim);
    }
    if hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(Unknown::new(
        format!("`head_dim` is missing, and a hidden size of {hidden} cannot be split into {heads} heads"),
        HINT,
    ))
}

fn kv_heads(keys: &Keys<'_>, model_type: &str, heads: u64) -> Result<u64, Unknown> {
    let new_falcon = keys.flag(&["new_decoder_architecture"]).unwrap_or(false);
    // Falcon's multi-query models carry `num_kv_heads` as well, but do not obey it.
    let multi_query = keys.flag(&["multi_query"]).unwrap_or(matches!(model_type, "falcon" | "gpt_bigcode"));
    if multi_query && !new_falcon {
        if let Some(groups) = keys.number(&["multi_query_group_num"], 1, MAX_WIDTH)? {
            return Ok(groups);
        }
        return Ok(1);
    }
    if let Some(attention) = keys.0.get("attn_config").filter(|v| v.is_object())
        && let Some(n) = Keys(attention).number(&["kv_n_heads"], 1, MAX_WIDTH)?
    {
        return Ok(n);
    }
    let n = keys.number(&["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"], 1, MAX_WIDTH)?;
    match n {
        Some(n) if n > heads => Err(Unknown::new(
            format!("`num_key_value_heads` is {n}, more than the {heads} attention heads"),
            HINT,
        )),
        Some(n) => Ok(n),
        None => Ok(heads),
    }
}

fn intermediate(keys: &Keys<'_>, model_type: &str, hidden: u64) -> Result<u64, Unknown> {
    let names = [
        "intermediate_size",
        "ffn_dim",
        "n_inner",
        "ffn_hidden_size",
        "ffn_hidden_dim",
        "d_ff",
        "hidden_dim",
    ];
    if let Some(n) = keys.number(&names, 1, MAX_WIDTH)? {
        return Ok(n);
    }
    if let Some(ratio) = keys.number(&["expansion_ratio", "mlp_ratio"], 1, 64)? {
        return Ok(hidden * ratio);
    }
    if matches!(model_type, "gpt2" | "gpt_bigcode" | "falcon" | "mpt" | "bloom" | "gptj" | "gpt_neo") {
        return Ok(4 * hidden);
    }
    if let Some(n) = keys.number(&["moe_intermediate_size"], 1, MAX_WIDTH)? {
        return Ok(n);
    }
    Err(Unknown::new("`intermediate_size` is missing", HINT))
}

fn moe(keys: &Keys<'_>, layers: u64, intermediate: u64) -> Result<Option<Moe>, Unknown> {
    let names = ["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"];
    let Some(experts) = keys.number(&names, 0, MAX_EXPERTS)?.filter(|n| *n > 1) else { return Ok(None) };
    let width = keys.number(&["moe_intermediate_size", "expert_ffn_hidden_size"], 1, MAX_WIDTH)?;
    let width = width.unwrap_or(intermediate);
    let shared = match keys.number(
        &["shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"],
        0,
        MAX_WIDTH,
    )? {
        Some(n) => n,
        None => keys.number(&["n_shared_experts", "num_shared_experts"], 0, 1024)?.unwrap_or(0) * width,
    };
    let mut dense = keys.number(&["first_k_dense_replace"], 0, layers)?.unwrap_or(0);
    if let Some(list) = keys.0.get("mlp_only_layers").and_then(Value::as_array) {
        dense = dense.max(list.len() as u64).min(layers);
    }
    if let Some(step) = keys.number(&["decoder_sparse_step"], 1, MAX_LAYERS)?.filter(|n| *n > 1) {
        dense = dense.max(layers - layers / step);
    }
    let per_token =
        keys.number(&["num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k"], 1, experts)?;
    Ok(Some(Moe {
        experts,
        experts_per_token: per_token.ok_or_else(|| Unknown::new("`num_experts_per_tok` is missing", HINT))?,
        intermediate: width,
        shared_intermediate: shared,
        dense_layers: dense,
    }))
}

fn count_layers(keys: &Keys<'_>, word: &str, layers: u64) -> Option<u64> {
    let list = keys.0.get("layer_types")?.as_array()?;
    (list.len() as u64 == layers).then(|| list.iter().filter(|v| v.as_str() == Some(word)).count() as u64)
}

fn sliding(keys: &Keys<'_>, layers: u64, linear: Option<&Linear>) -> Result<Option<Sliding>, Unknown> {
    let window = keys.number(&["sliding_window", "sliding_window_size"], 1, MAX_CONTEXT)?;
    let Some(window) = window.filter(|_| keys.flag(&["use_sliding_window"]) != Some(false)) else {
        return Ok(None);
    };
    let attention = layers - linear.map_or(0, |l| l.layers.min(layers));
    let with_window = if let Some(n) = count_layers(keys, "sliding_attention", layers) {
        n
    } else if let Some(pattern) =
        keys.number(&["sliding_window_pattern", "_sliding_window_pattern"], 1, MAX_LAYERS)?
    {
        layers - layers / pattern
    } else {
        match keys.text(&["model_type"]) {
            Some("gemma2" | "gpt_oss") => layers - layers / 2,
            Some("gemma3_text") => layers - layers / 6,
            Some("qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe") => 0,
            _ => attention,
        }
    };
    Ok((with_window > 0).then_some(Sliding { window, layers: with_window.min(attention) }))
}

fn linear(keys: &Keys<'_>, layers: u64) -> Result<Option<Linear>, Unknown> {
    let Some(value_heads) = keys.number(&["linear_num_value_heads"], 1, MAX_WIDTH)? else { return Ok(None) };
    let of_type = count_layers(keys, "linear_attention", layers);
    let every = keys.number(&["full_attention_interval"], 1, MAX_LAYERS)?.unwrap_or(4);
    Ok(Some(Linear {
        layers: of_type.unwrap_or(layers - layers / every),
        key_heads: keys.need(&["linear_num_key_heads"], MAX_WIDTH)?,
        key_head_dim: keys.need(&["linear_key_head_dim"], MAX_WIDTH)?,
        value_heads,
        value_head_dim: keys.need(&["linear_value_head_dim"], MAX_WIDTH)?,
        conv_kernel: keys.number(&["linear_conv_kernel_dim"], 1, 64)?.unwrap_or(4),
    }))
}
