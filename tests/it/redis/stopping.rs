//! SIGTERM: what runs goes back at once and to others, nothing new is taken, and the process ends in any case.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;
use support::{Daemon, Proxy, Reply, Tripwire};

use super::*;

/// Well below a lease of a minute.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long the end may take when nothing can be handed back.
const GRACE: Duration = Duration::from_secs(15);

fn leaving(mut daemon: Daemon) -> Daemon {
    daemon.allow(Tripwire::Jobs).allow(Tripwire::Partials);
    daemon
}

#[test]
fn what_a_stopping_worker_had_is_anothers_at_once() {
    let fleet = Fleet::start();
    let model = fleet.held_model(530);
    let stopped = fleet.host("gpu-1", "60s");
    let mut one = leaving(stopped.serve());
    let id = ask(&one, &model, "pool");
    fleet.wait_held();
    let larder = fleet.host("gpu-2", "60s");
    let two = larder.serve();
    let begun = Instant::now();
    assert!(one.terminate(GRACE).success());
    wait_for(&two, &id, AT_ONCE, |job| job["hosts"] == json!(["gpu-2"]) && job["state"] != "queued");
    assert!(begun.elapsed() < AT_ONCE, "after {:?}", begun.elapsed());
    let job = two.wait_job(&id, PATIENCE);
    // The attempt of the one that stopped is given back.
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &1.into()), "{job}");
    assert_staged(&larder, &model);
}

#[test]
fn a_stop_while_redis_is_away_ends_in_time_and_costs_an_attempt() {
    let fleet = Fleet::start();
    let model = fleet.held_model(531);
    let stopped = fleet.host("gpu-1", "2s");
    let mut one = leaving(stopped.serve());
    let id = ask(&one, &model, "pool");
    fleet.wait_held();
    fleet.redis.stop();
    one.terminate(GRACE);
    fleet.redis.start_again();
    let larder = fleet.host("gpu-2", "2s");
    let two = larder.serve();
    let job = two.wait_job(&id, PATIENCE);
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &2.into()), "{job}");
    assert_staged(&larder, &model);
}

#[test]
fn a_stop_while_redis_says_nothing_ends_in_time() {
    let fleet = Fleet::start();
    let (model, later) = (fleet.held_model(532), fleet.model(535, 100_000));
    let larder = fleet.host("gpu-1", "60s");
    let mut daemon = leaving(larder.serve());
    ask(&daemon, &model, "this");
    fleet.wait_held();
    // So that a claim is under way, too.
    let mut wish = body(&later, "this");
    wish["not_before"] = (Timestamp::now() + Duration::from_secs(2)).to_string().into();
    daemon.post("/v1/jobs", &wish).expect(202);
    let _frozen = fleet.redis.freeze();
    std::thread::sleep(Duration::from_secs(3));
    daemon.signal(Signal::TERM);
    let ended = daemon.wait_exit(GRACE);
    assert!(ended.is_some(), "it still runs after {GRACE:?}\n{}", daemon.logs().join("\n"));
}

/// All hosts that had the job until it ended, as Redis has it.
#[track_caller]
fn owners(fleet: &Fleet, id: &str) -> BTreeSet<String> {
    let (begun, mut seen) = (Instant::now(), BTreeSet::new());
    loop {
        let found = fleet.redis.command(&["HMGET", &format!("{{larder}}:job:{id}"), "state", "owner"]);
        let Reply::List(fields) = found else { panic!("{found:?}") };
        if let Reply::Text(owner) = &fields[1] {
            seen.insert(owner.clone());
        }
        if fields[0] == Reply::Text("ready".into()) {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{fields:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_draining_worker_takes_nothing_new() {
    let fleet = Fleet::start();
    let [slow, slower] = [0; 2].map(|_| Proxy::to(fleet.redis.address()));
    let (running, fresh) = (fleet.held_model(533), fleet.model(534, 100_000));
    let stopped = fleet.host_behind(&slow.url(), "gpu-1", "60s");
    let mut one = leaving(stopped.serve());
    let held = ask(&one, &running, "this");
    fleet.wait_held();
    let larder = fleet.host_behind(&slower.url(), "gpu-2", "60s");
    let two = larder.serve();
    // Both have a free slot, and know when there will be something for it.
    let (now, wait) = (Instant::now(), Duration::from_secs(3));
    let mut wish = body(&fresh, "pool");
    wish["not_before"] = (Timestamp::now() + wait).to_string().into();
    let id = id_of(&two.post("/v1/jobs", &wish).expect(202));
    // Handing back takes longer than a second now, and the other would ask first.
    slow.delay(Duration::from_millis(300));
    slower.delay(Duration::from_millis(600));
    std::thread::sleep((wait - Duration::from_millis(300)).saturating_sub(now.elapsed()));
    one.signal(Signal::TERM);
    std::thread::sleep((wait + Duration::from_millis(200)).saturating_sub(now.elapsed()));
    assert!(one.is_running(), "it hands back when the job may run");
    // Whoever took it and gave it back would be seen.
    assert_eq!(owners(&fleet, &id), BTreeSet::from(["gpu-2".to_owned()]));
    assert!(now.elapsed() < wait + AT_ONCE, "after {:?}", now.elapsed());
    fleet.assert_ran_once(&two.wait_job(&id, PATIENCE), &fresh);
    assert!(one.wait_exit(GRACE).is_some_and(|status| status.success()));
    let job = two.get(&format!("/v1/jobs/{held}")).expect(200);
    assert_eq!((&job["state"], &job["attempts"]), (&"queued".into(), &0.into()), "{job}");
    two.request("DELETE", &format!("/v1/jobs/{held}"), None).expect(202);
}
