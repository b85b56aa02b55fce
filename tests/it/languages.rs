//! Asking without Rust: the examples of `jobs/examples` and the Python client, as they stand there, with the real `redis` and
//! `httpx`, against the real binary, a real Redis and a real Valkey.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::python::python;
use support::redis::{RedisOptions, valkey};
use support::{Fault, Host, Hub, Larder, Output, Redis, models};

use crate::fleet::machine;

const PATIENCE: Duration = Duration::from_secs(60);
const BY_REDIS: &str = include_str!("../../jobs/examples/enqueue_redis.py");
const BY_HTTP: &str = include_str!("../../jobs/examples/enqueue_http.py");
const CLIENT: &str = include_str!("../../jobs/clients/python/larder_client.py");

fn model(hub: &Hub, seed: u64) -> String {
    let model = models::tiny_gpt2(seed, 20_000);
    hub.add(model.clone());
    model.id().to_owned()
}

#[track_caller]
fn loaded(redis: &Redis) {
    let begun = std::time::Instant::now();
    while !format!("{:?}", redis.command(&["FUNCTION", "LIST"])).contains("larder_job") {
        assert!(begun.elapsed() < PATIENCE, "nobody loads the functions");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn asks_through_redis(redis: &Redis) {
    let hub = Hub::start();
    let larder = machine("gpu-1", &redis.url(), &hub);
    let daemon = larder.serve();
    loaded(redis);
    let repo = model(&hub, 1);
    let ask = |words: &[&str]| python(BY_REDIS, &[&[redis.tcp_url().as_str()], words].concat(), &[]);
    let staged = ask(&[&repo, "gpu-1", "night/1"]).expect_code(0).json();
    let path = staged["path"].as_str().expect("a path");
    assert!(path.starts_with(&larder.cache().display().to_string()), "{staged}");
    assert_eq!(staged["asked"], staged["id"], "{staged}");
    let again = ask(&[&repo, "gpu-1", "night/1"]).expect_code(0).json();
    assert_eq!(again["id"], staged["id"], "the key answers the first one's job");
    let failed = ask(&["test/none", "pool"]).expect_code(1).json();
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("failed"), &json!("not_found")), "{failed}");
    let refused = ask(&[&repo, "no host"]).expect_code(1).json();
    assert_eq!(refused["reason"], "invalid_request", "{refused}");
    assert_eq!(
        daemon.get(&format!("/v1/jobs/{}", refused["id"].as_str().expect("an id"))).expect(200)["state"],
        "failed"
    );
}

#[test]
fn python_asks_a_fleet_through_redis() {
    asks_through_redis(&Redis::start());
}

#[test]
fn python_asks_a_fleet_through_valkey() {
    let Some(program) = valkey() else { return };
    asks_through_redis(&Redis::with(RedisOptions::default().binary(&program)));
}

#[test]
fn a_request_waits_in_redis_for_a_larder() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let repo = model(&hub, 2);
    let larder = machine("gpu-1", &redis.url(), &hub);
    let library = larder.run(&["config", "functions"]).expect_code(0).stdout;
    redis.command(&["FUNCTION", "LOAD", &library]);
    let job = json!({"v": 1, "kind": "download", "repo": repo, "hosts": ["gpu-1"]}).to_string();
    let answer: Value =
        serde_json::from_str(&redis.command(&["FCALL", "larder_enqueue", "1", "{larder}:", &job]).text())
            .expect("JSON");
    let id = answer["id"].as_str().expect("an id");
    // Killed while it takes requests out; the next one goes on, and whatever happened, the job runs once.
    let mut dying = larder.spawn(&["serve"]);
    dying.kill9();
    let daemon = larder.serve();
    let begun = std::time::Instant::now();
    while daemon.get(&format!("/v1/jobs/{id}")).expect(200)["state"] != "ready" {
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.get(&format!("/v1/jobs/{id}")).text);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn python_asks_a_larder_over_http() {
    let hub = Hub::start();
    let repo = model(&hub, 3);
    let larder = support::larder!(&hub);
    let daemon = larder.serve();
    let url = format!("http://{}", daemon.address());
    let staged = python(BY_HTTP, &[&url, &repo, "this"], &[]).expect_code(0).json();
    assert_eq!(staged["state"], "ready", "{staged}");
    let refused = python(BY_HTTP, &[&url, "no/such name", "this"], &[]).expect_code(1);
    assert!(
        refused.stderr.starts_with("invalid_request: ") && refused.stderr.contains("; hint: "),
        "{refused:?}"
    );
}

