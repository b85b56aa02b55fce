//! An eviction from the goal to the freed bytes: plan, ask the kernel about what was chosen, plan again with the answers,
//! then delete one revision after the other. Whatever turns out to be protected meanwhile is planned around.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::{Evict as Wanted, EvictedModel, ModelRef, Reason, Size};
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::Keeper;
use crate::error::{Error, Result};
use crate::layout::{Evicted, Mounts, Obstacle};
use crate::ledger::Key;
use crate::metrics;
use crate::plan::{Chosen, Evictable, EvictionPlan, Goal, Keep, Name, Policy, Stock, Use, plan_eviction};

/// How an eviction ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What is gone, in the order of going.
    pub evicted: Vec<EvictedModel>,
    /// Bytes that became free.
    pub freed: u64,
    /// Bytes that were wanted beyond those.
    pub short: u64,
    /// What stays, and why.
    pub keep: Vec<crate::plan::Kept>,
    /// Somebody asked to stop before the end.
    pub is_stopped: bool,
}

/// What the kernel said about the revisions that were asked about.
type Answers = BTreeMap<Name, Keep>;

/// How much is asked of the kernel before a plan counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// Everything that would go: it is about to.
    All,
    /// As much as can be until then, in the order of going; for the rest the keeper's last look holds. An eviction
    /// asks again, so that a plan that is only looked at need not take its time.
    Until(Instant),
}

/// How long a plan that is only looked at may ask.
const ASK: Duration = Duration::from_millis(25);

/// What of the plan to free everything may also go without being asked for. Room itself is never planned for everything:
/// where all of it is not enough, nothing goes.
pub(super) fn automatic(all: EvictionPlan, stock: &Stock, policy: &Policy, now: Timestamp) -> Vec<Chosen> {
    let none = plan_eviction(stock, policy, &Goal::Room(0), now);
    let stays = none.keep.iter().filter(|kept| kept.reason != Keep::NotNeeded);
    let stays: BTreeSet<&Name> = stays.map(|kept| &kept.name).collect();
    all.evict.into_iter().filter(|chosen| !stays.contains(&chosen.name)).collect()
}

impl Keeper {
    /// The goal that a job or a command means.
    ///
    /// # Errors
    /// `not_found` for a model that is not there.
    pub fn goal(&self, wanted: &Wanted, now: Timestamp) -> Result<Goal> {
        if let Some(repo) = &wanted.repo {
            let model = ModelRef::new(repo.clone(), wanted.revision.clone());
            let named = self.find(&model, now)?.into_iter().map(|view| (view.repo, view.commit));
            return Ok(Goal::Named(named.collect()));
        }
        Ok(match (wanted.free_bytes, wanted.older_than) {
            (Some(bytes), _) => Goal::Free(bytes.bytes()),
            (None, Some(age)) => Goal::UnusedFor(age.get()),
            (None, None) => Goal::Balance,
        })
    }

    /// What would happen for `goal`. Asks the kernel for some milliseconds, changes nothing. Blocks.
    ///
    /// # Errors
    /// `io_error` if the disk does not answer.
    pub fn plan(&self, goal: &Goal, now: Timestamp) -> Result<EvictionPlan> {
        let asking = Asking::Until(Instant::now() + ASK);
        self.settle(goal, now, &mut Answers::new(), &Mounts::now(), asking)
    }

    /// What eviction could do for a download, as the last look at everything says. Blocks for the disk's answer.
    ///
    /// # Errors
    /// `io_error` if the disk does not answer.
    pub fn evictable(&self, now: Timestamp) -> Result<Evictable> {
        let plan = self.plan(&Goal::Free(u64::MAX), now)?;
        let automatic = plan_eviction(&self.stock(now)?, &self.inner.policy, &Goal::Room(0), now);
        let automatic: BTreeMap<&Name, Keep> =
            automatic.keep.iter().map(|kept| (&kept.name, kept.reason)).collect();
        let mut evictable = Evictable::default();
        // What may not go on its own does not count, though somebody could ask for it.
        for chosen in &plan.evict {
            match automatic.get(&chosen.name) {
                Some(Keep::NotNeeded) | None => evictable.bytes += chosen.bytes,
                Some(reason) => *evictable.blocked.entry(*reason).or_default() += chosen.bytes,
            }
        }
        for kept in &plan.keep {
            *evictable.blocked.entry(kept.reason).or_default() += kept.bytes;
        }
        Ok(evictable)
    }

