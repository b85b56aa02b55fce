//! The runner: `queue-bench [--write] [NAME...]` measures the named queues, or all, and prints the table;
//! `--write` also puts it into `docs/benchmarks.md`. `run.sh` installs what it needs and calls it.

mod contender;
mod measure;
mod server;
mod table;

use anyhow::{Context as _, Result};

use contender::{ALL, Contender};

fn main() -> Result<()> {
    let mut write = false;
    let mut chosen = Vec::new();
    for arg in std::env::args().skip(1) {
        if arg == "--write" {
            write = true;
            continue;
        }
        let known = || ALL.map(|contender| contender.name).join(", ");
        let contender = ALL.into_iter().find(|contender| contender.name == arg);
        chosen.push(contender.with_context(|| format!("{arg} is none of {}", known()))?);
    }
    if chosen.is_empty() {
        chosen.extend(ALL);
    }
    let load = table::load();
    let version = server::Server::start()?.info()?.text("redis_version").to_owned();
    let measured: Vec<(Contender, measure::Results)> =
        chosen.into_iter().map(|contender| (contender, measure::all(contender))).collect();
    let text = table::render(&table::machine(&version, &load), &measured)?;
    print!("{text}");
    if write {
        table::write(&contender::home().join("../../docs/benchmarks.md"), &text)?;
    }
    Ok(())
}
