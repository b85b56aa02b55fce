//! What is known now, in memory: for `ls`, the API, the scrape and eviction plans, none of which waits for a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use larder_jobs::RepoId;
use schemars::JsonSchema;
use serde::Serialize;

use super::lease::{Leases, leased_until};
use super::{Entry, Key, LeaseView, ModelView, Origin};
use crate::layout::{Inventory, RepoEntry};
use crate::plan::{Candidate, Stock, Use};

/// Bytes in the cache by what may happen to them; what is several of them counts as the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "UsedBytes")]
pub struct Used {
    /// In pinned revisions.
    pub pinned: u64,
    /// In revisions that a process has open.
    pub in_use: u64,
    /// In revisions that somebody leases.
    pub leased: u64,
    /// In revisions that nothing protects, and in blobs that no revision needs.
    pub evictable: u64,
    /// In transfers that are under way or were given up.
    pub partial: u64,
    /// Plain files that are not part of a hub cache.
    pub foreign: u64,
}

/// The models in the cache at one moment.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    entries: BTreeMap<Key, Arc<Entry>>,
    repos: BTreeMap<RepoId, Arc<Totals>>,
    pub(super) leases: Leases,
    /// Whether a process has a revision open, as far as that was looked at.
    in_use: Arc<BTreeMap<Key, bool>>,
    foreign_bytes: u64,
    /// Set while nothing is deleted automatically, because the store was lost.
    pub eviction_off_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Default)]
struct Totals {
    path: PathBuf,
    /// Own blobs once each, shared ones too, no partials.
    bytes: u64,
    partial: u64,
    /// Its revisions, whole or not.
    keys: Vec<Key>,
    stakes: Vec<Stake>,
}

/// Bytes that exactly these revisions need.
#[derive(Debug, Clone)]
struct Stake {
    /// Numbers into [`Totals::keys`].
    users: Vec<usize>,
    /// What they are long.
    bytes: u64,
    /// What becomes free when the last of the revisions goes.
    frees: u64,
}

impl Totals {
    fn of(repo: &RepoEntry) -> Self {
        let stakes = repo.stakes().into_iter();
        let stakes =
            stakes.map(|stake| Stake { users: stake.revisions, bytes: stake.bytes, frees: stake.frees });
        Self {
            path: repo.path.clone(),
            bytes: repo.bytes + repo.shared_bytes,
            partial: repo.partials.iter().map(|partial| partial.bytes).sum(),
            keys: repo.revisions.iter().map(|one| Key::new(&repo.repo, &one.commit)).collect(),
            stakes: stakes.collect(),
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
        self.entries.get(key).map(AsRef::as_ref)
    }

    /// Until when a revision is leased, if it is at `now`.
    pub fn leased_until(&self, key: &Key, now: Timestamp) -> Option<Timestamp> {
        leased_until(&self.leases, key, now)
    }

    /// Every revision, by name and commit.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(AsRef::as_ref)
    }

    /// Every revision, by name and commit, as it is at `now`.
    pub fn views(&self, now: Timestamp) -> Vec<ModelView> {
        self.entries.iter().map(|(key, entry)| self.view(key, entry, now)).collect()
    }

    /// Bytes of one repo, files that its revisions share counted once.
    pub fn repo_bytes(&self, repo: &RepoId) -> u64 {
        self.repos.get(repo).map_or(0, |totals| totals.bytes)
    }

    /// Bytes of everything in the cache that belongs to a model, transfers included.
    pub fn bytes(&self) -> u64 {
        self.repos.values().map(|totals| totals.bytes + totals.partial).sum()
    }

    /// Bytes by what may happen to them at `now`.
    pub fn used(&self, now: Timestamp) -> Used {
        let mut used = Used { foreign: self.foreign_bytes, ..Used::default() };
        for totals in self.repos.values() {
            let mut left = totals.bytes;
            for stake in &totals.stakes {
                let any = |is: &dyn Fn(&Key) -> bool| stake.users.iter().any(|n| is(&totals.keys[*n]));
                let class = if any(&|key| self.entries.get(key).is_some_and(|entry| entry.pinned)) {
                    &mut used.pinned
                } else if any(&|key| self.in_use.get(key) == Some(&true)) {
                    &mut used.in_use
                } else if any(&|key| leased_until(&self.leases, key, now).is_some()) {
                    &mut used.leased
                } else {
                    continue;
                };
                *class += stake.bytes;
                left = left.saturating_sub(stake.bytes);
            }
            used.evictable += left;
            used.partial += totals.partial;
        }
        used
    }

