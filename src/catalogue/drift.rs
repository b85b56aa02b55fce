//! Where a repo differs from its entry in the registry. The repo is right; the difference is reported.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::{Gated, Model};

/// Share by which parameter counts may differ.
const TOLERANCE: f64 = 0.02;
/// Characters of a value that is reported.
const LONGEST: usize = 200;
/// Tables within tables that are compared.
const MAX_DEPTH: usize = 8;

/// Words that configs have for the same thing; the first is the one that is reported.
const SAME: &[&[&str]] = &[
    &["hidden_size", "n_embd", "d_model"],
    &["num_hidden_layers", "n_layer", "n_layers", "num_layers"],
    &["num_attention_heads", "n_head", "n_heads"],
    &["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"],
    &["head_dim", "attention_head_dim", "kv_channels"],
    &["intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"],
    &["vocab_size", "padded_vocab_size"],
    &["max_position_embeddings", "n_positions", "max_seq_len", "seq_length"],
    &["num_local_experts", "num_experts", "n_routed_experts"],
    &["num_experts_per_tok", "experts_per_token"],
    &["torch_dtype", "dtype"],
];

/// Model classes that tie the head to the embedding unless the config says otherwise.
const TIED: &[&str] = &[
    "gpt2",
    "opt",
    "gpt_bigcode",
    "falcon",
    "mpt",
    "bloom",
    "starcoder2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
];

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// The key, in the words of `config.json`, or `parameters`, `licence`, `gated`.
    pub key: String,
    /// What the registry says.
    pub registry: Value,
    /// What the repo says; `null` where it says nothing.
    pub repo: Value,
}

/// What has been read from a repo; `None` is not compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepoFacts<'a> {
    /// Its `config.json`.
    pub config: Option<&'a Value>,
    /// Elements of all tensors in its weight files.
    pub parameters: Option<u64>,
    /// The hub's id of its licence, or the licence's name.
    pub licence: Option<&'a str>,
    /// Whether it asks for its terms to be accepted.
    pub gated: Option<Gated>,
}

impl Model {
    /// Where the repo differs from this entry. What either side does not say is not compared.
    ///
    /// Parameters may differ by 2 %, and may also equal those that the entry knows the files to hold. Those of quantised
    /// files are not compared, since a packed element is not a parameter.
    pub fn drift(&self, repo: &RepoFacts<'_>) -> Vec<Drift> {
        let mut all = match (&self.config, repo.config) {
            (Some(registry), Some(repo)) => config_drift(registry, repo),
            _ => Vec::new(),
        };
        let packed = [self.config.as_ref(), repo.config].iter().flatten().any(|c| quantization(c).is_some());
        if let (Some(parameters), Some(found), false) = (self.parameters, repo.parameters, packed)
            && ![Some(parameters), self.files.parameters].iter().flatten().any(|known| close(*known, found))
        {
            all.push(Drift { key: "parameters".to_owned(), registry: parameters.into(), repo: found.into() });
        }
        if let (Some(licence), Some(found)) = (&self.access.licence, repo.licence)
            && ![Some(licence), self.access.licence_name.as_ref()]
                .iter()
                .flatten()
                .any(|known| known.eq_ignore_ascii_case(found.trim()))
        {
            let registry = self.access.licence_name.as_ref().unwrap_or(licence).clone();
            let repo = brief(&Value::from(found));
            all.push(Drift { key: "licence".to_owned(), registry: registry.into(), repo });
        }
        if let (Some(gated), Some(found)) = (self.access.gated, repo.gated)
            && gated != found
        {
            all.push(Drift { key: "gated".to_owned(), registry: word(gated), repo: word(found) });
        }
        all
    }
}

