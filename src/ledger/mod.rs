//! The ledger: what larder knows about the models in the cache, and why they are there.
//!
//! The disk is the truth about bytes, the ledger about intent and history. Every start reconciles the two:
//! records without bytes go, bytes without records are adopted, pins come back from the receipts beside the
//! models. So losing the store loses no model and no pin, only when a model was last used.

mod entry;
mod reconcile;
mod shelf;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{CommitId, RepoId, Span};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout::{self, Cache};
use crate::metrics;
use crate::plan::KeepFree;
use crate::store::{Batch, Opened, Store, Table};

pub use entry::{Entry, Key, ModelView, Origin};
pub use reconcile::{Drift, reconcile};
pub use shelf::{Shelf, Used};

const ENTRIES: Table<Entry> = Table::new("entries");
const HOST: Table<HostRecord> = Table::new("host");
const HOST_KEY: &[u8] = b"this";
/// Leftovers of killed processes in a repo's scratch folder are swept at this age.
const SCRATCH_AGE: Duration = Duration::from_secs(3_600);
/// `last_used_at` is written at most this often for each entry.
const TOUCH_EVERY: Duration = Duration::from_secs(30);

/// The section `[cache]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The hub cache; empty means where the hub's own clients have it.
    pub root: String,
    /// What stays free on the cache's disk.
    pub keep_free: KeepFree,
    /// How long automatic deletion stays off after the store was lost.
    pub recovery_grace: Span,
}

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
    shelf: RwLock<Arc<Shelf>>,
    /// Held while entries are changed, so that shelf and store agree.
    writing: Mutex<()>,
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
        let shelf = RwLock::new(Arc::new(Shelf::new(until)));
        let ledger = Self { store, cache, shelf, writing: Mutex::new(()) };
        let drift = ledger.reconcile(now)?;
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
        Arc::clone(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
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
        let writing = self.lock();
        let inventory = layout::scan(self.cache.root())?;
        for problem in &inventory.problems {
            tracing::warn!(%problem, "a part of the cache cannot be read");
        }
        for repo in &inventory.repos {
            // What is left there is younger than that only if somebody works on it right now.
            if let Err(problem) = self.cache.repo(&repo.repo).sweep_scratch(SCRATCH_AGE) {
                tracing::warn!(%problem, "leftovers of a killed process stay behind");
            }
        }
        let known = self.stored()?;
        let (entries, drift) = reconcile(&inventory, known.clone(), now);
        self.save(&known, &entries)?;
        self.put_shelf(self.shelf().rebuilt(&inventory, entries));
        drop(writing);
        drift.count();
        Ok(drift)
    }

    /// Takes in what a job has just put into one repo, and that it was asked for at `now`. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::reconcile`].
    pub fn staged(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<()> {
        let writing = self.lock();
        let inventory = layout::scan_repo(&self.cache, repo);
        let shelf = self.shelf();
        let known = shelf.of_repo(repo);
        let (mut entries, _) = reconcile(&inventory, known.clone(), now);
        if let Some(entry) = entries.get_mut(&Key::new(repo, commit)) {
            entry.last_used_at = Some(now);
        }
        self.save(&known, &entries)?;
        self.put_shelf(shelf.with_repo(repo, &inventory, entries));
        drop(writing);
        Ok(())
    }

    /// Remembers that a revision was used at `now`; written at most every 30 seconds.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn touch(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<()> {
        let _writing = self.lock();
        let shelf = self.shelf();
        let key = Key::new(repo, commit);
        let Some(entry) = shelf.get(&key) else { return Ok(()) };
        let recent = entry.last_used_at.is_some_and(|last| {
            now.duration_since(last) < jiff::SignedDuration::try_from(TOUCH_EVERY).unwrap_or_default()
        });
        if recent {
            return Ok(());
        }
        let entry = Entry { last_used_at: Some(now), ..entry.clone() };
        let mut batch = Batch::default();
        batch.put(ENTRIES, key.as_bytes(), &entry);
        self.store.commit(batch)?;
        self.put_shelf(shelf.with_entry(key, entry));
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
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shelf);
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
