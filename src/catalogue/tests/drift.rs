//! Where a repo differs from its entry.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::*;
use super::model;

#[test]
fn drift_names_what_differs_and_nothing_else() {
    // What the repo really says: class defaults left out, other words for the same thing.
    let gpt2 = model("gpt2");
    let repo = json!({
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_inner": null,
        "vocab_size": 50257
    });
    let facts = RepoFacts {
        config: Some(&repo),
        parameters: Some(137_022_720),
        licence: Some("MIT"),
        gated: Some(Gated::No),
    };
    assert_eq!(gpt2.drift(&facts), []);
    assert_eq!(gpt2.drift(&RepoFacts { parameters: Some(124_439_808), ..facts }), []);
    let drift = gpt2.drift(&RepoFacts {
        parameters: Some(355_000_000),
        licence: Some("other"),
        gated: Some(Gated::Manual),
        ..facts
    });
    let keys: Vec<&str> = drift.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["parameters", "licence", "gated"]);
    assert_eq!(drift[2].repo, json!("manual"));

    let mistral = model("mistral-7b");
    let mut repo = mistral.config.clone().expect("a config");
    assert_eq!(config_drift(mistral.config.as_ref().expect("a config"), &repo), []);
    repo["dtype"] = json!("torch.bfloat16");
    repo.as_object_mut().expect("an object").remove("torch_dtype");
    repo["sliding_window"] = Value::Null;
    repo["num_key_value_heads"] = json!(32);
    repo["quantization_config"] = json!({ "quant_method": "awq" });
    let drift =
        mistral.drift(&RepoFacts { config: Some(&repo), parameters: Some(1), ..RepoFacts::default() });
    let keys: HashSet<&str> = drift.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, HashSet::from(["sliding_window", "num_key_value_heads", "quantization_config"]));
    assert_eq!(drift.len(), 3, "packed elements are not parameters: {drift:?}");
}

#[test]
fn drift_reads_multimodal_and_quantised_configs() {
    let gemma = model("gemma-3-4b-it");
    let real = json!({
        "model_type": "gemma3", "torch_dtype": "bfloat16",
        "text_config": { "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "sliding_window": 1024 }
    });
    let flat = json!({ "model_type": "gemma3_text", "hidden_size": 2560, "num_attention_heads": 8, "torch_dtype": "bfloat16" });
    let other = json!({ "model_type": "gemma3", "text_config": { "model_type": "gemma3_text", "hidden_size": 3840 } });
    let drift = |repo: &Value| gemma.drift(&RepoFacts { config: Some(repo), ..RepoFacts::default() });
    assert_eq!(drift(&real), []);
    assert_eq!(drift(&flat), []);
    assert_eq!(drift(&other).iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["hidden_size"]);

    let oss = model("gpt-oss-20b");
    let mut repo = oss.config.clone().expect("a config");
    repo["quantization_config"] =
        json!({ "quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*"] });
    let drift = |repo: &Value| oss.drift(&RepoFacts { config: Some(repo), ..RepoFacts::default() });
    assert_eq!(drift(&repo), []);
    repo.as_object_mut().expect("an object").remove("quantization_config");
    assert_eq!(drift(&repo)[0].key, "quantization_config");
    // No shape at all, and one that is no object.
    assert_eq!(drift(&json!({})).iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["quantization_config"]);
    assert_eq!(drift(&Value::Null).len(), 1);
}
