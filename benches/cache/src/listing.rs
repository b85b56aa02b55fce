//! Everybody lists the same cache, one after the other, and nobody else runs meanwhile.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::daemon::Daemon;
use crate::process::{Run, run};
use crate::programs::{Hub, Larder};
use crate::series::Series;
use crate::tree::MODEL;

/// What larder logs when it has walked the cache and compared it with its records.
const AGREE: &str = "the records agree with the cache";

/// What each took.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// `hf cache ls`.
    pub(crate) hf: Series,
    /// A Python process that calls `scan_cache_dir`.
    pub(crate) scan: Series,
    /// That call alone.
    pub(crate) call: Series,
    /// `larder ls`, answered by a daemon.
    pub(crate) served: Series,
    /// The start of that daemon until it answers; its memory after the answer.
    pub(crate) start: Series,
    /// `larder ls` that opens the store and walks the cache itself.
    pub(crate) alone: Series,
    /// The same until its records agree with the cache.
    pub(crate) walk: Series,
    /// As `walk`, with an empty cache: what of it is no walk.
    pub(crate) empty: Series,
}

/// Who lists what.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) hub: Hub,
    /// The cache, and a state folder for the daemon.
    pub(crate) served: Larder,
    /// The same cache, and a state folder that nobody serves.
    pub(crate) alone: Larder,
    /// An empty cache.
    pub(crate) empty: Larder,
    pub(crate) repos: u64,
}

/// What `scan.py` prints.
#[derive(Deserialize)]
struct Scanned {
    repos: u64,
    seconds: f64,
}

impl Bench {
    /// A bench for the cache in `root`; `larder` makes one with a state folder of its own.
    pub(crate) fn new(
        hub: Hub,
        larder: impl Fn(&Path, &str) -> Result<Larder>,
        root: &Path,
        repos: u64,
    ) -> Result<Self> {
        let empty = hub.scratch.join("empty-hub");
        std::fs::create_dir_all(&empty).with_context(|| empty.display().to_string())?;
        let (served, alone, empty) =
            (larder(root, "served")?, larder(root, "alone")?, larder(&empty, "empty")?);
        Ok(Self { hub, served, alone, empty, repos })
    }

    /// One round: everybody once.
    pub(crate) fn round(&self, listing: &mut Listing) -> Result<()> {
        let root = &self.served.root;
        let hf = self.listed(self.hub.ls(root), None)?;
        listing.hf.add(hf.seconds, Some(hf.peak));

        let scan = run(self.hub.scan(root), None)?;
        let scanned: Scanned = serde_json::from_str(&scan.said).context("what scan.py says")?;
        ensure!(scanned.repos == self.repos, "scan_cache_dir found {} repos", scanned.repos);
        listing.scan.add(scan.seconds, Some(scan.peak));
        listing.call.add(scanned.seconds, None);

        let daemon = Daemon::start(&self.served)?;
        let served = self.listed(self.served.command(&["ls"]), None)?;
        listing.served.add(served.seconds, Some(served.peak));
        listing.start.add(daemon.start, Some(daemon.memory()?));
        drop(daemon);

        let alone = self.listed(self.alone.command(&["ls", "--verbose"]), Some(AGREE))?;
        listing.alone.add(alone.seconds, Some(alone.peak));
        listing.walk.add(agreed(&alone)?, None);

        let empty = run(self.empty.command(&["ls", "--verbose"]), Some(AGREE))?;
        listing.empty.add(agreed(&empty)?, None);
        Ok(())
    }

    /// Runs what must list every model.
    fn listed(&self, command: Command, mark: Option<&str>) -> Result<Run> {
        let name = command.get_program().to_string_lossy().into_owned();
        let run = run(command, mark)?;
        check(&run.said, self.repos).with_context(|| name)?;
        Ok(run)
    }
}

/// Whether a listing has a line for each of `repos` models.
pub(crate) fn check(said: &str, repos: u64) -> Result<()> {
    let lines = said.lines().filter(|line| line.contains(MODEL)).count();
    ensure!(
        u64::try_from(lines)? == repos,
        "{lines} of {repos} models are listed: {}",
        said.lines().next().unwrap_or("nothing")
    );
    Ok(())
}

fn agreed(run: &Run) -> Result<f64> {
    run.marked.with_context(|| format!("larder did not log \"{AGREE}\""))
}
