//! What the simulated host's metrics were at a time that it did not live through: days with their rush, a night in which
//! models are fetched, cards that engines fill and leave, predictions that become better. The names and labels are those of
//! `/metrics`, which a test holds against a live one; the numbers are of the size that the live host has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fake_nvml::config::{Config, Gpu};

use super::page::{Page, Type};
use super::tides::{COUNTED, DAY, DEADLINE, NIGHT, night, rush, wave};
use super::{cards, shelf};

/// Seconds between two samples.
pub(super) const STEP: i64 = 30;
/// What takes a second on the live cards takes minutes here.
const CARDS_SLOWER: i64 = 240;
/// Bounds of the buckets of durations, and the share of downloads that are done by the first ones; by the others all are.
const BOUNDS: [&str; 17] = [
    "0.1", "0.5", "1", "5", "15", "30", "60", "120", "300", "600", "1200", "1800", "3600", "7200", "14400",
    "21600", "+Inf",
];
const DONE_BY: [f64; 6] = [0.55, 0.6, 0.65, 0.88, 0.97, 0.99];
/// Architecture, engine, and how far off predictions were at first and are in the end.
const FITS: [(&str, &str, f64, f64); 3] = [
    ("gpt2", "transformers", 0.22, 0.09),
    ("gpt2", "llama.cpp", -0.18, -0.06),
    ("llama", "transformers", 0.13, 0.02),
];

/// What of the live host the past has in common with it.
pub(super) struct Place {
    pub(super) instance: String,
    /// The hub's address.
    pub(super) source: String,
    pub(super) mountpoint: String,
    /// Bytes of the disk.
    pub(super) disk: (u64, u64),
    pub(super) manifest: PathBuf,
}

/// The host, some time ago.
pub(super) struct Past {
    place: Place,
    began: i64,
    ends: i64,
    counters: BTreeMap<String, f64>,
}

impl Past {
    /// From `began` to `ends`.
    pub(super) fn new(place: Place, began: i64, ends: i64) -> Self {
        Self { place, began, ends, counters: BTreeMap::new() }
    }

    pub(super) fn instance(&self) -> &str {
        &self.place.instance
    }

    /// The samples of the next moment.
    pub(super) fn step(&mut self, page: &mut Page, at: i64) {
        let mut now = Moment { page, at };
        let rush = rush(at);
        self.worker(&mut now, rush);
        self.counted(&mut now, rush);
        self.jobs(&mut now, rush);
        self.cache(&mut now, rush);
        self.warmed(&mut now);
        self.fits(&mut now);
        gpus(&mut now);
    }

    fn worker(&self, now: &mut Moment<'_>, rush: f64) {
        now.gauge("larder_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        for collector in ["queue", "disk", "gpu"] {
            now.gauge("larder_collect_success", &[("collector", collector)], 1.0);
        }
        let is_healthy = cards_at(now.at).gpus.iter().all(|gpu| !gpu.lost);
        if !is_healthy {
            now.gauge("larder_host_health_reasons", &[("reason", "gpu_lost")], 1.0);
        }
        // Prometheus' own word for a target that answers.
        now.gauge("up", &[], 1.0);
        for (name, value) in [
            ("larder_queue_up", 1.0),
            ("larder_host_healthy", f64::from(u8::from(is_healthy))),
            ("larder_cache_reserved_bytes", 9e6 * rush),
        ] {
            now.gauge(name, &[], value.floor());
        }
        for (test, rate) in
            [("write", 1.4e9), ("read_cold", 1.1e9), ("read_cold_parallel", 2.2e9), ("read_warm", 3.9e9)]
        {
            let found = rate * (0.9 + 0.1 * wave(now.at, 7 * 3_600));
            now.gauge("larder_profile_disk_bytes_per_second", &[("test", test)], found);
        }
    }

    /// More of a counter; whole numbers are shown.
    fn count(&mut self, now: &mut Moment<'_>, name: &str, labels: &[(&str, &str)], more: f64) {
        let total = self.counters.entry(format!("{name}{labels:?}")).or_default();
        *total += more;
        let total = total.floor();
        now.page.sample((name, "", Type::Counter), labels, total, now.at);
    }

    fn counted(&mut self, now: &mut Moment<'_>, rush: f64) {
        let seconds = STEP as f64;
        for (n, (name, labels, rate)) in COUNTED.iter().enumerate() {
            // Each has its own hours, so that no two curves are one.
            let own = 0.4 + 1.2 * wave(now.at, 2_000 + 731 * n as i64);
            self.count(now, name, labels, rate * rush * own * seconds);
        }
        let source = self.place.source.clone();
        let (share, _) = night(now.at);
        let nightly = if share < 1.0 { 6_000.0 } else { 0.0 };
        let bytes = (6e5 * rush * (0.3 + 1.4 * wave(now.at, 2_700)) + nightly) * seconds;
        self.count(now, "larder_download_bytes_total", &[("source", &source)], bytes);
        for (code, rate) in
            [("200", 0.2), ("206", 0.6), ("302", 0.1), ("401", 0.002), ("404", 0.001), ("429", 0.02)]
        {
            let labels = [("source", source.as_str()), ("code", code)];
            self.count(now, "larder_http_responses_total", &labels, rate * rush * seconds);
        }
        self.durations(now, "ready", 0.05 * rush * seconds, rush);
        self.durations(now, "failed", 0.0013 * rush * seconds, rush);
    }

