//! The steps in Redis against the pure rules: the same random history happens to an embedded queue, which applies
//! the rules themselves, and to a real Redis, by the same clock. After every event both answered the same and
//! keep the same.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use larder_jobs::client::Connection;
use larder_jobs::{
    Bandwidth, ChosenVariant, FileProgress, Hosts, Job, JobId, Kind, Progress, Reason, State, Target, Work,
};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
use serde_json::Value;
use tempfile::TempDir;

use super::Redis;
use super::tests::{set_clock, store, with_hands};
use crate::error::Result;
use crate::queue::testing::{Hands, config, folder, job, open, span};
use crate::queue::{
    Claimed, Config, Done, Embedded, Enqueued, Filter, JobStore, Record, Scope, Settled, Settlement, Stats,
};

const KIND: Kind = Kind::Download;
const NAMES: [&str; 2] = ["bob/ci", "\"Zoë\""];
const HOURS: [&str; 3] = ["22:00-06:00 UTC", "12:00-13:00 UTC", "12:00-13:00 UTC; 01:00-02:00 Asia/Tokyo"];

#[derive(Debug, Clone)]
enum Event {
    Enqueue(Ask),
    Claim,
    /// Of a claim, the newest first.
    Renew(usize, State, Progress),
    Settle(usize, Settlement),
    /// Of a job, the newest first.
    Cancel(usize, Option<&'static str>),
    Retry(usize),
    Redrive,
    Reap,
    PassMs(u64),
}

/// A request for a job; times are milliseconds from now.
#[derive(Debug, Clone)]
struct Ask {
    repo: u8,
    priority: i16,
    pin: bool,
    bandwidth: Option<u64>,
    window: Option<&'static str>,
    outside: Option<u64>,
    requester: Option<&'static str>,
    key: Option<&'static str>,
    notify: Option<u8>,
    not_before: Option<i64>,
    deadline: Option<i64>,
}

/// Few attempts, places and milliseconds, so that every bound is met.
fn tight() -> Config {
    Config { max_queued: 4, max_finished: 2, retention: span(5_000), ..config() }
}

fn nth() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3_usize, 1 => 0..60_usize]
}

fn maybe_name() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.7, prop::sample::select(&NAMES[..]))
}

fn ask() -> impl Strategy<Value = Ask> {
    let key = prop::option::weighted(0.2, prop::sample::select(vec!["k", "night/1", "ключ"]));
    let moment = || prop::option::weighted(0.3, prop_oneof![-500..0_i64, 0..3_000_i64, Just(60_000_i64)]);
    let bandwidth = prop::option::weighted(0.8, 1..4_u64);
    let notify = prop::option::weighted(0.5, 0..12_u8);
    let window = prop::option::weighted(0.8, prop::sample::select(&HOURS[..]));
    let extras = (window, prop::option::of(1..4_u64), notify);
    let fields =
        (0..6_u8, -1..2_i16, any::<bool>(), bandwidth, extras, maybe_name(), key, moment(), moment());
    fields.prop_map(|(repo, priority, pin, bandwidth, extras, requester, key, not_before, deadline)| {
        let (window, outside, notify) = extras;
        Ask {
            repo,
            priority,
            pin,
            bandwidth,
            window,
            outside: outside.filter(|_| window.is_some()),
            requester,
            key,
            notify,
            not_before,
            deadline,
        }
    })
}

fn progress() -> impl Strategy<Value = Progress> {
    (0..9_u64, 0..20_usize, prop::option::of(1..9_u64), any::<bool>()).prop_map(
        |(bytes_done, files, rate, variant)| {
            let path = "a folder/\",\"active\":[.safetensors".to_owned();
            let file = FileProgress { path, bytes_total: 9, bytes_done };
            let chosen = variant.then(|| ChosenVariant {
                repo: "a/awq".parse().expect("a repo"),
                variant: "awq".into(),
                is_fallback: true,
                why: "it fits, \"active\":[ or not".into(),
            });
            Progress {
                bytes_done,
                bytes_total: Some(9),
                chosen: chosen.map(Box::new),
                bytes_per_second: rate,
                active: vec![file; files],
                ..Progress::default()
            }
        },
    )
}

