//! A host with GPUs, by a library that stands in for the driver's: what `info`, `/v1/host`, `/metrics` and the fit say, and
//! what a download does on a host that is not healthy.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory, Process, Xid};
use serde_json::{Value, json};
use support::repos::Repo;
use support::{Hub, Larder, models};

use super::{row, scraped, until_scraped};

const SOON: Duration = Duration::from_secs(30);
const GIB: u64 = 1 << 30;

fn gpu(n: u32, free: u64) -> Gpu {
    let total = 24 * GIB;
    Gpu {
        name: "NVIDIA GeForce RTX 4090".into(),
        uuid: format!("GPU-0000000{n}-aaaa-bbbb-cccc-dddddddddddd"),
        compute_capability: (8, 9),
        memory: Some(Memory { total, reserved: GIB / 2, used: total - free - GIB / 2, ..Memory::default() }),
        ..Gpu::default()
    }
}

fn with(gpus: Vec<Gpu>) -> Config {
    Config { gpus, ..Config::default() }
}

fn on(larder: Larder, fake: &Fake) -> Larder {
    larder.env("LARDER__GPU__NVML_LIBRARY", fake.library()).env("LARDER__GPU__INTERVAL", "100ms")
}

#[test]
fn two_gpus_are_shown_everywhere_and_the_freest_is_meant() {
    let hub = Hub::start();
    hub.add(Repo::from_row(&row("Qwen/Qwen2.5-7B-Instruct")).model());
    let fake = Fake::new(&with(vec![gpu(1, 6 * GIB), gpu(2, 22 * GIB)])).expect("the library");
    let larder = on(support::larder!(&hub), &fake);
    // Without a daemon.
    let info = larder.run(&["info", "--json"]).expect_code(0).json();
    assert_eq!((info["device"].as_str(), info["health"]["state"].as_str()), (Some("cuda"), Some("healthy")));
    let fit = |args: &[&str]| {
        let all =
            [&["fit", "Qwen/Qwen2.5-7B-Instruct", "--local", "--context", "2048", "--json"], args].concat();
        larder.run(&all).json()
    };
    let here = fit(&[]);
    assert_eq!(
        (here["verdict"].as_str(), here["budget_bytes"].as_u64()),
        (Some("fits"), Some(22 * GIB)),
        "{here}"
    );
    assert_eq!(
        (here["target"]["source"].as_str(), here["target"]["name"].as_str()),
        (Some("free_now"), Some("NVIDIA GeForce RTX 4090"))
    );
    let both = fit(&["--gpus", "2"]);
    assert_eq!(both["budget_bytes"].as_u64(), Some(6 * GIB), "the fuller one counts: {both}");

    let daemon = larder.serve();
    let host =
        daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["devices"][1]["memory"]["free"] == 22 * GIB);
    let first = &host["gpus"]["devices"][0];
    assert_eq!(
        (first["compute_capability"]["major"].as_u64(), first["capabilities"]["fp8"].as_str()),
        (Some(8), Some("yes"))
    );
    assert_eq!(host["memory"]["total"].as_u64().map(|bytes| bytes > GIB), Some(true));
    let metrics = scraped(&daemon);
    for wanted in [
        r#"larder_gpu_memory_free_bytes{uuid="GPU-00000002-aaaa-bbbb-cccc-dddddddddddd"} 23622320128"#,
        r#"larder_gpu_lost{uuid="GPU-00000001-aaaa-bbbb-cccc-dddddddddddd"} 0"#,
        r#"larder_collect_success{collector="gpu"} 1"#,
        "larder_host_healthy 1",
    ] {
        assert!(metrics.iter().any(|line| line == wanted), "{wanted} is in {metrics:#?}");
    }
    let human = larder.run(&["info"]).expect_code(0).stdout;
    assert!(human.contains("GPU 1") && human.contains("22.0 GiB of 24.0 GiB free"), "{human}");
}

