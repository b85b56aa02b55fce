//! The keeper of the disk: what may stay, what goes, and when. It plans with what the ledger and the kernel know, and
//! carries out with what `layout` can do; jobs, the API and its own rounds all ask here.
//!
//! Nothing else in larder deletes a model. Whoever works on a repo, be it a download or a pin, holds the repo meanwhile
//! ([`Repos`]), so an eviction never meets half a change.

mod evict;
mod repos;
mod rounds;
mod tidy;
mod trash;
mod verify;
mod view;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{Bandwidth, CommitId, EvictedModel, HostDisk, MAX_FIRST, ModelRef, RepoId, Span};

use crate::disk::{self, Reservations};
use crate::error::{Error, Result, blocking};
use crate::layout::Cache;
use crate::ledger::{self, Key, Ledger, ModelView};
use crate::plan::{Goal, Policy, Stock, Watermarks, plan_eviction};
use larder_jobs::Reason;

pub use evict::Outcome;
pub use repos::{Repos, Work};
pub use rounds::keep_until;
pub use tidy::Tidied;
pub use verify::{Checked, Wrong};
pub use view::{Decision, KeptView, PlanView, Verdict};

/// What the keeper's rounds are set to.
#[derive(Debug, Clone, Copy)]
struct Habits {
    check_every: Duration,
    reconcile_every: Duration,
    leftover_age: Duration,
    scrub_every: Option<Duration>,
    verify_bandwidth: Bandwidth,
    trash: Option<Duration>,
}

/// The keeper of one cache; clones are the same.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    ledger: Arc<Ledger>,
    policy: Policy,
    reservations: Reservations,
    repos: Repos,
    habits: Habits,
}

impl Keeper {
    /// The keeper of `cache`, by the rules of `config`.
    pub fn new(
        cache: Cache,
        ledger: Arc<Ledger>,
        config: &ledger::Config,
        reservations: Reservations,
    ) -> Self {
        let habits = Habits {
            check_every: config.check_every.get(),
            reconcile_every: config.reconcile_every.get(),
            leftover_age: config.partial_max_age.get(),
            scrub_every: config.scrub_every.map(Span::get),
            verify_bandwidth: config.verify_bandwidth,
            trash: config.trash.map(Span::get),
        };
        let (policy, repos) = (config.policy(), Repos::default());
        Self { inner: Arc::new(Inner { cache, ledger, policy, reservations, repos, habits }) }
    }

    /// What is known of the models.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// Who works on which repo.
    pub fn repos(&self) -> &Repos {
        &self.inner.repos
    }

    /// Room that was promised to running downloads.
    pub fn reservations(&self) -> &Reservations {
        &self.inner.reservations
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        self.inner.cache.root()
    }

    /// The rules by which it keeps and evicts.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Bytes that the cache may take, if that is less than its disk.
    pub fn capacity(&self) -> Option<u64> {
        self.inner.policy.capacity
    }

