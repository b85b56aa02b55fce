//! The Markdown between the two marker comments of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::contender::{ALL, Contender};
use crate::measure::{Rate, Results};

const BEGIN: &str = "<!-- queue-bench: begin -->";
const END: &str = "<!-- queue-bench: end -->";
const HEAD: &str = "\
| queue | start p50, ms | start p99, ms | jobs/s, 2,000 queued | jobs/s, 100,000 queued | idle commands/s \
| idle calls/s | bytes/job |
|---|---:|---:|---:|---:|---:|---:|---:|
";

/// Machine, table and notes of one run.
pub(crate) fn render(machine: &str, measured: &[(Contender, Results)]) -> Result<String> {
    let mut notes = Notes::default();
    let mut rows = String::new();
    for contender in ALL {
        let version = contender.version()?;
        let Some((_, results)) = measured.iter().find(|(other, _)| *other == contender) else {
            writeln!(rows, "| {version} | not run | | | | | | |")?;
            continue;
        };
        let (p50, p99) = match &results.start {
            Ok((p50, p99)) => (format!("{p50:.2}"), format!("{p99:.2}")),
            Err(error) => (notes.error(contender, error), "–".into()),
        };
        let (idle, calls) = match &results.idle {
            Ok(idle) => (format!("{:.2}", idle.processed), format!("{:.2}", idle.calls)),
            Err(error) => (notes.error(contender, error), "–".into()),
        };
        let small = notes.rate(contender, &results.small);
        let large = notes.rate(contender, &results.large);
        let memory = match &results.memory {
            Ok(bytes) => thousands(*bytes),
            Err(error) => notes.error(contender, error),
        };
        writeln!(rows, "| {version} | {p50} | {p99} | {small} | {large} | {idle} | {calls} | {memory} |")?;
    }
    let mut text = format!("{machine}\n\n{HEAD}{rows}");
    if !notes.0.is_empty() {
        text.push('\n');
    }
    for (place, note) in notes.0.iter().enumerate() {
        writeln!(text, "{}. {note}", place + 1)?;
    }
    text.push_str("\nHow each is set up:\n\n");
    for contender in ALL {
        writeln!(text, "- {}: {}.", contender.name, contender.setup)?;
    }
    Ok(text)
}

/// Replaces what stands between the markers in `file`.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let (before, rest) = old.split_once(BEGIN).context("the first marker is missing")?;
    let (_, after) = rest.split_once(END).context("the last marker is missing")?;
    fs::write(file, format!("{before}{BEGIN}\n{text}{END}{after}"))?;
    Ok(())
}

/// The machine and its Redis, in one paragraph.
pub(crate) fn machine(redis: &str, load: &str) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {cores} cores, {:.0} GiB of memory, Linux {}, Redis {redis}. Load average before the run: {load}.",
        field("/proc/cpuinfo", "model name"),
        kilobytes / 1024.0 / 1024.0,
        kernel.trim(),
    )
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, note: String) -> usize {
        self.0.push(note);
        self.0.len()
    }

    fn error(&mut self, contender: Contender, error: &anyhow::Error) -> String {
        let text = format!("{error:#}").replace('|', "\\|").replace(['<', '>'], "`");
        format!("fails ({})", self.add(format!("{}: {text}", contender.name)))
    }

    fn rate(&mut self, contender: Contender, rate: &Result<Rate>) -> String {
        match rate {
            Ok(rate) if rate.cut => {
                let note =
                    format!("{}: time ran out, {} jobs in {:.1} s", contender.name, rate.jobs, rate.seconds);
                format!("{} ({})", thousands(rate.per_second), self.add(note))
            }
            Ok(rate) => thousands(rate.per_second),
            Err(error) => self.error(contender, error),
        }
    }
}

fn thousands(value: f64) -> String {
    let value = value.round() as u64;
    if value < 1_000 { value.to_string() } else { format!("{},{:03}", value / 1_000, value % 1_000) }
}
