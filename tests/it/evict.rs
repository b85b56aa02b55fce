//! Eviction from outside: what goes, what stays, and who says so.

mod killed;
mod pressure;
mod sequence;
mod tidy;
mod users;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::cache::assert_clean;
use support::{Daemon, Hub, Larder, Model, larder, models};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A model of about so many bytes.
fn model(name: &str, seed: u64, bytes: u64) -> Model {
    models::huge(seed, bytes).named(name)
}

/// A hub with models of 2 MB, and a larder that has staged them in this order; nothing is too young to go.
fn house(names: &[&str]) -> (Hub, Larder) {
    let hub = Hub::start();
    for (n, name) in names.iter().enumerate() {
        hub.add(model(name, 500 + n as u64, 2_000_000));
    }
    let larder = larder!(&hub).env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__CHECK_EVERY", "1s");
    for name in names {
        larder.run(&["stage", name]).expect_code(0);
    }
    (hub, larder)
}

/// Puts a model into the cache as another client would, with its files under `commit`.
fn put(cache: &Path, name: &str, commit: &str, files: &[(&str, &[u8])]) {
    let repo = cache.join(format!("models--{}", name.replace('/', "--")));
    let snapshot = repo.join("snapshots").join(commit);
    for folder in [repo.join("blobs"), repo.join("refs"), snapshot.clone()] {
        fs::create_dir_all(folder).expect("a folder");
    }
    for (path, bytes) in files {
        let hash = support::Content::from(bytes.to_vec()).sha256();
        fs::write(repo.join("blobs").join(&hash), bytes).expect("a blob");
        symlink(format!("../../blobs/{hash}"), snapshot.join(path)).expect("a link");
    }
    fs::write(repo.join("refs/main"), commit).expect("a ref");
}

