//! The ledger: what larder knows about the models in the cache, and why they are there.
//!
//! The disk is the truth about bytes, the ledger about intent and history. Every start reconciles the two:
//! records without bytes go, bytes without records are adopted, pins come back from the receipts beside the
//! models. So losing the store loses no model and no pin, only when a model was last used.

mod config;
mod entry;
mod lease;
mod measured;
mod reconcile;
mod shelf;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{CameBack, CommitId, RepoId, Span};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::Result;
use crate::layout::{self, Cache, Inventory};
use crate::metrics;
use crate::store::{Batch, Opened, Store, Table};

pub use config::{Config, Percent};
pub use entry::{Entry, Key, LeaseView, ModelView, Origin};
pub use lease::{Gone, Lease};
pub use measured::{Calibration, CalibrationKey, Hardware, Measured};
pub use reconcile::{Drift, Repaired, reconcile};
pub use shelf::{Shelf, Used};

const ENTRIES: Table<Entry> = Table::new("entries");
const HOST: Table<HostRecord> = Table::new("host");
const HOST_KEY: &[u8] = b"this";
/// Leftovers of killed processes in a repo's scratch folder are swept at this age.
const SCRATCH_AGE: Duration = Duration::from_secs(3_600);
/// That a revision is still in use is written at most this often.
const SEEN_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// What is remembered of this host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct HostRecord {
    /// Nothing is deleted automatically before then.
    #[serde(default)]
    eviction_off_until: Option<Timestamp>,
}

/// What larder knows about the models in one cache.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    cache: Cache,
    shelf: watch::Sender<Arc<Shelf>>,
    /// Held while entries are changed, so that shelf and store agree.
    writing: Mutex<()>,
    /// What was repaired and not asked for yet.
    repaired: Mutex<Repaired>,
}

impl Ledger {
    /// Opens the ledger in `store` and reconciles it with the disk. Blocks while the cache is walked.
    ///
    /// # Errors
    /// `io_error` if the cache cannot be listed or the store fails.
    pub fn open(store: Store, cache: Cache, grace: Span, opened: &Opened, now: Timestamp) -> Result<Self> {
        let mut host: HostRecord = store.get(HOST, HOST_KEY).ok().flatten().unwrap_or_default();
        if let Opened::Recovered(recovery) = opened {
            metrics::store_recovered(recovery.reason);
            host.eviction_off_until = now.checked_add(grace.get()).ok();
            tracing::error!(
                reason = recovery.reason,
                kept = recovery.kept.as_ref().map(|path| tracing::field::display(path.display())),
                "the store was lost; records are rebuilt from the disk, and automatic deletion stays off for {grace}"
            );
            let mut batch = Batch::default();
            batch.put(HOST, HOST_KEY, &host);
            store.commit(batch)?;
        }
        let until = host.eviction_off_until.filter(|until| *until > now);
        let shelf = watch::Sender::new(Arc::new(Shelf::new(until)));
        let ledger = Self { store, cache, shelf, writing: Mutex::default(), repaired: Mutex::default() };
        ledger.put_shelf(ledger.shelf().with_leases(ledger.stored_leases()?));
        let mut inventory = layout::scan(ledger.cache.root())?;
        ledger.recover_evictions(&mut inventory);
        let drift = ledger.agree(&inventory, now, ledger.lock())?;
        ledger.store.durable_blocking()?;
        tracing::info!(
            models = ledger.shelf().len(),
            adopted = drift.adopted.len(),
            vanished = drift.vanished.len(),
            pins_restored = drift.pins_restored,
            "the records agree with the cache {}",
            ledger.cache.root().display()
        );
        Ok(ledger)
    }

