//! A disk that stands still: whoever scrapes waits for nothing, is told that the disk is unknown, and has everything else.

use std::time::{Duration, Instant};

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu};
use serde_json::json;
use support::fs::Faulty;
use support::{Daemon, Hub, Tripwire, larder, models};

use super::{scrape_until, series, sum, text};

/// A scrape that waits for the disk would take as long as that stands still.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A scrape, in time.
fn at_once(daemon: &Daemon) -> String {
    let begun = Instant::now();
    let text = text(daemon);
    assert!(begun.elapsed() < AT_ONCE, "a scrape took {:?}", begun.elapsed());
    text
}

fn succeeds(text: &str, collector: &str) -> Option<f64> {
    sum(text, "larder_collect_success", &[("collector", collector)])
}

/// A GPU that is so busy, in percent.
fn gpu(busy: u32) -> Config {
    Config { gpus: vec![Gpu { utilization: Some((busy, 0)), ..Gpu::default() }], ..Config::default() }
}

#[test]
fn a_disk_that_stands_still_is_unknown_and_everything_else_goes_on() {
    let Some(disk) = Faulty::mount() else { return println!("skipped: needs root and /dev/fuse") };
    let (hub, gpus) = (Hub::start(), Fake::new(&gpu(10)).expect("the library is beside this test"));
    for (seed, name) in [(1, "test/there"), (2, "test/coming")] {
        hub.add(models::tiny_gpt2(seed, 60_000).named(name));
    }
    let larder = larder!(&hub)
        .with_cache(&disk.path().join("hub"))
        .env("LARDER__GPU__NVML_LIBRARY", gpus.library())
        .env("LARDER__GPU__INTERVAL", "100ms");
    larder.run(&["stage", "test/there"]).expect_code(0);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Jobs);
    let whole = scrape_until(&daemon, |text| {
        succeeds(text, "disk") == Some(1.0) && succeeds(text, "gpu") == Some(1.0)
    });
    assert!(sum(&whole, "larder_disk_free_bytes", &[]) > Some(0.0), "{whole}");

    let standstill = disk.hang();
    let begun = Instant::now();
    let hung = loop {
        let text = at_once(&daemon);
        if succeeds(&text, "disk") == Some(0.0) {
            break text;
        }
        assert!(begun.elapsed() < super::SOON, "the disk that stands still is never told of:\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(sum(&hung, "larder_collect_duration_seconds", &[("collector", "disk")]) >= Some(5.0), "{hung}");
    let of_the_disk = series(&hung).into_iter().filter(|(name, ..)| name.starts_with("larder_disk_"));
    assert_eq!(of_the_disk.count(), 0, "unknown is absent:\n{hung}");

    // Everything else is of now: the queue's numbers and the GPUs'. Jobs of each kind that meet the disk stand still, too.
    let meeting = [
        json!({"kind": "download", "repo": "test/coming"}),
        json!({"kind": "verify", "repo": "test/there"}),
        json!({"kind": "preload", "repo": "test/there"}),
        json!({"kind": "profile", "tests": ["disk"], "disk_bytes": 16 << 20}),
        json!({"kind": "evict", "repo": "test/there"}),
    ];
    let meeting = meeting
        .map(|job| daemon.post("/v1/jobs", &job).expect(202)["id"].as_str().expect("an id").to_owned());
    gpus.set(&gpu(70)).expect("set");
    daemon
        .post("/v1/jobs", &json!({"kind": "download", "repo": "a/b", "not_before": "2999-01-01T00:00:00Z"}))
        .expect(202);
    let waits =
        |text: &str| sum(text, "larder_jobs", &[("kind", "download"), ("state", "waiting")]) == Some(1.0);
    let moved = |text: &str| sum(text, "larder_gpu_utilization_ratio", &[]) == Some(0.7);
    let begun = Instant::now();
    loop {
        let text = at_once(&daemon);
        assert_eq!(succeeds(&text, "disk"), Some(0.0), "it still stands still");
        // Long enough for all of them to have met it.
        if waits(&text) && moved(&text) && begun.elapsed() > Duration::from_secs(3) {
            assert_eq!((succeeds(&text, "queue"), succeeds(&text, "gpu")), (Some(1.0), Some(1.0)));
            break;
        }
        assert!(begun.elapsed() < super::SOON, "the others stand still, too:\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }

    drop(standstill);
    let again = scrape_until(&daemon, |text| succeeds(text, "disk") == Some(1.0));
    assert!(sum(&again, "larder_disk_free_bytes", &[]) > Some(0.0), "{again}");
    for id in meeting {
        // What another of them holds is not evicted.
        let job = daemon.wait_job(&id, super::SOON);
        assert!(job["state"] != "failed" || job["reason"] == "protected", "{job}");
    }
}
