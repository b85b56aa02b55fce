//! The runner: `transfer-bench run --memory DIR --disk DIR` measures and prints the tables; `--write` also puts them
//! into `docs/benchmarks.md`. `run.sh` installs what it needs and calls it. `transfer-bench hub` is the hub that it
//! starts.

mod client;
mod gates;
mod house;
mod hub;
mod measure;
mod memory;
mod model;
mod scenario;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use clap::{Args, Parser};

use client::Client;
use house::House;
use measure::Bench;
use memory::Comb;
use model::{Bytes, Shape};
use scenario::{Models, Plan, Results, Scenario};

/// Shards of the model with large files.
const SHARDS: u64 = 4;
/// Bytes of a file of the model with small ones.
const SMALL: u64 = 100_000;
/// What a run needs beside the models themselves: lists, state, the tiny files' blocks.
const ROOM: u64 = 1 << 30;

/// Compares larder's downloads with others.
#[derive(Debug, Parser)]
enum Line {
    /// Measures.
    Run(Box<Run>),
    /// Serves one model; the runner starts it.
    Hub(Hub),
}

#[derive(Debug, Args)]
struct Run {
    /// The larder to measure.
    #[arg(long)]
    larder: PathBuf,
    /// An empty folder on tmpfs, for the models and for what is downloaded.
    #[arg(long)]
    memory: PathBuf,
    /// An empty folder on a disk.
    #[arg(long)]
    disk: PathBuf,
    /// How often each client runs.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of each of the four large files.
    #[arg(long, default_value = "1GiB")]
    shard: ByteSize,
    /// Files of 100 kB.
    #[arg(long, default_value_t = 200)]
    small: u64,
    /// Files of 200 to 600 bytes.
    #[arg(long, default_value_t = 50_000)]
    tiny: u64,
    /// Runs of `larder stage` with everything present.
    #[arg(long, default_value_t = 20)]
    warm: usize,
    /// A client whose run took longer than so many seconds is not run again in that table.
    #[arg(long, default_value_t = 60.0)]
    patience: f64,
    /// Only these tables: plain, cdn, disk, small, tiny.
    #[arg(long, value_delimiter = ',', value_parser = known_scenario)]
    only: Vec<Scenario>,
    /// Only these clients: larder, hf-hub, hf, aria2c, curl, cp, sha256.
    #[arg(long, value_delimiter = ',', value_parser = known_client)]
    clients: Vec<Client>,
    /// Put the tables into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Args)]
struct Hub {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    id: String,
    #[arg(long)]
    commit: String,
    /// Cap the connections of the second origin.
    #[arg(long)]
    cdn: bool,
}

fn known_scenario(name: &str) -> Result<Scenario, String> {
    scenario::ALL
        .into_iter()
        .find(|known| known.name() == name)
        .ok_or_else(|| format!("there is no table {name}"))
}

fn known_client(name: &str) -> Result<Client, String> {
    client::ALL
        .into_iter()
        .find(|known| known.name() == name)
        .ok_or_else(|| format!("there is no client {name}"))
}

fn main() -> Result<()> {
    match Line::parse() {
        Line::Run(run) => measure_all(*run),
        Line::Hub(hub) => hub::serve(&hub.folder, &hub.id, &hub.commit, hub.cdn.then_some(hub::CDN)),
    }
}

fn measure_all(run: Run) -> Result<()> {
    let load = table::load();
    let chosen = |scenario: &Scenario| run.only.is_empty() || run.only.contains(scenario);
    let tables: Vec<Scenario> = scenario::ALL.into_iter().filter(chosen).collect();
    let large = SHARDS * run.shard.as_u64();
    room(&run.memory, 2 * large + ROOM)?;
    if tables.contains(&Scenario::Disk) {
        room(&run.disk, large + ROOM)?;
    }
    let bench = Bench {
        larder: run.larder.canonicalize().with_context(|| run.larder.display().to_string())?,
        warm_runs: run.warm,
    };
    let models = make(&run, &run.memory.join("models"))?;
    let _comb = Comb::new(&run.memory)?;
    let plan = Plan {
        rounds: run.rounds,
        patience: run.patience,
        memory: run.memory,
        disk: run.disk,
        clients: if run.clients.is_empty() { client::ALL.to_vec() } else { run.clients },
    };
    let mut results = Results { models, tables: Vec::new(), warm: Vec::new() };
    for scenario in tables {
        let model = results.models.of(scenario);
        let rows = scenario::measure(&bench, &plan, scenario, model)?;
        let is_warm = matches!(scenario, Scenario::Plain | Scenario::Small | Scenario::Tiny);
        if is_warm && plan.clients.contains(&Client::Larder) {
            let mut house = House::start(model, false)?;
            let walls = bench.warm(model, &mut house, &plan.memory).map_err(|error| format!("{error:#}"));
            results.warm.push((scenario, walls));
        }
        results.tables.push((scenario, rows));
    }
    let text = table::render(&table::machine(plan.rounds, &load), plan.rounds, &results)?;
    print!("{text}");
    if run.write {
        table::write(&client::home().join("../../docs/benchmarks.md"), &text)?;
    }
    Ok(())
}

fn make(run: &Run, root: &Path) -> Result<Models> {
    let shape = |name, files, bytes| Shape { name, files, bytes };
    Ok(Models {
        large: shape("large", SHARDS, Bytes::Lfs(run.shard.as_u64())).make(root)?,
        small: shape("small", run.small, Bytes::Git(SMALL)).make(root)?,
        tiny: shape("tiny", run.tiny, Bytes::Tiny).make(root)?,
    })
}

fn room(folder: &Path, bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
    let free = stat.f_bavail * stat.f_frsize;
    ensure!(
        free >= bytes,
        "{} has {} free and {} is needed: make room, or say a smaller --shard",
        folder.display(),
        ByteSize(free),
        ByteSize(bytes)
    );
    Ok(())
}
