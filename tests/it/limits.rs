//! Limits that hold: of the host and of single jobs, from the start and while bytes come, over the command line, over
//! HTTP and by a signal.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::cache::Snapshot;
use support::{Daemon, Hub, Larder, Model, larder, models};
use tempfile::NamedTempFile;

const SOON: Duration = Duration::from_secs(60);
/// A machine that is busy with other tests may let a connection hang for a second; what it still had is then fetched
/// by another, too.
const HEDGES: u64 = 3 << 20;

fn model(hub: &Hub, seed: u64) -> Model {
    let model = models::huge(seed, 6_000_000);
    hub.add(model.clone());
    model
}

/// Stages in the foreground and says how long that took.
#[track_caller]
fn stage(larder: &Larder, model: &Model, args: &[&str]) -> (Duration, Value) {
    let begun = Instant::now();
    let job = larder.run(&[&["stage", model.id(), "--json"], args].concat()).expect_code(0).json();
    let took = begun.elapsed();
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    (took, job)
}

#[test]
fn the_hosts_limit_holds_in_the_foreground() {
    let hub = Hub::start();
    let (limited, free) = (model(&hub, 1), model(&hub, 2));
    let larder = larder!(&hub);
    let (took, job) = stage(&larder, &limited, &["--set", "hub.bandwidth=3MB"]);
    // Six megabytes, less what a bucket holds when it begins.
    assert!(took >= Duration::from_millis(1_800), "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let fetched = job["bytes_fetched"].as_u64().expect("known");
    assert!((limited.bytes()..limited.bytes() + HEDGES).contains(&fetched), "{job}");
    let (took, _) = stage(&larder, &free, &["--set", "hub.bandwidth="]);
    println!("without a limit: {took:?}");
}

/// A configuration with one mirror that has a bandwidth.
fn mirror_at(url: &str, bandwidth: &str) -> NamedTempFile {
    let text = format!("[hub]\nendpoints = [{{ url = \"{url}\", bandwidth = \"{bandwidth}\" }}]\n");
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn a_mirror_has_a_limit_of_its_own() {
    let (hub, mirror) = (Hub::start(), Hub::start());
    let (on_both, on_hub) = (model(&hub, 1), model(&hub, 2));
    mirror.add(on_both.clone());
    let larder = larder!(&hub);
    let file = mirror_at(&mirror.endpoint(), "3MB");
    let config = ["--config", file.path().to_str().expect("UTF-8")];
    let (took, _) = stage(&larder, &on_both, &config);
    assert!(took >= Duration::from_millis(1_800), "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let sent = mirror.bytes_of(on_both.id());
    assert!((on_both.bytes()..on_both.bytes() + HEDGES).contains(&sent), "{sent} bytes");
    assert_eq!(hub.bytes_of(on_both.id()), 0, "all of it came from the mirror");
    let (took, _) = stage(&larder, &on_hub, &config);
    println!("from the hub, which has no limit: {took:?}");
    assert_eq!(mirror.bytes_of(on_hub.id()), 0, "the mirror does not have it");
}

#[test]
fn a_limit_that_makes_no_sense_is_refused() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    for bad in ["0", "0MB", "fast", "-1"] {
        let output = larder.run(&["stage", "a/b", "--set", &format!("hub.bandwidth={bad}")]).expect_code(2);
        assert!(output.stderr.contains("hub.bandwidth"), "{}", output.stderr);
        let file = mirror_at(&hub.endpoint(), bad);
        let path = file.path().to_str().expect("UTF-8");
        let output = larder.run(&["stage", "a/b", "--config", path]).expect_code(2);
        assert!(output.stderr.contains("hub.endpoints"), "{}", output.stderr);
    }
    assert_eq!(hub.requests().len(), 0);
}

/// A daemon that brings a model with 200 kB/s, and the job; at this speed it would take half a minute.
fn crawling(larder: &Larder, want: &Value) -> (Daemon, String) {
    let daemon = larder.serve();
    let job = daemon.post("/v1/jobs", want).expect(202);
    let id = job["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/jobs/{id}");
    daemon.wait_until(&path, SOON, |job| job["bytes_fetched"].as_u64() > Some(0));
    // A moment in which an unlimited transfer would be through.
    std::thread::sleep(Duration::from_millis(700));
    let job = daemon.get(&path).expect(200);
    assert_eq!(job["state"], "fetching", "{job}");
    assert!(job["bytes_fetched"].as_u64() < Some(4_000_000), "{job}");
    (daemon, id)
}

/// The job is done soon after its limit has gone.
#[track_caller]
fn assert_hurries(daemon: &Daemon, larder: &Larder, id: &str, model: &Model) {
    let begun = Instant::now();
    assert_eq!(daemon.wait_job(id, SOON)["state"], "ready");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    assert_eq!(daemon.get("/v1/limits").expect(200)["jobs"], json!([]), "it runs no more");
}

fn want(model: &Model) -> Value {
    json!({"kind": "download", "repo": model.id()})
}

#[test]
fn a_running_host_is_sped_up_from_the_command_line() {
    let hub = Hub::start();
    let model = model(&hub, 3);
    let larder = larder!(&hub).env("LARDER__HUB__BANDWIDTH", "200kB");
    let (daemon, id) = crawling(&larder, &want(&model));
    let shown = larder.run(&["limit", "--json"]).expect_code(0).json();
    assert_eq!(shown, json!({"bandwidth": 200_000, "jobs": [{"id": id, "bandwidth": null}]}));
    let shown = larder.run(&["limit", "--bytes"]).expect_code(0).stdout;
    assert!(shown.contains("200000/s") && shown.contains(&id), "{shown}");
    let shown = larder.run(&["limit", "none", "--json"]).expect_code(0).json();
    assert_eq!(shown["bandwidth"], Value::Null);
    assert_hurries(&daemon, &larder, &id, &model);
    larder.run(&["limit", "2MB"]).expect_code(0);
    assert_eq!(daemon.get("/v1/limits").expect(200)["bandwidth"], 2_000_000);
}

#[test]
fn a_running_host_is_sped_up_over_http() {
    let hub = Hub::start();
    let model = model(&hub, 4);
    let larder = larder!(&hub).env("LARDER__HUB__BANDWIDTH", "200kB");
    let (daemon, id) = crawling(&larder, &want(&model));
    for bad in [
        json!({}),
        json!({"bandwidth": 0}),
        json!({"bandwidth": -1}),
        json!({"bandwidth": "fast"}),
        json!({"bandwidth": 1, "more": 1}),
        json!(null),
    ] {
        for path in ["/v1/limits".to_owned(), format!("/v1/jobs/{id}/bandwidth")] {
            let problem = daemon.request("PUT", &path, Some(&bad)).expect(400);
            assert_eq!(problem["reason"], "invalid_request", "{problem}");
        }
    }
    assert_eq!(daemon.get("/v1/limits").expect(200)["bandwidth"], 200_000, "nothing of that changed it");
    let lifted = daemon.request("PUT", "/v1/limits", Some(&json!({"bandwidth": null}))).expect(200);
    assert_eq!(lifted["bandwidth"], Value::Null);
    assert_hurries(&daemon, &larder, &id, &model);

    let change = json!({"bandwidth": 5});
    let over = daemon.request("PUT", &format!("/v1/jobs/{id}/bandwidth"), Some(&change)).expect(409);
    assert!(over["detail"].as_str().is_some_and(|detail| detail.contains("is ready")), "{over}");
    assert!(over["hint"].as_str().is_some_and(|hint| hint.contains("bandwidth")), "{over}");
    let unknown = "/v1/jobs/01KAQ00000000000000000000A/bandwidth";
    assert_eq!(daemon.request("PUT", unknown, Some(&change)).expect(404)["reason"], "not_found");
    daemon.request("PUT", "/v1/jobs/x/bandwidth", Some(&change)).expect(400);
}

#[test]
fn a_running_host_is_sped_up_by_its_configuration_file() {
    let hub = Hub::start();
    let model = model(&hub, 5);
    let mut larder = larder!(&hub);
    let file = larder.root().join("larder.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("writes");
    write("[hub]\nbandwidth = '200kB'\n");
    larder.set_env("LARDER_CONFIG", &file);
    let (mut daemon, id) = crawling(&larder, &want(&model));
    let mut refusals = 0;
    for broken in ["[hub", "[hub]\nbandwidth = 0\n", "[hub]\nbandwidth = ''\nconections = 3\n"] {
        write(broken);
        daemon.signal(Signal::HUP);
        refusals += 1;
        let seen = Instant::now();
        while daemon.logs().iter().filter(|line| line.contains("nothing changes")).count() < refusals {
            assert!(seen.elapsed() < SOON, "{}", daemon.logs().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(daemon.get("/v1/limits").expect(200)["bandwidth"], 200_000, "{broken}");
    }
    write("[hub]\nconnections = 3\n");
    daemon.signal(Signal::HUP);
    daemon.wait_line(|line| line.contains("hub.bandwidth is applied"), SOON).expect("it says so");
    assert_hurries(&daemon, &larder, &id, &model);
}

#[test]
fn a_job_has_a_limit_of_its_own() {
    let hub = Hub::start();
    let (slow, free) = (model(&hub, 6), model(&hub, 7));
    let larder = larder!(&hub);
    let mut limited = want(&slow);
    limited["bandwidth"] = json!(200_000);
    limited["idempotency_key"] = json!("night 1");
    let (daemon, id) = crawling(&larder, &limited);
    let begun = Instant::now();
    stage(&larder, &free, &[]);
    assert!(begun.elapsed() < Duration::from_secs(10), "the other job is not limited: {:?}", begun.elapsed());
    let ask = |args: &[&str]| larder.run(&[&["limit", "--json", "--job", &id], args].concat());
    assert_eq!(ask(&[]).expect_code(0).json(), json!({"id": id, "bandwidth": 200_000}));
    assert_eq!(ask(&["300kB"]).expect_code(0).json(), json!({"id": id, "bandwidth": 300_000}));
    assert_eq!(daemon.get("/v1/limits").expect(200)["bandwidth"], Value::Null, "the host's is another");

    limited["bandwidth"] = json!(100_000);
    assert_eq!(daemon.post("/v1/jobs", &limited).expect(202)["id"], json!(id));
    assert_eq!(ask(&[]).expect_code(0).json()["bandwidth"], 300_000, "a meaner wish changes nothing");
    let mut other = want(&free);
    other["idempotency_key"] = json!("night 1");
    assert_eq!(daemon.post("/v1/jobs", &other).expect(400)["reason"], "invalid_request");
    assert_eq!(ask(&[]).expect_code(0).json()["bandwidth"], 300_000, "another want of the same key neither");
    let joined = daemon.post("/v1/jobs", &want(&slow)).expect(202);
    assert_eq!((&joined["id"], &joined["created"]), (&json!(id), &json!(false)));
    assert_hurries(&daemon, &larder, &id, &slow);
    ask(&[]).expect_code(3);
    assert!(ask(&["none"]).expect_code(2).stderr.contains("does not run on this host"));
}

#[test]
fn a_running_job_is_sped_up_over_http() {
    let hub = Hub::start();
    let model = model(&hub, 8);
    let larder = larder!(&hub);
    let mut limited = want(&model);
    limited["bandwidth"] = json!(200_000);
    let (daemon, id) = crawling(&larder, &limited);
    let lifted =
        daemon.request("PUT", &format!("/v1/jobs/{id}/bandwidth"), Some(&json!({"bandwidth": null})));
    assert_eq!(lifted.expect(200), json!({"id": id, "bandwidth": null}));
    assert_hurries(&daemon, &larder, &id, &model);
}

#[test]
fn two_jobs_share_what_the_host_may_take() {
    let hub = Hub::start();
    let models = [model(&hub, 9), model(&hub, 10)];
    let larder = larder!(&hub).env("LARDER__HUB__BANDWIDTH", "4MB");
    let daemon = larder.serve();
    let begun = Instant::now();
    let ids = models.each_ref().map(|model| {
        daemon.post("/v1/jobs", &want(model)).expect(202)["id"].as_str().expect("an id").to_owned()
    });
    for id in &ids {
        assert_eq!(daemon.wait_job(id, SOON)["state"], "ready");
    }
    // Twelve megabytes, less what the bucket holds when it begins.
    assert!(begun.elapsed() >= Duration::from_millis(2_800), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_stage_command_takes_a_limit() {
    let hub = Hub::start();
    let model = model(&hub, 11);
    let larder = larder!(&hub);
    let (took, _) = stage(&larder, &model, &["--bandwidth", "3MB"]);
    assert!(took >= Duration::from_millis(1_800), "{took:?}");
    for bad in ["0", "fast", "none"] {
        larder.run(&["stage", "a/b", "--bandwidth", bad]).expect_code(2);
    }
}

#[test]
fn with_nobody_there_the_way_to_a_limit_is_told() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    for args in
        [&["limit"][..], &["limit", "20MB"], &["limit", "none", "--job", "01KAQ00000000000000000000A"]]
    {
        let output = larder.run(args).expect_code(75);
        assert!(output.stderr.contains("hub.bandwidth"), "{}", output.stderr);
    }
    for bad in ["", "0", "0MB", "fast"] {
        assert!(larder.run(&["limit", bad]).expect_code(2).stderr.contains("none for no limit"));
    }
}
