//! What is wrong with the queue of a fleet, or with how it is named: a word that names the thing and what to do, the
//! right exit code, no secret anywhere; and a larder that stays up and goes on when it is repaired.

mod rights;
mod servers;
mod tls;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, Hub, Impostor, Larder, Redis};

use crate::fleet::{PATIENCE, machine};

/// Stands for every password; must be seen nowhere.
const SECRET: &str = "s3cr3t-of-the-fleet";
/// How long a command may take to say that the queue cannot be used.
const SOON: Duration = Duration::from_secs(16);

/// A machine whose queue is there; nothing is ever fetched.
fn desk(url: &str) -> Larder {
    machine("gpu-1", url, &Hub::start())
}

/// The command that asks for a job is refused with this code, and says this.
#[track_caller]
fn assert_refused(larder: &Larder, code: i32, thing: &str, help: &str) {
    let begun = Instant::now();
    let output = larder.run(&["stage", "a/b", "--hosts", "pool"]).expect_code(code);
    assert!(begun.elapsed() < SOON, "{:?}: {output:?}", begun.elapsed());
    let hint = output.stderr.split(" hint: ").nth(1).unwrap_or_else(|| panic!("no hint: {output:?}"));
    assert!(output.stderr.contains(thing), "it says {thing}: {output:?}");
    assert!(hint.contains(help), "the hint has {help}: {output:?}");
    assert!(!output.stderr.contains("panicked") && output.stderr.len() < 1_000, "{output:?}");
    assert!(!output.stderr.contains(SECRET) && output.stdout.is_empty(), "{output:?}");
}

/// `larder serve` stays up, is not ready, and its log says this.
#[track_caller]
fn assert_waits(larder: &Larder, thing: &str, help: &str) -> Daemon {
    let mut daemon = larder.spawn(&["serve"]);
    let line = daemon.wait_line(|line| line.contains("the queue is away"), SOON);
    let line = line.unwrap_or_else(|| panic!("it says nothing: {}", daemon.logs().join("\n")));
    let logged: Value = serde_json::from_str(&line).expect("JSON");
    assert!(logged["message"].as_str().is_some_and(|text| text.contains(thing)), "it says {thing}: {line}");
    assert!(logged["hint"].as_str().is_some_and(|text| text.contains(help)), "the hint has {help}: {line}");
    let problem = daemon.wait_until("/readyz", SOON, |answer| answer["status"] == 503);
    assert_eq!(problem["reason"], "queue_unavailable", "{problem}");
    assert_eq!(daemon.get("/healthz").status, 200);
    assert!(daemon.is_running(), "{:?}", daemon.logs());
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).expect("it runs");
    let cmdline = String::from_utf8_lossy(&cmdline).into_owned();
    assert!(!cmdline.contains(SECRET) && !daemon.logs().join("\n").contains(SECRET), "{:?}", daemon.logs());
    daemon
}

/// Both: with this code, these words and this hint.
#[track_caller]
fn assert_told(larder: &Larder, code: i32, thing: &str, help: &str) -> Daemon {
    assert_refused(larder, code, thing, help);
    assert_waits(larder, thing, help)
}

/// What was wrong is repaired: it becomes ready and says so.
#[track_caller]
fn assert_heals(mut daemon: Daemon) {
    let socket = daemon.socket();
    daemon.wait_ready(&socket, PATIENCE);
    assert!(daemon.wait_line(|line| line.contains("the queue is back"), PATIENCE).is_some());
    let told = daemon.logs().iter().filter(|line| line.contains("the queue is away")).count();
    assert_eq!(told, 1, "once: {:?}", daemon.logs());
}

/// A mistake in the configuration ends every verb that reads it.
#[track_caller]
fn assert_mistake(larder: &Larder, args: &[&str], thing: &str, help: &str) {
    for verb in [&["serve"][..], &["stage", "a/b", "--hosts", "pool"], &["config", "check"]] {
        let output = larder.run(&[verb, args].concat()).expect_code(2);
        let hint = output.stderr.split(" hint: ").nth(1).unwrap_or_else(|| panic!("no hint: {output:?}"));
        assert!(output.stderr.contains(thing), "it names {thing}: {output:?}");
        assert!(hint.contains(help), "the hint has {help}: {output:?}");
        assert!(!output.stderr.contains(SECRET) && !output.stdout.contains(SECRET), "{output:?}");
    }
}

