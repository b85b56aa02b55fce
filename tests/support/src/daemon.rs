//! A guard for a daemon under test: it speaks the daemon's unix socket, reads its log, ends it, and then looks at what
//! it left behind. Jobs that hang, partial files and ERROR lines fail the test even where no assertion looks for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::cache::partials;
use crate::http::Place;
use crate::process::{Lines, Running, spawn_followed};

/// How long a daemon may take to stop when the guard asks it to.
const PATIENCE: Duration = Duration::from_secs(30);

/// States of a job that has ended.
const ENDED: [&str; 4] = ["ready", "done", "failed", "cancelled"];

/// Where the daemon keeps its things.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Its state folder; the unix socket is `larder.sock` in it.
    pub state_dir: PathBuf,
    /// The hub cache that it fills.
    pub cache_dir: PathBuf,
}

/// What fails a test when a daemon leaves it behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tripwire {
    /// Jobs that had not ended when it was told to stop.
    Jobs,
    /// `*.part`, `*.incomplete`, `*.tmp` anywhere under the cache.
    Partials,
    /// Lines with `ERROR` in its output.
    Errors,
}

/// An answer of the daemon's API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body as it came.
    pub text: String,
    /// Body as JSON, `null` when it is none.
    pub json: Value,
}

impl Answer {
    /// Panics with the body unless the status is `status`; returns the JSON.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "HTTP status; body: {}", self.text);
        self.json
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    lines: Lines,
    options: DaemonOptions,
    client: Client,
    allowed: Vec<Tripwire>,
    /// Whether it was ended by the test itself.
    stopped: bool,
    open_jobs: Vec<String>,
}

impl Daemon {
    /// Starts the command; its outputs are read from now on.
    pub fn spawn(mut command: Command, options: DaemonOptions) -> Self {
        let lines = Lines::default();
        let running = spawn_followed(&mut command, &lines);
        let client = Client::new(&options.state_dir.join("larder.sock"));
        Self { running, lines, options, client, allowed: Vec::new(), stopped: false, open_jobs: Vec::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.options.state_dir.join("larder.sock")
    }

    /// Its unix socket, for requests written by hand.
    pub fn place(&self) -> Place {
        Place::Unix(self.socket())
    }

    /// The TCP address that it says it serves on; panics when its log names none.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let line = self.wait_line(|line| line.contains("larder serves"), PATIENCE);
        let logged = line.and_then(|line| serde_json::from_str::<Value>(&line).ok());
        let address = logged.as_ref().and_then(|logged| logged["address"].as_str()?.parse().ok());
        address.unwrap_or_else(|| panic!("no address in the log\n{}", self.logs().join("\n")))
    }

    /// Both outputs so far, line by line in the order in which they were read.
    pub fn logs(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Waits for an output line (earlier ones count); `None` when the time is over.
    pub fn wait_line(&self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Option<String> {
        self.lines.wait(timeout, wanted)
    }

    /// Waits until `GET /readyz` on this socket answers 200; panics with the log when the daemon ends before, and when
    /// the time is over.
    #[track_caller]
    pub fn wait_ready(&mut self, socket: &Path, timeout: Duration) {
        let client = Client::new(socket);
        let start = Instant::now();
        while !client.request("GET", "/readyz", None).is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = self.running.wait(Duration::from_millis(20)) {
                self.stopped = true;
                panic!("the daemon ended ({status}) before it was ready\n{}", self.logs().join("\n"));
            }
            assert!(start.elapsed() < timeout, "not ready after {timeout:?}\n{}", self.logs().join("\n"));
        }
    }

    /// GET over the unix socket; panics when there is no answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None)
    }

