//! What a job may cost whatever its size: requests for each file, and the memory of the process at its peak.

use serde_json::json;
use support::{Daemon, Hub, Larder, Model, larder, models};

use super::{PATIENCE, assert_there, short_or_long};

/// Memory of a daemon at its peak.
const MOST: u64 = 64 << 20;

/// Pages of a release build's program that are resident after a download.
const PROGRAM: u64 = 16 << 20;

/// The most memory that the process ever had resident, in bytes (`VmHWM`, proc_pid_status(5)), less the pages of its
/// program (`RssFile`) beyond those of a release build: without optimization it is many times as large.
fn peak(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/status", daemon.pid());
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("{line}")) << 10
    };
    bytes("VmHWM:") - bytes("RssFile:").saturating_sub(PROGRAM)
}

/// Has a daemon stage the model, and returns its peak of memory.
#[track_caller]
fn peak_of_staging(larder: &Larder, model: &Model) -> u64 {
    let daemon = larder.serve();
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": model.id()})).expect(202);
    let done = daemon.wait_job(job["id"].as_str().expect("an id"), PATIENCE * short_or_long(1, 10));
    assert_eq!(done["state"], "ready", "{done}");
    // Where one connection takes over half of another's piece, some bytes may be on their way already.
    let fetched = done["bytes_fetched"].as_u64().expect("a number");
    assert!((model.bytes()..=model.bytes() + model.bytes() / 50).contains(&fetched), "{done}");
    peak(&daemon)
}

#[track_caller]
fn assert_small(what: &str, peak: u64) {
    println!("{what}: {:.1} MiB at the peak", peak as f64 / f64::from(1 << 20));
    assert!(peak < MOST, "{what}: {} MiB at the peak, {} allowed", peak >> 20, MOST >> 20);
}

#[test]
fn thousands_of_tiny_files_cost_one_request_each_and_little_memory() {
    let files: usize = short_or_long(5_000, 50_000);
    let numbered = |n: usize| (format!("parts/{:03}/{n:05}.json", n / 100), format!("{{\"n\": {n}}}\n"));
    let model = (0..files)
        .map(numbered)
        .fold(Model::new("test/many-files"), |model, (path, text)| model.file(path, text));
    let hub = Hub::start();
    hub.add(model.clone());
    let larder = larder!(&hub);
    let peak = peak_of_staging(&larder, &model);
    let (all, asked) = (hub.requests().len(), hub.requests_for("/resolve/").len());
    println!("{asked} requests for {files} files, {} others", all - asked);
    assert_eq!(asked, files, "one request for each file");
    // A thousand entries come on one page, folders among them.
    let pages = (files + files / 100).div_ceil(1000) + 2;
    assert!(all - asked <= pages + 3, "{} requests beside those for files", all - asked);
    assert_small(&format!("{files} tiny files"), peak);
    assert_there(&larder, &model);
}

#[test]
fn a_large_file_costs_little_memory() {
    let bytes = short_or_long(600, 4_000) * 1_000_000;
    let (hub, model) = (Hub::start(), models::huge(920, bytes));
    hub.add(model.clone());
    let larder = larder!(&hub);
    let peak = peak_of_staging(&larder, &model);
    assert_small(&format!("a file of {} MB", bytes / 1_000_000), peak);
    assert_there(&larder, &model);
}
