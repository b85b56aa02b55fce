//! A Redis that sentinels watch: the master dies, stands still or is replaced, with and without passwords and TLS.

use larder_jobs::client::{Address, Client};
use support::redis::{MASTER, RedisOptions, Watched};

use super::*;
use crate::fleet::{Program, download};

/// A host whose queue is behind the sentinels.
fn host(fleet: &Watched, hub: &Hub, name: &str) -> Larder {
    larder!(hub)
        .env("LARDER__QUEUE__MODE", "sentinel")
        .env("LARDER__QUEUE__URLS", fleet.urls())
        .env("LARDER__QUEUE__MASTER_NAME", MASTER)
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

/// One job runs and others wait while `fail` happens; nothing is lost and nothing runs twice.
#[track_caller]
fn survives(fleet: &Watched, fail: impl FnOnce()) {
    let hub = Hub::start();
    let held = model(&hub, 520, 6_000_000);
    hub.fault(Fault::on(weights(&held)).host(Host::Cdn).method("GET").stall(HELD_AFTER));
    let [one, two] = ["gpu-1", "gpu-2"].map(|name| host(fleet, &hub, name));
    let mut daemon = one.serve();
    let running = ask(&daemon, &held, "this");
    assert!(hub.wait_for_stalled(1, PATIENCE), "it fetches");
    let waiting: Vec<_> = (0..10).map(|n| model(&hub, 521 + n, 20_000)).collect();
    let asked: Vec<_> = waiting.iter().map(|model| (ask_for(&daemon, model, "gpu-2"), model)).collect();
    assert_eq!(fleet.servers[0].command(&["WAIT", "1", "5000"]).int(), 1, "the replica has it all");

    fail();
    wait_log(&daemon, "the queue is back");
    wait_ready(&mut daemon, PATIENCE);
    let other = two.serve();
    for (id, model) in asked {
        let done = other.wait_job(&id, PATIENCE);
        assert_eq!((&done["state"], &done["attempts"]), (&"ready".into(), &1.into()), "{done}");
        assert_eq!(hub.bytes_of(model.id()), model.bytes(), "{done}");
    }
    hub.release();
    let done = daemon.wait_job(&running, PATIENCE);
    assert_eq!((&done["state"], &done["attempts"]), (&"ready".into(), &1.into()), "{done}");
    assert_eq!(hub.bytes_of(held.id()), held.bytes(), "bytes that the hub sent: {done}");
    assert_staged(&one, &held);
}

#[test]
fn jobs_survive_the_death_of_the_master() {
    let fleet = Watched::start();
    survives(&fleet, || {
        fleet.servers[0].kill9();
        fleet.wait_failover();
    });
}

#[test]
fn a_master_that_stands_still_is_left() {
    let fleet = Watched::start();
    let mut frozen = None;
    survives(&fleet, || {
        frozen = Some(fleet.servers[0].freeze());
        fleet.wait_failover();
    });
}

#[test]
fn passwords_and_tls_hold_for_sentinels_and_for_whom_they_name() {
    let secret = |options: RedisOptions, word: &str| options.password(word).tls(true);
    let servers = secret(RedisOptions::default(), "of-redis").directive("masterauth", "of-redis");
    let sentinels =
        secret(RedisOptions::default(), "of-sentinels").directive("sentinel", "sentinel-pass of-sentinels");
    let fleet = Watched::with(&servers, &sentinels, &[&format!("auth-pass {MASTER} of-redis")]);
    let (hub, dir) = (Hub::start(), tempfile::tempdir().expect("temp folder"));
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).expect("writes");
        path
    };
    let plain = host(&fleet, &hub, "gpu-1").env("LARDER__QUEUE__CA_FILE", fleet.servers[0].ca_file());
    let refused = |larder: &Larder, key: &str| {
        let output = larder.run(&["stage", "a/b", "--hosts", "pool"]).expect_code(75);
        assert!(
            output.stderr.contains("wrong or missing password") && output.stderr.contains(key),
            "{output:?}"
        );
    };
    refused(&plain, "queue.sentinel_password_file");
    let half = plain.env("LARDER__QUEUE__SENTINEL_PASSWORD_FILE", file("of-sentinels"));
    refused(&half, "queue.password_file");
    let whole = half.env("LARDER__QUEUE__PASSWORD_FILE", file("of-redis"));
    let daemon = whole.serve();
    let model = model(&hub, 531, 20_000);
    fleet.servers[0].kill9();
    fleet.wait_failover();
    wait_log(&daemon, "the queue is back");
    assert_eq!(daemon.wait_job(&ask(&daemon, &model, "this"), PATIENCE)["state"], "ready");
    assert!(
        !daemon.logs().join("\n").contains("of-redis") && !daemon.logs().join("\n").contains("of-sentinels")
    );
}

#[test]
fn a_master_that_was_replaced_without_its_knowledge_is_left() {
    let (fleet, other) = (Watched::start(), Redis::start());
    let urls = fleet.urls();
    let urls: Vec<_> = urls.split(',').collect();
    let address = Address::sentinel(&urls, MASTER, "larder").expect("an address");
    let program = Program::of(Client::new(address));
    let place = |program: &Program| program.block(program.client.server()).expect("it answers").place;
    assert_eq!(place(&program), fleet.servers[0].address().to_string());
    let first = program.block(program.client.enqueue(&download("a/b", "gpu-1"))).expect("accepted");
    let waiting = {
        let (client, id) = (program.client.clone(), first.job.id);
        program.spawn(async move { client.wait(id).await })
    };
    let monitor = ["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &other.port().to_string(), "2"];
    for sentinel in &fleet.sentinels {
        assert_eq!(sentinel.command(&["SENTINEL", "REMOVE", MASTER]).text(), "OK");
        assert_eq!(sentinel.command(&monitor).text(), "OK");
    }
    let begun = std::time::Instant::now();
    while place(&program) != other.address().to_string() {
        assert!(begun.elapsed() < PATIENCE, "it still asks {}", place(&program));
        std::thread::sleep(Duration::from_millis(100));
    }
    // The new one knows nothing of the job, and who waits for it is told at once.
    let gone = program.block(waiting).expect("no panic").expect_err("the job is gone");
    assert_eq!(gone.reason(), larder_jobs::Reason::NotFound, "{gone}");
}

#[test]
fn mistakes_are_told() {
    let (fleet, redis) = (Watched::start(), Redis::start());
    let hub = Hub::start();
    let told = |larder: &Larder, thing: &str, help: &str| {
        let output = larder.run(&["stage", "a/b", "--hosts", "pool"]).expect_code(75);
        let hint = output.stderr.split(" hint: ").nth(1).unwrap_or_default();
        assert!(output.stderr.contains(thing) && hint.contains(help), "{thing}, {help}: {output:?}");
    };
    let named = host(&fleet, &hub, "gpu-1").env("LARDER__QUEUE__MASTER_NAME", "other");
    told(&named, "is a master that they do not know", "queue.master_name");
    let wrong = host(&fleet, &hub, "gpu-1").env("LARDER__QUEUE__URLS", redis.tcp_url());
    told(&wrong, "is no sentinel", "queue.urls");
    let single = crate::fleet::machine("gpu-1", &fleet.sentinels[0].tcp_url(), &hub);
    told(&single, "is a sentinel and has no queue", "queue.master_name");
    let nobody =
        host(&fleet, &hub, "gpu-1").env("LARDER__QUEUE__URLS", "redis://127.0.0.1:1,redis://127.0.0.1:2");
    told(&nobody, "127.0.0.1:1 cannot be reached", "see whether it runs");
}
