//! Repos that contradict themselves: the answer is "unknown" with the reason, in little time and memory, never a number.

use serde_json::{Value, json};
use support::gguf::{Entry, F16, Gguf};
use support::repos::Repo;
use support::{Content, Hub, Model};

use super::row;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512}"#;

/// A safetensors file with that header, and so many bytes behind it.
fn file(header: &str, behind: u64) -> Content {
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    Content::WithHead(head.into(), behind, 1)
}

#[test]
fn headers_that_lie_give_no_number() {
    let hub = Hub::start();
    let one = |offsets: &str| format!(r#"{{"w":{{"dtype":"F32","shape":[4],"data_offsets":{offsets}}}}}"#);
    let twice = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#;
    let huge = Content::WithHead((100_u64 << 20).to_le_bytes().to_vec().into(), 200 << 20, 1);
    let beyond = Content::WithHead((1_u64 << 20).to_le_bytes().to_vec().into(), 100, 1);
    let deep = format!(r#"{{"w":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        ("beyond", file(&one("[0,16]"), 4)),
        ("overlap", file(twice, 24)),
        ("huge", huge),
        ("short", beyond),
        ("deep", file(&deep, 16)),
        ("negative", file(&one("[-4,12]"), 16)),
        ("no-json", file("<html></html>", 16)),
    ];
    for (name, content) in &cases {
        let model = Model::new(format!("liar/{name}")).file("config.json", CONFIG);
        hub.add(model.unread("model.safetensors", content.clone()));
    }
    let larder = support::larder!(&hub);
    let daemon = larder.serve();
    for (name, _) in &cases {
        let body = json!({"repo": format!("liar/{name}"), "vram": "24GiB", "local": true});
        let fit = daemon.post("/v1/fit", &body).expect(200);
        assert_eq!(
            (fit["verdict"].as_str(), fit["total_bytes"].is_null()),
            (Some("unknown"), true),
            "{name}: {fit}"
        );
        assert!(fit["reason"].as_str().is_some_and(|why| why.contains("model.safetensors")), "{name}: {fit}");
        assert_eq!(fit["findings"][0]["severity"], "error", "{name}: {fit}");
    }
    // Nor is one of them planned as if it were known.
    let names: Vec<_> = cases.iter().map(|(name, _)| format!("liar/{name}")).collect();
    let plan = daemon.post("/v1/plan", &json!({"models": names, "vram": "24GiB", "local": true})).expect(200);
    let rows = plan["models"].as_array().expect("rows");
    assert_eq!(rows.len(), cases.len());
    for row in rows {
        assert_eq!((&row["verdict"], &row["batch"]), (&json!("unknown"), &Value::Null), "{row}");
        assert!(row["why"].as_str().is_some_and(|why| why.contains("model.safetensors")), "{row}");
    }
    // A hundred megabytes of header were not fetched to find that out.
    let sent: u64 = hub.requests().iter().map(|request| request.bytes_sent).sum();
    assert!(sent < 8 << 20, "{sent}");
}

#[test]
fn configs_that_cannot_be_give_no_number_and_the_model_can_still_be_staged() {
    let hub = Hub::start();
    let weights = || Repo::from_row(&row("openai-community/gpt2")).files[0].clone();
    for (name, config) in [
        ("zero", CONFIG.replace("\"hidden_size\": 64", "\"hidden_size\": 0")),
        ("negative", CONFIG.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2")),
        ("text", CONFIG.replace("\"vocab_size\": 100", "\"vocab_size\": \"NaN\"")),
        ("list", "[]".to_owned()),
        ("broken", "{".to_owned()),
    ] {
        let file = weights();
        let body = file.size - file.header.len() as u64;
        let content = Content::WithHead(file.header.into(), body, 1);
        hub.add(
            Model::new(format!("odd/{name}"))
                .file("config.json", config)
                .unread("model.safetensors", content),
        );
    }
    hub.add(Model::new("odd/none").lfs("model.safetensors", file("{}", 0)));
    let larder = support::larder!(&hub);
    for name in ["zero", "negative", "text", "list", "broken", "none"] {
        let model = format!("odd/{name}");
        let fit = larder.run(&["fit", &model, "--vram", "24GiB", "--local", "--json"]).expect_code(0).json();
        assert_eq!(
            (fit["verdict"].as_str(), fit["total_bytes"].is_null()),
            (Some("unknown"), true),
            "{name}: {fit}"
        );
        assert_eq!(fit["variants"], json!([]), "{name}");
    }
    larder.run(&["stage", "odd/none"]).expect_code(0);
}

/// A small llama in one file, with one number of its header as `key` says.
fn gguf(key: &str, value: Entry) -> Gguf {
    let sound = [
        ("llama.embedding_length", Entry::U32(64)),
        ("llama.block_count", Entry::U32(2)),
        ("llama.feed_forward_length", Entry::U32(128)),
        ("llama.attention.head_count", Entry::U32(4)),
        ("llama.attention.head_count_kv", Entry::U32(2)),
        ("llama.context_length", Entry::U32(512)),
        ("llama.vocab_size", Entry::U32(100)),
    ];
    let file = sound.into_iter().filter(|(known, _)| *known != key);
    let file = file.fold(Gguf::new("llama"), |file, (known, value)| file.with(known, value));
    let file = if key.is_empty() { file } else { file.with(key, value) };
    file.tensor("token_embd.weight", &[64, 100], F16).tensor("blk.0.attn_q.weight", &[64, 64], F16)
}

/// The header with these bytes in place of others, the last of their kind.
fn patched(file: &Gguf, old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut header = file.header();
    let at = header.windows(old.len()).rposition(|window| window == old).expect("it is there");
    header[at..at + new.len()].copy_from_slice(new);
    header
}

/// Whether the reason names what is wrong with the header, or what the header says that cannot be.
fn is_named(name: &str, fit: &Value) -> bool {
    let word = match name {
        "no-layers" | "negative" => "block_count",
        "nan" => "embedding_length",
        "text" => "head_count",
        _ => "model-F16.gguf",
    };
    fit["reason"].as_str().is_some_and(|why| why.contains(word))
}

#[test]
fn gguf_headers_that_lie_give_no_number() {
    let sound = gguf("", Entry::Bool(true));
    let data = sound.size() - sound.header().len() as u64;
    let counts = |at: usize, count: u64| {
        let mut header = sound.header();
        header[at..at + 8].copy_from_slice(&count.to_le_bytes());
        header
    };
    let of = |key: &str, value: Entry| gguf(key, value).header();
    let (first, second) = (12_800_u64.to_le_bytes(), 64_u64.to_le_bytes());
    let texts = [&8_u32.to_le_bytes()[..], &(1_u64 << 60).to_le_bytes()].concat();
    let deep = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(10_000);
    let name = sound.header().windows(9).position(|window| window == b"blk.0.att").expect("a name");
    let cases: Vec<(&str, Vec<u8>, u64)> = vec![
        ("magic", patched(&sound, b"GGUF", b"GGUX"), data),
        ("version", [b"GGUF\x63\0\0\0", &sound.header()[8..]].concat(), data),
        ("tensors", counts(8, u64::MAX), data),
        ("entries", counts(16, 1 << 40), data),
        ("name", counts(name - 8, 100 << 20), data + (200 << 20)),
        ("texts", of("tokenizer.ggml.tokens", Entry::Raw(9, texts)), data),
        ("deep", of("general.tags", Entry::Raw(9, deep)), data),
        ("type", of("general.tags", Entry::Raw(77, vec![0; 8])), data),
        ("cut", sound.header()[..200].to_vec(), 0),
        ("short", sound.header(), 100),
        ("overlap", patched(&sound, &first, &0_u64.to_le_bytes()), data),
        ("product", patched(&sound, &second, &(u64::MAX / 2).to_le_bytes()), data),
        ("no-layers", of("llama.block_count", Entry::U32(0)), data),
        ("negative", of("llama.block_count", Entry::I32(-2)), data),
        ("nan", of("llama.embedding_length", Entry::F32(f32::NAN)), data),
        ("text", of("llama.attention.head_count", Entry::Text("many".into())), data),
        ("empty", Vec::new(), 3),
    ];
    let hub = Hub::start();
    for (name, header, behind) in &cases {
        let content = Content::WithHead(header.clone().into(), *behind, 1);
        hub.add(Model::new(format!("liar/{name}")).tags(&["gguf"]).unread("model-F16.gguf", content));
    }
    let honest = Content::WithHead(sound.header().into(), data, 1);
    hub.add(Model::new("honest/model").tags(&["gguf"]).unread("model-F16.gguf", honest));
    let larder = support::larder!(&hub).timeout(std::time::Duration::from_secs(30));
    let ask = |model: &str| {
        larder.run(&["fit", model, "--vram", "24GiB", "--local", "--json"]).expect_code(0).json()
    };
    let known = ask("honest/model");
    assert_eq!((known["verdict"].as_str(), known["total_bytes"].is_u64()), (Some("fits"), true), "{known}");
    for (name, ..) in &cases {
        let fit = ask(&format!("liar/{name}"));
        assert_eq!(
            (fit["verdict"].as_str(), fit["total_bytes"].is_null()),
            (Some("unknown"), true),
            "{name}: {fit}"
        );
        assert_eq!((&fit["variants"], &fit["largest_batch"]), (&json!([]), &json!(null)), "{name}: {fit}");
        assert!(is_named(name, &fit), "{name}: {fit}");
    }
    let person = larder.run(&["fit", "liar/short", "--vram", "24GiB", "--local"]).expect_code(0);
    assert!(
        person.stdout.contains("unknown: ") && person.stdout.contains("model-F16.gguf"),
        "{}",
        person.stdout
    );
    let sent: u64 = hub.requests().iter().map(|request| request.bytes_sent).sum();
    assert!(sent < 8 << 20, "{sent}");
}

#[test]
fn a_repo_without_one_of_its_shards_gives_no_number() {
    let hub = Hub::start();
    let repo = Repo::from_row(&row("Qwen/Qwen2.5-7B-Instruct"));
    let shards: Vec<_> = repo.files.iter().map(|file| file.path.clone()).collect();
    assert!(shards.len() > 1, "{shards:?}");
    hub.add(repo.model());
    hub.add(repo.model().named("liar/part").without(&shards[1]));
    // The index of one format says nothing of another that lies beside it.
    let file = gguf("", Entry::Bool(true));
    let body = file.size() - file.header().len() as u64;
    let content = Content::WithHead(file.header().into(), body, 1);
    hub.add(repo.model().named("honest/both").unread("model-F16.gguf", content));
    let larder = support::larder!(&hub);
    let ask = |model: &str, more: &[&str]| {
        let args = ["fit", model, "--vram", "80GiB", "--local", "--json"];
        larder.run(&[&args[..], more].concat()).expect_code(0).json()
    };
    assert_eq!(ask("Qwen/Qwen2.5-7B-Instruct", &[])["verdict"], "fits");
    let part = ask("liar/part", &[]);
    assert_eq!((part["verdict"].as_str(), part["total_bytes"].is_null()), (Some("unknown"), true), "{part}");
    assert!(part["reason"].as_str().is_some_and(|why| why.contains(&*shards[1])), "{part}");
    assert_eq!((&part["parameters"], &part["variants"]), (&json!(null), &json!([])), "{part}");
    assert_eq!(part["findings"][0]["severity"], "error", "{part}");
    let plan = larder.run(&["plan", "liar/part", "test/none", "--vram", "80GiB", "--local", "--json"]);
    let plan = plan.expect_code(0).json();
    let row = &plan["models"][0];
    assert_eq!((&row["verdict"], &row["batch"]), (&json!("unknown"), &json!(null)), "{plan}");
    assert!(row["why"].as_str().is_some_and(|why| why.contains(&*shards[1])), "{plan}");
    let both = ask("honest/both", &["--format", "gguf"]);
    assert_eq!((both["verdict"].as_str(), &both["findings"]), (Some("fits"), &json!([])), "{both}");
}
