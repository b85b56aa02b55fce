//! The Redis queue against a real Redis: the suite of every store, and what only this one can meet.
//!
//! Time stands still until a test moves it: the steps are those of production but for one word, which has
//! them read a key that the test writes instead of the server's clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use larder_jobs::client::{Address, Connection, Step, write_record};
use larder_jobs::{Kind, Progress, Reason, Record, State, Target};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Redis;
use crate::queue::conformance::{Rig, conformance};
use crate::queue::testing::{Hands, config, job};
use crate::queue::{Claim, Claimed, Config, Filter, JobStore, Renewal, Settled, Settlement};

pub(super) const KIND: Kind = Kind::Download;

/// The production steps with the clock of the test.
pub(super) fn with_hands(server: &support::Redis) -> Connection {
    let script = Connection::script();
    let clock = "redis.call('TIME')";
    assert_eq!(script.matches(clock).count(), 1, "the steps read the clock in one place");
    let script = script.replace(clock, "redis.call('LRANGE', P .. 'clock', 0, 1)");
    Connection::with_script(address(server), &script)
}

pub(super) fn address(server: &support::Redis) -> Address {
    Address::new(&server.url(), "test").expect("an address")
}

pub(super) fn set_clock(server: &support::Redis, hands: &Hands) {
    let micros = hands.now().as_microsecond();
    let (seconds, rest) = ((micros / 1_000_000).to_string(), (micros % 1_000_000).to_string());
    server.command(&["DEL", "{test}:clock"]);
    server.command(&["RPUSH", "{test}:clock", &seconds, &rest]);
}

pub(super) fn store(connection: Connection, config: Config, host: &str) -> Redis {
    Redis::over(connection, config, host.parse().expect("a name"))
}

async fn put(store: &Redis, record: &Record) {
    let fields = write_record(record);
    let step = Step::new("restore").arg("");
    let step = fields.iter().fold(step, |step, (name, value)| step.arg(name).arg(value));
    store.queue.connection().run(&step).await.expect("planted");
}

fn make(config: Config) -> BoxFuture<'static, Rig> {
    rig(support::Redis::start(), config)
}

/// A store on this server, and a host that attends.
pub(super) fn rig(server: support::Redis, config: Config) -> BoxFuture<'static, Rig> {
    Box::pin(async {
        let server = Arc::new(server);
        let hands = Hands::new();
        set_clock(&server, &hands);
        let store = Arc::new(store(with_hands(&server), config, "gpu-1"));
        let stop = CancellationToken::new();
        let mut changed = store.changed();
        let attending = {
            let (store, stop) = (Arc::clone(&store), stop.clone());
            tokio::spawn(async move { store.attend_until(&stop).await })
        };
        // It says so when it listens.
        changed.changed().await.expect("the store lives");
        let (now, planted) = (hands.clone(), Arc::clone(&store));
        let moved = Arc::clone(&server);
        Rig {
            store,
            now: Box::new(move || now.now()),
            pass: Box::new(move |time| {
                hands.pass(time);
                set_clock(&moved, &hands);
                Box::pin(async {})
            }),
            plant: Box::new(move |mut record| {
                let store = Arc::clone(&planted);
                record.target = Target::Host("gpu-1".parse().expect("a name"));
                Box::pin(async move { put(&store, &record).await })
            }),
            _keep: Box::new((server, stop.drop_guard(), attending)),
        }
    })
}

conformance!(make);

pub(super) async fn claim(store: &Redis) -> Option<Claim> {
    match store.claim(KIND).await.expect("claims") {
        Claimed::Job(claim) => Some(*claim),
        Claimed::Nothing { .. } => None,
    }
}

fn pool(repo: &str) -> larder_jobs::Job {
    let mut job = job(repo);
    job.common.hosts = larder_jobs::Hosts::Pool;
    job
}

/// Two hosts on one Redis, by the real clock.
fn two_hosts(server: &support::Redis) -> [Redis; 2] {
    ["gpu-1", "gpu-2"].map(|host| store(Connection::new(address(server)), config(), host))
}

