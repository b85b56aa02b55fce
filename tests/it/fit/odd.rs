//! GPUs that are not as most are, and hosts without one: `info`, `/v1/host`, `/metrics` and the fit say the same of each.

use std::collections::BTreeMap;
use std::time::Duration;

use fake_nvml::config::{Code, Config, Gpu, Instance, Memory, Mig};
use fake_nvml::{Fake, OLD_DRIVER};
use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, models};

use super::{scraped, until_scraped};

const SOON: Duration = Duration::from_secs(30);
const GIB: u64 = 1 << 30;

/// What each way of asking says of one host.
struct Said {
    host: Value,
    fit: Value,
    metrics: Vec<String>,
    info: String,
}

impl Said {
    fn has(&self, start: &str) -> bool {
        self.metrics.iter().any(|line| line.starts_with(start))
    }
}

/// Asks a daemon and a command on a host whose GPUs `fake` has, once they were read.
fn asked(hub: &Hub, fake: &Fake) -> Said {
    let (larder, daemon) = serving(hub, fake.library().to_str().expect("UTF-8"));
    daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["source"] == "nvml");
    until_scraped(&daemon, |line| line.starts_with("larder_gpu_info{"));
    said(&larder, &daemon)
}

fn serving(hub: &Hub, library: &str) -> (Larder, Daemon) {
    let larder = support::larder!(hub);
    let larder = larder.env("LARDER__GPU__NVML_LIBRARY", library).env("LARDER__GPU__INTERVAL", "100ms");
    let daemon = larder.serve();
    (larder, daemon)
}

fn said(larder: &Larder, daemon: &Daemon) -> Said {
    let body = json!({"repo": "test/tiny-gpt2-1", "local": true});
    Said {
        host: daemon.get("/v1/host").expect(200),
        fit: daemon.post("/v1/fit", &body).expect(200),
        metrics: scraped(daemon),
        info: larder.run(&["info"]).stdout,
    }
}

fn hub() -> Hub {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    hub
}

fn of(gpu: Gpu) -> Fake {
    Fake::new(&Config { gpus: vec![gpu], ..Config::default() }).expect("the library")
}

fn fails(calls: &[&str]) -> BTreeMap<String, Code> {
    calls.iter().map(|call| ((*call).to_owned(), Code::Name("NOT_SUPPORTED".to_owned()))).collect()
}

fn used(bytes: u64) -> Option<Memory> {
    Some(Memory { total: 80 * GIB, reserved: GIB, used: bytes, ..Memory::default() })
}

#[test]
fn what_is_not_supported_is_absent_everywhere_and_the_memory_still_counts() {
    let calls = ["nvmlDeviceGetName", "nvmlDeviceGetCudaComputeCapability"];
    let bare = Gpu {
        memory: used(9 * GIB),
        utilization: None,
        temperature_c: None,
        power_mw: None,
        ecc: None,
        pcie: None,
        errors: fails(&calls),
        ..Gpu::default()
    };
    let said = asked(&hub(), &of(bare));
    let gpu = &said.host["gpus"]["devices"][0];
    assert!(gpu["name"].is_null() && gpu["temperature_c"].is_null() && gpu["ecc"].is_null(), "{gpu}");
    for family in ["larder_gpu_temperature_celsius", "larder_gpu_utilization_ratio", "larder_gpu_ecc_errors"]
    {
        assert!(!said.has(family), "{family} is absent, never zero");
    }
    assert_eq!(
        (said.fit["verdict"].as_str(), said.fit["budget_bytes"].as_u64()),
        (Some("fits"), Some(70 * GIB))
    );
    assert!(
        said.fit["target"]["compute_capability"].is_null() && said.info.contains("GPU 0"),
        "{}",
        said.info
    );
}

#[test]
fn an_old_drivers_memory_is_the_budget() {
    let config = Config { gpus: vec![Gpu { memory: used(30 * GIB), ..Gpu::default() }], ..Config::default() };
    let said = asked(&hub(), &Fake::without(&config, OLD_DRIVER).expect("the library"));
    assert_eq!(said.host["gpus"]["devices"][0]["memory"]["source"], "v1");
    assert!(said.has("larder_gpu_memory_free_bytes{") && !said.has("larder_gpu_memory_reserved_bytes{"));
    assert_eq!(said.fit["budget_bytes"].as_u64(), Some(49 * GIB), "{}", said.fit);
    assert!(said.info.contains("49.0 GiB of 80.0 GiB free"), "{}", said.info);
}

