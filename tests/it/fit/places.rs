//! One host, asked in every place that speaks of its GPUs: `larder info` (for people and as JSON), `GET /v1/host`,
//! `/metrics`, and the fit (`larder fit` and `POST /v1/fit`). What they say must be the same, and what the host does not
//! know must be absent from its metrics.

use std::time::{Duration, Instant};

use fake_nvml::Fake;
use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, models};

use super::scraped;

pub(super) const SOON: Duration = Duration::from_secs(30);
pub(super) const GIB: u64 = 1 << 30;
/// The model of which the fit speaks.
pub(super) const MODEL: &str = "test/tiny-gpt2-1";

/// A metric of a GPU, and where the same stands in the JSON of the host.
const METRICS: &[(&str, &str)] = &[
    ("larder_gpu_memory_total_bytes", "/memory/total"),
    ("larder_gpu_memory_used_bytes", "/memory/used"),
    ("larder_gpu_memory_free_bytes", "/memory/free"),
    ("larder_gpu_memory_reserved_bytes", "/memory/reserved"),
    ("larder_gpu_utilization_ratio", "/utilization/gpu"),
    ("larder_gpu_memory_utilization_ratio", "/utilization/memory"),
    ("larder_gpu_temperature_celsius", "/temperature_c"),
    ("larder_gpu_power_watts", "/power_w"),
    ("larder_gpu_power_limit_watts", "/power_limit_w"),
    ("larder_gpu_throttled", "/throttle_reasons"),
    ("larder_gpu_ecc_errors", "/ecc"),
    ("larder_gpu_remapped_rows", "/remapped_rows"),
    ("larder_gpu_pcie_link_width", "/pcie/width"),
    ("larder_gpu_pcie_link_width_max", "/pcie/max_width"),
    ("larder_gpu_processes", "/processes"),
];
/// Those that are true for the moment only, so that a stale snapshot has none of them.
const MOVING: &[&str] = &[
    "larder_gpu_memory_used_bytes",
    "larder_gpu_memory_free_bytes",
    "larder_gpu_utilization_ratio",
    "larder_gpu_memory_utilization_ratio",
    "larder_gpu_temperature_celsius",
    "larder_gpu_power_watts",
    "larder_gpu_throttled",
    "larder_gpu_pcie_link_width",
    "larder_gpu_processes",
];

/// What each place says of one host.
pub(super) struct Said {
    /// `GET /v1/host`.
    pub(super) host: Value,
    /// `POST /v1/fit`.
    pub(super) fit: Value,
    /// `larder fit --json`.
    pub(super) fit_json: Value,
    /// `/metrics` without comments.
    pub(super) metrics: Vec<String>,
    /// `larder info`.
    pub(super) info: String,
    /// `larder info --json`.
    pub(super) info_json: Value,
    /// With which code `larder info` ends.
    pub(super) code: i32,
}

impl Said {
    /// Whether a line of the metrics begins so.
    pub(super) fn has(&self, start: &str) -> bool {
        self.metrics.iter().any(|line| line.starts_with(start))
    }

    /// Whether this is a line of the metrics.
    #[track_caller]
    pub(super) fn line(&self, wanted: &str) {
        assert!(self.metrics.iter().any(|line| line == wanted), "{wanted} is in {:#?}", self.metrics);
    }

    /// The GPUs.
    pub(super) fn devices(&self) -> &[Value] {
        self.host["gpus"]["devices"].as_array().expect("a list")
    }

    /// Verdict and budget of the fit.
    pub(super) fn answer(&self) -> (Option<&str>, Option<u64>) {
        (self.fit["verdict"].as_str(), self.fit["budget_bytes"].as_u64())
    }
}

/// A hub with the model.
pub(super) fn hub() -> Hub {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 30_000));
    hub
}

/// A larder that reads its GPUs often from that library.
pub(super) fn on(hub: &Hub, fake: &Fake) -> Larder {
    with_library(hub, fake.library().to_str().expect("UTF-8"))
}

/// The same with pauses between readings that no busy machine turns into an old snapshot, where GPUs do not change.
pub(super) fn calmly_on(hub: &Hub, fake: &Fake) -> Larder {
    on(hub, fake).env("LARDER__GPU__INTERVAL", "2s")
}

pub(super) fn with_library(hub: &Hub, library: &str) -> Larder {
    let larder = support::larder!(hub);
    larder.env("LARDER__GPU__NVML_LIBRARY", library).env("LARDER__GPU__INTERVAL", "100ms")
}

/// Asks everywhere once `GET /v1/host` is as it should be, and until all places say the same of it.
#[track_caller]
pub(super) fn said(larder: &Larder, daemon: &Daemon, ready: impl Fn(&Value) -> bool) -> Said {
    daemon.wait_until("/v1/host", SOON, ready);
    let begun = Instant::now();
    loop {
        let now = ask(larder, daemon);
        let Err(odd) = agree(&now) else { return now };
        assert!(begun.elapsed() < SOON, "{odd}\n{}\n{:#?}\n{}", now.host["gpus"], now.metrics, now.info);
    }
}