    /// POST of a JSON body over the unix socket.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, Some(body))
    }

    /// Any method over the unix socket.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.client.request(method, path, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.logs().join("\n")))
    }

    /// Waits until `GET path` gives a JSON that `wanted` accepts, and returns it; panics when the time is over.
    #[track_caller]
    pub fn wait_until(&self, path: &str, timeout: Duration, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.get(path);
            if wanted(&answer.json) {
                return answer.json;
            }
            let waited = start.elapsed();
            assert!(waited < timeout, "{path} after {waited:?}: {}\n{}", answer.text, self.logs().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the job has ended, and returns it.
    #[track_caller]
    pub fn wait_job(&self, id: &str, timeout: Duration) -> Value {
        let ended = |job: &Value| job["state"].as_str().is_some_and(|state| ENDED.contains(&state));
        self.wait_until(&format!("/v1/jobs/{id}"), timeout, ended)
    }

    /// This daemon may leave that behind.
    pub fn allow(&mut self, tripwire: Tripwire) -> &mut Self {
        self.allowed.push(tripwire);
        self
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.wait(Duration::ZERO).is_none()
    }

    /// Waits for it to end by itself.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let status = self.running.wait(timeout)?;
        self.stopped = true;
        self.lines.wait_end();
        Some(status)
    }

    /// Any signal, without waiting.
    pub fn signal(&mut self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Power cut: SIGKILL. What it had under way (jobs, partial files) is then allowed to lie around.
    pub fn kill9(&mut self) {
        self.running.kill();
        self.stopped = true;
        self.allowed.extend([Tripwire::Jobs, Tripwire::Partials]);
    }

    /// SIGTERM, and wait; panics with the log when it does not end in time (after killing it).
    #[track_caller]
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.note_open_jobs();
        self.stopped = true;
        self.running.signal(Signal::TERM);
        let Some(status) = self.running.wait(timeout) else {
            self.running.kill();
            panic!("the daemon did not stop within {timeout:?}\n{}", self.logs().join("\n"));
        };
        self.lines.wait_end();
        status
    }

    fn note_open_jobs(&mut self) {
        let Ok(answer) = self.client.request("GET", "/v1/jobs", None) else { return };
        let jobs = answer.json.get("jobs").unwrap_or(&answer.json).as_array().cloned().unwrap_or_default();
        let open = jobs.iter().filter(|job| !ENDED.contains(&job["state"].as_str().unwrap_or_default()));
        self.open_jobs = open.map(|job| format!("{} is {}", job["id"], job["state"])).collect();
    }

    fn findings(&self) -> Vec<String> {
        let watches = |tripwire| !self.allowed.contains(&tripwire);
        let mut findings = Vec::new();
        if watches(Tripwire::Jobs) {
            findings.extend(self.open_jobs.iter().map(|job| format!("job left open: {job}")));
        }
        if watches(Tripwire::Partials) {
            let left = partials(&self.options.cache_dir);
            findings.extend(left.iter().map(|path| format!("partial file left: {}", path.display())));
        }
        if watches(Tripwire::Errors) {
            let errors = self.logs().into_iter().filter(|line| line.contains("ERROR"));
            findings.extend(errors.map(|line| format!("error in the log: {line}")));
        }
        findings
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if !self.stopped && self.is_running() {
            if !panicking {
                self.note_open_jobs();
            }
            self.running.signal(Signal::TERM);
            if self.running.wait(PATIENCE).is_none() {
                self.running.kill();
                assert!(panicking, "the daemon did not stop within {PATIENCE:?}\n{}", self.logs().join("\n"));
            }
        }
        self.lines.wait_end();
        if panicking {
            eprintln!("--- log of the daemon ---\n{}", self.logs().join("\n"));
            return;
        }
        let findings = self.findings();
        assert!(
            findings.is_empty(),
            "the daemon left:\n{}\n--- log ---\n{}",
            findings.join("\n"),
            self.logs().join("\n")
        );
    }
}

/// A blocking client on a unix socket. Each request runs on a thread of its own, so a test that is itself asynchronous
/// may use it.
#[derive(Clone, Debug)]
struct Client {
    socket: PathBuf,
}

