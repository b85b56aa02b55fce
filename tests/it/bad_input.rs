//! Whatever is wrong with names, hubs, listings, configuration, folders and requests: a clear word, the right exit code,
//! and nothing written where it does not belong. The HTTP half is `api`'s `malformed`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::cache::{partials, tree_of, walk};
use support::{Fault, Hub, Larder, Model, Output, Tripwire, models};

fn larder() -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder")))
}

/// Panics unless the command failed with this code and reason, names `thing`, and its hint has `help`.
#[track_caller]
fn assert_refused(output: Output, code: i32, reason: &str, thing: &str, help: &str) {
    let stderr = output.expect_code(code).stderr;
    let hint = stderr.split(" hint: ").nth(1).unwrap_or_else(|| panic!("no hint: {stderr}"));
    assert!(stderr.contains(&format!("[{reason}]")), "{reason}: {stderr}");
    assert!(stderr.contains(thing), "it names {thing}: {stderr}");
    assert!(hint.contains(help), "the hint has {help}: {stderr}");
    assert!(!stderr.contains("panicked") && stderr.len() < 2_000, "{stderr}");
}

#[test]
fn names_that_are_none() {
    let hub = Hub::start();
    let larder = larder().hub(&hub);
    let long = "a/".to_owned() + "b".repeat(10_000).as_str();
    let names = [
        "../etc/passwd",
        "a/..",
        "a/../b",
        "/etc/passwd",
        "/",
        "",
        "a",
        "a/b/c",
        "a b/c",
        "a/b@",
        "a/b@../x",
        "a/b@x..y",
        "a\\b/c",
        "a/b\n",
        "a/b@\u{1b}[31m",
        &long,
    ];
    for name in names {
        for verb in ["stage", "plan", "ls"] {
            assert_refused(larder.run(&[verb, name]), 2, "invalid_request", " is not a ", " ");
        }
    }
    for bytes in [&b"a/\xff\xfe"[..], b"\xc3\x28/b"] {
        let mut command = larder.command(&["stage"]);
        let output = command.arg(OsStr::from_bytes(bytes)).stdin(Stdio::null()).output().expect("runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"), "{output:?}");
    }
    assert!(hub.requests().is_empty(), "nobody was asked: {:?}", hub.requests());
    assert!(walk(larder.cache()).is_empty(), "nothing was written");
}

#[test]
fn what_the_hub_does_not_have_or_not_give() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    hub.add(models::tiny_gpt2(2, 20_000).named("test/gated").gated());
    hub.add(models::tiny_gpt2(3, 20_000).named("test/private").private());
    hub.allow_token("hf_stranger");
    hub.grant("hf_friend", "test/gated");
    hub.grant("hf_friend", "test/private");
    let mut larder = larder().hub(&hub);
    let stage = |larder: &Larder, model: &str| larder.run(&["stage", model]);
    assert_refused(stage(&larder, "test/none"), 3, "not_found", "test/none", "check the name");
    assert_refused(stage(&larder, "test/tiny-gpt2-1@v9"), 3, "not_found", "v9", "branch, tag or commit");
    let commit = format!("test/tiny-gpt2-1@{}", "0".repeat(40));
    assert_refused(stage(&larder, &commit), 3, "not_found", "0000", "commit");
    assert_refused(stage(&larder, "test/private"), 3, "not_found", "test/private", "HF_TOKEN");
    let terms = format!("{}/test/gated", hub.endpoint());
    assert_refused(stage(&larder, "test/gated"), 4, "gated", "test/gated", &terms);
    assert_refused(stage(&larder, "test/gated"), 4, "gated", "test/gated", "HF_TOKEN");
    larder.set_env("HF_TOKEN", "hf_stranger");
    assert_refused(stage(&larder, "test/gated"), 4, "gated", "test/gated", &terms);
    assert_refused(stage(&larder, "test/private"), 3, "not_found", "test/private", "account");
    larder.set_env("HF_TOKEN", "hf_wrong");
    let refused = stage(&larder, "test/gated");
    assert!(!refused.stderr.contains("hf_wrong"), "the token is not printed: {}", refused.stderr);
    assert_refused(refused, 4, "unauthorized", "token", "HF_TOKEN");
    assert!(
        !tree_of(larder.cache()).contains("snapshots/"),
        "nothing is visible: {}",
        tree_of(larder.cache())
    );
    larder.set_env("HF_TOKEN", "hf_friend");
    stage(&larder, "test/gated").expect_code(0);
    stage(&larder, "test/private").expect_code(0);
    assert!(!hub.token_reached_cdn(), "the token stays with the hub");
}