    /// What may go for downloads without being named, in its order. Blocks for the disk's answer.
    ///
    /// # Errors
    /// `io_error` if the disk does not answer.
    pub fn victims(&self, now: Timestamp) -> Result<Vec<Chosen>> {
        let all = self.plan(&Goal::Free(u64::MAX), now)?;
        Ok(automatic(all, &self.stock(now)?, &self.inner.policy, now))
    }

    /// Evicts for `goal` until it is reached, nothing more may go, or `stop` says so. Blocks.
    ///
    /// # Errors
    /// `protected` if a revision that was named may not go (none goes then), `io_error`. That too little became free
    /// is told by the outcome.
    pub fn evict(&self, goal: &Goal, stop: &dyn Fn() -> bool) -> Result<Outcome> {
        let (mut outcome, mut answers) = (Outcome::default(), Answers::new());
        self.writable()?;
        let (mut goal, mut is_emptied) = (goal.clone(), false);
        loop {
            let (now, mounts) = (Timestamp::now(), Mounts::now());
            let plan = self.settle(&goal, now, &mut answers, &mounts, Asking::All)?;
            if let Goal::Named(names) = &goal {
                refuse_protected(&plan, names, &outcome)?;
            }
            if !is_emptied && plan.freed_bytes + plan.short_bytes > 0 && !matches!(goal, Goal::Named(_)) {
                // What was to go anyway goes first.
                is_emptied = true;
                let bytes = self.empty_trash(plan.freed_bytes.saturating_add(plan.short_bytes), now)?;
                if bytes > 0 {
                    outcome.freed += bytes;
                    goal = less(goal, bytes);
                    continue;
                }
            }
            let mut is_changed = false;
            for chosen in &plan.evict {
                if stop() {
                    outcome.is_stopped = true;
                    return Ok(outcome);
                }
                match self.evict_one(chosen, matches!(goal, Goal::Named(_)), &mounts)? {
                    Ok(gone) => outcome.take(gone),
                    Err(reason) => {
                        // What somebody else removed meanwhile was not protected.
                        if reason != Keep::NotNeeded {
                            metrics::eviction_blocked(reason.word());
                        }
                        answers.insert(chosen.name.clone(), reason);
                        is_changed = true;
                    }
                }
                goal = rest(goal, outcome.evicted.last(), chosen);
            }
            if !is_changed {
                outcome.short = match goal {
                    Goal::Free(left) | Goal::Room(left) => left,
                    _ => plan.short_bytes,
                };
                outcome.keep = plan.keep;
                return Ok(outcome);
            }
        }
    }

    /// Trying again does not help where nothing may be written.
    fn writable(&self) -> Result<()> {
        let root = self.inner.cache.root();
        // By the effective rights: a service may have been given the capability without being root.
        match rustix::fs::accessat(CWD, root, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(errno @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) => Err(Error::new(
                Reason::Protected,
                format!("nothing can be deleted in {}: {}", root.display(), io::Error::from(errno)),
                "mount it writable, or run larder as the owner of that folder",
            )),
            _ => Ok(()),
        }
    }

