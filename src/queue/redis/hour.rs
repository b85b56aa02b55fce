//! Redis is away for an hour: nobody who waits for it gives up, and what ended meanwhile is delivered, once.
//!
//! The hour passes in tokio's time, which stands still while there is work and jumps when there is none: every attempt to
//! reach the stopped server fails at once. The clock of Redis is moved by as much.

use std::sync::Arc;
use std::time::Duration;

use larder_jobs::{Progress, State};
use tokio_util::sync::CancellationToken;

use super::tests::{claim, set_clock, store, with_hands};
use crate::queue::testing::{Hands, config, job};
use crate::queue::{Config, Done, JobStore as _, Lease, Settled, Verdict, reap_until};

const HOUR: Duration = Duration::from_secs(3_600);
/// Long enough that it does not run out while the test itself is held up.
const LEASE: Duration = Duration::from_secs(6);

#[tokio::test]
async fn an_hour_without_redis_costs_no_job_and_no_result() {
    let (server, hands) = (support::Redis::start(), Hands::new());
    set_clock(&server, &hands);
    let config = || Config { lease: larder_jobs::Span(LEASE), ..config() };
    let one = Arc::new(store(with_hands(&server), config(), "gpu-1"));
    let two = store(with_hands(&server), config(), "gpu-2");
    let (stop, mut changed) = (CancellationToken::new(), one.changed());
    let attending = {
        let (one, stop) = (Arc::clone(&one), stop.clone());
        tokio::spawn(async move { one.attend_until(&stop).await })
    };
    changed.changed().await.expect("it attends");
    let mut running = Vec::new();
    for repo in ["a/ends-meanwhile", "a/goes-on"] {
        one.enqueue(job(repo)).await.expect("accepted");
        let held = claim(&one).await.expect("a job");
        running.push((held.record.id, Arc::new(Lease::start(Arc::clone(&one) as _, &held, LEASE))));
    }
    let [(ended, first), (other, second)] = running.as_slice() else { panic!("two") };

    server.stop();
    tokio::time::pause();
    let result = {
        let lease = Arc::clone(first);
        tokio::spawn(async move {
            tokio::time::sleep(HOUR / 6).await;
            lease.settle(Verdict::Done(Done::default())).await
        })
    };
    let tidying = {
        let stop = stop.clone();
        tokio::spawn(async move { reap_until(&two, LEASE, &stop).await })
    };
    tokio::time::sleep(HOUR).await;
    assert!(!result.is_finished(), "it was given up");
    assert_eq!(second.stop_cause(), None, "who works goes on");
    tokio::time::resume();
    server.start_again();
    hands.pass(HOUR);
    set_clock(&server, &hands);

    let settled = tokio::time::timeout(LEASE * 5, result).await.expect("at once").expect("no panic");
    let Ok(Settled::Done(record)) = settled else { panic!("it counts: {settled:?}") };
    assert_eq!((record.state, record.attempts), (State::Ready, 1));
    second.set(State::Fetching, Progress { bytes_done: 5, ..Progress::default() });
    while one.get(*other).await.expect("reads").expect("is known").progress.bytes_done != 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Who would take it from its worker does so after a lease.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    assert_eq!(second.stop_cause(), None);
    assert!(one.held().absent.is_none(), "it attends again");
    let Ok(Settled::Done(record)) = second.settle(Verdict::Done(Done::default())).await else {
        panic!("it counts")
    };
    assert_eq!((record.state, record.attempts), (State::Ready, 1));
    assert_eq!(one.get(*ended).await.expect("reads").expect("is known").attempts, 1, "nothing ran twice");
    stop.cancel();
    attending.await.expect("no panic");
    tidying.await.expect("no panic");
}
