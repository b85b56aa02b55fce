//! The Markdown between the two marker comments of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::client::{self, Client};
use crate::gates;
use crate::model::Model;
use crate::scenario::{Results, Row, Scenario, spread};

const BEGIN: &str = "<!-- transfer-bench: begin -->";
const END: &str = "<!-- transfer-bench: end -->";
const HEAD: &str = "\
| client | wall, s | least to greatest | / larder | CPU, s | CPU s/GiB | peak RSS, MiB | requests/file | listings \
| hub CPU, s |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Machine, tables and notes of one run.
pub(crate) fn render(machine: &str, rounds: usize, results: &Results) -> Result<String> {
    let mut text = format!("{machine}\n\n{}", gates::render(results)?);
    let mut notes = Vec::new();
    for (scenario, rows) in &results.tables {
        let model = results.models.of(*scenario);
        write!(text, "\n### {}\n\n{HEAD}", title(*scenario, model))?;
        for row in rows {
            writeln!(text, "{}", line(row, rows, model, rounds, &mut notes)?)?;
        }
        if *scenario == Scenario::Plain
            && let Some(sum) = hashing(results, model)
        {
            write!(text, "\n{sum}\n")?;
        }
    }
    text.push_str(&warm(results)?);
    if !notes.is_empty() {
        text.push('\n');
    }
    for (place, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}", place + 1)?;
    }
    text.push_str("\nHow each is started:\n\n");
    for client in client::ALL {
        writeln!(text, "- {}: {}.", client.name(), client.setup())?;
    }
    Ok(text)
}

fn title(scenario: Scenario, model: &Model) -> String {
    let bytes = match model.bytes as f64 {
        bytes if bytes >= GIB => format!("{:.1} GiB", bytes / GIB),
        bytes => format!("{:.1} MiB", bytes / MIB),
    };
    let what = format!("{bytes} in {} files", thousands(model.files));
    match scenario {
        Scenario::Plain => format!("{what}, tmpfs"),
        Scenario::Cdn => format!("{what}, tmpfs, \"CDN\""),
        Scenario::Disk => format!("{what}, disk"),
        Scenario::Small | Scenario::Tiny => format!("{what}, not in LFS, tmpfs"),
    }
}

fn line(row: &Row, rows: &[Row], model: &Model, rounds: usize, notes: &mut Vec<String>) -> Result<String> {
    let mut name = row.client.version()?;
    let mut note = |text: String| {
        notes.push(text);
        format!(" ({})", notes.len())
    };
    if let Some(error) = &row.error {
        let text = error.replace('|', "\\|").replace(['<', '>'], "`");
        name += &note(format!("{}: fails: {text}", row.client.name()));
    } else if row.outcomes.len() < rounds {
        let runs = plural(row.outcomes.len(), "run");
        name += &note(format!("{}: {runs} only, since it takes so long", row.client.name()));
    }
    let Some((wall, least, greatest)) = row.spread(|outcome| outcome.wall) else {
        return Ok(format!("| {name} | fails | | | | | | | | |"));
    };
    let median = |of: fn(&crate::measure::Outcome) -> f64| row.spread(of).map_or(0.0, |spread| spread.0);
    let larder = rows.iter().find(|row| row.client == Client::Larder);
    let larder = larder.and_then(|row| row.spread(|outcome| outcome.wall));
    let over = larder.map_or("–".into(), |(larder, _, _)| format!("{:.2}", wall / larder));
    let cpu = median(|outcome| outcome.cpu);
    let per_gib = cpu / (model.bytes as f64 / GIB);
    let per_gib = if model.bytes as f64 >= GIB / 8.0 { format!("{per_gib:.2}") } else { "–".into() };
    let rss = row.spread(|outcome| outcome.rss as f64).map_or(0.0, |(_, _, greatest)| greatest / MIB);
    let (requests, listings, hub) = if row.client.is_download() {
        let per_file = median(|outcome| outcome.requests as f64) / model.files as f64;
        let listings = median(|outcome| outcome.listings as f64);
        let hub = median(|outcome| outcome.hub_cpu);
        (format!("{per_file:.2}"), format!("{listings:.0}"), format!("{hub:.2}"))
    } else {
        ("–".into(), "–".into(), "–".into())
    };
    Ok(format!(
        "| {name} | {wall:.2} | {least:.2} to {greatest:.2} | {over} | {cpu:.2} | {per_gib} | {rss:.0} | {requests} \
         | {listings} | {hub} |"
    ))
}

/// CPU for a GiB beside the least that fetching and hashing can cost.
fn hashing(results: &Results, model: &Model) -> Option<String> {
    let gib = model.bytes as f64 / GIB;
    let cpu = |client| Some(results.median(Scenario::Plain, client, |outcome| outcome.cpu)? / gib);
    let (larder, curl, hash) = (cpu(Client::Larder)?, cpu(Client::Curl)?, cpu(Client::Sha256)?);
    Some(format!(
        "CPU seconds for a GiB: larder {larder:.2}; curl {curl:.2} + openssl sha256 {hash:.2} = {:.2}; ratio {:.2}.",
        curl + hash,
        larder / (curl + hash)
    ))
}

fn warm(results: &Results) -> Result<String> {
    if results.warm.is_empty() {
        return Ok(String::new());
    }
    let mut text = String::from(
        "\n### `larder stage` with everything present, tmpfs\n\n\
         | model | runs | median, ms | least to greatest |\n|---|---:|---:|---:|\n",
    );
    for (scenario, walls) in &results.warm {
        let files = thousands(results.models.of(*scenario).files);
        match walls {
            Ok(walls) => {
                let (median, least, greatest) = spread(walls.clone()).unwrap_or_default();
                let [median, least, greatest] = [median, least, greatest].map(|seconds| seconds * 1_000.0);
                let runs = walls.len();
                writeln!(text, "| {files} files | {runs} | {median:.1} | {least:.1} to {greatest:.1} |")?;
            }
            Err(error) => writeln!(text, "| {files} files | fails: {error} | | |")?,
        }
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

/// The machine, in one paragraph.
pub(crate) fn machine(rounds: usize, load: &str) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let sha = if field("/proc/cpuinfo", "flags").contains("sha_ni") { "with" } else { "without" };
    format!(
        "{}, {cores} cores {sha} SHA instructions, {:.0} GiB of memory, Linux {}. {}, load average before the \
         first: {load}.",
        field("/proc/cpuinfo", "model name"),
        kilobytes / 1024.0 / 1024.0,
        kernel.trim(),
        plural(rounds, "round"),
    )
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn thousands(value: u64) -> String {
    if value < 1_000 { value.to_string() } else { format!("{},{:03}", value / 1_000, value % 1_000) }
}

fn plural(count: usize, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}
