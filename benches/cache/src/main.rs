//! `cache-bench` measures larder's listing of a hub cache beside `hf cache ls` and Python's `scan_cache_dir`, and its
//! eviction plans over a larger cache. It prints Markdown tables; `--write` also puts them into `docs/benchmarks.md`.
//! `run.sh` installs what it needs and calls it.

mod daemon;
mod listing;
mod plans;
mod process;
mod programs;
mod series;
mod table;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;

use listing::Listing;
use plans::Plans;
use programs::{Hub, Larder, home};
use table::Results;
use tree::Shape;

/// Measures larder's listing of a hub cache beside the hub's own client, and its eviction plans.
#[derive(Debug, Parser)]
struct Flags {
    /// The larder to measure.
    #[arg(long)]
    larder: PathBuf,
    /// A virtual environment with huggingface_hub.
    #[arg(long)]
    venv: PathBuf,
    /// Where the folder `cache-bench` with the trees lies, which later runs use again [default: this package's target].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How often everything is measured, after one round that does not count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Models of the cache that is listed.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    models: u64,
    /// Models of the cache whose eviction is planned.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    plan_models: u64,
    /// Files of each model.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    files: u64,
    /// Put the tables into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    // A name of its own, since what does not fit in there is removed.
    let dir = flags.dir.clone().unwrap_or_else(|| home().join("target")).join("cache-bench");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let dir = dir.canonicalize()?;
    let scratch = Scratch::new(dir.join("scratch"))?;
    let results = measure(&flags, &dir, &scratch.0)?;
    drop(scratch);
    let text = table::render(&results)?;
    print!("{text}");
    if flags.write {
        table::write(&home().join("../../docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

fn measure(flags: &Flags, dir: &Path, scratch: &Path) -> Result<Results> {
    let load = table::load();
    let [listed, planned] =
        [flags.models, flags.plan_models].map(|repos| Shape { repos, files: flags.files });
    let program = flags.larder.canonicalize().with_context(|| flags.larder.display().to_string())?;
    let larder = |root: &Path, name: &str| {
        let state = scratch.join(name);
        fs::create_dir(&state).with_context(|| state.display().to_string())?;
        Ok(Larder { program: program.clone(), root: root.to_owned(), state })
    };
    // Not resolved: the interpreter finds its environment by the path by which it is called.
    let venv = std::path::absolute(&flags.venv)?;
    let hub = Hub { venv, scratch: scratch.to_owned() };
    let root = listed.make(&dir.join("listing"))?;
    let lists = listing::Bench::new(hub, larder, &root, listed.repos)?;
    let root = planned.make(&dir.join("plans"))?;
    let plans = plans::Bench { larder: larder(&root, "plans")?, shape: planned };

    let mut results = Results {
        machine: table::machine(flags.rounds, &load),
        listed,
        listing: Listing::default(),
        planned,
        plans: Plans::default(),
    };
    for round in 0..=flags.rounds {
        eprintln!("round {round} of {}", flags.rounds);
        if round == 1 {
            // The first round has filled the kernel's caches and larder's records.
            (results.listing, results.plans) = (Listing::default(), Plans::default());
        }
        lists.round(&mut results.listing)?;
        plans.round(&mut results.plans)?;
    }
    Ok(results)
}

/// A folder for states and what programs leave behind, which is removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    /// An empty one; what a killed run has left there goes.
    fn new(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}
