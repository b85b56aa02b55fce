//! Leftovers: transfers that nobody goes on with, blobs that no snapshot needs, notes and locks of what is gone.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use larder_jobs::RepoId;

use super::Keeper;
use crate::error::Result;
use crate::layout::{self, RepoEntry};
use crate::metrics;

/// The folder of a repo in which nothing is must be that old before it is removed: somebody may be about to begin.
const EMPTY_AGE: Duration = Duration::from_secs(3_600);

/// What a round of tidying removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Leftovers that are gone.
    pub removed: usize,
    /// Bytes that became free.
    pub bytes: u64,
}

impl Keeper {
    /// Removes leftovers that are older than `cache.partial_max_age`, of all repos that nobody works on. Blocks.
    ///
    /// # Errors
    /// `io_error` if the cache cannot be listed; what cannot be removed is logged and stays.
    pub fn tidy(&self) -> Result<Tidied> {
        let mut tidied = Tidied { bytes: self.empty_trash(0, Timestamp::now())?, ..Tidied::default() };
        let inventory = layout::scan(self.inner.cache.root())?;
        for found in &inventory.repos {
            if let Err(error) = self.tidy_repo(found, &mut tidied) {
                tracing::warn!(%error, repo = %found.repo, "leftovers stay behind");
            }
        }
        self.inner.cache.sweep_locks(self.inner.habits.leftover_age)?;
        if tidied.removed > 0 {
            tracing::info!(
                removed = tidied.removed,
                bytes = tidied.bytes,
                "leftovers of transfers are removed"
            );
        }
        Ok(tidied)
    }

    fn tidy_repo(&self, found: &RepoEntry, tidied: &mut Tidied) -> Result<()> {
        let repo: &RepoId = &found.repo;
        let Some(_right) = self.inner.repos.evict(repo) else { return Ok(()) };
        let dir = self.inner.cache.repo(repo);
        // What an error of the disk left behind; nobody else is at it.
        tidied.bytes += dir.recover(found)?;
        let age = self.inner.habits.leftover_age;
        for litter in layout::litter(found, age, SystemTime::now()) {
            if let Some(bytes) = dir.remove_litter(&litter)? {
                metrics::leftover(litter.kind.word(), bytes);
                tracing::info!(path = %litter.path.display(), bytes, kind = litter.kind.word(), "removed");
                tidied.removed += 1;
                tidied.bytes += bytes;
            }
        }
        dir.sweep_notes(age)?;
        let touched = std::fs::metadata(dir.path()).and_then(|found| found.modified()).ok();
        let is_old = touched.and_then(|time| time.elapsed().ok()).is_some_and(|passed| passed >= EMPTY_AGE);
        if is_old && found.revisions.is_empty() {
            dir.remove_if_empty()?;
        }
        Ok(())
    }
}