#[test]
fn the_shell_asks_both_ways() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let repo = model(&hub, 4);
    let larder = machine("gpu-1", &redis.url(), &hub);
    let daemon = larder.serve();
    loaded(&redis);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/examples/enqueue.sh");
    let ask = |words: &[&str]| {
        let output =
            Command::new("sh").arg(script).args(words).env("NO_PROXY", "*").output().expect("a shell");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for words in
        [["redis", &redis.tcp_url(), &repo], ["http", &format!("http://{}", daemon.address()), &repo]]
    {
        let (fine, said) = ask(&words);
        assert!(fine, "{words:?}: {said}");
        let id =
            serde_json::from_str::<Value>(&said).expect("JSON")["id"].as_str().expect("an id").to_owned();
        assert_eq!(daemon.wait_job(&id, PATIENCE)["state"], "ready");
    }
    let (fine, said) = ask(&["redis", &redis.tcp_url(), "\"}"]);
    assert!(!fine, "{said}");
    let (fine, said) = ask(&["http", &format!("http://{}", daemon.address()), "no name"]);
    assert!(!fine && said.contains("invalid_request"), "{said}");
}

/// The client as a program.
fn client(larder: &Larder, args: &[&str]) -> Output {
    let socket = format!("unix://{}", larder.state().join("larder.sock").display());
    python(CLIENT, args, &[("LARDER_API_URL", &socket), ("PYTHONDONTWRITEBYTECODE", "1")])
}

#[test]
fn the_python_client_stages_cancels_and_names_what_went_wrong() {
    assert!(CLIENT.lines().count() < 200);
    let hub = Hub::start();
    let repo = model(&hub, 5);
    // What the hub holds is no stall, and no other connection comes to help.
    let larder =
        support::larder!(&hub).env("LARDER__HUB__STALL_TIMEOUT", "5m").env("LARDER__HUB__CONNECTIONS", "1");
    let mut daemon = larder.serve();
    let staged = client(&larder, &["stage", &repo, "--timeout", "60"]).expect_code(0).stdout;
    assert!(staged.starts_with(&larder.cache().display().to_string()), "{staged}");
    let missing = client(&larder, &["stage", "test/none"]).expect_code(3).stderr;
    assert!(missing.starts_with("not_found: "), "{missing}");
    client(&larder, &["stage", "no name"]).expect_code(2);
    client(&larder, &["cancel", "01JDFP00000000000000000000"]).expect_code(3);

    let held = models::huge(6, 6_000_000);
    hub.add(held.clone());
    hub.fault(
        Fault::on(format!("{}/model.safetensors", held.id())).host(Host::Cdn).method("GET").stall(100_000),
    );
    let late = client(&larder, &["stage", held.id(), "--timeout", "2"]).expect_code(75).stderr;
    assert!(late.contains("is not done after 2.0 s"), "{late}");
    let jobs = daemon.wait_until("/v1/jobs?state=fetching", PATIENCE, |jobs| jobs["jobs"][0].is_object());
    let id = jobs["jobs"][0]["id"].as_str().unwrap_or_else(|| panic!("it goes on: {jobs}")).to_owned();
    client(&larder, &["cancel", &id]).expect_code(0);
    assert_eq!(daemon.wait_job(&id, PATIENCE)["state"], "cancelled");
    hub.release();
    daemon.allow(support::Tripwire::Partials);
}

/// What a program does with the class.
const WAITS: &str = r#"
import sys
source = sys.argv[2]
module = {"__name__": "larder_client"}
exec(source, module)
with module["Larder"](sys.argv[1], retry_for=1) as larder:
    seen = []
    job = larder.stage(sys.argv[3], timeout=60, on_progress=lambda job: seen.append(job["state"]))
    assert job["state"] == "ready" and seen[-1] == "ready", (job, seen)
    assert larder.enqueue(repo=sys.argv[3])["id"], "asked again"
    try:
        larder.job("01JDFP00000000000000000000")
    except module["NotFound"] as error:
        assert error.reason == "not_found" and error.status == 404 and error.hint, vars(error)
    else:
        raise AssertionError("it is not known")
with module["Larder"]("http://127.0.0.1:1", retry_for=0.5) as larder:
    try:
        larder.stage("a/b")
    except module["TryLater"] as error:
        assert error.reason == "queue_unavailable", vars(error)
    else:
        raise AssertionError("nobody is there")
"#;

#[test]
fn the_python_client_is_a_class_with_typed_errors() {
    let hub = Hub::start();
    let repo = model(&hub, 7);
    let larder = support::larder!(&hub);
    let daemon = larder.serve();
    let url = format!("http://{}", daemon.address());
    python(WAITS, &[&url, CLIENT, &repo], &[]).expect_code(0);
    drop(daemon);
}
