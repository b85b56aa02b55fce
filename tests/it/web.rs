//! The page at `/` in a real browser, over a real larder with the library that stands in for the driver's: it is read and
//! clicked as a person does it, with a mouse, with the keyboard alone, on a phone, in the dark, and while larder is away.
//!
//! `LARDER_TEST_PICTURES=FOLDER` keeps pictures of what was seen.

mod files;
mod gate;
mod hours;
mod large;
mod reach;

use std::path::Path;
use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory, Process};
use serde_json::{Value, json};
use support::{Browser, Daemon, Hub, Larder, Redis, Tripwire, larder, models};

const SOON: Duration = Duration::from_secs(60);
/// Names the folder for pictures.
const PICTURES: &str = "LARDER_TEST_PICTURES";
const GIB: u64 = 1 << 30;
/// What becomes a picture that cannot be loaded, and a script that runs, if anything takes it for markup.
const HOSTILE: &str = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>";

/// Two GPUs, one of them with somebody on it.
fn gpus() -> Config {
    let memory = |used| Some(Memory { used, ..Memory::default() });
    let vllm = Process { pid: 4121, used: Some(61 * GIB), name: Some("/usr/bin/vllm".into()) };
    let busy = Gpu {
        uuid: "GPU-00000000-1111-2222-3333-444444444444".into(),
        memory: memory(62 * GIB),
        utilization: Some((93, 41)),
        temperature_c: Some(71),
        power_mw: Some(612_000),
        throttle_reasons: Some(4),
        compute_processes: vec![vllm],
        ..Gpu::default()
    };
    let idle = Gpu {
        uuid: "GPU-00000001-1111-2222-3333-444444444444".into(),
        memory: memory(3 * GIB),
        ..Gpu::default()
    };
    Config { gpus: vec![busy, idle], ..Config::default() }
}

fn on_gpus(larder: Larder, fake: &Fake) -> Larder {
    larder.env("LARDER__GPU__NVML_LIBRARY", fake.library()).env("LARDER__GPU__INTERVAL", "100ms")
}

/// A hub and a larder with three models, of which two would go by the watermarks; nothing goes while the test looks on.
fn house(fake: &Fake) -> (Hub, Larder) {
    let hub = Hub::start();
    for (n, name) in ["a/oldest", "b/pinned", "c/newest"].iter().enumerate() {
        hub.add(models::huge(700 + n as u64, 24_000_000).named(*name));
    }
    let larder = on_gpus(larder!(&hub), fake)
        .env("LARDER__HOST__NAME", "gpu-7")
        .env("LARDER__CACHE__MIN_AGE", "0s")
        .env("LARDER__CACHE__CHECK_EVERY", "1h")
        .env("LARDER__CACHE__CAPACITY", "200MB")
        .env("LARDER__CACHE__HIGH_WATERMARK", "30%")
        .env("LARDER__CACHE__LOW_WATERMARK", "20%");
    for name in ["a/oldest", "b/pinned", "c/newest"] {
        larder.run(&["stage", name]).expect_code(0);
    }
    larder.run(&["pin", "b/pinned"]).expect_code(0);
    (hub, larder)
}

fn page(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.address())
}

fn ask(daemon: &Daemon, repo: &str) -> String {
    let want = json!({"kind": "download", "repo": repo, "requested_by": HOSTILE});
    let job = daemon.post("/v1/jobs", &want).expect(202);
    job["id"].as_str().expect("an id").to_owned()
}

/// Keeps a picture of what is on the screen, if somebody wants it.
fn picture(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os(PICTURES) else { return };
    browser.screenshot(&Path::new(&folder).join(format!("{name}.png")));
}

#[track_caller]
fn assert_well_behaved(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new(), "the browser has nothing to complain about");
    assert_eq!(browser.run("return document.querySelectorAll('img[src=x], main script').length", &[]), 0);
    assert_ne!(browser.run("return document.title", &[]), "taken");
}

