//! A Redis cluster: the node that has the queue dies, or hands it to another one.

use support::redis::{Cluster, RedisOptions};

use super::*;

/// A key of the queue.
const KEY: &str = "{larder}:";

/// A host whose queue is in the cluster.
fn host(urls: &str, hub: &Hub, name: &str) -> Larder {
    larder!(hub)
        .env("LARDER__QUEUE__MODE", "cluster")
        .env("LARDER__QUEUE__URLS", urls)
        .env("LARDER__HOST__NAME", name)
        .env("LARDER__QUEUE__LEASE", "3s")
        .env("LARDER__HUB__STALL_TIMEOUT", "5m")
        .env("LARDER__HUB__CONNECTIONS", "1")
        .timeout(PATIENCE)
}

fn model(hub: &Hub, seed: u64, bytes: u64) -> Model {
    let model = models::huge(seed, bytes);
    hub.add(model.clone());
    model
}

#[track_caller]
fn assert_once(hub: &Hub, job: &Value, model: &Model) {
    assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &1.into()), "{job}");
    assert_eq!(hub.bytes_of(model.id()), model.bytes(), "{job}");
}

#[test]
fn jobs_survive_the_death_of_the_node_that_has_the_queue() {
    let cluster =
        Cluster::with(&RedisOptions::default().password("secret").directive("masterauth", "secret"), KEY);
    let hub = Hub::start();
    let held = model(&hub, 540, 6_000_000);
    hub.fault(Fault::on(weights(&held)).host(Host::Cdn).method("GET").stall(HELD_AFTER));
    // The one node that it is told of has not the queue.
    let known = &cluster.nodes[(cluster.home + 1) % 3];
    let url = format!("redis://:secret@{}", known.address());
    let larder = host(&url, &hub, "gpu-1");
    let mut daemon = larder.serve();
    let running = ask(&daemon, &held, "this");
    assert!(hub.wait_for_stalled(1, PATIENCE), "it fetches");
    let waiting: Vec<_> = (0..10).map(|n| model(&hub, 541 + n, 20_000)).collect();
    let asked: Vec<_> = waiting.iter().map(|model| (ask_for(&daemon, model, "gpu-2"), model)).collect();
    assert_eq!(cluster.nodes[cluster.home].command(&["WAIT", "1", "5000"]).int(), 1);

    cluster.nodes[cluster.home].kill9();
    cluster.wait_failover();
    wait_log(&daemon, "the queue is back");
    wait_ready(&mut daemon, PATIENCE);
    let other = host(&url, &hub, "gpu-2");
    let other = other.serve();
    for (id, model) in asked {
        assert_once(&hub, &other.wait_job(&id, PATIENCE), model);
    }
    hub.release();
    assert_once(&hub, &daemon.wait_job(&running, PATIENCE), &held);
    assert_staged(&larder, &held);
    assert!(!daemon.logs().join("\n").contains("secret"));
}

#[test]
fn a_queue_that_moves_to_another_node_is_never_half_of_one() {
    let cluster = Cluster::with(&RedisOptions::default(), KEY);
    let hub = Hub::start();
    let held = model(&hub, 560, 6_000_000);
    hub.fault(Fault::on(weights(&held)).host(Host::Cdn).method("GET").stall(HELD_AFTER));
    let larder = host(&cluster.urls(), &hub, "gpu-1");
    let mut daemon = larder.serve();
    let running = ask(&daemon, &held, "this");
    assert!(hub.wait_for_stalled(1, PATIENCE), "it fetches");
    let later = model(&hub, 561, 20_000);
    let waits = ask_for(&daemon, &later, "gpu-2");

    wait_for(&daemon, &running, PATIENCE, |job| job["state"] == "fetching");
    let to = (cluster.home + 1) % 3;
    cluster.begin_move(to);
    let refused = daemon.post("/v1/jobs", &body(&later, vec!["gpu-2"])).expect(503);
    let said = refused["detail"].as_str().unwrap_or_default();
    assert!(said.contains("is handing the queue to another node"), "{refused}");
    assert_eq!(cluster.nodes[to].keys("*"), Vec::<String>::new(), "nothing was written ahead of the keys");
    cluster.end_move(to);
    assert_eq!(daemon.get(&format!("/v1/jobs/{running}")).expect(200)["state"], "fetching");
    wait_ready(&mut daemon, PATIENCE);
    assert_eq!(cluster.nodes[cluster.home].keys("*"), Vec::<String>::new());
    assert_eq!(ask_for(&daemon, &later, "gpu-2"), waits, "the same want is the same job");
    let other = host(&cluster.urls(), &hub, "gpu-2");
    let other = other.serve();
    assert_once(&hub, &other.wait_job(&waits, PATIENCE), &later);
    hub.release();
    assert_once(&hub, &daemon.wait_job(&running, PATIENCE), &held);
    assert_eq!(log_lines(&daemon, "the queue was emptied"), 0);
}

#[test]
fn mistakes_and_tls() {
    let cluster = Cluster::with(
        &RedisOptions::default()
            .tls(true)
            .directive("tls-cluster", "yes")
            .directive("tls-replication", "yes"),
        KEY,
    );
    let hub = Hub::start();
    let told = |larder: &Larder, thing: &str, help: &str| {
        let output = larder.run(&["stage", "a/b", "--hosts", "pool"]).expect_code(75);
        let hint = output.stderr.split(" hint: ").nth(1).unwrap_or_default();
        assert!(output.stderr.contains(thing) && hint.contains(help), "{thing}, {help}: {output:?}");
    };
    let alone = Redis::start();
    told(&host(&alone.tcp_url(), &hub, "gpu-1"), "is no node of a cluster", "queue.url");
    let single = crate::fleet::machine("gpu-1", &cluster.nodes[(cluster.home + 1) % 3].tcp_url(), &hub);
    told(&single, "another one has the queue", "queue.mode = \"cluster\"");

    let model = model(&hub, 571, 20_000);
    let larder =
        host(&cluster.urls(), &hub, "gpu-1").env("LARDER__QUEUE__CA_FILE", cluster.nodes[0].ca_file());
    let daemon = larder.serve();
    assert_once(&hub, &daemon.wait_job(&ask(&daemon, &model, "this"), PATIENCE), &model);
}
