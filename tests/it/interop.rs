//! The field's own clients on the same cache: Python's `huggingface_hub`, `safetensors` and `tokenizers` judge what
//! larder wrote, larder judges what they wrote, and both fetch at once.
//!
//! The model is a real one, `sentence-transformers/all-MiniLM-L6-v2`; `tests/run.sh` installs it and Python.

use std::time::Duration;

use serde_json::{Value, json};
use support::cache::{Snapshot, assert_clean, repo_folder};
use support::models::minilm;
use support::python::python;
use support::{Hub, Larder, Model, Output, Request, larder};

const PATIENCE: Duration = Duration::from_secs(120);
const WEIGHTS: &str = "model.safetensors";
/// Small files may be asked for by both.
const SLACK: u64 = 1 << 20;

fn house() -> (Hub, Larder, Model) {
    let (hub, model) = (Hub::start(), minilm::required());
    hub.add(model.clone());
    hub.redirect_small_files(true);
    let larder = larder!(&hub);
    (hub, larder, model)
}

/// A Python script on larder's cache, with the hub or in offline mode.
#[track_caller]
fn script(larder: &Larder, hub: Option<&Hub>, script: &str, args: &[&str]) -> Output {
    let cache = larder.cache().display().to_string();
    let home = larder.home().display().to_string();
    let endpoint = hub.map(Hub::endpoint).unwrap_or_default();
    let mut env = vec![("HF_HUB_CACHE", cache.as_str()), ("HF_HOME", &home), ("HOME", &home)];
    match hub {
        Some(_) => env.push(("HF_ENDPOINT", &endpoint)),
        None => env.push(("HF_HUB_OFFLINE", "1")),
    }
    python(script, args, &env)
}

/// The `hf` command.
#[track_caller]
fn hf(larder: &Larder, hub: &Hub, args: &[&str]) -> Output {
    const RUN: &str = "import sys; sys.argv[0] = 'hf'; from huggingface_hub.cli.hf import main; main()";
    script(larder, Some(hub), RUN, args)
}

const SCAN: &str = r#"
import json, huggingface_hub as h
found = h.scan_cache_dir()
print(json.dumps({
    "warnings": [str(warning) for warning in found.warnings],
    "bytes": found.size_on_disk,
    "repos": {repo.repo_id: {
        "bytes": repo.size_on_disk, "files": repo.nb_files, "refs": sorted(repo.refs),
        "commits": sorted(revision.commit_hash for revision in repo.revisions),
    } for repo in found.repos},
}))
"#;

/// What a program does that loads the model: offline, by name.
const LOAD: &str = r#"
import json, os, sys, huggingface_hub as h
from safetensors import safe_open
from tokenizers import Tokenizer
repo = sys.argv[1]
folder = h.snapshot_download(repo)
weights = h.hf_hub_download(repo, "model.safetensors")
assert weights == os.path.join(folder, "model.safetensors"), weights
numbers = 0
with safe_open(weights, framework="np") as tensors:
    for name in tensors.keys():
        numbers += tensors.get_tensor(name).size
tokens = Tokenizer.from_file(h.hf_hub_download(repo, "tokenizer.json")).encode("a well stocked larder")
print(json.dumps({"folder": folder, "numbers": numbers, "tokens": tokens.tokens}))
"#;

/// Everything that Python has to say about the staged model.
fn judged(larder: &Larder, hub: &Hub, model: &Model) {
    let staged = Snapshot::read(larder.cache(), model.id(), "main").expect("staged");
    staged.assert_is(model);
    let scan = script(larder, None, SCAN, &[]).expect_code(0).json();
    assert_eq!(scan["warnings"], json!([]), "{scan}");
    let repo = json!({
        "bytes": model.bytes(), "files": model.files().len(), "refs": ["main"], "commits": [model.commit()],
    });
    assert_eq!(scan["repos"], json!({ model.id(): repo }));
    assert_eq!(scan["bytes"], model.bytes());

    let strict = ["--fail-on-missing-files", "--fail-on-extra-files"];
    hf(larder, hub, &[&["cache", "verify", model.id()], &strict[..]].concat()).expect_code(0);

    let loaded = script(larder, None, LOAD, &[model.id()]).expect_code(0).json();
    assert_eq!(loaded["folder"], staged.path.display().to_string());
    assert_eq!(loaded["numbers"], 22_713_728, "the parameters and the position ids of MiniLM: {loaded}");
    assert_eq!(loaded["tokens"][1], "a", "{loaded}");
}

fn listed(larder: &Larder, model: &Model) -> Value {
    let models = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(models.as_array().map(Vec::len), Some(1), "{models}");
    assert_eq!((&models[0]["repo"], &models[0]["commit"]), (&model.id().into(), &model.commit().into()));
    models[0].clone()
}

#[test]
fn python_finds_verifies_and_loads_what_a_command_staged() {
    let (hub, larder, model) = house();
    larder.run(&["stage", model.id()]).expect_code(0);
    judged(&larder, &hub, &model);
    assert_clean(larder.cache());
    assert_eq!(hub.bytes_of(WEIGHTS), model.at(WEIGHTS).size, "Python fetched nothing");
}

#[test]
fn python_finds_verifies_and_loads_what_a_daemon_staged() {
    let (hub, larder, model) = house();
    let daemon = larder.serve();
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": model.id()})).expect(202);
    let done = daemon.wait_job(job["id"].as_str().expect("an id"), PATIENCE);
    assert_eq!(done["state"], "ready", "{done}");
    judged(&larder, &hub, &model);
    assert_eq!(listed(&larder, &model)["origin"], "staged");
}