#[test]
fn what_the_host_holds_and_does_is_on_the_page_and_moves() {
    let Some(browser) = Browser::start() else { return };
    let fake =
        Fake::new(&Config { gpus: [gpus().gpus, vec![hostile_gpu()]].concat(), ..gpus() }).expect("set up");
    let (hub, larder) = house(&fake);
    hub.add(models::huge(710, 60_000_000).named("d/coming"));
    let larder = larder.env("LARDER__HUB__BANDWIDTH", "500kB");
    let daemon = larder.serve();
    larder_leases(&daemon);
    let job = ask(&daemon, "d/coming");

    browser.open(&page(&daemon));
    browser.wait_text("#host-name", "gpu-7");
    let row = format!("tbody[data-id='{job}']");
    browser.wait_text(&row, "fetching");
    let done = format!(
        "const bar = document.querySelector(\"{row} .bar\"); return Number(bar.getAttribute('aria-valuenow'))"
    );
    let first = browser.wait("a beginning", &done).as_u64().expect("a number");
    browser.wait("it moves", &done.replace("return Number(", &format!("return {} < Number(", first + 4)));
    browser.wait_text(&row, "left");
    browser.wait_text("#tile-jobs", "1 running");
    browser.wait_text("#tile-speed", "KiB/s");
    browser.click(&format!("{row} .opener"));
    browser.wait_text(&format!("{row} .detail"), HOSTILE);
    browser.wait_text(&format!("{row} .detail .files"), "model.safetensors");
    picture(&browser, "jobs");

    browser.wait_text("#gpus-cards", "62.0 of 80.0 GiB used (77 %)");
    for part in [
        "busy 93 %",
        "71 °C",
        "612 W of 700 W",
        "slowed by software power cap",
        "vllm (4121) 61.0 GiB",
        &HOSTILE[..60],
    ] {
        browser.wait_text("#gpus-cards", part);
    }
    // A GPU that tells nothing is not one that uses nothing.
    browser
        .wait_text("#gpus-cards article:nth-child(3)", "busy unknown · temperature unknown · power unknown");
    reads_disk_plan_and_models(&browser);
    browser.wait_text("#host-verdict", "Nothing is known to be wrong.");

    daemon.request("PUT", "/v1/limits", Some(&json!({"bandwidth": null}))).expect(200);
    browser.wait_text(&row, "ready");
    browser.wait_text("#tile-jobs", "0 running");
    // Who has just come is not waited for half a minute.
    browser.wait_text("#models-table", "d/coming");
    assert_well_behaved(&browser);
}

/// A name that is markup, and nothing else that is known.
fn hostile_gpu() -> Gpu {
    Gpu {
        name: HOSTILE[..60].into(),
        uuid: "GPU-00000002-1111-2222-3333-444444444444".into(),
        utilization: None,
        temperature_c: None,
        power_mw: None,
        ..Gpu::default()
    }
}

fn larder_leases(daemon: &Daemon) {
    let lease = json!({"holder": "<b>pod-7</b>", "ttl": "2h"});
    daemon.request("PUT", "/v1/models/c/newest/lease", Some(&lease)).expect(200);
}

#[track_caller]
fn reads_disk_plan_and_models(browser: &Browser) {
    browser.wait_text("#level-label", "of cache.capacity");
    browser.wait_text("#level-label", "above the high watermark");
    browser.wait_text("#disk-rows", "Pinned");
    let pinned = browser.run("return [...document.querySelectorAll('#disk-rows tr')].find((row) => row.innerText.includes('Pinned')).innerText", &[]);
    assert!(pinned.as_str().is_some_and(|text| text.contains("22.9 MiB")), "{pinned}");

    // By the watermarks one can go, and one is leased.
    browser.wait_text("#plan-summary", "1 model would go, and 22.9 MiB become free;");
    browser.wait_text("#plan-rows tr:first-child", "a/oldest");
    browser.wait_text(
        "#plan-rows tr:first-child",
        "the cache, or the disk that it is on, is above the high watermark",
    );
    browser.wait_text("#plan-rows", "somebody leases it");
    browser.wait_text("#plan-rows", "somebody pinned it");
    browser.type_into("#plan-room", "much");
    browser.click("#plan-form button[type=submit]");
    browser.wait_text("#plan-wrong", "is not a size");
    let complaints = browser.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("free=much"), "{complaints:?}");
    browser.type_into("#plan-room", "10MB");
    browser.click("#plan-form button[type=submit]");
    browser.wait_text("#plan-summary", "For room of 10MB: 1 model would go");
    browser.wait_text("#plan-rows tr:first-child", "everything that stays was used later");
    browser.click("#plan-back");
    browser.wait_text("#plan-summary", "For the watermarks");

    browser.wait_text("#models-table", "c/newest");
    browser.type_into("#models-filter", "PINNED");
    browser.wait("one is left", "return document.querySelectorAll('#models-table tbody').length === 1");
    browser.wait_text("#models-table tbody", "b/pinned");
    browser.type_into("#models-filter", "c/new");
    browser.wait_text("#models-table tbody", "c/newest");
    browser.click("#models-table .opener");
    browser.wait_text("#models-table .detail", "<b>pod-7</b> until");
    browser.click("#models-table button[data-column=repo]");
    assert_eq!(
        browser.run("return document.querySelector('th[data-sorts=repo]').getAttribute('aria-sort')", &[]),
        "ascending"
    );
    browser.run("const field = document.querySelector('#models-filter'); field.value = ''; field.dispatchEvent(new Event('input'))", &[]);
}

