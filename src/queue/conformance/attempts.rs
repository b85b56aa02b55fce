//! Attempts: one worker per job, fencing, leases, back-off, deadlines.

use std::collections::HashSet;
use std::time::Duration;

use jiff::SignedDuration;
use larder_jobs::{JobId, Progress, Reason, State};

use super::{KIND, Make, Renewal, Settled, Settlement, done, permanent, transient};
use crate::queue::testing::{config, job};
use crate::queue::{Claimed, Config, rules};

pub(in crate::queue) async fn one_job_has_one_worker(make: Make) {
    let rig = make(config()).await;
    for n in 0..20 {
        rig.enqueue(&format!("a/{n}")).await;
    }
    let claims = (0..40).map(|_| {
        let store = rig.store.clone();
        tokio::spawn(async move { store.claim(KIND).await.expect("claims") })
    });
    let mut seen = HashSet::new();
    let mut nothing = 0;
    for claim in futures_util::future::join_all(claims).await {
        match claim.expect("no panic") {
            Claimed::Job(claim) => assert!(seen.insert(claim.record.id), "claimed twice"),
            Claimed::Nothing { .. } => nothing += 1,
        }
    }
    assert_eq!((seen.len(), nothing), (20, 20));
}

pub(in crate::queue) async fn a_stale_token_changes_nothing(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let old = rig.claim().await;
    rig.pass_ms(1_001).await;
    assert_eq!(rig.store.reap().await.expect("reaps").returned, 1);
    let queued = rig.get(id).await;
    assert_eq!(rig.renew(&old).await, Renewal::Lost);
    assert_eq!(rig.store.settle(id, old.token, done()).await, Ok(Settled::Fenced));
    assert_eq!(rig.get(id).await, queued);
    let new = rig.claim().await;
    assert!(new.token > old.token);
    for settlement in [done(), permanent(), transient(), Settlement::Release, Settlement::Cancelled] {
        assert_eq!(rig.store.settle(id, old.token, settlement).await, Ok(Settled::Fenced));
    }
    assert_eq!(rig.renew(&old).await, Renewal::Lost);
    assert_eq!(rig.get(id).await, new.record);
    assert_eq!(rig.renew(&new).await, Renewal::Held { cancel: false });
    let unknown = JobId::new((rig.now)(), 1);
    assert_eq!(rig.store.settle(unknown, 1, done()).await, Ok(Settled::Fenced));
    let renewal = rig.store.renew(unknown, 1, State::Fetching, Progress::default()).await;
    assert_eq!(renewal, Ok(Renewal::Lost));
}

pub(in crate::queue) async fn a_settlement_may_be_repeated(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    let first = rig.settle(&claim, done()).await;
    assert_eq!(rig.settle(&claim, transient()).await, first, "the first one counts");
    assert_eq!(rig.get(id).await, first);
    assert_eq!((first.state, first.path.as_deref()), (State::Ready, Some("/cache/snapshot")));
    assert_eq!(rig.renew(&claim).await, Renewal::Lost);
}

pub(in crate::queue) async fn renewals_keep_a_claim(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    for round in 1..=4 {
        rig.pass_ms(600).await;
        assert_eq!(rig.store.reap().await.expect("reaps").returned, 0);
        let progress = Progress { bytes_done: round, ..Progress::default() };
        let renewal = rig.store.renew(id, claim.token, State::Fetching, progress).await;
        assert_eq!(renewal, Ok(Renewal::Held { cancel: false }));
        let record = rig.get(id).await;
        assert_eq!((record.state, record.progress.bytes_done), (State::Fetching, round));
    }
    assert_eq!(rig.get(id).await.attempts, 1);
}

pub(in crate::queue) async fn a_vanished_worker_costs_an_attempt(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    for attempt in 1..=3 {
        let claim = rig.claim().await;
        assert_eq!(claim.record.attempts, attempt);
        rig.nothing().await;
        rig.pass_ms(1_001).await;
        let reaped = rig.store.reap().await.expect("reaps");
        assert_eq!((reaped.returned, reaped.ended), if attempt < 3 { (1, 0) } else { (0, 1) });
    }
    let record = rig.get(id).await;
    assert_eq!((record.state, record.reason), (State::Failed, Some(Reason::LeaseLost)));
    assert_eq!(record.attempts, 3);
    rig.nothing().await;
}

