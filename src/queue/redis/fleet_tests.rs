//! The hosts of a fleet against a real Redis: what they say of themselves, drains, and hosts that are gone.

use std::time::Duration;

use larder_jobs::client::{Connection, Run, Submitted, Want};
use larder_jobs::{
    HeldModel, HostDisk, HostHealth, HostRecord, HostState, Hosts, Presence, Reason, Record, State,
};

use super::Redis;
use super::attend::Told;
use super::tests::{address, claim, set_clock, store, with_hands};
use crate::queue::config::Gone;
use crate::queue::testing::{Hands, config, job};
use crate::queue::{Config, JobStore as _};

pub(super) fn record(labels: &str) -> HostRecord {
    HostRecord {
        v: 1,
        labels: labels.parse().expect("labels"),
        health: HostHealth { state: "healthy".into(), reasons: Vec::new() },
        disk: HostDisk { total: Some(100), room: Some(50), evictable: Some(0), ..HostDisk::default() },
        ..HostRecord::default()
    }
}

pub(super) fn held(host: &str, repo: &str, commit: u8) -> HeldModel {
    HeldModel {
        host: host.parse().expect("a name"),
        repo: repo.parse().expect("a repo"),
        commit: format!("{commit:040}").parse().expect("a commit"),
        bytes: 7,
        last_used_at: None,
    }
}

pub(super) struct Fleet {
    pub(super) server: support::Redis,
    pub(super) hands: Hands,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let fleet = Self { server: support::Redis::start(), hands: Hands::new() };
        set_clock(&fleet.server, &fleet.hands);
        fleet
    }

    pub(super) fn pass(&self, time: Duration) {
        self.hands.pass(time);
        set_clock(&self.server, &self.hands);
    }

    pub(super) fn store(&self, host: &str, config: Config) -> Redis {
        store(with_hands(&self.server), config, host)
    }

    /// A larder that has registered.
    pub(super) async fn host(&self, host: &str, labels: &str, stock: Vec<HeldModel>) -> (Redis, Told) {
        let store = self.store(host, config());
        let mut told = Told::default();
        store.describe(record(labels), stock);
        store.register(host, &mut told).await.expect("registers");
        (store, told)
    }

    /// As a larder that ended without a word.
    pub(super) fn kill(&self, host: &str) {
        self.server.command(&["DEL", &format!("{{test}}:host:{host}")]);
    }
}

async fn states(store: &Redis) -> Vec<(String, Presence, u64, u64)> {
    let hosts = store.fleet().hosts().await.expect("lists");
    let row = |host: HostState| (host.name.to_string(), host.state, host.queued, host.waiting);
    hosts.into_iter().map(row).collect()
}

pub(super) async fn ask(store: &Redis, hosts: &str) -> crate::error::Result<Submitted> {
    let mut job = job("a/b");
    job.common.hosts = hosts.parse::<Hosts>().expect("hosts");
    store.submit(job, Want::default()).await
}

pub(super) fn one(submitted: Submitted) -> Record {
    match submitted {
        Submitted::One { record, .. } => *record,
        Submitted::Many { .. } => panic!("several"),
    }
}

