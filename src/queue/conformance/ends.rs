//! Ends: cancel, retry, redrive, and the bounds on what is kept.

use std::time::Duration;

use larder_jobs::{Job, Reason, State};

use super::{KIND, Make, Renewal, Settlement, done, permanent, transient};
use crate::queue::testing::{config, job};
use crate::queue::{Config, Filter, Outcome};

pub(in crate::queue) async fn cancel_before_and_while_waiting(make: Make) {
    let rig = make(config()).await;
    let queued = rig.enqueue("a/b").await;
    let cancelled = rig.store.cancel(queued, None).await.expect("cancels");
    assert_eq!((cancelled.outcome, cancelled.record.state), (Outcome::Ended, State::Cancelled));
    assert_eq!(rig.store.cancel(queued, None).await.expect("cancels").outcome, Outcome::Over);
    assert_eq!(rig.nothing().await, None);

    let waiting = rig.enqueue("c/d").await;
    let claim = rig.claim().await;
    rig.settle(&claim, transient()).await;
    assert_eq!(rig.store.cancel(waiting, None).await.expect("cancels").outcome, Outcome::Ended);
    assert_eq!(rig.nothing().await, None, "it is not waited for");
    let record = rig.get(waiting).await;
    assert_eq!((record.state, record.reason), (State::Cancelled, Some(Reason::Cancelled)));
    assert!(rig.store.enqueue(job("a/b")).await.expect("accepted").created, "the want is free");

    let unknown = larder_jobs::JobId::new((rig.now)(), 1);
    let error = rig.store.cancel(unknown, None).await.expect_err("unknown");
    assert_eq!(error.reason(), Reason::NotFound);
}

pub(in crate::queue) async fn cancel_of_a_running_job(make: Make) {
    let rig = make(config()).await;
    for end in [Settlement::Cancelled, transient(), Settlement::Release] {
        let id = rig.enqueue("a/b").await;
        let claim = rig.claim().await;
        let mut cancellations = rig.store.cancellations();
        let cancelled = rig.store.cancel(id, None).await.expect("cancels");
        assert_eq!((cancelled.outcome, cancelled.record.state), (Outcome::Stopping, State::Planning));
        let told = tokio::time::timeout(Duration::from_secs(5), cancellations.recv()).await;
        assert_eq!(told.expect("in time"), Ok(id));
        assert_eq!(rig.renew(&claim).await, Renewal::Held { cancel: true });
        assert_eq!(rig.settle(&claim, end).await.state, State::Cancelled, "it does not come back");
    }
    // A worker that never looks.
    let id = rig.enqueue("a/b").await;
    rig.claim().await;
    rig.store.cancel(id, None).await.expect("cancels");
    rig.pass_ms(1_001).await;
    rig.store.reap().await.expect("reaps");
    assert_eq!(rig.get(id).await.state, State::Cancelled);
    // A worker that was done before it looked.
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    rig.store.cancel(id, None).await.expect("cancels");
    assert_eq!(rig.settle(&claim, done()).await.state, State::Ready);
}

pub(in crate::queue) async fn cancel_of_one_requester_is_not_for_all(make: Make) {
    let rig = make(config()).await;
    let by = |name: &str| -> Job {
        let mut job = job("a/b");
        job.common.requested_by = Some(name.into());
        job
    };
    let id = rig.store.enqueue(by("alice")).await.expect("accepted").record.id;
    rig.store.enqueue(by("bob")).await.expect("accepted");
    assert_eq!(rig.store.cancel(id, Some("alice")).await.expect("cancels").outcome, Outcome::Wanted);
    assert_eq!(rig.store.cancel(id, Some("mallory")).await.expect("cancels").outcome, Outcome::Wanted);
    assert_eq!(rig.get(id).await.requesters, ["bob"]);
    rig.claim().await;
    assert_eq!(rig.store.cancel(id, Some("bob")).await.expect("cancels").outcome, Outcome::Stopping);
    // Somebody without a name cannot be told apart, so only a cancel for everybody ends their job.
    let id = rig.enqueue("c/d").await;
    assert_eq!(rig.store.cancel(id, Some("bob")).await.expect("cancels").outcome, Outcome::Wanted);
    assert_eq!(rig.store.cancel(id, None).await.expect("cancels").outcome, Outcome::Ended);
}

