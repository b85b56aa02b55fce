//! Hosts whose clocks are hours off: the time of the queue is that of Redis.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::*;

/// The library that lies about the time; its package is called faketime.
pub(crate) fn liar() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = places.map(|place| place.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: libfaketime is not installed (Debian: apt-get install faketime)");
    }
    found
}

/// A host whose clock is off by `by`, such as `+5h`; timers are right.
fn host(fleet: &Fleet, liar: &std::path::Path, name: &str, by: &str) -> Larder {
    fleet
        .host(name, "2s")
        .env("LD_PRELOAD", liar)
        .env("FAKETIME", by)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}

fn seconds_from_now(seconds: i64) -> String {
    Timestamp::from_second(Timestamp::now().as_second() + seconds).expect("a time").to_string()
}

/// The daemon's clock is off, or the test proves nothing.
#[track_caller]
fn assert_off(daemon: &Daemon) {
    let line = daemon.wait_line(|line| line.contains("larder serves"), PATIENCE).expect("it serves");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    let at: Timestamp = said["timestamp"].as_str().expect("a time").parse().expect("a time");
    let off = at.duration_since(Timestamp::now()).abs();
    assert!(off.as_hours() >= 4, "its clock is off by {off} only");
}

#[test]
fn leases_hold_and_jobs_run_once_on_hosts_with_wrong_clocks() {
    let Some(liar) = liar() else { return };
    let fleet = Fleet::start();
    // Longer than a lease for each.
    fleet.hub.throttle(Some(100_000));
    let models: Vec<_> = (580..584).map(|seed| fleet.model(seed, 300_000)).collect();
    let hosts = [("gpu-1", "+5h"), ("gpu-2", "-5h")].map(|(name, by)| host(&fleet, &liar, name, by));
    let daemons = hosts.each_ref().map(Larder::serve);
    daemons.iter().for_each(assert_off);
    let ids: Vec<_> = models.iter().map(|model| ask(&daemons[0], model, "pool")).collect();
    for (id, model) in ids.iter().zip(&models) {
        fleet.assert_ran_once(&daemons[1].wait_job(id, PATIENCE), model);
    }
}

#[test]
fn times_of_a_job_hold_on_hosts_with_wrong_clocks() {
    let Some(liar) = liar() else { return };
    for (seed, by) in [(584, "+5h"), (587, "-5h")] {
        let fleet = Fleet::start();
        let larder = host(&fleet, &liar, "gpu-1", by);
        let daemon = larder.serve();
        let timed = |model: &Model, field: &str, seconds| {
            let mut wish = body(model, "this");
            wish[field] = seconds_from_now(seconds).into();
            id_of(&daemon.post("/v1/jobs", &wish).expect(202))
        };
        // Within an hour, which one clock thinks is over.
        let early = fleet.model(seed, 100_000);
        fleet.assert_ran_once(&daemon.wait_job(&timed(&early, "deadline", 3_600), PATIENCE), &early);

        let later = fleet.model(seed + 1, 100_000);
        let (begun, id) = (Instant::now(), timed(&later, "not_before", 2));
        let job = daemon.wait_job(&id, PATIENCE);
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(6), "{by}: after {took:?}");
        fleet.assert_ran_once(&job, &later);

        // In two seconds, which the other clock thinks is far.
        let held = fleet.held_model(seed + 2);
        let (begun, id) = (Instant::now(), timed(&held, "deadline", 2));
        let job = daemon.wait_job(&id, Duration::from_secs(8));
        assert_eq!((&job["state"], &job["reason"]), (&"failed".into(), &"deadline_missed".into()), "{job}");
        assert!(begun.elapsed() > Duration::from_secs(1), "{by}: after {:?}", begun.elapsed());
        let mut daemon = daemon;
        daemon.allow(support::Tripwire::Partials);
    }
}

#[test]
fn a_job_that_is_put_back_by_a_host_with_a_late_clock_stays_its_own() {
    let Some(liar) = liar() else { return };
    let fleet = Fleet::start();
    let model = fleet.held_model(590);
    let larder = host(&fleet, &liar, "gpu-1", "-5h");
    let one = larder.serve();
    let id = ask(&one, &model, "pool");
    fleet.wait_held();
    let other = fleet.host("gpu-2", "1s");
    let _two = other.serve();
    // Its reaper takes what has expired from now on.
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..3 {
        fleet.redis.command(&["FLUSHALL"]);
        let back = log_lines(&one, "Redis was emptied");
        let begun = Instant::now();
        while log_lines(&one, "Redis was emptied") == back {
            assert!(begun.elapsed() < PATIENCE, "{}", one.logs().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    fleet.hub.release();
    fleet.assert_ran_once(&one.wait_job(&id, PATIENCE), &model);
}