#[test]
fn addresses_that_are_none() {
    let set = |url: &str| assert_mistake(&desk(url), &[], "queue.url", "redis://");
    set(&format!("http://:{SECRET}@h"));
    set(&format!("redis://:{SECRET}@h:port"));
    set(&format!("redis://:{SECRET}@h/first"));
    set(&format!("rediss://:{SECRET}@h#insecure"));
    set("redis.internal:6379");
    set("redis://");
    let larder = desk("redis://h");
    assert_mistake(&larder, &["--set", "queue.namespace={larder}"], "queue.namespace", "letters");
    let typed = format!("queue.url=redis://:{SECRET}@h");
    assert_mistake(&larder, &["--set", &typed], "queue.url has a password", "queue.password_file");
    assert_mistake(&desk("redis://h").env("LARDER__HOST__NAME", "gpu 1"), &[], "host.name", "letters");
    let file = larder.root().join("empty");
    std::fs::write(&file, "\n").expect("writes");
    let name = format!("queue.password_file={}", file.display());
    assert_mistake(&larder, &["--set", &name], &file.display().to_string(), "first line");
    assert_mistake(&larder, &["--set", "queue.password_file=/none/here"], "/none/here", "first line");
    assert_mistake(&larder, &["--set", "queue.ca_file=/none/here"], "/none/here", "PEM");
    let name = format!("queue.ca_file={}", file.display());
    assert_mistake(&larder, &["--set", &name], "there is no certificate in it", "PEM");
}

#[test]
fn several_servers_that_are_none() {
    let larder = desk("");
    let set = |keys: &[&str], thing: &str, help: &str| {
        let flags: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
        assert_mistake(&larder, &flags, thing, help);
    };
    set(&["queue.mode=cluster"], "queue.urls has 0 addresses", "redis://");
    set(&["queue.urls=redis://h"], "queue.urls is set", "queue.mode");
    set(
        &["queue.mode=cluster", "queue.urls=redis://h", "queue.url=redis://h"],
        "queue.url is set",
        "queue.urls",
    );
    set(&["queue.mode=cluster", "queue.urls=redis://h/1"], "only database 0", "redis://");
    set(&["queue.mode=sentinel", "queue.urls=redis://h"], "queue.master_name", "mymaster");
    set(&["queue.sentinel_username=ann"], "queue.sentinel_username is set", "queue.mode");
    let typed = format!("queue.urls=redis://a,redis://:{SECRET}@b");
    let keys = ["queue.mode=sentinel", "queue.master_name=m", &typed];
    set(&keys, "queue.urls has a password", "queue.password_file");
    let output = larder.run(&["config", "check", "--set", "queue.mode=triple"]).expect_code(2);
    assert!(output.stderr.contains("queue.mode") && output.stderr.contains("sentinel"), "{output:?}");
    let shown = larder
        .env("LARDER__QUEUE__MODE", "cluster")
        .env("LARDER__QUEUE__URLS", format!("redis://:{SECRET}@a, redis://:{SECRET}@b"))
        .run(&["config", "show"])
        .expect_code(0);
    assert!(!shown.stdout.contains(SECRET) && shown.stdout.contains(":***@b"), "{shown:?}");
}

#[test]
fn what_is_no_redis_or_an_old_one() {
    let http = Impostor::http();
    drop(assert_told(&desk(&http.url()), 75, &http.addr().to_string(), "queue.url"));
    drop(assert_told(&desk(&http.url()), 75, "does not answer like a Redis", "queue.url"));
    let silent = Impostor::silent();
    drop(assert_told(&desk(&silent.url()), 75, &silent.addr().to_string(), "see whether"));
    let old = Impostor::old("6.0.16");
    drop(assert_told(&desk(&old.url()), 75, "is version 6.0.16, and larder needs 6.2", "upgrade"));
    let nobody = "redis://127.0.0.1:1";
    drop(assert_told(&desk(nobody), 75, "127.0.0.1:1 cannot be reached", "see whether it runs"));
    drop(assert_told(&desk("redis://none.invalid:7"), 75, "none.invalid:7", "see whether"));
}

#[test]
fn a_database_that_the_server_does_not_have() {
    let redis = Redis::start();
    let place = format!("Redis at {} (database 99)", redis.address());
    drop(assert_told(&desk(&format!("{}/99", redis.tcp_url())), 2, &place, "smaller database number"));
}
