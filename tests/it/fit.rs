//! Will it fit: models with true configs and headers on a hub, asked about from the command line and over HTTP.

mod accuracy;
mod fallback;
mod hardware;
mod ill;
mod lies;
mod odd;
mod overlay;
mod places;
mod plans;
mod profile;
mod rocm;
mod variants;

use serde_json::{Value, json};
use support::repos::{Repo, Row};
use support::{Daemon, Hub, Larder};

/// The table of models, as the tests' hub makes repos of it.
fn table() -> Vec<Row> {
    Row::all(include_str!("../fixtures/fit/models.csv")).expect("a table")
}

pub(crate) fn row(id: &str) -> Row {
    table().into_iter().find(|row| row.hf_id == id).unwrap_or_else(|| panic!("{id} is in the table"))
}

/// The eleven of the registry that have a repo, and others that people stage.
const MODELS: &[&str] = &[
    "openai-community/gpt2",
    "EleutherAI/pythia-410m",
    "facebook/opt-350m",
    "deepseek-ai/deepseek-coder-1.3b-base",
    "bigcode/starcoder2-3b",
    "codellama/CodeLlama-7b-hf",
    "google/gemma-2b",
    "microsoft/phi-2",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-32B-Instruct",
    "Qwen/Qwen2.5-72B-Instruct",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen3-30B-A3B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "google/gemma-2-9b-it",
    "google/gemma-3-4b-it",
    "microsoft/phi-4",
    "microsoft/Phi-3-mini-4k-instruct",
    "deepseek-ai/DeepSeek-V2-Lite",
    "tiiuae/falcon-7b",
];

#[test]
fn models_are_counted_by_their_headers_and_those_of_the_registry_fit_24_gib() {
    let hub = Hub::start();
    for id in MODELS {
        hub.add(with_duplicates(Repo::from_row(&row(id)).model()));
    }
    let larder = support::larder!(&hub);
    let daemon = larder.serve();
    for (n, id) in MODELS.iter().enumerate() {
        let row = row(id);
        let context = row.get("max_position").map_or(2048, |most| most.min(2048));
        let body =
            json!({"repo": id, "gpu": "RTX 4090", "context": context, "local": true, "allow_unsafe": true});
        let fit = daemon.post("/v1/fit", &body).expect(200);
        if row.safetensors {
            let counted = row.get("params_exact").expect("a count");
            assert_eq!(fit["parameters"], json!(counted), "{id}");
            assert_eq!(fit["provenance"]["weights"], "safetensors headers", "{id}");
            if let Some(bytes) = row.get("download_bytes_weights") {
                let all = fit["download_bytes"].as_u64().expect("known");
                assert!(all >= bytes && all < bytes + (64 << 20), "{id}: {all} of {bytes}");
            }
        } else {
            assert_eq!((fit["parameters"].is_null(), fit["verdict"].as_str()), (true, Some("fits")), "{id}");
        }
        // The hub of the tests lets everybody read.
        let drift = fit["drift"].as_array().expect("a list").iter().filter(|one| one["key"] != "gated");
        assert_eq!(drift.count(), 0, "{id}: registry and repo agree: {fit}");
        assert_eq!(fit["findings"], json!([]), "{id}");
        if n < 10 {
            assert_eq!(fit["verdict"], "fits", "{id} in 16 bits at 2k: {fit}");
        }
        let sum: u64 = fit["terms"].as_object().expect("terms").values().filter_map(Value::as_u64).sum();
        assert_eq!(fit["total_bytes"], json!(sum), "{id}: the parts are the whole");
    }
    // No byte of the weights themselves was sent, only headers.
    let sent: u64 = hub.requests().iter().map(|request| request.bytes_sent).sum();
    assert!(sent < 200 << 20, "{sent} bytes for {} models", MODELS.len());
}

/// The same weights once more in every other format that repos carry beside safetensors. A repo without safetensors
/// stays as it is.
fn with_duplicates(model: support::Model) -> support::Model {
    if !model.files().keys().any(|path| path.ends_with(".safetensors")) {
        return model;
    }
    let others = [
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "consolidated.safetensors",
        "coreml/weights.bin",
    ];
    others.into_iter().fold(model, |model, path| model.unread(path, support::Content::pattern(1 << 30, 1)))
}