/// The models that a larder knows, in order.
fn listed(larder: &Larder) -> Vec<String> {
    let models = larder.run(&["ls", "--json"]).expect_code(0).json();
    models.as_array().expect("a list").iter().map(|one| text(&one["repo"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The value of a series without labels, or with these.
fn metric(daemon: &Daemon, series: &str) -> f64 {
    let page = daemon.get("/metrics").text;
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {series}")).parse().expect("a number")
}

#[test]
fn a_model_goes_by_name_with_all_that_only_it_needs() {
    let (hub, larder) = house(&["a/one", "a/two"]);
    let plan = larder.run(&["evict", "a/one", "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(
        (&plan["evict"][0]["repo"], &plan["evict"][0]["reason"]),
        (&json!("a/one"), &json!("requested")),
        "{plan}"
    );
    assert_eq!(
        (&plan["keep"][0]["repo"], &plan["keep"][0]["reason"]),
        (&json!("a/two"), &json!("not_needed"))
    );
    assert_eq!(listed(&larder), ["a/one", "a/two"], "a plan changes nothing");

    let done = larder.run(&["evict", "a/one", "--json"]).expect_code(0).json();
    assert_eq!((&done["state"], &done["bytes_done"]), (&json!("done"), &plan["freed_bytes"]), "{done}");
    assert_eq!(listed(&larder), ["a/two"]);
    assert!(!larder.cache().join("models--a--one").exists());
    assert_clean(larder.cache());

    let lost = larder.run(&["why", "a/one"]).expect_code(3);
    assert!(lost.stderr.contains("was evicted at") && lost.stderr.contains("(requested)"), "{}", lost.stderr);
    let before = hub.bytes_of("a/one");
    larder.run(&["stage", "a/one"]).expect_code(0);
    assert!(hub.bytes_of("a/one") > before + 2_000_000, "it is fetched again");
}

#[test]
fn two_revisions_share_what_they_share() {
    let larder =
        larder!(&Hub::start()).env("LARDER__CACHE__EVICT", "all").env("LARDER__CACHE__MIN_AGE", "0s");
    let (old, new) = ("1".repeat(40), "2".repeat(40));
    let shared = vec![7; 40_960];
    put(larder.cache(), "a/b", &old, &[("w.safetensors", &[1; 8_192]), ("t.json", &shared)]);
    put(larder.cache(), "a/b", &new, &[("w.safetensors", &[2; 4_096]), ("t.json", &shared)]);
    let plan = larder.run(&["evict", &format!("a/b@{old}"), "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(plan["freed_bytes"], 8_192, "the tokenizer stays for the other: {plan}");
    larder.run(&["evict", &format!("a/b@{old}")]).expect_code(0);
    assert_clean(larder.cache());
    let both = larder.run(&["evict", "a/b@main", "--json"]).expect_code(0).json();
    assert_eq!(both["bytes_done"], 40_960 + 4_096);
    assert!(!larder.cache().join("models--a--b").exists());
}

#[test]
fn by_default_nothing_goes_that_is_young_or_anothers() {
    let (_hub, larder) = house(&["a/staged"]);
    put(larder.cache(), "b/adopted", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    let larder = larder.env("LARDER__CACHE__MIN_AGE", "24h");
    let refused = larder.run(&["evict", "--free", "1GB"]).expect_code(4);
    for part in
        ["wanted to free 953.7 MiB, freed 0 B", "younger than cache.min_age", "fetched by another client"]
    {
        assert!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.stderr);
    }
    let plan = larder.run(&["evict", "--dry-run", "--free", "1GB", "--json"]).expect_code(0).json();
    let reasons: Vec<_> =
        plan["keep"].as_array().expect("a list").iter().map(|one| text(&one["reason"])).collect();
    assert_eq!(reasons, ["too_young", "not_staged"], "{plan}");
    assert_eq!(listed(&larder), ["a/staged", "b/adopted"]);
    larder.run(&["evict", "b/adopted", "a/staged"]).expect_code(0);
    assert_eq!(listed(&larder), [""; 0], "who names them means them");
}

#[test]
fn so_many_bytes_go_from_the_least_recently_used_on() {
    let (_hub, larder) = house(&["a/one", "a/two", "a/three"]);
    larder.run(&["stage", "a/one"]).expect_code(0);
    let done = larder.run(&["evict", "--free", "3MB", "--json"]).expect_code(0).json();
    let gone: Vec<_> =
        done["evicted"].as_array().expect("a list").iter().map(|one| text(&one["repo"])).collect();
    assert_eq!(gone, ["a/two", "a/three"], "one was used again: {done}");
    assert_eq!(done["evicted"][0]["reason"], "least_recently_used");
    let nothing = larder.run(&["evict", "--older-than", "1h", "--json"]).expect_code(0).json();
    assert_eq!(nothing["files_done"], 0, "{nothing}");
    larder.run(&["evict", "--older-than", "0s"]).expect_code(0);
    assert_eq!(listed(&larder), [""; 0]);
}

#[test]
fn a_name_that_means_nothing_stops_all_of_it() {
    let (_hub, larder) = house(&["a/one"]);
    for (args, code, part) in [
        (&["evict", "a/one", "a/none"][..], 3, "a/none is not in the cache"),
        (&["evict", "a/one@v9"], 3, "a/one@v9 is not in the cache"),
        (&["evict", "../etc"], 2, "is not a model name"),
        (&["evict", "a/../b"], 2, "is not a model name"),
        (&["evict"], 2, "nothing says what to evict"),
        (&["evict", "--free", "lots"], 2, "`lots` is not a size"),
        (&["evict", "--free", "-5GB"], 2, ""),
        (&["evict", "--free", "0"], 2, "`free_bytes` is 0"),
        (&["evict", "--older-than", "-3d"], 2, ""),
        (&["evict", "--older-than", "soon"], 2, "`soon` is not a duration"),
        (&["evict", "a/one", "--free", "1GB"], 2, "cannot be used with"),
        (&["pin", "a/none"], 3, "a/none is not in the cache"),
        (&["lease", "a/one", "--ttl", "0s"], 2, "is not between 1s and 366 days"),
        (&["lease", "a/one", "--holder", ""], 2, "`holder` is empty"),
        (&["release", "a/none"], 3, "a/none is not in the cache"),
        (&["why", "a/none"], 3, "a/none is not in the cache"),
        (&["verify", "a/none"], 3, "a/none is not in the cache"),
    ] {
        let output = larder.run(args).expect_code(code);
        assert!(output.stderr.contains(part), "{args:?}: {}", output.stderr);
    }
    assert_eq!(listed(&larder), ["a/one"]);
    let daemon = larder.serve();
    for (method, path, body, status, part) in [
        ("POST", "/v1/jobs", Some(json!({"kind": "evict"})), 400, "nothing says what to evict"),
        ("GET", "/v1/eviction-plan?fre=1", None, 400, "unknown parameter `fre`"),
        ("GET", "/v1/eviction-plan?free=-1", None, 400, "is not a size"),
        ("GET", "/v1/eviction-plan?free=1&older_than=1h", None, 400, "exclude each other"),
        ("GET", "/v1/eviction-plan?model=a/none", None, 404, "is not in the cache"),
        ("PUT", "/v1/models/a/none/pin", None, 404, "is not in the cache"),
        ("PUT", "/v1/models/a/one/lease", Some(json!({"ttl": "1h"})), 400, "the body is no lease"),
        ("PUT", "/v1/models/a/one/lease", Some(json!({"holder": "x", "ttl": "0s"})), 400, "is not between"),
        ("DELETE", "/v1/models/a/one/lease?holder=", None, 400, "`holder` is empty"),
        ("DELETE", "/v1/models/a/one/pin?revison=main", None, 400, "unknown parameter `revison`"),
    ] {
        let problem = daemon.request(method, path, body.as_ref()).expect(status);
        assert!(text(&problem["detail"]).contains(part), "{path}: {problem}");
        assert!(!text(&problem["hint"]).is_empty());
    }
}

#[test]
fn a_cache_that_is_missing_a_file_or_read_only_is_told() {
    let missing = larder!(&Hub::start());
    fs::remove_dir(missing.cache()).expect("empty");
    missing.run(&["evict", "a/b"]).expect_code(3);
    missing.run(&["evict", "--free", "1GB"]).expect_code(4);

    fs::write(missing.cache(), "").expect("a file");
    let file = missing.run(&["evict", "a/b"]).expect_code(2);
    assert!(file.stderr.contains("is not a folder") && file.stderr.contains("cache.root"), "{}", file.stderr);

    let Some(disk) = support::fs::Tmpfs::mount(4 * MIB) else {
        return println!("skipped: mounting takes root");
    };
    let larder = larder!(&Hub::start()).with_cache(&disk.path().join("hub"));
    put(larder.cache(), "a/b", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    assert!(disk.read_only());
    let refused = larder.run(&["evict", "a/b"]).expect_code(4);
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    assert_eq!(listed(&larder), ["a/b"]);
}

#[test]
fn pins_and_leases_hold_also_against_a_name() {
    let (_hub, larder) = house(&["a/one", "a/two"]);
    larder.run(&["pin", "a/one"]).expect_code(0);
    larder.run(&["lease", "a/two", "--holder", "pod-1", "--ttl", "1h"]).expect_code(0);
    larder.run(&["lease", "a/two", "--holder", "pod-2", "--ttl", "2h"]).expect_code(0);
    for (name, part) in [("a/one", "larder unpin a/one@"), ("a/two", "larder release a/two@")] {
        let refused = larder.run(&["evict", name]).expect_code(4);
        assert!(
            refused.stderr.contains("[protected]") && refused.stderr.contains(part),
            "{}",
            refused.stderr
        );
    }
    let why = larder.run(&["why", "a/two", "--json"]).expect_code(0).json();
    assert_eq!((&why[0]["decision"], &why[0]["reason"]), (&json!("keep"), &json!("leased")), "{why}");
    assert!(text(&why[0]["because"]).contains("pod-1 until 20"), "{why}");

    let mut daemon = larder.serve();
    let models = daemon.get("/v1/models").expect(200);
    assert_eq!(
        (&models["models"][0]["pinned"], &models["models"][1]["leased"]),
        (&json!(true), &json!(true)),
        "both outlive a restart: {models}"
    );
    assert!(metric(&daemon, "larder_cache_used_bytes{class=\"pinned\"}") > 2e6);
    assert!(metric(&daemon, "larder_cache_used_bytes{class=\"leased\"}") > 2e6);
    daemon.request("DELETE", "/v1/models/a/two/lease?holder=pod-1", None).expect(200);
    let job = daemon.post("/v1/jobs", &json!({"kind": "evict", "repo": "a/two"})).expect(202);
    let failed = daemon.wait_job(&text(&job["id"]), PATIENCE);
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("failed"), &json!("protected")), "{failed}");
    daemon.request("DELETE", "/v1/models/a/two/lease", None).expect(200);
    daemon.request("DELETE", "/v1/models/a/one/pin", None).expect(200);
    for name in ["a/one", "a/two"] {
        let job = daemon.post("/v1/jobs", &json!({"kind": "evict", "repo": name})).expect(202);
        assert_eq!(daemon.wait_job(&text(&job["id"]), PATIENCE)["state"], "done");
    }
    assert_eq!(metric(&daemon, "larder_evictions_total{reason=\"requested\"}"), 2.0);
    assert!(metric(&daemon, "larder_evicted_bytes_total") > 4e6);
    daemon.terminate(PATIENCE);
    assert_eq!(listed(&larder), [""; 0]);
}

#[test]
fn a_pin_on_what_another_client_fetched_outlives_the_store() {
    let larder = larder!(&Hub::start());
    put(larder.cache(), "a/b", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    larder.run(&["pin", "a/b"]).expect_code(0);
    fs::remove_dir_all(larder.state()).expect("removed");
    fs::create_dir(larder.state()).expect("empty");
    let models = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!((&models[0]["pinned"], &models[0]["origin"]), (&json!(true), &json!("adopted")), "{models}");
    larder.run(&["evict", "a/b"]).expect_code(4);
    larder.run(&["unpin", "a/b"]).expect_code(0);
    larder.run(&["evict", "a/b"]).expect_code(0);
}

#[test]
fn a_download_can_lease_what_it_stages() {
    let hub = Hub::start();
    hub.add(model("a/one", 510, 500_000));
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let want = json!({"kind": "download", "repo": "a/one", "lease_ttl": "2h", "requested_by": "pod-7"});
    let job = daemon.post("/v1/jobs", &want).expect(202);
    assert_eq!(daemon.wait_job(&text(&job["id"]), PATIENCE)["state"], "ready");
    let models = daemon.wait_until("/v1/models", PATIENCE, |all| all["models"][0]["leased"] == true);
    assert_eq!(models["models"][0]["leases"][0]["holder"], "pod-7", "{models}");
    larder.run(&["evict", "a/one"]).expect_code(4);
}
