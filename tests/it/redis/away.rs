//! Redis restarts, freezes, is away for longer than a lease, does not answer, or is not there yet.

use std::time::{Duration, Instant};

use support::{Daemon, Proxy, Tripwire};

use super::*;

const SOON: Duration = Duration::from_secs(15);

#[track_caller]
fn wait_queue_up(daemon: &Daemon, up: bool) {
    let (line, begun) = (format!("larder_queue_up {}", u8::from(up)), Instant::now());
    loop {
        let page = daemon.get("/metrics").text;
        if page.lines().any(|found| found == line) {
            return;
        }
        assert!(begun.elapsed() < SOON, "no `{line}` in\n{page}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The daemon lives and says that its queue is away.
#[track_caller]
fn assert_says_away(daemon: &Daemon) {
    daemon.wait_until("/readyz", SOON, |problem| problem["reason"] == "queue_unavailable");
    wait_queue_up(daemon, false);
    daemon.get("/healthz").expect(200);
    let problem = daemon.get("/readyz").expect(503);
    assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
}

#[test]
fn a_restart_and_a_freeze_in_mid_transfer_are_nothing_to_the_job() {
    let fleet = Fleet::start();
    let model = fleet.held_model(500);
    let larder = fleet.host("gpu-1", "2s");
    let daemon = larder.serve();
    let id = ask(&daemon, &model, "this");
    fleet.wait_held();
    fleet.redis.restart(Duration::from_millis(500));
    wait_log(&daemon, "the queue is back");
    fleet.redis.freeze_for(Duration::from_millis(1_200));
    // Who would take it from its worker does so after a lease.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.get(&format!("/v1/jobs/{id}")).expect(200)["state"], "fetching");
    fleet.hub.release();
    fleet.assert_ran_once(&daemon.wait_job(&id, PATIENCE), &model);
    assert_staged(&larder, &model);
}

#[test]
fn an_outage_longer_than_the_lease_takes_no_job_from_a_living_worker() {
    let fleet = Fleet::start();
    let proxy = Proxy::to(fleet.redis.address());
    let model = fleet.held_model(501);
    let larder = fleet.host_behind(&proxy.url(), "gpu-1", "3s");
    let owner = larder.serve();
    let id = ask(&owner, &model, "pool");
    fleet.wait_held();
    let other = fleet.host("gpu-2", "3s");
    let mut daemons = [owner, other.serve()];

    let begun = Instant::now();
    fleet.redis.stop();
    daemons.iter().for_each(assert_says_away);
    std::thread::sleep(Duration::from_secs(20).saturating_sub(begun.elapsed()));
    // The owner takes longer to find back than the other, who must give it the time.
    proxy.delay(Duration::from_millis(150));
    fleet.redis.start_again();
    for daemon in &mut daemons {
        wait_ready(daemon, SOON);
        wait_queue_up(daemon, true);
    }
    // Who would take it from its worker does so after a lease.
    std::thread::sleep(Duration::from_millis(4_500));
    fleet.hub.release();
    let job = daemons[1].wait_job(&id, PATIENCE);
    fleet.assert_ran_once(&job, &model);
    assert_eq!(job["hosts"], json!(["gpu-1"]), "{job}");
    assert_staged(&larder, &model);
}

#[test]
fn a_network_that_swallows_everything_is_noticed_and_left() {
    let fleet = Fleet::start();
    let proxy = Proxy::to(fleet.redis.address());
    let model = fleet.held_model(502);
    let larder = fleet.host_behind(&proxy.url(), "gpu-1", "3s");
    let daemon = larder.serve();
    let id = ask(&daemon, &model, "this");
    fleet.wait_held();
    proxy.blackhole();
    wait_log(&daemon, "gave no answer within 8 s");
    wait_queue_up(&daemon, false);
    proxy.pass();
    wait_queue_up(&daemon, true);
    fleet.hub.release();
    fleet.assert_ran_once(&daemon.wait_job(&id, PATIENCE), &model);
    assert_staged(&larder, &model);
}

#[test]
fn a_worker_that_is_cut_off_loses_its_job_to_another_and_stops() {
    let fleet = Fleet::start();
    let proxy = Proxy::to(fleet.redis.address());
    let model = fleet.held_model(503);
    let cut_off = fleet.host_behind(&proxy.url(), "gpu-1", "2s");
    let mut one = cut_off.serve();
    one.allow(Tripwire::Partials);
    let id = ask(&one, &model, "pool");
    fleet.wait_held();
    let larder = fleet.host("gpu-2", "2s");
    let two = larder.serve();
    proxy.blackhole();
    let job = two.wait_job(&id, PATIENCE);
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &2.into()), "{job}");
    assert_eq!(job["hosts"], json!(["gpu-2"]));
    assert_staged(&larder, &model);
    assert_eq!(fleet.hub.stalled(), 1, "the one that is cut off does not know and goes on");

    proxy.pass();
    wait_log(&one, "the claim on a job is lost");
    let stopped = fleet.hub.wait_for(|requests| requests.iter().all(|request| request.done), SOON);
    assert!(stopped, "it still fetches");
    wait_log(&one, "the job was another worker's by now");
    assert_eq!(two.get(&format!("/v1/jobs/{id}")).expect(200), job, "it has changed nothing");
    let next = fleet.model(504, 100_000);
    assert_eq!(one.wait_job(&ask(&one, &next, "this"), PATIENCE)["state"], "ready", "it goes on");
}

#[test]
fn a_larder_starts_without_redis_and_goes_on_when_it_comes() {
    let fleet = Fleet::start();
    fleet.redis.stop();
    let model = fleet.model(505, 100_000);
    let larder = fleet.host("gpu-1", "2s");
    let mut daemon = larder.spawn(&["serve"]);
    wait_serving(&daemon);
    assert_says_away(&daemon);
    let refused = daemon.post("/v1/jobs", &body(&model, "this")).expect(503);
    assert_eq!(refused["reason"], "queue_unavailable", "{refused}");
    assert!(refused["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{refused}");
    assert_eq!(larder.run(&["ls", "--json"]).expect_code(0).json(), json!([]));

    fleet.redis.start_again();
    wait_ready(&mut daemon, SOON);
    wait_queue_up(&daemon, true);
    fleet.assert_ran_once(&daemon.wait_job(&ask(&daemon, &model, "this"), PATIENCE), &model);
    assert_staged(&larder, &model);
}

#[test]
fn a_result_that_nobody_could_take_is_delivered_once() {
    let fleet = Fleet::start();
    let model = fleet.held_model(506);
    let larder = fleet.host("gpu-1", "1s");
    let owner = larder.serve();
    let id = ask(&owner, &model, "pool");
    fleet.wait_held();
    let other = fleet.host("gpu-2", "1s");
    let mut other = other.serve();
    fleet.redis.stop();
    fleet.hub.release();
    wait_log(&owner, "the end of an attempt cannot be written yet");
    // Several leases, in which an attempt whose end was forgotten would be another worker's.
    std::thread::sleep(Duration::from_secs(5));
    fleet.redis.start_again();
    wait_ready(&mut other, SOON);
    fleet.assert_ran_once(&other.wait_job(&id, PATIENCE), &model);
    assert_eq!(log_lines(&owner, "the job was another worker's by now"), 0);
    assert_staged(&larder, &model);
}