#[test]
fn a_hub_that_is_none() {
    let page = Hub::not_a_hub();
    let larder = larder().hub(&page).timeout(Duration::from_secs(30));
    for args in [["plan", "a/b"], ["stage", "a/b"]] {
        let output = larder.run(&args);
        assert_refused(output, 75, "source_unavailable", &page.endpoint(), "hub.endpoint or HF_ENDPOINT");
    }
    let wrong = larder.env("HF_ENDPOINT", "localhost:80");
    assert_refused(wrong.run(&["plan", "a/b"]), 2, "invalid_request", "endpoint", "https://");
}

/// An entry of a listing with a sound digest.
fn entry(path: &str, size: Value) -> Value {
    let sha256 = "0123456789abcdef".repeat(4);
    let oid = "0123456789abcdef0123456789abcdef01234567";
    json!({"type": "file", "oid": oid, "size": size, "path": path,
           "lfs": {"oid": sha256, "size": size, "pointerSize": 130}})
}

#[test]
fn listings_that_lie() {
    let hub = Hub::start();
    let larder = larder().hub(&hub);
    let absolute = larder.root().join("evil").display().to_string();
    let cases: Vec<(&str, Vec<Value>)> = vec![
        ("../../evil", vec![entry("../../evil", json!(4))]),
        ("..", vec![entry("..", json!(4))]),
        ("evil", vec![entry(&absolute, json!(4))]),
        ("a/../../../evil", vec![entry("a/../../../evil", json!(4))]),
        ("a//b", vec![entry("a//b", json!(4))]),
        ("control character", vec![entry("evil\0x", json!(4))]),
        ("config.json is listed twice", vec![entry("config.json", json!(4))]),
        ("case only", vec![entry("CONFIG.json", json!(4))]),
        ("also a file", vec![entry("config.json/x", json!(4))]),
        ("size", vec![entry("model.safetensors", json!(u64::MAX))]),
        ("size", vec![entry("model.safetensors", json!(-1))]),
        ("size", vec![entry("model.safetensors", json!(1e30))]),
        ("size", vec![entry("model.safetensors", json!("4"))]),
        ("add up", (0..3).map(|n| entry(&format!("{n}.safetensors"), json!(i64::MAX))).collect()),
        ("digest", vec![json!({"type": "file", "oid": "zz", "size": 4, "path": "x.safetensors"})]),
        ("neither a file", vec![json!({"type": "symlink", "oid": "0", "size": 4, "path": "x"})]),
    ];
    let before = outside(&larder);
    for (n, (thing, entries)) in cases.into_iter().enumerate() {
        let id = format!("test/liar-{n}");
        hub.add(Model::new(&id).file("config.json", "{}").file("a.safetensors", "x"));
        entries.into_iter().for_each(|entry| hub.tree_entry(&id, entry));
        assert_refused(larder.run(&["stage", &id]), 4, "structure_invalid", thing, "owner");
    }
    assert_eq!(outside(&larder), before, "nothing was written outside of the cache");
    assert_eq!(tree_of(larder.cache()), "", "nothing was written into the cache");
    hub.add(Model::new("test/vast").file("config.json", "{}"));
    hub.tree_entry("test/vast", entry("model.safetensors", json!(1_u64 << 60)));
    assert_refused(larder.run(&["stage", "test/vast"]), 4, "insufficient_disk", "EiB", " ");
    assert!(partials(larder.root()).is_empty());
}