#[test]
fn of_memory_that_is_shared_with_the_host_what_the_host_has_free_is_the_budget() {
    let spark =
        Gpu { name: "NVIDIA GB10".into(), memory: None, compute_capability: (12, 1), ..Gpu::default() };
    let said = asked(&hub(), &of(spark));
    let memory = &said.host["gpus"]["devices"][0]["memory"];
    assert_eq!(
        (memory["kind"].as_str(), memory["total"] == said.host["memory"]["total"]),
        (Some("unified"), true)
    );
    let total = said.host["memory"]["total"].as_u64();
    let budget = said.fit["budget_bytes"].as_u64();
    assert!(budget > Some(0) && budget < total, "{budget:?} of {total:?}");
    assert!(said.has("larder_gpu_memory_total_bytes{") && said.info.contains("NVIDIA GB10"), "{}", said.info);
}

#[test]
fn of_a_divided_gpu_a_model_gets_one_part() {
    let part = |n: u64| {
        let memory = Memory { total: n * 10 * GIB, reserved: 0, used: GIB, ..Memory::default() };
        Some(Instance { uuid: format!("MIG-{n}"), name: format!("NVIDIA H100 MIG {n}g"), memory })
    };
    let mig = Mig { instances: vec![part(1), None, part(3)], ..Mig::default() };
    let said = asked(&hub(), &of(Gpu { mig: Some(mig), ..Gpu::default() }));
    let parts = &said.host["gpus"]["devices"][0]["mig"]["instances"];
    assert_eq!(parts.as_array().map(Vec::len), Some(2), "{parts}");
    assert_eq!(said.fit["budget_bytes"].as_u64(), Some(29 * GIB), "{}", said.fit);
    assert_eq!(said.fit["target"]["name"], "NVIDIA H100 MIG 3g");
    assert!(said.has("larder_gpu_info{"), "{:#?}", said.metrics);
    for line in ["divided into 2 parts (MIG)", "NVIDIA H100 MIG 3g, 29.0 GiB of 30.0 GiB free"] {
        assert!(said.info.contains(line), "{}", said.info);
    }
}

#[test]
fn memory_that_moves_is_followed_by_a_slow_library_too() {
    let memory =
        Memory { total: 80 * GIB, reserved: 0, used: GIB, used_per_second: GIB, ..Memory::default() };
    let config = Config {
        gpus: vec![Gpu { memory: Some(memory), ..Gpu::default() }],
        slow_ms: BTreeMap::from([("nvmlDeviceGetMemoryInfo_v2".to_owned(), 300)]),
        ..Config::default()
    };
    let fake = Fake::new(&config).expect("the library");
    let hub = hub();
    let (_larder, daemon) = serving(&hub, fake.library().to_str().expect("UTF-8"));
    let free = |host: &Value| host["gpus"]["devices"][0]["memory"]["free"].as_u64();
    let first = free(&daemon.wait_until("/v1/host", SOON, |host| free(host).is_some()));
    daemon.wait_until("/v1/host", SOON, |host| free(host).is_some_and(|now| Some(now) < first));
}

#[test]
fn without_a_library_everything_says_that_there_is_none() {
    let hub = hub();
    let (larder, daemon) = serving(&hub, "/nowhere/libnvidia-ml.so.1");
    daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["why_none"]["word"] == "no_library");
    until_scraped(&daemon, |line| line == r#"larder_collect_success{collector="gpu"} 1"#);
    let said = said(&larder, &daemon);
    assert_eq!(
        (said.host["device"].as_str(), said.host["health"]["state"].as_str()),
        (Some("cpu"), Some("healthy"))
    );
    assert!(!said.has("larder_gpu_"), "{:#?}", said.metrics);
    assert_eq!((said.fit["verdict"].as_str(), said.fit["budget_bytes"].is_null()), (Some("unknown"), true));
    assert!(said.fit["notes"].to_string().contains("/nowhere/libnvidia-ml.so.1"), "{}", said.fit);
    assert!(said.info.contains("/nowhere/libnvidia-ml.so.1"), "{}", said.info);
}
