//! What stops a foreground command: Ctrl-C, SIGTERM, offline mode, a hub that is not there.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::cache::{Snapshot, assert_clean, partials, published_early};
use support::{Daemon, Hub, Larder, Model, Tripwire, larder, models};

use super::{snapshot, stage};

const PATIENCE: Duration = Duration::from_secs(60);

/// Stages 12 MB from a slow hub and sends the signal when some of it is there; returns the exit code.
fn signalled(hub: &Hub, larder: &Larder, model: &Model, signal: Signal) -> (i32, Daemon) {
    hub.throttle(Some(256 << 10));
    let mut command = larder.spawn(&["stage", model.id(), "--json"]);
    command.allow(Tripwire::Partials);
    assert!(hub.wait_for_bytes(model.id(), 4_000_000, PATIENCE), "{:?}", command.logs());
    let asked = Instant::now();
    command.signal(signal);
    let status = command.wait_exit(PATIENCE).expect("it ends");
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    assert!(!partials(larder.cache()).is_empty(), "bytes are kept");
    assert!(Snapshot::read(larder.cache(), model.id(), "main").is_none(), "nothing is visible");
    assert_eq!(published_early(larder.cache()), Vec::<std::path::PathBuf>::new());
    hub.throttle(None);
    (status.code().expect("an exit code, not a signal"), command)
}

fn only_job(larder: &Larder) -> Value {
    let jobs = larder.run(&["jobs", "list", "--json"]).expect_code(0).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
    jobs[0].clone()
}

/// What was sent in all is the model, and what the socket buffers held at the stop.
#[track_caller]
fn assert_resumed(hub: &Hub, model: &Model) {
    let sent = hub.bytes_of(model.id());
    let most = model.bytes() + (2 << 20);
    assert!(sent <= most, "{sent} bytes were sent for a model of {}", model.bytes());
}

#[test]
fn ctrl_c_cancels_the_job_and_keeps_its_bytes() {
    let (hub, model) = (Hub::start(), models::huge(30, 12_000_000));
    hub.add(model.clone());
    let larder = larder!(&hub);
    let (code, command) = signalled(&hub, &larder, &model, Signal::INT);
    assert_eq!(code, 1, "{}", command.logs().join("\n"));
    let said = command.logs().join("\n");
    assert!(said.contains("[cancelled]") && said.contains("run the same command"), "{said}");
    let cancelled = only_job(&larder);
    assert_eq!(cancelled["state"], "cancelled");

    let job = stage(&larder, &[model.id()]);
    assert_ne!(job["id"], cancelled["id"], "the wish was taken back; this is a new one");
    let (before, after) = (cancelled["bytes_fetched"].as_u64(), job["bytes_fetched"].as_u64());
    assert!(after < Some(model.bytes() - 2_000_000), "it went on: {job}");
    assert_eq!(
        before.zip(after).map(|(before, after)| before + after),
        Some(model.bytes()),
        "all are counted"
    );
    assert_resumed(&hub, &model);
    snapshot(&larder, &model, "main").assert_is(&model);
    assert_clean(larder.cache());
}

#[test]
fn sigterm_puts_the_job_back_and_a_daemon_finishes_it() {
    let (hub, model) = (Hub::start(), models::huge(31, 12_000_000));
    hub.add(model.clone());
    let larder = larder!(&hub);
    let (code, command) = signalled(&hub, &larder, &model, Signal::TERM);
    assert_eq!(code, 75, "{}", command.logs().join("\n"));
    let queued = only_job(&larder);
    assert_eq!((&queued["state"], &queued["attempts"]), (&"queued".into(), &0.into()), "{queued}");

    let daemon = larder.serve();
    let id = queued["id"].as_str().expect("an id");
    let done = daemon.wait_job(id, PATIENCE);
    assert_eq!((&done["state"], &done["attempts"]), (&"ready".into(), &1.into()), "{done}");
    assert_eq!(done["bytes_fetched"], model.bytes(), "those of both attempts: {done}");
    assert_resumed(&hub, &model);
    snapshot(&larder, &model, "main").assert_is(&model);
    drop(daemon);
    assert_clean(larder.cache());
}

