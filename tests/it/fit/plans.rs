//! Evaluation plans from the command line and over HTTP, and every model of the registry planned by its name: what would
//! be fetched of each is one set of weights, whatever else its repo holds.

use std::collections::BTreeSet;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory};
use serde_json::{Value, json};
use support::fs::Tmpfs;
use support::repos::Repo;
use support::{Content, Hub, Model};

use super::places::{GIB, SOON, calmly_on};
use super::{MODELS, row, with_duplicates};

/// The category `coding` of the registry.
const CODING: &[&str] = &[
    "deepseek-ai/deepseek-coder-1.3b-base",
    "bigcode/starcoder2-3b",
    "codellama/CodeLlama-7b-hf",
    "codellama/CodeLlama-34b-hf",
    "deepseek-ai/deepseek-coder-33b-instruct",
];

fn hub(ids: &[&str]) -> Hub {
    let hub = Hub::start();
    for id in ids {
        hub.add(with_everything(id));
    }
    hub
}

/// The repo with its weights in every format that repos carry.
fn with_everything(id: &str) -> Model {
    let row = row(id);
    let model = with_duplicates(Repo::from_row(&row).model());
    if row.safetensors {
        return model;
    }
    let others = ["tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx"];
    others.into_iter().fold(model, |model, path| model.unread(path, Content::pattern(1 << 30, 1)))
}

fn rows(plan: &Value) -> &[Value] {
    plan["models"].as_array().expect("rows")
}

fn of<'a>(plan: &'a Value, model: &str) -> &'a Value {
    rows(plan).iter().find(|row| row["model"] == model).unwrap_or_else(|| panic!("{model} is in {plan}"))
}

/// A plan without what depends on how fast this machine is.
fn timeless(plan: &Value) -> Value {
    let mut plan = plan.clone();
    let without = |value: &mut Value| {
        for key in ["seconds_to_fetch", "seconds_to_load", "seconds_to_load_warm"] {
            value.as_object_mut().map(|fields| fields.remove(key));
        }
    };
    without(&mut plan);
    plan["models"].as_array_mut().into_iter().flatten().for_each(without);
    plan
}

#[test]
fn a_category_is_planned_for_a_card_from_the_command_line_and_over_http() {
    let hub = hub(CODING);
    let larder = support::larder!(&hub);
    let args = ["plan", "--category", "coding", "--gpu", "RTX 4090", "--context", "2048", "--local"];
    let plan = larder.run(&[&args[..], &["--json"]].concat()).expect_code(0).json();
    let planned: BTreeSet<_> = rows(&plan).iter().filter_map(|row| row["model"].as_str()).collect();
    assert_eq!(planned, CODING.iter().copied().collect());
    assert_eq!(
        (plan["target"]["name"].as_str(), plan["target"]["source"].as_str()),
        (Some("RTX 4090"), Some("table"))
    );
    // Small ones first, what is not staged last.
    let order: Vec<_> = rows(&plan).iter().map(|row| row["order"].as_u64().expect("a number")).collect();
    assert_eq!(order, (1..=5).collect::<Vec<_>>());
    let staged: Vec<_> = rows(&plan).iter().filter(|row| row["job"].is_object()).collect();
    let bytes: Vec<_> = staged.iter().map(|row| row["bytes_to_fetch"].as_u64().expect("known")).collect();
    assert!(bytes.is_sorted() && bytes.len() == 4, "{bytes:?}");
    assert_eq!(plan["bytes_to_fetch"].as_u64(), Some(bytes.iter().sum()), "what is staged, and no more");
    for (model, variant) in [
        ("bigcode/starcoder2-3b", "16bit"),
        ("codellama/CodeLlama-7b-hf", "16bit"),
        ("codellama/CodeLlama-34b-hf", "nf4"),
        ("deepseek-ai/deepseek-coder-33b-instruct", "nf4"),
    ] {
        let row = of(&plan, model);
        assert_eq!(
            (row["variant"].as_str(), row["verdict"].as_str()),
            (Some(variant), Some("fits")),
            "{row}"
        );
        assert!(row["batch"].as_u64() >= Some(1) && row["problem"].is_null(), "{row}");
        assert_eq!((&row["job"]["kind"], &row["job"]["repo"]), (&json!("download"), &json!(model)), "{row}");
        assert_eq!(row["bytes_total"], row["bytes_to_fetch"], "nothing is there: {row}");
    }
    // The pickled one is shown, with the reason, and not staged.
    let pickled = of(&plan, "deepseek-ai/deepseek-coder-1.3b-base");
    assert!(pickled["job"].is_null() && pickled["order"] == 5, "{pickled}");
    assert!(pickled["why"].as_str().is_some_and(|why| why.contains("allow_unsafe")), "{pickled}");

    let person = larder.run(&args).expect_code(0);
    assert!(
        person.stdout.starts_with("on RTX 4090\n") && person.stdout.contains("MODEL"),
        "{}",
        person.stdout
    );
    for model in CODING {
        let line = person.stdout.lines().find(|line| line.contains(model)).expect("a line");
        let row = of(&plan, model);
        for said in [row["verdict"].as_str(), row["variant"].as_str()] {
            assert!(line.contains(said.expect("a word")), "{line}");
        }
    }
    assert!(person.stdout.contains("4 of 5 models: "), "{}", person.stdout);
    assert!(person.stderr.contains("larder stage --plan"), "{}", person.stderr);

    let daemon = larder.serve();
    let body = json!({"category": "coding", "gpu": "RTX 4090", "context": 2048, "local": true});
    let answered = daemon.post("/v1/plan", &body).expect(200);
    assert_eq!(timeless(&answered), timeless(&plan), "the same by either way");
    let asked = larder.run(&[&args[..], &["--json"]].concat()).expect_code(0).json();
    assert_eq!(timeless(&asked), timeless(&plan), "and from a command that asks the daemon");
    let whole = larder.run(&[&args[..], &["--json", "--allow-unsafe"]].concat()).expect_code(0).json();
    assert!(rows(&whole).iter().all(|row| row["job"].is_object()), "{whole}");
    // No byte of the weights was fetched for any of that.
    let sent: u64 = hub.requests().iter().map(|request| request.bytes_sent).sum();
    assert!(sent < 100 << 20, "{sent}");
}

