//! Asking for jobs: one job per want, order, bounds, wake-ups, and payloads that cannot be read.

use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{Bandwidth, Cursor, Job, JobId, Reason, State};
use serde_json::json;

use super::{KIND, Make, Rig, done};
use crate::queue::testing::{config, job};
use crate::queue::{Config, Filter, rules};

fn with(repo: &str, change: impl FnOnce(&mut larder_jobs::Common)) -> Job {
    let mut job = job(repo);
    change(&mut job.common);
    job
}

pub(in crate::queue) async fn same_want_in_flight_is_one_job(make: Make) {
    let rig = make(config()).await;
    let first = rig.store.enqueue(job("a/b")).await.expect("accepted");
    let second = rig.store.enqueue(job("a/b")).await.expect("accepted");
    assert!(first.created && !second.created);
    assert_eq!(first.record.id, second.record.id);
    let claim = rig.claim().await;
    assert!(!rig.store.enqueue(job("a/b")).await.expect("accepted").created, "joins a running job");
    rig.nothing().await;
    rig.settle(&claim, done()).await;
    let third = rig.store.enqueue(job("a/b")).await.expect("accepted");
    assert!(third.created, "the end frees the want");
    assert_ne!(third.record.id, first.record.id);
}

pub(in crate::queue) async fn a_join_takes_the_more_urgent_of_both(make: Make) {
    let rig = make(config()).await;
    let now = (rig.now)();
    let (soon, late) =
        (rules::after(now, Duration::from_secs(60)), rules::after(now, Duration::from_secs(90)));
    let first = with("a/b", |c| {
        (c.priority, c.deadline, c.requested_by) = (3, Some(late), Some("alice".into()));
        c.notify = Some("https://one.example/".into());
    });
    rig.store.enqueue(first).await.expect("accepted");
    let mut second = with("a/b", |c| {
        (c.priority, c.deadline, c.requested_by) = (1, Some(soon), Some("bob".into()));
        c.notify = Some("https://two.example/".into());
    });
    let larder_jobs::Work::Download(download) = &mut second.work else { panic!("a download") };
    download.pin = true;
    rig.store.enqueue(second).await.expect("accepted");
    let record = rig.store.enqueue(with("a/b", |c| c.requested_by = Some("alice".into()))).await;
    let record = record.expect("accepted").record;
    assert_eq!((record.priority, record.deadline), (3, Some(soon)));
    assert_eq!(record.requesters, ["alice", "bob"]);
    assert_eq!(record.notify, ["https://one.example/", "https://two.example/"]);
    let larder_jobs::Work::Download(download) = record.decode().expect("decodes").work else {
        panic!("a download")
    };
    assert!(download.pin);
    assert_eq!(rig.get(record.id).await, record);
}

pub(in crate::queue) async fn a_join_takes_the_more_generous_limit(make: Make) {
    let rig = make(config()).await;
    let ask = async |bandwidth: Option<u64>| {
        let mut job = job("a/b");
        let larder_jobs::Work::Download(download) = &mut job.work else { panic!("a download") };
        download.bandwidth = bandwidth.map(|bytes| Bandwidth::new(bytes).expect("not zero"));
        let record = rig.store.enqueue(job).await.expect("accepted").record;
        assert_eq!(rig.get(record.id).await, record);
        let larder_jobs::Work::Download(download) = record.decode().expect("decodes").work else {
            panic!("a download")
        };
        download.bandwidth.map(Bandwidth::bytes)
    };
    assert_eq!(ask(Some(20)).await, Some(20));
    assert_eq!(ask(Some(9)).await, Some(20));
    assert_eq!(ask(Some(100)).await, Some(100));
    assert_eq!(ask(None).await, None);
    assert_eq!(ask(Some(500)).await, None, "who asked for no limit still waits for the job");
}

pub(in crate::queue) async fn a_cancelled_want_is_not_joined(make: Make) {
    let rig = make(config()).await;
    let first = rig.enqueue("a/b").await;
    let claim = rig.claim().await;
    rig.store.cancel(first, None).await.expect("cancels");
    let second = rig.store.enqueue(job("a/b")).await.expect("accepted");
    assert!(second.created);
    rig.settle(&claim, super::Settlement::Cancelled).await;
    let third = rig.store.enqueue(job("a/b")).await.expect("accepted");
    assert_eq!(
        third.record.id, second.record.id,
        "the end of the first does not free the want of the second"
    );
}

pub(in crate::queue) async fn an_idempotency_key_answers_after_the_end(make: Make) {
    let rig = make(config()).await;
    let keyed = |repo: &str| with(repo, |c| c.idempotency_key = Some("night-1".into()));
    let joined = with("a/b", |c| c.idempotency_key = Some("night-2".into()));
    let id = rig.store.enqueue(keyed("a/b")).await.expect("accepted").record.id;
    rig.store.enqueue(joined.clone()).await.expect("accepted");
    let claim = rig.claim().await;
    rig.settle(&claim, done()).await;
    for again in [keyed("a/b"), joined] {
        let again = rig.store.enqueue(again).await.expect("accepted");
        assert_eq!((again.created, again.record.id, again.record.state), (false, id, State::Ready));
    }
    rig.pass_ms(6_000).await;
    rig.store.reap().await.expect("reaps");
    assert!(rig.store.enqueue(keyed("a/b")).await.expect("accepted").created, "forgotten with the job");
}

pub(in crate::queue) async fn a_full_queue_refuses(make: Make) {
    let rig = make(Config { max_queued: 2, ..config() }).await;
    rig.enqueue("a/b").await;
    rig.enqueue("c/d").await;
    let error = rig.store.enqueue(job("e/f")).await.expect_err("refused");
    assert_eq!(error.reason(), Reason::QueueUnavailable);
    assert!(!rig.store.enqueue(job("a/b")).await.expect("a join needs no room").created);
    rig.claim().await;
    rig.enqueue("e/f").await;
}