fn settlement() -> impl Strategy<Value = Settlement> {
    // The last one is longer than a record keeps.
    let message = || prop_oneof![7 => Just("it/\"broke\"".to_owned()), 1 => Just("é\n".repeat(900))];
    let reason = || {
        prop::sample::select(
            &[Reason::Stalled, Reason::RateLimited, Reason::HostDrained, Reason::OutsideWindow][..],
        )
    };
    let pause = || (prop_oneof![5 => 0..3_000_u64, 1 => Just(9_999_999_999)]).prop_map(Duration::from_millis);
    prop_oneof![
        2 => (prop::option::of(Just("/cache/a".to_owned())), progress())
            .prop_map(|(path, progress)| Settlement::Done(Done { path, progress })),
        2 => message().prop_map(|message| Settlement::Fail { reason: Reason::NotFound, message }),
        1 => message().prop_map(|message| Settlement::Fail { reason: Reason::DeadlineMissed, message }),
        5 => (reason(), message(), prop::option::of(pause()))
            .prop_map(|(reason, message, after)| Settlement::Retry { reason, message, after }),
        2 => (reason(), message(), pause())
            .prop_map(|(reason, message, wait)| Settlement::Wait { reason, message, wait }),
        1 => Just(Settlement::Cancelled),
        2 => Just(Settlement::Release),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop::sample::select(&[State::Planning, State::Fetching, State::Verifying, State::Ready][..]);
    prop_oneof![
        8 => ask().prop_map(Event::Enqueue),
        9 => Just(Event::Claim),
        3 => (nth(), state, progress()).prop_map(|(n, state, progress)| Event::Renew(n, state, progress)),
        9 => (nth(), settlement()).prop_map(|(n, settlement)| Event::Settle(n, settlement)),
        3 => (nth(), maybe_name()).prop_map(|(n, name)| Event::Cancel(n, name)),
        3 => nth().prop_map(Event::Retry),
        1 => Just(Event::Redrive),
        3 => Just(Event::Reap),
        6 => prop_oneof![4 => 1..300_u64, 3 => 500..2_000_u64, 1 => 5_000..9_000_u64].prop_map(Event::PassMs),
    ]
}

/// Both queues, and what the outside knows of them.
struct Twins {
    embedded: Embedded,
    redis: Redis,
    hands: Hands,
    /// The names of jobs; the first one was never given.
    ids: Vec<JobId>,
    /// Every claim; the first one was never given.
    claims: Vec<(JobId, u64)>,
    _dir: TempDir,
}

impl Twins {
    fn new(server: &support::Redis, connection: &Connection) -> Self {
        let (dir, hands) = (folder(), Hands::new());
        server.command(&["FLUSHALL"]);
        set_clock(server, &hands);
        let unknown = JobId::new(hands.now(), 0);
        Self {
            embedded: open(&dir, tight(), Scope::All, &hands),
            redis: store(connection.clone(), tight(), "gpu-1"),
            ids: vec![unknown],
            claims: vec![(unknown, 1)],
            hands,
            _dir: dir,
        }
    }

    async fn live(&mut self, event: &Event, server: &support::Redis) -> Result<(), TestCaseError> {
        match event {
            Event::PassMs(millis) => {
                self.hands.pass(Duration::from_millis(*millis));
                set_clock(server, &self.hands);
            }
            Event::Enqueue(ask) => self.enqueue(ask).await?,
            Event::Claim => self.claim().await?,
            event => {
                same(
                    "the answer",
                    &self.tell(&self.embedded, event).await,
                    &self.tell(&self.redis, event).await,
                )?;
            }
        }
        let (embedded, redis) = (look(&self.embedded, &self.ids).await, look(&self.redis, &self.ids).await);
        same("the list", &embedded.0, &redis.0)?;
        same("one job", &embedded.1, &redis.1)?;
        same("the stats", &embedded.2, &redis.2)
    }

    /// Under the same name in both, since the name decides the length of a pause.
    async fn enqueue(&mut self, ask: &Ask) -> Result<(), TestCaseError> {
        let scattered = (self.ids.len() as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c);
        let (id, job) = (JobId::new(self.hands.now(), scattered), self.job(ask));
        let answer = |record, created| Enqueued { record: plain(record), created };
        let embedded = self.embedded.accept(id, &job).map(|it| answer(it.record, it.created));
        let target = self.redis.target(&Hosts::This);
        let redis = self.redis.queue.enqueue(id, &job, &target).await;
        let redis = redis.map(|(created, record)| answer(record, created)).map_err(crate::error::Error::from);
        self.ids.extend(embedded.as_ref().ok().filter(|it| it.created).map(|it| it.record.id));
        same("the answer", &embedded, &redis)
    }

    fn job(&self, ask: &Ask) -> Job {
        let mut job = job(&format!("a/{}", ask.repo));
        let Work::Download(download) = &mut job.work else { unreachable!("a download") };
        download.pin = ask.pin;
        download.bandwidth = ask.bandwidth.and_then(|bytes| Bandwidth::new(bytes).ok());
        download.window = ask.window.map(|text| text.parse().expect("a window"));
        download.bandwidth_outside = ask.outside.and_then(|bytes| Bandwidth::new(bytes).ok());
        let moment = |millis| self.hands.now() + jiff::SignedDuration::from_millis(millis);
        job.common.priority = ask.priority;
        job.common.requested_by = ask.requester.map(str::to_owned);
        job.common.idempotency_key = ask.key.map(str::to_owned);
        // Twelve, of which a record keeps eight.
        job.common.notify = ask.notify.map(|n| format!("https://hooks.example/{n}"));
        job.common.not_before = ask.not_before.map(moment);
        job.common.deadline = ask.deadline.map(moment);
        job
    }

    async fn claim(&mut self) -> Result<(), TestCaseError> {
        let plain = |mut claimed| {
            if let Claimed::Job(claim) = &mut claimed {
                claim.record = plain(claim.record.clone());
            }
            claimed
        };
        let (embedded, redis) =
            (self.embedded.claim(KIND).await.map(plain), self.redis.claim(KIND).await.map(plain));
        if let Ok(Claimed::Job(claim)) = &embedded {
            self.claims.push((claim.record.id, claim.token));
        }
        same("the answer", &embedded, &redis)
    }

    /// What `store` answers to an event that needs no more than the interface of every store.
    async fn tell(&self, store: &dyn JobStore, event: &Event) -> String {
        match event {
            Event::Renew(n, state, progress) => {
                let (id, token) = *from_end(&self.claims, *n);
                format!("{:?}", store.renew(id, token, *state, progress.clone()).await)
            }
            Event::Settle(n, settlement) => {
                let (id, token) = *from_end(&self.claims, *n);
                let settled =
                    store.settle(id, token, settlement.clone()).await.map(|settled| match settled {
                        Settled::Done(record) => Some(plain(*record)),
                        Settled::Fenced => None,
                    });
                format!("{settled:?}")
            }
            Event::Cancel(n, name) => {
                let answer = store.cancel(*from_end(&self.ids, *n), *name).await;
                format!("{:?}", answer.map(|answer| (answer.outcome, plain(answer.record))))
            }
            Event::Retry(n) => format!("{:?}", store.retry(*from_end(&self.ids, *n)).await.map(plain)),
            Event::Redrive => format!("{:?}", store.redrive(KIND).await),
            Event::Reap => format!("{:?}", store.reap().await),
            Event::Enqueue(_) | Event::Claim | Event::PassMs(_) => String::new(),
        }
    }
}

fn from_end<T>(known: &[T], n: usize) -> &T {
    &known[known.len() - 1 - n % known.len()]
}

/// A record without what only a fleet knows, and without its number: the embedded queue may give that of a
/// forgotten job again. The order in which jobs are listed and claimed shows that the numbers mean the same.
fn plain(record: Record) -> Record {
    Record { target: Target::Only, owner: None, seq: 0, job: sorted(record.job), ..record }
}

/// A payload with its fields by name: in which order they came says nothing.
fn sorted(payload: Value) -> Value {
    match payload {
        Value::Object(fields) => Value::from_iter(fields.into_iter().collect::<BTreeMap<_, _>>()),
        other => other,
    }
}

/// All that `store` shows: every list, each job, the stats.
async fn look(store: &dyn JobStore, ids: &[JobId]) -> (Vec<Vec<Record>>, Vec<Option<Record>>, Stats) {
    let states = std::iter::once(None).chain(State::ALL.iter().copied().map(Some));
    let lists = states.map(|state| store.list(Filter { state, limit: 1_000, ..Filter::default() }));
    let plain_list = |list: Result<Vec<_>>| list.expect("lists").into_iter().map(plain).collect();
    let lists = join_all(lists).await.into_iter().map(plain_list).collect();
    let jobs = join_all(ids.iter().map(|id| store.get(*id))).await;
    let jobs = jobs.into_iter().map(|job| job.expect("reads").map(plain)).collect();
    let mut stats = store.stats().await.expect("counts");
    stats.jobs.retain(|_, count| *count > 0);
    (lists, jobs, stats)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, embedded: &T, redis: &T) -> Result<(), TestCaseError> {
    if embedded == redis {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what} differs\nby the rules: {embedded:?}\nin Redis:     {redis:?}")))
}

#[test]
fn every_history_means_the_same_in_redis_and_by_the_rules() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = support::Redis::start();
    let connection = with_hands(&server);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(event(), 1..100), |history| {
        runtime.block_on(async {
            let mut twins = Twins::new(&server, &connection);
            for event in &history {
                twins.live(event, &server).await?;
            }
            Ok(())
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => {
            let lines: Vec<_> = history.iter().map(|event| format!("  {event:?}")).collect();
            panic!("after this history {why}\n{}", lines.join("\n"));
        }
        Err(error) => panic!("{error}"),
    }
}
