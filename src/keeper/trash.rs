//! The trash: an eviction by name can be taken back for `cache.trash`; whoever needs the room empties it first.

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{CommitId, ModelRef, Reason, RepoId};

use super::Keeper;
use crate::error::blocking;
use crate::error::{Error, Result};
use crate::layout::Trashed;
use crate::ledger::ModelView;

impl Keeper {
    /// Keeps a revision that somebody names for a while, if that is configured.
    pub(super) fn keep_a_while(&self, repo: &RepoId, commit: &CommitId, now: Timestamp) -> Result<bool> {
        match self.inner.habits.trash {
            Some(_) => self.inner.cache.repo(repo).keep_in_trash(commit, now),
            None => Ok(false),
        }
    }

    fn trashed(&self) -> Result<Vec<Trashed>> {
        let repos = self.inner.cache.with_trash()?;
        let mut all: Vec<Trashed> =
            repos.iter().flat_map(|repo| self.inner.cache.repo(repo).trashed()).collect();
        all.sort_by_key(|kept| kept.at);
        Ok(all)
    }

    /// Empties the trash of what is there for longer than `cache.trash`, and then of the oldest until `bytes` are free.
    /// Returns the bytes that became free.
    ///
    /// # Errors
    /// `io_error`.
    pub(super) fn empty_trash(&self, bytes: u64, now: Timestamp) -> Result<u64> {
        let grace = self.inner.habits.trash.unwrap_or_default();
        let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
        let mut freed = 0;
        for kept in self.trashed()? {
            if now.duration_since(kept.at) < grace && freed >= bytes {
                break;
            }
            let Some(_right) = self.inner.repos.evict(&kept.repo) else { continue };
            let came = self.inner.cache.repo(&kept.repo).empty_trash(&kept.commit)?;
            tracing::info!(repo = %kept.repo, commit = %kept.commit, bytes = came, "removed from the trash");
            freed += came;
        }
        Ok(freed)
    }

    /// Brings back what was evicted by name.
    ///
    /// # Errors
    /// `not_found` if it is not in the trash, `io_error`.
    pub async fn restore(&self, model: &ModelRef) -> Result<Vec<ModelView>> {
        let _work = self.inner.repos.work(model.repo()).await;
        let (keeper, model) = (self.clone(), model.clone());
        let restored = blocking(move || {
            let dir = keeper.inner.cache.repo(model.repo());
            let mut kept = dir.trashed();
            kept.retain(|one| model.revision().is_none_or(|wanted| one.is(wanted)));
            if kept.is_empty() {
                return Err(Error::new(
                    Reason::NotFound,
                    format!("{model} is not in the trash"),
                    format!("stage it again: larder stage {model}"),
                ));
            }
            kept.iter().try_for_each(|one| dir.restore(&one.commit))?;
            let now = Timestamp::now();
            keeper.inner.ledger.refresh(model.repo(), now)?;
            let views = keeper.inner.ledger.shelf().views(now).into_iter();
            let is_back = |view: &ModelView| kept.iter().any(|one| one.commit == view.commit);
            Ok(views.filter(|view| view.repo == *model.repo() && is_back(view)).collect())
        });
        let restored = restored.await?;
        self.inner.ledger.durable().await?;
        Ok(restored)
    }

    /// Whether a name means something in the trash.
    pub(super) fn is_in_trash(&self, model: &ModelRef) -> bool {
        let kept = self.inner.cache.repo(model.repo()).trashed();
        kept.iter().any(|one| model.revision().is_none_or(|wanted| one.is(wanted)))
    }
}
