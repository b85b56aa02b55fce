//! The small text files around the weights.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Gpt2;
use super::safetensors::Tensor;

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON prints");
    text.push('\n');
    text
}

/// `config.json` of a GPT-2.
pub fn gpt2_config(shape: Gpt2) -> String {
    pretty(&json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": 4,
        "n_positions": shape.n_ctx,
        "n_ctx": shape.n_ctx,
        "vocab_size": shape.vocab,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }))
}

/// `tokenizer.json` with that many words, split at white space.
pub fn tokenizer(vocab: u64) -> String {
    let words = (1..vocab).map(|index| (format!("w{index}"), json!(index)));
    let words: Map<String, Value> = [("[UNK]".to_owned(), json!(0))].into_iter().chain(words).collect();
    pretty(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "[UNK]" },
    }))
}

/// `model.safetensors.index.json` over these shards.
pub fn shard_index(shards: &[&[Tensor]], name: impl Fn(usize) -> String) -> String {
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name(index))));
    }
    let total: u64 = shards.iter().flat_map(|shard| shard.iter()).map(Tensor::bytes).sum();
    pretty(&json!({ "metadata": { "total_size": total }, "weight_map": map }))
}

/// A model card.
pub fn readme(id: &str) -> String {
    format!(
        "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {id}\n\nRandom weights for tests.\n"
    )
}

/// `.gitattributes` as the hub creates it, shortened.
pub fn gitattributes() -> String {
    let line = |suffix: &str| format!("*.{suffix} filter=lfs diff=lfs merge=lfs -text\n");
    ["bin", "h5", "safetensors", "msgpack", "onnx", "gguf", "pt"].map(line).concat()
}
