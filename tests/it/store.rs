//! The store may be lost, damaged or robbed of its power: models, pins and accepted jobs are not.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::fs::Ext4Loop;
use support::{Daemon, Hub, Larder, Tripwire, models};

const MODEL: &str = "test/kept";
const LONG: Duration = Duration::from_secs(60);

fn larder(hub: &Hub) -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).hub(hub)
}

/// A hub with one model, staged and pinned.
fn staged() -> (Hub, Larder) {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 50_000).named(MODEL));
    let larder = larder(&hub);
    larder.run(&["stage", MODEL, "--pin"]).expect_code(0);
    (hub, larder)
}

/// The model is there and pinned, and its bytes are not asked for again.
#[track_caller]
fn assert_kept(daemon: &Daemon) {
    let models = daemon.get("/v1/models").expect(200);
    let model = &models["models"][0];
    assert_eq!((&model["repo"], &model["pinned"]), (&json!(MODEL), &json!(true)), "{models}");
}

fn metric(daemon: &Daemon, series: &str) -> Option<String> {
    let text = daemon.get("/metrics").text;
    text.lines().find_map(|line| line.strip_prefix(series)).map(|value| value.trim().to_owned())
}

/// After a loss the daemon says so, counts it, and deletes nothing by itself for a while.
#[track_caller]
fn assert_recovered(larder: &Larder, reason: &str) {
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    assert_kept(&daemon);
    let ready = daemon.get("/readyz").expect(200);
    assert!(ready["eviction_off_until"].is_string(), "{ready}");
    let series = format!("larder_store_recoveries_total{{reason=\"{reason}\"}}");
    assert_eq!(metric(&daemon, &series).as_deref(), Some("1"));
    assert!(daemon.wait_line(|line| line.contains("the store was lost"), LONG).is_some());
    daemon.terminate(LONG);
    // The next start is an ordinary one, and the grace time goes on.
    let daemon = larder.serve();
    assert_kept(&daemon);
    assert_eq!(metric(&daemon, &series).as_deref(), Some("0"));
    assert!(daemon.get("/readyz").expect(200)["eviction_off_until"].is_string());
}

#[test]
fn a_damaged_store_is_moved_aside_and_rebuilt() {
    let (_hub, larder) = staged();
    let db = larder.state().join("db/db");
    let mut bytes = std::fs::read(&db).expect("the store");
    bytes.iter_mut().skip(128).for_each(|byte| *byte ^= 0xa5);
    std::fs::write(&db, bytes).expect("damages it");
    assert_recovered(&larder, "damaged");
    let kept = std::fs::read_dir(larder.state()).expect("lists").flatten();
    assert_eq!(kept.filter(|e| e.file_name().to_string_lossy().starts_with("db.corrupt-")).count(), 1);
}

#[test]
fn an_emptied_store_is_noticed() {
    let (_hub, larder) = staged();
    std::fs::remove_dir_all(larder.state().join("db")).expect("empties it");
    assert_recovered(&larder, "emptied");
}

#[test]
fn without_its_state_folder_larder_still_knows_models_and_pins() {
    let (_hub, larder) = staged();
    std::fs::remove_dir_all(larder.state()).expect("removes it");
    let daemon = larder.serve();
    assert_kept(&daemon);
    assert_eq!(daemon.get("/readyz").expect(200)["eviction_off_until"], Value::Null);
}

#[test]
fn records_without_bytes_go() {
    let (_hub, larder) = staged();
    let repo = support::cache::repo_folder(larder.cache(), MODEL);
    std::fs::remove_dir_all(repo.join("snapshots")).expect("removes the snapshots");
    assert_eq!(larder.run(&["ls", "--json"]).expect_code(0).json(), json!([]));
    let out = larder.run(&["stage", MODEL, "--json"]).expect_code(0).json();
    assert_eq!(out["bytes_fetched"], 0, "the blobs were still there: {out}");
    support::cache::assert_clean(larder.cache());
    assert_eq!(larder.run(&["ls", "--json"]).expect_code(0).json()[0]["pinned"], true);
}

#[test]
fn a_pin_that_joins_a_running_job_is_kept() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 2_000_000).named(MODEL));
    hub.fault(support::Fault::on("model.safetensors").stall(100_000));
    let larder = larder(&hub);
    let daemon = larder.serve();
    let want = json!({"kind": "download", "repo": MODEL});
    let first = daemon.post("/v1/jobs", &want).expect(202);
    assert!(hub.wait_for_stalled(1, LONG));
    let mut pinned = want.clone();
    pinned["pin"] = json!(true);
    let second = daemon.post("/v1/jobs", &pinned).expect(202);
    assert_eq!((&second["id"], &second["created"]), (&first["id"], &json!(false)));
    hub.release();
    daemon.wait_job(first["id"].as_str().expect("id"), LONG);
    daemon.wait_until("/v1/models", LONG, |models| models["models"][0]["pinned"] == true);
    drop(daemon);
    std::fs::remove_dir_all(larder.state()).expect("removes the records");
    assert_eq!(larder.run(&["ls", "--json"]).expect_code(0).json()[0]["pinned"], true);
}

/// Power goes at a random moment while jobs are being accepted: every answered one is there afterwards.
#[test]
fn a_power_loss_takes_no_accepted_job_and_no_pin() {
    let Some(mut disk) = Ext4Loop::create(64 << 20) else {
        return eprintln!("skipped: needs root, loop devices and mkfs.ext4");
    };
    let rounds = if std::env::var_os("LARDER_TEST_LONG").is_some() { 50 } else { 3 };
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 50_000).named(MODEL));
    let larder = larder(&hub).with_state(&disk.path().join("state")).with_cache(&disk.path().join("hub"));
    larder.run(&["stage", MODEL, "--pin"]).expect_code(0);
    let mut accepted = Vec::new();
    for round in 0..rounds {
        let mut daemon = larder.serve();
        daemon.allow(Tripwire::Errors).allow(Tripwire::Jobs);
        assert_kept(&daemon);
        for id in &accepted {
            daemon.get(&format!("/v1/jobs/{id}")).expect(200);
        }
        for n in 0..=(round * 7 % 11) {
            // Not before next year: the jobs stay in the queue.
            let job = json!({"kind": "download", "repo": format!("test/r{round}-{n}"), "not_before": "2099-01-01T00:00:00Z"});
            let answer = daemon.post("/v1/jobs", &job).expect(202);
            accepted.push(answer["id"].as_str().expect("id").to_owned());
        }
        disk.cut_power();
        daemon.kill9();
        drop(daemon);
        disk.power_on();
    }
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Jobs);
    assert_kept(&daemon);
    for id in &accepted {
        assert_eq!(daemon.get(&format!("/v1/jobs/{id}")).expect(200)["state"], "waiting");
    }
    eprintln!("{rounds} power losses, {} accepted jobs, none lost", accepted.len());
}
