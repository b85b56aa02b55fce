//! Published variants: found on the hub, checked, shown with the reason, and staged only where a download allows it.

use serde_json::{Value, json};
use support::gguf::{Entry, F16, Gguf, Q4_K, Q6_K, Q8_0};
use support::models::Gpt2;
use support::repos::{Quant, Repo, Row, quantised, tensors};
use support::{Content, Hub, Larder, Model};

use super::row;

const BASE: &str = "Qwen/Qwen2.5-7B-Instruct";
const TAG: &str = "base_model:quantized:Qwen/Qwen2.5-7B-Instruct";

/// A quantization of `row`, as somebody publishes it.
fn published(row: &Row, id: &str, quant: Quant, method: &Value) -> Model {
    let base = Repo::from_row(row);
    let mut config = base.config.clone();
    config["quantization_config"] = method.clone();
    Repo::from_tensors(id, config, &quantised(&tensors(row), quant)).model()
}

/// GGUF files of the model in several quantizations.
fn ggufs(row: &Row, id: &str) -> Model {
    let base = Repo::from_row(row);
    let number = |key: &str| base.config[key].as_u64().expect("a number") as u32;
    let mut model = Model::new(id).tags(&["gguf", TAG, "license:apache-2.0"]).downloads(500);
    for (word, kind) in [("Q4_K_M", Q4_K), ("Q6_K", Q6_K), ("Q8_0", Q8_0), ("F16", F16)] {
        let mut file = Gguf::new("qwen2")
            .with("qwen2.embedding_length", Entry::U32(number("hidden_size")))
            .with("qwen2.block_count", Entry::U32(number("num_hidden_layers")))
            .with("qwen2.feed_forward_length", Entry::U32(number("intermediate_size")))
            .with("qwen2.attention.head_count", Entry::U32(number("num_attention_heads")))
            .with("qwen2.attention.head_count_kv", Entry::U32(number("num_key_value_heads")))
            .with("qwen2.context_length", Entry::U32(32_768))
            .with("qwen2.vocab_size", Entry::U32(number("vocab_size")));
        for tensor in tensors(row) {
            let shape: Vec<u64> = tensor.shape.iter().rev().copied().collect();
            let name = tensor.name.replace("model.embed_tokens", "token_embd").replace("lm_head", "output");
            // Vectors stay in 16 bits.
            file = file.tensor(&name, &shape, if shape.len() > 1 { kind } else { F16 });
        }
        let header = file.header();
        let body = file.size() - header.len() as u64;
        model = model.unread(format!("model-{word}.gguf"), Content::WithHead(header.into(), body, 1));
    }
    model
}

fn hub() -> Hub {
    let hub = Hub::start();
    let row = row(BASE);
    hub.add(Repo::from_row(&row).model().tags(&["license:apache-2.0"]));
    let tags = |licence: &'static str| [TAG, licence];
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128});
    let add = |id: &str, licence: &'static str, downloads: u64| {
        hub.add(published(&row, id, Quant::Awq, &awq).tags(&tags(licence)).downloads(downloads));
    };
    add("stranger/Qwen2.5-7B-Instruct-AWQ", "license:apache-2.0", 9_000_000);
    add("casperhansen/qwen2.5-7b-awq", "license:cc-by-nc-4.0", 9_000);
    add("Qwen/Qwen2.5-7B-Instruct-AWQ", "license:apache-2.0", 800);
    // Of another model, whatever its card says.
    let other = super::row("Qwen/Qwen2.5-1.5B-Instruct");
    let fp8 = json!({"quant_method": "fp8"});
    let wrong = published(&other, "RedHatAI/Qwen2.5-7B-Instruct-FP8", Quant::Fp8, &fp8);
    hub.add(wrong.tags(&tags("license:apache-2.0")).downloads(700));
    hub.add(ggufs(&row, "bartowski/Qwen2.5-7B-Instruct-GGUF"));
    hub
}

fn variant<'a>(fit: &'a Value, word: &str) -> &'a Value {
    let all = fit["variants"].as_array().expect("a table").iter();
    all.clone().find(|one| one["variant"] == word).unwrap_or_else(|| panic!("{word} is in {fit}"))
}

#[test]
fn the_table_has_what_is_published_and_says_why_the_rest_is_not_taken() {
    let hub = hub();
    let larder = support::larder!(&hub);
    let ask = |args: &[&str]| {
        let all = [&["fit", BASE, "--context", "2048", "--json"], args].concat();
        larder.run(&all).json()
    };
    let fit = ask(&["--gpu", "RTX 3060 12GB"]);
    assert_eq!(fit["verdict"], "no", "16 bits need more than 12 GiB: {fit}");
    assert_eq!(variant(&fit, "16bit")["repo"], BASE);
    let awq = variant(&fit, "awq");
    assert_eq!(
        (awq["repo"].as_str(), awq["verdict"].as_str()),
        (Some("Qwen/Qwen2.5-7B-Instruct-AWQ"), Some("fits"))
    );
    assert_eq!(awq["recommended"], true, "{fit}");
    assert!(awq["download_bytes"].as_u64() < variant(&fit, "16bit")["download_bytes"].as_u64());
    for word in ["gguf:Q4_K_M", "gguf:Q6_K", "gguf:Q8_0"] {
        assert_eq!(variant(&fit, word)["engine"], "llama.cpp");
    }
    assert!(
        variant(&fit, "gguf:Q4_K_M")["vram_bytes"].as_u64()
            < variant(&fit, "gguf:Q8_0")["vram_bytes"].as_u64()
    );
    assert_eq!(variant(&fit, "nf4")["repo"], BASE, "made while loading, of the files of the model itself");
    let refused = variant(&fit, "fp8")["why_not"].as_str().expect("told");
    assert!(refused.contains("another shape"), "{refused}");
    let notes = fit["notes"].to_string();
    assert!(notes.contains("models.publishers"), "{notes}");
    assert!(!fit.to_string().contains("stranger/"), "{fit}");
    // What a better card can do.
    let large = ask(&["--gpu", "H100"]);
    assert_eq!(
        (large["verdict"].as_str(), &variant(&large, "16bit")["recommended"]),
        (Some("fits"), &json!(true))
    );
    let old = ask(&["--gpu", "V100"]);
    assert!(variant(&old, "awq")["why_not"].as_str().is_some_and(|why| why.contains("7.5")), "{old}");
    // A policy is an order of its own.
    let listed = ask(&["--gpu", "H100", "--variant", "gguf:Q6_K,int4"]);
    assert_eq!(variant(&listed, "gguf:Q6_K")["recommended"], true, "{listed}");
    let local = ask(&["--gpu", "H100", "--local"]);
    assert_eq!(
        local["variants"].as_array().map(Vec::len),
        Some(3),
        "itself and two that loading makes: {local}"
    );
    let human = larder.run(&["fit", BASE, "--gpu", "RTX 3060 12GB", "--context", "2048"]).expect_code(1);
    assert!(human.stdout.contains("fits *") && human.stdout.contains("VARIANT"), "{}", human.stdout);
}

