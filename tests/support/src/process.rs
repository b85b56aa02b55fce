//! Child processes that cannot outlive their time: output read by threads, exit awaited by a thread, end enforced.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How long the last words of a child that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 and the signal's number when a signal ended it, as shells count.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

impl Output {
    /// Panics with both outputs unless the code is `code`; returns itself for chaining.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert!(!self.timed_out, "the command did not end in time\nstdout:\n{stdout}\nstderr:\n{stderr}");
        assert_eq!(self.code, code, "exit code\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Standard output as one JSON document; panics when it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("stdout is no JSON: {error}\n{}\nstderr:\n{}", self.stdout, self.stderr),
        }
    }
}

pub(crate) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A child whose end is awaited by a thread.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    exit: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let pid = Pid::from_child(&child);
        let (ended, exit) = channel();
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                ended.send(status).ok();
            }
        });
        Self { pid, exit, status: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// The status, if it ends within the time.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match self.exit.recv_timeout(timeout) {
                Ok(status) => Some(status),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for process {}", self.pid()),
            };
        }
        self.status
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.wait(Duration::ZERO).is_none() {
            kill_process(self.pid, signal).ok();
        }
    }

    /// SIGSTOP, and wait until it stands still.
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::STOP);
        // Reaps nothing; an error says that the child is gone, and then it stands still as well.
        waitid(WaitId::Pid(self.pid), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).ok();
    }

    /// SIGKILL, and wait until it is gone.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(30)).expect("SIGKILL ends a process")
    }
}

/// Lines of a child's output, as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    inner: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    /// Outputs of which more may come.
    open: usize,
}

impl Lines {
    pub(crate) fn follow(&self, source: impl Read + Send + 'static) {
        let lines = self.clone();
        self.said().open += 1;
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.said().lines.push(text);
                lines.inner.1.notify_all();
                line.clear();
            }
            lines.said().open -= 1;
            lines.inner.1.notify_all();
        });
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.inner.0.lock().expect("no reader panics")
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.said().lines.clone()
    }

    /// After the child's end: waits until its last words were read. Grandchildren may hold the outputs open.
    pub(crate) fn wait_end(&self) {
        let open = |said: &mut Said| said.open > 0;
        drop(self.inner.1.wait_timeout_while(self.said(), LAST_WORDS, open).expect("no reader panics"));
    }

    /// The first line that `wanted` accepts, waiting for it.
    pub(crate) fn wait(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut seen = 0;
        let missing = |said: &mut Said| {
            let none = said.lines[seen..].iter().all(|line| !wanted(line));
            seen = if none { said.lines.len() } else { seen };
            none
        };
        let waited = self.inner.1.wait_timeout_while(self.said(), timeout, missing);
        let (said, _) = waited.expect("no reader panics");
        said.lines.iter().find(|line| wanted(line)).cloned()
    }
}

/// Starts the command with its outputs followed line by line.
pub(crate) fn spawn_followed(command: &mut Command, lines: &Lines) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    lines.follow(child.stdout.take().expect("stdout is piped"));
    lines.follow(child.stderr.take().expect("stderr is piped"));
    Running::new(child)
}

/// Runs the command to its end; kills it when the time is over.
pub fn run(command: &mut Command, timeout: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stdout = drain(child.stdout.take().expect("stdout is piped"));
    let stderr = drain(child.stderr.take().expect("stderr is piped"));
    let mut running = Running::new(child);
    let status = running.wait(timeout);
    let timed_out = status.is_none();
    let status = status.unwrap_or_else(|| running.kill());
    // Grandchildren may hold the pipes open; what they write later is not waited for.
    let text = |output: Receiver<String>| output.recv_timeout(LAST_WORDS).unwrap_or_default();
    Output { code: code_of(status), stdout: text(stdout), stderr: text(stderr), timed_out }
}

fn drain(mut source: impl Read + Send + 'static) -> Receiver<String> {
    let (done, output) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).ok();
        done.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    output
}
