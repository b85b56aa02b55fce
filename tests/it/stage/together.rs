//! Several at once on one state folder: a daemon and those who ask it, foreground commands beside each other, and
//! who goes on when the one that did the work is gone.

use std::time::Duration;

use serde_json::json;
use support::cache::assert_clean;
use support::{Hub, Larder, Model, larder, models};

use super::{snapshot, stage};

const PATIENCE: Duration = Duration::from_secs(60);

/// A hub that takes two seconds or so for each of these models.
fn slow_hub(models: &[&Model]) -> Hub {
    let hub = Hub::start();
    for model in models {
        hub.add((*model).clone());
    }
    hub.throttle(Some(3 << 20));
    hub
}

/// One weight file of 6 MB.
fn six_megabytes(seed: u64) -> Model {
    models::huge(seed, 6_000_000)
}

fn body(model: &Model) -> serde_json::Value {
    json!({"kind": "download", "repo": model.id()})
}

/// What a model costs when every byte is fetched once.
#[track_caller]
fn assert_fetched_once(hub: &Hub, model: &Model) {
    assert_eq!(hub.bytes_of(model.id()), model.bytes(), "bytes of {} that the hub sent", model.id());
}

#[test]
fn a_daemon_does_what_is_asked_for_and_the_same_want_is_one_job() {
    let model = six_megabytes(20);
    let hub = slow_hub(&[&model]);
    let larder = larder!(&hub);
    let daemon = larder.serve();

    let first = larder.run(&["stage", model.id(), "--detach", "--json"]).expect_code(0).json();
    assert_eq!(first["created"], true);
    let id = first["id"].as_str().expect("an id");
    let second = larder.run(&["stage", model.id(), "--detach", "--json"]).expect_code(0).json();
    assert_eq!((&second["id"], &second["created"]), (&first["id"], &false.into()));
    let over_http = daemon.post("/v1/jobs", &body(&model)).expect(202);
    assert_eq!((&over_http["id"], &over_http["created"]), (&first["id"], &false.into()));

    let joined = stage(&larder, &[model.id()]);
    assert_eq!(joined["id"], first["id"], "a foreground command joins");
    let watched = larder.run(&["jobs", "watch", id, "--json"]).expect_code(0).json();
    assert_eq!((&watched["id"], &watched["state"]), (&first["id"], &"ready".into()));
    assert_eq!(daemon.wait_job(id, PATIENCE)["bytes_fetched"], model.bytes());

    let later = daemon.post("/v1/jobs", &body(&model)).expect(202);
    assert_eq!(later["created"], true, "a want after the end is a new job");
    let later = daemon.wait_job(later["id"].as_str().expect("an id"), PATIENCE);
    assert_eq!((&later["state"], &later["bytes_fetched"]), (&"ready".into(), &0.into()));
    assert_fetched_once(&hub, &model);
    snapshot(&larder, &model, "main").assert_is(&model);
    assert_clean(larder.cache());
}

#[test]
fn a_detached_job_without_anybody_to_do_it_is_refused() {
    let (hub, model) = (Hub::start(), six_megabytes(21));
    hub.add(model.clone());
    let larder = larder!(&hub);
    let refused = larder.run(&["stage", model.id(), "--detach"]).expect_code(75);
    assert!(refused.stderr.contains("larder serve"), "{}", refused.stderr);
    assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    let jobs = larder.run(&["jobs", "list", "--json"]).expect_code(0).json();
    assert_eq!(jobs, json!([]), "nothing was queued");
    assert!(hub.requests().is_empty());
}

/// Runs two `larder stage`, the second when the first is in mid-transfer; both must end well.
fn both(larder: &Larder, hub: &Hub, first: &Model, second: &Model) {
    let mut one = larder.spawn(&["stage", first.id(), "--json"]);
    assert!(hub.wait_for_bytes(first.id(), 1_000_000, PATIENCE), "the first began: {:?}", one.logs());
    stage(larder, &[second.id()]);
    let status = one.wait_exit(PATIENCE).expect("the first ends");
    assert!(status.success(), "{status}: {}", one.logs().join("\n"));
    for model in [first, second] {
        snapshot(larder, model, "main").assert_is(model);
    }
    assert_clean(larder.cache());
}

#[test]
fn two_of_the_same_model_fetch_it_once() {
    let model = six_megabytes(22);
    let hub = slow_hub(&[&model]);
    let larder = larder!(&hub);
    both(&larder, &hub, &model, &model);
    assert_fetched_once(&hub, &model);
    let jobs = larder.run(&["jobs", "list", "--json"]).expect_code(0).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "one want, one job: {jobs}");
}

#[test]
fn two_of_different_models_help_each_other() {
    // The second outlives the owner, takes its place, and goes on with what was fetched.
    let (first, second) = (six_megabytes(23), models::huge(24, 12_000_000));
    let hub = slow_hub(&[&first, &second]);
    let larder = larder!(&hub);
    both(&larder, &hub, &first, &second);
    assert_fetched_once(&hub, &first);
    // What twelve connections had on the way when their owner left.
    let slack = 12 << 18;
    let sent = hub.bytes_of(second.id());
    assert!(sent <= second.bytes() + slack, "{sent} bytes sent of {}", second.bytes());
}

#[test]
fn a_waiting_command_takes_the_place_of_an_owner_that_was_killed() {
    let model = models::huge(25, 12_000_000);
    let hub = slow_hub(&[&model]);
    // Few enough that the owner is killed long before the end.
    let larder = larder!(&hub).env("LARDER__HUB__CONNECTIONS", "4");
    let mut owner = larder.serve();
    let mut waiting = larder.spawn(&["stage", model.id(), "--json"]);
    assert!(hub.wait_for_bytes(model.id(), 2_000_000, PATIENCE));
    let fetching = |line: &str| line.starts_with("fetching");
    assert!(waiting.wait_line(fetching, PATIENCE).is_some(), "it watches: {:?}", waiting.logs());
    owner.kill9();
    let status = waiting.wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status}: {}", waiting.logs().join("\n"));
    snapshot(&larder, &model, "main").assert_is(&model);
    assert_clean(larder.cache());
    let jobs = larder.run(&["jobs", "list", "--json"]).expect_code(0).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "the same job went on: {jobs}");
    assert_eq!(jobs[0]["state"], "ready");
}