#[test]
fn without_a_card_the_plan_is_for_this_hosts_gpu_and_what_does_not_fit_is_no_job() {
    let hub = hub(&CODING[1..3]);
    let memory = Memory { total: 24 * GIB, reserved: 0, used: 12 * GIB, ..Memory::default() };
    let gpu =
        Gpu { name: "NVIDIA L4".into(), compute_capability: (8, 9), memory: Some(memory), ..Gpu::default() };
    let fake = Fake::new(&Config { gpus: vec![gpu], ..Config::default() }).expect("the library");
    let larder = calmly_on(&hub, &fake);
    let ask = |more: &[&str]| {
        let args = ["plan", "starcoder2-3b", "CodeLlama-7b", "test/none", "--context", "2048", "--json"];
        larder.run(&[&args[..], more].concat()).expect_code(0).json()
    };
    let plan = ask(&["--local"]);
    let target = &plan["target"];
    assert_eq!(
        (target["source"].as_str(), target["budget_bytes"].as_u64()),
        (Some("free_now"), Some(12 * GIB))
    );
    assert_eq!(of(&plan, "bigcode/starcoder2-3b")["variant"], "16bit", "{plan}");
    assert_eq!(
        of(&plan, "codellama/CodeLlama-7b-hf")["variant"],
        "int8",
        "what fits of the larger one: {plan}"
    );
    let none = of(&plan, "test/none");
    assert_eq!(
        (&none["problem"]["reason"], &none["job"], &none["order"]),
        (&json!("not_found"), &json!(null), &json!(3))
    );
    // As it is published, or not at all.
    let exact = ask(&["--local", "--variant", "16bit"]);
    let large = of(&exact, "codellama/CodeLlama-7b-hf");
    assert_eq!((large["job"].is_null(), large["verdict"].as_str()), (true, Some("no")), "{large}");
    assert!(large["why"].as_str().is_some_and(|why| why.contains("needs 1")), "{large}");
    assert_eq!(exact["bytes_to_fetch"], of(&exact, "bigcode/starcoder2-3b")["bytes_to_fetch"]);
    // A daemon that watches the GPU answers the same.
    let daemon = larder.serve();
    daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["source"] == "nvml");
    assert_eq!(timeless(&ask(&["--local"])), timeless(&plan));
}

/// What kind of weights a file holds, if it holds any.
fn format(path: &str) -> Option<&'static str> {
    let ending = path.rsplit('.').next().unwrap_or_default();
    match ending {
        "safetensors" => Some("safetensors"),
        "gguf" => Some("gguf"),
        "bin" | "pt" | "pth" => Some("pickle"),
        "h5" | "msgpack" | "ot" | "onnx" => Some("another runtime's"),
        _ => None,
    }
}