    /// What an eviction plan needs to know, without the disk's own numbers. `fetching` are repos that jobs work on.
    pub fn stock(&self, fetching: &BTreeSet<RepoId>, now: Timestamp) -> Stock {
        let mut stock = Stock {
            is_amnesic: self.eviction_off_until.is_some_and(|until| until > now),
            cache_bytes: self.bytes(),
            ..Stock::default()
        };
        for (repo, totals) in &self.repos {
            let is_fetched = fetching.contains(repo);
            // Where a revision stands among the candidates, unless it is half of another client's.
            let places: Vec<Option<usize>> = totals
                .keys
                .iter()
                .map(|key| {
                    let entry = self.entries.get(key)?;
                    stock.revisions.push(self.candidate(key, entry, is_fetched, now));
                    Some(stock.revisions.len() - 1)
                })
                .collect();
            for stake in &totals.stakes {
                // Half a revision needs its blobs too, and is nobody's to evict.
                let is_whole = stake.users.iter().all(|n| places[*n].is_some());
                let number = stock.blobs.len();
                stock.blobs.push(if is_whole { stake.frees } else { 0 });
                for place in stake.users.iter().filter_map(|n| places[*n]) {
                    stock.revisions[place].blobs.push(number);
                }
            }
        }
        stock
    }

    fn candidate(&self, key: &Key, entry: &Entry, is_fetched: bool, now: Timestamp) -> Candidate {
        Candidate {
            name: (entry.repo.clone(), entry.commit.clone()),
            blobs: Vec::new(),
            staged: entry.origin == Origin::Staged,
            // For what others fetched nobody knows better.
            last_used_at: entry.last_used_at.unwrap_or(entry.added_at),
            heat: entry.heat,
            pinned: entry.pinned,
            leased_until: leased_until(&self.leases, key, now),
            fetching: is_fetched,
            used: if self.in_use.get(key) == Some(&true) { Use::Busy } else { Use::Free },
        }
    }

    fn view(&self, key: &Key, entry: &Entry, now: Timestamp) -> ModelView {
        let folder = self.repos.get(&entry.repo).map_or_else(PathBuf::new, |totals| totals.path.clone());
        let leases = self.leases.get(key).into_iter().flatten().filter(|(_, until)| **until > now);
        let leases: Vec<LeaseView> =
            leases.map(|(holder, until)| LeaseView { holder: holder.clone(), until: *until }).collect();
        ModelView {
            repo: entry.repo.clone(),
            commit: entry.commit.clone(),
            revisions: entry.revisions.clone(),
            bytes: entry.bytes,
            files: entry.files,
            last_used_at: entry.last_used_at,
            pinned: entry.pinned,
            leased: !leases.is_empty(),
            leases,
            in_use: self.in_use.get(key).copied(),
            origin: entry.origin,
            format: entry.format.clone(),
            quantization: entry.quantization.clone(),
            added_at: entry.added_at,
            verified_at: entry.verified_at,
            path: folder.join("snapshots").join(entry.commit.as_str()).display().to_string(),
        }
    }

    pub(super) fn of_repo(&self, repo: &RepoId) -> BTreeMap<Key, Entry> {
        let from = self.entries.range(Key::before(repo)..);
        let of_repo = from.take_while(|(_, entry)| entry.repo == *repo);
        of_repo.map(|(key, entry)| (key.clone(), Entry::clone(entry))).collect()
    }

    pub(super) fn rebuilt(&self, inventory: &Inventory, entries: BTreeMap<Key, Entry>) -> Self {
        let repos = inventory.repos.iter().map(|repo| (repo.repo.clone(), Totals::of(repo).into()));
        Self {
            repos: repos.collect(),
            foreign_bytes: inventory.foreign.iter().filter_map(|foreign| foreign.bytes).sum(),
            eviction_off_until: self.eviction_off_until,
            leases: self.leases.clone(),
            in_use: Arc::clone(&self.in_use),
            entries: entries.into_iter().map(|(key, entry)| (key, entry.into())).collect(),
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
        let found = inventory.repos.iter();
        shelf.repos.extend(found.map(|found| (found.repo.clone(), Totals::of(found).into())));
        let old: Vec<Key> = self.of_repo(repo).into_keys().collect();
        old.iter().for_each(|key| drop(shelf.entries.remove(key)));
        shelf.entries.extend(entries.into_iter().map(|(key, entry)| (key, entry.into())));
        shelf
    }

    pub(super) fn with_entry(&self, key: Key, entry: Entry) -> Self {
        let mut shelf = self.clone();
        shelf.entries.insert(key, entry.into());
        shelf
    }

    pub(super) fn with_leases(&self, leases: Leases) -> Self {
        Self { leases, ..self.clone() }
    }

    pub(super) fn with_use(&self, in_use: BTreeMap<Key, bool>) -> Self {
        Self { in_use: Arc::new(in_use), ..self.clone() }
    }
}