    /// So many more downloads ended so; in the rush each takes longer.
    fn durations(&mut self, now: &mut Moment<'_>, result: &str, more: f64, rush: f64) {
        const NAME: &str = "larder_job_duration_seconds";
        let labels = [("kind", "download"), ("result", result)];
        let mut add = |end: &str, labels: &[(&str, &str)], more: f64| {
            let total = self.counters.entry(format!("{NAME}{end}{labels:?}")).or_default();
            *total += more;
            now.page.sample((NAME, end, Type::Histogram), labels, total.floor(), now.at);
        };
        for (n, bound) in BOUNDS.into_iter().enumerate() {
            let share = DONE_BY.get(n).copied().unwrap_or(1.0);
            add("_bucket", &[labels[0], labels[1], ("le", bound)], more * share.powf(0.4 + 1.6 * rush));
        }
        add("_sum", &labels, more * (1.0 + 6.0 * rush));
        add("_count", &labels, more);
    }

    fn jobs(&self, now: &mut Moment<'_>, rush: f64) {
        let of = |share: f64, period: i64| (share * rush * (0.3 + 1.4 * wave(now.at, period))).round();
        let states = [
            ("queued", of(4.0, 900)),
            ("waiting", of(3.0, 1_700)),
            ("planning", of(0.7, 610)),
            ("fetching", of(2.6, 1_130)),
            ("verifying", of(0.6, 770)),
            ("ready", 400.0 + of(40.0, 40_000)),
            ("failed", 14.0 + of(9.0, 30_000)),
            ("cancelled", 9.0),
        ];
        for (state, count) in states {
            now.gauge("larder_jobs", &[("kind", "download"), ("state", state)], count);
        }
        let age = if states[0].1 > 0.0 { 1.0 + 9.0 * rush * wave(now.at, 900) } else { 0.0 };
        now.gauge("larder_job_queue_age_seconds", &[("kind", "download")], age);
    }

    fn cache(&self, now: &mut Moment<'_>, rush: f64) {
        let Place { mountpoint, disk: (total, free), .. } = &self.place;
        let mount = [("mountpoint", mountpoint.as_str())];
        // Fuller and fuller until room is made.
        let room = shelf::ROOM as f64;
        let used = room * (0.8 + 0.1 * (1.0 - wave(now.at, 4_800)));
        let (mut left, classes) =
            (used, [("pinned", 0.2), ("in_use", 0.12), ("leased", 0.28 * rush), ("partial", 0.05 * rush)]);
        for (class, share) in classes {
            now.gauge("larder_cache_used_bytes", &[("class", class)], (used * share).floor());
            left -= (used * share).floor();
        }
        now.gauge("larder_cache_used_bytes", &[("class", "evictable")], left.floor());
        now.gauge("larder_cache_used_bytes", &[("class", "foreign")], 0.0);
        now.gauge("larder_cache_capacity_bytes", &[], room);
        for (watermark, share) in [("high", 0.9), ("low", 0.8)] {
            now.gauge(
                "larder_cache_watermark_bytes",
                &[("watermark", watermark), ("of", "cache")],
                room * share,
            );
        }
        now.gauge("larder_disk_total_bytes", &mount, *total as f64);
        now.gauge("larder_disk_free_bytes", &mount, *free as f64 - used);
        for (n, (repo, megabytes)) in (0_i64..).zip(shelf::MODELS) {
            // The popular ones are nearly always there.
            let stays = wave(now.at + n * 5_000, 9_000 + n * 977);
            if stays < 0.95 - 0.05 * n as f64 {
                now.gauge("larder_model_bytes", &[("repo", repo)], *megabytes as f64 * 0.98e6);
                let used = now.at - now.at.rem_euclid(300 + 400 * n);
                now.gauge("larder_model_last_used_timestamp_seconds", &[("repo", repo)], used as f64);
            }
        }
    }

