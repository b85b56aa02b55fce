//! The embedded queue: the conformance suite, and what only a queue on a disk must survive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use larder_jobs::{JobId, Kind, Reason, State};
use serde_json::json;
use tempfile::TempDir;

use super::index::Index;
use super::{Embedded, JOBS, RAW, Scope, key};
use crate::queue::conformance::{Rig, conformance};
use crate::queue::testing::{Hands, config, folder, job, open};
use crate::queue::{Claim, Claimed, Config, Done, Filter, JobStore, Record, Settled, Settlement};
use crate::store::{Batch, Store};

const KIND: Kind = Kind::Download;

fn rig(config: Config) -> BoxFuture<'static, Rig> {
    let dir = folder();
    let hands = Hands::new();
    let queue = Arc::new(open(&dir, config, Scope::All, &hands));
    let (now, pass, plant) = (hands.clone(), hands, Arc::clone(&queue));
    let rig = Rig {
        store: queue,
        now: Box::new(move || now.now()),
        pass: Box::new(move |time| {
            pass.pass(time);
            std::future::ready(()).boxed()
        }),
        plant: Box::new(move |record| {
            plant.plant(record);
            std::future::ready(()).boxed()
        }),
        _keep: Box::new(dir),
    };
    std::future::ready(rig).boxed()
}

conformance!(rig);

impl Embedded {
    /// Asserts that the index says what the records say; returns the records.
    pub(super) fn checked_records(&self) -> Vec<Record> {
        let inner = self.lock();
        let records: Vec<_> =
            self.store.scan(JOBS, b"").map(|item| item.expect("reads").1.expect("sound")).collect();
        let mut fresh = Index::default();
        records.iter().for_each(|record| fresh.insert(record));
        assert_eq!(inner.index, fresh);
        records
    }
}

pub(super) async fn claim(queue: &Embedded) -> Option<Claim> {
    match queue.claim(KIND).await.expect("claims") {
        Claimed::Job(claim) => Some(*claim),
        Claimed::Nothing { .. } => None,
    }
}

async fn enqueue(queue: &Embedded, repo: &str) -> JobId {
    queue.enqueue(job(repo)).await.expect("accepted").record.id
}

/// What a process that is killed now leaves behind.
fn copy(from: &Path) -> TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("lists") {
            let entry = entry.expect("reads");
            let target = to.join(entry.file_name());
            if entry.file_type().expect("inspects").is_dir() {
                std::fs::create_dir(&target).expect("creates");
                copy_into(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).expect("copies");
            }
        }
    }
    let dir = folder();
    copy_into(from, dir.path());
    dir
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (dir, hands) = (folder(), Hands::new());
    let queue = open(&dir, config(), Scope::All, &hands);
    let mut accepted = Vec::new();
    for round in 0..10 {
        for n in 0..5 {
            accepted.push(enqueue(&queue, &format!("r{round}/{n}")).await);
        }
        let ended = claim(&queue).await.expect("a job");
        queue.settle(ended.record.id, ended.token, Settlement::Done(Done::default())).await.expect("settles");
        let killed = copy(dir.path());
        let after = open(&killed, config(), Scope::All, &hands);
        for id in &accepted {
            let (then, now) = (after.get(*id).await.expect("reads"), queue.get(*id).await.expect("reads"));
            assert_eq!(then.expect("is there").state, now.expect("is there").state);
        }
        after.checked_records();
    }
}

#[tokio::test]
async fn a_restart_takes_jobs_back_with_their_attempt_counted() {
    let (dir, hands) = (folder(), Hands::new());
    let mut token = 0;
    for attempt in 1..=3 {
        let queue = open(&dir, config(), Scope::All, &hands);
        let id = enqueue(&queue, "a/b").await;
        let claim = claim(&queue).await.expect("a job");
        assert_eq!((claim.record.id, claim.record.attempts), (id, attempt), "no lease is waited for");
        assert!(claim.token > token);
        token = claim.token;
    }
    let queue = open(&dir, config(), Scope::All, &hands);
    let failed = &queue.list(Filter::default()).await.expect("lists")[0];
    assert_eq!((failed.state, failed.reason), (State::Failed, Some(Reason::LeaseLost)));
    assert!(claim(&queue).await.is_none());
    queue.checked_records();
}

#[tokio::test]
async fn a_restart_forgets_no_state() {
    let (dir, hands) = (folder(), Hands::new());
    let before = {
        let queue = open(&dir, config(), Scope::All, &hands);
        for repo in ["done/1", "failed/2", "waits/3", "queued/4"] {
            enqueue(&queue, repo).await;
        }
        let settlements = [
            Settlement::Done(Done::default()),
            Settlement::Fail { reason: Reason::Gated, message: "gated".into() },
            Settlement::Retry { reason: Reason::Stalled, message: "stalled".into(), after: None },
        ];
        for settlement in settlements {
            let claim = claim(&queue).await.expect("a job");
            queue.settle(claim.record.id, claim.token, settlement).await.expect("settles");
        }
        queue.checked_records()
    };
    let queue = open(&dir, config(), Scope::All, &hands);
    assert_eq!(queue.checked_records(), before);
    assert!(!queue.enqueue(job("waits/3")).await.expect("accepted").created);
    assert!(queue.enqueue(job("done/1")).await.expect("accepted").created);
}

