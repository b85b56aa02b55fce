//! A host that is not fit for work, as its fleet sees it: in the record of the host, and in where jobs go.

use fake_nvml::Fake;
use fake_nvml::config::{Config, Ecc, Gpu, Memory, Xid};
use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, Redis, models};

use super::{PATIENCE, id_of, machine};

fn gpu(ecc: Ecc) -> Gpu {
    let memory = Memory { total: 24 << 30, reserved: 0, used: 4 << 30, ..Memory::default() };
    Gpu { name: "NVIDIA L4".into(), memory: Some(memory), ecc: Some(ecc), ..Gpu::default() }
}

/// The health of a host of the list.
fn health(hosts: &Value, name: &str) -> Value {
    let hosts = hosts.get("hosts").unwrap_or(hosts).as_array().expect("hosts");
    let host = hosts.iter().find(|host| host["name"] == name);
    host.map(|host| host["about"]["health"].clone()).unwrap_or_default()
}

/// Two workers with a GPU each, both well, that take no downloads while they are not; and a desk that runs none.
struct Fleet {
    hub: Hub,
    desk: Larder,
    machines: [Larder; 2],
    daemons: [Daemon; 2],
    fakes: [Fake; 2],
    _redis: Redis,
}

fn well() -> Config {
    Config { gpus: vec![gpu(Ecc::default())], ..Config::default() }
}

/// Memory that had an error which could not be corrected.
fn broken() -> Config {
    Config { gpus: vec![gpu(Ecc { uncorrected_volatile: 1, ..Ecc::default() })], ..Config::default() }
}

fn is_well(hosts: &Value) -> bool {
    ["gpu-1", "gpu-2"].iter().all(|name| health(hosts, name)["state"] == "healthy")
}

fn fleet() -> Fleet {
    let (redis, hub) = (Redis::start(), Hub::start());
    let desk = machine("desk", &redis.url(), &hub);
    let fakes = [Fake::new(&well()), Fake::new(&well())].map(|fake| fake.expect("the library"));
    let machines = [("gpu-1", &fakes[0]), ("gpu-2", &fakes[1])].map(|(name, fake)| {
        let machine = machine(name, &redis.url(), &hub).env("LARDER__GPU__UNHEALTHY", "refuse");
        machine.env("LARDER__GPU__NVML_LIBRARY", fake.library()).env("LARDER__GPU__INTERVAL", "1s")
    });
    let daemons = [machines[0].serve(), machines[1].serve()];
    daemons[1].wait_until("/v1/hosts", PATIENCE, is_well);
    Fleet { hub, desk, machines, daemons, fakes, _redis: redis }
}

#[test]
fn a_degraded_host_is_told_to_the_fleet_and_takes_no_downloads_if_it_should_not() {
    let Fleet { hub, desk, machines: _machines, daemons: [_ill, daemon], fakes, _redis } = fleet();
    let [first, second] = [models::tiny_gpt2(1, 50_000), models::tiny_gpt2(2, 50_000)];
    hub.add(first.clone());
    hub.add(second.clone());
    // Seen by whoever asks any host of the fleet, or Redis itself.
    fakes[0].set(&broken()).expect("set");
    let degraded = json!({"state": "degraded", "reasons": ["ecc_uncorrected"]});
    let hosts = daemon.wait_until("/v1/hosts", PATIENCE, |hosts| health(hosts, "gpu-1") == degraded);
    assert_eq!(health(&hosts, "gpu-2"), json!({"state": "healthy", "reasons": []}));
    let listed = desk.run(&["hosts", "--json"]).expect_code(0).json();
    assert_eq!(health(&listed, "gpu-1"), degraded, "{listed}");
    let person = desk.run(&["hosts"]).expect_code(0).stdout;
    let line = person.lines().find(|line| line.starts_with("gpu-1")).expect("a line");
    assert!(line.contains("degraded (ecc_uncorrected)") && line.contains("20.0 GiB"), "{person}");
    let shown = desk.run(&["hosts", "show", "gpu-1"]).expect_code(0).stdout;
    assert!(shown.contains("degraded (ecc_uncorrected)"), "{shown}");

    // Whoever leaves the choice to the fleet gets the other one.
    let best = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": first.id(), "hosts": "best"}));
    let best = best.expect(202);
    assert_eq!(best["hosts"], json!(["gpu-2"]), "{best}");
    assert!(best["placed"].as_str().is_some_and(|why| why.contains("it is healthier")), "{best}");
    assert_eq!(daemon.wait_job(&id_of(&best), PATIENCE)["state"], "ready");
    // Who names the ill one waits, is told why, and loses no attempt.
    let named =
        daemon.post("/v1/jobs", &json!({"kind": "download", "repo": second.id(), "hosts": ["gpu-1"]}));
    let named = id_of(&named.expect(202));
    let place = format!("/v1/jobs/{named}");
    let waiting = daemon.wait_until(&place, PATIENCE, |job| job["state"] == "waiting");
    assert_eq!(
        (&waiting["reason"], &waiting["attempts"]),
        (&json!("host_unhealthy"), &json!(0)),
        "{waiting}"
    );
    let message = waiting["message"].as_str().expect("told");
    assert!(message.contains("gpu.unhealthy") && message.contains("could not be corrected"), "{message}");
    assert_eq!(hub.bytes_of(second.id()), 0, "not a byte");
    daemon.request("DELETE", &place, None).expect(202);
}

#[test]
fn each_reason_is_told_and_a_host_that_is_well_again_too() {
    let Fleet { hub: _hub, desk: _desk, machines, daemons: [first, daemon], fakes, _redis } = fleet();
    // Two reasons on one host; a library that does not answer makes the other unknown, with what is free on its GPU.
    fakes[0].set(&Config { xids: vec![Xid { gpu: 0, code: 79 }], ..broken() }).expect("set");
    fakes[1].set(&Config { hang: vec!["*".into()], ..well() }).expect("set");
    let both = json!({"state": "degraded", "reasons": ["ecc_uncorrected", "xid"]});
    let silent = json!({"state": "unknown", "reasons": ["gpus_stale"]});
    let hosts = daemon.wait_until("/v1/hosts", PATIENCE, |hosts| {
        health(hosts, "gpu-1") == both && health(hosts, "gpu-2") == silent
    });
    let of = |name: &str| {
        let mut all = hosts["hosts"].as_array().expect("hosts").iter();
        all.find(|host| host["name"] == name).expect("there")["about"]["gpus"][0].clone()
    };
    let [ill_gpu, silent_gpu] = [of("gpu-1"), of("gpu-2")];
    assert_eq!((&ill_gpu["memory_free"], &silent_gpu["memory_free"]), (&json!(20_u64 << 30), &Value::Null));
    assert_eq!(silent_gpu["memory_total"], json!(24_u64 << 30), "{silent_gpu}");
    fakes[1].set(&well()).expect("set");
    drop(first);
    fakes[0].set(&well()).expect("set");
    let again = machines[0].serve();
    daemon.wait_until("/v1/hosts", PATIENCE, is_well);
    drop(again);
}