pub(in crate::queue) async fn retry_runs_again(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    assert_eq!(rig.store.retry(id).await.expect_err("queued").reason(), Reason::InvalidRequest);
    let claim = rig.claim().await;
    rig.settle(&claim, permanent()).await;
    let record = rig.store.retry(id).await.expect("retries");
    assert_eq!((record.state, record.attempts, record.finished_at), (State::Queued, 0, None));
    assert!(!rig.store.enqueue(job("a/b")).await.expect("accepted").created, "the want is taken again");
    let claim = rig.claim().await;
    assert_eq!(claim.record.id, id);
    rig.store.cancel(id, None).await.expect("cancels");
    rig.settle(&claim, Settlement::Cancelled).await;
    rig.enqueue("a/b").await;
    let error = rig.store.retry(id).await.expect_err("another job does the same");
    assert_eq!(error.reason(), Reason::InvalidRequest);
}

pub(in crate::queue) async fn redrive_runs_all_failed(make: Make) {
    let rig = make(config()).await;
    for repo in ["a/b", "c/d", "e/f", "g/h"] {
        rig.enqueue(repo).await;
        let claim = rig.claim().await;
        rig.settle(&claim, if repo == "g/h" { done() } else { permanent() }).await;
    }
    rig.enqueue("c/d").await;
    let mut changed = rig.store.changed();
    changed.borrow_and_update();
    assert_eq!(rig.store.redrive(KIND).await.expect("redrives"), 2);
    let woken = tokio::time::timeout(Duration::from_secs(5), changed.changed()).await;
    woken.expect("in time").expect("the store lives");
    let stats = rig.store.stats().await.expect("counts").jobs;
    assert_eq!(stats.get(&(KIND, State::Queued)), Some(&3));
    assert_eq!(stats.get(&(KIND, State::Failed)), Some(&1));
    assert_eq!(rig.store.redrive(KIND).await.expect("redrives"), 0);
}

pub(in crate::queue) async fn ended_jobs_are_forgotten(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    rig.settle(&claim, done()).await;
    let waiting = rig.enqueue("c/d").await;
    rig.pass_ms(4_000).await;
    assert_eq!(rig.store.reap().await.expect("reaps").purged, 0);
    rig.pass_ms(1_500).await;
    assert_eq!(rig.store.reap().await.expect("reaps").purged, 1);
    assert_eq!(rig.store.get(id).await, Ok(None));
    assert!(rig.store.get(waiting).await.expect("reads").is_some(), "what has not ended stays");
}

pub(in crate::queue) async fn ended_jobs_are_bounded(make: Make) {
    let rig = make(Config { max_finished: 2, ..config() }).await;
    for repo in ["a/b", "c/d", "e/f", "g/h"] {
        rig.enqueue(repo).await;
        let claim = rig.claim().await;
        rig.pass_ms(10).await;
        rig.settle(&claim, if repo == "c/d" { permanent() } else { done() }).await;
    }
    assert_eq!(rig.store.reap().await.expect("reaps").purged, 2);
    let left = rig.store.list(Filter::default()).await.expect("lists");
    let left: Vec<_> = left.iter().map(|record| record.job["repo"].as_str().expect("a repo")).collect();
    assert_eq!(left, ["g/h", "e/f"], "the oldest go first");
}

pub(in crate::queue) async fn of_jobs_that_ended_together_the_older_id_is_forgotten(make: Make) {
    let rig = make(Config { max_finished: 2, ..config() }).await;
    let mut ids = Vec::new();
    for n in 0..6 {
        let id = rig.enqueue(&format!("a/{n}")).await;
        let claim = rig.claim().await;
        rig.settle(&claim, if n % 2 == 0 { done() } else { permanent() }).await;
        ids.push((rig.get(id).await.finished_at, id));
    }
    assert_eq!(rig.store.reap().await.expect("reaps").purged, 4);
    ids.sort();
    let mut left: Vec<_> =
        rig.store.list(Filter::default()).await.expect("lists").iter().map(|r| r.id).collect();
    left.sort();
    assert_eq!(left, [ids[4].1.min(ids[5].1), ids[4].1.max(ids[5].1)]);
}