#[test]
fn a_host_that_is_not_healthy_says_so_and_refuses_only_if_it_should() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    let fake = Fake::new(&with(vec![gpu(1, 20 * GIB)])).expect("the library");
    let larder = on(support::larder!(&hub), &fake).env("LARDER__GPU__UNHEALTHY", "refuse");
    let daemon = larder.serve();
    daemon.wait_until("/v1/host", SOON, |host| host["health"]["state"] == "healthy");
    // It falls off the bus.
    let lost = Gpu { lost: true, ..gpu(1, 20 * GIB) };
    fake.set(&with(vec![lost])).expect("set");
    let host = daemon.wait_until("/v1/host", SOON, |host| host["health"]["state"] == "degraded");
    assert_eq!(host["health"]["reasons"][0]["word"], "gpu_lost", "{host}");
    let id = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "test/tiny-gpt2-1"})).expect(202);
    let place = format!("/v1/jobs/{}", id["id"].as_str().expect("id"));
    let waiting = daemon.wait_until(&place, SOON, |job| job["state"] == "waiting");
    assert_eq!(waiting["reason"], "host_unhealthy", "{waiting}");
    assert_eq!(larder.run(&["info"]).code, 1);
    // A scrape goes on, and what is lost has no memory.
    let metrics = scraped(&daemon);
    assert!(metrics.iter().any(|line| line.starts_with("larder_gpu_lost{") && line.ends_with(" 1")));
    assert!(!metrics.iter().any(|line| line.starts_with("larder_gpu_memory_free_bytes")), "{metrics:#?}");
    daemon.request("DELETE", &place, None);
    // It comes back, and has had an error for which NVIDIA asks for a reset.
    fake.set(&Config { xids: vec![Xid { gpu: 0, code: 79 }], ..with(vec![gpu(1, 20 * GIB)]) }).expect("set");
    let host = daemon.wait_until("/v1/host", SOON, |host| host["health"]["reasons"][0]["word"] == "xid");
    assert_eq!(host["gpus"]["devices"][0]["lost"], false);
    let changes = |history: &Value| history["hardware"].as_array().map_or(0, Vec::len);
    daemon.wait_until("/v1/host/history", SOON, |history| changes(history) >= 3);
}

#[test]
fn a_library_that_hangs_holds_up_nobody() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    let config = Config { hang: vec!["*".into()], ..with(vec![gpu(1, GIB)]) };
    let fake = Fake::new(&config).expect("the library");
    let larder = on(support::larder!(&hub), &fake);
    let mut daemon = larder.serve();
    let id = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "test/tiny-gpt2-1"})).expect(202);
    let job = daemon.wait_job(id["id"].as_str().expect("id"), SOON);
    assert_eq!(job["state"], "ready", "{job}");
    assert!(!scraped(&daemon).is_empty());
    let host = daemon.get("/v1/host").expect(200);
    assert_eq!(host["gpus"]["devices"], json!([]), "{host}");
    assert!(daemon.terminate(Duration::from_secs(10)).success(), "a stop does not wait for it either");
}

#[test]
fn what_does_not_fit_the_gpu_is_refused_before_the_first_byte() {
    let hub = Hub::start();
    hub.add(Repo::from_row(&row("Qwen/Qwen2.5-7B-Instruct")).model());
    let fake = Fake::new(&with(vec![gpu(1, 2 * GIB)])).expect("the library");
    let larder = on(support::larder!(&hub), &fake);
    let refused = larder.run(&["stage", "Qwen/Qwen2.5-7B-Instruct", "--variant", "auto", "--json"]);
    let job = refused.json();
    assert_eq!((refused.code, job["reason"].as_str()), (4, Some("insufficient_vram")), "{job}");
    let message = job["message"].as_str().expect("told");
    assert!(message.contains("2.00 GiB free") && message.contains("needs 1"), "{message}");
    let plan = larder.run(&["plan", "Qwen/Qwen2.5-7B-Instruct", "--variant", "auto"]);
    assert_eq!(plan.code, 4, "{}", plan.stderr);
    // The model as it was named is nobody's business but the operator's, who is told.
    let plan = larder.run(&["plan", "Qwen/Qwen2.5-7B-Instruct"]).expect_code(0).stdout;
    assert!(plan.contains("no on ") && plan.contains("2.00 GiB"), "{plan}");
}

