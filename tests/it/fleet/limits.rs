//! What a whole fleet may take of the network: held in Redis, shared by those who download.

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Daemon, Hub, Redis, models};

use super::{PATIENCE, id_of, machine};

const LIMIT: u64 = 4 << 20;
const MODEL: u64 = 8 << 20;

fn ask(daemon: &Daemon, repo: &str) -> String {
    id_of(&daemon.post("/v1/jobs", &json!({"kind": "download", "repo": repo})).expect(202))
}

#[test]
fn hosts_together_keep_to_what_the_fleet_may_take() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let models: Vec<_> = (1..=3).map(|n| models::huge(n, MODEL)).collect();
    for model in &models {
        hub.add(model.clone());
    }
    let machines = ["gpu-1", "gpu-2"].map(|name| machine(name, &redis.url(), &hub));
    let daemons = [machines[0].serve(), machines[1].serve()];
    let set =
        machines[0].run(&["limit", "4MiB", "--fleet", "--requests", "100", "--json"]).expect_code(0).json();
    assert_eq!(set, json!({"bandwidth": LIMIT, "requests_per_second": 100}));
    let seen = daemons[1].get("/v1/fleet/limits").expect(200);
    assert_eq!(seen, set, "one for the whole fleet");

    let begun = Instant::now();
    let ids = [ask(&daemons[0], models[0].id()), ask(&daemons[1], models[1].id())];
    for (daemon, id) in daemons.iter().zip(&ids) {
        assert_eq!(daemon.wait_job(id, PATIENCE)["state"], "ready");
    }
    let took = begun.elapsed();
    let least = Duration::from_secs_f64((2 * MODEL) as f64 / LIMIT as f64 * 0.9);
    assert!(took >= least, "{} bytes came in {took:?} at {LIMIT} bytes per second", 2 * MODEL);

    let lifted = daemons[0].request("PUT", "/v1/fleet/limits", Some(&json!({"bandwidth": null}))).expect(200);
    assert_eq!(lifted, json!({"bandwidth": null, "requests_per_second": 100}), "the other one stays");
    let text = machines[0].run(&["limit", "--fleet", "--requests", "none"]).expect_code(0);
    assert!(text.stdout.contains("none") && !text.stdout.contains("100"), "{text:?}");
    let id = ask(&daemons[1], models[2].id());
    assert_eq!(daemons[1].wait_job(&id, PATIENCE)["state"], "ready");

    for wrong in [json!({"bandwidth": 0}), json!({"requests_per_second": 0}), json!({"speed": 1}), json!([])]
    {
        daemons[0].request("PUT", "/v1/fleet/limits", Some(&wrong)).expect(400);
    }
    machines[0].run(&["limit", "--fleet", "--requests", "0"]).expect_code(2);
}