    /// What is known now; never waits for a disk.
    pub fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf.borrow())
    }

    /// Changes whenever what is known of the models does.
    pub fn changed(&self) -> watch::Receiver<Arc<Shelf>> {
        self.shelf.subscribe()
    }

    /// Whether the store has failed for good.
    pub fn has_failed(&self) -> bool {
        self.store.has_failed()
    }

    /// Walks the whole cache and repairs the records. Blocks.
    ///
    /// # Errors
    /// `io_error` if the cache cannot be listed or the store fails.
    pub fn reconcile(&self, now: Timestamp) -> Result<Drift> {
        // What is staged or evicted meanwhile waits, lest the walk be older than the records.
        let writing = self.lock();
        self.agree(&layout::scan(self.cache.root())?, now, writing)
    }

    /// Repairs the records by what was found.
    fn agree(&self, inventory: &Inventory, now: Timestamp, writing: MutexGuard<'_, ()>) -> Result<Drift> {
        for problem in &inventory.problems {
            tracing::warn!(%problem, "a part of the cache cannot be read");
        }
        for repo in inventory.repos.iter().filter(|repo| repo.has_ours) {
            // What is left there is younger than that only if somebody works on it right now.
            if let Err(problem) = self.cache.repo(&repo.repo).sweep_scratch(SCRATCH_AGE) {
                tracing::warn!(%problem, "leftovers of a killed process stay behind");
            }
        }
        let known = self.stored()?;
        let (entries, drift) = reconcile(inventory, known.clone(), now);
        self.save(&known, &entries)?;
        self.put_shelf(self.shelf().rebuilt(inventory, entries));
        drop(writing);
        self.repaired.lock().unwrap_or_else(PoisonError::into_inner).add(&drift);
        drift.count();
        Ok(drift)
    }

    /// What was repaired since this was last asked for, or since the start.
    pub fn take_repaired(&self) -> Repaired {
        std::mem::take(&mut *self.repaired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the evictions that a killed process began; of this one none can be under way yet.
    fn recover_evictions(&self, inventory: &mut Inventory) {
        let mut freed = 0;
        let (unfinished, whole): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inventory.repos).into_iter().partition(|repo| !repo.unfinished.is_empty());
        inventory.repos = whole;
        for found in unfinished {
            tracing::info!(repo = %found.repo, "an eviction that a killed process began is ended");
            match self.cache.repo(&found.repo).recover(&found) {
                Ok(bytes) => freed += bytes,
                Err(problem) => tracing::warn!(%problem, "an eviction that was begun cannot be ended yet"),
            }
            inventory.repos.extend(layout::scan_repo(&self.cache, &found.repo).repos);
        }
        if freed > 0 {
            tracing::info!(freed, "evictions that a killed process had begun are ended");
        }
    }

    /// Takes in what a job has just put into one repo, and that it was asked for at `now`; says if it should never have
    /// gone. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::reconcile`].
    pub fn staged(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<Option<CameBack>> {
        let key = Key::new(repo, commit);
        let gone = self.recall(&key, now);
        let regretted = gone.as_ref().filter(|gone| gone.is_regretted());
        let came_back =
            regretted.map(|gone| CameBack { bytes: gone.bytes, evicted_at: gone.at, back_at: now });
        if came_back.is_some() {
            metrics::eviction_regretted();
            tracing::info!(model = %key, "evicted less than a day ago, and asked for again");
        }
        self.update(repo, now, |entries| {
            let Some(entry) = entries.get_mut(&key) else { return };
            if let Some(gone) = gone {
                (entry.heat, entry.last_used_at) = (gone.heat, gone.last_used_at);
            }
            entry.heat = lease::warmer(entry, now);
            entry.last_used_at = Some(now);
        })?;
        Ok(came_back)
    }

    /// Looks again at one repo. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::reconcile`].
    pub fn refresh(&self, repo: &RepoId, now: Timestamp) -> Result<()> {
        self.update(repo, now, |_| {})
    }

    /// Looks again at one repo, and changes its records beyond what the disk says.
    fn update(
        &self,
        repo: &RepoId,
        now: Timestamp,
        change: impl FnOnce(&mut BTreeMap<Key, Entry>),
    ) -> Result<()> {
        let _writing = self.lock();
        let inventory = layout::scan_repo(&self.cache, repo);
        let shelf = self.shelf();
        let known = shelf.of_repo(repo);
        let (mut entries, _) = reconcile(&inventory, known.clone(), now);
        change(&mut entries);
        self.save(&known, &entries)?;
        self.put_shelf(shelf.with_repo(repo, &inventory, entries));
        Ok(())
    }

    /// Pins revisions of a repo, or takes their pins away; on the disk beside the model before it returns. Blocks.
    ///
    /// # Errors
    /// `not_found` if one is not in the cache, `io_error`.
    pub fn pin(&self, repo: &RepoId, commits: &[CommitId], pinned: bool, now: Timestamp) -> Result<()> {
        let (shelf, dir) = (self.shelf(), self.cache.repo(repo));
        if let Some(absent) = commits.iter().find(|commit| shelf.get(&Key::new(repo, commit)).is_none()) {
            return Err(lease::absent(repo, absent));
        }
        commits.iter().try_for_each(|commit| dir.set_pin(commit, pinned))?;
        self.update(repo, now, |entries| {
            // The record alone would vouch for a pin whose receipt is gone.
            for commit in commits {
                if let Some(entry) = entries.get_mut(&Key::new(repo, commit)) {
                    entry.pinned = pinned;
                }
            }
        })
    }

    /// Remembers that the bytes of a revision were found to be right at `now`. Blocks.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn verified(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<()> {
        self.update(repo, now, |entries| {
            if let Some(entry) = entries.get_mut(&Key::new(repo, commit)) {
                entry.verified_at = Some(now);
            }
        })
    }

    /// Takes in which revisions are in use at `now`; those count as used.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn observed(&self, in_use: BTreeMap<Key, bool>, now: Timestamp) -> Result<()> {
        let busy: Vec<Key> = in_use.iter().filter(|(_, busy)| **busy).map(|(key, _)| key.clone()).collect();
        {
            let _writing = self.lock();
            self.put_shelf(self.shelf().with_use(in_use));
        }
        let is_recent = |then: Timestamp| now.duration_since(then) < SEEN_EVERY;
        busy.iter().try_for_each(|key| {
            self.change(key, |entry| {
                let is_known = entry.last_used_at.is_some_and(is_recent);
                (!is_known).then(|| Entry { last_used_at: Some(now), ..entry.clone() })
            })
        })
    }

    /// Remembers that a revision was asked for at `now`.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn touch(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<()> {
        self.change(&Key::new(repo, commit), |entry| {
            Some(Entry { last_used_at: Some(now), heat: lease::warmer(entry, now), ..entry.clone() })
        })
    }

    /// Changes one record, unless there is nothing to change.
    fn change(&self, key: &Key, change: impl FnOnce(&Entry) -> Option<Entry>) -> Result<()> {
        let _writing = self.lock();
        let shelf = self.shelf();
        let Some(entry) = shelf.get(key).and_then(change) else { return Ok(()) };
        let mut batch = Batch::default();
        batch.put(ENTRIES, key.as_bytes(), &entry);
        self.store.commit(batch)?;
        self.put_shelf(shelf.with_entry(key.clone(), entry));
        Ok(())
    }

    /// Waits until everything recorded so far survives a power loss.
    ///
    /// # Errors
    /// `io_error` if the disk refuses.
    pub async fn durable(&self) -> Result<()> {
        self.store.durable().await
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_shelf(&self, shelf: Shelf) {
        self.shelf.send_replace(Arc::new(shelf));
    }

    /// The stored entries; a damaged one is dropped, since the disk brings it back.
    fn stored(&self) -> Result<BTreeMap<Key, Entry>> {
        let mut entries = BTreeMap::new();
        let mut damaged = Batch::default();
        for item in self.store.scan(ENTRIES, b"") {
            let (key, entry) = item?;
            match entry {
                Ok(entry) => {
                    entries.insert(entry.key(), entry);
                }
                Err(damage) => {
                    tracing::warn!(%damage, key = %String::from_utf8_lossy(&key), "a record is dropped and rebuilt");
                    metrics::drift("damaged", 1);
                    damaged.delete(ENTRIES, &key);
                }
            }
        }
        self.store.commit(damaged)?;
        Ok(entries)
    }

    fn save(&self, known: &BTreeMap<Key, Entry>, entries: &BTreeMap<Key, Entry>) -> Result<()> {
        let mut batch = Batch::default();
        for (key, entry) in entries.iter().filter(|(key, entry)| known.get(*key) != Some(*entry)) {
            batch.put(ENTRIES, key.as_bytes(), entry);
        }
        for key in known.keys().filter(|key| !entries.contains_key(*key)) {
            batch.delete(ENTRIES, key.as_bytes());
        }
        self.store.commit(batch)
    }
}
