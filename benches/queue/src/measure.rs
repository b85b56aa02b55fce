//! The measurements: each on a fresh server, each program a process of its own.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use queue_bench::Report;

use crate::contender::Contender;
use crate::server::{Guarded, Server};

/// Jobs whose start latency is measured.
const STARTS: u64 = 300;
/// The small backlog.
const SMALL: u64 = 2_000;
/// The large backlog, and how many of its jobs are measured.
const LARGE: (u64, u64) = (100_000, 5_000);
/// The most seconds for the small and the large backlog.
const RATE_SECONDS: (u64, u64) = (30, 10);
/// How long an idle worker is watched, and how long it may settle before.
const IDLE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(3));
/// Jobs whose memory is measured.
const KEPT: u64 = 10_000;
/// Bounds of what a program may take until it says the next thing.
const READY: Duration = Duration::from_secs(20);
/// A worker that has lost its timer asks again at its heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(40);
const PRELOAD: Duration = Duration::from_secs(100);

/// A rate with what it was measured over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
    /// Whether time ran out before the jobs were done.
    pub(crate) cut: bool,
}

/// Commands per second of an idle worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) processed: f64,
    pub(crate) calls: f64,
}

/// All that is known about one contender; an error is a finding too.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) start: Result<(f64, f64)>,
    pub(crate) small: Result<Rate>,
    pub(crate) large: Result<Rate>,
    pub(crate) idle: Result<Idle>,
    pub(crate) memory: Result<f64>,
}

/// Measures one contender.
pub(crate) fn all(contender: Contender) -> Results {
    fn step<T: fmt::Debug>(name: &str, what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let result = run();
        let seconds = begun.elapsed().as_secs_f64();
        match &result {
            Ok(value) => eprintln!("{name}: {what}: {value:?} ({seconds:.0} s)"),
            Err(error) => eprintln!("{name}: {what}: {error:#} ({seconds:.0} s)"),
        }
        result
    }
    let name = contender.name;
    Results {
        start: step(name, "start latency, ms", || start(contender)),
        idle: step(name, "idle", || idle(contender)),
        memory: step(name, "bytes for a job", || memory(contender)),
        small: step(name, "small backlog", || rate(contender, SMALL, SMALL, RATE_SECONDS.0)),
        large: step(name, "large backlog", || rate(contender, LARGE.0, LARGE.1, RATE_SECONDS.1)),
    }
}

fn start(contender: Contender) -> Result<(f64, f64)> {
    let server = Server::start()?;
    // The worker's own bound does not matter here, the number of jobs ends it.
    let mut worker = Program::worker(contender, &server, STARTS, 600)?;
    std::thread::sleep(IDLE.1);
    let mut enqueuer = Program::start(contender, &server, &["enqueue", &STARTS.to_string()])?;
    enqueuer.finish(Duration::from_secs(60))?;
    let mut latencies = worker.report(HEARTBEAT)?.latencies;
    latencies.sort_unstable();
    if latencies.is_empty() {
        bail!("no job began");
    }
    let at = |share: f64| {
        let place = (share * latencies.len() as f64).ceil() as usize;
        latencies[place.clamp(1, latencies.len()) - 1] as f64 / 1000.0
    };
    Ok((at(0.50), at(0.99)))
}

fn rate(contender: Contender, backlog: u64, jobs: u64, seconds: u64) -> Result<Rate> {
    let server = Server::start()?;
    let mut preload = Program::start(contender, &server, &["preload", &backlog.to_string()])?;
    preload.finish(PRELOAD).with_context(|| format!("filling the queue with {backlog} jobs"))?;
    let mut worker = Program::worker(contender, &server, jobs, seconds)?;
    let report = worker.report(Duration::from_secs(seconds + 15))?;
    let seconds = (report.last - report.first) as f64 / 1e6;
    Ok(Rate { per_second: report.jobs as f64 / seconds, jobs: report.jobs, seconds, cut: report.jobs < jobs })
}

