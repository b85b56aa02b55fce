//! Leftovers go when they are old, damage is found and mended, and larder says what it can see.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;
use support::cache::{Snapshot, assert_clean, walk};
use support::{Hub, Tripwire, larder};

use super::{PATIENCE, house, listed, metric, model, put, text};

fn age(path: &Path, by: Duration) {
    let then = SystemTime::now() - by;
    let file = File::options().append(true).open(path).expect("opens");
    file.set_times(FileTimes::new().set_modified(then).set_accessed(then)).expect("set");
}

#[test]
fn old_leftovers_of_every_client_go_and_young_ones_stay() {
    let larder = larder!(&Hub::start())
        .env("LARDER__CACHE__CHECK_EVERY", "1s")
        .env("LARDER__CACHE__RECONCILE_EVERY", "1s");
    put(larder.cache(), "a/b", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    let blobs = larder.cache().join("models--a--b/blobs");
    let (old, young) = ("c".repeat(64), "d".repeat(64));
    let leftovers = [
        blobs.join(format!("{old}.0123abcd.incomplete")),
        blobs.join(&old),
        blobs.join(format!("{young}.0123abcd.incomplete")),
    ];
    for path in &leftovers {
        fs::write(path, [7; 4_096]).expect("written");
    }
    let week = Duration::from_secs(8 * 86_400);
    leftovers[..2].iter().for_each(|path| age(path, week));
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Partials);
    let gone = |line: &str| line.contains("leftovers of transfers are removed");
    assert!(daemon.wait_line(gone, PATIENCE).is_some());
    let left: Vec<bool> = leftovers.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [false, false, true]);
    assert_eq!(metric(&daemon, "larder_cache_leftovers_total{kind=\"partial\"}"), 1.0);
    assert_eq!(metric(&daemon, "larder_cache_leftovers_total{kind=\"orphan\"}"), 1.0);
    assert_eq!(metric(&daemon, "larder_cache_leftover_bytes_total"), 8_192.0);
    assert_eq!(listed(&larder), ["a/b"]);
}

/// The largest blob of a model.
fn weights(cache: &Path, name: &str) -> PathBuf {
    let repo = cache.join(format!("models--{}", name.replace('/', "--")));
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    walk(&repo.join("blobs")).into_iter().max_by_key(size).expect("a blob")
}

/// Turns a byte of a file around, and gives it its old time back, as a bad disk would.
fn spoil(path: &Path) {
    let (mut bytes, found) = (fs::read(path).expect("there"), fs::metadata(path).expect("there"));
    bytes[1_000] ^= 1;
    fs::write(path, bytes).expect("written");
    let file = File::options().append(true).open(path).expect("opens");
    file.set_times(FileTimes::new().set_modified(found.modified().expect("a time"))).expect("set");
}

#[test]
fn a_byte_that_turned_is_found_and_the_model_staged_again() {
    let (hub, larder) = house(&["a/one", "a/two"]);
    let right = larder.run(&["verify", "--json"]).expect_code(0).json();
    assert_eq!((&right["state"], &right["files_done"]), (&json!("done"), &right["files_total"]), "{right}");
    spoil(&weights(larder.cache(), "a/one"));
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let wrong = larder.run(&["verify", "a/one", "--json"]).expect_code(1);
    assert_eq!(wrong.json()["reason"], "integrity_mismatch");
    assert!(
        wrong.stderr.contains("of a/one@") && wrong.stderr.contains("being staged again"),
        "{}",
        wrong.stderr
    );
    assert_eq!(metric(&daemon, "larder_verify_corrupt_total"), 1.0);
    let healed = |jobs: &serde_json::Value| {
        let mut jobs = jobs["jobs"].as_array().expect("a list").iter();
        jobs.any(|job| job["requested_by"] == json!(["verify"]) && job["state"] == "ready")
    };
    daemon.wait_until("/v1/jobs", PATIENCE, healed);
    assert_eq!(listed(&larder), ["a/one", "a/two"]);
    larder.run(&["verify"]).expect_code(0);
    daemon.terminate(PATIENCE);
    assert_clean(larder.cache());
    let found = Snapshot::read(larder.cache(), "a/one", "main").expect("staged");
    assert!(hub.bytes_of("a/one") > found.bytes(), "its weights came again");
}

#[test]
fn what_another_client_fetched_is_hashed_once_and_half_of_it_is_none() {
    let hub = Hub::start();
    hub.add(model("a/one", 560, 1_000_000));
    let larder = larder!(&hub);
    larder.run(&["stage", "a/one"]).expect_code(0);
    let as_if_another_had_fetched_it =
        || fs::remove_dir_all(larder.cache().join("models--a--one/.larder")).expect("removed");
    as_if_another_had_fetched_it();
    larder.run(&["verify", "a/one"]).expect_code(0);
    let models = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(models[0]["origin"], "adopted", "reading it makes it nobody's own: {models}");
    assert!(models[0]["verified_at"].is_string(), "{models}");
    let before = hub.bytes_of("a/one");
    let staged = larder.run(&["stage", "a/one", "--json"]).expect_code(0).json();
    assert_eq!((&staged["bytes_fetched"], hub.bytes_of("a/one") - before), (&json!(0), 0), "{staged}");

    as_if_another_had_fetched_it();
    spoil(&weights(larder.cache(), "a/one"));
    let wrong = larder.run(&["verify", "a/one"]).expect_code(1);
    assert!(wrong.stderr.contains("stage the model again"), "{}", wrong.stderr);
    assert_eq!(listed(&larder), [""; 0], "half a model is none");
    assert!(!larder.cache().join("models--a--one/refs/main").exists());
}