/// Everything around the cache but larder's own records.
fn outside(larder: &Larder) -> String {
    let own = ["hub/", "state/"];
    let tree = tree_of(larder.root());
    tree.lines().filter(|line| !own.iter().any(|own| line.starts_with(own))).collect()
}

#[test]
fn configuration_with_typos_and_nonsense() {
    let larder = larder();
    let check = |args: &[&str]| larder.run(&[&["config", "check"], args].concat());
    let file = |name: &str, text: &str| {
        std::fs::write(larder.root().join(name), text).expect("writes");
        check(&["--config", name])
    };
    let typo = file("typo.toml", "[hub]\nstall_timout = \"1s\"\n");
    assert_refused(
        typo,
        2,
        "invalid_request",
        "`hub.stall_timout` in the file typo.toml",
        "`hub.stall_timeout`",
    );
    assert_refused(
        file("section.toml", "[quee]\nlease = \"1m\"\n"),
        2,
        "invalid_request",
        "`quee`",
        "`queue`",
    );
    assert_refused(
        file("type.toml", "[hub]\nconnections = \"x\"\n"),
        2,
        "invalid_request",
        "a whole number",
        "comment",
    );
    let night = "[[warm]]\nmanifest = \"a.toml\"\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"0s\"\n";
    assert_refused(file("grace.toml", night), 2, "invalid_request", "warm[0].grace: 0s is too short", "1m");
    assert_refused(file("broken.toml", "[hub\n"), 2, "invalid_request", "broken.toml", " ");
    assert_refused(file("text.toml", "\u{0}\u{1}"), 2, "invalid_request", "text.toml", " ");
    assert_refused(check(&["--config", "none.toml"]), 2, "invalid_request", "none.toml", "--config");
    for (pair, help) in
        [("hub.conections=1", "`hub.connections`"), ("cache.rot=/x", "`cache.root`"), ("x=1", "queue")]
    {
        let key = pair.split('=').next().expect("a key");
        assert_refused(check(&["--set", pair]), 2, "invalid_request", &format!("`{key}`"), help);
    }
    let values = [
        ("queue.lease", "soon"),
        ("queue.concurrency.download", "0"),
        ("hub.range", "0"),
        ("hub.connections", "-1"),
        ("cache.keep_free", "120%"),
        ("cache.keep_free", "much"),
        ("log.format", "xml"),
        ("log.level", "=="),
        ("api.listen", "7717"),
        ("api.listen", "0.0.0.0:7717"),
        ("api.listen", "[::]:7717"),
        ("api.url", "x"),
        ("hub.endpoint", "huggingface.co"),
        ("hub.offline", "maybe"),
        ("queue", "1"),
    ];
    for (key, value) in values {
        let output = check(&["--set", &format!("{key}={value}")]);
        assert!(!output.stderr.contains("struct ") && !output.stderr.contains("usize"), "{}", output.stderr);
        assert_refused(output, 2, "invalid_request", key, " ");
    }
    let larder = larder.env("LARDER__HUB__STAL_TIMEOUT", "1s");
    let typo = larder.run(&["serve"]);
    assert_refused(typo, 2, "invalid_request", "LARDER__HUB__STAL_TIMEOUT", "`hub.stall_timeout`");
    let larder = larder.env("LARDER__HUB__STAL_TIMEOUT", "").env("LARDER_CONFIG", "/none.toml");
    assert_refused(larder.run(&["ls"]), 2, "invalid_request", "/none.toml", "LARDER_CONFIG");
}

/// `larder ls` with its state there.
fn with_state(larder: &Larder, state: &Path) -> Output {
    larder.run(&["ls", "--set", &format!("state.path={}", state.display())])
}

