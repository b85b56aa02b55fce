//! Hosts that share one queue: each job once, the work divided, a cancel heard everywhere, and a Redis that forgets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::Tripwire;

use super::*;

#[test]
fn two_hosts_share_the_work_and_no_job_runs_twice() {
    let fleet = Fleet::start();
    // 300 ms for the weights of each.
    fleet.hub.throttle(Some(1_000_000));
    let models: Vec<_> = (540..560).map(|seed| fleet.model(seed, 300_000)).collect();
    let hosts = ["gpu-1", "gpu-2"].map(|name| fleet.host(name, "1s"));
    let [one, two] = hosts.each_ref().map(Larder::serve);
    let ids: Vec<_> = models.iter().map(|model| ask(&one, model, "pool")).collect();
    let jobs: Vec<_> = ids.iter().map(|id| two.wait_job(id, PATIENCE)).collect();
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for (job, model) in jobs.iter().zip(&models) {
        fleet.assert_ran_once(job, model);
        let host = job["hosts"][0].as_str().expect("a host").to_owned();
        assert_staged(&hosts[usize::from(host == "gpu-2")], model);
        *done.entry(host).or_default() += 1;
    }
    assert!(done.len() == 2 && done.values().all(|jobs| *jobs >= 6), "{done:?}");
}

/// Waits until the job has no more progress to report, which would be a renewal.
fn wait_quiet(daemon: &Daemon, id: &str) {
    let (mut bytes, mut since) = (Value::Null, Instant::now());
    wait_for(daemon, id, PATIENCE, |job| {
        if job["bytes_done"] != bytes {
            (bytes, since) = (job["bytes_done"].clone(), Instant::now());
        }
        bytes.as_u64() > Some(0) && since.elapsed() > Duration::from_millis(1_500)
    });
}

#[test]
fn a_cancel_on_another_host_stops_the_transfer_at_once() {
    let fleet = Fleet::start();
    let model = fleet.held_model(561);
    let [larder, other] = ["gpu-1", "gpu-2"].map(|name| fleet.host(name, "60s"));
    let (mut one, two) = (larder.serve(), other.serve());
    one.allow(Tripwire::Partials);
    let id = ask(&one, &model, "this");
    fleet.wait_held();
    wait_quiet(&one, &id);
    let begun = Instant::now();
    two.request("DELETE", &format!("/v1/jobs/{id}"), None).expect(202);
    let job = two.wait_job(&id, PATIENCE);
    let took = begun.elapsed();
    assert_eq!(job["state"], "cancelled", "{job}");
    // A renewal, the other way to hear of it, comes twenty seconds after the last.
    assert!(took < Duration::from_secs(1), "after {took:?}");
    assert!(fleet.hub.wait_for(|requests| requests.iter().all(|request| request.done), PATIENCE));
}

#[test]
fn a_redis_that_forgot_everything_gets_back_what_runs() {
    let fleet = Fleet::start();
    let model = fleet.held_model(562);
    let larder = fleet.host("gpu-1", "2s");
    let daemon = larder.serve();
    let id = ask(&daemon, &model, "this");
    fleet.wait_held();
    let program = crate::fleet::Program::new(&fleet.redis.url());
    let waits = crate::fleet::download("test/waits", "gpu-9");
    let waits = program.block(program.client.enqueue(&waits)).expect("accepted").job.id;
    let waiter = {
        let client = program.client.clone();
        program.spawn(async move { client.wait(waits).await })
    };
    fleet.redis.command(&["FLUSHALL"]);
    wait_log(&daemon, "Redis was emptied");
    wait_log(&daemon, "the queue was emptied");
    let page = daemon.get("/metrics").text;
    assert!(page.contains("larder_queue_emptied_total 1"), "{page}");
    let lost = program.block(waiter).expect("no panic").expect_err("its job is lost");
    assert!(lost.reason() == larder_jobs::Reason::NotFound && lost.hint() == "ask for it again", "{lost}");
    let job = wait_for(&daemon, &id, PATIENCE, |job| job["state"] == "fetching");
    assert_eq!(job["attempts"], 1, "{job}");
    fleet.hub.release();
    fleet.assert_ran_once(&daemon.wait_job(&id, PATIENCE), &model);
    assert_staged(&larder, &model);

    // Somebody without a larder of his own finds the host again.
    let asking = fleet.host("desk", "2s");
    let next = fleet.model(563, 100_000);
    let wish = ["stage", next.id(), "--detach", "--hosts", "gpu-1", "--json"];
    let job = asking.run(&wish).expect_code(0).json();
    fleet.assert_ran_once(&daemon.wait_job(&id_of(&job), PATIENCE), &next);
    assert_staged(&larder, &next);
    assert_staged(&larder, &model);
    let kept = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(kept.as_array().map(Vec::len), Some(2), "what the host has is its own: {kept}");
}
