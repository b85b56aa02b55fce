//! Hours of memory in a picture: the clock of larder runs fast until it is now, and what was used meanwhile is drawn, with
//! the gap of a GPU that was lost.

use std::time::{Duration, Instant};

use fake_nvml::Fake;
use fake_nvml::config::{Config, Memory};
use serde_json::{Value, json};
use support::{Browser, Daemon, Hub, Tripwire, larder, models};
use tempfile::TempDir;

use super::{GIB, PICTURES, SOON, assert_well_behaved, gpus, number, on_gpus, page, picture};
use crate::redis::clock::liar;

/// So many seconds pass for larder in one; readings are then 50 s apart, less than what counts as a gap.
const FAST: u32 = 500;
const HOURS: u32 = 2;

fn using(first: u64, second: u64, is_lost: bool) -> Config {
    let mut config = gpus();
    let used = |bytes| Some(Memory { used: bytes * GIB, ..Memory::default() });
    config.gpus[0].memory = used(first);
    config.gpus[1].memory = used(second);
    config.gpus[1].lost = is_lost;
    config
}

#[test]
fn what_was_used_over_hours_is_drawn_with_its_gaps() {
    let (Some(browser), Some(liar)) = (Browser::start(), liar()) else { return };
    let fake = Fake::new(&using(10, 20, false)).expect("set up");
    let hub = Hub::start();
    let folder = TempDir::new().expect("a folder");
    let clock = folder.path().join("clock");
    std::fs::write(&clock, format!("-{HOURS}h x{FAST}")).expect("written");
    let larder = on_gpus(larder!(&hub), &fake)
        .env("LARDER__HOST__NAME", "gpu-7")
        .env("LARDER__CACHE__MIN_AGE", "0s")
        .env("LARDER__CACHE__CHECK_EVERY", "1h")
        .env("LARDER__CACHE__CAPACITY", "600MB")
        .env("LARDER__CACHE__HIGH_WATERMARK", "25%")
        .env("LARDER__CACHE__LOW_WATERMARK", "15%")
        .env("LD_PRELOAD", liar)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let mut daemon = larder.serve();
    let begun = Instant::now();
    let all = Duration::from_secs(u64::from(HOURS * 3_600 / FAST));
    for (share, config) in
        [(0.3, using(62, 20, false)), (0.5, using(70, 20, true)), (0.7, using(62, 3, false))]
    {
        std::thread::sleep(all.mul_f64(share).saturating_sub(begun.elapsed()));
        fake.set(&config).expect("set");
    }
    std::thread::sleep(all.saturating_sub(begun.elapsed()));
    std::fs::write(&clock, "+0 x1").expect("written");
    let used =
        |history: &Value, n: usize| history["gpus"][n]["used_bytes"].as_array().cloned().unwrap_or_default();
    let history = daemon.wait_until("/v1/host/vram", SOON, |history| used(history, 0).len() > 15);
    assert!(used(&history, 1).iter().any(Value::is_null), "what nobody could read is unknown: {history}");

    browser.open(&page(&daemon));
    browser.wait_text("#gpus-cards article:first-child", "Between 10.0 GiB and 70.0 GiB since ");
    browser.wait_text("#gpus-cards article:nth-child(2)", "Between 3.0 GiB and 20.0 GiB since ");
    let pieces = |n: u32| {
        let script = format!(
            "return document.querySelector('#gpus-cards article:nth-child({n}) .line').getAttribute('d').split('M').length - 1"
        );
        number(&browser.run(&script, &[]))
    };
    let (first, second) = (pieces(1), pieces(2));
    assert!(
        second > first,
        "the line of the one that was lost has one more gap: {first} and {second} pieces"
    );
    let spans = "return [...document.querySelectorAll('#gpus-cards article:first-child .times span')].map((node) => node.textContent)";
    let auto = browser.run(spans, &[]);
    browser.run("const span = document.querySelector('#gpus-span'); span.value = '12'; span.dispatchEvent(new Event('change'))", &[]);
    assert_ne!(browser.run(spans, &[]), auto, "another span has other times");
    browser.run("const span = document.querySelector('#gpus-span'); span.value = '0'; span.dispatchEvent(new Event('change'))", &[]);
    browser.click("#gpus-cards article:first-child .plot");
    browser.wait_text("#gpus-cards article:first-child .readout", "of 80.0 GiB");
    if std::env::var_os(PICTURES).is_some() {
        for_the_documents(&browser, &hub, &mut daemon);
    }
    assert_well_behaved(&browser);
}

/// A host with something to do, in light, in the dark and on a phone: the pictures of docs/page.md.
fn for_the_documents(browser: &Browser, hub: &Hub, daemon: &mut Daemon) {
    daemon.allow(Tripwire::Jobs).allow(Tripwire::Partials);
    let sizes = [
        ("Qwen/Qwen2.5-7B-Instruct", 92),
        ("BAAI/bge-m3", 21),
        ("google/gemma-3-4b-it", 56),
        ("openai-community/gpt2", 9),
    ];
    for (n, (name, megabytes)) in sizes.into_iter().enumerate() {
        hub.add(models::huge(740 + n as u64, megabytes * 1_000_000).named(name));
        let job =
            daemon.post("/v1/jobs", &json!({"kind": "download", "repo": name, "pin": n == 1})).expect(202);
        daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    }
    let lease = json!({"holder": "pod-7", "ttl": "2h"});
    daemon.request("PUT", "/v1/models/google/gemma-3-4b-it/lease", Some(&lease)).expect(200);
    daemon.request("PUT", "/v1/limits", Some(&json!({"bandwidth": 3_000_000}))).expect(200);
    hub.add(models::tiny_gpt2(749, 20_000).named("meta-llama/Llama-3.1-8B-Instruct").gated());
    hub.add(models::huge(750, 140_000_000).named("mistralai/Mistral-7B-Instruct-v0.3"));
    hub.add(models::huge(751, 190_000_000).named("microsoft/phi-4"));
    for name in [
        "meta-llama/Llama-3.1-8B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "microsoft/phi-4",
        "openai/gpt-oss-20b",
    ] {
        daemon
            .post("/v1/jobs", &json!({"kind": "download", "repo": name, "requested_by": "nightly"}))
            .expect(202);
    }
    browser.reload();
    browser.wait_text("#jobs-table", "gated");
    browser.wait_text("#jobs-table", "left");
    browser.wait_text("#models-table", "openai-community/gpt2");
    for (name, scheme, width) in [("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390)] {
        browser.prefers("prefers-color-scheme", scheme);
        browser.viewport(width, 900, name == "phone");
        // All of the page, however long it is at that width; on a phone the part that a document has room for.
        let height =
            browser.run("return document.documentElement.scrollHeight", &[]).as_u64().expect("a height");
        let height = if name == "phone" { height.min(1_700) } else { height };
        browser.viewport(width, u32::try_from(height).expect("a page"), name == "phone");
        picture(browser, &format!("page-{name}"));
    }
}
