//! Who works on which repo: any number of downloads, pins and leases at a time, or one eviction.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_jobs::RepoId;
use tokio::sync::Notify;

/// Who works on which repo; clones are the same. Bounded by the jobs that run.
#[derive(Debug, Clone, Default)]
pub struct Repos {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    busy: Mutex<BTreeMap<RepoId, Busy>>,
    freed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    /// So many that read or add.
    Working(usize),
    /// One that deletes.
    Evicting,
}

/// The right to work on a repo, given up on drop.
#[derive(Debug)]
pub struct Work {
    shared: Arc<Shared>,
    repo: RepoId,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepoId, Busy>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repos {
    /// Waits until nobody evicts from the repo, and keeps it so.
    pub async fn work(&self, repo: &RepoId) -> Work {
        loop {
            let mut freed = pin!(self.shared.freed.notified());
            // From here on nothing is missed.
            freed.as_mut().enable();
            {
                let mut busy = self.shared.lock();
                match busy.entry(repo.clone()).or_insert(Busy::Working(0)) {
                    Busy::Working(number) => {
                        *number += 1;
                        return Work { shared: Arc::clone(&self.shared), repo: repo.clone() };
                    }
                    Busy::Evicting => {}
                }
            }
            freed.await;
        }
    }

    /// The right to delete from a repo; `None` while somebody works on it.
    pub(super) fn evict(&self, repo: &RepoId) -> Option<Work> {
        let mut busy = self.shared.lock();
        if busy.contains_key(repo) {
            return None;
        }
        busy.insert(repo.clone(), Busy::Evicting);
        Some(Work { shared: Arc::clone(&self.shared), repo: repo.clone() })
    }

    /// The repos that somebody works on.
    pub fn fetching(&self) -> BTreeSet<RepoId> {
        let busy = self.shared.lock();
        busy.iter().filter(|(_, busy)| **busy != Busy::Evicting).map(|(repo, _)| repo.clone()).collect()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut busy = self.shared.lock();
        match busy.get_mut(&self.repo) {
            Some(Busy::Working(number)) if *number > 1 => *number -= 1,
            _ => drop(busy.remove(&self.repo)),
        }
        drop(busy);
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_work_or_one_evicts() {
        let (repos, repo): (Repos, RepoId) = (Repos::default(), "a/b".parse().expect("name"));
        let (one, two) = (repos.work(&repo).await, repos.work(&repo).await);
        assert!(repos.evict(&repo).is_none());
        drop(one);
        assert!(repos.evict(&repo).is_none() && repos.fetching().contains(&repo));
        drop(two);
        let evicting = repos.evict(&repo).expect("nobody works on it");
        assert!(repos.evict(&repo).is_none() && repos.fetching().is_empty());
        let waiting = tokio::spawn({
            let (repos, repo) = (repos.clone(), repo.clone());
            async move { drop(repos.work(&repo).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(evicting);
        waiting.await.expect("goes on");
        assert!(repos.shared.lock().is_empty());
    }
}
