//! The Markdown between the two marker comments of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::grid::{self, CAPACITIES, Decider, Grid};
use crate::trace::{self, Kind};

const BEGIN: &str = "<!-- eviction:begin -->";
const END: &str = "<!-- eviction:end -->";
const TB: f64 = 1e12;
const HOUR: f64 = 3_600.0;

/// The plot, and all tables.
pub(crate) fn render(grid: &Grid) -> Result<String> {
    let mut text = format!(
        "![Bytes staged again in percent of LRU's, by trace, size of the cache and policy](eviction.svg)\n\n\
         30 days, {} of each kind. The cache holds so many percent of the bytes of all models.\n\n",
        plural(grid.seeds, "trace"),
    );
    text.push_str(&comparison(grid)?);
    for kind in trace::ALL {
        write!(text, "\n### Trace: {}\n\n{}", kind.name(), section(grid, kind)?)?;
    }
    Ok(text)
}

/// The value policy beside LRU, with the spread of the seeds.
fn comparison(grid: &Grid) -> Result<String> {
    let mut text = String::from("| bytes staged again, value / LRU |");
    for percent in CAPACITIES {
        write!(text, " {percent} % |")?;
    }
    writeln!(text, "\n|---|{}", "---:|".repeat(CAPACITIES.len()))?;
    for kind in trace::ALL {
        write!(text, "| {} |", kind.name())?;
        for percent in CAPACITIES {
            let ratio = grid.over_lru(kind, percent, Decider::Value)?;
            write!(text, " {:.2} ({:.2} to {:.2}) |", ratio.mean, ratio.least, ratio.greatest)?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// One kind of trace.
fn section(grid: &Grid, kind: Kind) -> Result<String> {
    let mut text = format!("{} {:.1} TB in all.\n\n| policy |", kind.story(), grid.bytes(kind) / TB);
    for percent in CAPACITIES {
        write!(text, " {percent} %: byte hits | again, TB | again, h |")?;
    }
    writeln!(text, "\n|---|{}", "---:|---:|---:|".repeat(CAPACITIES.len()))?;
    for decider in grid::ALL {
        write!(text, "| {} |", decider.name())?;
        for percent in CAPACITIES {
            let cell = grid.cell(kind, percent, decider)?;
            let hits = 100.0 * cell.mean(|one| one.hit as f64 / one.used as f64);
            let again = cell.mean(|one| one.again as f64) / TB;
            let hours = cell.mean(|one| one.seconds) / HOUR;
            write!(text, " {hits:.1} % | {again:.1} | {hours:.1} |")?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn plural(count: u64, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
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
