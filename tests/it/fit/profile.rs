//! Profiles: what a host's profile measures, what a model's says of its files, and what follows from both together.

use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory};
use serde_json::{Value, json};
use support::Larder;
use support::models::{self, Gpt2};

use super::places::{GIB, MODEL, SOON, calmly_on, hub};
use super::until_scraped;

const RATES: &[(&str, &str)] = &[
    ("disk_write", "write"),
    ("disk_read_cold", "read_cold"),
    ("disk_read_cold_parallel", "read_cold_parallel"),
    ("disk_read_warm", "read_warm"),
];

fn rate(report: &Value, key: &str) -> Option<f64> {
    report[key].as_f64()
}

#[test]
fn a_models_profile_follows_from_its_files_the_gpu_and_the_hosts_profile() {
    let hub = hub();
    let memory = Memory { total: 24 * GIB, reserved: 0, used: 4 * GIB, ..Memory::default() };
    let gpu = Gpu { memory: Some(memory), ..Gpu::default() };
    let fake = Fake::new(&Config { gpus: vec![gpu], ..Config::default() }).expect("the library");
    let larder = calmly_on(&hub, &fake);
    larder.run(&["stage", MODEL]).expect_code(0);
    let profile = |args: &[&str]| {
        let job = larder.run(&[&["profile"], args, &["--json"]].concat()).expect_code(0).json();
        assert_eq!((&job["kind"], &job["state"]), (&json!("profile"), &json!("done")), "{job}");
        job["report"].clone()
    };
    // Before anything was measured: what is in the files is known, how fast they load is not.
    let before = profile(&[MODEL]);
    let shape = Gpt2::of(30_000);
    let (tensors, elements) = (shape.tensors().len() as u64, shape.params());
    let dtypes = json!([{"dtype": "F32", "tensors": tensors, "elements": elements, "bytes": 4 * elements}]);
    assert_eq!((&before["dtypes"], &before["parameters"]), (&dtypes, &json!(elements)), "{before}");
    assert_eq!(before["seconds_to_load"], json!({"cold": null, "warm": null, "now": null}), "{before}");
    assert!(before["notes"].to_string().contains("the disk was not measured yet"), "{before}");
    let fit = &before["fit"];
    assert_eq!((&fit["verdict"], &fit["budget_bytes"]), (&json!("fits"), &json!(20 * GIB)), "{fit}");
    assert_eq!(before["residency"]["bytes"], before["bytes"], "{before}");

    let measured = profile(&["--test", "disk", "--disk-bytes", "16MiB"]);
    for (key, _) in RATES {
        // A filesystem that keeps its files in memory has no cold read, and then the profile says so.
        let is_told =
            measured["notes"].to_string().contains(if key.contains("cold") { "cold" } else { "never" });
        assert!(rate(&measured, key).is_some_and(|rate| rate > 0.0) || is_told, "{key}: {measured}");
    }
    assert!(measured["memory_copy"].is_null() && measured["hub_round_trip"].is_null(), "not asked for");
    let after = profile(&[MODEL]);
    let bytes = after["bytes"].as_f64().expect("known");
    let seconds = &after["seconds_to_load"];
    for (key, measure) in [("cold", "disk_read_cold"), ("warm", "disk_read_warm")] {
        let wanted = rate(&measured, measure).map(|rate| bytes / rate);
        let told = rate(seconds, key);
        let is_close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.01;
        assert_eq!(told.is_some(), wanted.is_some(), "{key}: {seconds}");
        assert!(
            told.zip(wanted).is_none_or(|(told, wanted)| is_close(told, wanted)),
            "{key}: {seconds}, {measured}"
        );
    }
    // Staged a moment ago, so it is in memory, and loads as fast as from there.
    if after["residency"]["resident"] == after["bytes"] {
        assert_eq!(seconds["now"], seconds["warm"], "{after}");
    }
    let person = larder.run(&["profile", MODEL]).expect_code(0).stdout;
    for line in ["parameters  ", "stored as   ", "to load     ", "on the GPU  fits: ", "files       whole"] {
        assert!(person.contains(line), "{person}");
    }
    known_later(&larder, &measured);
}

/// A daemon that starts later knows what was measured, exports it, and adds to it.
fn known_later(larder: &Larder, measured: &Value) {
    let daemon = larder.serve();
    let host = daemon.get("/v1/host").expect(200);
    for (key, label) in RATES {
        assert_eq!(host["measured"][key], measured[key], "{key}: {host}");
        let line = format!("larder_profile_disk_bytes_per_second{{test=\"{label}\"}}");
        if measured[key].is_f64() {
            until_scraped(&daemon, |found| found.starts_with(&line));
        }
    }
    let again = daemon.post("/v1/jobs", &json!({"kind": "profile", "tests": ["memory", "hub"]})).expect(202);
    let again = daemon.wait_job(again["id"].as_str().expect("an id"), Duration::from_secs(60));
    assert!(rate(&again["report"], "hub_round_trip").is_some_and(|seconds| seconds > 0.0), "{again}");
    let host = daemon.get("/v1/host").expect(200);
    assert_eq!(host["measured"]["disk_write"], measured["disk_write"], "the newest of each: {host}");
    assert!(host["measured"]["hub_round_trip"].is_f64(), "{host}");
    let history = daemon.wait_until("/v1/host/history", SOON, |history| {
        history["measurements"].as_array().is_some_and(|all| all.len() == 2)
    });
    assert_eq!(history["measurements"][0]["disk_write"], measured["disk_write"], "oldest first: {history}");
}

#[test]
fn a_missing_shard_is_found_and_what_is_left_is_not_taken_for_the_model() {
    let hub = hub();
    let sharded = models::sharded_gpt2(2, 60_000, 3);
    hub.add(sharded.clone());
    let larder = support::larder!(&hub);
    let shard = sharded.files().keys().find(|path| path.ends_with(".safetensors")).expect("a shard").clone();
    let profile = || larder.run(&["profile", sharded.id(), "--json"]).expect_code(0).json()["report"].clone();
    larder.run(&["stage", sharded.id(), "--exclude", &shard]).expect_code(0);
    let part = profile();
    let found = &part["findings"][0];
    assert_eq!((&found["severity"], &found["word"]), (&json!("error"), &json!("missing_shard")), "{part}");
    assert_eq!(found["path"].as_str(), Some(&*shard), "{part}");
    let fit = &part["fit"];
    assert_eq!((&fit["verdict"], &fit["total_bytes"]), (&json!("unknown"), &json!(null)), "{fit}");
    assert!(fit["reason"].as_str().is_some_and(|why| why.contains(&*shard)), "{fit}");
    assert_eq!(part["parameters"], json!(null), "{part}");
    larder.run(&["stage", sharded.id()]).expect_code(0);
    let whole = profile();
    assert_eq!((&whole["findings"], &whole["dtypes"][0]["dtype"]), (&json!([]), &json!("F32")), "{whole}");
    assert!(whole["dtypes"][0]["bytes"].as_u64() > part["dtypes"][0]["bytes"].as_u64(), "{whole}");
    assert!(whole["parameters"].is_u64(), "{whole}");
}
