//! `POST /v1/jobs` of a larder whose queue is in Redis, and what a machine of its own says to `hosts`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::redis::RedisOptions;
use support::{Daemon, Hub, Redis, models};

use super::{PATIENCE, id_of, machine, wait_ready};

fn ask(daemon: &Daemon, repo: &str, hosts: Value) -> support::daemon::Answer {
    daemon.post("/v1/jobs", &json!({"kind": "download", "repo": repo, "hosts": hosts}))
}

#[track_caller]
fn assert_away(problem: &Value) {
    assert_eq!(problem["reason"], "queue_unavailable", "{problem}");
    let hint = problem["hint"].as_str().unwrap_or_default();
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("Redis at ")), "{problem}");
    assert!(!hint.is_empty(), "{problem}");
}

#[test]
fn accepted_means_that_redis_has_it() {
    let hub = Hub::start();
    let redis = Redis::with(RedisOptions::default().directive("appendfsync", "always"));
    let worker = machine("gpu-1", &redis.url(), &hub);
    let mut daemon = worker.serve();
    let job = ask(&daemon, "a/b", json!(["gpu-2"])).expect(202);
    let row = redis.command(&["HGETALL", &format!("{{larder}}:job:{}", id_of(&job))]).pairs();
    assert_eq!((row["state"].as_str(), row["target"].as_str()), ("queued", "host:gpu-2"), "{row:?}");
    assert_eq!(job["hosts"], json!(["gpu-2"]), "{job}");

    // Right behind the answer, before Redis has the time to do anything else.
    let job = ask(&daemon, "c/d", json!(["gpu-2"])).expect(202);
    redis.kill9();
    let begun = Instant::now();
    let refused = ask(&daemon, "e/f", json!("pool")).expect(503);
    assert_away(&refused);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let ready = daemon.wait_until("/readyz", PATIENCE, |answer| answer["status"] == 503);
    assert_eq!(ready["reason"], "queue_unavailable", "{ready}");
    assert_eq!(daemon.get("/healthz").status, 200, "it lives");
    redis.start_again();
    let row = redis.command(&["HGETALL", &format!("{{larder}}:job:{}", id_of(&job))]).pairs();
    assert_eq!(row["id"], id_of(&job));
    wait_ready(&mut daemon);
    assert_eq!(daemon.get(&format!("/v1/jobs/{}", id_of(&job))).expect(200)["state"], "queued");
    daemon.allow(support::Tripwire::Jobs);
}

#[test]
fn a_redis_that_stopped_is_told_and_comes_back() {
    let (hub, redis) = (Hub::start(), Redis::start());
    let model = models::tiny_gpt2(1, 20_000);
    hub.add(model.clone());
    let worker = machine("gpu-1", &redis.url(), &hub);
    let mut daemon = worker.serve();
    redis.stop();
    for _ in 0..2 {
        assert_away(&ask(&daemon, model.id(), json!("this")).expect(503));
    }
    assert_away(&daemon.get("/v1/jobs").expect(503));
    assert_eq!(daemon.get("/v1/models").status, 200, "the ledger needs no queue");
    assert_eq!(daemon.get("/metrics").status, 200);
    redis.start_again();
    wait_ready(&mut daemon);
    let job = ask(&daemon, model.id(), json!("this")).expect(202);
    assert_eq!(daemon.wait_job(&id_of(&job), PATIENCE)["state"], "ready");
    let told = daemon.logs().iter().filter(|line| line.contains("the queue is away")).count();
    assert_eq!(told, 1, "once for each time that it is away: {:?}", daemon.logs());
    assert!(daemon.wait_line(|line| line.contains("the queue is back"), PATIENCE).is_some());
}

#[test]
fn a_machine_of_its_own_serves_only_itself() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 20_000);
    hub.add(model.clone());
    let desk = machine("desk", "", &hub);
    let daemon = desk.serve();
    let refused = ask(&daemon, model.id(), json!(["elsewhere"])).expect(400);
    assert_eq!(refused["reason"], "invalid_request", "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("elsewhere")), "{refused}");
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("queue.url")), "{refused}");
    let ids = [json!(["desk"]), json!("pool"), json!("this")]
        .map(|hosts| id_of(&ask(&daemon, model.id(), hosts).expect(202)));
    for id in &ids {
        let job = daemon.wait_job(id, PATIENCE);
        assert_eq!((&job["state"], &job["hosts"]), (&json!("ready"), &json!(["desk"])), "{job}");
    }
}

#[test]
fn every_kind_of_job_goes_through_redis_and_the_longest_lease_holds() {
    let (hub, redis) = (Hub::start(), Redis::start());
    let model = models::tiny_gpt2(1, 20_000);
    hub.add(model.clone());
    hub.throttle(Some(20_000));
    let worker = machine("gpu-1", &redis.url(), &hub);
    let daemon = worker.serve();
    let want = |who: &str, ttl: &str| {
        let want = json!({"kind": "download", "repo": model.id(), "requested_by": who, "lease_ttl": ttl});
        id_of(&daemon.post("/v1/jobs", &want).expect(202))
    };
    let (first, second) = (want("pod-1", "15m"), want("pod-2", "2h"));
    assert_eq!(first, second, "the second joins");
    hub.throttle(None);
    assert_eq!(daemon.wait_job(&first, PATIENCE)["state"], "ready");
    let models = daemon.wait_until("/v1/models", PATIENCE, |all| {
        all["models"][0]["leases"].as_array().is_some_and(|leases| leases.len() == 2)
    });
    for lease in models["models"][0]["leases"].as_array().expect("a list") {
        let until: jiff::Timestamp = lease["until"].as_str().expect("a time").parse().expect("RFC 3339");
        assert!(
            until.duration_since(jiff::Timestamp::now()).as_mins() > 100,
            "the longest for both: {lease}"
        );
    }

    let done = |job: Value| daemon.wait_job(&id_of(&daemon.post("/v1/jobs", &job).expect(202)), PATIENCE);
    let verified = done(json!({"kind": "verify"}));
    assert_eq!((&verified["state"], &verified["hosts"]), (&json!("done"), &json!(["gpu-1"])), "{verified}");
    let kept = done(json!({"kind": "evict", "repo": model.id()}));
    assert_eq!((&kept["state"], &kept["reason"]), (&json!("failed"), &json!("protected")), "{kept}");
    daemon.request("DELETE", &format!("/v1/models/{}/lease", model.id()), None).expect(200);
    let gone = done(json!({"kind": "evict", "repo": model.id()}));
    assert_eq!((&gone["state"], &gone["evicted"][0]["repo"]), (&json!("done"), &json!(model.id())), "{gone}");
    let all = daemon.get("/v1/jobs?state=done").expect(200);
    assert_eq!(all["jobs"].as_array().map(Vec::len), Some(2), "{all}");
}