/// A process that has a file open until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(file: &std::path::Path) -> Self {
        let mut tail = Command::new("tail");
        let child = tail.arg("-f").arg(file).stdout(Stdio::null()).spawn();
        Self(child.expect("tail runs"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn predictions_are_corrected_by_what_an_engine_on_this_host_holds() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    let fake = Fake::new(&with(vec![gpu(1, 20 * GIB)])).expect("the library");
    let larder = on(support::larder!(&hub), &fake);
    larder.run(&["stage", "test/tiny-gpt2-1"]).expect_code(0);
    let daemon = larder.serve();
    let ask = json!({"repo": "test/tiny-gpt2-1", "local": true, "context": 1});
    let before = daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["devices"][0]["lost"] == false);
    assert_eq!(before["calibrations"], json!([]));
    let predicted = daemon.post("/v1/fit", &ask).expect(200)["total_bytes"].as_u64().expect("a total");
    let path =
        larder.run(&["ls", "--json"]).expect_code(0).json()[0]["path"].as_str().expect("a path").to_owned();
    let holder = Holder::of(&std::path::Path::new(&path).join("model.safetensors"));
    let held = Process { pid: holder.0.id(), used: Some(predicted * 13 / 10), name: None };
    fake.set(&with(vec![Gpu { compute_processes: vec![held], ..gpu(1, 20 * GIB) }])).expect("set");
    let host = daemon.wait_until("/v1/host", SOON, |host| host["calibrations"] != json!([]));
    let ratio = |value: &Value| value.as_f64().expect("a number");
    assert!((ratio(&host["calibrations"][0]["ratio"]) - 1.3).abs() < 0.05, "{host}");
    let after = daemon.post("/v1/fit", &ask).expect(200);
    assert_eq!(after["provenance"]["overhead"], "calibrated", "{after}");
    let corrected = after["total_bytes"].as_u64().expect("a total");
    assert!(corrected > predicted * 12 / 10, "{predicted} became {corrected}");
    until_scraped(&daemon, |line| line.starts_with("larder_fit_error_ratio{") && line.contains("gpt2"));
    until_scraped(&daemon, |line| line == "larder_fit_observations_total 1");
}

#[test]
fn a_host_and_a_model_are_profiled_and_a_model_preloaded() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    let telling = models::huge(1, 20 << 20);
    hub.add(telling.clone());
    let larder = support::larder!(&hub);
    larder.run(&["stage", "test/tiny-gpt2-1"]).expect_code(0);
    let args =
        ["profile", "--test", "disk", "--test", "memory", "--test", "hub", "--disk-bytes", "16MiB", "--json"];
    let job = larder.run(&args).expect_code(0).json();
    let report = &job["report"];
    for measured in ["disk_write", "memory_copy", "hub_round_trip"] {
        assert!(report[measured].as_f64().is_some_and(|rate| rate > 0.0), "{measured}: {report}");
    }
    let left =
        std::fs::read_dir(larder.cache()).expect("listed").flatten().filter(|one| one.path().is_file());
    assert_eq!(left.count(), 0, "no file for measuring is left");
    let daemon = larder.serve();
    let host = daemon.get("/v1/host").expect(200);
    assert_eq!(host["measured"]["disk_write"], report["disk_write"], "{host}");
    until_scraped(&daemon, |line| line.starts_with(r#"larder_profile_disk_bytes_per_second{test="write"}"#));
    let speed = |line: &str| line.starts_with("larder_profile_hub_bytes_per_second ");
    assert!(!scraped(&daemon).iter().any(|line| speed(line)), "a small model's download tells no speed");
    larder.run(&["stage", telling.id()]).expect_code(0);
    until_scraped(&daemon, speed);

    let model = larder.run(&["profile", "test/tiny-gpt2-1", "--json"]).expect_code(0).json();
    let report = &model["report"];
    assert_eq!((report["findings"].clone(), report["parameters"].is_u64()), (json!([]), true), "{report}");
    assert_eq!(report["residency"]["bytes"], model["bytes_total"], "{report}");
    let done = larder.run(&["preload", "test/tiny-gpt2-1", "--json"]).expect_code(0).json();
    assert!(done["report"]["skipped"].is_string(), "what is small and in memory is not read again: {done}");
    for file in support::cache::walk(&larder.cache().join("models--test--huge-1/blobs")) {
        let file = std::fs::File::open(file).expect("opens");
        file.sync_all().expect("synced");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("out of memory");
    }
    let forced = larder.run(&["preload", telling.id(), "--force", "--json"]).expect_code(0).json();
    assert_eq!(forced["report"]["skipped"], Value::Null, "{forced}");
    assert!(forced["report"]["resident_before"].as_u64() < Some(telling.bytes()), "{forced}");
    assert_eq!(forced["bytes_done"], json!(telling.bytes()), "all of it is in memory: {forced}");
    larder.run(&["profile", "test/none"]).expect_code(3);
    larder.run(&["profile", "--disk-bytes", "1"]).expect_code(2);
    // A shard that is cut is found.
    let path = model["path"].as_str().expect("a path").to_owned();
    let blob = std::fs::canonicalize(std::path::Path::new(&path).join("model.safetensors")).expect("a blob");
    let file = std::fs::OpenOptions::new().write(true).open(&blob).expect("opens");
    file.set_len(std::fs::metadata(&blob).expect("there").len() - 4).expect("cut");
    let cut = larder.run(&["profile", "test/tiny-gpt2-1", "--json"]).expect_code(0).json();
    assert_eq!(cut["report"]["findings"][0]["severity"], "error", "{cut}");
}
