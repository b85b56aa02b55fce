//! The inbox against a real Redis, and what the functions answer.

use std::time::Duration;

use larder_jobs::client::LIBRARY;
use larder_jobs::{State, Target};
use serde_json::json;

use super::super::tests::{address, claim, store};
use super::*;
use crate::queue::testing::config;
use crate::queue::{Config, Done, JobStore as _, Settlement};
use larder_jobs::client::Connection;
use support::Reply;

/// Two heartbeats.
const LOOK: Duration = Duration::from_secs(40);

fn house() -> (support::Redis, Redis) {
    let server = support::Redis::start();
    server.command(&["FUNCTION", "LOAD", LIBRARY]);
    let store = store(Connection::new(address(&server)), config(), "gpu-1");
    (server, store)
}

fn call(server: &support::Redis, function: &str, words: &[&str]) -> Reply {
    server.command(&[&["FCALL", function, "1", "{test}:"], words].concat())
}

fn ask(server: &support::Redis, job: &Value) -> JobId {
    let answer = call(server, "larder_enqueue", &[&job.to_string()]).text();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["state"], "queued", "{answer}");
    answer["id"].as_str().expect("an id").parse().expect("an id")
}

fn show(server: &support::Redis, id: JobId) -> Value {
    serde_json::from_str(&call(server, "larder_job", &[&id.to_string()]).text()).expect("JSON")
}

fn download(repo: &str) -> Value {
    json!({"v": 1, "kind": "download", "repo": repo, "hosts": "pool"})
}

async fn run(store: &Redis) -> JobId {
    let held = claim(store).await.expect("a job");
    let done = Settlement::Done(Done { path: Some("/there".into()), ..Done::default() });
    store.settle(held.record.id, held.token, done).await.expect("settles");
    held.record.id
}

#[tokio::test]
async fn a_request_becomes_the_job_of_its_id() {
    let (server, store) = house();
    let id = ask(&server, &download("a/b"));
    let before = store.get(id).await.expect("reads").expect("is known before anybody took it");
    assert_eq!(
        (before.state, before.kind, &before.job["repo"]),
        (State::Queued, Kind::Download, &json!("a/b"))
    );
    assert_eq!(show(&server, id)["state"], "queued");
    store.empty_inbox().await.expect("takes it");
    let record = store.get(id).await.expect("reads").expect("is known");
    assert_eq!((record.id, record.target.clone()), (id, Target::Pool));
    assert_eq!(record.want, record.decode().expect("a job").work.want_hash());
    assert_eq!(run(&store).await, id);
    let job = show(&server, id);
    assert_eq!(
        (&job["state"], &job["path"], &job["attempts"]),
        (&json!("ready"), &json!("/there"), &json!(1))
    );
    assert!(server.keys("{test}:inbox").is_empty());
}

#[tokio::test]
async fn a_request_that_joins_leads_to_the_job_and_never_runs_again() {
    let (server, store) = house();
    let [first, second] = [(); 2].map(|()| ask(&server, &download("a/b")));
    assert_ne!(first, second);
    // Two larders look at the same entries, the slower one after the job has ended.
    let seen = store.queue.inbox(0, 10).await.expect("reads");
    store.empty_inbox().await.expect("takes them");
    let leader = store.get(first).await.expect("reads").expect("is known").id;
    assert_eq!(store.get(second).await.expect("reads").expect("leads there").id, leader);
    assert_eq!(show(&server, second)["id"], json!(leader));
    assert_eq!(run(&store).await, leader);
    for entry in &seen {
        assert!(store.take_in(entry, Want::default()).await.expect("it is gone"));
    }
    assert!(claim(&store).await.is_none(), "nothing runs twice");
    assert_eq!(show(&server, second)["state"], "ready", "also after its end");
    let left =
        server.command(&["PTTL", &format!("{{test}}:key:{}", if leader == first { second } else { first })]);
    assert!(left.int() > 0, "and as long as the job");
    let again = ask(&server, &download("a/b"));
    store.empty_inbox().await.expect("takes it");
    assert_eq!(run(&store).await, again, "a want that was satisfied is a new one");
}

#[tokio::test]
async fn one_that_joined_can_be_called_off_by_its_own_id() {
    let (server, store) = house();
    let [first, second] = [(); 2].map(|()| ask(&server, &download("a/b")));
    store.empty_inbox().await.expect("takes them");
    let joined =
        if store.get(first).await.expect("reads").expect("known").id == first { second } else { first };
    store.cancel(joined, None).await.expect("it is known");
    assert_eq!(show(&server, first)["state"], "cancelled");
}

