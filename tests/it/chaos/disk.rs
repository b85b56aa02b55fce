//! A disk with bad sectors: EIO in the middle of a file, when it is written, read back or synced.

use serde_json::json;
use support::fs::{Faulty, Operation};
use support::http::ask;
use support::{Daemon, Hub, Larder, Model, Tripwire, larder, models};

use super::{number, refused, staged};

const BYTES: u64 = 30_000_000;
const CONNECTIONS: u64 = 2;
/// What a failed attempt may cost: what each connection had in hand and had not noted yet, and small files.
const COST: u64 = CONNECTIONS * (6 << 20);

/// A disk that works so far; none where it cannot be mounted, which is said.
fn disk() -> Option<Faulty> {
    let disk = Faulty::mount();
    if disk.is_none() {
        println!("skipped: mounting a filesystem that fails needs root and /dev/fuse");
    }
    disk
}

fn house(disk: &Faulty, seed: u64) -> (Hub, Larder, Model) {
    let (hub, model) = (Hub::start(), models::huge(seed, BYTES));
    hub.add(model.clone());
    let larder = larder!(&hub)
        .with_cache(&disk.path().join("hub"))
        .env("LARDER__HUB__CONNECTIONS", CONNECTIONS.to_string())
        .env("LARDER__QUEUE__BACKOFF_MIN", "100ms")
        .env("LARDER__QUEUE__BACKOFF_MAX", "1s");
    (hub, larder, model)
}

/// The job ends as `io_error` while the disk is bad, and goes on with what it has once it is not.
#[track_caller]
fn fails_and_goes_on(seed: u64, operation: Operation, part: &str, from: u64) {
    let Some(disk) = disk() else { return };
    let (_hub, mut larder, model) = house(&disk, seed);
    larder.set_env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    disk.break_at(operation, part, from);
    let failed = refused(&larder, &model, 75, "io_error");
    assert!(disk.hits() > 0, "the fault hit somebody");
    let message = failed["message"].as_str().expect("a message");
    assert!(message.contains("error 5"), "the system's own word for it: {message}");
    disk.heal();
    let done = staged(&larder, &model);
    let fetched = number(&failed, "bytes_fetched") + number(&done, "bytes_fetched");
    println!("{operation:?}: {fetched} bytes came for {}", model.bytes());
    assert!(fetched <= model.bytes() + COST, "{fetched} bytes came for {}: {done}", model.bytes());
}

#[test]
fn a_write_that_fails_in_mid_file_is_an_io_error_and_what_came_before_is_kept() {
    fails_and_goes_on(940, Operation::Write, ".part", BYTES / 2);
}

#[test]
fn bytes_that_cannot_be_read_back_are_never_published() {
    fails_and_goes_on(941, Operation::Read, ".part", BYTES / 2);
}

#[test]
fn what_cannot_be_synced_is_never_published() {
    fails_and_goes_on(942, Operation::Sync, "", 0);
}

#[test]
fn a_disk_that_fails_for_a_moment_costs_an_attempt_and_not_the_job() {
    let Some(disk) = disk() else { return };
    let (_hub, larder, model) = house(&disk, 943);
    disk.break_at(Operation::Write, ".part", BYTES / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(disk.wait_for_hit(super::PATIENCE), "the first attempt met the bad part");
            disk.heal();
        });
        let job = staged(&larder, &model);
        assert!(number(&job, "attempts") >= 2, "{job}");
        assert!(number(&job, "bytes_fetched") <= model.bytes() + 3 * COST, "{job}");
    });
}

#[test]
fn records_that_cannot_be_made_durable_are_counted_and_nothing_more_is_accepted() {
    let Some(disk) = disk() else { return };
    let hub = Hub::start();
    let larder = larder!(&hub);
    // The socket needs a filesystem that has such things; the records alone lie on the bad disk.
    let records = disk.path().join("db");
    std::fs::create_dir(&records).expect("the disk takes a folder");
    std::os::unix::fs::symlink(&records, larder.state().join("db")).expect("a link");
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    // Nobody was promised the job that was refused; a worker may have seen it all the same, and cannot record its end.
    daemon.allow(Tripwire::Jobs);
    let failures = |daemon: &Daemon| {
        let page = ask(&daemon.place(), "GET /metrics", &[("Host", "localhost")], b"").text();
        let line = page.lines().find_map(|line| line.strip_prefix("larder_store_flush_failures_total "));
        line.expect("it is born at zero").parse::<u64>().expect("a number")
    };
    assert_eq!(failures(&daemon), 0);
    disk.break_at(Operation::Sync, "db", 0);
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "test/none"}));
    assert_ne!(job.status, 202, "{}", job.text);
    assert!(failures(&daemon) > 0);
    disk.heal();
}
