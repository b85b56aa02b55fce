//! Repos that contradict themselves: the answer is "unknown" with the reason, in little time and memory, never a number.

use serde_json::json;
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