    /// Plans, asks about what was chosen, and plans again, until everything that is chosen was asked about.
    fn settle(
        &self,
        goal: &Goal,
        now: Timestamp,
        answers: &mut Answers,
        mounts: &Mounts,
        asking: Asking,
    ) -> Result<EvictionPlan> {
        let mut stock = self.stock(now)?;
        let mut asked: BTreeSet<Name> = answers.keys().cloned().collect();
        loop {
            apply(&mut stock, answers, &asked);
            let plan = plan_eviction(&stock, &self.inner.policy, goal, now);
            let chosen = plan.evict.iter().map(|chosen| &chosen.name);
            // What was seen in use a while ago may be free by now.
            let seen = plan.keep.iter().filter(|kept| kept.reason == Keep::InUse && plan.short_bytes > 0);
            let seen = seen.chain(plan.keep.iter().filter(|kept| is_named_in_use(kept, goal)));
            let open: Vec<Name> = chosen
                .chain(seen.map(|kept| &kept.name))
                .filter(|name| !asked.contains(*name))
                .cloned()
                .collect();
            if open.is_empty() {
                return Ok(plan);
            }
            for name in open {
                if matches!(asking, Asking::Until(end) if Instant::now() >= end) {
                    apply(&mut stock, answers, &asked);
                    return Ok(plan_eviction(&stock, &self.inner.policy, goal, now));
                }
                if let Some(keep) = self.ask(&name, mounts)? {
                    answers.insert(name.clone(), keep);
                }
                asked.insert(name);
            }
        }
    }

