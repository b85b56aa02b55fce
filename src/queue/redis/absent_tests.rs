//! Hosts that are not there, not alone under their name, or emptied of what they said: what becomes of their jobs, and
//! what is told of them.

use std::time::Duration;

use larder_jobs::{Hosts, Job, Reason, State};

use super::fleet_tests::{Fleet, ask, held, named, one};
use super::tests::claim;
use crate::queue::config::Gone;
use crate::queue::testing::{config, job};
use crate::queue::{Config, Done, Filter, JobStore as _, Settlement};

#[tokio::test]
async fn only_downloads_are_for_any_host() {
    let fleet = Fleet::new();
    let (_two, _) = fleet.host("gpu-2", "", Vec::new()).await;
    let one = fleet.store("gpu-1", Config { gone: Gone::Pool, ..config() });
    let evict = serde_json::json!({"kind": "evict", "repo": "a/b"});
    let mut evict = Job::from_json(evict).expect("a job");
    evict.common.hosts = Hosts::named("gpu-2".parse().expect("a name"));
    let evict = one.enqueue(evict).await.expect("accepted").record.id;
    let download = one.enqueue(named("a/b", "gpu-2")).await.expect("accepted").record.id;
    fleet.kill("gpu-2");
    fleet.pass(Duration::from_secs(121));
    one.look_for_gone().await.expect("looks");
    let evict = one.get(evict).await.expect("reads").expect("is known");
    assert_eq!((evict.state, evict.reason), (State::Failed, Some(Reason::HostGone)), "no other host evicts");
    assert_eq!(evict.target.to_string(), "host:gpu-2");
    let download = one.get(download).await.expect("reads").expect("is known");
    assert_eq!((download.state, download.target.to_string()), (State::Queued, "pool".into()));
}

#[tokio::test]
async fn a_name_that_nobody_ever_had_is_refused_once_the_queue_has_heard_of_all() {
    let fleet = Fleet::new();
    let (asking, mut told) = fleet.host("gpu-1", "", Vec::new()).await;
    assert!(ask(&asking, "gpu-2").await.is_ok(), "it may not have said yet that it is there");
    fleet.pass(Duration::from_secs(121));
    asking.register("gpu-1", &mut told).await.expect("registers");
    let error = ask(&asking, "gpu-3").await.expect_err("refused");
    assert_eq!(
        (error.reason(), error.to_string().as_str()),
        (Reason::InvalidRequest, "no host of the fleet is called gpu-3")
    );
    assert!(error.hint().contains("near it: gpu-1"), "{}", error.hint());
    fleet.kill("gpu-1");
    let note = one(ask(&asking, "gpu-1").await.expect("it was there")).placed.expect("a note");
    assert_eq!(note, "no larder called gpu-1 is there now; the job waits for it");
}

#[tokio::test]
async fn a_job_that_nobody_takes_says_so_while_it_is_looked_at() {
    let fleet = Fleet::new();
    let (asking, _) = fleet.host("gpu-1", "", Vec::new()).await;
    let own = one(ask(&asking, "gpu-1").await.expect("accepted"));
    let pooled = one(ask(&asking, "pool").await.expect("accepted"));
    let queue = asking.fleet();
    let message = async |record: &larder_jobs::Record| {
        let record = queue.get(record.id).await.expect("reads").expect("is known");
        queue.view(&record, None).await.expect("answers").message.unwrap_or_default()
    };
    assert_eq!([message(&own).await, message(&pooled).await], ["", ""]);
    let host = "gpu-1".parse().expect("a name");
    queue.drain(&host, None).await.expect("drains");
    let drained = queue.get(own.id).await.expect("reads").expect("is known");
    assert_eq!(drained.reason, Some(Reason::HostDrained), "at once, also if no hand of the host is free");
    assert!(message(&pooled).await.starts_with("every host that is there is drained; hint: "));
    queue.undrain(&host).await.expect("undrains");
    fleet.kill("gpu-1");
    fleet.server.command(&["DEL", "{test}:hosts"]);
    assert!(message(&own).await.starts_with("no larder called gpu-1 is there; the job waits for it; hint: "));
    assert!(message(&pooled).await.starts_with("no larder is there; "));
    let listed = |name: &str| Filter { host: Some(name.parse().expect("a name")), ..Filter::default() };
    let ids: Vec<_> = asking.list(listed("gpu-1")).await.expect("lists").iter().map(|job| job.id).collect();
    assert_eq!(ids, [own.id], "the queue of one that is gone");
    assert_eq!(asking.list(listed("gpu-9")).await.expect("lists"), []);
}