#[test]
fn state_folders_that_cannot_be_used() {
    let larder = larder();
    larder.run(&["ls"]).expect_code(0);
    let marker = larder.state().join("store.json");
    assert!(marker.is_file(), "a store leaves its marker");
    std::fs::write(&marker, r#"{"schema": 999}"#).expect("writes");
    let before = tree_of(&larder.state().join("db"));
    let state = larder.state().display().to_string();
    assert_refused(larder.run(&["ls"]), 2, "unsupported_version", &state, "upgrade");
    assert_eq!(tree_of(&larder.state().join("db")), before, "what a newer larder wrote is left alone");

    assert_refused(
        with_state(&larder, Path::new("/dev/null/x")),
        75,
        "io_error",
        "/dev/null/x",
        "state.path",
    );
    let deep = larder.root().join("d".repeat(100)).join("state");
    let long = larder.run(&["serve", "--set", &format!("state.path={}", deep.display())]);
    assert_refused(long, 2, "invalid_request", "too long for a unix socket", "shorter");

    let file = larder.root().join("file");
    std::fs::write(&file, "").expect("writes");
    let fresh = larder.root().join("fresh");
    let at_file = larder.run(&[
        "ls",
        "--set",
        &format!("cache.root={}", file.display()),
        "--set",
        &format!("state.path={}", fresh.display()),
    ]);
    assert_refused(at_file, 2, "invalid_request", &file.display().to_string(), "cache.root");
}

#[test]
fn a_read_only_state_folder() {
    let larder = larder();
    let Some(disk) = support::fs::Tmpfs::mount(4 << 20) else {
        return println!("skipped: mounting needs root");
    };
    let state = disk.path().join("state");
    if !disk.read_only() {
        return println!("skipped: the filesystem cannot be remounted");
    }
    assert_refused(with_state(&larder, &state), 75, "io_error", &state.display().to_string(), "writable");
}

#[test]
fn a_state_folder_that_another_process_holds() {
    let larder = larder();
    let daemon = larder.serve();
    let socket: PathBuf = daemon.socket();
    let hidden = larder.root().join("hidden.sock");
    std::fs::rename(&socket, &hidden).expect("the socket goes");
    let who = format!("process {}", daemon.pid());
    for args in [&["ls"][..], &["jobs"], &["serve"]] {
        assert_refused(larder.run(args), 75, "queue_unavailable", &who, "socket");
    }
    std::fs::rename(&hidden, &socket).expect("the socket comes back");
    larder.run(&["ls"]).expect_code(0);
}

/// One bad model does not disturb the others, and its job says what was wrong.
#[test]
fn a_daemon_goes_on_after_bad_models() {
    let hub = Hub::start();
    hub.add(Model::new("test/liar").file("config.json", "{}"));
    hub.tree_entry("test/liar", entry("../../evil", json!(4)));
    hub.add(models::tiny_gpt2(1, 20_000));
    hub.add(models::tiny_gpt2(2, 20_000));
    hub.fault(Fault::on("/tree/").host(support::Host::Hub).kind(support::FaultKind::Html));
    let larder = larder().hub(&hub);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let ask = |repo: &str| {
        let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": repo})).expect(202);
        job["id"].as_str().expect("an id").to_owned()
    };
    let first = ask("test/tiny-gpt2-1");
    let bad = [("test/liar", "structure_invalid"), ("test/none", "not_found")]
        .map(|(repo, word)| (ask(repo), word));
    let last = ask("test/tiny-gpt2-2");
    for id in [first, last] {
        assert_eq!(daemon.wait_job(&id, Duration::from_secs(60))["state"], "ready");
    }
    for (id, word) in bad {
        let job = daemon.wait_job(&id, Duration::from_secs(60));
        assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!(word)), "{job}");
        assert!(job["message"].as_str().is_some_and(|message| message.contains("; hint: ")), "{job}");
    }
}