pub(in crate::queue) async fn high_priority_goes_first_then_the_oldest(make: Make) {
    let rig = make(config()).await;
    for (repo, priority) in
        [("a/0", 0), ("b/7", 7), ("c/0", 0), ("d/min", i16::MIN), ("e/7", 7), ("f/max", i16::MAX)]
    {
        rig.store.enqueue(with(repo, |c| c.priority = priority)).await.expect("accepted");
    }
    rig.store.enqueue(with("c/0", |c| c.priority = 8)).await.expect("joined");
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(rig.claim().await.record.job["repo"].as_str().expect("a repo").to_owned());
    }
    assert_eq!(order, ["f/max", "c/0", "b/7", "e/7", "a/0", "d/min"]);
}

pub(in crate::queue) async fn not_before_waits(make: Make) {
    let rig = make(config()).await;
    let due = rules::after((rig.now)(), Duration::from_millis(500));
    let waiting =
        rig.store.enqueue(with("a/b", |c| c.not_before = Some(due))).await.expect("accepted").record;
    assert_eq!((waiting.state, waiting.due), (State::Waiting, Some(due)));
    let wait = rig.nothing().await.expect("knows when");
    assert!(wait <= Duration::from_millis(500));
    (rig.pass)(wait).await;
    assert_eq!(rig.claim().await.record.id, waiting.id);
    // A more impatient request does not wait for the other.
    let due = rules::after((rig.now)(), Duration::from_secs(500));
    rig.store.enqueue(with("c/d", |c| c.not_before = Some(due))).await.expect("accepted");
    rig.nothing().await;
    rig.enqueue("c/d").await;
    rig.claim().await;
}

pub(in crate::queue) async fn enqueue_wakes(make: Make) {
    let rig = make(config()).await;
    let mut changed = rig.store.changed();
    rig.nothing().await;
    changed.borrow_and_update();
    rig.enqueue("a/b").await;
    let woken = tokio::time::timeout(Duration::from_secs(5), changed.changed()).await;
    woken.expect("in time").expect("the store lives");
    rig.claim().await;
}

pub(in crate::queue) async fn unreadable_payloads_fail_alone(make: Make) {
    let rig = make(config()).await;
    let cases = [
        (json!({"kind": "download", "repo": "../../etc"}), Reason::InvalidRequest),
        (json!({"v": 99, "kind": "download", "repo": "a/b"}), Reason::UnsupportedVersion),
        (json!({"kind": "download", "junk": "x".repeat(20_000)}), Reason::InvalidRequest),
        (json!("nonsense"), Reason::InvalidRequest),
    ];
    let mut ids = Vec::new();
    for (n, (payload, reason)) in cases.into_iter().enumerate() {
        ids.push((plant(&rig, n, payload).await, reason));
    }
    let good = rig.enqueue("a/b").await;
    for (id, reason) in ids {
        let claim = rig.claim().await;
        assert_eq!(claim.record.id, id);
        let error = crate::error::Error::from(claim.record.decode().expect_err("unreadable"));
        assert_eq!(error.reason(), reason);
        rig.settle(&claim, crate::queue::Verdict::Cancel(error).into()).await;
        let record = rig.get(id).await;
        assert_eq!((record.state, record.reason), (State::Failed, Some(reason)));
        assert!(record.job.to_string().len() < 8 << 10, "the payload is kept, but not all of a large one");
        assert!(!record.job.is_null());
        assert!(rig.store.retry(id).await.is_err(), "it would fail again");
    }
    assert_eq!(rig.store.redrive(KIND).await.expect("redrives"), 0);
    assert_eq!(rig.claim().await.record.id, good);
}

async fn plant(rig: &Rig, n: usize, payload: serde_json::Value) -> JobId {
    let id = JobId::new(Timestamp::UNIX_EPOCH, n as u128);
    let mut record = rules::accept(&job("a/b"), id, n as u64, (rig.now)()).expect("accepted");
    record.job = payload;
    record.want = format!("planted {n}");
    (rig.plant)(record).await;
    id
}

pub(in crate::queue) async fn list_is_newest_first_and_stats_count(make: Make) {
    let rig = make(config()).await;
    let ids = [rig.enqueue("a/b").await, rig.enqueue("c/d").await, rig.enqueue("e/f").await];
    rig.claim().await;
    rig.pass_ms(300).await;
    let list = async |state, limit| {
        let list = rig
            .store
            .list(Filter { kind: Some(KIND), state, limit, ..Filter::default() })
            .await
            .expect("lists");
        list.into_iter().map(|record| record.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 9).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(list(None, 2).await, [ids[2], ids[1]]);
    assert_eq!(list(Some(State::Queued), 9).await, [ids[2], ids[1]]);
    assert_eq!(list(Some(State::Failed), 9).await, []);
    let mut page = Filter { limit: 2, ..Filter::default() };
    let first = rig.store.list(page.clone()).await.expect("lists");
    page.after = first.last().map(Cursor::behind);
    let rest = rig.store.list(page).await.expect("lists");
    let paged: Vec<_> = first.iter().chain(&rest).map(|record| record.id).collect();
    assert_eq!(paged, [ids[2], ids[1], ids[0]], "page by page the same");
    let stats = rig.store.stats().await.expect("counts");
    assert_eq!(stats.jobs.get(&(KIND, State::Queued)), Some(&2));
    assert_eq!(stats.jobs.get(&(KIND, State::Planning)), Some(&1));
    assert!(stats.oldest_queued[&KIND] >= Duration::from_millis(300));
}
