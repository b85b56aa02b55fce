//! The targets, and whether this run reached them.

use std::fmt::Write as _;

use anyhow::Result;

use crate::client::Client;
use crate::measure::Outcome;
use crate::scenario::{Results, Scenario, spread};

const MIB: f64 = 1024.0 * 1024.0;

/// A target with what was measured of it.
struct Gate {
    what: String,
    target: String,
    /// Nothing where it was not measured.
    measured: Option<(String, bool)>,
    /// In place of a verdict, why there is none.
    why_not: &'static str,
}

impl Gate {
    fn at_most(what: &str, value: Option<f64>, limit: f64, unit: &str) -> Self {
        let measured = value.map(|value| (format!("{value:.2}{unit}"), value <= limit));
        let target = format!("at most {limit}{unit}");
        Self { what: what.into(), target, measured, why_not: "not measured" }
    }

    fn at_least(what: &str, value: Option<f64>, limit: f64) -> Self {
        let measured = value.map(|value| (format!("{value:.2}"), value >= limit));
        let target = format!("at least {limit}");
        Self { what: what.into(), target, measured, why_not: "not measured" }
    }
}

/// One table with all of them.
pub(crate) fn render(results: &Results) -> Result<String> {
    let mut text = String::from("| target | wanted | measured | reached |\n|---|---:|---:|---|\n");
    for gate in all(results) {
        let (measured, reached) = match &gate.measured {
            Some((measured, true)) => (measured.as_str(), "yes"),
            Some((measured, false)) => (measured.as_str(), "**no**"),
            None => ("–", gate.why_not),
        };
        writeln!(text, "| {} | {} | {measured} | {reached} |", gate.what, gate.target)?;
    }
    Ok(text)
}

fn all(results: &Results) -> Vec<Gate> {
    let wall = |scenario, client| results.median(scenario, client, |outcome| outcome.wall);
    let cpu = |client| results.median(Scenario::Plain, client, |outcome| outcome.cpu);
    let ratio = |above: Option<f64>, below: Option<f64>| Some(above? / below?);
    let faster = |scenario, client: Client| ratio(wall(scenario, client), wall(scenario, Client::Larder));
    let verified = |client| Some(cpu(client)? + cpu(Client::Sha256)?);
    let peak = |scenarios: &[Scenario]| {
        let rows = scenarios.iter().filter_map(|scenario| results.row(*scenario, Client::Larder));
        let peaks = rows.filter_map(|row| row.spread(|outcome: &Outcome| outcome.rss as f64));
        peaks.map(|(_, _, greatest)| greatest / MIB).reduce(f64::max)
    };
    use Scenario::{Cdn, Disk, Plain, Small, Tiny};
    vec![
        Gate::at_most(
            "tmpfs: wall of larder / bare hf-hub",
            ratio(wall(Plain, Client::Larder), wall(Plain, Client::HfHub)),
            1.3,
            "",
        ),
        Gate::at_least("tmpfs: wall of hf download / larder", faster(Plain, Client::Hf), 4.0),
        Gate::at_least("tmpfs: wall of aria2c / larder", faster(Plain, Client::Aria2), 2.5),
        Gate::at_least("CDN: wall of hf download / larder", faster(Cdn, Client::Hf), 5.0),
        Gate::at_least("CDN: wall of aria2c / larder", faster(Cdn, Client::Aria2), 2.0),
        Gate::at_most(
            "tmpfs: CPU of larder / (curl + openssl sha256)",
            ratio(cpu(Client::Larder), verified(Client::Curl)),
            1.2,
            "",
        ),
        Gate::at_most("peak RSS of larder, large files", peak(&[Plain, Cdn, Disk]), 64.0, " MiB"),
        Gate::at_most("peak RSS of larder, many files", peak(&[Small, Tiny]), 64.0, " MiB"),
        warm(results),
        disk(wall(Disk, Client::Larder), wall(Disk, Client::Cp), wall(Plain, Client::Larder)),
    ]
}

fn warm(results: &Results) -> Gate {
    let large = results.warm.iter().find(|(scenario, _)| *scenario == Scenario::Plain);
    let walls = large.and_then(|(_, walls)| walls.as_ref().ok());
    let median = walls.and_then(|walls| spread(walls.clone())).map(|(median, _, _)| median * 1_000.0);
    Gate::at_most("`larder stage`, everything present", median, 50.0, " ms")
}

/// Holds only where the disk is what a download waits for: where copying to it takes longer than larder on tmpfs.
fn disk(larder: Option<f64>, copy: Option<f64>, memory: Option<f64>) -> Gate {
    let ratio = larder.zip(copy).map(|(larder, copy)| larder / copy);
    let mut gate = Gate::at_most("disk: wall of larder / (cp + sync)", ratio, 1.15, "");
    if copy.zip(memory).is_some_and(|(copy, memory)| copy <= memory) {
        gate.measured = None;
        gate.why_not = "the disk was not the limit: cp + sync was faster than larder on tmpfs";
    }
    gate
}
