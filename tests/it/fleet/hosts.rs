//! Several hosts: what they say of themselves, jobs for all, some or the best of them, and hosts that take no jobs.

use std::time::Duration;

use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, Redis, models};

use super::{PATIENCE, id_of, machine};

/// Two workers and a desk that runs none.
struct Fleet {
    redis: Redis,
    hub: Hub,
    desk: Larder,
    machines: [Larder; 2],
    daemons: [Daemon; 2],
}

fn fleet() -> Fleet {
    let (redis, hub) = (Redis::start(), Hub::start());
    let desk = machine("desk", &redis.url(), &hub);
    let machines = [("gpu-1", "zone=a,gpu=h100"), ("gpu-2", "zone=b,gpu=h100")]
        .map(|(name, labels)| machine(name, &redis.url(), &hub).env("LARDER__HOST__LABELS", labels));
    let daemons = [machines[0].serve(), machines[1].serve()];
    // Until both have said what they are.
    let known = |hosts: &Value| {
        let hosts = hosts["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        hosts.len() == 2 && hosts.iter().all(|host| host["about"].is_object())
    };
    daemons[0].wait_until("/v1/hosts", PATIENCE, known);
    Fleet { redis, hub, desk, machines, daemons }
}

fn names(hosts: &Value) -> Vec<&str> {
    let hosts = hosts.as_array().expect("hosts");
    hosts.iter().map(|host| host["name"].as_str().expect("a name")).collect()
}

#[test]
fn the_fleet_knows_its_hosts_and_who_has_what() {
    let Fleet { redis: _redis, hub, desk, machines: _machines, daemons } = fleet();
    let model = models::tiny_gpt2(1, 50_000);
    hub.add(model.clone());
    desk.run(&["stage", model.id(), "--hosts", "gpu-2"]).expect_code(0);
    let place = format!("/v1/hosts?model={}", model.id());
    let has = |hosts: &Value| hosts["hosts"].as_array().is_some_and(|hosts| hosts.len() == 1);
    let holders = daemons[0].wait_until(&place, PATIENCE, has);
    assert_eq!(names(&holders["hosts"]), ["gpu-2"]);
    let held = &holders["hosts"][0]["held"][0];
    assert_eq!((&held["repo"], &held["commit"]), (&json!(model.id()), &json!(model.commit())), "{held}");
    assert!(held["bytes"].as_u64().is_some_and(|bytes| bytes > 50_000), "{held}");

    let all = desk.run(&["hosts", "--json"]).expect_code(0).json();
    assert_eq!(names(&all), ["gpu-1", "gpu-2"]);
    let about = &all[0]["about"];
    assert_eq!(
        (&all[0]["state"], &about["labels"]),
        (&json!("up"), &json!({"gpu": "h100", "zone": "a"})),
        "{all}"
    );
    assert!(["healthy", "unknown"].contains(&about["health"]["state"].as_str().expect("a word")), "{about}");
    assert!(about["disk"]["room"].is_u64() && about["version"].is_string(), "{about}");
    let zone = desk.run(&["hosts", "list", "--labels", "zone=b", "--json"]).expect_code(0).json();
    assert_eq!(names(&zone), ["gpu-2"]);
    let by_model = desk.run(&["hosts", "list", "--model", model.id()]).expect_code(0);
    assert!(by_model.stdout.contains("gpu-2") && !by_model.stdout.contains("gpu-1"), "{by_model:?}");
    let one = desk.run(&["hosts", "show", "gpu-2"]).expect_code(0);
    assert!(one.stdout.contains(model.id()) && one.stdout.contains("zone=b"), "{one:?}");

    desk.run(&["evict", model.id(), "--api-url", &format!("http://{}", daemons[1].address())]).expect_code(0);
    daemons[0].wait_until(&place, PATIENCE, |hosts| hosts["hosts"] == json!([]));
}

#[test]
fn one_want_goes_to_all_some_or_the_best() {
    let Fleet { redis: _redis, hub, desk, machines, daemons } = fleet();
    let [first, second] = [models::tiny_gpt2(1, 50_000), models::tiny_gpt2(2, 50_000)];
    hub.add(first.clone());
    hub.add(second.clone());
    let staged = desk.run(&["stage", first.id(), "--hosts", "all", "--json"]).expect_code(0).json();
    assert_eq!((&staged["state"], &staged["repo"]), (&json!("ready"), &json!(first.id())), "{staged}");
    let children = staged["children"].as_array().expect("children");
    let hosts: Vec<_> = children.iter().map(|child| child["host"].as_str().expect("a host")).collect();
    assert_eq!(hosts, ["gpu-1", "gpu-2"]);
    for machine in &machines {
        let there = machine.run(&["ls", "--json"]).expect_code(0).json();
        assert_eq!(there[0]["repo"], first.id(), "{there}");
    }
    let child = desk.run(&["jobs", "show", children[0]["id"].as_str().expect("an id"), "--json"]);
    assert_eq!(child.expect_code(0).json()["parent"], staged["id"]);
    let shown = desk.run(&["jobs", "show", staged["id"].as_str().expect("an id")]).expect_code(0);
    assert!(shown.stdout.contains("gpu-1") && shown.stdout.contains("gpu-2"), "{shown:?}");

    // One of several fails, and the whole says which and why.
    let body = json!({"kind": "download", "repo": "test/none", "hosts": {"labels": {"gpu": "h100"}}});
    let parent = daemons[0].post("/v1/jobs", &body).expect(202);
    let over = daemons[0].wait_job(&id_of(&parent), PATIENCE);
    assert_eq!((&over["state"], &over["reason"]), (&json!("failed"), &json!("not_found")), "{over}");
    let message = over["message"].as_str().expect("a message");
    assert!(message.starts_with("2 of 2 failed: gpu-1 not_found, gpu-2 not_found"), "{message}");
    let again = daemons[0].post(&format!("/v1/jobs/{}/retry", id_of(&parent)), &json!({})).expect(202);
    assert_eq!(again["id"], parent["id"]);
    daemons[0].wait_job(&id_of(&parent), PATIENCE);

    desk.run(&["stage", second.id(), "--hosts", "gpu-2"]).expect_code(0);
    let place = format!("/v1/hosts?model={}", second.id());
    daemons[0].wait_until(&place, PATIENCE, |hosts| {
        hosts["hosts"].as_array().is_some_and(|hosts| hosts.len() == 1)
    });
    let best =
        daemons[0].post("/v1/jobs", &json!({"kind": "download", "repo": second.id(), "hosts": "best"}));
    let best = best.expect(202);
    assert_eq!(best["hosts"], json!(["gpu-2"]), "{best}");
    let why = best["placed"].as_str().expect("why");
    assert!(why.starts_with("best of 2: it has the model already"), "{why}");
    daemons[0].wait_job(&id_of(&best), PATIENCE);

    for (hosts, what) in
        [("gpu-1,gpu-7", "no host of the fleet is called gpu-7"), ("zone=z", "no host has the label zone=z")]
    {
        let refused = desk.run(&["stage", second.id(), "--hosts", hosts]).expect_code(2);
        assert!(refused.stderr.contains(what) && refused.stderr.contains("near it: "), "{refused:?}");
    }
}

#[test]
fn a_drained_host_ends_what_it_runs_and_takes_nothing_new() {
    let Fleet { redis: _redis, hub, desk, machines: _machines, daemons } = fleet();
    let [slow, next] = [models::huge(1, 4 << 20), models::tiny_gpt2(2, 50_000)];
    hub.add(slow.clone());
    hub.add(next.clone());
    hub.throttle(Some(1 << 20));
    let ask = |repo: &str| {
        daemons[0].post("/v1/jobs", &json!({"kind": "download", "repo": repo, "hosts": ["gpu-2"]}))
    };
    let running = id_of(&ask(slow.id()).expect(202));
    daemons[1].wait_until(&format!("/v1/jobs/{running}"), PATIENCE, |job| job["state"] == "fetching");
    let drained = desk.run(&["hosts", "drain", "gpu-2", "--requested-by", "ops"]).expect_code(0);
    assert!(drained.stdout.contains("gpu-2 takes no more jobs"), "{drained:?}");
    let waiting = id_of(&ask(next.id()).expect(202));
    let held =
        daemons[0].wait_until(&format!("/v1/jobs/{waiting}"), PATIENCE, |job| job["state"] == "waiting");
    assert_eq!(held["reason"], "host_drained", "{held}");
    hub.throttle(None);
    let over = daemons[0].wait_job(&running, PATIENCE);
    assert_eq!(over["state"], "ready", "what ran went on: {over}");
    let view = daemons[0].get("/v1/hosts/gpu-2").expect(200);
    assert_eq!((&view["state"], &view["drained"]["by"]), (&json!("drained"), &json!("ops")), "{view}");
    let still = daemons[0].get(&format!("/v1/jobs/{waiting}")).expect(200);
    assert_eq!(still["state"], "waiting", "{still}");
    let all = desk.run(&["stage", next.id(), "--hosts", "all", "--json"]).expect_code(0).json();
    assert_eq!(all["hosts"], json!(["gpu-1"]), "a drained host is not among all: {all}");

    daemons[0].request("DELETE", "/v1/hosts/gpu-2/drain", None).expect(200);
    let over = daemons[0].wait_job(&waiting, PATIENCE);
    assert_eq!(over["state"], "ready", "{over}");
    let unknown = desk.run(&["hosts", "drain", "gpu-22"]).expect_code(3);
    assert!(unknown.stderr.contains("near it: gpu-2"), "{unknown:?}");
}

#[test]
fn a_machine_of_its_own_is_the_only_host_of_its_fleet() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 50_000);
    hub.add(model.clone());
    let alone = support::larder!(&hub)
        .env("LARDER__HOST__NAME", "desk")
        .env("LARDER__HOST__LABELS", "zone=a")
        .timeout(Duration::from_secs(60));
    let daemon = alone.serve();
    let ask = |hosts: Value| {
        daemon.post("/v1/jobs", &json!({"kind": "download", "repo": model.id(), "hosts": hosts}))
    };
    for hosts in [json!("all"), json!("best"), json!(["desk"]), json!({"labels": {"zone": "a"}})] {
        let job = ask(hosts.clone()).expect(202);
        assert_eq!(daemon.wait_job(&id_of(&job), PATIENCE)["state"], "ready", "{hosts}");
    }
    for hosts in [json!(["desk", "gpu-1"]), json!({"labels": {"zone": "b"}})] {
        let problem = ask(hosts).expect(400);
        assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("queue.url")), "{problem}");
    }
    let hosts = alone.run(&["hosts", "list", "--model", model.id(), "--json"]).expect_code(0).json();
    assert_eq!(names(&hosts), ["desk"]);
    assert_eq!(hosts[0]["held"][0]["commit"], model.commit(), "{hosts}");
    let refused = alone.run(&["hosts", "drain", "desk"]).expect_code(2);
    assert!(refused.stderr.contains("no fleet"), "{refused:?}");
}