#[tokio::test]
async fn damaged_records_become_dead_letters() {
    let (dir, hands) = (folder(), Hands::new());
    let (ids, foreign) = {
        let queue = open(&dir, config(), Scope::All, &hands);
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(enqueue(&queue, &format!("a/{n}")).await);
        }
        let mut records: Vec<_> = Vec::new();
        for id in &ids {
            let record = queue.get(*id).await.expect("reads").expect("is there");
            records.push(serde_json::to_value(record).expect("json"));
        }
        records[0]["state"] = json!("flying");
        records[1]["v"] = json!(99);
        records[2] = json!("x".repeat(20_000));
        records[3]["job"] = json!({"v": 1, "kind": "download", "repo": "no-slash"});
        let foreign = JobId::new(hands.now(), 7);
        let mut batch = Batch::default();
        for (id, record) in ids.iter().zip(&records).take(4) {
            batch.put(RAW, &key(*id), record);
        }
        batch.put(RAW, &key(foreign), &records[4]);
        queue.store.commit(batch).expect("commits");
        (ids, foreign)
    };
    let queue = open(&dir, config(), Scope::All, &hands);
    let reasons = [
        (ids[0], Reason::InvalidRequest),
        (ids[1], Reason::UnsupportedVersion),
        (ids[2], Reason::InvalidRequest),
        (ids[3], Reason::InvalidRequest),
        (foreign, Reason::InvalidRequest),
    ];
    for (id, reason) in reasons {
        let record = queue.get(id).await.expect("reads").expect("is there");
        assert_eq!((record.state, record.reason), (State::Failed, Some(reason)), "{record:?}");
        assert!(!record.job.is_null() && record.job.to_string().len() < 5 << 10, "the payload is kept");
    }
    queue.checked_records();
    let claim = claim(&queue).await.expect("the sound job runs");
    assert_eq!(claim.record.id, ids[4]);
}

#[tokio::test]
async fn a_record_that_gets_damaged_while_open_stops_nobody() {
    let (dir, hands) = (folder(), Hands::new());
    let queue = open(&dir, config(), Scope::All, &hands);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(enqueue(&queue, &format!("a/{n}")).await);
    }
    assert_eq!(claim(&queue).await.expect("a job").record.id, ids[0]);
    let mut batch = Batch::default();
    batch.put(RAW, &key(ids[0]), &json!("running"));
    batch.put(RAW, &key(ids[1]), &json!("queued"));
    queue.store.commit(batch).expect("commits");
    assert_eq!(claim(&queue).await.expect("a job").record.id, ids[2]);
    hands.pass(Duration::from_millis(1_001));
    assert_eq!(queue.reap().await.expect("reaps").returned, 1);
    let states: Vec<_> = queue.checked_records().into_iter().map(|r| (r.id, r.state)).collect();
    for (id, state) in states {
        assert_eq!(state, if id == ids[2] { State::Queued } else { State::Failed });
    }
    hands.pass(config().retention.get());
    assert_eq!(queue.reap().await.expect("reaps").purged, 2);
}

#[tokio::test]
async fn a_foreground_command_runs_only_its_own_jobs() {
    let (dir, hands) = (folder(), Hands::new());
    {
        let queue = open(&dir, config(), Scope::All, &hands);
        for repo in ["other/1", "other/2", "shared/3"] {
            enqueue(&queue, repo).await;
        }
    }
    let queue = open(&dir, config(), Scope::Own, &hands);
    assert!(claim(&queue).await.is_none());
    let own = enqueue(&queue, "own/4").await;
    let shared = enqueue(&queue, "shared/3").await;
    let first = claim(&queue).await.expect("a job");
    assert_eq!(first.record.id, shared, "joined and older");
    let settlement = Settlement::Wait {
        reason: Reason::HostDrained,
        message: "drained".into(),
        wait: Duration::from_secs(1),
    };
    queue.settle(shared, first.token, settlement).await.expect("settles");
    assert_eq!(claim(&queue).await.expect("a job").record.id, own);
    let nothing = queue.claim(KIND).await.expect("claims");
    assert_eq!(nothing, Claimed::Nothing { wait: Some(Duration::from_secs(1)) });
    hands.pass(Duration::from_secs(1));
    assert_eq!(claim(&queue).await.expect("a job").record.id, shared);
    assert!(claim(&queue).await.is_none());
}

#[tokio::test]
async fn many_due_jobs_do_not_stop_the_queue() {
    let (dir, hands) = (folder(), Hands::new());
    let (store, _) = Store::open(dir.path()).expect("opens");
    let mut batch = Batch::default();
    let later = crate::queue::rules::after(hands.now(), Duration::from_secs(10));
    for n in 0..8_000_u64 {
        let mut job = job(&format!("a/{n}"));
        job.common.not_before = Some(later);
        let id = JobId::new(hands.now(), u128::from(n));
        let record = crate::queue::rules::accept(&job, id, n, hands.now()).expect("accepted");
        batch.put(JOBS, &key(id), &record);
    }
    store.commit(batch).expect("commits");
    let config = Config { max_queued: 10_000, ..config() };
    let queue = Embedded::open_with_clock(store, config, Scope::All, hands.clock()).expect("opens");
    assert!(claim(&queue).await.is_none());
    hands.pass(Duration::from_secs(10));
    for _ in 0..100 {
        let claim = claim(&queue).await.expect("a job");
        let settled = queue.settle(claim.record.id, claim.token, Settlement::Done(Done::default())).await;
        assert!(matches!(settled, Ok(Settled::Done(_))));
    }
}