    /// What protects a revision, as the kernel says; `None` too if it is not there any more.
    fn ask(&self, (repo, commit): &Name, mounts: &Mounts) -> Result<Option<Keep>> {
        match self.inner.cache.repo(repo).obstacle(commit, mounts) {
            Ok(obstacle) => Ok(obstacle.as_ref().map(reason_of)),
            Err(error) if error.reason() == Reason::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes one revision, or says what protects it now.
    fn evict_one(
        &self,
        chosen: &Chosen,
        is_named: bool,
        mounts: &Mounts,
    ) -> Result<Result<EvictedModel, Keep>> {
        let (repo, commit) = &chosen.name;
        let Some(_right) = self.inner.repos.evict(repo) else { return Ok(Err(Keep::Fetching)) };
        let now = Timestamp::now();
        let (shelf, key) = (self.inner.ledger.shelf(), Key::new(repo, commit));
        if shelf.get(&key).is_some_and(|entry| entry.pinned) {
            return Ok(Err(Keep::Pinned));
        }
        if shelf.leased_until(&key, now).is_some() {
            return Ok(Err(Keep::Leased));
        }
        let is_kept = is_named && self.keep_a_while(repo, commit, now)?;
        let freed = match self.inner.cache.repo(repo).evict(commit, is_named, mounts) {
            Ok(Evicted::Gone(freed)) => freed,
            Err(error) if error.reason() == Reason::NotFound => {
                self.inner.ledger.refresh(repo, now)?;
                return Ok(Err(Keep::NotNeeded));
            }
            Err(error) => return Err(error),
            Ok(Evicted::Kept(obstacle)) if is_kept => {
                self.inner.cache.repo(repo).empty_trash(commit)?;
                return Ok(Err(reason_of(&obstacle)));
            }
            Ok(Evicted::Kept(obstacle)) => {
                tracing::info!(model = %Key::new(repo, commit), ?obstacle, "not evicted");
                return Ok(Err(reason_of(&obstacle)));
            }
        };
        let reason = chosen.reason.word();
        tracing::info!(model = %Key::new(repo, commit), reason, bytes = freed.bytes, trash = is_kept, "evicted");
        for path in &freed.behind {
            tracing::warn!(path = %path.display(), "taken in the last moment; it is removed once nobody has it");
        }
        metrics::evicted(reason, freed.bytes);
        // The model is gone whatever the store says; the next reconcile finds that.
        if let Err(error) = self.inner.ledger.evicted(repo, commit, reason, freed.bytes, now) {
            tracing::warn!(%error, "that it is gone cannot be recorded");
        }
        let (repo, commit, reason) = (repo.clone(), commit.clone(), reason.to_owned());
        Ok(Ok(EvictedModel { repo, commit, bytes: freed.bytes, reason }))
    }
}

impl Outcome {
    fn take(&mut self, gone: EvictedModel) {
        self.freed += gone.bytes;
        self.evicted.push(gone);
    }

    /// The arithmetic of an eviction that freed too little.
    pub fn too_little(&self, wanted: u64) -> Error {
        let mut blocked: BTreeMap<Keep, u64> = BTreeMap::new();
        for kept in self.keep.iter().filter(|kept| kept.reason != Keep::NotNeeded) {
            *blocked.entry(kept.reason).or_default() += kept.bytes;
        }
        let blocked: Vec<_> =
            blocked.iter().map(|(reason, bytes)| format!("{} {}", Size(*bytes), reason.in_words())).collect();
        let blocked = if blocked.is_empty() { "nothing else is there".into() } else { blocked.join(", ") };
        Error::new(
            Reason::InsufficientDisk,
            format!("wanted to free {}, freed {}: {blocked}", Size(wanted), Size(self.freed)),
            "see what is kept and why with `larder evict --dry-run`; name a model to evict it in spite of its age or origin",
        )
    }
}

fn is_named_in_use(kept: &crate::plan::Kept, goal: &Goal) -> bool {
    kept.reason == Keep::InUse && matches!(goal, Goal::Named(names) if names.contains(&kept.name))
}

/// Puts the answers into the stock.
fn apply(stock: &mut Stock, answers: &Answers, asked: &BTreeSet<Name>) {
    for one in stock.revisions.iter_mut().filter(|one| asked.contains(&one.name)) {
        one.used = Use::Free;
        match answers.get(&one.name) {
            Some(Keep::InUse) => one.used = Use::Busy,
            Some(Keep::UseUnknown) => one.used = Use::Unknown,
            Some(Keep::Fetching) => one.fetching = true,
            Some(Keep::Pinned) => one.pinned = true,
            Some(Keep::Leased) => one.leased_until = Some(Timestamp::MAX),
            _ => {}
        }
    }
}

fn reason_of(obstacle: &Obstacle) -> Keep {
    match obstacle {
        Obstacle::InUse(_) => Keep::InUse,
        Obstacle::Fetching(_) => Keep::Fetching,
        Obstacle::Unknown(..) => Keep::UseUnknown,
    }
}

/// What is left of a goal after `chosen` went, or did not.
fn rest(goal: Goal, last: Option<&EvictedModel>, chosen: &Chosen) -> Goal {
    let gone = last.filter(|last| (&last.repo, &last.commit) == (&chosen.name.0, &chosen.name.1));
    match (goal, gone) {
        (Goal::Named(mut names), Some(_)) => {
            names.remove(&chosen.name);
            Goal::Named(names)
        }
        (goal, Some(gone)) => less(goal, gone.bytes),
        (goal, None) => goal,
    }
}

/// What is left of a goal when so many bytes became free.
fn less(goal: Goal, freed: u64) -> Goal {
    match goal {
        Goal::Free(bytes) => Goal::Free(bytes.saturating_sub(freed)),
        Goal::Room(bytes) => Goal::Room(bytes.saturating_sub(freed)),
        goal => goal,
    }
}

/// Whoever names a revision that may not go is told so, and nothing goes.
fn refuse_protected(plan: &EvictionPlan, names: &BTreeSet<Name>, outcome: &Outcome) -> Result<()> {
    let Some(kept) = plan.keep.iter().find(|kept| names.contains(&kept.name)) else { return Ok(()) };
    let (repo, commit) = &kept.name;
    let hint = match kept.reason {
        Keep::Pinned => format!("take the pin away first: larder unpin {repo}@{commit}"),
        Keep::Leased => {
            format!("release the lease first (larder release {repo}@{commit}), or wait until it ends")
        }
        Keep::Fetching => "wait for the job, or cancel it (larder jobs)".into(),
        _ => format!("stop the process that has it open; larder why {repo}@{commit} says more"),
    };
    let before = match outcome.evicted.len() {
        0 => String::new(),
        number => format!("; {number} other revisions are evicted"),
    };
    let what = format!("{repo}@{} is not evicted: it is {}{before}", commit.short(), kept.reason.in_words());
    Err(Error::new(Reason::Protected, what, hint))
}