#[test]
fn python_that_verifies_sees_a_wrong_byte() {
    // Otherwise the judges above would prove nothing.
    let (hub, larder, model) = house();
    larder.run(&["stage", model.id()]).expect_code(0);
    let staged = Snapshot::read(larder.cache(), model.id(), "main").expect("staged");
    std::fs::write(&staged.files["config.json"].target, "{}").expect("writes");
    let output = hf(&larder, &hub, &["cache", "verify", model.id()]);
    assert_ne!(output.code, 0, "{}{}", output.stdout, output.stderr);
}

#[test]
fn a_model_that_python_fetched_is_adopted_and_staged_without_a_byte() {
    let (hub, larder, model) = house();
    hf(&larder, &hub, &["download", model.id()]).expect_code(0);
    let adopted = listed(&larder, &model);
    assert_eq!(
        (&adopted["origin"], &adopted["bytes"]),
        (&"adopted".into(), &model.bytes().into()),
        "{adopted}"
    );

    hub.clear_requests();
    let job = larder.run(&["stage", model.id(), "--json"]).expect_code(0).json();
    assert_eq!((&job["state"], &job["bytes_fetched"]), (&"ready".into(), &0.into()), "{job}");
    assert_eq!(job["bytes_done"], model.bytes());
    assert!(hub.requests().iter().all(|request| !request.content), "the bytes that are there are verified");
    assert_eq!(listed(&larder, &model)["origin"], "staged");
    judged(&larder, &hub, &model);
}

#[test]
fn a_wrong_byte_of_pythons_is_found_when_larder_stages_the_model() {
    let (hub, larder, model) = house();
    hf(&larder, &hub, &["download", model.id()]).expect_code(0);
    let blob = repo_folder(larder.cache(), model.id()).join("blobs").join(model.at("tokenizer.json").etag());
    let mut bytes = std::fs::read(&blob).expect("reads");
    bytes[77] ^= 1;
    std::fs::write(&blob, bytes).expect("writes");
    let job = larder.run(&["stage", model.id(), "--json"]).expect_code(0).json();
    assert_eq!(job["bytes_fetched"], model.at("tokenizer.json").size, "{job}");
    judged(&larder, &hub, &model);
}

/// Both are over; every byte came once.
fn assert_shared(hub: &Hub, larder: &Larder, model: &Model) {
    let sent = hub.bytes_of(WEIGHTS);
    let weights = model.at(WEIGHTS).size;
    assert!(sent <= weights + SLACK, "{sent} bytes of {WEIGHTS} were sent, it has {weights}");
    let all = hub.bytes_of(model.id());
    assert!(all <= model.bytes() + SLACK, "{all} bytes were sent for {}", model.bytes());
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    assert_clean(larder.cache());
}

#[test]
fn larder_waits_for_python_that_was_first() {
    let (hub, larder, model) = house();
    hub.throttle(Some(40 << 20));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| hf(&larder, &hub, &["download", model.id()]));
        assert!(hub.wait_for_bytes(WEIGHTS, 2_000_000, PATIENCE), "Python began");
        let job = larder.run(&["stage", model.id(), "--json"]).expect_code(0).json();
        assert_eq!(job["state"], "ready", "{job}");
        let most = model.bytes() - model.at(WEIGHTS).size;
        assert!(job["bytes_fetched"].as_u64() <= Some(most), "the weights are Python's: {job}");
        first.join().expect("no panic").expect_code(0);
    });
    assert_shared(&hub, &larder, &model);
    judged(&larder, &hub, &model);
}

#[test]
fn python_waits_for_larder_that_was_first() {
    let (hub, larder, model) = house();
    hub.throttle(Some(3 << 19));
    let mut first = larder.spawn(&["stage", model.id(), "--json"]);
    assert!(hub.wait_for_bytes(WEIGHTS, 2_000_000, PATIENCE), "larder began: {:?}", first.logs());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| hf(&larder, &hub, &["download", model.id()]));
        let by_python =
            |request: &Request| request.user_agent.contains("hf_hub") && request.path.contains(WEIGHTS);
        assert!(
            hub.wait_for(|requests| requests.iter().any(by_python), PATIENCE),
            "Python wants the weights"
        );
        assert!(first.is_running(), "while larder fetches them");
        second.join().expect("no panic").expect_code(0);
    });
    let status = first.wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status}: {}", first.logs().join("\n"));
    assert_shared(&hub, &larder, &model);
    judged(&larder, &hub, &model);
}

#[test]
fn two_workers_and_python_at_once_fetch_every_byte_once() {
    let (hub, larder, model) = house();
    // Another worker on the same cache, with records of its own: two hosts on one disk, or two users.
    let other = larder!(&hub).with_cache(larder.cache());
    hub.throttle(Some(3 << 19));
    let mut first = larder.spawn(&["stage", model.id(), "--json"]);
    assert!(hub.wait_for_bytes(WEIGHTS, 2_000_000, PATIENCE), "the first began: {:?}", first.logs());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| other.run(&["stage", model.id(), "--json"]));
        let third = scope.spawn(|| hf(&larder, &hub, &["download", model.id()]));
        let asked = |requests: &[Request], who: &str| {
            requests
                .iter()
                .filter(|one| one.user_agent.contains(who) && one.path.contains("/revision/"))
                .count()
        };
        let all = |requests: &[Request]| asked(requests, "hf_hub") >= 1 && asked(requests, "larder") >= 2;
        assert!(hub.wait_for(all, PATIENCE), "all three want the model");
        assert!(first.is_running(), "while the first fetches it");
        let job = second.join().expect("no panic").expect_code(0).json();
        assert_eq!(job["state"], "ready", "{job}");
        third.join().expect("no panic").expect_code(0);
    });
    let status = first.wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status}: {}", first.logs().join("\n"));
    assert_shared(&hub, &larder, &model);
    judged(&larder, &hub, &model);
}
