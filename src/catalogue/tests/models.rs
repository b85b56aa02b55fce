//! The models that are compiled in, and how they are found.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::*;
use super::model;

/// Name and category of the entries that must always be there.
const ALWAYS: &[(&str, &str, Category)] = &[
    ("gpt2", "openai-community/gpt2", Category::Tiny),
    ("pythia-410m", "EleutherAI/pythia-410m", Category::Tiny),
    ("opt-350m", "facebook/opt-350m", Category::Tiny),
    ("deepseek-coder-1.3b", "deepseek-ai/deepseek-coder-1.3b-base", Category::Coding),
    ("starcoder2-3b", "bigcode/starcoder2-3b", Category::Coding),
    ("CodeLlama-7b", "codellama/CodeLlama-7b-hf", Category::Coding),
    ("gemma-2b", "google/gemma-2b", Category::General),
    ("phi-2", "microsoft/phi-2", Category::General),
    ("Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", Category::General),
    ("Llama-2-7b", "meta-llama/Llama-2-7b-hf", Category::General),
    ("phi-2-instruct", "microsoft/phi-2", Category::Instruct),
];

#[test]
fn the_entries_that_must_be_there_have_all_their_facts() {
    let (registry, cards) = (Registry::builtin(), Cards::builtin());
    for (name, id, category) in ALWAYS {
        let found = registry.get(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((found.id.as_str(), found.category), (*id, *category), "{name}");
        assert!(!found.batches.is_empty(), "{name}");
        for batch in &found.batches {
            cards.get(&batch.card).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert!(found.probes.hooked_transformer.is_some(), "{name}");
    }
    assert_eq!(registry.categories().iter().map(|(_, n)| n).sum::<usize>(), registry.models().len());
    assert!(registry.models().len() >= ALWAYS.len() + 25);
}

#[test]
fn every_entry_is_complete_and_agrees_with_itself() {
    for model in Registry::builtin().models() {
        let name = &model.name;
        let shape = drift::text_part(model.config.as_ref().unwrap_or_else(|| panic!("{name} has a config")));
        let number = |keys: &[&str]| keys.iter().find_map(|key| shape.get(*key)).and_then(Value::as_u64);
        let layers = number(&["num_hidden_layers", "n_layer"]).unwrap_or_else(|| panic!("{name}"));
        let expected = [layers / 4, layers / 2, layers * 3 / 4, layers - 1].map(|n| n as u32);
        assert_eq!(model.probes.layers, expected, "{name}");
        assert_eq!(number(&["max_position_embeddings", "n_positions"]), model.context, "{name}");
        let config = model.config.as_ref().expect("a config");
        assert_eq!(config.get("torch_dtype").and_then(Value::as_str), model.files.dtype.as_deref(), "{name}");
        assert!(model.parameters.is_some() && model.files.format.is_some(), "{name}");
        assert!(model.access.licence.is_some() && model.access.remote_code.is_some(), "{name}");
        assert!(!model.files.weights.is_empty(), "{name}");
        let ending = if model.pickle_only() { ".bin" } else { ".safetensors" };
        assert!(model.files.weights.iter().all(|glob| glob.ends_with(ending)), "{name}");
        // More elements in the files than parameters, or the field says nothing.
        assert!(model.files.parameters.is_none_or(|n| Some(n) > model.parameters), "{name}");
    }
}

#[test]
fn names_are_unique_over_everything_that_names() {
    let registry = Registry::builtin();
    let mut seen = HashSet::new();
    for model in registry.models() {
        for name in model.names() {
            assert!(seen.insert(name.to_ascii_lowercase()), "{name}");
        }
    }
    // No second half of an id is another entry's name.
    for model in registry.models().iter().filter(|m| m.alias_of.is_none()) {
        assert_eq!(registry.get(model.id.name()).map(|m| &m.id), Some(&model.id), "{}", model.id);
    }
}

#[test]
fn the_exceptions_are_told() {
    let alias = model("phi-2-instruct");
    let real = model("phi-2");
    assert_eq!(alias.alias_of.as_ref(), Some(&real.id));
    assert_eq!((alias.parameters, &alias.config, &alias.files), (real.parameters, &real.config, &real.files));
    assert_eq!(alias.prompt.as_deref(), Some("Instruct: {prompt}\nOutput:"));
    assert_eq!(model("microsoft/phi-2").name, "phi-2", "the id is the real entry's");
    assert_eq!(Registry::builtin().get("microsoft/phi-2-instruct"), None);

    let registry = Registry::builtin();
    let pickles: Vec<&str> =
        registry.models().iter().filter(|m| m.pickle_only()).map(|m| m.name.as_str()).collect();
    assert_eq!(pickles, ["opt-350m", "deepseek-coder-1.3b"]);
    let revisions = model("opt-350m").files.safetensors_in;
    assert_eq!(
        revisions.iter().map(larder_jobs::Revision::as_str).collect::<Vec<_>>(),
        ["refs/pr/24", "refs/pr/33"]
    );
    assert_eq!(model("opt-350m").probes.hooked_transformer, Some(false));
    assert_eq!(model("gpt2").probes.hooked_name.as_deref(), Some("gpt2"));
}

#[test]
fn unknown_is_null_in_json_and_no_byte_figure_stands_there() {
    let json = serde_json::to_value(Registry::builtin()).expect("JSON");
    let mistral = json["models"].as_array().expect("a list").iter().find(|m| m["name"] == "Mistral-7B-v0.1");
    let mistral = mistral.expect("an entry");
    assert_eq!(mistral["access"]["gated"], Value::Null);
    assert_eq!(mistral["alias_of"], Value::Null);
    assert_eq!(mistral["parameters"], 7_241_732_096_u64);
    assert_eq!(mistral["config"]["torch_dtype"], "bfloat16");
    assert!(!json.to_string().contains("bytes"));
}

#[test]
fn a_typo_gets_the_nearest_name() {
    let registry = Registry::builtin();
    for (asked, expected) in [
        ("mistral7b", "Mistral-7B-v0.1"),
        ("gtp2", "gpt2"),
        ("llama2_7b", "Llama-2-7b"),
        ("starcoder-3b", "starcoder2-3b"),
        ("qwen3 8b", "Qwen3-8B"),
    ] {
        let unknown = registry.find(asked).expect_err(asked);
        assert_eq!(unknown.nearest[0], expected, "{asked}: {:?}", unknown.nearest);
        assert!(unknown.nearest.len() <= 3 && unknown.hint().contains(expected), "{}", unknown.hint());
    }
    let nothing = registry.find("zzzz\u{1b}[2J").expect_err("nonsense");
    assert!(nothing.nearest.is_empty() && !nothing.to_string().contains('\u{1b}'), "{nothing}");
}

#[test]
fn categories_are_read_in_any_case() {
    assert_eq!(" Coding".parse(), Ok(Category::Coding));
    let error = "codin".parse::<Category>().expect_err("a typo");
    assert!(error.hint().contains("`coding`"), "{}", error.hint());
    for category in Category::ALL {
        assert_eq!(serde_json::to_value(category).expect("JSON"), json!(category.word()));
    }
}