#[tokio::test]
async fn a_host_says_what_it_is_and_what_it_has() {
    let fleet = Fleet::new();
    let (one, mut told) =
        fleet.host("gpu-1", "zone=a", vec![held("gpu-1", "a/b", 1), held("gpu-1", "c/d", 2)]).await;
    let (_two, _) = fleet.host("gpu-2", "zone=b", vec![held("gpu-2", "a/b", 1)]).await;
    let hosts = one.fleet().hosts().await.expect("lists");
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0].about, Some(record("zone=a")));
    assert_eq!(hosts[0].seen_at, Some(fleet.hands.now()));
    let repo = "a/b".parse().expect("a repo");
    let holders = |store: &Redis| {
        let (queue, repo) = (store.fleet().clone(), &repo);
        async move {
            let held = queue.holders(repo).await.expect("answers");
            held.into_iter().map(|held| held.host.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(holders(&one).await, ["gpu-1", "gpu-2"]);
    one.describe(record("zone=a"), vec![held("gpu-1", "c/d", 2)]);
    one.register("gpu-1", &mut told).await.expect("registers");
    assert_eq!(holders(&one).await, ["gpu-2"], "what is gone is told");
    let stock = one.fleet().stock(&"gpu-1".parse().expect("a name")).await.expect("answers");
    assert_eq!(stock, [held("gpu-1", "c/d", 2)]);

    fleet.server.command(&["FLUSHALL"]);
    fleet.pass(Duration::from_secs(1));
    one.register("gpu-1", &mut told).await.expect("registers");
    one.register("gpu-1", &mut told).await.expect("registers");
    let stock = one.fleet().stock(&"gpu-1".parse().expect("a name")).await.expect("answers");
    assert_eq!(stock, [held("gpu-1", "c/d", 2)], "an emptied Redis is told again");
}

#[tokio::test]
async fn a_job_goes_to_the_hosts_that_it_selects() {
    let fleet = Fleet::new();
    let (asking, _) = fleet.host("gpu-1", "zone=a,gpu=h100", Vec::new()).await;
    let (_two, _) = fleet.host("gpu-2", "zone=b,gpu=h100", vec![held("gpu-2", "a/b", 1)]).await;
    let (_three, _) = fleet.host("cpu-1", "zone=a", Vec::new()).await;
    for (hosts, expected) in [
        ("all", vec!["cpu-1", "gpu-1", "gpu-2"]),
        ("gpu=h100", vec!["gpu-1", "gpu-2"]),
        ("zone=a,gpu=h100", vec!["gpu-1"]),
        ("cpu-1,gpu-2", vec!["cpu-1", "gpu-2"]),
    ] {
        let submitted = ask(&asking, hosts).await.expect(hosts);
        let view = submitted.view(None);
        let names: Vec<_> = view.children.iter().filter_map(|child| child.host.clone()).collect();
        assert_eq!(names, expected, "{hosts}");
        let again = ask(&asking, hosts).await.expect(hosts);
        assert_eq!(
            (again.created(), again.view(None).id),
            (false, view.id),
            "{hosts}: the same want in flight"
        );
    }
    let best = one(ask(&asking, "best").await.expect("chosen"));
    assert_eq!(best.target.to_string(), "host:gpu-2");
    assert_eq!(best.placed.as_deref(), Some("best of 3: it has the model already"));
    let absent = one(ask(&asking, "gpu-11").await.expect("it may come"));
    let note = absent.placed.expect("it is told");
    assert!(note.contains("no larder called gpu-11 is there now") && note.contains("gpu-1"), "{note}");
    for (hosts, what) in [
        ("gpu-1,gpu-9", "no host of the fleet is called gpu-9"),
        ("gpu=h200", "no host has the label gpu=h200"),
        ("best:zone=c", "no host has the label zone=c"),
    ] {
        let error = ask(&asking, hosts).await.expect_err(hosts);
        assert_eq!((error.reason(), error.to_string().as_str()), (Reason::InvalidRequest, what));
        assert!(error.hint().contains("near it: "), "{hosts}: {}", error.hint());
    }
}

#[tokio::test]
async fn a_drained_host_takes_nothing_and_its_jobs_say_so() {
    let fleet = Fleet::new();
    let (one, mut told) = fleet.host("gpu-1", "", Vec::new()).await;
    let (two, _) = fleet.host("gpu-2", "", Vec::new()).await;
    let running = one.enqueue(job("a/running")).await.expect("accepted").record.id;
    assert_eq!(claim(&one).await.expect("a job").record.id, running);
    let own = one.enqueue(job("a/own")).await.expect("accepted").record.id;
    let later = {
        let mut job = job("a/later");
        job.common.not_before =
            Some(crate::queue::rules::after(fleet.hands.now(), Duration::from_secs(9 * 86_400)));
        one.enqueue(job).await.expect("accepted").record.id
    };
    let host = "gpu-1".parse().expect("a name");
    two.fleet().drain(&host, Some("ops")).await.expect("drains");
    assert_eq!(claim(&one).await, None);
    let record = one.get(own).await.expect("reads").expect("is known");
    assert_eq!((record.state, record.reason), (State::Waiting, Some(Reason::HostDrained)));
    assert!(record.message.is_some_and(|message| message.contains("larder hosts undrain gpu-1")));
    let hosts = two.fleet().hosts().await.expect("lists");
    assert_eq!(
        (hosts[0].state, hosts[0].drained.as_ref().and_then(|d| d.by.as_deref())),
        (Presence::Drained, Some("ops"))
    );
    one.register("gpu-1", &mut told).await.expect("registers");
    assert!(one.is_drained());
    assert_eq!(
        one.get(running).await.expect("reads").expect("is known").state,
        State::Planning,
        "what runs goes on"
    );

    two.fleet().undrain(&host).await.expect("undrains");
    assert_eq!(claim(&one).await.expect("a job").record.id, own);
    let later = one.get(later).await.expect("reads").expect("is known");
    assert_eq!((later.state, later.reason), (State::Waiting, None), "another wait stays one");
    let error = two.fleet().drain(&"gpu-3".parse().expect("a name"), None).await.expect_err("unknown");
    assert_eq!((error.reason(), error.hint()), (Reason::NotFound, "near it: gpu-1, gpu-2; see larder hosts"));
}

#[tokio::test]
async fn the_queue_of_a_host_that_is_gone_is_dealt_with_as_the_policy_says() {
    for (gone, expected) in [
        (Gone::Keep, (State::Queued, "host:gpu-2", None)),
        (Gone::Pool, (State::Queued, "pool", None)),
        (Gone::Fail, (State::Failed, "host:gpu-2", Some(Reason::HostGone))),
    ] {
        let fleet = Fleet::new();
        let (_two, _) = fleet.host("gpu-2", "", Vec::new()).await;
        let one = fleet.store("gpu-1", Config { gone, ..config() });
        let own = one.enqueue(named("a/own", "gpu-2")).await.expect("accepted").record.id;
        one.look_for_gone().await.expect("looks");
        let before = one.get(own).await.expect("reads").expect("is known");
        assert_eq!(before.target.to_string(), "host:gpu-2", "{gone:?}: it is there");

        fleet.kill("gpu-2");
        fleet.pass(Duration::from_secs(121));
        let twin = {
            let mut twin = job("a/own");
            twin.common.hosts = Hosts::Pool;
            one.enqueue(twin).await.expect("accepted").record.id
        };
        let other = one.enqueue(named("a/other", "gpu-2")).await.expect("accepted").record.id;
        one.look_for_gone().await.expect("looks");
        one.look_for_gone().await.expect("looks again");
        let (state, target, reason) = expected;
        let after = one.get(other).await.expect("reads").expect("is known");
        assert_eq!(
            (after.state, after.target.to_string().as_str(), after.reason),
            (state, target, reason),
            "{gone:?}"
        );
        let doubled = one.get(own).await.expect("reads").expect("is known");
        if gone == Gone::Pool {
            assert_eq!((doubled.state, doubled.reason), (State::Failed, Some(Reason::HostGone)));
            assert!(doubled.message.is_some_and(|message| message.contains(&twin.to_string())));
            let mut ids = vec![
                claim(&one).await.expect("a job").record.id,
                claim(&one).await.expect("a job").record.id,
            ];
            ids.sort();
            let mut expected = vec![twin, other];
            expected.sort();
            assert_eq!(ids, expected);
        }
        let seen = states(&one).await;
        assert_eq!(seen[0].1, Presence::Gone, "{seen:?}");
    }
}

pub(super) fn named(repo: &str, host: &str) -> larder_jobs::Job {
    let mut job = job(repo);
    job.common.hosts = Hosts::named(host.parse().expect("a name"));
    job
}

#[tokio::test]
async fn a_host_that_only_jobs_name_is_listed_and_one_that_nobody_misses_is_forgotten() {
    let fleet = Fleet::new();
    let (one, _) = fleet.host("gpu-1", "", vec![held("gpu-1", "a/b", 1)]).await;
    let id = one.enqueue(named("a/b", "gpu-2")).await.expect("accepted").record.id;
    assert_eq!(states(&one).await[1], ("gpu-2".into(), Presence::Gone, 1, 0));
    one.cancel(id, None).await.expect("cancels");
    fleet.kill("gpu-1");
    fleet.pass(Duration::from_secs(6));
    one.watch_fleet().await.expect("looks");
    assert_eq!(states(&one).await, []);
    let left = fleet.server.command(&["KEYS", "*gpu*"]);
    assert_eq!(left, support::Reply::List(Vec::new()), "nothing of it is left");
}

#[tokio::test]
async fn a_batch_goes_with_the_last_of_its_jobs() {
    let fleet = Fleet::new();
    let (one, _) = fleet.host("gpu-1", "", Vec::new()).await;
    let id = ask(&one, "all").await.expect("accepted").view(None).id;
    let child = claim(&one).await.expect("a job");
    let done = crate::queue::Settlement::Done(crate::queue::Done::default());
    one.settle(child.record.id, child.token, done).await.expect("settles");
    fleet.pass(Duration::from_secs(6));
    // Batches are looked at before the first job is forgotten, and then once a minute.
    one.watch_fleet().await.expect("looks");
    assert!(one.batch(id).await.expect("reads").is_some(), "its job is still known");
    one.reap().await.expect("reaps");
    assert!(one.get(child.record.id).await.expect("reads").is_none());
    *one.watched.lock().expect("not poisoned") = super::gone::Watched::default();
    fleet.pass(Duration::from_secs(6));
    one.watch_fleet().await.expect("looks");
    assert!(one.batch(id).await.expect("reads").is_none());
    let left = fleet.server.command(&["KEYS", "*batch*"]);
    assert_eq!(left, support::Reply::List(Vec::new()));
}

#[tokio::test]
async fn by_the_real_clock_a_heartbeat_carries_the_record() {
    let server = support::Redis::start();
    let store = store(Connection::new(address(&server)), config(), "gpu-1");
    let mut told = Told::default();
    store.register("i", &mut told).await.expect("registers");
    let hosts = store.fleet().hosts().await.expect("lists");
    assert_eq!(
        (hosts[0].state, hosts[0].seen_at, hosts[0].about.clone()),
        (Presence::Up, None, None),
        "nothing said yet"
    );
    store.describe(record(""), Vec::new());
    store.register("i", &mut told).await.expect("registers");
    let hosts = store.fleet().hosts().await.expect("lists");
    assert!(hosts[0].seen_at.is_some() && hosts[0].about.is_some());
}

#[tokio::test]
async fn a_run_is_one_hosts_until_it_has_asked_or_its_turn_is_over() {
    let fleet = Fleet::new();
    let store = fleet.store("a", config());
    let queue = store.fleet();
    let [a, b]: [larder_jobs::HostName; 2] = ["a", "b"].map(|name| name.parse().expect("a name"));
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
    let take = async |run: &str, host, turn| queue.take_run(run, host, turn).await.expect("Redis is there");
    assert_eq!(take("warm/1", &a, long).await, Run::Mine);
    assert_eq!(take("warm/1", &b, long).await, Run::Taken("a".into()));
    assert_eq!(take("warm/1", &a, long).await, Run::Mine, "also after it has started again");
    assert_eq!(take("warm/2", &b, long).await, Run::Mine, "another night is another run");
    queue.end_run("warm/1", long).await.expect("told");
    assert_eq!([take("warm/1", &a, long).await, take("warm/1", &b, long).await], [Run::Ended, Run::Ended]);

    queue.leave_run("warm/2", &a).await.expect("told");
    assert_eq!(take("warm/2", &a, long).await, Run::Taken("b".into()), "nobody gives up another one's");
    queue.leave_run("warm/2", &b).await.expect("told");
    assert_eq!(take("warm/2", &a, long).await, Run::Mine);

    assert_eq!(take("warm/3", &a, short).await, Run::Mine);
    // Redis lets the key go by its own clock.
    while take("warm/3", &b, long).await != Run::Mine {
        tokio::task::yield_now().await;
    }
    assert_eq!(take("warm/3", &a, long).await, Run::Taken("b".into()), "too late");
}
