//! The simulated host of `examples/host.rs`, as a person starts it: jobs in every state, failures by several reasons, GPUs
//! that move, evictions; and a Ctrl-C that ends it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::http::{Place, ask};
use support::{Daemon, DaemonOptions, Tripwire};
use tempfile::TempDir;

mod past;

#[path = "../../examples/host/mod.rs"]
mod host;

/// Set in the process that is the example.
const ARGUMENTS: &str = "LARDER_TEST_SIMULATED_HOST";
const PATIENCE: Duration = Duration::from_secs(120);

/// The series of that name in a scrape, with their values.
fn series<'a>(text: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.filter_map(|line| line.rsplit_once(' ')).collect()
}

/// The example with these arguments, in a process of its own.
struct Host {
    daemon: Daemon,
    folder: TempDir,
}

impl Host {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temp folder");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["demo::a_simulated_host_is_busy_until_it_is_told_to_stop", "--exact", "--nocapture"]);
        command.env_clear().env("HOME", folder.path()).env("NO_PROXY", "*");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let path = folder.path().display().to_string();
        let arguments = [&["--listen", "127.0.0.1:0", "--folder", &path], arguments].concat();
        command.env(ARGUMENTS, arguments.join("\n"));
        let options =
            DaemonOptions { state_dir: folder.path().join("state"), cache_dir: folder.path().join("hub") };
        let mut daemon = Daemon::spawn(command, options);
        // Failing is what some of its jobs are for, and it is stopped in the middle of others.
        daemon.allow(Tripwire::Errors).allow(Tripwire::Jobs).allow(Tripwire::Partials);
        let socket = daemon.socket();
        daemon.wait_ready(&socket, PATIENCE);
        Self { daemon, folder }
    }

    /// The address that it names for that.
    fn place(&self, what: &str) -> Place {
        let line = self.daemon.wait_line(|line| line.trim_start().starts_with(what), PATIENCE);
        let line = line.expect("it says where");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        Place::Tcp(address.expect("an address").parse().expect("ip:port"))
    }

    fn end(mut self) {
        self.daemon.signal(Signal::INT);
        let ended = self.daemon.wait_exit(Duration::from_secs(30)).expect("Ctrl-C ends it");
        assert!(ended.success(), "{ended}\n{}", self.daemon.logs().join("\n"));
    }
}

fn scrape(place: &Place) -> String {
    let reply = ask(place, "GET /metrics", &[("Host", "localhost")], b"");
    assert_eq!(reply.status, 200);
    reply.text()
}

#[test]
fn a_simulated_host_is_busy_until_it_is_told_to_stop() {
    if let Ok(arguments) = std::env::var(ARGUMENTS) {
        std::process::exit(i32::from(
            host::run(arguments.lines().map(str::to_owned)) != std::process::ExitCode::SUCCESS,
        ));
    }
    let host = Host::start(&[]);
    let place = host.place("metrics");

    let wanted_states = ["queued", "fetching", "ready", "done", "failed"];
    let wanted_reasons = ["gated", "not_found", "unsafe_format", "insufficient_disk"];
    let (mut states, mut reasons, mut kinds) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    host.daemon.wait_until("/v1/jobs?limit=200", PATIENCE, |answer| {
        for job in answer["jobs"].as_array().into_iter().flatten() {
            states.insert(word(&job["state"]));
            if job["state"] == "failed" {
                reasons.insert(word(&job["reason"]));
            }
            if job["state"] == "done" {
                kinds.insert(word(&job["kind"]));
            }
        }
        let has = |seen: &BTreeSet<String>, wanted: &[&str]| wanted.iter().all(|one| seen.contains(*one));
        has(&states, &wanted_states) && has(&reasons, &wanted_reasons) && kinds.len() >= 2
    });

    let begun = Instant::now();
    let (mut seen, mut evicted) = (BTreeSet::new(), 0.0);
    while seen.len() < 3 || evicted == 0.0 {
        assert!(begun.elapsed() < PATIENCE, "{seen:?}, {evicted} evictions");
        let text = scrape(&place);
        let used = series(&text, "larder_gpu_memory_used_bytes");
        assert!(used.len() <= 4 && series(&text, "larder_gpu_info").len() == 4, "{used:?}");
        seen.insert(format!("{used:?}"));
        let evictions = series(&text, "larder_evictions_total");
        evicted = evictions.iter().filter_map(|(_, value)| value.parse::<f64>().ok()).sum();
        std::thread::sleep(Duration::from_millis(200));
    }

    host.end();
}

#[test]
fn a_mistyped_flag_is_told_and_a_taken_port_too() {
    assert_eq!(
        format!("{:?}", host::run(["--listne".to_owned(), "x".to_owned()].into_iter())),
        format!("{:?}", std::process::ExitCode::from(2))
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let failed = host::run(["--listen".to_owned(), address].into_iter());
    assert_eq!(format!("{failed:?}"), format!("{:?}", std::process::ExitCode::FAILURE));
}
