//! GPUs through the real NVML wrapper and a library that stands in for the driver's: what a snapshot says when all is
//! well, when the driver is old or the GPU an unusual one, and when calls fail, take long or do not return.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fake_nvml::config::{Code, Config, Ecc, Gpu, Instance, Memory, Mig, Process, Remapped, Xid};
use fake_nvml::{Fake, OLD_DRIVER};
use larder::gpu::snapshot::{MemoryKind, MemorySource, Missing, ProcessKind, Throttle};
use larder::gpu::{self, DeviceKind, Gpus, Handle, Source, State};
use larder_jobs::Span;

const SOON: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(100);
const GIB: u64 = 1 << 30;

fn settings(library: &str) -> gpu::Config {
    gpu::Config {
        nvml_library: library.to_owned(),
        interval: Span(INTERVAL),
        give_up_after: Span(4 * INTERVAL),
        unhealthy: gpu::Unhealthy::Warn,
    }
}

fn of(fake: &Fake) -> gpu::Config {
    settings(fake.library().to_str().expect("UTF-8"))
}

fn named(n: u32) -> Gpu {
    Gpu { uuid: format!("GPU-0000000{n}-1111-2222-3333-444444444444"), ..Gpu::default() }
}

fn with(gpus: Vec<Gpu>) -> Config {
    Config { gpus, ..Config::default() }
}

/// One reading of the GPUs that `config` describes.
fn read(config: &Config) -> Gpus {
    let fake = Fake::new(config).expect("the library is beside this test");
    gpu::once(&of(&fake), SOON)
}

fn fails(calls: &[&str], code: &str) -> BTreeMap<String, Code> {
    calls.iter().map(|call| ((*call).to_owned(), Code::Name(code.to_owned()))).collect()
}

