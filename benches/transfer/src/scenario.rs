//! What is measured, in which order, and what came of it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::client::Client;
use crate::house::House;
use crate::measure::{Bench, Outcome};
use crate::model::Model;

/// A table: one model, one place, one set of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Large files, tmpfs, nothing capped.
    Plain,
    /// Large files, tmpfs, each connection of the second origin capped.
    Cdn,
    /// Large files, the real disk.
    Disk,
    /// Some small files.
    Small,
    /// Very many tiny files.
    Tiny,
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Scenario; 5] =
    [Scenario::Plain, Scenario::Cdn, Scenario::Disk, Scenario::Small, Scenario::Tiny];

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Cdn => "cdn",
            Self::Disk => "disk",
            Self::Small => "small",
            Self::Tiny => "tiny",
        }
    }

    /// Whether `client` has something to tell here.
    pub(crate) fn has(self, client: Client) -> bool {
        match client {
            Client::Sha256 => self == Self::Plain,
            Client::Cp => self != Self::Cdn,
            _ => true,
        }
    }
}

/// The models of a run, made before the first is served.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) large: Model,
    pub(crate) small: Model,
    pub(crate) tiny: Model,
}

impl Models {
    /// The one that `scenario` is about.
    pub(crate) fn of(&self, scenario: Scenario) -> &Model {
        match scenario {
            Scenario::Plain | Scenario::Cdn | Scenario::Disk => &self.large,
            Scenario::Small => &self.small,
            Scenario::Tiny => &self.tiny,
        }
    }
}

/// How often and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// A client whose run took longer is not run again in that table, seconds.
    pub(crate) patience: f64,
    pub(crate) memory: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) clients: Vec<Client>,
}

/// The runs of one client.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) client: Client,
    pub(crate) outcomes: Vec<Outcome>,
    /// Why there are no more; a finding too.
    pub(crate) error: Option<String>,
}

impl Row {
    /// Median, least and greatest of a figure.
    pub(crate) fn spread(&self, of: impl Fn(&Outcome) -> f64) -> Option<(f64, f64, f64)> {
        spread(self.outcomes.iter().map(of).collect())
    }
}

/// Median, least and greatest.
pub(crate) fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let (least, greatest) = (*values.first()?, *values.last()?);
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some((median, least, greatest))
}

/// Measures one scenario: each client once a round, and each round begins with another client.
pub(crate) fn measure(bench: &Bench, plan: &Plan, scenario: Scenario, model: &Model) -> Result<Vec<Row>> {
    let mut house = House::start(model, scenario == Scenario::Cdn)?;
    let place: &Path = if scenario == Scenario::Disk { &plan.disk } else { &plan.memory };
    let clients = plan.clients.iter().copied().filter(|client| scenario.has(*client));
    let mut rows: Vec<Row> =
        clients.map(|client| Row { client, outcomes: Vec::new(), error: None }).collect();
    let count = rows.len();
    for round in 0..plan.rounds {
        for turn in 0..count {
            let row = &mut rows[(round + turn) % count];
            let is_slow = row.outcomes.last().is_some_and(|outcome| outcome.wall > plan.patience);
            if row.error.is_some() || is_slow {
                continue;
            }
            let name = format!("{}: {} of round {}", scenario.name(), row.client.name(), round + 1);
            match bench.run(row.client, model, &mut house, place, row.outcomes.is_empty()) {
                Ok(outcome) => {
                    eprintln!("{name}: {:.2} s, CPU {:.2} s", outcome.wall, outcome.cpu);
                    row.outcomes.push(outcome);
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
    }
    Ok(rows)
}

/// What was measured of all.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) models: Models,
    pub(crate) tables: Vec<(Scenario, Vec<Row>)>,
    /// Of `larder stage` with everything present: the table whose model it was, and wall seconds or why not.
    pub(crate) warm: Vec<(Scenario, Result<Vec<f64>, String>)>,
}

impl Results {
    /// The row of a client, if it was measured there.
    pub(crate) fn row(&self, scenario: Scenario, client: Client) -> Option<&Row> {
        let (_, rows) = self.tables.iter().find(|(other, _)| *other == scenario)?;
        rows.iter().find(|row| row.client == client)
    }

    /// The median of a figure.
    pub(crate) fn median(
        &self,
        scenario: Scenario,
        client: Client,
        of: impl Fn(&Outcome) -> f64,
    ) -> Option<f64> {
        Some(self.row(scenario, client)?.spread(of)?.0)
    }
}