#[tokio::test]
async fn a_job_goes_to_its_host_and_one_of_the_pool_to_whoever_asks() {
    let server = support::Redis::start();
    let [one, two] = two_hosts(&server);
    let own = one.enqueue(job("a/own")).await.expect("accepted").record;
    let mut named = job("a/named");
    named.common.hosts = larder_jobs::Hosts::named("gpu-2".parse().expect("a name"));
    let named = one.enqueue(named).await.expect("accepted").record;
    let any = two.enqueue(pool("a/any")).await.expect("accepted").record;
    let same = one.enqueue(pool("a/own")).await.expect("accepted");
    assert!(same.created, "the same model for another target is another want");
    assert_eq!(claim(&two).await.expect("a job").record.id, named.id, "its own queue goes first");
    let taken = claim(&two).await.expect("a job").record;
    assert_eq!((taken.id, taken.view(None).hosts), (any.id, vec!["gpu-2".to_owned()]));
    assert_eq!(claim(&one).await.expect("a job").record.id, own.id);
    assert_eq!(claim(&one).await.expect("a job").record.id, same.record.id);
    assert_eq!((claim(&one).await, claim(&two).await), (None, None));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_answered_again() {
    let server = support::Redis::start();
    let proxy = support::Proxy::to(server.address());
    let address = Address::new(&proxy.url(), "test").expect("an address");
    let store = store(Connection::new(address), config(), "gpu-1");
    let id = store.enqueue(job("a/b")).await.expect("accepted").record.id;
    store.enqueue(job("c/d")).await.expect("accepted");
    // The question gets through, the answer does not: as if the step had been taken by a ghost.
    store.held().unanswered.push((KIND, "ghost".into()));
    let first = claim(&store).await.expect("a job");
    store.held().unanswered.push((KIND, "ghost".into()));
    let again = claim(&store).await.expect("a job");
    assert_eq!((first.record.id, again.record.id, again.token), (id, id, first.token));
    assert_eq!(again.record.attempts, 1);
    // Once the job is settled the number is worth nothing any more.
    store.settle(id, again.token, Settlement::Release).await.expect("settles");
    store.held().unanswered.push((KIND, "ghost".into()));
    let next = claim(&store).await.expect("a job");
    assert_eq!((next.record.id, next.record.attempts), (id, 1));
    assert!(next.token > again.token);
}

#[tokio::test]
async fn what_other_programs_break_is_buried_and_the_queue_goes_on() {
    let server = support::Redis::start();
    let [store, _] = two_hosts(&server);
    let ready = |n: u8, id: &str| {
        let member = format!("{n:016}{id}");
        server.command(&["ZADD", "{test}:ready:download:host:gpu-1", "0", &member]);
    };
    let id = |n: u8| format!("01JDFP000000000000000000{n:02}");
    ready(0, &id(0)); // no record at all
    server.command(&["HSET", &format!("{{test}}:job:{}", id(1)), "job", r#"{"kind":"download"}"#]);
    ready(1, &id(1)); // a record without most fields
    server.command(&["SET", &format!("{{test}}:job:{}", id(2)), "not a hash"]);
    ready(2, &id(2));
    let good = store.enqueue(job("a/good")).await.expect("accepted").record;
    let whole = |n: u8, change: &[&str]| {
        let mut record = good.clone();
        record.id = id(n).parse().expect("an id");
        record.want = format!("planted {n}");
        let mut fields = vec!["HSET".to_owned(), format!("{{test}}:job:{}", id(n))];
        fields.extend(write_record(&record).into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        fields.extend(change.iter().map(|text| (*text).to_owned()));
        server.command(&fields.iter().map(String::as_str).collect::<Vec<_>>());
        ready(n, &id(n));
    };
    whole(3, &["kind", "teleport"]);
    whole(4, &["v", "2"]);
    whole(5, &["created_at", "soon"]);
    whole(6, &["attempts", "many"]);
    whole(7, &["keys", "{broken", "requesters", "7"]);
    let claimed = claim(&store).await.expect("the good one");
    assert_eq!(claimed.record.id, good.id);
    assert_eq!(claim(&store).await, None);
    let failed = store.list(Filter { state: Some(State::Failed), ..Filter::default() }).await.expect("lists");
    let mut found: Vec<_> = failed.iter().map(|record| (record.id.to_string(), record.reason)).collect();
    found.sort();
    let damaged = Some(Reason::InvalidRequest);
    let expected = [
        (1, damaged),
        (3, damaged),
        (4, Some(Reason::UnsupportedVersion)),
        (5, damaged),
        (6, damaged),
        (7, damaged),
    ];
    assert_eq!(found, expected.map(|(n, reason)| (id(n), reason)));
    assert!(
        failed.iter().all(|record| record.message.as_deref().is_some_and(|text| text.contains("hint: ")))
    );
    assert_eq!(
        failed.iter().find(|record| record.id.to_string() == id(1)).expect("kept").job,
        json!({"kind": "download"})
    );
}

#[tokio::test]
async fn a_redis_that_lost_its_data_gets_back_what_runs() {
    let server = support::Redis::start();
    let [one, two] = two_hosts(&server);
    let id = one.enqueue(job("a/b")).await.expect("accepted").record.id;
    let held = claim(&one).await.expect("a job");
    server.command(&["FLUSHALL"]);
    let progress = Progress { bytes_done: 5, ..Progress::default() };
    let renewal = one.renew(id, held.token, State::Fetching, progress).await;
    assert_eq!(renewal, Ok(Renewal::Held { cancel: false }));
    let back = two.get(id).await.expect("reads").expect("is back");
    assert_eq!((back.state, back.progress.bytes_done, back.attempts), (State::Fetching, 5, 1));
    assert!(!one.enqueue(job("a/b")).await.expect("accepted").created, "its want is in flight again");
    server.command(&["FLUSHALL"]);
    let done = Settlement::Done(crate::queue::Done::default());
    let Ok(Settled::Done(record)) = one.settle(id, held.token, done).await else { panic!("it counts") };
    assert_eq!(record.state, State::Ready);
    assert_eq!(two.get(id).await.expect("reads").expect("is there").state, State::Ready);
    // Nobody else may bring a job into being.
    let renewal =
        two.renew(larder_jobs::JobId::random(record.created_at), 1, State::Fetching, Progress::default());
    assert_eq!(renewal.await, Ok(Renewal::Lost));
}

#[tokio::test]
async fn a_stale_claim_does_not_make_a_host_forget_its_newer_one() {
    let server = support::Redis::start();
    let hands = Hands::new();
    set_clock(&server, &hands);
    let store = store(with_hands(&server), config(), "gpu-1");
    let id = store.enqueue(job("a/b")).await.expect("accepted").record.id;
    let old = claim(&store).await.expect("a job");
    hands.pass(Duration::from_millis(1_001));
    set_clock(&server, &hands);
    assert_eq!(store.reap().await.expect("reaps").returned, 1);
    let new = claim(&store).await.expect("a job");
    let renew = |token| store.renew(id, token, State::Fetching, Progress::default());
    assert_eq!(renew(old.token).await, Ok(Renewal::Lost));
    assert_eq!(store.settle(id, old.token, Settlement::Release).await, Ok(Settled::Fenced));
    server.command(&["FLUSHALL"]);
    set_clock(&server, &hands);
    assert_eq!(renew(new.token).await, Ok(Renewal::Held { cancel: false }));
    assert_eq!(store.get(id).await.expect("reads").expect("is back").token, new.token);
}

#[tokio::test]
async fn nothing_is_left_when_the_time_is_over() {
    const JOBS: usize = 300;
    let server = support::Redis::start();
    let config = Config { retention: crate::queue::testing::span(1), ..config() };
    let store = store(Connection::new(address(&server)), config, "gpu-1");
    let mut used = Vec::new();
    for round in 0..3 {
        let mut keyed = job("a/keyed");
        keyed.common.idempotency_key = Some("night/1".into());
        store.enqueue(keyed).await.expect("accepted");
        for n in 1..JOBS {
            store.enqueue(job(&format!("a/{round}-{n}"))).await.expect("accepted");
        }
        while let Some(held) = claim(&store).await {
            let done = Settlement::Done(crate::queue::Done::default());
            store.settle(held.record.id, held.token, done).await.expect("ends");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(store.reap().await.expect("reaps").purged, JOBS);
        // Hosts that jobs named are looked after once a minute.
        let left: Vec<_> = server.keys("*").into_iter().filter(|key| key != "{test}:known").collect();
        assert_eq!(left, ["{test}:seq"]);
        used.push(server.used_memory());
    }
    // The first round is that of buffers and caches; a job takes more than a kilobyte.
    assert!(used[2] < used[0] + 128 * 1024, "bytes used after each round: {used:?}");
}

#[tokio::test]
async fn a_step_that_a_full_redis_refuses_changes_nothing() {
    let server = support::Redis::start();
    let [store, _] = two_hosts(&server);
    let id = store.enqueue(job("a/b")).await.expect("accepted").record.id;
    let held = claim(&store).await.expect("a job");
    store.enqueue(job("c/d")).await.expect("accepted");
    let before = dump(&server);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = |error: crate::error::Error| assert_eq!(error.reason(), Reason::QueueUnavailable, "{error}");
    full(store.enqueue(job("e/f")).await.expect_err("full"));
    full(store.claim(KIND).await.expect_err("full"));
    full(store.renew(id, held.token, State::Fetching, Progress::default()).await.expect_err("full"));
    let done = Settlement::Done(crate::queue::Done::default());
    full(store.settle(id, held.token, done.clone()).await.expect_err("full"));
    full(store.cancel(id, None).await.expect_err("full"));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(dump(&server), before);
    let settled = store.settle(id, held.token, done).await.expect("settles");
    assert!(matches!(settled, Settled::Done(_)));
}

/// Everything that the queue keeps, and for how long.
fn dump(server: &support::Redis) -> Vec<(String, String, i64)> {
    let of = |key: String| {
        let value = server.command(&["DUMP", &key]);
        let left = server.command(&["PTTL", &key]).int();
        (key, format!("{value:?}"), left)
    };
    server.keys("*").into_iter().map(of).collect()
}

#[tokio::test]
async fn an_ended_job_lies_in_pieces_and_is_whole_again_when_it_is_retried() {
    let server = support::Redis::start();
    let store = store(Connection::new(address(&server)), config(), "gpu-1");
    let id = store.enqueue(job("a/b")).await.expect("accepted").record.id;
    let key = format!("{{test}}:job:{id}");
    for length in [3, 200, 600] {
        // No piece ends within one of these.
        let message = "größer".repeat(length);
        let held = claim(&store).await.expect("a job");
        let end = Settlement::Fail { reason: Reason::NotFound, message: message.clone() };
        store.settle(id, held.token, end).await.expect("settles");
        let record = store.get(id).await.expect("reads").expect("is known");
        assert_eq!(record.message.as_deref(), Some(crate::queue::bounds::message(&message).as_str()));
        assert_eq!(record.job["repo"], "a/b");
        assert_eq!(store.list(Filter::default()).await.expect("lists"), std::slice::from_ref(&record));
        assert_eq!(server.command(&["OBJECT", "ENCODING", &key]).text(), "listpack", "{length}");
        let shown = server.command(&["HKEYS", &key]).list();
        assert_eq!(shown.iter().any(|name| name.starts_with("message:")), length > 10, "{shown:?}");
        store.retry(id).await.expect("runs again");
        let shown = server.command(&["HKEYS", &key]).list();
        assert!(shown.iter().all(|name| !name.contains(':')), "{shown:?}");
        assert_eq!(store.get(id).await.expect("reads").expect("is known").job, record.job);
    }
}