pub(in crate::queue) async fn a_release_gives_the_attempt_back(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    rig.enqueue("c/d").await;
    for _ in 0..5 {
        let claim = rig.claim().await;
        assert_eq!((claim.record.id, claim.record.attempts), (id, 1), "goes first again");
        let record = rig.settle(&claim, Settlement::Release).await;
        assert_eq!((record.state, record.attempts), (State::Queued, 0));
    }
}

pub(in crate::queue) async fn transient_failures_wait_longer_each_time(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let mut last = Duration::ZERO;
    for _ in 0..2 {
        let claim = rig.claim_when_due().await;
        let before = (rig.now)();
        let record = rig.settle(&claim, transient()).await;
        assert_eq!((record.state, record.reason), (State::Waiting, Some(Reason::SourceUnavailable)));
        let pause = record.due.expect("a time").duration_since(before);
        let pause = Duration::try_from(pause).expect("in the future");
        assert!(pause >= last.max(Duration::from_millis(50)) && pause < Duration::from_secs(2), "{pause:?}");
        assert!(rig.nothing().await.is_some());
        last = pause;
    }
    let claim = rig.claim_when_due().await;
    let record = rig.settle(&claim, transient()).await;
    assert_eq!((record.state, record.attempts), (State::Failed, 3));
    assert_eq!(record.reason, Some(Reason::SourceUnavailable), "the last reason");
    assert_eq!(record.id, id);
}

pub(in crate::queue) async fn retry_after_is_respected(make: Make) {
    let rig = make(config()).await;
    rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    let least = Duration::from_millis(2_500);
    let earliest = rules::after((rig.now)(), least);
    let settlement =
        Settlement::Retry { reason: Reason::RateLimited, message: "slow down".into(), after: Some(least) };
    let record = rig.settle(&claim, settlement).await;
    assert!(record.due.expect("a time") >= earliest);
    rig.pass_ms(1_500).await;
    let wait = rig.nothing().await.expect("waits");
    (rig.pass)(wait).await;
    assert_eq!(rig.claim().await.record.attempts, 2);
}

pub(in crate::queue) async fn permanent_failures_end_at_once(make: Make) {
    let rig = make(config()).await;
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    rig.settle(&claim, permanent()).await;
    let record = rig.get(id).await;
    assert_eq!((record.state, record.reason), (State::Failed, Some(Reason::NotFound)));
    assert_eq!(record.message.as_deref(), Some("no such repo"));
    assert!(record.finished_at.is_some());
    assert_eq!(rig.nothing().await, None);
}

pub(in crate::queue) async fn waiting_spends_no_attempt(make: Make) {
    let rig = make(config()).await;
    rig.enqueue("a/b").await;
    for _ in 0..5 {
        let claim = rig.claim_when_due().await;
        assert_eq!(claim.record.attempts, 1);
        let wait = Duration::from_millis(50);
        let settlement = Settlement::Wait { reason: Reason::HostDrained, message: "drained".into(), wait };
        let record = rig.settle(&claim, settlement).await;
        assert_eq!((record.state, record.reason), (State::Waiting, Some(Reason::HostDrained)));
    }
}

pub(in crate::queue) async fn a_missed_deadline_fails(make: Make) {
    let rig = make(config()).await;
    let mut urgent = job("a/b");
    urgent.common.deadline = Some(rules::after((rig.now)(), Duration::from_millis(400)));
    let id = rig.store.enqueue(urgent).await.expect("accepted").record.id;
    let other = rig.enqueue("c/d").await;
    rig.pass_ms(500).await;
    assert_eq!(rig.claim().await.record.id, other, "the next one is claimed instead");
    let record = rig.get(id).await;
    assert_eq!((record.state, record.reason), (State::Failed, Some(Reason::DeadlineMissed)));
    assert_eq!(record.attempts, 0);
}

pub(in crate::queue) async fn a_retry_after_the_deadline_fails_now(make: Make) {
    let rig = make(config()).await;
    let mut urgent = job("a/b");
    urgent.common.deadline = Some(rules::after((rig.now)(), Duration::from_secs(60)));
    let id = rig.store.enqueue(urgent).await.expect("accepted").record.id;
    let claim = rig.claim().await;
    let after = Some(Duration::from_secs(90));
    let settlement = Settlement::Retry { reason: Reason::RateLimited, message: "slow down".into(), after };
    rig.settle(&claim, settlement).await;
    let record = rig.get(id).await;
    assert_eq!((record.state, record.reason), (State::Failed, Some(Reason::DeadlineMissed)));
    assert!(record.message.expect("says why").contains("slow down"));
}