    fn warmed(&self, now: &mut Moment<'_>) {
        let (share, due) = night(now.at);
        let manifest = self.place.manifest.to_string_lossy().into_owned();
        let of = [("manifest", manifest.as_str())];
        let planned = 30e6 + 20e6 * wave(due, DAY);
        // The line is not the same at all times, and one night it was too slow for the last model.
        let share = if share < 1.0 { share * (0.92 + 0.08 * wave(now.at, 1_900)) } else { 1.0 };
        let (models, is_bad) = (4.0, (due / DAY) % 3 == 1);
        let most = if is_bad { 0.86 } else { 1.0 };
        let done = (planned * share.min(most)).floor();
        let remaining = if share < 1.0 { planned.floor() - done } else { 0.0 };
        for (name, value) in [
            ("larder_warm_planned_bytes", planned.floor()),
            ("larder_warm_done_bytes", done),
            ("larder_warm_remaining_bytes", remaining),
            ("larder_warm_due_timestamp_seconds", due as f64),
            ("larder_warm_deadline_timestamp_seconds", (due - NIGHT.start + DEADLINE) as f64),
        ] {
            now.gauge(name, &of, value);
        }
        let there = (models * share.min(most)).floor();
        let failed = if share >= 1.0 && is_bad { 1.0 } else { 0.0 };
        let running = if share < 1.0 { 1.0 } else { 0.0 };
        for (state, count) in [
            ("waiting", (models - there - failed - running).max(0.0)),
            ("running", running),
            ("done", there),
            ("failed", failed),
            ("cancelled", 0.0),
            ("dropped", 1.0),
        ] {
            now.gauge("larder_warm_models", &[("manifest", &manifest), ("state", state)], count);
        }
    }

    /// Closer and closer, in steps.
    fn fits(&self, now: &mut Moment<'_>) {
        let step = (now.at - self.began) / 7_200 * 7_200;
        let come = (step as f64 / (self.ends - self.began).max(1) as f64).powf(0.4);
        let gpu = Gpu::default().name;
        for (architecture, engine, first, last) in FITS {
            let labels = [
                ("architecture", architecture),
                ("engine", engine),
                ("quantization", "16bit"),
                ("gpu", gpu.as_str()),
            ];
            let wobble = 0.01 * wave(step, 30_000);
            now.gauge("larder_fit_error_ratio", &labels, first + (last - first) * come + wobble);
        }
    }
}

/// One moment that is written down.
struct Moment<'a> {
    page: &'a mut Page,
    at: i64,
}

impl Moment<'_> {
    fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.page.sample((name, "", Type::Gauge), labels, value, self.at);
    }
}

/// The cards of the live host, slower.
fn cards_at(at: i64) -> Config {
    cards::at(slower(at), None)
}

fn slower(at: i64) -> u64 {
    u64::try_from(at / CARDS_SLOWER).unwrap_or_default()
}

fn gpus(now: &mut Moment<'_>) {
    let config = cards_at(now.at);
    let driver = &config.driver_version;
    if let (Some(fallen), Some(last)) = (cards::fallen(slower(now.at)), config.gpus.last()) {
        let labels = [("uuid", last.uuid.as_str()), ("xid", &cards::XID.to_string())];
        let seconds = fallen.cast_signed() * CARDS_SLOWER;
        now.gauge("larder_gpu_xid_last_timestamp_seconds", &labels, seconds as f64);
    }
    for (index, gpu) in config.gpus.iter().enumerate() {
        let Some(memory) = gpu.memory else { continue };
        let (major, minor) = gpu.compute_capability;
        let (index, capability) = (index.to_string(), format!("{major}.{minor}"));
        let info = [
            ("uuid", gpu.uuid.as_str()),
            ("index", &index),
            ("name", &gpu.name),
            ("compute_capability", &capability),
            ("driver", driver),
        ];
        let of = [("uuid", gpu.uuid.as_str())];
        now.gauge("larder_gpu_info", &info, 1.0);
        now.gauge("larder_gpu_lost", &of, f64::from(u8::from(gpu.lost)));
        now.gauge("larder_gpu_healthy", &of, f64::from(u8::from(!gpu.lost)));
        now.gauge("larder_gpu_memory_total_bytes", &of, memory.total as f64);
        if gpu.lost {
            continue;
        }
        let (busy, memory_busy) = gpu.utilization.unwrap_or_default();
        for (name, value) in [
            ("larder_gpu_memory_used_bytes", memory.used as f64),
            ("larder_gpu_memory_reserved_bytes", memory.reserved as f64),
            ("larder_gpu_memory_free_bytes", (memory.total - memory.reserved - memory.used) as f64),
            ("larder_gpu_utilization_ratio", f64::from(busy) / 100.0),
            ("larder_gpu_memory_utilization_ratio", f64::from(memory_busy) / 100.0),
            ("larder_gpu_temperature_celsius", f64::from(gpu.temperature_c.unwrap_or_default())),
            ("larder_gpu_power_watts", f64::from(gpu.power_mw.unwrap_or_default()) / 1000.0),
        ] {
            now.gauge(name, &of, value);
        }
    }
}
