//! What a whole fleet may take of the network: held in Redis, shared by those who download.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, Hub, Redis, models};
use tempfile::NamedTempFile;

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
    assert_eq!(set, json!({"bandwidth": LIMIT, "requests_per_second": 100, "sources": {}}));
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
    assert_eq!(
        lifted,
        json!({"bandwidth": null, "requests_per_second": 100, "sources": {}}),
        "the other one stays"
    );
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

#[test]
fn who_joins_from_elsewhere_and_is_more_generous_is_heard_while_it_runs() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = models::huge(9, MODEL);
    hub.add(model.clone());
    let machines = ["gpu-1", "gpu-2"].map(|name| machine(name, &redis.url(), &hub));
    let daemons = machines.each_ref().map(|machine| machine.serve());
    // Eight minutes.
    let slow = json!({"kind": "download", "repo": model.id(), "hosts": ["gpu-1"], "bandwidth": "16KiB"});
    let id = id_of(&daemons[0].post("/v1/jobs", &slow).expect(202));
    daemons[0].wait_until(&format!("/v1/jobs/{id}"), PATIENCE, |job| job["state"] == "fetching");
    let free = json!({"kind": "download", "repo": model.id(), "hosts": ["gpu-1"]});
    let joined = daemons[1].post("/v1/jobs", &free).expect(202);
    assert_eq!(id_of(&joined), id, "{joined}");
    let done = daemons[1].wait_job(&id, PATIENCE);
    assert_eq!((&done["state"], &done["attempts"]), (&json!("ready"), &json!(1)), "{done}");
}

#[test]
fn hosts_together_ask_no_more_often_than_the_fleet_may() {
    const RATE: u32 = 10;
    let (redis, hub) = (Redis::start(), Hub::start());
    let models: Vec<_> = (1..=6).map(|n| models::tiny_gpt2(n, 20_000)).collect();
    models.iter().for_each(|model| drop(hub.add(model.clone())));
    let machines = ["gpu-1", "gpu-2"].map(|name| machine(name, &redis.url(), &hub));
    let daemons = machines.each_ref().map(|machine| machine.serve());
    machines[0].run(&["limit", "--fleet", "--requests", &RATE.to_string()]).expect_code(0);
    hub.clear_requests();
    let begun = Instant::now();
    let asked: Vec<_> = models
        .iter()
        .enumerate()
        .map(|(n, model)| (&daemons[n % 2], ask(&daemons[n % 2], model.id())))
        .collect();
    for (daemon, id) in &asked {
        assert_eq!(daemon.wait_job(id, PATIENCE)["state"], "ready");
    }
    let (took, requests) = (begun.elapsed().as_secs_f64(), hub.requests().len() as f64);
    assert!(requests > 40.0, "{requests}");
    // A second's worth may go at once.
    let most = (took + 1.0) * f64::from(RATE) * 1.1;
    assert!(requests <= most, "{requests} requests in {took} s, of {RATE} in a second");
}

#[test]
fn a_source_has_limits_of_its_own() {
    let (redis, hub, mirror) = (Redis::start(), Hub::start(), Hub::start());
    let (slow, quick) = (models::huge(1, MODEL), models::huge(2, MODEL));
    mirror.add(slow.clone());
    [&slow, &quick].into_iter().for_each(|model| drop(hub.add(model.clone())));
    let config = NamedTempFile::new().expect("a file");
    let source = mirror.endpoint();
    std::fs::write(config.path(), format!("[hub]\nendpoints = [{{ url = \"{source}\" }}]\n"))
        .expect("written");
    let gpu = machine("gpu-1", &redis.url(), &hub).env("LARDER_CONFIG", config.path());
    let daemon = gpu.serve();

    let limit = ["limit", "--fleet", "--source", &format!("{source}/"), "4MiB", "--requests", "90", "--json"];
    let set = gpu.run(&limit).expect_code(0).json();
    let own = json!({(&source): {"bandwidth": LIMIT, "requests_per_second": 90}});
    assert_eq!(set, json!({"bandwidth": null, "requests_per_second": null, "sources": own}));
    let shown = gpu.run(&["limit", "--fleet"]).expect_code(0);
    assert!(shown.stdout.contains(&source) && shown.stdout.contains("90/s"), "{shown:?}");

    let least = Duration::from_secs_f64(MODEL as f64 / LIMIT as f64 * 0.9);
    let begun = Instant::now();
    assert_eq!(daemon.wait_job(&ask(&daemon, slow.id()), PATIENCE)["state"], "ready");
    let took = begun.elapsed();
    assert!(took >= least, "{MODEL} bytes came from the mirror in {took:?} at {LIMIT} bytes per second");
    assert_eq!(hub.bytes_of(slow.id()), 0, "all of it came from the mirror");
    // At the mirror's limit it would not end in the patience of this test.
    gpu.run(&["limit", "--fleet", "--source", &source, "1kB"]).expect_code(0);
    assert_eq!(daemon.wait_job(&ask(&daemon, quick.id()), PATIENCE)["state"], "ready");

    let none = ["limit", "--fleet", "--source", &source, "none", "--requests", "none", "--json"];
    assert_eq!(gpu.run(&none).expect_code(0).json()["sources"], json!({}), "without a limit it is not named");
    let wrong = gpu.run(&["limit", "--fleet", "--source", "huggingface.co", "1MB"]).expect_code(2);
    assert!(wrong.stderr.contains("like https://huggingface.co"), "{wrong:?}");
    let sources = |many| -> serde_json::Map<_, _> {
        (0..many).map(|n| (format!("http://mirror-{n}"), json!({"bandwidth": 1}))).collect()
    };
    let put = |sources: Value| daemon.request("PUT", "/v1/fleet/limits", Some(&json!({"sources": sources})));
    let refused = put(sources(65).into()).expect(400);
    assert_eq!(refused["reason"], "invalid_request", "{refused}");
    assert_eq!(daemon.get("/v1/fleet/limits").expect(200)["sources"], json!({}), "all or none");
    let many = put(sources(64).into()).expect(200);
    assert_eq!(many["sources"].as_object().map(serde_json::Map::len), Some(64));
}
