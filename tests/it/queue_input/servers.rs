//! A Redis that will not do for now: a replica, one without memory, one with the keys of a newer larder.

use std::time::Duration;

use serde_json::json;
use support::redis::RedisOptions;
use support::{Hub, Redis, models};

use super::{assert_heals, assert_told, desk};
use crate::fleet::{PATIENCE, id_of, machine};

#[test]
fn a_replica_until_it_is_the_master() {
    let master = Redis::start();
    let options = RedisOptions::default().directive("replicaof", &format!("127.0.0.1 {}", master.port()));
    let replica = Redis::with(options);
    let larder = desk(&replica.url());
    let daemon = assert_told(&larder, 75, "is a read-only replica", "master");
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    assert_heals(daemon);
}

#[test]
fn a_master_that_becomes_a_replica_under_a_larder() {
    let (master, redis) = (Redis::start(), Redis::start());
    let larder = desk(&redis.url());
    let mut daemon = larder.serve();
    redis.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    let job = json!({"kind": "download", "repo": "a/b", "hosts": ["gpu-2"]});
    let refused = daemon.post("/v1/jobs", &job).expect(503);
    assert!(
        refused["detail"].as_str().is_some_and(|text| text.contains("is a read-only replica")),
        "{refused}"
    );
    assert!(refused["hint"].as_str().is_some_and(|text| text.contains("master")), "{refused}");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    let socket = daemon.socket();
    daemon.wait_ready(&socket, PATIENCE);
    daemon.post("/v1/jobs", &job).expect(202);
    daemon.allow(support::Tripwire::Jobs);
}

#[test]
fn keys_of_a_newer_larder_are_left_alone() {
    let redis = Redis::start();
    redis.command(&["SET", "{larder}:layout", "2"]);
    let larder = desk(&redis.url());
    let daemon = assert_told(&larder, 2, "written by a newer larder (keys of version 2)", "upgrade");
    let line = daemon.wait_line(|line| line.contains("the queue is away"), PATIENCE).expect("as before");
    assert!(line.contains("\"unsupported_version\""), "{line}");
    assert_eq!(redis.keys("*"), ["{larder}:layout"], "nothing was written");
    redis.command(&["DEL", "{larder}:layout"]);
    assert_heals(daemon);
}

#[test]
fn a_redis_without_memory_keeps_what_runs() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = models::tiny_gpt2(1, 1_000_000);
    hub.add(model.clone());
    hub.throttle(Some(256 << 10));
    let worker = machine("gpu-1", &redis.url(), &hub).env("LARDER__HUB__CONNECTIONS", "1");
    let daemon = worker.serve();
    let ask = |repo: &str| daemon.post("/v1/jobs", &json!({"kind": "download", "repo": repo}));
    let id = id_of(&ask(model.id()).expect(202));
    assert!(hub.wait_for_bytes(model.id(), 200_000, PATIENCE));
    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = ask("c/d").expect(503);
    assert_eq!(refused["reason"], "queue_unavailable", "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("is out of memory")), "{refused}");
    assert!(refused["hint"].as_str().is_some_and(|text| text.contains("maxmemory")), "{refused}");
    // Longer than a lease and a round of the reaper.
    std::thread::sleep(Duration::from_secs(3));
    hub.throttle(None);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let done = daemon.wait_job(&id, PATIENCE);
    assert_eq!((&done["state"], &done["attempts"]), (&json!("ready"), &json!(1)), "{done}");
    assert!(hub.bytes_of(model.id()) <= model.bytes() + 64 * 1024, "it went on all the while");
    let id = id_of(&ask("c/d").expect(202));
    assert_eq!(daemon.wait_job(&id, PATIENCE)["reason"], "not_found");
}