#[tokio::test]
async fn a_repeated_request_is_the_same_by_id_and_by_key() {
    let (server, store) = house();
    let id = "01JDFP00000000000000000000";
    let text = download("a/b").to_string();
    for _ in 0..3 {
        let answer = call(&server, "larder_enqueue", &[&text, id]).text();
        assert!(answer.contains(id) && answer.contains("\"created\":null"), "{answer}");
    }
    store.empty_inbox().await.expect("takes it");
    assert_eq!(run(&store).await.to_string(), id);
    let answer = call(&server, "larder_enqueue", &[&text, id]).text();
    assert!(answer.contains("\"created\":true") && answer.contains("\"ready\""), "{answer}");
    let mut keyed = download("a/keyed");
    keyed["idempotency_key"] = "night/1".into();
    let first = ask(&server, &keyed);
    let second = ask(&server, &keyed);
    store.empty_inbox().await.expect("takes both");
    run(&store).await;
    assert_eq!(show(&server, first)["id"], show(&server, second)["id"]);
    let answer = call(&server, "larder_enqueue", &[&keyed.to_string()]).text();
    assert!(answer.contains("\"created\":false") && answer.contains("\"ready\""), "{answer}");
    let mut other = download("a/other");
    other["idempotency_key"] = "night/1".into();
    let other = ask(&server, &other);
    store.empty_inbox().await.expect("turns it away");
    let refused = show(&server, other);
    assert_eq!((&refused["state"], &refused["reason"]), (&json!("failed"), &json!("invalid_request")));
    assert!(refused["message"].to_string().contains("asked for something else"), "{refused}");
    assert!(claim(&store).await.is_none());
}

