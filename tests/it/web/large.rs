//! Two thousand models and a thousand jobs: the page draws a part of them, finds each, and is not slowed down.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use support::http::{Place, ask};
use support::{Browser, Fault, Hub, larder, models};

use super::{allowing_jobs, assert_well_behaved, number, page, picture};

const MODELS: usize = 2_000;
const JOBS: usize = 998;
const RUNNING: u64 = 2;
/// The others wait.
const LATER: &str = "2100-01-01T00:00:00Z";
const ASKERS: usize = 8;
const TRIES: usize = 5;
/// What drawing everything anew may take in a browser that shares the machine with other tests.
const BRISK: Duration = Duration::from_secs(2);

/// A cache full of small models, as other clients leave them.
fn fill(cache: &Path) {
    for n in 0..MODELS {
        let repo = cache.join(format!("models--lab--model-{n:04}"));
        let (commit, hash) = (format!("{n:040x}"), format!("{n:064x}"));
        let snapshot = repo.join("snapshots").join(&commit);
        for folder in [repo.join("blobs"), repo.join("refs"), snapshot.clone()] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(repo.join("blobs").join(&hash), vec![7; 100 + n]).expect("a blob");
        symlink(format!("../../blobs/{hash}"), snapshot.join("model.safetensors")).expect("a link");
        fs::write(repo.join("refs/main"), commit).expect("a ref");
    }
}

/// Asks for all the jobs; each answer waits for the disk, so several ask at once.
fn enqueue(place: &Place) {
    std::thread::scope(|scope| {
        for first in 0..ASKERS {
            scope.spawn(move || {
                for n in (first..JOBS).step_by(ASKERS) {
                    let want =
                        json!({"kind": "download", "repo": format!("queue/job-{n:04}"), "not_before": LATER})
                            .to_string();
                    let reply = ask(place, "POST /v1/jobs", &[("Host", "localhost")], want.as_bytes());
                    assert_eq!(reply.status, 202, "{}", reply.text());
                }
            });
        }
    });
}

#[test]
fn two_thousand_models_and_a_thousand_jobs_stay_quick() {
    let Some(browser) = Browser::start() else { return };
    let hub = Hub::start();
    (1..=RUNNING).for_each(|seed| drop(hub.add(models::tiny_gpt2(seed, 20_000))));
    hub.fault(Fault::on("/api/models/").stall(0).always());
    let larder = larder!(&hub);
    fill(larder.cache());
    let daemon = allowing_jobs(larder.serve());
    for seed in 1..=RUNNING {
        let want = json!({"kind": "download", "repo": format!("test/tiny-gpt2-{seed}")});
        daemon.post("/v1/jobs", &want).expect(202);
    }
    enqueue(&daemon.place());
    browser.open(&page(&daemon));
    browser.wait_text("#tile-models", "2,000 revisions");
    browser.wait_text("#jobs-count", "1,000 jobs.");
    browser.wait_text("#tile-jobs", "2 running");
    let drawn = "return [document.querySelectorAll('#models-table tbody').length, document.querySelectorAll('#jobs-table tbody').length, \
                 document.querySelectorAll('#plan-rows tr').length, document.querySelectorAll('*').length]";
    let numbers = browser.run(drawn, &[]);
    assert_eq!((&numbers[0], &numbers[1], &numbers[2]), (&json!(50), &json!(50), &json!(10)), "{numbers}");
    assert!(number(&numbers[3]) < 6_000.0, "{numbers}");
    browser.wait_text("#models-more", "50 of 2,000 models are shown.");
    browser.click("#models-more button");
    assert_eq!(browser.run(drawn, &[])[0], 100);

    let begun = Instant::now();
    browser.type_into("#models-filter", "model-1999");
    browser.wait("one is left", "return document.querySelectorAll('#models-table tbody').length === 1");
    browser.wait_text("#models-table", "lab/model-1999");
    browser.type_into("#jobs-filter", "job-0777");
    browser.wait("one is left", "return document.querySelectorAll('#jobs-table tbody').length === 1");
    assert!(begun.elapsed() < 3 * BRISK, "finding two took {:?}", begun.elapsed());
    picture(&browser, "large");
    let longest = "
        const input = document.querySelector('#models-filter');
        const begun = performance.now();
        for (const column of ['repo', 'bytes', 'used']) document.querySelector(`button[data-column=${column}]`).click();
        return performance.now() - begun;";
    browser.type_into("#models-filter", "m");
    browser.wait("all are back", "return document.querySelectorAll('#models-table tbody').length === 50");
    // The best of some, since the machine has other work.
    let best = (0..TRIES).map(|_| number(&browser.run(longest, &[]))).fold(f64::INFINITY, f64::min);
    println!("three times sorted and drawn: {best} ms at best");
    assert!(best < BRISK.as_secs_f64() * 1000.0, "{best} ms");
    assert_well_behaved(&browser);
}