#[test]
fn the_exceptions_of_the_registry_answer_as_they_are() {
    let hub = Hub::start();
    for id in ["microsoft/phi-2", "facebook/opt-350m", "deepseek-ai/deepseek-coder-1.3b-base"] {
        hub.add(Repo::from_row(&row(id)).model());
    }
    let larder = support::larder!(&hub);
    let alias = larder.run(&["plan", "phi-2-instruct", "--json"]).expect_code(0).json();
    assert_eq!(alias["repo"], "microsoft/phi-2");
    let shown = larder.run(&["models", "phi-2-instruct", "--json"]).expect_code(0).json();
    assert_eq!((shown["alias_of"].as_str(), shown["prompt"].is_string()), (Some("microsoft/phi-2"), true));
    for name in ["opt-350m", "deepseek-coder-1.3b"] {
        let refused = larder.run(&["plan", name, "--json"]).expect_code(4).json();
        assert_eq!(refused["reason"], "unsafe_format", "{name}: {refused}");
        let allowed = larder.run(&["plan", name, "--allow-unsafe", "--json"]).expect_code(0).json();
        assert_eq!(allowed["weights"], "pickle");
    }
    let unknown = larder.run(&["stage", "gtp2"]).expect_code(2);
    assert!(unknown.stderr.contains("gpt2"), "{}", unknown.stderr);
}

#[test]
fn the_registry_speaks_where_the_hub_does_not_and_drift_is_told_where_it_does() {
    let hub = Hub::start();
    let mut repo = Repo::from_row(&row("Qwen/Qwen2.5-0.5B-Instruct"));
    repo.config["max_position_embeddings"] = 131_072.into();
    hub.add(repo.model());
    let larder = support::larder!(&hub);
    let ask = |larder: &Larder| {
        larder.run(&["fit", "Qwen2.5-0.5B-Instruct", "--vram", "8GiB", "--json"]).expect_code(0).json()
    };
    let drifted = ask(&larder);
    assert_eq!(
        drifted["drift"],
        json!([{"key": "max_position_embeddings", "registry": 32_768, "repo": 131_072}])
    );
    let plan = larder.run(&["plan", "Qwen2.5-0.5B-Instruct", "--json"]).expect_code(0).json();
    assert_eq!(plan["fit"]["drift"], drifted["drift"], "the plan of one download reads the headers, too");
    let human = larder.run(&["stage", "Qwen2.5-0.5B-Instruct", "--dry-run"]).expect_code(0).stdout;
    assert!(human.contains("the registry says max_position_embeddings = 32768, the repo 131072"), "{human}");
    // Who may not read a repo's files can still be told what the registry knows, and what fetching them would bring.
    hub.add(Repo::from_row(&row("google/gemma-2b")).model().gated());
    let gated =
        larder.run(&["fit", "gemma-2b", "--vram", "24GiB", "--local", "--json"]).expect_code(0).json();
    assert_eq!(
        (gated["verdict"].as_str(), gated["download_bytes"].is_u64()),
        (Some("fits"), true),
        "{gated}"
    );
    assert_eq!(gated["provenance"]["weights"], "registry", "{gated}");
    hub.down(true);
    let recalled = ask(&larder);
    assert_eq!((recalled["verdict"].as_str(), recalled["commit"].is_null()), (Some("fits"), true));
    assert_eq!(recalled["provenance"]["architecture"], "registry");
    let human = larder.run(&["fit", "Qwen2.5-0.5B-Instruct", "--vram", "8GiB"]).expect_code(0);
    assert!(human.stderr.contains("the registry speaks for the repo"), "{}", human.stderr);
    // Whoever stages it does not get by with that.
    assert_eq!(larder.run(&["stage", "Qwen2.5-0.5B-Instruct"]).code, 75);
}

