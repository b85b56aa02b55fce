//! Xet, asked for: a child process brings large files from a real content-addressed store, in bounded memory; what it
//! does not bring comes by ranges, and nothing is published that has not the promised digest.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::cache::{Snapshot, assert_clean};
use support::{Cas, Content, Hub, Larder, Model, Proxy, larder};

const MIB: u64 = 1 << 20;

/// A model with one large file, which is in the store.
fn model_in(cas: &Cas, hub: &Hub, address: &str, bytes: u64, seed: u64) -> Model {
    let weights = Content::pattern(bytes, seed);
    let model = Model::new("org/xet").file("config.json", "{}").lfs("model.safetensors", weights.clone());
    hub.add(model.clone());
    hub.in_xet(model.at("model.safetensors").etag(), &cas.put(&weights), address);
    model
}

fn larder_with_xet(hub: &Hub) -> Larder {
    larder!(hub).env("LARDER__HUB__XET", "true").env("LARDER__LOG__LEVEL", "info")
}

fn assert_staged(larder: &Larder, model: &Model) {
    let snapshot = Snapshot::read(larder.cache(), model.id(), "main").expect("it is in the cache");
    snapshot.assert_is(model);
    assert_clean(larder.cache());
}

#[test]
fn a_large_file_comes_over_xet_when_that_is_asked_for() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let model = model_in(&cas, &hub, &cas.endpoint(), 24 * MIB, 1);
    let larder = larder_with_xet(&hub);
    let output = larder.run(&["stage", "--json", "-v", model.id()]).expect_code(0);
    assert!(output.stderr.contains("a file came over Xet"), "{}", output.stderr);
    assert_staged(&larder, &model);
    assert_eq!(hub.bytes_of("model.safetensors"), 0, "no byte of it came over plain HTTP");
    let job = output.json();
    assert_eq!(job["bytes_fetched"], model.bytes(), "{job}");

    hub.clear_requests();
    let plain = larder!(&hub);
    plain.run(&["stage", model.id()]).expect_code(0);
    assert_staged(&plain, &model);
    assert_eq!(hub.bytes_of("model.safetensors"), 24 * MIB, "ranges are the default");
    assert!(hub.requests_for("xet-read-token").is_empty(), "Xet is not asked when nobody wants it");
}

#[test]
fn a_store_that_falls_silent_leaves_the_rest_to_ranges() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let network = Proxy::to(cas.endpoint().trim_start_matches("http://"));
    let model = model_in(&cas, &hub, &format!("http://{}", network.addr()), 9 * MIB, 2);
    network.blackhole();
    let larder = larder_with_xet(&hub).env("LARDER__HUB__STALL_TIMEOUT", "1s");
    let output = larder.run(&["stage", "-v", model.id()]).expect_code(0);
    assert!(output.stderr.contains("Xet did not bring a file"), "{}", output.stderr);
    assert_staged(&larder, &model);
    assert_eq!(hub.bytes_of("model.safetensors"), 9 * MIB);
    assert!(network.wait_for_connections(0, Duration::from_secs(10)), "the child is gone");
}

#[test]
fn a_store_that_is_down_leaves_it_to_ranges() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let model = model_in(&cas, &hub, &cas.endpoint(), 9 * MIB, 3);
    let other = Content::pattern(9 * MIB, 30);
    let model = model.lfs("other.safetensors", other.clone());
    hub.update(model.clone());
    hub.in_xet(model.at("other.safetensors").etag(), &cas.put(&other), &cas.endpoint());
    drop(cas);
    let larder = larder_with_xet(&hub);
    let output = larder.run(&["stage", "-v", model.id()]).expect_code(0);
    assert!(output.stderr.contains("Xet did not bring a file"), "{}", output.stderr);
    assert_staged(&larder, &model);
    assert_eq!(hub.requests_for("xet-read-token").len(), 1, "one failure is enough for a job");
}

#[test]
fn other_bytes_in_the_store_are_found_by_the_digest() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let model = model_in(&cas, &hub, &cas.endpoint(), 9 * MIB, 4);
    // As long as the promised file, so that hf-hub is content with it.
    let other = cas.put(&Content::pattern(9 * MIB, 5));
    hub.in_xet(model.at("model.safetensors").etag(), &other, &cas.endpoint());
    let larder = larder_with_xet(&hub);
    let output = larder.run(&["stage", "-v", model.id()]).expect_code(0);
    assert!(output.stderr.contains("a file came over Xet"), "{}", output.stderr);
    assert!(output.stderr.contains("not the promised ones"), "{}", output.stderr);
    assert_staged(&larder, &model);
}

/// A `larder stage` whose child waits for a store that never answers, and the network between them.
fn waiting(hub: &Hub, cas: &Cas, seed: u64) -> (Larder, Model, Proxy, Child) {
    let network = Proxy::to(cas.endpoint().trim_start_matches("http://"));
    let model = model_in(cas, hub, &format!("http://{}", network.addr()), 9 * MIB, seed);
    network.blackhole();
    let larder = larder_with_xet(hub);
    let mut command = larder.command(&["stage", "-v", model.id()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("larder starts");
    assert!(network.wait_for_connections(1, Duration::from_secs(30)), "the child asks the store");
    (larder, model, network, child)
}

#[test]
fn a_child_goes_with_its_parent() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let (_larder, _model, network, mut parent) = waiting(&hub, &cas, 6);
    parent.kill().expect("killed");
    parent.wait().expect("gone");
    assert!(network.wait_for_connections(0, Duration::from_secs(10)), "long before its own patience ends");
}

#[test]
fn a_child_ends_when_the_job_is_stopped() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let (larder, model, network, parent) = waiting(&hub, &cas, 8);
    let pid = Pid::from_raw(parent.id().cast_signed()).expect("a pid");
    kill_process(pid, Signal::INT).expect("told");
    let output = parent.wait_with_output().expect("it ends");
    assert!(!output.status.success() && output.status.code().is_some(), "{}", output.status);
    assert!(network.wait_for_connections(0, Duration::from_secs(10)));
    network.pass();
    larder.run(&["stage", model.id()]).expect_code(0);
    assert_staged(&larder, &model);
}

#[test]
fn a_child_that_is_killed_leaves_it_to_ranges() {
    let (hub, cas) = (Hub::start(), Cas::start());
    let (larder, model, _network, parent) = waiting(&hub, &cas, 7);
    for child in children_of(parent.id()) {
        kill_process(child, Signal::KILL).expect("killed");
    }
    let output = parent.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("Xet did not bring a file") && stderr.contains("signal: 9"), "{stderr}");
    assert_staged(&larder, &model);
}

fn children_of(pid: u32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let lists =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = lists.collect::<String>();
    let found: Vec<Pid> =
        pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    assert!(!found.is_empty(), "it has a child");
    found
}