/// Waits until the handle's snapshot is as it should be.
fn until(handle: &Handle, what: &str, holds: impl Fn(&Gpus) -> bool) -> std::sync::Arc<Gpus> {
    let begun = Instant::now();
    loop {
        let gpus = handle.latest();
        if holds(&gpus) {
            return gpus;
        }
        assert!(begun.elapsed() < SOON, "never: {what}; last: {gpus:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn everything_that_a_driver_tells_is_in_the_snapshot() {
    let first = Gpu {
        memory: Some(Memory { total: 80 * GIB, reserved: GIB, used: 30 * GIB, ..Memory::default() }),
        utilization: Some((87, 12)),
        throttle_reasons: Some(4 | 32),
        ecc: Some(Ecc { corrected_volatile: 1, corrected_aggregate: 7, ..Ecc::default() }),
        remapped_rows: Some(Remapped { correctable: 2, ..Remapped::default() }),
        pcie: Some((3, 8)),
        compute_processes: vec![
            Process { pid: 41, used: Some(GIB), name: Some("/usr/bin/small".into()) },
            Process { pid: 42, used: Some(29 * GIB), name: Some("/usr/bin/vllm".into()) },
            Process { pid: 43, used: None, name: None },
        ],
        graphics_processes: vec![
            Process { pid: 42, used: Some(29 * GIB), name: None },
            Process { pid: 7, used: Some(5), name: None },
        ],
        ..named(0)
    };
    let second = Gpu { name: "NVIDIA GeForce RTX 4090".into(), compute_capability: (8, 9), ..named(1) };
    let gpus = read(&with(vec![first, second]));
    assert_eq!((gpus.source, gpus.device(), gpus.why_none.as_ref()), (Source::Nvml, DeviceKind::Cuda, None));
    assert_eq!(gpus.driver_version.as_deref(), Some("580.95.05"));
    assert_eq!(
        (gpus.cuda_version.as_deref(), gpus.nvml_version.as_deref()),
        (Some("13.0"), Some("13.580.95.05"))
    );
    let json = serde_json::to_value(&gpus.devices).expect("json");
    let one = &json[0];
    assert_eq!(one["uuid"], "GPU-00000000-1111-2222-3333-444444444444");
    assert_eq!((&one["index"], &one["name"]), (&0.into(), &"NVIDIA H100 80GB HBM3".into()));
    let memory = serde_json::json!({"total": 80 * GIB, "used": 30 * GIB, "free": 49 * GIB, "reserved": GIB,
                                    "kind": "dedicated", "source": "v2"});
    assert_eq!(one["memory"], memory);
    assert_eq!(one["utilization"], serde_json::json!({"gpu": 0.87, "memory": 0.12}));
    assert_eq!((&one["temperature_c"], &one["power_w"]), (&31.into(), &70.123.into()));
    assert_eq!(one["power_limit_w"], 700.0);
    assert_eq!(one["throttle_reasons"], serde_json::json!(["sw_power_cap", "sw_thermal_slowdown"]));
    assert_eq!(one["ecc"]["volatile"], serde_json::json!({"corrected": 1, "uncorrected": 0}));
    assert_eq!(one["ecc"]["aggregate"], serde_json::json!({"corrected": 7, "uncorrected": 0}));
    assert_eq!(one["remapped_rows"]["correctable"], 2);
    let pcie = serde_json::json!({"generation": 3, "width": 8, "max_generation": 5, "max_width": 16});
    assert_eq!(one["pcie"], pcie);
    assert_eq!((&one["capabilities"]["fp8"], &one["capabilities"]["fp4"]), (&"yes".into(), &"no".into()));
    assert!(one["mig"].is_null() && one["xid"].is_null(), "{one}");
    assert_eq!(one["health"]["state"], "healthy");
    let processes = gpus.devices[0].processes.as_ref().expect("known");
    let seen: Vec<_> = processes.iter().map(|p| (p.pid, p.kind, p.used_memory, p.name.as_deref())).collect();
    assert_eq!(
        seen,
        [
            (42, ProcessKind::Compute, Some(29 * GIB), Some("/usr/bin/vllm")),
            (41, ProcessKind::Compute, Some(GIB), Some("/usr/bin/small")),
            (7, ProcessKind::Graphics, Some(5), None),
            (43, ProcessKind::Compute, None, None),
        ]
    );
    assert_eq!(json[1]["compute_capability"], serde_json::json!({"major": 8, "minor": 9}));
    assert_eq!(json[1]["capabilities"]["flash_attention_3"], "no");
}

#[test]
fn memory_that_fills_is_seen_filling() {
    let memory = Memory { used: GIB, used_per_call: GIB, ..Memory::default() };
    let fake = Fake::new(&with(vec![Gpu { memory: Some(memory), ..named(0) }])).expect("set up");
    let handle = gpu::start(&of(&fake));
    let used = |gpus: &Gpus| gpus.devices.first().and_then(|gpu| gpu.memory.used);
    until(&handle, "fills", |gpus| used(gpus) >= Some(5 * GIB));
    let full = Memory { used: 80 * GIB, ..Memory::default() };
    fake.set(&with(vec![Gpu { memory: Some(full), ..named(0) }])).expect("set");
    let gpus =
        until(&handle, "full", |gpus| gpus.devices.first().is_some_and(|gpu| gpu.memory.free == Some(0)));
    assert_eq!(used(&gpus), Some(80 * GIB - (600 << 20)));
}

#[test]
fn what_a_gpu_does_not_support_is_unknown_and_never_zero() {
    let bare = Gpu {
        utilization: None,
        temperature_c: None,
        power_mw: None,
        power_limit_mw: None,
        throttle_reasons: None,
        ecc: None,
        remapped_rows: None,
        pcie: None,
        pcie_max: None,
        errors: fails(
            &[
                "nvmlDeviceGetName",
                "nvmlDeviceGetCudaComputeCapability",
                "nvmlDeviceGetComputeRunningProcesses_v3",
                "nvmlDeviceGetGraphicsRunningProcesses_v3",
            ],
            "NOT_SUPPORTED",
        ),
        ..named(0)
    };
    let gpus = read(&with(vec![bare]));
    let json = serde_json::to_value(&gpus.devices[0]).expect("json");
    let unknown =
        ["name", "compute_capability", "temperature_c", "power_w", "power_limit_w", "throttle_reasons"];
    for key in unknown.into_iter().chain(["ecc", "remapped_rows", "mig", "processes"]) {
        assert!(json[key].is_null(), "{key}: {json}");
    }
    assert!(json["utilization"]["gpu"].is_null() && json["pcie"]["width"].is_null(), "{json}");
    assert!(json["capabilities"]["bf16"].is_null(), "{json}");
    assert_eq!((&json["lost"], &json["health"]["state"]), (&false.into(), &"healthy".into()));
}

#[test]
fn an_old_driver_without_the_newer_functions_still_tells_memory_and_processes() {
    let memory = Memory { total: 80 * GIB, reserved: GIB, used: 30 * GIB, ..Memory::default() };
    let process = Process { pid: 42, used: Some(29 * GIB), name: None };
    let config = with(vec![Gpu { memory: Some(memory), compute_processes: vec![process], ..named(0) }]);
    let fake = Fake::without(&config, OLD_DRIVER).expect("set up");
    let gpus = gpu::once(&of(&fake), SOON);
    let gpu = &gpus.devices[0];
    assert_eq!((gpu.memory.source, gpu.memory.kind), (Some(MemorySource::V1), Some(MemoryKind::Dedicated)));
    assert_eq!((gpu.memory.used, gpu.memory.free), (Some(31 * GIB), Some(49 * GIB)));
    assert_eq!(gpu.memory.reserved, None);
    assert_eq!(gpu.processes.as_ref().map(Vec::len), Some(1));
    assert_eq!(gpu.throttle_reasons, Some(vec![Throttle::Idle]));
}

#[test]
fn a_gpu_that_shares_the_hosts_memory_has_the_hosts_memory() {
    let spark = Gpu { name: "NVIDIA GB10".into(), memory: None, compute_capability: (12, 1), ..named(0) };
    let gpus = read(&with(vec![spark]));
    let memory = gpus.devices[0].memory;
    assert_eq!((memory.kind, memory.source), (Some(MemoryKind::Unified), Some(MemorySource::Meminfo)));
    let text = std::fs::read_to_string("/proc/meminfo").expect("Linux");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("a line");
    let kilobytes: u64 = total.trim().trim_end_matches(" kB").parse().expect("a number");
    assert_eq!(memory.total, Some(kilobytes * 1024));
    assert!(memory.free > Some(0) && memory.free < memory.total, "{memory:?}");
    // A failure is no sign of shared memory.
    let calls = ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"];
    let broken = Gpu { errors: fails(&calls, "UNKNOWN"), ..named(0) };
    assert_eq!(read(&with(vec![broken])).devices[0].memory, gpu::snapshot::Memory::default());
}

#[test]
fn a_divided_gpu_has_its_parts_and_not_its_gaps() {
    let part = |n: u64| {
        let memory = Memory { total: n * 10 * GIB, reserved: 0, used: GIB, ..Memory::default() };
        Some(Instance { uuid: format!("MIG-{n}"), name: format!("NVIDIA H100 MIG {n}g"), memory })
    };
    let mig = Mig { instances: vec![part(1), None, part(3)], ..Mig::default() };
    let whole = Gpu { mig: Some(Mig { enabled: false, ..Mig::default() }), ..named(1) };
    let gpus = read(&with(vec![Gpu { mig: Some(mig), ..named(0) }, whole]));
    let mig = gpus.devices[0].mig.as_ref().expect("known");
    assert!(mig.enabled && mig.pending);
    let parts: Vec<_> = mig.instances.iter().map(|p| (p.index, p.uuid.as_deref(), p.memory.free)).collect();
    assert_eq!(parts, [(0, Some("MIG-1"), Some(9 * GIB)), (2, Some("MIG-3"), Some(29 * GIB))]);
    assert_eq!(mig.instances[1].name.as_deref(), Some("NVIDIA H100 MIG 3g"));
    assert_eq!(gpus.devices[1].mig.as_ref().map(|mig| (mig.enabled, mig.instances.len())), Some((false, 0)));
}

#[test]
fn a_lost_gpu_keeps_its_place_and_its_name_and_comes_back() {
    let both = |lost| with(vec![Gpu { lost, ..named(0) }, named(1)]);
    let fake = Fake::new(&both(false)).expect("set up");
    let handle = gpu::start(&of(&fake));
    let before = until(&handle, "read", |gpus| gpus.devices.len() == 2);
    assert!(before.devices.iter().all(|gpu| !gpu.lost));
    fake.set(&both(true)).expect("set");
    let lost = until(&handle, "lost", |gpus| gpus.devices.first().is_some_and(|gpu| gpu.lost));
    assert_eq!((lost.devices.len(), lost.stale), (2, false));
    let gone = &lost.devices[0];
    assert_eq!((&gone.uuid, &gone.name), (&before.devices[0].uuid, &before.devices[0].name));
    assert_eq!((gone.memory.total, gone.memory.free, gone.temperature_c), (Some(80 * GIB), None, None));
    assert_eq!(gone.health.state, State::Degraded);
    assert_eq!((lost.devices[1].lost, lost.devices[1].temperature_c), (false, Some(31)));
    fake.set(&both(false)).expect("set");
    until(&handle, "back", |gpus| gpus.devices.iter().all(|gpu| !gpu.lost && gpu.temperature_c.is_some()));
    assert_eq!(handle.lost_for_good(), None);
}

#[test]
fn codes_that_the_wrapper_has_no_name_for_are_understood() {
    let code = |number| Code::Number(number);
    let cold = Gpu { errors: [("nvmlDeviceGetTemperature".into(), code(27))].into(), ..named(0) };
    let gone = Gpu { errors: [("nvmlDeviceGetHandleByIndex_v2".into(), code(28))].into(), ..named(1) };
    let reset = Gpu { errors: fails(&["nvmlDeviceGetHandleByIndex_v2"], "RESET_REQUIRED"), ..named(2) };
    let hidden = Gpu { errors: fails(&["nvmlDeviceGetHandleByIndex_v2"], "NO_PERMISSION"), ..named(3) };
    let sick = Gpu { errors: fails(&["nvmlDeviceGetUUID"], "UNKNOWN"), ..named(4) };
    let gpus = read(&with(vec![cold, gone, reset, hidden, sick.clone()]));
    let seen: Vec<_> = gpus.devices.iter().map(|gpu| (gpu.index, gpu.lost, gpu.reset_required)).collect();
    assert_eq!(seen, [(0, false, false), (1, true, false), (2, false, true), (4, true, false)]);
    assert_eq!((gpus.devices[0].temperature_c, gpus.devices[0].power_w), (None, Some(70.123)));
    // Where every GPU fails in a way that is not its own, it is the library.
    let none = read(&with(vec![sick.clone(), sick]));
    assert_eq!(none.why_none.map(|why| why.word), Some(Missing::Failed));
}

#[test]
fn a_call_that_does_not_return_holds_up_nobody_and_a_slow_one_is_waited_for() {
    let well = with(vec![named(0)]);
    let fake = Fake::new(&well).expect("set up");
    let handle = gpu::start(&of(&fake));
    let before = until(&handle, "read", |gpus| !gpus.devices.is_empty());
    let hang = vec!["nvmlDeviceGetTemperature".to_owned()];
    fake.set(&Config { hang: hang.clone(), ..well.clone() }).expect("set");
    let begun = Instant::now();
    let stale = until(&handle, "stale", |gpus| gpus.stale);
    assert!(begun.elapsed() > 2 * INTERVAL, "not before its time");
    assert_eq!(stale.devices[0].uuid, before.devices[0].uuid);
    let begun = Instant::now();
    let late = gpu::once(&of(&fake), INTERVAL);
    assert!(begun.elapsed() < 10 * INTERVAL);
    assert_eq!(late.why_none.map(|why| why.word), Some(Missing::NotAnswering));
    let second = gpu::start(&of(&fake));
    let begun = Instant::now();
    drop(second);
    assert!(begun.elapsed() < INTERVAL, "the end waits for no call");
    // From here on it only takes its time, and longer than an interval.
    let slow = [("nvmlDeviceGetTemperature".to_owned(), 150)].into();
    fake.set(&Config { slow_ms: slow, ..well }).expect("set");
    let after = until(&handle, "fresh", |gpus| !gpus.stale && gpus.took_seconds > 0.15);
    assert!(after.taken_at > before.taken_at);
    assert_eq!(handle.lost_for_good(), None, "no answer is no failure");
}

#[test]
fn an_xid_is_heard_and_judged_by_what_nvidia_says_of_it() {
    let config = with(vec![named(0), Gpu { events: false, ..named(1) }]);
    let fake = Fake::new(&config).expect("set up");
    let handle = gpu::start(&of(&fake));
    let quiet = until(&handle, "listens", |gpus| gpus.devices.first().is_some_and(|gpu| gpu.xid.is_some()));
    assert_eq!(quiet.devices[0].xid.as_ref().map(|xids| xids.last.len()), Some(0));
    assert_eq!(quiet.devices[1].xid, None, "that GPU does not report them");
    let heard = |gpus: &Gpus| {
        let xids = gpus.devices.first().and_then(|gpu| gpu.xid.clone()).expect("listens");
        xids.last.iter().map(|event| event.code).collect::<Vec<_>>()
    };
    let mut xids = vec![Xid { gpu: 0, code: 31 }];
    fake.set(&Config { xids: xids.clone(), ..config.clone() }).expect("set");
    let application = until(&handle, "heard", |gpus| heard(gpus) == [31]);
    assert_eq!(application.devices[0].health.state, State::Healthy, "the application's fault");
    // The GPU takes its last words: nothing can be read any more.
    xids.push(Xid { gpu: 0, code: 79 });
    let hang = vec!["nvmlDeviceGetUUID".to_owned()];
    fake.set(&Config { xids, hang, ..config }).expect("set");
    let fallen = until(&handle, "heard", |gpus| heard(gpus) == [79, 31]);
    assert_eq!(fallen.devices[0].health.state, State::Degraded);
    let hint = &fallen.devices[0].health.reasons[0].hint;
    assert!(hint.contains("restart the host"), "{hint}");
}

#[test]
fn each_way_to_have_no_gpu_is_told_apart() {
    let none = gpu::once(&settings("/nowhere/libnvidia-ml.so.1"), SOON);
    let why = none.why_none.as_ref().expect("a reason");
    assert_eq!((none.source, none.device(), why.word), (Source::None, DeviceKind::Cpu, Missing::NoLibrary));
    assert!(
        why.what.contains("/nowhere/libnvidia-ml.so.1") && why.hint.contains("gpu.nvml_library"),
        "{why:?}"
    );
    for (code, word) in [
        ("DRIVER_NOT_LOADED", Missing::NoDriver),
        ("LIB_RM_VERSION_MISMATCH", Missing::VersionMismatch),
        ("NO_PERMISSION", Missing::NoPermission),
        ("UNKNOWN", Missing::Failed),
    ] {
        let config = Config { errors: fails(&["nvmlInit_v2"], code), ..with(vec![named(0)]) };
        assert_eq!(read(&config).why_none.map(|why| why.word), Some(word), "{code}");
    }
    assert_eq!(read(&with(Vec::new())).why_none.map(|why| why.word), Some(Missing::NoDevice));
}

#[test]
fn a_driver_that_is_loaded_later_is_found() {
    let config = with(vec![named(0)]);
    let without = Config { errors: fails(&["nvmlInit_v2"], "DRIVER_NOT_LOADED"), ..config.clone() };
    let fake = Fake::new(&without).expect("set up");
    let handle = gpu::start(&of(&fake));
    until(&handle, "missed", |gpus| gpus.why_none.as_ref().is_some_and(|why| why.word == Missing::NoDriver));
    fake.set(&config).expect("set");
    until(&handle, "found", |gpus| gpus.devices.len() == 1 && gpus.why_none.is_none());
}

#[test]
fn a_library_that_worked_and_fails_altogether_is_given_up() {
    let config = with(vec![named(0)]);
    let fake = Fake::new(&config).expect("set up");
    let handle = gpu::start(&of(&fake));
    until(&handle, "read", |gpus| gpus.devices.len() == 1);
    assert_eq!(handle.lost_for_good(), None);
    let errors = fails(&["nvmlInit_v2", "nvmlDeviceGetCount_v2"], "UNKNOWN");
    fake.set(&Config { errors, ..config }).expect("set");
    let begun = Instant::now();
    while handle.lost_for_good().is_none() {
        assert!(begun.elapsed() < SOON, "never given up");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = handle.lost_for_good().expect("given up");
    assert!(error.hint().contains("in a container restart it"), "{}", error.message());
    assert!(handle.latest().devices.is_empty(), "what was true is not shown as true now");
}
