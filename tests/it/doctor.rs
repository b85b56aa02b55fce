//! `larder doctor --ready`, as a container's health check asks it: one line and an exit code, in time whatever larder does.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Larder, Redis};

const SOON: Duration = Duration::from_secs(60);

fn larder() -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).env("LARDER__HOST__NAME", "host-1")
}

#[test]
fn a_larder_that_serves_is_ready_and_nobody_is_not() {
    let larder = larder();
    let nobody = larder.run(&["doctor", "--ready"]).expect_code(75);
    assert!(nobody.stdout.is_empty() && nobody.stderr.contains("larder.sock does not answer"), "{nobody:?}");
    assert!(!larder.state().join("larder.lock").exists(), "a probe opens nothing");

    let mut daemon = larder.serve();
    let ready = larder.run(&["doctor", "--ready"]).expect_code(0);
    assert_eq!(ready.stdout, format!("host-1 is ready, larder {}\n", env!("CARGO_PKG_VERSION")));
    assert!(ready.stderr.is_empty(), "{ready:?}");
    let json = larder.run(&["doctor", "--ready", "--json"]).expect_code(0).json();
    assert_eq!((&json["ready"], &json["host"]), (&true.into(), &"host-1".into()));

    // What is left of one that was killed is no larder.
    daemon.kill9();
    assert!(daemon.socket().exists());
    let gone = larder.run(&["doctor", "--ready", "--json"]).expect_code(75).json();
    assert_eq!((&gone["reason"], &gone["status"]), (&"queue_unavailable".into(), &503.into()));
    larder.run(&["doctor", "--ready", "--reconcile"]).expect_code(2);
}

#[test]
fn a_larder_that_stands_still_is_not_ready_and_does_not_hold_the_probe() {
    let larder = larder();
    let mut daemon = larder.serve();
    daemon.signal(Signal::STOP);
    let begun = Instant::now();
    let silent = larder.run(&["doctor", "--ready"]).expect_code(75);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(silent.stderr.contains("said nothing for 2 s"), "{silent:?}");
    daemon.signal(Signal::CONT);
    larder.run(&["doctor", "--ready"]).expect_code(0);
}

#[test]
fn without_its_queue_a_larder_says_why_it_is_not_ready() {
    let redis = Redis::start();
    let larder = larder().env("LARDER__QUEUE__URL", redis.url());
    let daemon = larder.serve();
    larder.run(&["doctor", "--ready"]).expect_code(0);
    redis.kill9();
    daemon.wait_until("/readyz", SOON, |answer| answer["status"] == 503);
    let away = larder.run(&["doctor", "--ready"]).expect_code(75);
    assert!(away.stderr.contains("the queue is away"), "{away:?}");
}