#[test]
fn a_daemon_that_stops_puts_its_job_back() {
    let (hub, model) = (Hub::start(), models::huge(32, 12_000_000));
    hub.add(model.clone());
    hub.throttle(Some(2 << 20));
    let larder = larder!(&hub);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Jobs).allow(Tripwire::Partials);
    let job = larder.run(&["stage", model.id(), "--detach", "--json"]).expect_code(0).json();
    assert!(hub.wait_for_bytes(model.id(), 4_000_000, PATIENCE));
    assert!(daemon.terminate(Duration::from_secs(10)).success());
    let queued = only_job(&larder);
    assert_eq!((&queued["id"], &queued["state"]), (&job["id"], &"queued".into()));
    assert_eq!(queued["attempts"], 0, "shutdown is not failure");

    hub.throttle(None);
    let again = larder.serve();
    assert_eq!(again.wait_job(job["id"].as_str().expect("an id"), PATIENCE)["state"], "ready");
    assert_resumed(&hub, &model);
    snapshot(&larder, &model, "main").assert_is(&model);
}

#[test]
fn offline_mode_knows_what_is_there_and_asks_nobody() {
    let (hub, model) = (Hub::start(), models::tiny_gpt2(33, 50_000));
    hub.add(model.clone());
    let mut larder = larder!(&hub);
    stage(&larder, &[model.id()]);
    hub.clear_requests();
    larder.set_env("HF_HUB_OFFLINE", "1");
    let there = stage(&larder, &[model.id()]);
    assert_eq!((&there["bytes_fetched"], &there["commit"]), (&0.into(), &model.commit().into()));
    let exact = format!("{}@{}", model.id(), model.commit());
    assert_eq!(stage(&larder, &[&exact])["bytes_fetched"], 0);

    for missing in ["test/never-staged", &format!("{}@v9", model.id())] {
        let output = larder.run(&["stage", missing, "--json"]).expect_code(1);
        assert_eq!(output.json()["reason"], "offline");
        assert!(output.stderr.contains("HF_HUB_OFFLINE"), "{}", output.stderr);
    }
    assert!(hub.requests().is_empty(), "nobody was asked");
}

#[test]
fn without_a_hub_it_gives_up_soon_and_says_what_can_be_tried() {
    let (hub, model) = (Hub::start(), models::tiny_gpt2(34, 50_000));
    hub.add(model.clone());
    hub.down(true);
    let larder = larder!(&hub);
    let begun = Instant::now();
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(75);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert_eq!(output.json()["reason"], "source_unavailable");
    assert!(output.stderr.contains("cargo run --release --example demo"), "{}", output.stderr);
    let bare = hub.endpoint();
    assert!(output.stderr.contains(bare.trim_start_matches("http://")), "{}", output.stderr);

    hub.down(false);
    stage(&larder, &[model.id()]);
    snapshot(&larder, &model, "main").assert_is(&model);
}

#[test]
fn a_daemon_waits_for_a_hub_that_is_down() {
    let (hub, model) = (Hub::start(), models::tiny_gpt2(35, 50_000));
    hub.add(model.clone());
    hub.down(true);
    let larder = larder!(&hub).env("LARDER__QUEUE__BACKOFF_MAX", "1s");
    let daemon = larder.serve();
    let job = larder.run(&["stage", model.id(), "--detach", "--json"]).expect_code(0).json();
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let waiting = daemon.wait_until(&path, PATIENCE, |job| job["state"] == "waiting");
    assert_eq!(waiting["reason"], "source_unavailable");
    assert!(waiting["until"].is_string(), "{waiting}");
    hub.down(false);
    let done = daemon.wait_job(job["id"].as_str().expect("an id"), PATIENCE);
    assert_eq!(done["state"], "ready", "{done}");
    snapshot(&larder, &model, "main").assert_is(&model);
}
