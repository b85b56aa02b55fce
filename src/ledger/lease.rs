//! Leases on models, by which an orchestrator says "in use", and the memory of models that went.
//!
//! A lease has a holder and an end; the holder renews it by asking again. It is stored durably before the answer, so it
//! outlives restarts. What is remembered of evicted models tells regret, and how warm a model was that comes back.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{CommitId, Reason, RepoId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entry, Key, Ledger};
use crate::error::{Error, Result};
use crate::store::{Batch, Table};

pub(super) const LEASES: Table<Lease> = Table::new("leases");
pub(super) const GONE: Table<Gone> = Table::new("gone");
/// A model that is asked for again within that time of its eviction should have stayed.
const REGRET: SignedDuration = SignedDuration::from_hours(24);
/// Most holders of one revision.
const MAX_HOLDERS: usize = 256;
/// Most evicted models that are remembered; the longest gone are forgotten first.
const MAX_GONE: usize = 10_000;

/// Somebody needs a revision until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Who needs it.
    pub holder: String,
    /// Until when.
    pub until: Timestamp,
}

/// A revision that was evicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gone {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// When.
    pub at: Timestamp,
    /// Why, in the words of eviction plans.
    pub reason: String,
    /// Bytes that became free.
    pub bytes: u64,
    /// When it had last been used.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// How warm it was then.
    #[serde(default)]
    pub heat: f64,
    /// When it was asked for again and came back.
    #[serde(default)]
    pub back_at: Option<Timestamp>,
}

impl Gone {
    /// Whether it went by the rules, not because somebody named it.
    pub fn is_by_itself(&self) -> bool {
        self.reason != "requested"
    }

    /// Whether it should have stayed: it went by the rules, and was asked for again within a day.
    pub fn is_regretted(&self) -> bool {
        self.is_by_itself() && self.back_at.is_some_and(|back| back.duration_since(self.at) < REGRET)
    }
}

/// Leases by revision and holder.
pub(super) type Leases = BTreeMap<Key, BTreeMap<String, Timestamp>>;

fn lease_key(key: &Key, holder: &str) -> Vec<u8> {
    format!("{key} {holder}").into_bytes()
}

