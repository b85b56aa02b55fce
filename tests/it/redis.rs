//! The fleet's queue from outside: real workers on a real Redis that restarts, freezes, vanishes and forgets, hosts that
//! are killed, stopped and cut off, and clocks that are wrong. Whatever happens, a job runs once at a time and to its end.

mod away;
pub(crate) mod clock;
mod killed;
mod poison;
mod stopping;
mod together;

use std::time::Duration;

use serde_json::{Value, json};
use support::cache::{Snapshot, assert_clean};
use support::{Daemon, Fault, Host, Hub, Larder, Model, Redis, larder, models};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the weights that a worker gets before the hub holds the rest.
const HELD_AFTER: u64 = 2_000_000;

/// What the hosts of a fleet share.
struct Fleet {
    hub: Hub,
    redis: Redis,
}

impl Fleet {
    fn start() -> Self {
        Self { hub: Hub::start(), redis: Redis::start() }
    }

    /// A model of one weight file of so many bytes.
    fn model(&self, seed: u64, bytes: u64) -> Model {
        let model = models::huge(seed, bytes);
        self.hub.add(model.clone());
        model
    }

    /// A model whose first transfer stands still in the middle until the hub lets it go on.
    fn held_model(&self, seed: u64) -> Model {
        let model = self.model(seed, 6_000_000);
        self.hold(&model, HELD_AFTER);
        model
    }

    /// The next transfer of this model stands still after so many bytes.
    fn hold(&self, model: &Model, after: u64) {
        self.hub.fault(Fault::on(weights(model)).host(Host::Cdn).method("GET").stall(after));
    }

    #[track_caller]
    fn wait_held(&self) {
        assert!(self.hub.wait_for_stalled(1, PATIENCE), "nobody fetches: {:?}", self.hub.requests());
    }

    /// A host of the fleet.
    fn host(&self, name: &str, lease: &str) -> Larder {
        self.host_behind(&self.redis.tcp_url(), name, lease)
    }

    /// A host that reaches Redis by another way.
    fn host_behind(&self, url: &str, name: &str, lease: &str) -> Larder {
        larder!(&self.hub)
            .env("LARDER__QUEUE__URL", url)
            .env("LARDER__HOST__NAME", name)
            .env("LARDER__QUEUE__LEASE", lease)
            .env("LARDER__QUEUE__MAX_ATTEMPTS", "3")
            // What is held by the hub is no stall, and no other connection comes to help.
            .env("LARDER__HUB__STALL_TIMEOUT", "5m")
            .env("LARDER__HUB__CONNECTIONS", "1")
    }

    /// The model was staged once, in one attempt, and no byte was fetched twice.
    #[track_caller]
    fn assert_ran_once(&self, job: &Value, model: &Model) {
        assert_eq!((&job["state"], &job["attempts"]), (&"ready".into(), &1.into()), "{job}");
        assert_eq!(self.hub.bytes_of(model.id()), model.bytes(), "bytes that the hub sent: {job}");
    }
}

fn weights(model: &Model) -> String {
    format!("{}/model.safetensors", model.id())
}

fn body(model: &Model, hosts: impl Into<Value>) -> Value {
    json!({"kind": "download", "repo": model.id(), "hosts": hosts.into()})
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}

/// Asks this host for the model; returns the job's id.
#[track_caller]
fn ask(daemon: &Daemon, model: &Model, hosts: &str) -> String {
    id_of(&daemon.post("/v1/jobs", &body(model, hosts)).expect(202))
}

/// Waits until the job is as `wanted` says.
#[track_caller]
fn wait_for(daemon: &Daemon, id: &str, patience: Duration, wanted: impl FnMut(&Value) -> bool) -> Value {
    daemon.wait_until(&format!("/v1/jobs/{id}"), patience, wanted)
}

/// Waits for a line of the log that contains `text`.
#[track_caller]
fn wait_log(daemon: &Daemon, text: &str) {
    let line = daemon.wait_line(|line| line.contains(text), PATIENCE);
    assert!(line.is_some(), "no `{text}` in\n{}", daemon.logs().join("\n"));
}

fn log_lines(daemon: &Daemon, text: &str) -> usize {
    daemon.logs().iter().filter(|line| line.contains(text)).count()
}

#[track_caller]
fn assert_staged(larder: &Larder, model: &Model) {
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    assert_clean(larder.cache());
}

#[track_caller]
fn wait_ready(daemon: &mut Daemon, patience: Duration) {
    let socket = daemon.socket();
    daemon.wait_ready(&socket, patience);
}

/// The socket answers, which it does before the queue does.
#[track_caller]
fn wait_serving(daemon: &Daemon) {
    wait_log(daemon, "larder serves");
}