fn idle(contender: Contender) -> Result<Idle> {
    let mut server = Server::start()?;
    let mut worker = Program::worker(contender, &server, 1, 600)?;
    std::thread::sleep(IDLE.1);
    let (before, begun) = (server.info()?, Instant::now());
    std::thread::sleep(IDLE.0);
    let (after, seconds) = (server.info()?, begun.elapsed().as_secs_f64());
    worker.alive()?;
    let calls = |info: &crate::server::Info| info.calls().values().sum::<u64>();
    // Each INFO is counted when it is over, so the first of the two is in the difference.
    let processed =
        after.number("total_commands_processed")? - before.number("total_commands_processed")? - 1;
    let called = calls(&after) - calls(&before) - 1;
    let busiest = before.calls();
    for (name, count) in after.calls() {
        let grown = count - busiest.get(name).copied().unwrap_or(0);
        if grown > 0 {
            eprintln!("  {name}: {:.2}/s", grown as f64 / seconds);
        }
    }
    Ok(Idle { processed: processed as f64 / seconds, calls: called as f64 / seconds })
}

fn memory(contender: Contender) -> Result<f64> {
    let mut server = Server::start()?;
    let empty = server.info()?.number("used_memory")?;
    Program::start(contender, &server, &["preload", &KEPT.to_string()])?.finish(PRELOAD)?;
    // Buffers of the connections that have just closed, and of the file, go back.
    std::thread::sleep(Duration::from_secs(2));
    let full = server.info()?.number("used_memory")?;
    Ok(full.saturating_sub(empty) as f64 / KEPT as f64)
}

/// A contender's program; it ends with this value.
struct Program {
    process: Guarded,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    fn start(contender: Contender, server: &Server, args: &[&str]) -> Result<Self> {
        let mut command = contender.program();
        command.args(args).env("REDIS_URL", server.url());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", contender.name))?;
        let (lines, errors) = (read_lines(&mut child)?, read_errors(&mut child)?);
        Ok(Self { process: Guarded(child), lines, errors: Some(errors) })
    }

    fn worker(contender: Contender, server: &Server, jobs: u64, seconds: u64) -> Result<Self> {
        let (jobs, seconds) = (jobs.to_string(), seconds.to_string());
        let concurrency = contender.concurrency.to_string();
        let mut worker = Self::start(contender, server, &["worker", &jobs, &seconds, &concurrency])?;
        worker.line(READY)?;
        Ok(worker)
    }

    fn report(&mut self, within: Duration) -> Result<Report> {
        let line = self.line(within)?;
        serde_json::from_str(&line).with_context(|| line)
    }

    fn line(&mut self, within: Duration) -> Result<String> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("nothing for {} s; {}", within.as_secs(), self.said()),
            Err(RecvTimeoutError::Disconnected) => bail!("the program ended: {}", self.said()),
        }
    }

    fn alive(&mut self) -> Result<()> {
        match self.process.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the worker ended with {status}: {}", self.said()),
        }
    }

    fn finish(&mut self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.process.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the program ended with {status}: {}", self.said()),
                None if begun.elapsed() > within => bail!("not done in {} s", within.as_secs()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Ends the program and returns the last line that it wrote about its trouble.
    fn said(&mut self) -> String {
        // It may have ended by itself.
        let _ = self.process.0.kill();
        let text = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        last.unwrap_or("no message").chars().take(300).collect()
    }
}

fn read_lines(child: &mut Child) -> Result<Receiver<String>> {
    let out = child.stdout.take().context("no standard output")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Ends when the program does, or when nobody reads on.
        BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.starts_with('{'))
            .try_for_each(|line| sender.send(line))
    });
    Ok(receiver)
}

fn read_errors(child: &mut Child) -> Result<std::thread::JoinHandle<String>> {
    let mut err = child.stderr.take().context("no standard error")?;
    Ok(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = err.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}
