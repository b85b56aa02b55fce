//! Which revisions go and which stay, each with its reason.
//!
//! Whole revisions go; a blob goes with the last revision that needs it, so what evicting one revision frees depends on
//! which others go too. Room is made from the least recently used on, and then whatever turned out not to be needed for
//! it is kept after all: no revision goes without need.
//!
//! Never, whoever asks: pinned, leased, in use, being fetched. Only by name: what another client fetched (unless
//! `cache.evict` is `all`), what is younger than `cache.min_age`, and what cannot be known to be unused.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{CommitId, RepoId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Evict, Keep, KeepFree};

/// One revision's name.
pub type Name = (RepoId, CommitId);

/// `cache.evict`: what may go without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EvictionAllowed")]
pub enum Allowed {
    /// Nothing.
    Never,
    /// What larder staged itself.
    #[default]
    Staged,
    /// Also what other clients fetched.
    All,
}

/// `cache.order`: which revision goes first when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EvictionOrder")]
pub enum Order {
    /// The least recently used.
    #[default]
    Lru,
    /// The one that is worth the least: seconds to stage it again by the chance that it is used again, for each byte.
    Value,
}

/// Whether a process has a file of a revision open or mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// None has.
    Free,
    /// One has.
    Busy,
    /// It cannot be told.
    Unknown,
}

/// The rules of a host.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What may go without being named.
    pub allowed: Allowed,
    /// What goes first.
    pub order: Order,
    /// What was used or staged later than that stays.
    pub min_age: Duration,
    /// What was not used for so long goes on its own, if set.
    pub expire_after: Option<Duration>,
    /// What stays free on the disk.
    pub keep_free: KeepFree,
    /// Bytes that the cache may take, if that is less than the disk.
    pub capacity: Option<u64>,
    /// Percent of the capacity above which room is made, and down to which.
    pub watermarks: Watermarks,
}

/// Percent of the capacity; `low` is at most `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Above this, room is made.
    pub high: u8,
    /// So much is made that this is reached.
    pub low: u8,
}

impl Watermarks {
    /// The high and the low one in bytes of `capacity`.
    pub fn of(self, capacity: u64) -> (u64, u64) {
        let share =
            |percent: u8| u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        (share(self.high), share(self.low))
    }
}

/// One revision, as far as the decision needs it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name.
    pub name: Name,
    /// Its blobs, as numbers into [`Stock::blobs`]; each once.
    pub blobs: Vec<usize>,
    /// Whether larder staged it.
    pub staged: bool,
    /// When it was last used; when it came if it never was.
    pub last_used_at: Timestamp,
    /// Its [`heat`] then.
    pub heat: f64,
    /// Somebody pinned it.
    pub pinned: bool,
    /// Somebody's lease ends then.
    pub leased_until: Option<Timestamp>,
    /// A job fetches it.
    pub fetching: bool,
    /// Whether a process has it open.
    pub used: Use,
}

/// The number of uses, each counting half as much with every [`HALF_LIFE`] that passes: what it is after one more use
/// at `now`, if it was `before` when the revision was last used.
///
/// An exponentially decayed count needs one number, and stands between frequency and recency (Lee et al., "LRFU: a
/// spectrum of policies that subsumes the least recently used and least frequently used policies", 2001).
pub fn heat(before: f64, last_used_at: Timestamp, now: Timestamp) -> f64 {
    cooled(before, last_used_at, now) + 1.0
}

fn cooled(heat: f64, since: Timestamp, now: Timestamp) -> f64 {
    let age = now.duration_since(since).as_secs_f64().max(0.0);
    heat * (-age / HALF_LIFE.as_secs_f64()).exp2()
}

/// How long it takes until a use counts half. In the simulation of `benches/eviction`, where a model's heat outlives its
/// eviction as it does here, shorter ones stage more again and longer ones follow a drift less well.
pub const HALF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// What staging takes before the first byte comes, in seconds: resolving, listing, connecting, publishing.
const OVERHEAD: f64 = 5.0;
/// Bytes that come per second, about: a few gigabits.
const SPEED: f64 = 300e6;

impl Candidate {
    /// What keeping it is worth for each byte: seconds to stage it again × chance that it is used again, the latter by
    /// its heat. Only the order of values has a meaning.
    pub fn value(&self, bytes: u64, now: Timestamp) -> f64 {
        #[allow(clippy::cast_precision_loss)] // models have less than 2^53 bytes
        let bytes = bytes as f64;
        cooled(self.heat, self.last_used_at, now) * (OVERHEAD / bytes + 1.0 / SPEED)
    }
}

