//! A fleet: larders that share a queue in Redis, the client that programs use, and the commands of a machine that
//! runs no larder. A real Redis, the real binary, the test hub.

mod api;
mod client;
mod health;
mod history;
mod hosts;
mod limits;
mod night;
mod stage;
mod storm;

use std::time::Duration;

use larder_jobs::client::{Address, Client};
use larder_jobs::{Hosts, Job, JobId, State};
use serde_json::Value;
use support::models::minilm;
use support::{Daemon, Hub, Larder, Redis, larder};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A machine of the fleet.
pub(crate) fn machine(name: &str, url: &str, hub: &Hub) -> Larder {
    larder!(hub)
        .env("LARDER__HOST__NAME", name)
        .env("LARDER__QUEUE__URL", url)
        .env("LARDER__QUEUE__LEASE", "1s")
        .timeout(PATIENCE)
}

/// A program that uses the client, for a test that blocks.
pub(crate) struct Program {
    runtime: tokio::runtime::Runtime,
    pub(crate) client: Client,
}

impl Program {
    pub(crate) fn new(url: &str) -> Self {
        Self::of(Client::new(Address::new(url, "larder").expect("an address")))
    }

    pub(crate) fn of(client: Client) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        Self { runtime, client }
    }

    pub(crate) fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs beside the test.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// Waits until the job is in this state.
    #[track_caller]
    pub(crate) fn wait_state(&self, id: JobId, state: State) {
        let begun = std::time::Instant::now();
        loop {
            let job = self.block(self.client.get(id)).expect("Redis answers").expect("the job is known");
            if job.state == state {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not {state}: {job:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A download for these hosts.
pub(crate) fn download(repo: &str, hosts: &str) -> Job {
    let mut job = Job::download(repo.parse().expect("a model"));
    job.common.hosts = hosts.parse::<Hosts>().expect("hosts");
    job
}

pub(crate) fn id_of(job: &Value) -> String {
    job["id"].as_str().unwrap_or_else(|| panic!("no id: {job}")).to_owned()
}

fn wait_ready(daemon: &mut Daemon) {
    let socket = daemon.socket();
    daemon.wait_ready(&socket, PATIENCE);
}

/// What a program does that loads the model: offline, by name.
const LOAD: &str = r#"
import json, sys, huggingface_hub as h
from safetensors import safe_open
folder = h.snapshot_download(sys.argv[1])
with safe_open(h.hf_hub_download(sys.argv[1], "model.safetensors"), framework="np") as tensors:
    numbers = sum(tensors.get_tensor(name).size for name in tensors.keys())
print(json.dumps({"folder": folder, "numbers": numbers}))
"#;

#[test]
fn a_real_model_survives_three_kills_of_its_worker() {
    const WEIGHTS: &str = "model.safetensors";
    let (redis, hub, model) = (Redis::start(), Hub::start(), minilm::required());
    hub.add(model.clone());
    // One connection: what a kill costs is then what came since the last note, not chance.
    hub.throttle(Some(12 << 20));
    let worker = machine("gpu-1", &redis.url(), &hub).env("LARDER__HUB__CONNECTIONS", "1");
    let program = Program::new(&redis.url());
    let mut daemon = worker.serve();
    let job = program.block(program.client.enqueue(&download(model.id(), "gpu-1"))).expect("accepted");
    assert!(job.created);
    for _ in 0..3 {
        let sent = hub.bytes_of(WEIGHTS);
        assert!(hub.wait_for_bytes(WEIGHTS, sent + (17 << 20), PATIENCE), "{}", daemon.logs().join("\n"));
        daemon.kill9();
        daemon = worker.spawn(&["serve"]);
        wait_ready(&mut daemon);
    }
    let waiting = async { tokio::time::timeout(PATIENCE, program.client.wait(job.job.id)).await };
    let done = program.block(waiting);
    let done = done.expect("in time").expect("the queue is there");
    assert_eq!((done.state, done.reason), (State::Ready, None), "{done:?}");
    assert_eq!(done.attempts, 4, "three of them died: {done:?}");
    let (sent, bytes) = (hub.bytes_of(model.id()), model.bytes());
    println!("{sent} bytes sent for {bytes} and three kills: {} KiB again", (sent - bytes) / 1024);
    assert!(sent < bytes + bytes / 10, "{sent} bytes sent for {bytes} and three kills");

    let (cache, home) = (worker.cache().display().to_string(), worker.home().display().to_string());
    let env = [("HF_HUB_CACHE", cache.as_str()), ("HF_HOME", &home), ("HF_HUB_OFFLINE", "1")];
    let loaded = support::python::python(LOAD, &[model.id()], &env).expect_code(0).json();
    assert_eq!(loaded["folder"].as_str(), done.path.as_deref(), "{loaded}");
    assert_eq!(loaded["numbers"], 22_713_728, "the parameters and the position ids of MiniLM");
}
