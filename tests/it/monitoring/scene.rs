//! A larder on a host where a lot is wrong, and a Prometheus that scrapes it with the configuration and the rules of
//! `monitoring/prometheus`, and beside it a host that is down: so that queries have something to answer.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Ecc, Gpu, Memory, Process, Remapped, Xid};
use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, Prometheus, larder, models};
use tempfile::TempDir;

use super::root;

pub(super) const SOON: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
/// Nobody listens there.
const DOWN: &str = "localhost:9";
/// NVML's bits: heat and the power supply slow the GPU down.
const THROTTLED: u64 = 0x20 | 0x80;

/// The scene; the processes end with it.
pub(super) struct Scene {
    pub(super) prometheus: Prometheus,
    pub(super) daemon: Daemon,
    _held: Vec<Box<dyn std::any::Any>>,
}

/// A process that has a file open until it is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The GPUs: one on which an engine holds so many bytes, one that can be lost, one that is in a bad way.
fn gpus(engine: Option<(u32, u64)>, lost: bool) -> Config {
    let named = |n: u32| Gpu {
        uuid: format!("GPU-0000000{n}-aaaa-bbbb-cccc-dddddddddddd"),
        utilization: Some((40, 10)),
        memory: Some(Memory { used: 2 * GIB, ..Memory::default() }),
        ..Gpu::default()
    };
    let held = engine.map(|(pid, bytes)| Process { pid, used: Some(bytes), name: None });
    let serving = Gpu { compute_processes: held.into_iter().collect(), ..named(0) };
    let leaving = Gpu { lost, ..named(1) };
    let sick = Gpu {
        throttle_reasons: Some(THROTTLED),
        ecc: Some(Ecc { uncorrected_volatile: 2, ..Ecc::default() }),
        remapped_rows: Some(Remapped { pending: true, failure: true, ..Remapped::default() }),
        ..named(2)
    };
    let xids = vec![Xid { gpu: 2, code: 31 }, Xid { gpu: 2, code: 79 }];
    Config { gpus: vec![serving, leaving, sick], xids, ..Config::default() }
}

/// `monitoring/prometheus`, with targets of this machine and quick.
fn configured(daemon: &Daemon) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let from = root().join("monitoring/prometheus");
    let copied = Command::new("cp").arg("-r").arg(from.join("rules")).arg(folder.path()).status();
    assert!(copied.is_ok_and(|status| status.success()), "the rules are copied");
    let mut text = std::fs::read_to_string(from.join("prometheus.yml")).expect("the configuration");
    let (here, address) = (r#"["larder:7717"]"#, daemon.address());
    for (from, to) in [
        (here, format!(r#"["{address}", "{DOWN}"]"#)),
        ("scrape_interval: 15s", "scrape_interval: 1s".into()),
        ("evaluation_interval: 15s", "evaluation_interval: 1s".into()),
    ] {
        assert!(text.contains(from), "prometheus.yml says {from}");
        text = text.replacen(from, &to, 1);
    }
    std::fs::write(folder.path().join("prometheus.yml"), text).expect("the folder takes a file");
    folder
}

impl Scene {
    pub(super) fn start() -> Self {
        let hub = Hub::start();
        for (n, name) in ["test/serving", "test/leaving", "test/warmed"].into_iter().enumerate() {
            hub.add(models::tiny_gpt2(n as u64 + 1, 60_000).named(name));
        }
        let fake = Fake::new(&gpus(None, false)).expect("the library is beside this test");
        let larder = larder!(&hub)
            .env("LARDER__GPU__NVML_LIBRARY", fake.library())
            .env("LARDER__GPU__INTERVAL", "100ms");
        let night = night(&larder);
        let larder = larder.env("LARDER_CONFIG", night);
        let daemon = larder.serve();
        let config = configured(&daemon);
        let prometheus = Prometheus::start(&config.path().join("prometheus.yml"));
        // From here on what happens is seen to happen.
        prometheus.wait_for("larder_gpu_info", SOON);
        for (job, state) in [
            (json!({"kind": "download", "repo": "test/serving"}), "ready"),
            (json!({"kind": "download", "repo": "test/leaving"}), "ready"),
            (json!({"kind": "download", "repo": "test/none"}), "failed"),
            (json!({"kind": "evict", "repo": "test/leaving"}), "done"),
            (json!({"kind": "profile", "tests": ["disk"], "disk_bytes": 16 << 20}), "done"),
        ] {
            run(&daemon, &job, state);
        }
        let holder = holder(&larder);
        let predicted = daemon.post("/v1/fit", &json!({"repo": "test/serving", "local": true, "context": 1}));
        let predicted = predicted.expect(200)["total_bytes"].as_u64().expect("a total");
        // Not so much that something else must have been compared.
        fake.set(&gpus(Some((holder.0.id(), predicted * 5 / 4)), true)).expect("set");
        let held: Vec<Box<dyn std::any::Any>> =
            vec![Box::new(holder), Box::new(larder), Box::new(fake), Box::new(hub), Box::new(config)];
        let scene = Self { prometheus, daemon, _held: held };
        scene.settle();
        scene
    }

    /// Waits until all of it is in Prometheus, and rules and rates had samples enough.
    fn settle(&self) {
        for seen in [
            r#"sum(larder_jobs{state=~"ready|done|failed"}) >= 5"#,
            "larder_fit_error_ratio",
            "sum(larder_gpu_lost) == 1",
            "count(larder_gpu_xid_last_timestamp_seconds) == 2",
            "larder_profile_disk_bytes_per_second",
            r#"sum(larder_warm_models{state="done"}) == 1"#,
            // The last that happens, so that ranges of ten seconds reach over it.
            "count_over_time(larder_fit_error_ratio[1m]) >= 4",
            "instance_kind:larder_job_duration_seconds:p90_1h",
        ] {
            self.prometheus.wait_for(seen, SOON);
        }
    }
}

/// A configuration with a manifest that was due within the last day, and so is when larder starts.
fn night(larder: &Larder) -> std::path::PathBuf {
    let (manifest, config) = (larder.root().join("night.toml"), larder.root().join("larder.toml"));
    let text = "deadline = \"2999-01-01T00:00:00Z\"\nmodels = [\"test/warmed\"]\n";
    let section = format!(
        "[[warm]]\nmanifest = {manifest:?}\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"24h\"\n"
    );
    std::fs::write(&manifest, text).and_then(|()| std::fs::write(&config, section)).expect("written");
    config
}

fn run(daemon: &Daemon, job: &Value, state: &str) {
    let accepted = daemon.post("/v1/jobs", job).expect(202);
    let ended = daemon.wait_job(accepted["id"].as_str().expect("an id"), SOON);
    assert_eq!(ended["state"], state, "{ended}");
}

/// A process that serves the model, as far as larder can see.
fn holder(larder: &Larder) -> Holder {
    let listed = larder.run(&["ls", "--json"]).expect_code(0).json();
    let serving = listed.as_array().expect("models").iter().find(|model| model["repo"] == "test/serving");
    let serving = serving.expect("it was staged");
    let path = serving["path"].as_str().expect("a path").to_owned();
    let mut tail = Command::new("tail");
    let tail = tail.arg("-f").arg(Path::new(&path).join("model.safetensors")).stdout(Stdio::null());
    Holder(tail.spawn().expect("tail runs"))
}