#[tokio::test]
async fn what_cannot_be_a_job_is_told_at_once_or_by_a_failed_record() {
    let (server, store) = house();
    for (request, reason) in [
        ("x", "invalid_request"),
        ("[]", "invalid_request"),
        (r#"{"v":2,"kind":"download","repo":"a/b","hosts":"pool"}"#, "unsupported_version"),
        (r#"{"v":0.5,"kind":"download","repo":"a/b","hosts":"pool"}"#, "invalid_request"),
        (r#"{"repo":"a/b","hosts":"pool"}"#, "invalid_request"),
        (r#"{"kind":"download","repo":"a/b"}"#, "invalid_request"),
        (r#"{"kind":"download","repo":"a/b","hosts":"this"}"#, "invalid_request"),
    ] {
        let error = call(&server, "larder_enqueue", &[request]).error();
        assert!(error.starts_with(&format!("{reason} ")) && error.contains("; hint: "), "{request}: {error}");
    }
    let long = "x".repeat(9_000);
    assert!(call(&server, "larder_enqueue", &[&long]).error().contains("8 KiB"));
    let wrong =
        server.command(&["FCALL", "larder_enqueue", "1", "test:", &download("a/b").to_string()]).error();
    assert!(wrong.contains("not the prefix"), "{wrong}");
    assert!(call(&server, "larder_job", &["x"]).error().starts_with("invalid_request "));
    let unknown = call(&server, "larder_job", &["01JDFP00000000000000000000"]).error();
    assert!(unknown.starts_with("not_found "), "{unknown}");

    let mut bad = download("a/b");
    bad["reop"] = "a/b".into();
    let id = ask(&server, &bad);
    store.empty_inbox().await.expect("turns it away");
    let job = show(&server, id);
    assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("invalid_request")), "{job}");
    assert!(job["message"].as_str().is_some_and(|text| text.contains("reop")), "{job}");
    let record = store.get(id).await.expect("reads").expect("is kept");
    assert_eq!(record.job, bad, "as it came");
    // Of a newer version, put there by a newer library: left for a newer larder.
    let newer = format!("01JDFP00000000000000000000{}", json!({"v": 2, "kind": "download"}));
    server.command(&["ZADD", "{test}:inbox", "0", &newer]);
    server.command(&["ZADD", "{test}:inbox", "0", "rubbish"]);
    store.empty_inbox().await.expect("leaves it");
    assert_eq!(server.command(&["ZRANGE", "{test}:inbox", "0", "-1"]).list(), [newer]);
}

#[tokio::test]
async fn the_inbox_and_the_queue_are_bounded() {
    let (server, store) = house();
    let fill = "for i = 1, 10000 do redis.call('ZADD', '{test}:inbox', 0, string.format('01JDFP%020.0f', i) .. '{}') end";
    server.command(&["EVAL", fill, "0"]);
    let full = call(&server, "larder_enqueue", &[&download("a/b").to_string()]).error();
    assert!(full.starts_with("queue_unavailable 10000 requests wait"), "{full}");
    server.command(&["DEL", "{test}:inbox"]);

    let small = Config { max_queued: 1, ..config() };
    let store = Redis {
        config: small.clone(),
        queue: store.queue.clone().with_bounds(1, small.retention.get()),
        ..store
    };
    let [one, two] = ["a/one", "a/two"].map(|repo| ask(&server, &download(repo)));
    let behind = ask(&server, &json!({"v": 1, "kind": "evict", "repo": "a/b", "hosts": "pool"}));
    store.empty_inbox().await.expect("what has no room stays");
    let stays = store.queue.inbox(0, 10).await.expect("reads");
    assert!(stays.len() == 1 && [one, two].contains(&stays[0].id), "{stays:?}");
    let evict = store.get(behind).await.expect("reads").expect("holds up nothing behind it");
    assert_eq!(evict.kind, Kind::Evict);
    let first = run(&store).await;
    store.empty_inbox().await.expect("there is room");
    let second = run(&store).await;
    assert_eq!([first.min(second), first.max(second)], [one.min(two), one.max(two)], "none is lost");
}

#[tokio::test]
async fn an_attending_larder_loads_the_library_and_is_woken_by_it() {
    let server = support::Redis::start();
    let config = Config { functions: true, ..config() };
    let store = std::sync::Arc::new(store(Connection::new(address(&server)), config, "gpu-1"));
    let (stop, mut changed) = (tokio_util::sync::CancellationToken::new(), store.changed());
    let attending = {
        let (store, stop) = (std::sync::Arc::clone(&store), stop.clone());
        tokio::spawn(async move { store.attend_until(&stop).await })
    };
    changed.changed().await.expect("it attends");
    let loaded = async {
        while !format!("{:?}", server.command(&["FUNCTION", "LIST"])).contains("larder_job") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LOOK, loaded).await.expect("it loads it");
    // Well before its next heartbeat.
    let begun = tokio::time::Instant::now();
    let id = ask(&server, &download("a/b"));
    while !store.queue.inbox(0, 1).await.expect("reads").is_empty() {
        assert!(begun.elapsed() < LOOK / 4, "nobody was woken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(run(&store).await, id);
    stop.cancel();
    attending.await.expect("no panic");
}

#[tokio::test]
async fn several_hosts_under_a_key_are_one_batch_and_every_id_leads_to_it() {
    let (server, store) = house();
    let other = self::store(Connection::new(address(&server)), config(), "gpu-2");
    for (store, name) in [(&store, "gpu-1"), (&other, "gpu-2")] {
        store.register(name, &mut super::super::attend::Told::default()).await.expect("registers");
    }
    let mut wish = download("a/b");
    wish["hosts"] = "all".into();
    wish["idempotency_key"] = "night/1".into();
    let first = ask(&server, &wish);
    store.empty_inbox().await.expect("takes it");
    // In other words, so that the larder has to say that it is the same.
    wish["priority"] = 0.into();
    let second = ask(&server, &wish);
    store.empty_inbox().await.expect("takes it");
    assert_ne!(first, second);
    for id in [first, second] {
        assert_eq!(show(&server, id)["id"], json!(first));
        let (batch, jobs) = store.batch(id).await.expect("reads").expect("is known");
        assert_eq!((batch.id, jobs.len()), (first, 2));
    }
    assert_eq!(
        server.command(&["PTTL", &format!("{{test}}:key:{second}")]).int(),
        -1,
        "as long as the batch"
    );
}

#[tokio::test]
async fn a_key_answers_nothing_for_another_host_nor_what_is_kept_longer() {
    let (server, store) = house();
    let of = |hosts: Value, more: Value| {
        let mut wish = download("a/b");
        wish["hosts"] = hosts;
        wish["idempotency_key"] = "k".into();
        for (name, value) in more.as_object().expect("fields") {
            wish[name] = value.clone();
        }
        wish
    };
    let first = ask(&server, &of(json!(["gpu-1"]), json!({"lease_ttl": "1h"})));
    store.empty_inbox().await.expect("takes it");
    for same in [
        of(json!(["gpu-1"]), json!({"lease_ttl": "1h", "revision": "main"})),
        of(json!(["gpu-1"]), json!({"lease_ttl": "30m", "requested_by": "somebody"})),
    ] {
        let id = ask(&server, &same);
        store.empty_inbox().await.expect("takes it");
        assert_eq!(show(&server, id)["id"], json!(first), "{same}");
    }
    for other in [
        of(json!(["gpu-2"]), json!({})),
        of(json!("pool"), json!({})),
        of(json!(["gpu-1"]), json!({"pin": true})),
        of(json!(["gpu-1"]), json!({"lease_ttl": "2h"})),
        of(json!(["gpu-1"]), json!({"revision": "v2"})),
        of(json!(["gpu-1"]), json!({"include": ["*.json"]})),
    ] {
        let id = ask(&server, &other);
        store.empty_inbox().await.expect("turns it away");
        let refused = show(&server, id);
        assert_eq!((&refused["state"], &refused["reason"]), (&json!("failed"), &json!("invalid_request")));
        assert!(refused["message"].to_string().contains(&first.to_string()), "{other}: {refused}");
    }
}

#[tokio::test]
async fn what_is_turned_away_keeps_no_secret() {
    let (server, store) = house();
    for (field, secret) in [
        ("token_ref", json!("hf_geheimgeheimgeheim")),
        ("token_ref", json!({"token": "hf_geheimgeheimgeheim"})),
        ("notify", json!("https://user:geheimgeheimgeheim@hooks.example/")),
    ] {
        let mut wish = download("a/b");
        wish[field] = secret;
        let id = ask(&server, &wish);
        store.empty_inbox().await.expect("turns it away");
        let record = store.get(id).await.expect("reads").expect("is kept");
        assert_eq!((record.state, &record.job[field]), (State::Failed, &json!("[redacted]")));
        let all = format!("{:?}", server.command(&["HGETALL", &format!("{{test}}:job:{id}")]));
        assert!(all.contains("failed") && !all.contains("geheim"), "{all}");
    }
    assert!(server.keys("{test}:inbox").is_empty());
}
