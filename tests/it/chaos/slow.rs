//! One connection that stands still or crawls while its siblings run: the job does not wait for it.

use std::time::{Duration, Instant};

use support::{Fault, Host};

use super::{WEIGHTS, assert_hit, house, number, staged};

/// Far less than `hub.stall_timeout`, which is left at its 30 seconds here, and than what the crawling takes.
const SOON: Duration = Duration::from_secs(15);
const BYTES: u64 = 24_000_000;

#[test]
fn a_connection_that_stalls_for_ever_while_its_siblings_run_is_given_up_soon() {
    let (hub, larder, model) = house(910, BYTES);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).stall(500_000));
    let larder = larder.timeout(3 * SOON);
    let begun = Instant::now();
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    assert!(begun.elapsed() < SOON, "one stalled connection held the job up for {:?}", begun.elapsed());
    assert_eq!(job["attempts"], 1, "{job}");
    assert_fetched_about_once(&job, model.bytes());
}

#[test]
fn a_connection_that_crawls_at_the_end_of_a_file_does_not_hold_the_job_up() {
    let (hub, larder, model) = house(911, BYTES);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).trickle(100_000, 20_000));
    let larder = larder.timeout(3 * SOON);
    let begun = Instant::now();
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    assert!(begun.elapsed() < SOON, "one crawling connection held the job up for {:?}", begun.elapsed());
    assert_fetched_about_once(&job, model.bytes());
}

/// At most one range of those that such a job is cut into came twice.
#[track_caller]
fn assert_fetched_about_once(job: &serde_json::Value, bytes: u64) {
    let (fetched, most) = (number(job, "bytes_fetched"), bytes + (8 << 20));
    assert!(fetched <= most, "{fetched} bytes came, {most} at most: {job}");
}