impl Ledger {
    /// Leases `commits` of a repo to `holder` until then; a lease that is there is moved, be it forward or back. They are
    /// used by that, at `now`. Blocks; durable after [`Ledger::durable`].
    ///
    /// # Errors
    /// `not_found` if one is not in the cache, `invalid_request` if it has too many holders, `io_error`.
    pub fn lease(
        &self,
        repo: &RepoId,
        commits: &[CommitId],
        holder: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<()> {
        self.add_lease(repo, commits, holder, until)?;
        commits.iter().try_for_each(|commit| self.used_until(&Key::new(repo, commit), now))
    }

    fn add_lease(&self, repo: &RepoId, commits: &[CommitId], holder: &str, until: Timestamp) -> Result<()> {
        let _writing = self.lock();
        let shelf = self.shelf();
        let (mut leases, mut batch) = (shelf.leases.clone(), Batch::default());
        for commit in commits {
            let key = Key::new(repo, commit);
            if shelf.get(&key).is_none() {
                return Err(absent(repo, commit));
            }
            let holders = leases.entry(key.clone()).or_default();
            if holders.len() >= MAX_HOLDERS && !holders.contains_key(holder) {
                return Err(Error::new(
                    Reason::InvalidRequest,
                    format!("{repo}@{} is leased to {MAX_HOLDERS} holders already", commit.short()),
                    "renew a lease under the same holder instead of taking another one",
                ));
            }
            holders.insert(holder.to_owned(), until);
            let lease =
                Lease { repo: repo.clone(), commit: commit.clone(), holder: holder.to_owned(), until };
            batch.put(LEASES, &lease_key(&key, holder), &lease);
        }
        self.store.commit(batch)?;
        self.put_shelf(shelf.with_leases(leases));
        Ok(())
    }

    /// Ends the leases of `holder` on `commits`, or those of everybody. Returns how many there were.
    ///
    /// # Errors
    /// `io_error`.
    pub fn release(
        &self,
        repo: &RepoId,
        commits: &[CommitId],
        holder: Option<&str>,
        now: Timestamp,
    ) -> Result<usize> {
        let keys: Vec<Key> = commits.iter().map(|commit| Key::new(repo, commit)).collect();
        let is_his = |key: &Key, name: &str| keys.contains(key) && holder.is_none_or(|holder| holder == name);
        self.drop_leases(now, |key, name, _| is_his(key, name))
    }

    /// Forgets the leases that have ended.
    ///
    /// # Errors
    /// `io_error`.
    pub fn expire_leases(&self, now: Timestamp) -> Result<usize> {
        self.drop_leases(now, |_, _, until| until <= now)
    }

    /// A model was in use until its lease ended.
    fn drop_leases(&self, now: Timestamp, goes: impl FnMut(&Key, &str, Timestamp) -> bool) -> Result<usize> {
        let dropped = self.take_leases(goes)?;
        for (key, until) in &dropped {
            self.used_until(key, now.min(*until))?;
        }
        Ok(dropped.len())
    }

    fn used_until(&self, key: &Key, then: Timestamp) -> Result<()> {
        self.change(key, |entry| {
            let is_later = entry.last_used_at.is_none_or(|last| last < then);
            is_later.then(|| Entry { last_used_at: Some(then), ..entry.clone() })
        })
    }

    fn take_leases(
        &self,
        mut goes: impl FnMut(&Key, &str, Timestamp) -> bool,
    ) -> Result<Vec<(Key, Timestamp)>> {
        let _writing = self.lock();
        let shelf = self.shelf();
        let (mut leases, mut batch, mut dropped) = (shelf.leases.clone(), Batch::default(), Vec::new());
        leases.retain(|key, holders| {
            holders.retain(|holder, until| {
                let goes = goes(key, holder, *until);
                if goes {
                    batch.delete(LEASES, &lease_key(key, holder));
                    dropped.push((key.clone(), *until));
                }
                !goes
            });
            !holders.is_empty()
        });
        if !dropped.is_empty() {
            self.store.commit(batch)?;
            self.put_shelf(shelf.with_leases(leases));
        }
        Ok(dropped)
    }

    /// The stored leases; a damaged one is dropped.
    pub(super) fn stored_leases(&self) -> Result<Leases> {
        let mut leases = Leases::new();
        for item in self.store.scan(LEASES, b"") {
            let (_, lease) = item?;
            match lease {
                Ok(lease) => {
                    let holders = leases.entry(Key::new(&lease.repo, &lease.commit)).or_default();
                    holders.insert(lease.holder, lease.until);
                }
                Err(damage) => tracing::warn!(%damage, "a lease cannot be read and is void"),
            }
        }
        Ok(leases)
    }

    /// Takes a revision that was evicted off the shelf and remembers it. Blocks.
    ///
    /// # Errors
    /// `io_error` if the store fails; the next start finds that it is gone.
    pub fn evicted(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        reason: &str,
        bytes: u64,
        now: Timestamp,
    ) -> Result<()> {
        let old = self.shelf().get(&Key::new(repo, commit)).cloned();
        let gone = Gone {
            repo: repo.clone(),
            commit: commit.clone(),
            at: now,
            reason: reason.to_owned(),
            bytes,
            last_used_at: old.as_ref().and_then(|entry| entry.last_used_at),
            heat: old.as_ref().map_or(0.0, |entry| entry.heat),
            back_at: None,
        };
        let mut batch = Batch::default();
        batch.put(GONE, Key::new(repo, commit).as_bytes(), &gone);
        self.store.commit(batch)?;
        self.refresh(repo, now)
    }

    /// What is remembered of the evicted revisions of a repo, the last one first.
    ///
    /// # Errors
    /// `io_error`.
    pub fn gone(&self, repo: &RepoId) -> Result<Vec<Gone>> {
        let mut found = Vec::new();
        for item in self.store.scan(GONE, format!("{repo}@").as_bytes()) {
            found.extend(item?.1);
        }
        found.sort_by_key(|gone: &Gone| std::cmp::Reverse(gone.at));
        Ok(found)
    }

    /// What went, or came back after that, since `from`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn gone_since(&self, from: Timestamp) -> Result<Vec<Gone>> {
        let mut found = Vec::new();
        for item in self.store.scan(GONE, b"") {
            found.extend(item?.1);
        }
        found.retain(|gone: &Gone| gone.at >= from || gone.back_at.is_some_and(|back| back >= from));
        found.sort_by_key(|gone| gone.at);
        Ok(found)
    }

    /// A revision comes back: what is remembered of it, if this is the first time since it went.
    pub(super) fn recall(&self, key: &Key, now: Timestamp) -> Option<Gone> {
        let gone = self.store.get(GONE, key.as_bytes()).ok().flatten();
        let gone = gone.filter(|gone: &Gone| gone.back_at.is_none())?;
        let gone = Gone { back_at: Some(now), ..gone };
        let mut batch = Batch::default();
        batch.put(GONE, key.as_bytes(), &gone);
        self.store.commit(batch).ok()?;
        Some(gone)
    }

    /// Forgets the longest gone beyond the bound.
    ///
    /// # Errors
    /// `io_error`.
    pub fn trim_gone(&self) -> Result<()> {
        if self.store.count(GONE, b"") <= MAX_GONE {
            return Ok(());
        }
        let mut all: Vec<(Timestamp, Vec<u8>)> = Vec::new();
        for item in self.store.scan(GONE, b"") {
            let (key, gone) = item?;
            all.push((gone.map_or(Timestamp::MIN, |gone| gone.at), key.to_vec()));
        }
        all.sort();
        let mut batch = Batch::default();
        all.iter().rev().skip(MAX_GONE).for_each(|(_, key)| batch.delete(GONE, key));
        self.store.commit(batch)
    }
}

pub(super) fn absent(repo: &RepoId, commit: &CommitId) -> Error {
    Error::new(
        Reason::NotFound,
        format!("{repo}@{} is not in the cache of this host", commit.short()),
        format!("stage it: larder stage {repo}"),
    )
}

/// Whether anybody's lease holds at `now`, and until when the longest does.
pub(super) fn leased_until(leases: &Leases, key: &Key, now: Timestamp) -> Option<Timestamp> {
    leases.get(key)?.values().copied().max().filter(|until| *until > now)
}

/// How warm a revision is after one more use.
pub(super) fn warmer(entry: &Entry, now: Timestamp) -> f64 {
    crate::plan::heat(entry.heat, entry.last_used_at.unwrap_or(now), now)
}
