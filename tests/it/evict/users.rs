//! Who has a model open protects it, whoever and however; the field's own client agrees with what is left.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{chown, lchown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use support::cache::{assert_clean, walk};
use support::fs::{bind, is_root};
use support::python::{interpreter, python};
use support::{Hub, larder};

use super::{PATIENCE, house, listed, put, text};

/// A process that maps a file and closes its descriptor, as loaders of weights do; it lives until its input ends.
fn mapper(path: &std::path::Path) -> Child {
    const MAP: &str = "import mmap, sys\n\
        with open(sys.argv[1], 'rb') as f: m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
        print(m[0], flush=True)\nsys.stdin.read()\n";
    let mut child = Command::new(interpreter())
        .args(["-c", MAP])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "it has mapped the file");
    child
}

#[test]
fn a_mapped_model_stays_until_its_reader_ends() {
    let (_hub, larder) = house(&["a/one", "a/two"]);
    // However full this machine's disk is.
    let larder = larder.env("LARDER__CACHE__CAPACITY", "1GB");
    let daemon = larder.serve();
    let folder = text(&daemon.get("/v1/models/a/one").expect(200)["models"][0]["path"]);
    let weights = std::fs::read_dir(folder).expect("there").flatten();
    let weights = weights.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("model"));
    let mut reader = mapper(&weights.expect("weights"));

    let refused = larder.run(&["evict", "a/one"]).expect_code(4);
    assert!(refused.stderr.contains("it is in use [protected]"), "{}", refused.stderr);
    let why = daemon.get("/v1/models/a/one").expect(200)["models"][0].clone();
    assert_eq!(why["reason"], "in_use", "{why}");
    assert!(text(&why["because"]).contains("/blobs/"), "{why}");
    // The other one is younger, and goes nevertheless.
    larder.run(&["evict", "--free", "1MB"]).expect_code(0);
    assert_eq!(listed(&larder), ["a/one"]);
    // The keeper sees it by itself, and that counts as use.
    let seen = |all: &serde_json::Value| all["models"][0]["in_use"] == true;
    let models = daemon.wait_until("/v1/models", PATIENCE, seen);
    let used = super::metric(&daemon, "larder_cache_used_bytes{class=\"in_use\"}");
    assert!(used > 2e6, "{models}");

    drop(reader.stdin.take());
    assert!(reader.wait().expect("ends").success());
    daemon.wait_until("/v1/models", PATIENCE, |all| all["models"][0]["in_use"] == false);
    larder.run(&["evict", "a/one"]).expect_code(0);
    assert_eq!(listed(&larder), [""; 0]);
}

const SCAN: &str = r#"
import json, huggingface_hub as h
found = h.scan_cache_dir()
print(json.dumps({
    "warnings": [str(warning) for warning in found.warnings],
    "repos": {repo.repo_id: repo.size_on_disk for repo in found.repos},
}))
"#;
const FETCH: &str = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))";

#[test]
fn python_agrees_before_and_after_and_either_stages_again() {
    let (hub, larder) = house(&["a/one", "a/two"]);
    let (cache, home) = (larder.cache().display().to_string(), larder.home().display().to_string());
    let endpoint = hub.endpoint();
    let env =
        [("HF_HUB_CACHE", cache.as_str()), ("HF_HOME", &home), ("HOME", &home), ("HF_ENDPOINT", &endpoint)];
    let scan = || python(SCAN, &[], &env).expect_code(0).json();
    let sizes = || {
        let models = larder.run(&["ls", "--json"]).expect_code(0).json();
        let models = models.as_array().expect("a list").iter();
        serde_json::Value::Object(models.map(|one| (text(&one["repo"]), one["bytes"].clone())).collect())
    };
    assert_eq!(scan(), json!({"warnings": [], "repos": sizes()}));
    larder.run(&["evict", "a/one"]).expect_code(0);
    assert_eq!(scan(), json!({"warnings": [], "repos": sizes()}));
    assert_eq!(listed(&larder), ["a/two"]);

    python(FETCH, &["a/one"], &env).expect_code(0);
    assert_eq!(scan(), json!({"warnings": [], "repos": sizes()}), "it is adopted");
    larder.run(&["evict", "a/one", "a/two"]).expect_code(0);
    assert_eq!(scan(), json!({"warnings": [], "repos": {}}));
    larder.run(&["stage", "a/one"]).expect_code(0);
    assert_eq!(scan(), json!({"warnings": [], "repos": sizes()}));
    assert_clean(larder.cache());
}

#[test]
fn a_model_that_is_mounted_elsewhere_stays() {
    let (_hub, larder) = house(&["a/one"]);
    let elsewhere = larder.root().join("pod");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let Some(mounted) = bind(&larder.cache().join("models--a--one/snapshots"), &elsewhere) else {
        println!("skipped: mounting takes root");
        return;
    };
    let refused = larder.run(&["evict", "a/one"]).expect_code(4);
    assert!(refused.stderr.contains("it is in use"), "{}", refused.stderr);
    drop(mounted);
    larder.run(&["evict", "a/one"]).expect_code(0);
}

/// Neither root nor the owner of the blobs: the kernel grants no lease, and `/proc` shows only a part.
#[test]
fn what_cannot_be_known_goes_only_by_name() {
    const NOBODY: u32 = 65_534;
    if !is_root() {
        println!("skipped: files of another user take root");
        return;
    }
    let larder =
        larder!(&Hub::start()).env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__EVICT", "all");
    put(larder.cache(), "a/b", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    // The folders are its own, and the blobs root's.
    let mut folders = vec![larder.root().to_owned()];
    while let Some(folder) = folders.pop() {
        chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        let entries = std::fs::read_dir(&folder).expect("readable").flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    for path in walk(larder.cache())
        .into_iter()
        .filter(|path| !path.starts_with(larder.cache().join("models--a--b/blobs")))
    {
        lchown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let run = |args: &[&str]| {
        let output = larder.command(args).uid(NOBODY).gid(NOBODY).output().expect("runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, plan, said) = run(&["evict", "--free", "1KB", "--dry-run", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(plan.contains("\"reason\": \"use_unknown\""), "{plan}");
    let (code, _, said) = run(&["evict", "--free", "1KB"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("in use or not, which cannot be told"), "{said}");
    let (_, report, _) = run(&["doctor"]);
    assert!(report.contains("CAP_LEASE"), "{report}");
    let (code, _, said) = run(&["evict", "a/b"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!larder.cache().join("models--a--b").exists());
}