#[test]
fn what_cannot_be_is_refused_and_what_is_too_long_is_told() {
    let hub = Hub::start();
    hub.add(Repo::from_row(&row("openai-community/gpt2")).model());
    let larder = support::larder!(&hub);
    let card = larder.run(&["fit", "gpt2", "--gpu", "RTX 409"]).expect_code(2);
    assert!(card.stderr.contains("RTX 4090"), "{}", card.stderr);
    for args in [["--context", "0"], ["--batch", "0"], ["--gpus", "0"], ["--vram", "0"], ["--engine", "tgi"]]
    {
        larder.run(&["fit", "gpt2", args[0], args[1]]).expect_code(2);
    }
    let daemon = larder.serve();
    for (key, value) in [
        ("context", json!(0)),
        ("context", json!(-5)),
        ("context", json!(1e300)),
        ("batch", json!("many")),
        ("gpus", json!(1000)),
        ("vram", json!("a lot")),
        ("gpu", json!(7)),
        ("engine", json!("tgi")),
        ("contxt", json!(5)),
        ("variant", json!("int5")),
    ] {
        let mut body = json!({"repo": "gpt2"});
        body[key] = value.clone();
        let problem = daemon.post("/v1/fit", &body).expect(400);
        assert_eq!(problem["reason"], "invalid_request", "{key} = {value}: {problem}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    }
    let long = json!({"repo": "gpt2", "vram": "24GiB", "context": 5000, "local": true});
    let long = daemon.post("/v1/fit", &long).expect(200);
    assert_eq!(
        (long["verdict"].as_str(), long["exceeds_model_context"].as_bool()),
        (Some("no"), Some(true)),
        "{long}"
    );
    assert!(long["reason"].as_str().is_some_and(|why| why.contains("1024")), "{long}");
    for body in [
        json!({"category": "huge"}),
        json!({"models": []}),
        json!({"models": "gpt2"}),
        json!({"models": [7]}),
    ] {
        daemon.post("/v1/plan", &body).expect(400);
    }
}

#[test]
fn the_registry_is_listed_by_category_and_card() {
    let larder = support::larder!(&Hub::start());
    let list = |args: &[&str]| {
        let all = larder.run(&[&["models", "--json"], args].concat()).expect_code(0).json();
        let names = all
            .as_array()
            .expect("a list")
            .iter()
            .map(|model| model["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let (all, coding) = (list(&[]), list(&["--category", "coding"]));
    assert!(
        coding.contains(&"starcoder2-3b".to_owned()) && !coding.contains(&"gpt2".to_owned()),
        "{coding:?}"
    );
    assert!(coding.len() < all.len());
    let fits = list(&["--fits", "RTX 4090"]);
    assert!(fits.contains(&"gpt2".to_owned()) && !fits.contains(&"CodeLlama-34b".to_owned()), "{fits:?}");
    let both = list(&["--category", "coding", "--fits", "RTX 4090"]);
    assert_eq!(both, coding.into_iter().filter(|name| fits.contains(name)).collect::<Vec<_>>());
    for (args, near) in [(["--category", "code"], "`coding`"), (["--fits", "RTX 409"], "RTX 4090")] {
        let refused = larder.run(&[&["models"][..], &args].concat()).expect_code(2);
        assert!(refused.stderr.contains("did you mean") && refused.stderr.contains(near), "{refused:?}");
    }
}

#[test]
fn an_evaluation_is_planned_and_staged() {
    let hub = Hub::start();
    hub.add(support::models::tiny_gpt2(1, 30_000));
    hub.add(support::models::tiny_gpt2(2, 60_000));
    let (small, large) = ("test/tiny-gpt2-1", "test/tiny-gpt2-2");
    let larder = support::larder!(&hub);
    larder.run(&["stage", large]).expect_code(0);
    let args = ["plan", small, large, "--vram", "8GiB", "--json"];
    let plan = larder.run(&args).expect_code(0).json();
    let order: Vec<_> = plan["models"].as_array().expect("rows").iter().map(|row| &row["model"]).collect();
    assert_eq!(order, [large, small], "what is there comes first");
    let models = &plan["models"];
    assert_eq!(
        (models[0]["bytes_to_fetch"].as_u64(), models[0]["verdict"].as_str()),
        (Some(0), Some("fits"))
    );
    assert_eq!(models[1]["seconds_to_fetch"]["measured"], false, "nobody has measured the line");
    for of in [&plan["seconds_to_load"], &models[1]["seconds_to_load"]] {
        let high = |from: &str| of[from]["high"].as_f64().expect("seconds");
        assert!(high("warm") < high("cold"), "memory is faster than the disk: {of}");
    }
    assert_eq!(plan["bytes_to_fetch"], models[1]["bytes_to_fetch"]);
    assert!(models[1]["batch"].as_u64().is_some_and(|batch| batch > 1));
    let file = larder.root().join("plan.json");
    std::fs::write(&file, plan.to_string()).expect("written");
    larder.run(&["stage", "--plan", file.to_str().expect("UTF-8")]).expect_code(0);
    let listed = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let missing = larder.run(&["plan", small, "test/none", "--vram", "8GiB", "--json"]).expect_code(0).json();
    let row = missing["models"].as_array().expect("rows").iter().find(|row| row["model"] == "test/none");
    assert_eq!(row.expect("told")["problem"]["reason"], "not_found");
    std::fs::write(&file, "{}").expect("written");
    larder.run(&["stage", "--plan", file.to_str().expect("UTF-8")]).expect_code(2);
}

/// Scrapes until a line is there that is wanted; what is sampled comes with the next sample.
fn until_scraped(daemon: &Daemon, wanted: impl Fn(&str) -> bool) {
    let begun = std::time::Instant::now();
    while !scraped(daemon).iter().any(|line| wanted(line)) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:#?}", scraped(daemon));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The lines of a scrape, without comments.
fn scraped(daemon: &Daemon) -> Vec<String> {
    let text = daemon.get("/metrics").text;
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}
