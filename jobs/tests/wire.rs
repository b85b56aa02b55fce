//! The wire only grows: every shape that was ever written still reads, and what is written is held here.

use larder_jobs::{Job, Reason, Work};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

#[test]
fn the_smallest_job_reads_with_every_default() {
    let job = Job::from_json(golden("download-minimal.v1.json")).expect("reads");
    let Work::Download(download) = &job.work else { panic!("a download") };
    assert_eq!((download.revision.as_str(), download.pin, job.common.priority), ("main", false, 0));
}

#[test]
fn the_fullest_job_reads_and_is_written_the_same() {
    for name in [
        "download-full.v1.json",
        "download-limited.v1.json",
        "download-notify.v1.json",
        "download-window.v1.json",
        "download-pool.v1.json",
        "download-named-host.v1.json",
        "download-named-hosts.v1.json",
        "download-labelled-hosts.v1.json",
        "download-best-host.v1.json",
        "download-all-hosts.v1.json",
        "download-leased.v1.json",
        "evict-model.v1.json",
        "evict-bytes.v1.json",
        "evict-age.v1.json",
        "verify-all.v1.json",
        "verify-model.v1.json",
        "download-variants.v1.json",
        "profile-host.v1.json",
        "profile-model.v1.json",
        "preload.v1.json",
    ] {
        let full = golden(name);
        let job = Job::from_json(full.clone()).expect("reads");
        assert_eq!(serde_json::to_value(&job).expect("writes"), full);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let base = json!({"kind": "download", "repo": "a/b"});
    let with = |key: &str, value: Value| {
        let mut job = base.clone();
        job[key] = value;
        Job::from_json(job).expect_err(key)
    };
    for (key, value, part) in [
        ("kind", json!("teleport"), "`teleport` is not a kind of job"),
        ("kind", json!(7), "`kind` is missing"),
        ("repo", json!("../x"), "`../x` is not a model name"),
        ("repo", json!("gpt2"), "the owner is missing"),
        ("revision", json!("a b"), "is not a revision"),
        ("inclued", json!([]), "unknown field `inclued`"),
        ("priority", json!(1e9), "i16"),
        ("format", json!("zip"), "unknown variant `zip`"),
        ("format", json!("pickle"), "runs code"),
        ("bandwidth", json!(0), "`bandwidth`: a bandwidth of 0 would let nothing through"),
        ("bandwidth", json!("fast"), "`bandwidth`: `fast` is not a size"),
        ("bandwidth", json!(-1), "`bandwidth`: a size"),
        ("window", json!("22:00-06:00"), "`window`: the window `22:00-06:00` has no time zone"),
        ("window", json!("22:00-06:00 Mars/Olympus"), "`window`: `Mars/Olympus` is not a time zone"),
        ("window", json!(""), "`window`: there is no window"),
        ("bandwidth_outside", json!(0), "`bandwidth_outside`: a bandwidth of 0"),
        ("bandwidth_outside", json!(5), "there is no `window` to be outside of"),
        ("lease_ttl", json!("0s"), "`lease_ttl` is not between"),
        ("lease_ttl", json!("soon"), "`lease_ttl`: `soon` is not a duration"),
        ("variant", json!("int5"), "`variant`: `int5` is not a variant"),
        ("variant", json!([]), "`variant` is an empty list"),
        ("hosts", json!("gpu-1"), "a list of host names"),
        ("hosts", json!(["a", "a"]), "somebody twice"),
        ("hosts", json!({"labels": {}}), "selects by no label"),
        ("hosts", json!({"labels": {"a": "b c"}}), "a list of host names"),
        ("requested_by", json!(""), "`requested_by` is empty"),
        ("notify", json!("hooks.example"), "`notify` is not an HTTP address"),
        ("notify", json!("https://u:p@hooks.example"), "`notify` is not an HTTP address"),
        (
            "notify",
            json!(format!("https://hooks.example/{}", "x".repeat(512))),
            "`notify` is not an HTTP address",
        ),
        ("include", json!(vec!["*"; 65]), "more than 64 patterns"),
        ("deadline", json!("tomorrow"), "`deadline`: "),
        ("v", json!(0), "`v` is not a version"),
    ] {
        let error = with(key, value);
        assert!(error.to_string().contains(part), "{key}: {error}");
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(!error.hint().is_empty());
    }
    assert_eq!(with("v", json!(2)).reason(), Reason::UnsupportedVersion);
    assert!(Job::from_json(json!([])).is_err());
}

#[test]
fn an_eviction_says_one_thing() {
    for (job, part) in [
        (json!({"kind": "evict"}), "nothing says what to evict"),
        (json!({"kind": "evict", "repo": "a/b", "free_bytes": 5}), "exclude each other"),
        (json!({"kind": "evict", "revision": "main", "free_bytes": 5}), "but not `repo`"),
        (json!({"kind": "evict", "free_bytes": 0}), "`free_bytes` is 0"),
        (json!({"kind": "evict", "free_bytes": -5}), "`free_bytes`: a size"),
        (json!({"kind": "evict", "free_bytes": "lots"}), "`free_bytes`: `lots` is not a size"),
        (json!({"kind": "evict", "older_than": "-3d"}), "`older_than`: `-3d` is not a duration"),
        (json!({"kind": "evict", "repo": "a/../b"}), "is not a model name"),
        (json!({"kind": "evict", "pin": true}), "unknown field `pin`"),
        (json!({"kind": "verify", "revision": "main"}), "but not `repo`"),
        (json!({"kind": "verify", "max_bytes_per_second": 0}), "`max_bytes_per_second`"),
        (json!({"kind": "profile", "revision": "main"}), "but not `repo`"),
        (json!({"kind": "profile", "target": "model"}), "`repo` is missing"),
        (json!({"kind": "profile", "target": "host", "repo": "a/b"}), "`target` is host"),
        (json!({"kind": "profile", "repo": "a/b", "tests": ["disk"]}), "are about the host"),
        (json!({"kind": "profile", "tests": ["gpu"]}), "unknown variant `gpu`"),
        (json!({"kind": "profile", "disk_bytes": 1}), "`disk_bytes` is not between"),
        (json!({"kind": "preload"}), "missing field `repo`"),
    ] {
        let error = Job::from_json(job.clone()).expect_err("refused");
        assert!(error.to_string().contains(part), "{job}: {error}");
        assert!(!error.hint().is_empty());
    }
}

#[test]
fn equal_wants_are_equal_whoever_asks() {
    let want = |json: Value| Job::from_json(json).expect("valid").work.want();
    let plain = want(json!({"kind": "download", "repo": "a/b"}));
    assert_eq!(
        plain,
        want(json!({"kind": "download", "repo": "a/b", "revision": "main", "pin": true, "priority": 5}))
    );
    assert_eq!(plain, want(json!({"kind": "download", "repo": "a/b", "bandwidth": 5})));
    assert_ne!(plain, want(json!({"kind": "download", "repo": "a/b", "revision": "v1"})));
    let one = want(json!({"kind": "download", "repo": "a/b", "include": ["x", "y"]}));
    assert_eq!(one, want(json!({"kind": "download", "repo": "a/b", "include": ["y", "x", "y"]})));
    assert_ne!(one, plain);
    assert_eq!(plain, want(json!({"kind": "download", "repo": "a/b", "variant": "exact"})));
    assert_ne!(plain, want(json!({"kind": "download", "repo": "a/b", "variant": "auto"})));
    let both = json!({"kind": "download", "repo": "a/b", "variant": "auto", "include": ["*.gguf"]});
    assert!(Job::from_json(both).is_err(), "two ways to choose the files");
}

/// The schema that others generate code from. `LARDER_UPDATE=1 cargo test -p larder-jobs --all-features` writes it.
#[cfg(feature = "schema")]
#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let schemas = [
        ("job.v1.json", schemars::schema_for!(Job)),
        ("job-view.v1.json", schemars::schema_for!(larder_jobs::JobView)),
        ("problem.v1.json", schemars::schema_for!(larder_jobs::Problem)),
    ];
    for (name, schema) in schemas {
        let path = format!("{}/schema/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).expect("writes"));
        if std::env::var_os("LARDER_UPDATE").is_some() {
            std::fs::write(&path, &text).expect(&path);
        }
        assert_eq!(std::fs::read_to_string(&path).expect(&path), text, "{name} is out of date");
    }
}
