//! What is known now, in memory: for `ls`, the API and the scrape, none of which waits for a disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use larder_jobs::RepoId;

use super::{Entry, Key, ModelView};
use crate::layout::{Inventory, RepoEntry};

/// Bytes in the cache by what may happen to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// In pinned revisions.
    pub pinned: u64,
    /// In revisions that nothing protects.
    pub evictable: u64,
    /// In transfers that are under way or were given up.
    pub partial: u64,
    /// Plain files that are not part of a hub cache.
    pub foreign: u64,
}

/// The models in the cache at one moment.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    entries: BTreeMap<Key, Entry>,
    repos: BTreeMap<RepoId, Totals>,
    foreign_bytes: u64,
    /// Set while nothing is deleted automatically, because the store was lost.
    pub eviction_off_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Default)]
struct Totals {
    path: PathBuf,
    /// Own blobs once each, shared ones too, no partials.
    bytes: u64,
    pinned: u64,
    partial: u64,
}

impl Totals {
    fn of(repo: &RepoEntry, entries: &BTreeMap<Key, Entry>) -> Self {
        let pinned_blobs: BTreeMap<&str, u64> = repo
            .revisions
            .iter()
            .filter(|revision| {
                entries.get(&Key::new(&repo.repo, &revision.commit)).is_some_and(|entry| entry.pinned)
            })
            .flat_map(|revision| &revision.files)
            .map(|file| (file.blob.as_deref().unwrap_or(&file.path), file.bytes.unwrap_or(0)))
            .collect();
        Self {
            path: repo.path.clone(),
            bytes: repo.bytes + repo.shared_bytes,
            pinned: pinned_blobs.values().sum(),
            partial: repo.partials.iter().map(|partial| partial.bytes).sum(),
        }
    }
}

impl Shelf {
    /// An empty shelf.
    pub(super) fn new(eviction_off_until: Option<Timestamp>) -> Self {
        Self { eviction_off_until, ..Self::default() }
    }

    /// Number of revisions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One revision.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every revision, by name and commit.
    pub fn views(&self) -> Vec<ModelView> {
        self.entries.values().map(|entry| self.view(entry)).collect()
    }

    /// Bytes of one repo, files that its revisions share counted once.
    pub fn repo_bytes(&self, repo: &RepoId) -> u64 {
        self.repos.get(repo).map_or(0, |totals| totals.bytes)
    }

    /// Bytes by what may happen to them.
    pub fn used(&self) -> Used {
        let mut used = Used { foreign: self.foreign_bytes, ..Used::default() };
        for totals in self.repos.values() {
            used.pinned += totals.pinned;
            used.evictable += totals.bytes.saturating_sub(totals.pinned);
            used.partial += totals.partial;
        }
        used
    }

    fn view(&self, entry: &Entry) -> ModelView {
        let folder = self.repos.get(&entry.repo).map_or_else(PathBuf::new, |totals| totals.path.clone());
        ModelView {
            repo: entry.repo.clone(),
            commit: entry.commit.clone(),
            revisions: entry.revisions.clone(),
            bytes: entry.bytes,
            files: entry.files,
            last_used_at: entry.last_used_at,
            pinned: entry.pinned,
            leased: false,
            in_use: None,
            origin: entry.origin,
            format: entry.format.clone(),
            quantization: entry.quantization.clone(),
            added_at: entry.added_at,
            path: folder.join("snapshots").join(entry.commit.as_str()).display().to_string(),
        }
    }

    pub(super) fn of_repo(&self, repo: &RepoId) -> BTreeMap<Key, Entry> {
        let of_repo = self.entries.iter().filter(|(_, entry)| entry.repo == *repo);
        of_repo.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    pub(super) fn rebuilt(&self, inventory: &Inventory, entries: BTreeMap<Key, Entry>) -> Self {
        let repos = inventory.repos.iter().map(|repo| (repo.repo.clone(), Totals::of(repo, &entries)));
        Self {
            repos: repos.collect(),
            foreign_bytes: inventory.foreign.iter().filter_map(|foreign| foreign.bytes).sum(),
            eviction_off_until: self.eviction_off_until,
            entries,
        }
    }

    pub(super) fn with_repo(
        &self,
        repo: &RepoId,
        inventory: &Inventory,
        entries: BTreeMap<Key, Entry>,
    ) -> Self {
        let mut shelf = self.clone();
        shelf.repos.remove(repo);
        shelf
            .repos
            .extend(inventory.repos.iter().map(|found| (found.repo.clone(), Totals::of(found, &entries))));
        shelf.entries.retain(|_, entry| entry.repo != *repo);
        shelf.entries.extend(entries);
        shelf
    }

    pub(super) fn with_entry(&self, key: Key, entry: Entry) -> Self {
        let mut shelf = self.clone();
        shelf.entries.insert(key, entry);
        shelf
    }
}