impl Client {
    fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let method = method.parse::<reqwest::Method>().map_err(|error| error.to_string())?;
        let ask = || -> Result<Answer, Box<dyn std::error::Error>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = reqwest::Client::builder().unix_socket(self.socket.as_path());
                let client = client.timeout(Duration::from_secs(30)).build()?;
                let mut request = client.request(method, format!("http://localhost{path}"));
                if let Some(body) = body {
                    request = request.json(body);
                }
                let response = request.send().await?;
                let status = response.status().as_u16();
                let text = response.text().await?;
                let json = serde_json::from_str(&text).unwrap_or(Value::Null);
                Ok(Answer { status, text, json })
            })
        };
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask().map_err(|error| error.to_string()));
            asked.join().unwrap_or_else(|_| Err("the client panicked".into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn guard(script: &str) -> (Daemon, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("temp folder");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let options =
            DaemonOptions { state_dir: dir.path().join("state"), cache_dir: dir.path().join("hub") };
        (Daemon::spawn(command, options), dir)
    }

    fn failure_of(drop_it: impl FnOnce() + std::panic::UnwindSafe) -> Option<String> {
        std::panic::catch_unwind(drop_it).err().map(|panic| *panic.downcast::<String>().expect("a message"))
    }

    #[test]
    fn a_tidy_daemon_passes() {
        let (mut daemon, _dir) = guard("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        assert_eq!(daemon.wait_line(|line| line == "up", PATIENCE).as_deref(), Some("up"));
        assert!(daemon.terminate(PATIENCE).success());
        assert!(daemon.wait_line(|line| line == "bye", PATIENCE).is_some());
    }

    #[test]
    fn error_lines_and_partial_files_fail_the_test() {
        let (daemon, dir) = guard("echo '2024 ERROR it broke'; exec sleep 100");
        std::fs::create_dir_all(dir.path().join("hub/models--a--b/blobs")).expect("folders");
        std::fs::write(dir.path().join("hub/models--a--b/blobs/x.incomplete"), "").expect("writes");
        assert!(daemon.wait_line(|line| line.contains("broke"), PATIENCE).is_some());
        let message = failure_of(std::panic::AssertUnwindSafe(|| drop(daemon))).expect("it fails");
        assert!(message.contains("it broke") && message.contains("x.incomplete"), "{message}");
    }

    #[test]
    fn what_is_allowed_passes_and_kill_needs_no_permission() {
        let (mut daemon, _dir) = guard("echo ERROR; exec sleep 100");
        assert!(daemon.wait_line(|line| line == "ERROR", PATIENCE).is_some());
        daemon.allow(Tripwire::Errors);
        daemon.kill9();
        assert!(!daemon.is_running());
    }

    /// Answers every request on the socket with this JSON, for as long as the test lives.
    fn answering(socket: PathBuf, body: &'static str) {
        std::fs::create_dir_all(socket.parent().expect("a folder")).expect("the state folder");
        let listener = UnixListener::bind(socket).expect("binds");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let n = stream.read(&mut head).unwrap_or(0);
                let status = if head[..n].starts_with(b"POST") { "202 Accepted" } else { "200 OK" };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).ok();
            }
        });
    }

    #[test]
    fn open_jobs_fail_the_test() {
        let (mut daemon, _dir) = guard("exec sleep 100");
        answering(
            daemon.socket(),
            r#"{"jobs":[{"id":"j1","state":"ready"},{"id":"j2","state":"fetching"}]}"#,
        );
        let socket = daemon.socket();
        daemon.wait_ready(&socket, PATIENCE);
        assert_eq!(daemon.post("/v1/jobs", &serde_json::json!({})).expect(202)["jobs"][0]["id"], "j1");
        let message = failure_of(std::panic::AssertUnwindSafe(|| drop(daemon))).expect("it fails");
        assert!(message.contains("j2") && !message.contains("j1"), "{message}");
    }
}
