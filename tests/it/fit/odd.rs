//! GPUs that are not as most are, and hosts without one: every place that speaks of them says the same of each, with a
//! daemon and without.

use std::collections::BTreeMap;

use fake_nvml::config::{Code, Config, Gpu, Instance, Memory, Mig};
use fake_nvml::{Fake, OLD_DRIVER};
use serde_json::Value;

use super::places::{self, GIB, Said, alone, hub, on, still, with_library};

/// What is said of the GPUs that `fake` has; what a command says by itself is the same.
fn asked(fake: &Fake) -> Said {
    let hub = hub();
    let larder = on(&hub, fake);
    let daemon = larder.serve();
    let said = places::said(&larder, &daemon, |host| host["gpus"]["source"] == "nvml");
    drop(daemon);
    let (info, fit) = alone(&larder);
    assert_eq!(still(&info), still(&said.host), "with a daemon and without");
    assert_eq!(
        (&fit["verdict"], &fit["target"]["name"], fit["budget_bytes"].is_u64()),
        (&said.fit["verdict"], &said.fit["target"]["name"], said.fit["budget_bytes"].is_u64())
    );
    said
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
fn two_gpus_are_two_everywhere() {
    let second = Gpu {
        name: "NVIDIA GeForce RTX 4090".into(),
        uuid: "GPU-00000002-0000-0000-0000-000000000000".into(),
        compute_capability: (8, 9),
        memory: Some(Memory { total: 24 * GIB, reserved: GIB / 2, used: GIB, ..Memory::default() }),
        ..Gpu::default()
    };
    let first = Gpu { memory: used(70 * GIB), ..Gpu::default() };
    let fake = Fake::new(&Config { gpus: vec![first, second], ..Config::default() }).expect("the library");
    let said = asked(&fake);
    assert_eq!(said.devices().len(), 2);
    assert_eq!(said.answer(), (Some("fits"), Some(22 * GIB + GIB / 2)), "of the freer one");
    for line in ["9.0 GiB of 80.0 GiB free", "22.5 GiB of 24.0 GiB free"] {
        assert!(said.info.contains(line), "{}", said.info);
    }
}

#[test]
fn what_is_not_supported_is_absent_everywhere_and_the_memory_still_counts() {
    let calls = ["nvmlDeviceGetName", "nvmlDeviceGetCudaComputeCapability"];
    let bare = Gpu {
        memory: used(9 * GIB),
        utilization: None,
        temperature_c: None,
        power_mw: None,
        power_limit_mw: None,
        throttle_reasons: None,
        ecc: None,
        remapped_rows: None,
        pcie: None,
        pcie_max: None,
        errors: fails(&calls),
        ..Gpu::default()
    };
    let said = asked(&of(bare));
    let gpu = &said.devices()[0];
    assert!(gpu["name"].is_null() && gpu["temperature_c"].is_null() && gpu["ecc"].is_null(), "{gpu}");
    let unknown = ["temperature_celsius", "utilization_ratio", "ecc_errors", "power_watts", "throttled"];
    for family in unknown.into_iter().chain(["pcie_link", "remapped_rows", "row_remap", "power_limit"]) {
        assert!(!said.has(&format!("larder_gpu_{family}")), "{family} is absent, never zero");
    }
    assert_eq!(said.answer(), (Some("fits"), Some(70 * GIB)));
    assert!(said.fit["target"]["compute_capability"].is_null(), "{}", said.fit);
    let told = said.info.lines().find(|line| line.starts_with("GPU 0")).expect("a line");
    assert_eq!(told, "GPU 0     unknown, 70.0 GiB of 80.0 GiB free", "nothing that is not known");
}

#[test]
fn of_memory_that_nobody_can_read_nothing_is_said() {
    let calls = ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"];
    let errors = calls.iter().map(|call| ((*call).to_owned(), Code::Name("UNKNOWN".to_owned()))).collect();
    let said = asked(&of(Gpu { errors, ..Gpu::default() }));
    assert!(!said.has("larder_gpu_memory_total_bytes"), "{:#?}", said.metrics);
    assert_eq!(said.answer(), (Some("unknown"), None), "{}", said.fit);
    assert!(!said.info.contains("free,"), "{}", said.info);
}

#[test]
fn an_old_drivers_memory_is_the_budget() {
    let config = Config { gpus: vec![Gpu { memory: used(30 * GIB), ..Gpu::default() }], ..Config::default() };
    let said = asked(&Fake::without(&config, OLD_DRIVER).expect("the library"));
    assert_eq!(said.devices()[0]["memory"]["source"], "v1");
    assert!(said.has("larder_gpu_memory_free_bytes{") && !said.has("larder_gpu_memory_reserved_bytes{"));
    assert_eq!(said.answer().1, Some(49 * GIB), "{}", said.fit);
    assert!(said.info.contains("49.0 GiB of 80.0 GiB free"), "{}", said.info);
}

#[test]
fn of_memory_that_is_shared_with_the_host_what_the_host_has_free_is_the_budget() {
    let spark =
        Gpu { name: "NVIDIA GB10".into(), memory: None, compute_capability: (12, 1), ..Gpu::default() };
    let said = asked(&of(spark));
    let memory = &said.devices()[0]["memory"];
    assert_eq!(
        (memory["kind"].as_str(), memory["total"] == said.host["memory"]["total"]),
        (Some("unified"), true)
    );
    let total = said.host["memory"]["total"].as_u64();
    let budget = said.answer().1;
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
    let said = asked(&of(Gpu { mig: Some(mig), ..Gpu::default() }));
    let parts = &said.devices()[0]["mig"]["instances"];
    assert_eq!(parts.as_array().map(Vec::len), Some(2), "{parts}");
    assert_eq!(said.answer().1, Some(29 * GIB), "{}", said.fit);
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
        slow_ms: BTreeMap::from([("nvmlDeviceGetMemoryInfo_v2".to_owned(), 150)]),
        ..Config::default()
    };
    let (hub, fake) = (hub(), Fake::new(&config).expect("the library"));
    let larder = on(&hub, &fake);
    let daemon = larder.serve();
    let free = |host: &Value| host["gpus"]["devices"][0]["memory"]["free"].as_u64();
    let first = places::said(&larder, &daemon, |host| free(host).is_some());
    let (before, budget) = (free(&first.host), first.answer().1);
    let then = places::said(&larder, &daemon, |host| free(host).is_some_and(|now| Some(now) < before));
    assert!(then.answer().1.is_some_and(|now| Some(now) < budget), "{} after {}", then.fit, first.fit);
    assert!(free(&then.info_json) < free(&first.info_json), "{}", then.info_json);
}

#[test]
fn without_a_library_everything_says_that_there_is_none() {
    let hub = hub();
    let larder = with_library(&hub, "/nowhere/libnvidia-ml.so.1");
    let daemon = larder.serve();
    let is_told = |host: &Value| host["gpus"]["why_none"]["word"] == "no_library";
    let said = places::said(&larder, &daemon, is_told);
    super::until_scraped(&daemon, |line| line == r#"larder_collect_success{collector="gpu"} 1"#);
    assert_eq!(
        (said.host["device"].as_str(), said.host["health"]["state"].as_str()),
        (Some("cpu"), Some("healthy"))
    );
    assert!(!said.has("larder_gpu_"), "{:#?}", said.metrics);
    assert_eq!(said.answer(), (Some("unknown"), None));
    for told in [said.fit["notes"].to_string(), said.fit_json["notes"].to_string(), said.info] {
        assert!(told.contains("/nowhere/libnvidia-ml.so.1"), "{told}");
    }
    drop(daemon);
    assert_eq!(still(&alone(&larder).0), still(&said.host));
}