#[tokio::test]
async fn the_best_host_is_told_by_what_runs_now() {
    let fleet = Fleet::new();
    let (asking, mut told) = fleet.host("gpu-1", "", Vec::new()).await;
    let (two, _) = fleet.host("gpu-2", "", Vec::new()).await;
    let mut places = Vec::new();
    for repo in ["a/1", "a/2", "a/3", "a/4"] {
        let mut wish = job(repo);
        wish.common.hosts = "best".parse().expect("hosts");
        let record = one(asking.submit(wish, larder_jobs::client::Want::default()).await.expect("accepted"));
        let store = if record.target.to_string() == "host:gpu-1" { &asking } else { &two };
        assert!(claim(store).await.is_some());
        places.push(record.target.to_string());
    }
    places.sort();
    assert_eq!(places, ["host:gpu-1", "host:gpu-1", "host:gpu-2", "host:gpu-2"]);
    let running = async || {
        asking.fleet().hosts().await.expect("lists").iter().map(|host| host.running).collect::<Vec<_>>()
    };
    assert_eq!(running().await, [Some(2), Some(2)]);
    // Whatever was miscounted is put right by who knows.
    fleet.server.command(&["HSET", "{test}:running", "gpu-1", "77"]);
    asking.register("gpu-1", &mut told).await.expect("registers");
    assert_eq!(running().await, [Some(2), Some(2)]);
}

#[tokio::test]
async fn what_a_twin_said_is_put_right_when_it_has_left() {
    let fleet = Fleet::new();
    let (here, mut told) = fleet.host("gpu-1", "", vec![held("gpu-1", "a/b", 1)]).await;
    let twin = fleet.store("gpu-1", config());
    twin.describe(super::fleet_tests::record(""), vec![held("gpu-1", "c/d", 2)]);
    twin.register("twin", &mut super::attend::Told::default()).await.expect("registers");
    let stock = async || here.fleet().stock(&"gpu-1".parse().expect("a name")).await.expect("answers");
    assert_eq!(stock().await, [held("gpu-1", "c/d", 2)]);
    fleet.kill("gpu-1");
    here.register("gpu-1", &mut told).await.expect("registers");
    assert_eq!(stock().await, [held("gpu-1", "a/b", 1)]);
}

#[tokio::test]
async fn a_host_that_was_drained_stays_so_when_the_queue_is_emptied() {
    let fleet = Fleet::new();
    let (here, mut told) = fleet.host("gpu-1", "", Vec::new()).await;
    let host = "gpu-1".parse().expect("a name");
    here.fleet().drain(&host, Some("ops")).await.expect("drains");
    here.register("gpu-1", &mut told).await.expect("registers");
    fleet.server.command(&["FLUSHALL"]);
    fleet.pass(Duration::from_secs(1));
    here.register("gpu-1", &mut told).await.expect("registers");
    assert!(here.is_drained());
    let hosts = here.fleet().hosts().await.expect("lists");
    assert!(hosts[0].drained.is_some() && !hosts[0].is_up(), "{hosts:?}");
}

#[tokio::test]
async fn a_batch_of_which_a_failure_is_forgotten_is_forgotten() {
    let fleet = Fleet::new();
    let (one, _) = fleet.host("gpu-1", "", Vec::new()).await;
    let (two, _) = fleet.host("gpu-2", "", Vec::new()).await;
    let id = ask(&one, "all").await.expect("accepted").view(None).id;
    let failed = claim(&one).await.expect("a job");
    let fail = Settlement::Fail { reason: Reason::Gated, message: "gated".into() };
    one.settle(failed.record.id, failed.token, fail).await.expect("settles");
    fleet.pass(Duration::from_secs(6));
    let done = claim(&two).await.expect("a job");
    two.settle(done.record.id, done.token, Settlement::Done(Done::default())).await.expect("settles");
    let (batch, jobs) = one.batch(id).await.expect("reads").expect("is known");
    assert_eq!(batch.view(&jobs, None).state, State::Failed);
    one.reap().await.expect("reaps");
    assert!(one.get(failed.record.id).await.expect("reads").is_none(), "older than what is kept");
    assert!(one.get(done.record.id).await.expect("reads").is_some());
    assert!(one.batch(id).await.expect("reads").is_none(), "else it would look like a success");
}
