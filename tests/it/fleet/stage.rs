//! The commands of a machine that runs no larder of its own, and where they go when one runs there.

use std::time::Duration;

use serde_json::Value;
use support::{Hub, Larder, Model, Redis, models};

use super::{PATIENCE, Program, machine};

/// A fleet with one worker, `gpu-1`, and a desk that runs none.
struct Fleet {
    redis: Redis,
    hub: Hub,
    model: Model,
    worker: Larder,
    desk: Larder,
}

fn fleet() -> Fleet {
    let (redis, hub, model) = (Redis::start(), Hub::start(), models::tiny_gpt2(1, 1_000_000));
    hub.add(model.clone());
    let [worker, desk] = ["gpu-1", "desk"].map(|name| machine(name, &redis.url(), &hub));
    Fleet { redis, hub, model, worker, desk }
}

fn lines_with(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_desk_stages_on_the_fleets_hosts() {
    let Fleet { redis: _redis, hub: _hub, model, worker, desk } = fleet();
    let _daemon = worker.serve();
    let staged = desk.run(&["stage", model.id(), "--hosts", "gpu-1"]).expect_code(0);
    let path = staged.stdout.trim_end();
    assert!(path.starts_with(&worker.cache().display().to_string()), "the folder on the worker: {staged:?}");
    assert_eq!(staged.stdout.lines().count(), 1, "{staged:?}");
    assert!(staged.stderr.contains("is staged and verified"), "{staged:?}");

    let by_pool = desk.run(&["stage", model.id(), "--hosts", "pool", "--json"]).expect_code(0).json();
    assert_eq!(
        (by_pool["state"].as_str(), by_pool["path"].as_str()),
        (Some("ready"), Some(path)),
        "{by_pool}"
    );
    let detached = desk.run(&["stage", model.id(), "--hosts", "pool", "--detach"]).expect_code(0);
    let id = detached.stdout.trim_end();
    assert_eq!(id.len(), 26, "{detached:?}");
    assert!(detached.stderr.contains(&format!("larder jobs watch {id}")), "{detached:?}");
    desk.run(&["jobs", "watch", id]).expect_code(0);

    let mine = desk.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(mine, Value::Array(vec![]), "this machine's cache is empty");
    desk.run(&["stage", model.id(), "--set", "queue.url="]).expect_code(0);
    let mine = desk.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(mine[0]["repo"], model.id(), "{mine}");
}

#[test]
fn what_nobody_would_take_is_refused_and_not_kept() {
    let Fleet { redis, hub: _hub, model, worker, desk } = fleet();
    let refused = |args: &[&str], names: &str| {
        for detach in [&["--detach"][..], &[]] {
            let output = desk.run(&[&["stage", model.id()], args, detach].concat()).expect_code(75);
            assert!(output.stdout.is_empty(), "{output:?}");
            assert!(output.stderr.contains(names) && output.stderr.contains(" hint: "), "{output:?}");
            assert!(output.stderr.contains("[queue_unavailable]"), "{output:?}");
        }
        assert_eq!(redis.keys("{larder}:job*"), Vec::<String>::new(), "nothing is enqueued");
    };
    refused(&[], "desk");
    refused(&["--hosts", "gpu-1"], "gpu-1");
    refused(&["--hosts", "pool"], "no larder of the fleet");
    let daemon = worker.serve();
    refused(&[], "desk");
    let unknown = desk.run(&["stage", model.id(), "--hosts", "gpu-2"]).expect_code(2);
    assert!(unknown.stderr.contains("no host of the fleet is called gpu-2"), "{unknown:?}");
    assert!(unknown.stderr.contains("near it: gpu-1"), "{unknown:?}");
    drop(daemon);
    refused(&["--hosts", "pool"], "no larder of the fleet");
}

#[test]
fn jobs_are_those_of_the_fleet() {
    let Fleet { redis, hub, model, worker, desk } = fleet();
    let _daemon = worker.serve();
    let jobs = |args: &[&str]| desk.run(&[&["jobs"], args, &["--json"]].concat());
    let ask = |name: &str| {
        let asked =
            desk.run(&["stage", name, "--hosts", "gpu-1", "--detach", "--json"]).expect_code(0).json();
        super::id_of(&asked)
    };
    let bad = ask("test/none");
    assert_eq!(jobs(&["watch", &bad]).expect_code(3).json()["reason"], "not_found");
    hub.throttle(Some(64 << 10));
    let slow = ask(model.id());
    assert!(hub.wait_for_bytes(model.id(), 10_000, PATIENCE));
    let listed = jobs(&["list"]).expect_code(0).json();
    let ids: Vec<_> = listed.as_array().expect("a list").iter().map(super::id_of).collect();
    assert_eq!(ids, [slow.clone(), bad.clone()]);
    assert_eq!(jobs(&["show", &slow]).expect_code(0).json()["repo"], model.id());
    jobs(&["cancel", &slow]).expect_code(0);
    let program = Program::new(&redis.url());
    program.wait_state(slow.parse().expect("an id"), larder_jobs::State::Cancelled);
    hub.throttle(None);
    jobs(&["retry", &slow]).expect_code(0);
    assert_eq!(jobs(&["watch", &slow]).expect_code(0).json()["state"], "ready");
    assert_eq!(jobs(&["redrive"]).expect_code(0).json()["redriven"], 1);
    assert_eq!(jobs(&["watch", &bad]).expect_code(3).json()["reason"], "not_found");
    let unknown = "01KAQ00000000000000000000A";
    let output = desk.run(&["jobs", "show", unknown]).expect_code(3);
    assert!(output.stderr.contains(unknown) && output.stderr.contains(" hint: "), "{output:?}");
}

#[test]
fn the_owner_of_the_state_folder_is_asked_first() {
    let Fleet { redis, hub: _hub, model, worker, desk: _desk } = fleet();
    let _daemon = worker.serve();
    // Nobody is at this address: whoever answers is the owner.
    let elsewhere = ["--set", "queue.url=redis://127.0.0.1:1"];
    let staged = worker.run(&[&["stage", model.id()], &elsewhere[..]].concat()).expect_code(0);
    assert!(staged.stdout.starts_with(&worker.cache().display().to_string()), "{staged:?}");
    let listed = worker.run(&[&["jobs", "--json"], &elsewhere[..]].concat()).expect_code(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(redis.keys("{larder}:job:*").len(), 1, "the owner's queue is the fleet's");
}

#[test]
fn a_command_that_waits_rides_out_a_restart_of_redis() {
    let Fleet { redis, hub, model, worker, desk } = fleet();
    let _daemon = worker.serve();
    hub.throttle(Some(512 << 10));
    let mut waiting = desk.spawn(&["stage", model.id(), "--hosts", "pool"]);
    assert!(hub.wait_for_bytes(model.id(), 200_000, PATIENCE), "{:?}", waiting.logs());
    assert!(waiting.wait_line(|line| line.starts_with("fetching"), PATIENCE).is_some());
    redis.stop();
    let told = waiting.wait_line(|line| line.contains("waiting for it"), PATIENCE).expect("it says so");
    assert!(told.contains(&redis.socket().display().to_string()), "{told}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.is_running(), "{:?}", waiting.logs());
    redis.start_again();
    let status = waiting.wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status}\n{}", waiting.logs().join("\n"));
    assert_eq!(lines_with(&waiting.logs(), "waiting for it"), 1, "once: {:?}", waiting.logs());
    let path = worker.cache().display().to_string();
    assert_eq!(lines_with(&waiting.logs(), &path), 1, "{:?}", waiting.logs());
}
