//! `eviction-bench` plays synthetic traces of model use against a cache and compares the policies that decide what
//! goes. It prints a Markdown table; `--write` also puts it into `docs/benchmarks.md`, with the plot beside it. The
//! same seeds give the same bytes.

mod cache;
mod grid;
mod plot;
mod rivals;
mod shipped;
mod table;
#[cfg(test)]
mod tests;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;

use grid::Grid;

/// Compares larder's eviction with other policies, by simulation.
#[derive(Debug, Parser)]
struct Flags {
    /// Traces of each kind, drawn with the seeds from 0 on; the figures are means.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Put the table into docs/benchmarks.md and the plot into docs/eviction.svg.
    #[arg(long)]
    write: bool,
    /// Put the plot into this file, too.
    #[arg(long)]
    plot: Option<PathBuf>,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let grid = Grid::run(flags.seeds)?;
    let text = table::render(&grid)?;
    let plot = plot::render(&grid)?;
    print!("{text}");
    if flags.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        table::write(&docs.join("benchmarks.md"), &text)?;
        save(&docs.join("eviction.svg"), &plot)?;
    }
    flags.plot.map_or(Ok(()), |file| save(&file, &plot))
}

fn save(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}
