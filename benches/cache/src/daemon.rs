//! A running `larder serve`, and requests over its unix socket.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::programs::Larder;

/// The most that the start may take: the first one adopts every model.
const START: Duration = Duration::from_secs(300);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// A daemon that ends with this value.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Child,
    socket: PathBuf,
    /// Seconds from before its start until its first answer.
    pub(crate) start: f64,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub(crate) fn start(larder: &Larder) -> Result<Self> {
        let mut command = larder.command(&["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        let process = command.spawn().context("larder serve cannot be started")?;
        let socket = larder.state.join("larder.sock");
        let mut daemon = Self { process, socket, start: 0.0 };
        while daemon.ask("/healthz").is_err() {
            if let Some(status) = daemon.process.try_wait()? {
                bail!("larder serve ended before it answered: {status}");
            }
            ensure!(begun.elapsed() < START, "larder serve did not answer within {} s", START.as_secs());
            sleep(Duration::from_millis(1));
        }
        daemon.start = begun.elapsed().as_secs_f64();
        Ok(daemon)
    }

    /// The answer to a GET, which must be a good one, and the seconds from the connection to its last byte.
    pub(crate) fn ask(&self, path: &str) -> Result<(String, f64)> {
        let begun = Instant::now();
        let mut stream = UnixStream::connect(&self.socket)?;
        // By HTTP/1.0 the answer is one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: larder\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok((body(&answer).with_context(|| path.to_owned())?.to_owned(), seconds))
    }

    /// Its resident memory now, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has no memory")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1_024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended and was waited for must not be signalled: its number may be another's.
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let asked = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let begun = Instant::now();
        while asked.is_ok() && begun.elapsed() < STOP {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        eprintln!("larder serve does not stop when asked, and is killed");
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What follows the head of an answer with status 200.
fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "status {status}: {body}");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\na: b\r\n\r\n{}\r\n\r\n").unwrap(), "{}\r\n\r\n");
        assert!(body("HTTP/1.0 404 Not Found\r\n\r\nnone").unwrap_err().to_string().contains("404: none"));
        assert!(body("").is_err());
    }
}