/// What is known of disk and cache.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// The revisions.
    pub revisions: Vec<Candidate>,
    /// Bytes that the removal of each blob frees; 0 for one that others have too (a hard link, the shared store).
    pub blobs: Vec<u64>,
    /// Size of the disk in bytes.
    pub disk_total: u64,
    /// Free bytes of it, less what was promised to downloads.
    pub disk_free: u64,
    /// Bytes of everything in the cache.
    pub cache_bytes: u64,
    /// The records were lost lately, so who uses what is not known yet: nothing goes without being named.
    pub is_amnesic: bool,
}

/// What is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// These go, as somebody who named them wants.
    Named(BTreeSet<Name>),
    /// So many bytes are to be freed, or as many as possible.
    Free(u64),
    /// So many bytes are to be freed for a download; nothing goes if that many cannot be.
    Room(u64),
    /// What was not used for so long goes.
    UnusedFor(Duration),
    /// Capacity, watermarks and free room as the policy wants them.
    Balance,
}

/// A revision that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: Name,
    /// Bytes that become free with it, after those before it in the list.
    pub bytes: u64,
    /// Why.
    pub reason: Evict,
}

/// A revision that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: Name,
    /// Bytes of its blobs, shared or not.
    pub bytes: u64,
    /// Why.
    pub reason: Keep,
}

/// What happens to each revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvictionPlan {
    /// What goes, in the order of the policy.
    pub evict: Vec<Chosen>,
    /// What stays, by name.
    pub keep: Vec<Kept>,
    /// Bytes that become free.
    pub freed_bytes: u64,
    /// Bytes that were wanted and cannot be freed.
    pub short_bytes: u64,
}

/// Decides. The order of the revisions does not matter.
pub fn plan_eviction(stock: &Stock, policy: &Policy, goal: &Goal, now: Timestamp) -> EvictionPlan {
    let mut ledger = Ledger::new(stock);
    let order = in_order(stock, policy.order, now);
    let kept: Vec<Option<Keep>> =
        stock.revisions.iter().map(|one| protection(one, stock, policy, goal, now)).collect();
    let free: Vec<usize> = order.into_iter().filter(|n| kept[*n].is_none()).collect();

    let mut reasons: HashMap<usize, Evict> = HashMap::new();
    for n in &free {
        if let Some(reason) = unconditional(&stock.revisions[*n], policy, goal, now) {
            ledger.take(*n);
            reasons.insert(*n, reason);
        }
    }
    let (wanted, reason) = wanted(stock, policy, goal);
    let mut for_room = Vec::new();
    for n in &free {
        if ledger.freed >= wanted {
            break;
        }
        if let Entry::Vacant(place) = reasons.entry(*n) {
            place.insert(reason);
            ledger.take(*n);
            for_room.push(*n);
        }
    }
    if ledger.freed < wanted && matches!(goal, Goal::Room(_)) {
        for_room.drain(..).for_each(|n| give_back(n, &mut ledger, &mut reasons));
    }
    let reached = wanted.min(ledger.freed);
    for n in for_room.into_iter().rev() {
        if ledger.freed - ledger.returned_by(n) >= reached {
            give_back(n, &mut ledger, &mut reasons);
        }
    }
    finish(stock, &kept, &free, &reasons, wanted)
}

/// The revisions, what should go first in front.
fn in_order(stock: &Stock, order: Order, now: Timestamp) -> Vec<usize> {
    let value = |one: &Candidate| match order {
        Order::Lru => 0.0,
        Order::Value => one.value(one.blobs.iter().map(|blob| stock.blobs[*blob]).sum(), now),
    };
    let mut all: Vec<(f64, usize)> =
        stock.revisions.iter().enumerate().map(|(n, one)| (value(one), n)).collect();
    all.sort_by(|(a, m), (b, n)| {
        let of = |n: usize| (stock.revisions[n].last_used_at, &stock.revisions[n].name);
        a.total_cmp(b).then_with(|| of(*m).cmp(&of(*n)))
    });
    all.into_iter().map(|(_, n)| n).collect()
}

fn give_back(n: usize, ledger: &mut Ledger<'_>, reasons: &mut HashMap<usize, Evict>) {
    ledger.put_back(n);
    reasons.remove(&n);
}

/// Why a revision stays whatever room is needed.
fn protection(one: &Candidate, stock: &Stock, policy: &Policy, goal: &Goal, now: Timestamp) -> Option<Keep> {
    let is_named = match goal {
        Goal::Named(names) => {
            if !names.contains(&one.name) {
                return Some(Keep::NotNeeded);
            }
            true
        }
        _ => false,
    };
    let is_automatic = matches!(goal, Goal::Room(_) | Goal::Balance);
    let rules = [
        (one.pinned, Keep::Pinned),
        (one.leased_until.is_some_and(|until| until > now), Keep::Leased),
        (one.used == Use::Busy, Keep::InUse),
        (one.fetching, Keep::Fetching),
        (is_automatic && policy.allowed == Allowed::Never, Keep::Never),
        (!is_named && !one.staged && policy.allowed != Allowed::All, Keep::NotStaged),
        (!is_named && !is_older(one, policy.min_age, now), Keep::TooYoung),
        (!is_named && (one.used == Use::Unknown || (is_automatic && stock.is_amnesic)), Keep::UseUnknown),
    ];
    rules.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
}