/// A model of some kilobytes, and a true GGUF of it.
fn tiny(hub: &Hub) {
    let shape = Gpt2::of(30_000);
    hub.add(support::models::tiny_gpt2(1, 30_000));
    let mut file = Gguf::new("gpt2")
        .with("gpt2.embedding_length", Entry::U32(shape.n_embd as u32))
        .with("gpt2.block_count", Entry::U32(shape.n_layer as u32))
        .with("gpt2.feed_forward_length", Entry::U32(4 * shape.n_embd as u32))
        .with("gpt2.attention.head_count", Entry::U32(heads(hub)))
        .with("gpt2.context_length", Entry::U32(shape.n_ctx as u32))
        .with("gpt2.vocab_size", Entry::U32(shape.vocab as u32));
    for tensor in shape.tensors() {
        let dimensions: Vec<u64> = tensor.shape.iter().rev().copied().collect();
        file = file.tensor(&tensor.name, &dimensions, F16);
    }
    let header = file.header();
    let body = file.size() - header.len() as u64;
    let tags = ["gguf", "base_model:quantized:test/tiny-gpt2-1"];
    let model = Model::new("test/tiny-gpt2-1-GGUF").tags(&tags);
    hub.add(model.lfs("tiny-F16.gguf", Content::WithHead(header.into(), body, 7)));
}

fn heads(_: &Hub) -> u32 {
    let config = support::models::gpt2_config(Gpt2::of(30_000));
    let config: Value = serde_json::from_str(&config).expect("JSON");
    config["n_head"].as_u64().expect("heads") as u32
}

#[test]
fn a_fallback_is_staged_where_it_is_allowed_and_says_so() {
    let hub = Hub::start();
    tiny(&hub);
    let larder = support::larder!(&hub);
    let mut daemon = larder.serve();
    let body = json!({"kind": "download", "repo": "test/tiny-gpt2-1", "variant": ["gguf:F16", "16bit"], "pin": true});
    let id = daemon.post("/v1/jobs", &body).expect(202)["id"].as_str().expect("id").to_owned();
    let job = daemon.wait_job(&id, std::time::Duration::from_secs(30));
    assert_eq!(
        (job["state"].as_str(), job["repo"].as_str()),
        (Some("ready"), Some("test/tiny-gpt2-1")),
        "{job}"
    );
    let chosen = &job["chosen"];
    assert_eq!(
        (chosen["repo"].as_str(), chosen["variant"].as_str(), chosen["is_fallback"].as_bool()),
        (Some("test/tiny-gpt2-1-GGUF"), Some("gguf:F16"), Some(true)),
        "{job}"
    );
    assert!(chosen["why"].as_str().is_some_and(|why| why.contains("nobody can tell what fits")), "{chosen}");
    let model = daemon.get("/v1/models/test/tiny-gpt2-1-GGUF").expect(200);
    assert_eq!(model["models"][0]["pinned"], true, "the pin goes to what is staged: {model}");
    let named = daemon.get("/v1/models/test/tiny-gpt2-1");
    assert_eq!(named.status, 404, "what was named is not staged too: {}", named.text);
    let metrics = super::scraped(&daemon);
    let fallen = r#"larder_variant_fallbacks_total{variant="gguf"} 1"#;
    assert!(metrics.iter().any(|line| line == fallen), "{metrics:#?}");
    daemon.terminate(std::time::Duration::from_secs(10));
    // Without a GPU that is known the model itself is taken, and the reason told.
    let auto = staged(&larder, "auto");
    assert_eq!(
        (auto["chosen"]["is_fallback"].as_bool(), auto["state"].as_str()),
        (Some(false), Some("ready")),
        "{auto}"
    );
    let told = larder.run(&["stage", "test/tiny-gpt2-1", "--variant", "gguf:F16"]).expect_code(0).stderr;
    assert!(told.contains("instead of test/tiny-gpt2-1"), "{told}");
    let none = larder.run(&["stage", "test/tiny-gpt2-1", "--variant", "fp8", "--json"]);
    assert_eq!((none.code, none.json()["reason"].as_str()), (3, Some("not_found")));
}

fn staged(larder: &Larder, variant: &str) -> Value {
    larder.run(&["stage", "test/tiny-gpt2-1", "--variant", variant, "--json"]).expect_code(0).json()
}