pub(in crate::queue) async fn a_vanished_worker_does_not_bring_a_forgotten_job_back(make: Make) {
    let rig = make(Config { max_attempts: 1, ..config() }).await;
    let id = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    rig.pass_ms(1_001).await;
    assert_eq!(rig.store.reap().await.expect("reaps").ended, 1);
    rig.pass_ms(5_001).await;
    assert_eq!(rig.store.reap().await.expect("reaps").purged, 1);
    assert_eq!(rig.renew(&claim).await, Renewal::Lost);
    assert_eq!(rig.store.settle(id, claim.token, done()).await, Ok(Settled::Fenced));
    assert_eq!(rig.store.get(id).await, Ok(None));
}

pub(in crate::queue) async fn a_long_message_is_cut_before_what_larder_adds(make: Make) {
    let rig = make(Config { max_attempts: 1, ..config() }).await;
    let long = || Settlement::Retry { reason: Reason::Stalled, message: "é\n".repeat(2_000), after: None };
    rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    let message = rig.settle(&claim, long()).await.message.expect("says why");
    assert!(message.ends_with("… (given up after 1 attempts)") && message.len() < 3_000, "{message}");
    let mut urgent = job("c/d");
    urgent.common.deadline = Some(rules::after((rig.now)(), Duration::from_secs(1)));
    rig.store.enqueue(urgent).await.expect("accepted");
    let claim = rig.claim().await;
    let wait = Duration::from_secs(60);
    let late = Settlement::Wait { reason: Reason::HostDrained, message: "é\n".repeat(2_000), wait };
    let message = rig.settle(&claim, late).await.message.expect("says why");
    assert!(message.ends_with("…)") && message.contains("hint: ") && message.len() < 3_000, "{message}");
}

pub(in crate::queue) async fn the_time_to_spare_is_less_the_work_that_is_left(make: Make) {
    let rig = make(config()).await;
    let spare = async || rig.store.stats().await.expect("counts").deadline_slack.get(&KIND).copied();
    let until = |seconds| Some(rules::after((rig.now)(), Duration::from_secs(seconds)));
    assert_eq!(spare().await, None);
    let (mut late, mut early) = (job("a/late"), job("a/early"));
    (late.common.deadline, late.common.priority, early.common.deadline) = (until(400), 1, until(200));
    rig.store.enqueue(late).await.expect("accepted");
    rig.store.enqueue(early).await.expect("accepted");
    let is_about = |seconds: i64, spare: Option<SignedDuration>| {
        (seconds - 20..=seconds).contains(&spare.expect("there is a deadline").as_secs())
    };
    assert!(is_about(200, spare().await));
    // The one with more time has still less to spare.
    let claim = rig.claim().await;
    let progress = Progress {
        bytes_total: Some(40_000),
        bytes_done: 10_000,
        bytes_per_second: Some(100),
        ..Progress::default()
    };
    rig.store.renew(claim.record.id, claim.token, State::Fetching, progress).await.expect("is held");
    assert!(is_about(100, spare().await), "300 seconds of work are left: {:?}", spare().await);
    // A deadline that has passed hides none that is ahead.
    rig.pass_ms(201_000).await;
    assert!(is_about(-101, spare().await), "it will be missed: {:?}", spare().await);
}

pub(in crate::queue) async fn a_deadline_is_missed_though_nobody_takes_the_job(make: Make) {
    let rig = make(config()).await;
    let (mut urgent, mut later) = (job("a/b"), job("c/d"));
    urgent.common.deadline = Some(rules::after((rig.now)(), Duration::from_millis(400)));
    later.common.deadline = Some(rules::after((rig.now)(), Duration::from_secs(60)));
    let late = rig.store.enqueue(urgent).await.expect("accepted").record.id;
    let rest = rig.store.enqueue(later).await.expect("accepted").record.id;
    rig.pass_ms(500).await;
    assert_eq!(rig.store.reap().await.expect("reaps").ended, 1);
    let record = rig.get(late).await;
    assert_eq!((record.state, record.reason), (State::Failed, Some(Reason::DeadlineMissed)));
    assert_eq!(rig.get(rest).await.state, State::Queued);
    assert_eq!(rig.store.reap().await.expect("reaps").ended, 0, "once");
}