/// Where a repo's `config.json` differs from the config of a registry entry, among the keys that the registry names.
///
/// Multimodal configs are compared by their text part, and keys by what they mean (`n_embd` is `hidden_size`, `dtype` is
/// `torch_dtype`). A key that the repo leaves out has the value that its class gives it where that is known, and is not
/// compared otherwise. A repo that is quantised while the registry does not say so differs, and the other way round.
///
/// ```
/// use larder::catalogue::config_drift;
/// use serde_json::json;
///
/// let registry = json!({ "model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 32 });
/// let same = json!({ "model_type": "llama", "num_attention_heads": 32 });
/// assert!(config_drift(&registry, &same).is_empty());
///
/// let other = json!({ "model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8 });
/// assert_eq!(config_drift(&registry, &other)[0].key, "num_key_value_heads");
/// ```
pub fn config_drift(registry: &Value, repo: &Value) -> Vec<Drift> {
    let mut all = Vec::new();
    let (ours, theirs) = (text_part(registry), text_part(repo));
    let keys = ours.as_object().into_iter().flat_map(|map| map.iter());
    // What stands beside the text part holds for it as well.
    let outer =
        registry.as_object().filter(|_| !std::ptr::eq(ours, registry)).into_iter().flat_map(|map| map.iter());
    let outer = outer.filter(|(key, _)| ours.get(key.as_str()).is_none() && !PARTS.contains(&key.as_str()));
    for (key, value) in keys.chain(outer) {
        let names = SAME.iter().find(|names| names.contains(&key.as_str()));
        let names = names.map_or_else(|| vec![key.as_str()], |names| names.to_vec());
        // `null` means "as usual", except for a window, where it means that there is none.
        let told = |part: &Value, name: &str| {
            part.get(name).filter(|value| !value.is_null() || name == "sliding_window").cloned()
        };
        let found =
            [theirs, repo].into_iter().find_map(|part| names.iter().find_map(|name| told(part, name)));
        let found = match found.or_else(|| by_default(names[0], theirs, repo)) {
            Some(found) => found,
            None if key == "quantization_config" => Value::Null,
            None => continue,
        };
        if !same(names[0], value, &found, 0) {
            all.push(Drift { key: names[0].to_owned(), registry: brief(value), repo: brief(&found) });
        }
    }
    if quantization(registry).is_none()
        && let Some(found) = quantization(repo)
    {
        all.push(Drift { key: "quantization_config".to_owned(), registry: Value::Null, repo: brief(found) });
    }
    all
}

/// Where multimodal configs keep their text part.
const PARTS: &[&str] = &["text_config", "llm_config", "language_config"];

/// The part of a config that describes the text model.
pub(super) fn text_part(config: &Value) -> &Value {
    PARTS.iter().find_map(|part| config.get(*part).filter(|v| v.is_object())).unwrap_or(config)
}

fn quantization(config: &Value) -> Option<&Value> {
    [config, text_part(config)]
        .into_iter()
        .find_map(|part| part.get("quantization_config").filter(|v| v.is_object()))
}

/// What the class supplies for a key that the config leaves out, where that is certain.
fn by_default(key: &str, part: &Value, whole: &Value) -> Option<Value> {
    let read = |names: &[&str]| names.iter().find_map(|name| part.get(*name)).and_then(Value::as_u64);
    let kind = part.get("model_type").or_else(|| whole.get("model_type")).and_then(Value::as_str)?;
    let heads = || read(&["num_attention_heads", "n_head", "n_heads"]).filter(|heads| *heads > 0);
    let hidden = || read(&["hidden_size", "n_embd", "d_model"]);
    match key {
        "tie_word_embeddings" => Some(TIED.contains(&kind).into()),
        "num_key_value_heads" if matches!(kind, "llama" | "phi" | "phi3") => heads().map(Value::from),
        "head_dim" if !kind.starts_with("gemma") && !kind.starts_with("qwen3") && kind != "gpt_oss" => {
            let (hidden, heads) = (hidden()?, heads()?);
            hidden.is_multiple_of(heads).then(|| (hidden / heads).into())
        }
        "intermediate_size" if kind == "gpt2" => {
            hidden().and_then(|hidden| hidden.checked_mul(4)).map(Value::from)
        }
        _ => None,
    }
}

fn same(key: &str, registry: &Value, repo: &Value, depth: usize) -> bool {
    match (registry, repo) {
        (Value::String(a), Value::String(b)) if key == "torch_dtype" => dtype(a) == dtype(b),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        // Only what the registry names.
        (Value::Object(a), Value::Object(b)) if depth < MAX_DEPTH => {
            a.iter().all(|(key, value)| b.get(key).is_some_and(|found| same(key, value, found, depth + 1)))
        }
        _ => registry == repo,
    }
}

/// The usual word for a dtype.
fn dtype(word: &str) -> String {
    let word = word.trim().to_ascii_lowercase();
    match word.strip_prefix("torch.").unwrap_or(&word) {
        "half" | "fp16" => "float16".to_owned(),
        "bf16" => "bfloat16".to_owned(),
        "float" | "fp32" => "float32".to_owned(),
        other => other.to_owned(),
    }
}

fn close(known: u64, found: u64) -> bool {
    known.abs_diff(found) as f64 <= known as f64 * TOLERANCE
}

fn word(gated: Gated) -> Value {
    serde_json::to_value(gated).unwrap_or(Value::Null)
}

/// A value of bounded size.
fn brief(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) => text.chars().take(LONGEST).collect::<String>().into(),
        Value::Array(_) | Value::Object(_) => {
            value.to_string().chars().take(LONGEST).collect::<String>().into()
        }
    }
}