#[test]
fn every_model_of_the_registry_and_twenty_others_are_planned_without_a_duplicate_format() {
    // As people name them: the eleven by their short names, the others by their ids.
    let short = ["gpt2", "pythia-410m", "opt-350m", "deepseek-coder-1.3b", "starcoder2-3b", "CodeLlama-7b"];
    let short = short.into_iter().chain(["gemma-2b", "phi-2", "Mistral-7B-v0.1", "Llama-2-7b"]);
    let names: Vec<&str> = short.chain(MODELS.iter().copied().skip(10)).collect();
    assert!(names.len() >= 30, "ten of the seed that are repos, and twenty others");
    let hub = hub(MODELS);
    let larder = support::larder!(&hub);
    // A disk that has room for the largest. Without root it is this machine's, and what has no room is refused.
    let disk = Tmpfs::mount(1 << 40);
    let larder = match &disk {
        Some(disk) => larder.with_cache(disk.path()),
        None => larder,
    };
    for (name, id) in names.iter().zip(MODELS) {
        let row = row(id);
        if disk.is_none() && row.get("download_bytes_weights") > Some(20 << 30) {
            continue;
        }
        if !row.safetensors {
            let refused = larder.run(&["plan", name, "--json"]).expect_code(4).json();
            assert_eq!(refused["reason"], "unsafe_format", "{name}: {refused}");
        }
        let unsafe_too: &[&str] = if row.safetensors { &[] } else { &["--allow-unsafe"] };
        let plan = larder.run(&[&["plan", name, "--json"], unsafe_too].concat()).expect_code(0).json();
        assert_eq!(plan["repo"], *id, "{name}");
        let path = |file: &Value| file["path"].as_str().expect("a path").to_owned();
        let files: Vec<String> = plan["files"].as_array().expect("files").iter().map(path).collect();
        let chosen: BTreeSet<&str> =
            files.iter().filter(|path| format(path).is_some()).map(String::as_str).collect();
        let repo = Repo::from_row(&row);
        let wanted: BTreeSet<&str> = repo.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(chosen, wanted, "{name}: one set of weights, and all of it");
        let formats: BTreeSet<_> = chosen.iter().filter_map(|path| format(path)).collect();
        assert_eq!(formats.len(), 1, "{name}: {formats:?}");
        assert!(files.iter().any(|path| path == "config.json"), "{name}: {files:?}");
        let skipped: BTreeSet<String> =
            plan["skipped"].as_array().expect("a list").iter().map(path).collect();
        let all = with_everything(id);
        let left: BTreeSet<_> = all.files().keys().filter(|path| !files.contains(path)).cloned().collect();
        assert_eq!(skipped, left, "{name}: what is not fetched is told");
        let weights: u64 = repo.files.iter().map(|file| file.size).sum();
        let bytes = plan["bytes_total"].as_u64().expect("known");
        assert!(bytes >= weights && bytes < weights + (64 << 20), "{name}: {bytes} of {weights}");
    }
    let alias = larder.run(&["plan", "phi-2-instruct", "--json"]).expect_code(0).json();
    let real = larder.run(&["plan", "phi-2", "--json"]).expect_code(0).json();
    assert_eq!(
        (&alias["repo"], &alias["files"]),
        (&real["repo"], &real["files"]),
        "the same repo by another name"
    );
}

#[test]
fn all_of_them_are_one_evaluation_plan() {
    let hub = hub(MODELS);
    let larder = support::larder!(&hub);
    let card = ["--gpu", "RTX 4090", "--context", "1024", "--local", "--json"];
    let plan = larder.run(&[&["plan"], MODELS, &card].concat()).expect_code(0).json();
    assert_eq!(rows(&plan).len(), MODELS.len());
    for (n, id) in MODELS.iter().enumerate() {
        let (row, table) = (of(&plan, id), row(id));
        assert!(row["problem"].is_null() && row["why"].as_str().is_some_and(|why| !why.is_empty()), "{row}");
        assert_eq!(row["repo"], *id, "asked for nothing that others published: {row}");
        let is_staged = row["job"].is_object();
        assert_eq!(is_staged, table.safetensors && row["verdict"] != "no", "{row}");
        assert!(!is_staged || row["batch"].as_u64() >= Some(1), "{row}");
        if n < 10 {
            assert_eq!((&row["verdict"], &row["variant"]), (&json!("fits"), &json!("16bit")), "{row}");
        }
    }
    let large = of(&plan, "meta-llama/Llama-3.3-70B-Instruct");
    assert_eq!((&large["verdict"], &large["job"]), (&json!("no"), &json!(null)), "{large}");
    // The alias is no model of its own: whoever plans its category does not fetch its repo under two names.
    let named = larder.run(&[&["plan", "phi-2-instruct", "gpt2"], &card[..]].concat()).expect_code(0).json();
    assert_eq!(of(&named, "microsoft/phi-2")["repo"], "microsoft/phi-2");
}
