//! Workers that are killed: their jobs run again after a lease, here or elsewhere, but not for ever.

use super::*;

#[test]
fn a_killed_worker_goes_on_where_it_was() {
    let fleet = Fleet::start();
    let model = fleet.model(520, 48_000_000);
    fleet.hold(&model, 40_000_000);
    let larder = fleet.host("gpu-1", "2s").env("LARDER__HUB__RANGE", "64MiB");
    let mut daemon = larder.serve();
    let id = ask(&daemon, &model, "this");
    wait_for(&daemon, &id, PATIENCE, |job| job["bytes_done"].as_u64() >= Some(38_000_000));
    daemon.kill9();
    drop(daemon);

    let daemon = larder.serve();
    let job = daemon.wait_job(&id, PATIENCE);
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &2.into()), "{job}");
    let again = fleet.hub.bytes_of(model.id()) - model.bytes();
    assert!(again < model.bytes() / 10, "{again} bytes of {} were fetched again", model.bytes());
    assert_staged(&larder, &model);
}

#[test]
fn another_host_takes_what_a_killed_one_had() {
    let fleet = Fleet::start();
    let model = fleet.held_model(521);
    let killed = fleet.host("gpu-1", "2s");
    let mut one = killed.serve();
    let id = ask(&one, &model, "pool");
    fleet.wait_held();
    let larder = fleet.host("gpu-2", "2s");
    let two = larder.serve();
    one.kill9();
    let job = two.wait_job(&id, PATIENCE);
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &2.into()), "{job}");
    assert_eq!(job["hosts"], json!(["gpu-2"]));
    assert_staged(&larder, &model);
}

#[test]
fn a_job_that_kills_its_worker_ends_as_a_dead_letter() {
    let fleet = Fleet::start();
    let (bad, good) = (fleet.model(522, 6_000_000), fleet.model(523, 100_000));
    let larder = fleet.host("gpu-1", "1s");
    let mut daemon = larder.serve();
    (0..3).for_each(|_| fleet.hold(&bad, HELD_AFTER));
    let id = ask(&daemon, &bad, "this");
    for attempt in 1..=3 {
        fleet.wait_held();
        let job = daemon.get(&format!("/v1/jobs/{id}")).expect(200);
        assert_eq!(job["attempts"], attempt, "{job}");
        daemon.kill9();
        let gone = fleet.hub.wait_for(|requests| requests.iter().all(|request| request.done), PATIENCE);
        assert!(gone, "the hub notices");
        daemon = larder.serve();
    }
    let job = daemon.wait_job(&id, PATIENCE);
    assert_eq!((&job["state"], &job["reason"]), (&"failed".into(), &"lease_lost".into()), "{job}");
    assert!(job["message"].as_str().is_some_and(|text| text.contains("hint: ")), "{job}");
    assert_eq!(daemon.wait_job(&ask(&daemon, &good, "this"), PATIENCE)["state"], "ready", "it goes on");

    larder.run(&["jobs", "redrive"]).expect_code(0);
    let job = wait_for(&daemon, &id, PATIENCE, |job| job["state"] == "ready");
    assert_eq!(job["attempts"], 1, "with all its attempts: {job}");
    assert_staged(&larder, &bad);
}
