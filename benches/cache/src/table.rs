//! The Markdown between the two marker comments of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::listing::Listing;
use crate::plans::Plans;
use crate::programs::Hub;
use crate::series::Series;
use crate::tree::Shape;

const BEGIN: &str = "<!-- cache:begin -->";
const END: &str = "<!-- cache:end -->";
const MIB: f64 = 1024.0 * 1024.0;

/// Everything that was measured, and of what.
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) listed: Shape,
    pub(crate) listing: Listing,
    pub(crate) planned: Shape,
    pub(crate) plans: Plans,
}

/// The machine, the targets and both tables.
pub(crate) fn render(results: &Results) -> Result<String> {
    let mut text = format!("{}\n\n{}", results.machine, targets(results)?);
    write!(text, "\n### Listing {}\n\n{}", title(results.listed), listing(&results.listing)?)?;
    write!(text, "\n### Eviction plans over {}\n\n{}", title(results.planned), plans(&results.plans)?)?;
    Ok(text)
}

fn title(shape: Shape) -> String {
    let [repos, files] = [shape.repos, shape.repos * shape.files].map(thousands);
    format!("{repos} models, {files} files")
}

fn targets(results: &Results) -> Result<String> {
    let mut text = String::from("| target | wanted | measured | reached |\n|---|---:|---:|---|\n");
    let plans = results.plans.rows.iter();
    let plans = plans.map(|row| {
        (format!("eviction plan for {}, not a daemon's first", row.free.name()), &row.later, 50.0)
    });
    let all = [
        ("`larder ls`, a daemon serves".to_owned(), &results.listing.served, 50.0),
        ("walk of the cache and comparison with the records".to_owned(), &results.listing.walk, 500.0),
    ];
    for (what, series, limit) in all.into_iter().chain(plans) {
        let median = series.spread().context("nothing was measured")?.median * 1_000.0;
        let reached = if median <= limit { "yes" } else { "**no**" };
        writeln!(text, "| {what} | at most {limit} ms | {} ms | {reached} |", number(median))?;
    }
    Ok(text)
}

fn listing(listing: &Listing) -> Result<String> {
    let hub = Hub::version()?;
    let rows = [
        (format!("`hf cache ls` {hub}"), &listing.hf),
        (format!("Python process with `scan_cache_dir` {hub}"), &listing.scan),
        ("`scan_cache_dir` alone, inside that process".into(), &listing.call),
        ("`larder ls`, a daemon serves".into(), &listing.served),
        ("`larder ls`, nobody serves".into(), &listing.alone),
        ("— until its records agree with the cache".into(), &listing.walk),
        ("— the same with an empty cache".into(), &listing.empty),
        ("`larder serve`, until it answers".into(), &listing.start),
    ];
    let mut text =
        String::from("| what | median, ms | least to greatest | memory, MiB |\n|---|---:|---:|---:|\n");
    for (what, series) in rows {
        let [median, ends] = cells(series)?;
        writeln!(text, "| {what} | {median} | {ends} | {} |", memory(series))?;
    }
    Ok(text)
}

fn plans(plans: &Plans) -> Result<String> {
    let mut text = String::from(
        "| to free | models that go | first, ms | later, ms | least to greatest | `larder evict --dry-run`, ms \
         | daemon's memory, MiB |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in &plans.rows {
        let [first, _] = cells(&row.first)?;
        let [later, ends] = cells(&row.later)?;
        let [command, _] = cells(&row.command)?;
        let (name, models) = (row.free.name(), thousands(u64::try_from(row.models)?));
        writeln!(
            text,
            "| {name} | {models} | {first} | {later} | {ends} | {command} | {} |",
            memory(&row.later)
        )?;
    }
    for (what, series) in
        [("`larder ls` there", &plans.ls), ("`larder serve` there, until it answers", &plans.start)]
    {
        let [median, ends] = cells(series)?;
        write!(text, "\n{what}: {median} ms ({ends}), {} MiB.\n", memory(series))?;
    }
    Ok(text)
}

/// Median and ends in milliseconds.
fn cells(series: &Series) -> Result<[String; 2]> {
    let spread = series.spread().context("nothing was measured")?;
    let [median, least, greatest] =
        [spread.median, spread.least, spread.greatest].map(|seconds| number(seconds * 1_000.0));
    Ok([median, format!("{least} to {greatest}")])
}

fn memory(series: &Series) -> String {
    series.memory.map_or("–".into(), |bytes| format!("{:.0}", bytes as f64 / MIB))
}

/// Milliseconds with as many digits as they deserve.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { thousands(value.round() as u64) }
}

fn thousands(value: u64) -> String {
    if value < 1_000 { value.to_string() } else { format!("{},{:03}", value / 1_000, value % 1_000) }
}

/// Replaces what stands between the markers in `file`.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let missing =
        |marker| format!("{} has no line {marker}: add it where the table should stand", file.display());
    let (before, rest) = old.split_once(BEGIN).with_context(|| missing(BEGIN))?;
    let (_, after) = rest.split_once(END).with_context(|| missing(END))?;
    fs::write(file, format!("{before}{BEGIN}\n{text}{END}{after}"))
        .with_context(|| file.display().to_string())
}

/// The machine, in one paragraph.
pub(crate) fn machine(rounds: u16, load: &str) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ending = if rounds == 1 { "" } else { "s" };
    format!(
        "{}, {cores} cores, {:.0} GiB of memory, Linux {}. {rounds} round{ending}, load average before the first: \
         {load}.",
        field("/proc/cpuinfo", "model name"),
        kilobytes / MIB,
        kernel.trim(),
    )
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_they_deserve() {
        assert_eq!(
            [7.25, 99.94, 100.0, 999.6, 12_345.6].map(number),
            ["7.2", "99.9", "100", "1,000", "12,346"]
        );
    }

    #[test]
    fn a_target_is_reached_or_not() {
        let series = |seconds| Series { seconds: vec![seconds], memory: Some(3 << 20) };
        let mut results = Results {
            machine: "A machine.".into(),
            listed: Shape { repos: 2_000, files: 20 },
            listing: Listing { served: series(0.05), walk: series(0.501), ..Listing::default() },
            planned: Shape { repos: 10, files: 2 },
            plans: Plans::default(),
        };
        results.plans.rows.truncate(1);
        assert!(targets(&results).is_err(), "a plan that was not measured has no median");
        results.plans.rows[0].later = series(0.02);
        let text = targets(&results).unwrap();
        let verdicts: Vec<&str> = text.lines().skip(2).filter_map(|line| line.rsplit('|').nth(1)).collect();
        assert_eq!(verdicts, [" yes ", " **no** ", " yes "]);
        assert_eq!(title(results.listed), "2,000 models, 40,000 files");
        assert_eq!(memory(&results.listing.walk), "3");
    }

    #[test]
    fn the_text_stands_between_the_markers_or_nowhere() {
        let file = std::env::temp_dir().join(format!("cache-bench-{}.md", std::process::id()));
        fs::write(&file, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        write(&file, "new\n").unwrap();
        let written = fs::read_to_string(&file).unwrap();
        fs::write(&file, "no markers").unwrap();
        let error = write(&file, "new\n").unwrap_err().to_string();
        fs::remove_file(&file).unwrap();
        assert_eq!(written, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert!(error.contains(BEGIN), "{error}");
    }
}