    /// What downloads may take, as the last look at everything says; no process is asked. Blocks for the disk's answer.
    ///
    /// # Errors
    /// `io_error` if the disk does not answer.
    pub fn room(&self, now: Timestamp) -> Result<HostDisk> {
        let (stock, policy) = (self.stock(now)?, &self.inner.policy);
        let all = plan_eviction(&stock, policy, &Goal::Free(u64::MAX), now);
        let victims = evict::automatic(all, &stock, policy, now);
        let left = policy.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(stock.cache_bytes));
        Ok(HostDisk {
            total: Some(stock.disk_total),
            room: Some(stock.disk_free.saturating_sub(policy.keep_free.of(stock.disk_total)).min(left)),
            evictable: Some(victims.iter().map(|chosen| chosen.bytes).sum()),
            goes_first: victims.into_iter().take(MAX_FIRST).map(EvictedModel::from).collect(),
        })
    }

    /// Above which share of that, or of the disk, room is made, and down to which.
    pub fn watermarks(&self) -> Watermarks {
        self.inner.policy.watermarks
    }

    /// What an eviction plan needs to know now. Blocks for the disk's answer.
    fn stock(&self, now: Timestamp) -> Result<Stock> {
        let usage = disk::usage(self.inner.cache.root())?;
        let mut stock = self.inner.ledger.shelf().stock(&self.inner.repos.fetching(), now);
        stock.disk_total = usage.total;
        stock.disk_free = usage.free.saturating_sub(self.inner.reservations.promised());
        Ok(stock)
    }

    /// The revisions that a name means: all of a repo, or the one of a branch, tag or commit.
    ///
    /// # Errors
    /// `not_found`, telling of an eviction if that is why.
    pub fn find(&self, model: &ModelRef, now: Timestamp) -> Result<Vec<ModelView>> {
        let views = self.inner.ledger.shelf().views(now).into_iter();
        let found: Vec<ModelView> = views.filter(|view| view.is(model)).collect();
        if found.is_empty() { Err(self.absent(model)) } else { Ok(found) }
    }

    fn absent(&self, model: &ModelRef) -> Error {
        let gone = self.inner.ledger.gone(model.repo()).unwrap_or_default();
        let gone = gone.into_iter().find(|gone| gone.back_at.is_none()).map(|gone| {
            let (at, reason) = (view::seconds(gone.at), gone.reason.replace('_', " "));
            format!("; {} was evicted at {at} ({reason})", gone.commit.short())
        });
        Error::new(
            Reason::NotFound,
            format!("{model} is not in the cache of this host{}", gone.unwrap_or_default()),
            match self.is_in_trash(model) {
                true => format!("bring it back from the trash: larder restore {model}"),
                false => format!("stage it: larder stage {model}"),
            },
        )
    }

    /// Pins what a name means, or takes the pins away; on the disk before it returns.
    ///
    /// # Errors
    /// As [`Self::find`], `io_error`.
    pub async fn pin(&self, model: &ModelRef, pinned: bool) -> Result<Vec<ModelView>> {
        self.change(model, move |ledger, repo, commits, now| ledger.pin(repo, commits, pinned, now)).await
    }

    /// Leases what a name means to `holder` until then; durable before it returns.
    ///
    /// # Errors
    /// As [`Self::find`], `invalid_request` if it has too many holders, `io_error`.
    pub async fn lease(&self, model: &ModelRef, holder: &str, until: Timestamp) -> Result<Vec<ModelView>> {
        let holder = holder.to_owned();
        self.change(model, move |ledger, repo, commits, now| ledger.lease(repo, commits, &holder, until, now))
            .await
    }

    /// Ends the leases of `holder`, or of everybody, on what a name means; that there is none is no error.
    ///
    /// # Errors
    /// As [`Self::find`], `io_error`.
    pub async fn release(&self, model: &ModelRef, holder: Option<&str>) -> Result<Vec<ModelView>> {
        let holder = holder.map(str::to_owned);
        self.change(model, move |ledger, repo, commits, now| {
            ledger.release(repo, commits, holder.as_deref(), now).map(|_| ())
        })
        .await
    }

    /// Changes what is known of the revisions that a name means, while nobody evicts them.
    async fn change(
        &self,
        model: &ModelRef,
        change: impl FnOnce(&Ledger, &RepoId, &[CommitId], Timestamp) -> Result<()> + Send + 'static,
    ) -> Result<Vec<ModelView>> {
        let _work = self.inner.repos.work(model.repo()).await;
        let (keeper, model) = (self.clone(), model.clone());
        let changed = blocking(move || {
            let now = Timestamp::now();
            let commits: Vec<CommitId> =
                keeper.find(&model, now)?.into_iter().map(|view| view.commit).collect();
            change(&keeper.inner.ledger, model.repo(), &commits, now)?;
            let shelf = keeper.inner.ledger.shelf();
            let keys: BTreeSet<Key> = commits.iter().map(|commit| Key::new(model.repo(), commit)).collect();
            let views = shelf.views(now).into_iter();
            Ok(views.filter(|view| keys.contains(&Key::new(&view.repo, &view.commit))).collect())
        });
        let changed = changed.await?;
        self.inner.ledger.durable().await?;
        Ok(changed)
    }
}
