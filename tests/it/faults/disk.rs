//! Disks that are full before, or become full meanwhile: a real small filesystem, which takes root to mount.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;
use support::cache::{assert_clean, partials};
use support::fs::Tmpfs;
use support::{Daemon, Hub, Larder, Model, Tripwire, larder, models};

use super::{assert_not_visible, refused, staged};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk of so many MiB; none without root, which is said.
fn disk(mebibytes: u64) -> Option<Tmpfs> {
    let disk = Tmpfs::mount(mebibytes * MIB);
    if disk.is_none() {
        println!("skipped: mounting a small filesystem needs root");
    }
    disk
}

/// Two weight files of 4 MB, which come one after the other.
fn house(disk: &Tmpfs, seed: u64) -> (Hub, Larder, Model) {
    let (hub, parts) = (Hub::start(), models::huge(seed, 4_000_000));
    let second = support::Content::pattern(4_000_000, seed + 1000);
    let model = parts.lfs("vocab.spm", second);
    hub.add(model.clone());
    let larder = larder!(&hub).with_cache(&disk.path().join("hub")).env("LARDER__HUB__CONNECTIONS", "1");
    (hub, larder, model)
}

#[test]
fn a_plan_that_does_not_fit_is_refused_with_the_arithmetic() {
    let Some(disk) = disk(6) else { return };
    let (hub, larder, model) = house(&disk, 330);
    let job = refused(&larder, &model, 4, "insufficient_disk");
    let message = job["message"].as_str().expect("a message");
    for part in ["7.6 MiB", "6.0 MiB free"] {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
    assert_eq!(hub.bytes_of(model.id()), 0, "nothing was fetched in vain");
    assert!(partials(larder.cache()).is_empty());

    assert!(disk.resize(16 * MIB));
    staged(&larder, &model);

    // What must stay free counts as well.
    let Some(other) = self::disk(16) else { return };
    let (_hub, larder, model) = house(&other, 331);
    let larder = larder.env("LARDER__CACHE__KEEP_FREE", "10MiB");
    let job = refused(&larder, &model, 4, "insufficient_disk");
    assert!(job["message"].as_str().is_some_and(|text| text.contains("stay free")), "{job}");
}

/// Starts a job, and fills the disk when the first file is on its way.
fn filled_in_mid_transfer(hub: &Hub, disk: &Tmpfs, model: &Model) {
    assert!(hub.wait_for_bytes(model.id(), 1_000_000, PATIENCE));
    let ballast = vec![0; 9 * MIB as usize];
    fs::write(disk.path().join("ballast"), ballast).expect("there is room for this");
}

#[test]
fn a_foreground_command_on_a_disk_that_filled_up_keeps_its_bytes_and_goes_on_later() {
    let Some(disk) = disk(16) else { return };
    let (hub, larder, model) = house(&disk, 332);
    hub.throttle(Some(2 * MIB));
    let mut command = larder.spawn(&["stage", model.id(), "--json"]);
    filled_in_mid_transfer(&hub, &disk, &model);
    let status = command.wait_exit(PATIENCE).expect("it does not wait for ever");
    let said = command.logs().join("\n");
    assert_eq!(status.code(), Some(75), "try later: {said}");
    assert!(said.contains("[insufficient_disk]"), "{said}");
    assert_not_visible(&larder, &model);

    hub.throttle(None);
    fs::remove_file(disk.path().join("ballast")).expect("makes room");
    let before = hub.bytes_of(model.id());
    let job = staged(&larder, &model);
    assert!(job["bytes_fetched"].as_u64() < Some(model.bytes() - 3_000_000), "it went on: {job}");
    assert!(before + 3_000_000 > hub.bytes_of(model.id()) - before, "the first file was not fetched again");
}

#[test]
fn a_daemons_job_waits_for_room() {
    let Some(disk) = disk(16) else { return };
    let (hub, larder, model) = house(&disk, 333);
    hub.throttle(Some(2 * MIB));
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Partials);
    let job = larder.run(&["stage", model.id(), "--detach", "--json"]).expect_code(0).json();
    filled_in_mid_transfer(&hub, &disk, &model);
    let id = job["id"].as_str().expect("an id");
    let path = format!("/v1/jobs/{id}");
    let waiting = daemon.wait_until(&path, PATIENCE, |job| job["state"] == "waiting");
    assert_eq!(
        (&waiting["reason"], &waiting["attempts"]),
        (&"insufficient_disk".into(), &0.into()),
        "{waiting}"
    );
    assert!(waiting["until"].is_string(), "{waiting}");
    assert_not_visible(&larder, &model);

    // Somebody makes room and does not want to wait until larder looks again.
    hub.throttle(None);
    fs::remove_file(disk.path().join("ballast")).expect("makes room");
    larder.run(&["jobs", "cancel", id]).expect_code(0);
    larder.run(&["jobs", "retry", id]).expect_code(0);
    let done = daemon.wait_job(id, PATIENCE);
    assert_eq!(done["state"], "ready", "{done}");
    assert!(done["bytes_fetched"].as_u64() <= Some(model.bytes() + MIB), "it went on: {done}");
    drop(daemon);
    assert_clean(larder.cache());
}