#[test]
fn what_was_named_by_mistake_is_brought_back_until_its_room_is_needed() {
    let (hub, larder) = house(&["a/one", "a/two", "a/three"]);
    let larder = larder.env("LARDER__CACHE__TRASH", "7d");
    larder.run(&["pin", "a/three"]).expect_code(0);
    let before = hub.bytes_of("a/one");
    let gone = larder.run(&["evict", "a/one"]).expect_code(0);
    assert!(gone.stderr.contains("larder restore brings back"), "{}", gone.stderr);
    assert_eq!(listed(&larder), ["a/three", "a/two"]);
    assert_clean(larder.cache());
    let lost = larder.run(&["why", "a/one"]).expect_code(3);
    assert!(lost.stderr.contains("larder restore a/one"), "{}", lost.stderr);
    larder.run(&["restore", "a/two"]).expect_code(3);

    larder.run(&["restore", "a/one"]).expect_code(0);
    assert_clean(larder.cache());
    let models = larder.run(&["ls", "a/one", "--json"]).expect_code(0).json();
    assert_eq!(
        (&models[0]["origin"], &models[0]["revisions"]),
        (&json!("staged"), &json!(["main"])),
        "{models}"
    );
    larder.run(&["stage", "a/one"]).expect_code(0);
    larder.run(&["verify", "a/one"]).expect_code(0);
    assert_eq!(hub.bytes_of("a/one"), before, "not a byte came again");

    // Room is wanted: what was to go anyway goes, and nothing else.
    larder.run(&["evict", "a/one"]).expect_code(0);
    let freed = larder.run(&["evict", "--free", "1MB", "--json"]).expect_code(0).json();
    assert_eq!(freed["files_done"], 0, "{freed}");
    assert_eq!(listed(&larder), ["a/three", "a/two"]);
    larder.run(&["restore", "a/one"]).expect_code(3);
    assert!(!larder.cache().join("models--a--one").exists());
}

#[test]
fn the_whole_cache_is_read_again_in_its_time() {
    let (_hub, larder) = house(&["a/old", "a/young"]);
    let larder = larder.env("LARDER__CACHE__SCRUB_EVERY", "2d");
    // However full this machine's disk is.
    let larder = larder.env("LARDER__CACHE__CAPACITY", "1GB");
    // As if the one had been staged three days ago; the records learn it from the receipt.
    let receipts = larder.cache().join("models--a--old/.larder/receipts");
    let receipt = walk(&receipts).pop().expect("a receipt");
    let read = fs::read_to_string(&receipt).expect("there");
    let mut json: serde_json::Value = serde_json::from_str(&read).expect("JSON");
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(72);
    json["staged_at"] = json!(then.to_string());
    fs::write(&receipt, json.to_string()).expect("written");
    let daemon = larder.serve();
    let is_read = |all: &serde_json::Value| all["models"][0]["verified_at"].is_string();
    let models = daemon.wait_until("/v1/models", PATIENCE, is_read);
    assert_eq!(models["models"][1]["verified_at"], json!(null), "the young one has time: {models}");
    let jobs = daemon.get("/v1/jobs?kind=verify").expect(200);
    let jobs = jobs["jobs"].as_array().expect("a list");
    assert_eq!((jobs.len(), &jobs[0]["requested_by"]), (1, &json!(["scrub"])), "{jobs:?}");
}

#[test]
fn doctor_says_what_it_sees_and_what_to_do() {
    let larder = larder!(&Hub::start());
    put(larder.cache(), "a/b", &"1".repeat(40), &[("w.safetensors", &[1; 8_192])]);
    let report = larder.run(&["doctor", "--json"]).expect_code(0).json();
    let of = |what: &str| {
        let found = report.as_array().expect("a list").iter().find(|one| one["what"] == what);
        found.unwrap_or_else(|| panic!("nothing of {what}: {report}")).clone()
    };
    assert_eq!(of("larder")["state"], "warning");
    assert!(text(&of("larder")["hint"]).contains("larder serve"), "{report}");
    assert!(text(&of("cache")["found"]).contains("1 models in 1 revisions"), "{report}");
    assert!(text(&of("in use")["found"]).contains("1 of 1 models"), "{report}");
    let reconcile = || larder.run(&["doctor", "--reconcile"]).expect_code(0).stdout;
    let (first, second) = (reconcile(), reconcile());
    assert!(first.contains("1 adopted") && second.contains("agree with the cache"), "{first}\n{second}");
    let _daemon = larder.serve();
    assert!(larder.run(&["doctor"]).expect_code(0).stdout.contains("runs for"));
    // What somebody else does meanwhile is found when it is asked for.
    put(larder.cache(), "c/d", &"2".repeat(40), &[("w.safetensors", &[2; 8_192])]);
    fs::remove_dir_all(larder.cache().join("models--a--b")).expect("removed");
    let repaired = reconcile();
    assert!(repaired.contains("1 adopted, 1 vanished"), "{repaired}");
    assert_eq!(listed(&larder), ["c/d"]);
}
