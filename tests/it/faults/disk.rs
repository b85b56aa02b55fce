//! Disks that are full before, or become full meanwhile: a real small filesystem, which takes root to mount.

use std::fs;
use std::time::Duration;

use support::cache::{assert_clean, partials};
use support::fs::Tmpfs;
use support::{Hub, Larder, Model, Tripwire, larder, models};

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