#[test]
fn a_larder_that_is_away_is_said_to_be_away_until_it_is_back() {
    let Some(browser) = Browser::start() else { return };
    let fake = Fake::new(&gpus()).expect("set up");
    let (_hub, mut larder) = house(&fake);
    let mut daemon = larder.serve();
    let address = daemon.address();
    browser.open(&page(&daemon));
    browser.wait_text("#models-table", "a/oldest");
    browser.wait_text("#freshness", "live");
    assert_eq!(browser.text("#notice-away"), "");
    daemon.kill9();
    browser.wait_text("#notice-away", "Larder does not answer: It cannot be reached. It answered last at ");
    browser.wait_text("#away-ticks", "Away for ");
    browser.wait_text("#freshness", "away");
    // What was known is still there to be read, and is said to be old.
    assert!(browser.text("#models-table").contains("a/oldest"));
    picture(&browser, "away");
    drop(daemon);
    larder.set_env("LARDER__API__LISTEN", address.to_string());
    let daemon = larder.serve();
    browser.wait_text("#freshness", "live");
    assert_eq!(browser.text("#notice-away"), "");
    daemon.request("DELETE", "/v1/models/b/pinned/pin", None).expect(200);
    // Only what is refused by nobody is complained about: the questions that met no larder.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|one| one.contains("net::ERR_")), "{complaints:?}");
    browser.run("document.querySelector('#pause').focus()", &[]);
    browser.click("#pause");
    browser.wait_text("#freshness", "paused at ");
    browser.click("#pause");
    browser.wait_text("#freshness", "live");
    browser.reload();
    browser.wait(
        "the pin is gone",
        "return document.querySelector('#tile-models-small').innerText.startsWith('0 pinned')",
    );
    assert_well_behaved(&browser);
}

#[test]
fn a_queue_that_is_away_makes_the_jobs_unknown_and_nothing_else() {
    let Some(browser) = Browser::start() else { return };
    let (redis, hub) = (Redis::start(), Hub::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder!(&hub).env("LARDER__HOST__NAME", "gpu-7").env("LARDER__QUEUE__URL", redis.tcp_url());
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let job = ask(&daemon, "test/tiny-gpt2-1");
    daemon.wait_job(&job, SOON);
    browser.open(&page(&daemon));
    browser.wait_text("#jobs-table", "test/tiny-gpt2-1");
    browser.wait_text("#tile-jobs", "0 running");
    redis.stop();
    browser.wait_text("#jobs .trouble", "This cannot be read now: ");
    browser.wait_text("#jobs .trouble", "What is shown is from 2");
    browser.wait_text("#tile-jobs", "unknown");
    browser.wait_text("#notice-ready", "The queue is away");
    browser.wait_text("#freshness", "live");
    assert!(browser.text("#jobs-table").contains("test/tiny-gpt2-1"), "what was known is kept");
    assert!(browser.text("#tile-models").contains("1 revision"), "the rest goes on");
    picture(&browser, "queue-away");
    redis.start_again();
    browser.wait_text("#tile-jobs", "0 running");
    browser.wait("all is well", "return document.querySelector('#notice-ready').hidden && document.querySelector('#jobs .trouble').hidden");
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|one| one.contains("503")), "{complaints:?}");
    assert_well_behaved(&browser);
}

#[test]
fn a_host_without_gpus_models_or_jobs_says_so() {
    let Some(browser) = Browser::start() else { return };
    let hub = Hub::start();
    let larder = larder!(&hub).env("LARDER__GPU__NVML_LIBRARY", "/nowhere/libnvidia-ml.so.1");
    // However full this machine's disk is.
    let larder = larder.env("LARDER__CACHE__CAPACITY", "1GB");
    let daemon = larder.serve();
    browser.open(&page(&daemon));
    browser.wait_text("#tile-gpus", "no GPU");
    browser.wait_text("#gpus-note", "/nowhere/libnvidia-ml.so.1");
    browser.wait_text("#jobs-none", "No job is known");
    browser.wait_text("#models-none", "The cache holds no model yet.");
    browser.wait_text("#plan-summary", "Nothing would go");
    browser.wait_text("#tile-speed", "idle");
    let failed = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "no/such"})).expect(202);
    daemon.wait_job(failed["id"].as_str().expect("an id"), SOON);
    browser.wait_text("#jobs-table", "not found: ");
    browser.wait_text("#tile-jobs-small", "1 failed");
    assert_well_behaved(&browser);
}

/// A daemon whose jobs do not end while the test looks on.
fn allowing_jobs(mut daemon: Daemon) -> Daemon {
    daemon.allow(Tripwire::Jobs).allow(Tripwire::Partials);
    daemon
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