/// Asks once whatever the places say.
pub(super) fn ask(larder: &Larder, daemon: &Daemon) -> Said {
    let person = larder.run(&["info"]);
    Said {
        host: daemon.get("/v1/host").expect(200),
        fit: daemon.post("/v1/fit", &json!({"repo": MODEL, "local": true})).expect(200),
        fit_json: larder.run(&["fit", MODEL, "--local", "--json"]).json(),
        metrics: scraped(daemon),
        info_json: larder.run(&["info", "--json"]).json(),
        info: person.stdout,
        code: person.code,
    }
}

/// What a command says that finds no daemon and looks at the GPUs itself.
pub(super) fn alone(larder: &Larder) -> (Value, Value) {
    let info = larder.run(&["info", "--json"]).json();
    (info, larder.run(&["fit", MODEL, "--local", "--json"]).json())
}

/// What does not change from one moment to the next.
pub(super) fn still(host: &Value) -> Value {
    let devices = host["gpus"]["devices"].as_array().into_iter().flatten().map(|gpu| {
        let same = ["index", "uuid", "name", "compute_capability", "lost", "mig", "ecc", "health"];
        let same: Vec<_> = same.iter().map(|key| gpu[key].clone()).collect();
        json!([same, gpu["memory"]["total"], gpu["memory"]["kind"], gpu["memory"]["source"]])
    });
    let why = host["gpus"]["why_none"]["word"].clone();
    json!([host["device"], host["health"]["state"], why, devices.collect::<Vec<_>>()])
}

/// Whether every place says the same, or what is odd.
fn agree(said: &Said) -> Result<(), String> {
    let same = |what: &str, a: &Value, b: &Value| match a == b {
        true => Ok(()),
        false => Err(format!("{what}: {a} and {b}")),
    };
    same("info and /v1/host", &still(&said.info_json), &still(&said.host))?;
    for key in ["verdict", "/target/name", "/target/source", "/target/compute_capability"] {
        let of = |fit: &Value| fit.pointer(key).unwrap_or(&fit[key]).clone();
        same(key, &of(&said.fit), &of(&said.fit_json))?;
    }
    let is_known = |fit: &Value| json!(fit["budget_bytes"].is_u64());
    same("whether there is a budget", &is_known(&said.fit), &is_known(&said.fit_json))?;
    // On a machine with much to do a snapshot may grow old between two questions.
    let is_told_old = |fit: &Value| json!(fit["notes"].to_string().contains("have not been read since"));
    let is_old = json!(said.host["gpus"]["stale"] == true);
    same("whether the snapshot is old", &is_told_old(&said.fit), &is_old)?;
    same("whether the snapshot is old", &is_told_old(&said.fit_json), &is_old)?;
    let state = said.host["health"]["state"].as_str().unwrap_or_default();
    if !said.info.contains(&format!("health    {state}")) {
        return Err(format!("a person does not read that the host is {state}"));
    }
    if (said.code == 1) != (state == "degraded") {
        return Err(format!("{state}, and info ends with {}", said.code));
    }
    for (state, line) in [("healthy", "larder_host_healthy 1"), ("degraded", "larder_host_healthy 0")] {
        let is_there = said.metrics.iter().any(|found| found == line);
        same(line, &json!(is_there), &json!(said.host["health"]["state"] == state))?;
    }
    said.devices().iter().try_for_each(|gpu| of_one(said, gpu))
}

/// Whether metrics and words say of a GPU what the JSON says, and nothing else.
fn of_one(said: &Said, gpu: &Value) -> Result<(), String> {
    let uuid = gpu["uuid"].as_str().ok_or("a GPU without its UUID")?;
    let is_stale = said.host["gpus"]["stale"] == true;
    for (name, place) in METRICS {
        let known = gpu.pointer(place).is_some_and(|value| !value.is_null());
        let wanted = known && !(is_stale && MOVING.contains(name));
        let start = format!("{name}{{uuid=\"{uuid}\"");
        if said.has(&start) != wanted {
            return Err(format!("{start}: in the metrics {}, known {known}", said.has(&start)));
        }
    }
    let lost = u8::from(gpu["lost"] == true);
    let line = format!("larder_gpu_lost{{uuid=\"{uuid}\"}} {lost}");
    if !said.metrics.contains(&line) || !said.has(&format!("larder_gpu_info{{uuid=\"{uuid}\"")) {
        return Err(format!("{line} is not in the metrics"));
    }
    let name = gpu["name"].as_str().unwrap_or("unknown");
    let index = format!("GPU {}", gpu["index"]);
    let told = said.info.lines().find(|line| line.starts_with(&index));
    match told {
        Some(told) if told.contains(name) && told.contains(": lost") == (lost == 1) => Ok(()),
        _ => Err(format!("{index} in words: {told:?}")),
    }
}
