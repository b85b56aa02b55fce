//! What the keeper does by itself, for as long as a larder serves: it looks who uses what, ends leases, keeps to the
//! watermarks, tidies up, compares records and disk, and has models read again that were not for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Job, JobId, Size, Verify, Work};
use tokio_util::sync::CancellationToken;

use super::Keeper;
use crate::error::Result;
use crate::error::blocking;
use crate::layout::{Mounts, Obstacle};
use crate::ledger::Key;
use crate::metrics;
use crate::plan::Goal;
use crate::queue::JobStore;

/// Longest look at who uses what in one round; the next one goes on behind it.
const LOOK: Duration = Duration::from_millis(300);
/// Reading again is nobody's hurry.
const SCRUB_PRIORITY: i16 = -100;
const SCRUB: &str = "scrub";

/// Where the rounds have come to.
#[derive(Debug, Default)]
struct Place {
    /// The last revision that was looked at.
    looked: Option<Key>,
    in_use: BTreeMap<Key, bool>,
    tidied: Option<Instant>,
    /// The scrub that runs or waits.
    scrub: Option<JobId>,
}

/// Makes rounds until `stop` fires.
pub async fn keep_until(keeper: Keeper, queue: Arc<dyn JobStore>, stop: CancellationToken) {
    let mut place = Place { tidied: Some(Instant::now()), ..Place::default() };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(keeper.inner.habits.check_every) => {}
        }
        let (round, halt) = (keeper.clone(), stop.clone());
        let made = blocking(move || {
            let mut place = place;
            if let Err(error) = round.round(&mut place, &halt) {
                tracing::warn!(%error, hint = error.hint(), "a round of the keeper ended early");
            }
            Ok(place)
        });
        place = match made.await {
            Ok(place) => place,
            Err(error) => {
                tracing::error!(%error, "a round of the keeper died");
                Place::default()
            }
        };
        if let Err(error) = keeper.scrub(&*queue, &mut place).await {
            tracing::debug!(%error, "the next reading cannot be asked for yet");
        }
    }
}

impl Keeper {
    fn round(&self, place: &mut Place, halt: &CancellationToken) -> Result<()> {
        let now = Timestamp::now();
        self.look(place, now)?;
        self.inner.ledger.expire_leases(now)?;
        let outcome = self.evict(&Goal::Balance, &|| halt.is_cancelled())?;
        if outcome.short > 0 {
            metrics::eviction_short();
            let freed = outcome.freed;
            let error = outcome.too_little(freed.saturating_add(outcome.short));
            tracing::warn!(hint = error.hint(), "the disk stays fuller than it should: {error}");
        } else if outcome.freed > 0 {
            tracing::info!(freed = %Size(outcome.freed), models = outcome.evicted.len(), "the cache is within its bounds");
        }
        if place.tidied.is_none_or(|then| then.elapsed() >= self.inner.habits.reconcile_every) {
            self.tidy()?;
            self.inner.ledger.reconcile(now)?;
            self.inner.ledger.trim_gone()?;
            place.tidied = Some(Instant::now());
        }
        Ok(())
    }

    /// Asks the kernel who uses what, as far as the time allows; the rest in the next rounds.
    fn look(&self, place: &mut Place, now: Timestamp) -> Result<()> {
        let begun = Instant::now();
        let shelf = self.inner.ledger.shelf();
        place.in_use.retain(|key, _| shelf.get(key).is_some());
        // Mounts are looked at when something is about to go.
        let mounts = Mounts::default();
        let entries: Vec<_> = shelf.entries().map(|entry| (entry.key(), entry)).collect();
        let first = entries.partition_point(|(key, _)| place.looked.as_ref().is_some_and(|last| key <= last));
        // What larder itself reads is not in anybody's use.
        let own = self.inner.repos.fetching();
        let others = entries[first..].iter().chain(&entries[..first]);
        for (key, entry) in others.filter(|(_, entry)| !own.contains(&entry.repo)) {
            match self.inner.cache.repo(&entry.repo).obstacle(&entry.commit, &mounts) {
                Ok(Some(Obstacle::InUse(_))) => drop(place.in_use.insert(key.clone(), true)),
                Ok(None) => drop(place.in_use.insert(key.clone(), false)),
                // Not to be known now.
                Ok(Some(_)) | Err(_) => drop(place.in_use.remove(key)),
            }
            place.looked = Some(key.clone());
            if begun.elapsed() > LOOK {
                break;
            }
        }
        self.inner.ledger.observed(place.in_use.clone(), now)
    }

    /// Asks for the reading of the revision that was read longest ago, one at a time.
    async fn scrub(&self, queue: &dyn JobStore, place: &mut Place) -> Result<()> {
        let Some(every) = self.inner.habits.scrub_every else { return Ok(()) };
        if let Some(id) = place.scrub {
            if queue.get(id).await?.is_some_and(|record| !record.state.is_terminal()) {
                return Ok(());
            }
            place.scrub = None;
        }
        let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
        let shelf = self.inner.ledger.shelf();
        let read = shelf.entries().map(|entry| (entry.verified_at.unwrap_or(entry.added_at), entry));
        let Some((last, entry)) = read.min_by_key(|(last, entry)| (*last, entry.key())) else {
            return Ok(());
        };
        if Timestamp::now().duration_since(last) < every {
            return Ok(());
        }
        let verify = Verify {
            repo: Some(entry.repo.clone()),
            revision: entry.commit.as_str().parse().ok(),
            max_bytes_per_second: None,
        };
        let mut job = Job::new(Work::Verify(verify));
        job.common.priority = SCRUB_PRIORITY;
        job.common.requested_by = Some(SCRUB.into());
        place.scrub = Some(queue.enqueue(job).await?.record.id);
        Ok(())
    }
}
