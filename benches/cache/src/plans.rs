//! How long a daemon takes to plan an eviction, which depends on how much is to go: of each revision that it chooses it
//! asks the kernel who has its files open.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::daemon::Daemon;
use crate::listing;
use crate::process::run;
use crate::programs::Larder;
use crate::series::Series;
use crate::tree::Shape;

/// Plans after the first that a daemon is asked for in each round.
const LATER: usize = 3;

/// How much is to be freed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Free {
    /// One byte, for which one model goes.
    Byte,
    /// So many percent of the cache.
    Percent(u64),
}

/// All of them, in the order of the table.
const ALL: [Free; 3] = [Free::Byte, Free::Percent(1), Free::Percent(50)];

impl Free {
    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Byte => "1 byte".into(),
            Self::Percent(percent) => format!("{percent} % of the cache"),
        }
    }

    fn bytes(self, shape: Shape) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Percent(percent) => shape.on_disk() * percent / 100,
        }
    }
}

/// What one amount took.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) free: Free,
    /// Models that would go.
    pub(crate) models: usize,
    /// The first plan of a daemon.
    pub(crate) first: Series,
    /// The ones after it; the daemon's memory after the last.
    pub(crate) later: Series,
    /// `larder evict --free … --dry-run --json`, a process.
    pub(crate) command: Series,
}

/// What everything took.
#[derive(Debug)]
pub(crate) struct Plans {
    pub(crate) rows: Vec<Row>,
    /// The start of a daemon until it answers; its memory then.
    pub(crate) start: Series,
    /// `larder ls`, answered by a daemon.
    pub(crate) ls: Series,
}

impl Default for Plans {
    fn default() -> Self {
        let row = |free| Row {
            free,
            models: 0,
            first: Series::default(),
            later: Series::default(),
            command: Series::default(),
        };
        Self { rows: ALL.map(row).into(), start: Series::default(), ls: Series::default() }
    }
}

/// A plan, as far as it is counted.
#[derive(Deserialize)]
struct Plan {
    freed_bytes: u64,
    evict: Vec<IgnoredAny>,
    keep: Vec<IgnoredAny>,
}

/// Whose plans are measured.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) larder: Larder,
    pub(crate) shape: Shape,
}

impl Bench {
    /// One round: for each amount a daemon of its own, so that each has a first plan.
    pub(crate) fn round(&self, plans: &mut Plans) -> Result<()> {
        for row in &mut plans.rows {
            let daemon = Daemon::start(&self.larder)?;
            plans.start.add(daemon.start, Some(daemon.memory()?));
            self.plan(&daemon, row)?;
            let ls = run(self.larder.command(&["ls"]), None)?;
            listing::check(&ls.said, self.shape.repos)?;
            plans.ls.add(ls.seconds, Some(ls.peak));
        }
        Ok(())
    }

    fn plan(&self, daemon: &Daemon, row: &mut Row) -> Result<()> {
        let bytes = row.free.bytes(self.shape);
        let path = format!("/v1/eviction-plan?free={bytes}");
        let (answer, seconds) = daemon.ask(&path)?;
        row.models = self.check(&answer, bytes)?;
        row.first.add(seconds, None);
        for _ in 0..LATER {
            let (answer, seconds) = daemon.ask(&path)?;
            self.check(&answer, bytes)?;
            row.later.add(seconds, Some(daemon.memory()?));
        }
        let words = ["evict", "--free", &bytes.to_string(), "--dry-run", "--json"];
        let ran = run(self.larder.command(&words), None)?;
        self.check(&ran.said, bytes)?;
        row.command.add(ran.seconds, Some(ran.peak));
        Ok(())
    }

    /// The number of models that a plan lets go, which must free enough and leave no model out.
    fn check(&self, answer: &str, bytes: u64) -> Result<usize> {
        let plan: Plan = serde_json::from_str(answer).context("a plan")?;
        ensure!(plan.freed_bytes >= bytes, "{} of {bytes} bytes would become free", plan.freed_bytes);
        let models = u64::try_from(plan.evict.len() + plan.keep.len())?;
        ensure!(models == self.shape.repos, "the plan has {models} of {} models", self.shape.repos);
        Ok(plan.evict.len())
    }
}