/// What the daemon says it has promised to its downloads, bytes.
fn promised(daemon: &Daemon) -> u64 {
    let text = daemon.get("/metrics").text;
    let line = text.lines().find_map(|line| line.strip_prefix("larder_cache_reserved_bytes "));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("not in a scrape:\n{text}"))
}

/// Three weight files of 8 MB, of which one comes after the other, on a disk that has room for them once.
fn one_of_two(disk: &Tmpfs) -> (Hub, Larder, [Model; 2]) {
    let hub = Hub::start();
    let models = [334, 335].map(|seed| {
        let more = |n| support::Content::pattern(8_000_000, seed + n);
        models::huge(seed, 8_000_000).lfs("tokenizer.model", more(1000)).lfs("vocab.spm", more(2000))
    });
    for model in &models {
        hub.add(model.clone());
    }
    let larder = larder!(&hub).with_cache(&disk.path().join("hub")).env("LARDER__HUB__CONNECTIONS", "1");
    (hub, larder, models)
}

fn begin(daemon: &Daemon, model: &Model) -> String {
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": model.id()})).expect(202);
    job["id"].as_str().expect("an id").to_owned()
}

#[test]
fn two_downloads_that_fit_singly_but_not_together_do_not_both_start() {
    let Some(disk) = disk(40) else { return };
    let (hub, larder, [first, second]) = one_of_two(&disk);
    hub.throttle(Some(MIB));
    let daemon = larder.serve();
    assert_eq!(promised(&daemon), 0);
    let running = begin(&daemon, &first);
    let begun = |job: &serde_json::Value| job["bytes_fetched"].as_u64() > Some(200_000);
    daemon.wait_until(&format!("/v1/jobs/{running}"), PATIENCE, begun);
    // The disk knows of the first file only; two thirds of the room are still free to whoever asks it.
    let left = promised(&daemon);
    assert!((15_900_000..=16_000_000).contains(&left), "{left} bytes are promised");
    let refused = daemon.wait_job(&begin(&daemon, &second), PATIENCE);
    assert_eq!(
        (&refused["state"], &refused["reason"]),
        (&"failed".into(), &"insufficient_disk".into()),
        "{refused}"
    );
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("15.3 MiB are promised to downloads that run"), "{message}");
    assert_eq!(hub.bytes_of(second.id()), 0, "nothing was fetched in vain");

    hub.throttle(None);
    assert_eq!(daemon.wait_job(&running, PATIENCE)["state"], "ready");
    assert_eq!(promised(&daemon), 0, "all of it was taken");
    assert!(disk.resize(64 * MIB));
    assert_eq!(daemon.wait_job(&begin(&daemon, &second), PATIENCE)["state"], "ready");
}

#[test]
fn a_download_that_ends_early_gives_its_room_back() {
    let Some(disk) = disk(40) else { return };
    let (hub, larder, [first, second]) = one_of_two(&disk);
    hub.throttle(Some(MIB));
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Partials);
    let cancelled = begin(&daemon, &first);
    daemon.wait_until(&format!("/v1/jobs/{cancelled}"), PATIENCE, |job| {
        job["bytes_fetched"].as_u64() > Some(200_000)
    });
    larder.run(&["jobs", "cancel", &cancelled]).expect_code(0);
    assert_eq!(daemon.wait_job(&cancelled, PATIENCE)["state"], "cancelled");
    hub.throttle(None);
    // Its first file keeps its room; of the rest nothing is held back.
    assert_eq!(daemon.wait_job(&begin(&daemon, &second), PATIENCE)["state"], "ready");
    assert_eq!(promised(&daemon), 0);
}

#[test]
fn a_daemon_whose_records_lie_on_the_full_disk_comes_back_by_itself() {
    let Some(disk) = disk(24) else { return };
    let (hub, larder, model) = house(&disk, 336);
    let larder = larder.with_state(&disk.path().join("state"));
    larder.run(&["stage", model.id(), "--pin"]).expect_code(0);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors).allow(Tripwire::Jobs);
    let ballast = disk.path().join("ballast");
    // Whatever is written until nothing more fits.
    let mut file = fs::File::create(&ballast).expect("created");
    while file.write_all(&[0; 4_096]).is_ok() {}
    drop(file);
    let failed = |line: &str| line.contains("the store has failed");
    let begun = Instant::now();
    while daemon.wait_line(failed, Duration::from_millis(100)).is_none() {
        assert!(begun.elapsed() < PATIENCE, "nothing that it writes fails");
        // Each leaves a record, until the store has no room for another.
        larder.run(&["stage", "a/none", "--detach"]);
    }
    fs::remove_file(&ballast).expect("makes room");
    let socket = daemon.socket();
    daemon.wait_ready(&socket, PATIENCE);
    let models = daemon.get("/v1/models").expect(200);
    assert_eq!(
        (&models["models"][0]["repo"], &models["models"][0]["pinned"]),
        (&json!(model.id()), &json!(true)),
        "nothing is lost: {models}"
    );
    let again = begin(&daemon, &model);
    assert_eq!(daemon.wait_job(&again, PATIENCE)["state"], "ready");
    drop(hub);
}
