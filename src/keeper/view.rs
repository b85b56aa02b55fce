//! Plans and decisions as the API and the command line show them, and `why`: what would become of a model, and because of
//! what.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_jobs::{CommitId, ModelRef, RepoId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Keeper;
use crate::error::Result;
use crate::layout::{Hidden, Mounts, Obstacle};
use crate::ledger::{Gone, ModelView, Repaired};
use crate::plan::{EvictionPlan, Goal, Keep};

/// An eviction plan as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// Bytes that would become free.
    pub freed_bytes: u64,
    /// Bytes that were wanted and cannot be freed.
    pub short_bytes: u64,
    /// What would go, in that order.
    pub evict: Vec<KeptView>,
    /// What would stay.
    pub keep: Vec<KeptView>,
}

/// One revision of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptView {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Bytes that become free with it, or that it takes.
    pub bytes: u64,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// Why it goes or stays.
    pub reason: String,
}

/// Whether a revision would go on its own now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It stays.
    Keep,
    /// It goes at the keeper's next round.
    Evict,
}

/// What would become of a revision, and because of what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The revision.
    #[serde(flatten)]
    pub model: ModelView,
    /// What would become of it.
    pub decision: Decision,
    /// Why, as a word.
    pub reason: String,
    /// Why, in a sentence.
    pub because: String,
    /// Revisions that would go before it if room were needed; unknown if it could not go.
    pub before_it: Option<usize>,
    /// Evictions of this very revision in the past.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted_before: Vec<Gone>,
}

impl Keeper {
    /// A plan as it is shown. Blocks.
    ///
    /// # Errors
    /// As [`Keeper::plan`].
    pub fn plan_view(&self, goal: &Goal, now: Timestamp) -> Result<PlanView> {
        Ok(self.shown(self.plan(goal, now)?))
    }

    fn shown(&self, plan: EvictionPlan) -> PlanView {
        let shelf = self.inner.ledger.shelf();
        let used: BTreeMap<_, _> =
            shelf.entries().map(|entry| ((&entry.repo, &entry.commit), entry.last_used_at)).collect();
        let view = |(repo, commit): crate::plan::Name, bytes, reason: &str| {
            let last_used_at = used.get(&(&repo, &commit)).copied().flatten();
            KeptView { repo, commit, bytes, last_used_at, reason: reason.to_owned() }
        };
        let evict = plan.evict.into_iter();
        let keep = plan.keep.into_iter();
        PlanView {
            freed_bytes: plan.freed_bytes,
            short_bytes: plan.short_bytes,
            evict: evict.map(|chosen| view(chosen.name, chosen.bytes, chosen.reason.word())).collect(),
            keep: keep.map(|kept| view(kept.name, kept.bytes, kept.reason.word())).collect(),
        }
    }

    /// Walks the whole cache and repairs the records; returns what was repaired since this was last asked for, or since
    /// the start. Blocks.
    ///
    /// # Errors
    /// `io_error` if the cache cannot be listed or the store fails.
    pub fn reconcile(&self, now: Timestamp) -> Result<Repaired> {
        self.inner.ledger.reconcile(now)?;
        Ok(self.inner.ledger.take_repaired())
    }

    /// What would become of the revisions that a name means. Blocks.
    ///
    /// # Errors
    /// `not_found`, `io_error`.
    pub fn why(&self, model: &ModelRef, now: Timestamp) -> Result<Vec<Verdict>> {
        let views = self.find(model, now)?;
        let balance = self.plan(&Goal::Balance, now)?;
        // Everything that may go, in the order of going.
        let order = self.plan(&Goal::Free(u64::MAX), now)?;
        let gone = self.inner.ledger.gone(model.repo()).unwrap_or_default();
        let mounts = Mounts::now();
        let mut verdicts = Vec::new();
        for view in views {
            let name = (view.repo.clone(), view.commit.clone());
            let before_it = order.evict.iter().position(|chosen| chosen.name == name);
            let chosen = balance.evict.iter().find(|chosen| chosen.name == name);
            let (decision, reason, because) = match chosen {
                Some(chosen) => (Decision::Evict, chosen.reason.word(), chosen.reason.in_words().to_owned()),
                None => {
                    let found = balance.keep.iter().find(|kept| kept.name == name).map(|kept| kept.reason);
                    let obstacle = self.inner.cache.repo(&view.repo).obstacle(&view.commit, &mounts)?;
                    let (reason, because) = self.kept(found.unwrap_or(Keep::NotNeeded), obstacle, &view);
                    (Decision::Keep, reason.word(), because)
                }
            };
            let evicted_before = gone.iter().filter(|gone| gone.commit == view.commit).cloned().collect();
            let reason = reason.to_owned();
            verdicts.push(Verdict { model: view, decision, reason, because, before_it, evicted_before });
        }
        Ok(verdicts)
    }

    /// The strongest reason to keep a revision, and the sentence for it.
    fn kept(&self, planned: Keep, obstacle: Option<Obstacle>, view: &ModelView) -> (Keep, String) {
        let policy = &self.inner.policy;
        let reason = match (planned, &obstacle) {
            (Keep::Pinned | Keep::Leased, _) => planned,
            (_, Some(Obstacle::InUse(_))) => Keep::InUse,
            (_, Some(Obstacle::Fetching(_))) => Keep::Fetching,
            (Keep::NotNeeded, Some(Obstacle::Unknown(..))) => Keep::UseUnknown,
            // Seen in use a while ago, and free by now.
            (Keep::InUse, None) => Keep::NotNeeded,
            _ => planned,
        };
        let because = match (reason, obstacle) {
            (Keep::Pinned, _) => "it is pinned; larder unpin lets it go".into(),
            (Keep::Leased, _) => {
                let leases = view.leases.iter();
                let leases = leases.map(|lease| format!("{} until {}", lease.holder, seconds(lease.until)));
                format!("it is leased to {}", leases.collect::<Vec<_>>().join(", "))
            }
            (_, Some(Obstacle::InUse(path))) => {
                format!("a process has {} open, mapped or mounted", path.display())
            }
            (_, Some(Obstacle::Fetching(path))) => {
                format!("another client holds the lock of {}", path.display())
            }
            (Keep::UseUnknown, Some(Obstacle::Unknown(path, why))) => {
                format!("whether somebody has {} open cannot be told: {}", path.display(), why.in_words())
            }
            (Keep::UseUnknown, None) => {
                "the records were lost lately, so nothing goes on its own for cache.recovery_grace".into()
            }
            (Keep::Fetching, None) => "a job works on it".into(),
            (Keep::TooYoung, _) => {
                format!("it was staged or used less than cache.min_age ({:?}) ago", policy.min_age)
            }
            (Keep::NotStaged, _) => {
                "another client fetched it; it goes only by name, or with cache.evict = \"all\"".into()
            }
            (Keep::Never, _) => "cache.evict = \"never\": it goes only by name".into(),
            (reason, _) => match reason {
                Keep::NotNeeded => "nobody needs its room".into(),
                other => other.in_words().into(),
            },
        };
        (reason, because)
    }
}

/// A point in time to the second, for sentences.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

impl Hidden {
    /// Why the kernel does not tell, and what would help.
    pub fn in_words(self) -> &'static str {
        match self {
            Hidden::Owner => "the file is another user's; run larder as its owner, or grant CAP_LEASE",
            Hidden::Filesystem => {
                "the filesystem grants no leases; as root outside of containers larder looks into /proc"
            }
            Hidden::NoFile => "it is no plain file",
        }
    }
}