/// Why a revision goes whatever room is needed.
fn unconditional(one: &Candidate, policy: &Policy, goal: &Goal, now: Timestamp) -> Option<Evict> {
    match goal {
        Goal::Named(_) => Some(Evict::Requested),
        Goal::UnusedFor(age) => is_older(one, *age, now).then_some(Evict::Requested),
        Goal::Balance => {
            policy.expire_after.is_some_and(|age| is_older(one, age, now)).then_some(Evict::Expired)
        }
        Goal::Free(_) | Goal::Room(_) => None,
    }
}

/// A revision that was used in the future, by a clock that was wrong, is young.
fn is_older(one: &Candidate, age: Duration, now: Timestamp) -> bool {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    now.duration_since(one.last_used_at) >= age
}

/// Bytes that are to become free, and the reason for it.
fn wanted(stock: &Stock, policy: &Policy, goal: &Goal) -> (u64, Evict) {
    match goal {
        Goal::Free(bytes) | Goal::Room(bytes) => {
            let reason = match policy.order {
                Order::Lru => Evict::LeastRecentlyUsed,
                Order::Value => Evict::LowValue,
            };
            (*bytes, reason)
        }
        Goal::Named(_) | Goal::UnusedFor(_) => (0, Evict::Requested),
        Goal::Balance => {
            let over = policy.level(stock.cache_bytes, stock.disk_total, stock.disk_free).over();
            let below = policy.keep_free.of(stock.disk_total).saturating_sub(stock.disk_free);
            if below > over { (below, Evict::BelowKeepFree) } else { (over, Evict::OverCapacity) }
        }
    }
}

fn finish(
    stock: &Stock,
    kept: &[Option<Keep>],
    free: &[usize],
    reasons: &HashMap<usize, Evict>,
    wanted: u64,
) -> EvictionPlan {
    let mut plan = EvictionPlan::default();
    let mut ledger = Ledger::new(stock);
    for (n, reason) in free.iter().filter_map(|n| Some((*n, *reasons.get(n)?))) {
        let before = ledger.freed;
        ledger.take(n);
        let name = stock.revisions[n].name.clone();
        plan.evict.push(Chosen { name, bytes: ledger.freed - before, reason });
    }
    for (n, one) in stock.revisions.iter().enumerate().filter(|(n, _)| !reasons.contains_key(n)) {
        let bytes = one.blobs.iter().map(|blob| stock.blobs[*blob]).sum();
        plan.keep.push(Kept { name: one.name.clone(), bytes, reason: kept[n].unwrap_or(Keep::NotNeeded) });
    }
    plan.keep.sort_by(|a, b| a.name.cmp(&b.name));
    plan.freed_bytes = ledger.freed;
    plan.short_bytes = wanted.saturating_sub(ledger.freed);
    plan
}

/// Which revisions are still there, and what their going has freed.
struct Ledger<'a> {
    stock: &'a Stock,
    /// Revisions that need each blob.
    needed_by: Vec<u32>,
    freed: u64,
}

impl<'a> Ledger<'a> {
    fn new(stock: &'a Stock) -> Self {
        let mut needed_by = vec![0; stock.blobs.len()];
        for blob in stock.revisions.iter().flat_map(|one| &one.blobs) {
            needed_by[*blob] += 1;
        }
        Self { stock, needed_by, freed: 0 }
    }

    fn take(&mut self, n: usize) {
        for blob in &self.stock.revisions[n].blobs {
            self.needed_by[*blob] -= 1;
            if self.needed_by[*blob] == 0 {
                self.freed += self.stock.blobs[*blob];
            }
        }
    }

    fn put_back(&mut self, n: usize) {
        self.freed -= self.returned_by(n);
        for blob in &self.stock.revisions[n].blobs {
            self.needed_by[*blob] += 1;
        }
    }

    /// Bytes that would not become free if this revision stayed after all.
    fn returned_by(&self, n: usize) -> u64 {
        let blobs = self.stock.revisions[n].blobs.iter();
        blobs.filter(|blob| self.needed_by[**blob] == 0).map(|blob| self.stock.blobs[*blob]).sum()
    }
}

#[cfg(test)]
mod tests;
