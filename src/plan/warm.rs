//! The plan of a night: which models which host fetches, in which order, at which rate, and whether all of it is there
//! by the deadline. What cannot be is dropped so that the least is lost: first the count of the highest priority is as
//! large as it can be, then that of the next.
//!
//! Bytes flow as water does: within the hours, a host takes at most what its line and the allowed rate let through, and
//! all hosts together what the source gives. Rates that nobody has measured are ranges, and then some models only may be
//! there in time.

mod choose;
mod timeline;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Bandwidth, HostName, Size, Windows};
use serde::{Deserialize, Serialize};

use super::{Chosen, Evict, Name};
use choose::{Capacity, Copy, Place};
use timeline::{Hours, Load};

pub use timeline::Piece;

/// Without a deadline the plan looks so far ahead.
const HORIZON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Bytes per second, at least and at most; both are the same where somebody has measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

impl Rate {
    /// A rate that was measured.
    pub const fn measured(rate: f64) -> Self {
        Self { low: rate, high: rate }
    }

    /// Whether it was measured.
    pub fn is_measured(self) -> bool {
        self.low >= self.high
    }
}

/// One host, as far as the plan needs it.
#[derive(Debug, Clone)]
pub struct NightHost {
    /// Its name.
    pub name: HostName,
    /// What its line brings.
    pub rate: Rate,
    /// Bytes that models may still take: free, less what stays free by policy and what was promised to others.
    pub free_bytes: u64,
    /// What may go, in the order in which it goes: the answer of [`plan_eviction`](super::plan_eviction) to
    /// `Goal::Free(u64::MAX)`, with what the manifest wants there counted as pinned.
    pub evictable: Vec<Chosen>,
    /// Why it takes no new work, if it does not: drained, or not healthy.
    pub refuses: Option<String>,
    /// What each entry that may go there would mean for it, by the entry's place in the list.
    pub needs: BTreeMap<usize, Need>,
}

/// What an entry means for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Every file is there.
    There {
        /// Bytes of them.
        bytes: u64,
    },
    /// Something is to be fetched.
    Fetch {
        /// Bytes of it.
        bytes: u64,
        /// Bytes of the disk that it takes.
        disk: u64,
    },
    /// Nobody knows how much, and why.
    Unknown(String),
    /// It cannot run there, and why.
    Unfit(String),
}

/// Which hosts an entry is for, as places in the list of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Each of them.
    Each(Vec<usize>),
    /// Whichever of them is best: it has the model, or is done first.
    OneOf(Vec<usize>),
}

/// One entry of the manifest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The model, as people read it.
    pub model: String,
    /// Higher is dropped later.
    pub priority: i16,
    /// Where it goes.
    pub route: Route,
}

/// What a host fetches first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NightOrder {
    /// The highest priority, and of those the smallest.
    #[default]
    Priority,
    /// As the manifest has them.
    Listed,
    /// The smallest.
    Smallest,
}

/// What is wanted, and when bytes may come.
#[derive(Debug, Clone)]
pub struct NightAsk {
    /// What is wanted.
    pub entries: Vec<Entry>,
    /// The beginning of the plan.
    pub now: Timestamp,
    /// When it should all be there.
    pub deadline: Option<Timestamp>,
    /// The hours; always without.
    pub windows: Option<Windows>,
    /// What a host may take within the hours; its line without.
    pub inside: Option<Bandwidth>,
    /// What a host may take outside of them; nothing without.
    pub outside: Option<Bandwidth>,
    /// What the source gives to all hosts together; as much as they take without.
    pub source: Option<Rate>,
    /// What a host fetches first.
    pub order: NightOrder,
}

/// Whether something is there by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It is.
    Will,
    /// It is if the rates that nobody has measured are high, or if what nobody knows the size of is small.
    May,
    /// It is not.
    WillNot,
}

/// A model that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Present {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// The model.
    pub model: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A model that is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fetching {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// The model.
    pub model: String,
    /// Its priority.
    pub priority: i16,
    /// Bytes to fetch; `null` if nobody knows.
    pub bytes: Option<u64>,
    /// When it begins; `null` if nobody knows.
    pub starts_at: Option<Timestamp>,
    /// When it is there at the lowest rates; `null` if it is not by the deadline.
    pub ends_at: Option<Timestamp>,
    /// When it is there at the highest rates.
    pub ends_at_earliest: Option<Timestamp>,
    /// Whether it is there by the deadline.
    pub finishes: Finish,
    /// Why this host, or why nobody knows.
    pub why: String,
}

/// The night of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostNight {
    /// Its name.
    pub host: HostName,
    /// What is there.
    pub present: Vec<Present>,
    /// What is fetched, in its order.
    pub fetch: Vec<Fetching>,
    /// What goes to make room, at most, in its order.
    pub evict: Vec<Victim>,
    /// Bytes to fetch, as far as they are known.
    pub bytes_to_fetch: u64,
    /// Bytes of the disk that it takes.
    pub disk_needed: u64,
    /// Bytes that models may take before anything goes.
    pub disk_free: u64,
    /// When its last byte comes, at the lowest rates.
    pub ends_at: Option<Timestamp>,
}

/// A revision that goes to make room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Victim {
    /// The repo.
    pub repo: larder_jobs::RepoId,
    /// The commit.
    pub commit: larder_jobs::CommitId,
    /// Bytes that become free.
    pub bytes: u64,
    /// Why it may go.
    pub reason: Evict,
}

/// Why something is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// There is no time for it.
    Deadline,
    /// There is no room for it.
    Room,
    /// It cannot run there.
    Unfit,
    /// The host takes no new work.
    Refused,
    /// No host is left that it could go to.
    NoHost,
}

/// What is not fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// The model.
    pub model: String,
    /// Its priority.
    pub priority: i16,
    /// The host; `null` if any one would have done.
    pub host: Option<HostName>,
    /// Bytes to fetch, on the host where it would be least; `null` if nobody knows.
    pub bytes: Option<u64>,
    /// Why.
    pub reason: Drop,
    /// The same in words.
    pub why: String,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NightPlan {
    /// The beginning.
    pub now: Timestamp,
    /// When it should all be there.
    pub deadline: Option<Timestamp>,
    /// Seconds until then in which the window is open.
    pub open_seconds: f64,
    /// The hosts, in the order in which they were given.
    pub hosts: Vec<HostNight>,
    /// What is not fetched, the highest priority first.
    pub dropped: Vec<Dropped>,
    /// Whether all of it is there by the deadline.
    pub finishes: Finish,
    /// Bytes to fetch, as far as they are known.
    pub bytes_to_fetch: u64,
    /// Whether every rate that it rests on was measured.
    pub measured: bool,
    /// How the bytes flow at the lowest rates.
    #[serde(skip)]
    pub pieces: Vec<Piece>,
}

/// Plans a night.
pub fn plan_night(ask: &NightAsk, hosts: &[NightHost]) -> NightPlan {
    let end = ask.deadline.unwrap_or_else(|| ask.now.checked_add(HORIZON).unwrap_or(Timestamp::MAX));
    let hours = Hours::between(ask.now, end.max(ask.now), ask.windows.as_ref());
    let mut sorted = sort_out(ask, hosts);
    sorted.copies.sort_by_key(|copy| {
        let least = copy.places.iter().map(|place| place.bytes).min().unwrap_or(0);
        (std::cmp::Reverse(copy.priority), least, copy.entry, copy.places.first().map(|place| place.host))
    });
    let rooms: Vec<u64> = hosts.iter().map(room).collect();
    let speed = |pick: fn(Rate) -> f64| Load::new(ask, hosts, pick);
    let (low, high) = (speed(|rate| rate.low), speed(|rate| rate.high));
    let none = vec![None; sorted.copies.len()];
    let sure = choose::choose(&sorted.copies, &Capacity::of(&hours, &low), &rooms, &none);
    let maybe = choose::choose(&sorted.copies, &Capacity::of(&hours, &high), &rooms, &sure);
    let slow = timeline::run(&sorted.copies, &sure, &hours, &low, ask.order);
    let fast = timeline::run(&sorted.copies, &maybe, &hours, &high, ask.order);
    let picture = Picture { ask, hosts, copies: &sorted.copies, sure, maybe, slow, fast, rooms, capacity: Capacity::of(&hours, &high) };
    picture.plan(sorted.nights, sorted.dropped, hours.open_seconds())
}

/// Bytes that models may take on a host if everything goes that may.
fn room(host: &NightHost) -> u64 {
    host.evictable.iter().fold(host.free_bytes, |sum, victim| sum.saturating_add(victim.bytes))
}

/// What is clear before any arithmetic.
struct Sorted {
    copies: Vec<Copy>,
    nights: Vec<HostNight>,
    dropped: Vec<Dropped>,
}

fn sort_out(ask: &NightAsk, hosts: &[NightHost]) -> Sorted {
    let empty = |host: &NightHost| HostNight {
        host: host.name.clone(),
        present: Vec::new(),
        fetch: Vec::new(),
        evict: Vec::new(),
        bytes_to_fetch: 0,
        disk_needed: 0,
        disk_free: host.free_bytes,
        ends_at: None,
    };
    let mut sorted =
        Sorted { copies: Vec::new(), nights: hosts.iter().map(empty).collect(), dropped: Vec::new() };
    for (n, entry) in ask.entries.iter().enumerate() {
        match &entry.route {
            Route::Each(all) if all.is_empty() => sorted.drop(n, entry, None, no_host()),
            Route::OneOf(all) if all.is_empty() => sorted.drop(n, entry, None, no_host()),
            Route::Each(all) => {
                for host in all {
                    sorted.one_of(n, entry, hosts, std::slice::from_ref(host));
                }
            }
            Route::OneOf(all) => sorted.one_of(n, entry, hosts, all),
        }
    }
    sorted
}

fn no_host() -> (Drop, String) {
    (Drop::NoHost, "no host is left that it could go to".into())
}

impl Sorted {
    fn drop(&mut self, n: usize, entry: &Entry, host: Option<&NightHost>, (reason, why): (Drop, String)) {
        self.dropped.push(Dropped {
            entry: n,
            model: entry.model.clone(),
            priority: entry.priority,
            host: host.map(|host| host.name.clone()),
            bytes: None,
            reason,
            why,
        });
    }

    /// Puts an entry to the host that has it, among what is to be fetched, or away.
    fn one_of(&mut self, n: usize, entry: &Entry, hosts: &[NightHost], among: &[usize]) {
        let needs = |host: usize| hosts[host].needs.get(&n);
        let there = among.iter().find_map(|host| match needs(*host) {
            Some(Need::There { bytes }) => Some((*host, *bytes)),
            _ => None,
        });
        if let Some((host, bytes)) = there {
            let model = entry.model.clone();
            return self.nights[host].present.push(Present { entry: n, model, bytes });
        }
        let open = || among.iter().copied().filter(|host| hosts[*host].refuses.is_none());
        let places: Vec<_> = open()
            .filter_map(|host| match needs(host) {
                Some(Need::Fetch { bytes, disk }) => Some(Place { host, bytes: *bytes, disk: *disk }),
                _ => None,
            })
            .collect();
        if !places.is_empty() {
            return self.copies.push(Copy { entry: n, priority: entry.priority, places });
        }
        let unknown = open().find_map(|host| match needs(host) {
            Some(Need::Unknown(why)) => Some((host, why.clone())),
            _ => None,
        });
        if let Some((host, why)) = unknown {
            return self.nights[host].fetch.push(Fetching {
                entry: n,
                model: entry.model.clone(),
                priority: entry.priority,
                bytes: None,
                starts_at: None,
                ends_at: None,
                ends_at_earliest: None,
                finishes: Finish::May,
                why,
            });
        }
        let unfit = open().find_map(|host| match needs(host) {
            Some(Need::Unfit(why)) => Some((Drop::Unfit, why.clone())),
            _ => None,
        });
        let refused = among.iter().find_map(|host| hosts[*host].refuses.clone()).map(|why| (Drop::Refused, why));
        let only = (among.len() == 1).then(|| &hosts[among[0]]);
        self.drop(n, entry, only, unfit.or(refused).unwrap_or_else(no_host));
    }
}

/// What was decided, to be told.
struct Picture<'a> {
    ask: &'a NightAsk,
    hosts: &'a [NightHost],
    copies: &'a [Copy],
    sure: Vec<Option<usize>>,
    maybe: Vec<Option<usize>>,
    slow: timeline::Timeline,
    fast: timeline::Timeline,
    rooms: Vec<u64>,
    capacity: Capacity,
}

impl Picture<'_> {
    fn plan(self, mut nights: Vec<HostNight>, mut dropped: Vec<Dropped>, open_seconds: f64) -> NightPlan {
        let mut placed: Vec<usize> = (0..self.copies.len()).filter(|n| self.maybe[*n].is_some()).collect();
        placed.sort_by(|a, b| self.fast.starts(*a).total_cmp(&self.fast.starts(*b)));
        let unknown: Vec<Vec<Fetching>> =
            nights.iter_mut().map(|night| std::mem::take(&mut night.fetch)).collect();
        for n in placed {
            let Some(place) = self.maybe[n].map(|at| self.copies[n].places[at]) else { continue };
            let night = &mut nights[place.host];
            night.bytes_to_fetch = night.bytes_to_fetch.saturating_add(place.bytes);
            night.disk_needed = night.disk_needed.saturating_add(place.disk);
            night.fetch.push(self.fetching(n, place));
        }
        for ((night, unknown), host) in nights.iter_mut().zip(unknown).zip(self.hosts) {
            night.fetch.extend(unknown);
            night.ends_at = night.fetch.iter().filter_map(|one| one.ends_at).max();
            let mut room = night.disk_free;
            for victim in host.evictable.iter().take_while(|victim| {
                let goes = room < night.disk_needed;
                room = room.saturating_add(victim.bytes);
                goes
            }) {
                let (repo, commit): Name = victim.name.clone();
                night.evict.push(Victim { repo, commit, bytes: victim.bytes, reason: victim.reason });
            }
        }
        dropped.extend((0..self.copies.len()).filter(|n| self.maybe[*n].is_none()).map(|n| self.dropped(n)));
        dropped.sort_by_key(|one| (std::cmp::Reverse(one.priority), one.entry));
        let worst = nights.iter().flat_map(|night| &night.fetch).map(|one| one.finishes).max();
        let measured = self.hosts.iter().all(|host| host.rate.is_measured())
            && self.ask.source.is_none_or(Rate::is_measured);
        NightPlan {
            now: self.ask.now,
            deadline: self.ask.deadline,
            open_seconds,
            finishes: if dropped.is_empty() { worst.unwrap_or(Finish::Will) } else { Finish::WillNot },
            bytes_to_fetch: nights.iter().fold(0, |sum, night| sum.saturating_add(night.bytes_to_fetch)),
            hosts: nights,
            dropped,
            measured,
            pieces: self.slow.pieces,
        }
    }

    fn at(&self, seconds: f64) -> Option<Timestamp> {
        let since = SignedDuration::try_from_secs_f64(seconds).ok()?;
        self.ask.now.checked_add(since).ok()
    }

    fn fetching(&self, n: usize, place: Place) -> Fetching {
        let copy = &self.copies[n];
        let is_sure = self.sure[n].is_some();
        let starts = if is_sure { self.slow.starts(n) } else { self.fast.starts(n) };
        let others = copy.places.len();
        let why = match others {
            1 => "the only host that may take it".to_owned(),
            _ => format!("of {others} hosts the one that is done first and has room"),
        };
        Fetching {
            entry: copy.entry,
            model: self.ask.entries[copy.entry].model.clone(),
            priority: copy.priority,
            bytes: Some(place.bytes),
            starts_at: self.at(starts),
            ends_at: is_sure.then(|| self.at(self.slow.ends(n))).flatten(),
            ends_at_earliest: self.at(self.fast.ends(n)),
            finishes: if is_sure { Finish::Will } else { Finish::May },
            why,
        }
    }

    /// Why a copy has no place: no host has room for it, or none has time.
    fn dropped(&self, n: usize) -> Dropped {
        let copy = &self.copies[n];
        let entry = &self.ask.entries[copy.entry];
        let taken = |host: usize| {
            let placed = self.copies.iter().zip(&self.maybe).filter_map(|(copy, at)| at.map(|at| copy.places[at]));
            placed.filter(move |place| place.host == host)
        };
        let roomy = copy.places.iter().find(|place| {
            let disk = taken(place.host).fold(0_u64, |sum, one| sum.saturating_add(one.disk));
            disk.saturating_add(place.disk) <= self.rooms[place.host]
        });
        let least = copy.places.iter().min_by_key(|place| place.bytes).copied();
        let (reason, why) = match (roomy, least) {
            (None, Some(least)) => {
                let host = &self.hosts[least.host];
                let evictable = self.rooms[least.host].saturating_sub(host.free_bytes);
                let what = format!(
                    "needs {} of the disk of {}, which has {} free and can evict {}, and what has a higher priority or is \
                     smaller comes first",
                    Size(least.disk), host.name, Size(host.free_bytes), Size(evictable),
                );
                (Drop::Room, what)
            }
            (Some(place), _) => {
                let bytes: u64 = taken(place.host).map(|one| one.bytes).sum();
                let most = self.capacity.of_host(place.host);
                let what = format!(
                    "{} more than the {} that {} can fetch until then with {} before it; what has a higher priority or is \
                     smaller comes first",
                    Size(bytes.saturating_add(place.bytes).saturating_sub(most).min(place.bytes)),
                    Size(most), self.hosts[place.host].name, Size(bytes),
                );
                let shared = "the source gives no more until then to all hosts together; what has a higher priority or is \
                              smaller comes first";
                let own = bytes.saturating_add(place.bytes) > most;
                (Drop::Deadline, if own { what } else { shared.to_owned() })
            }
            (None, None) => no_host(),
        };
        Dropped {
            entry: copy.entry,
            model: entry.model.clone(),
            priority: copy.priority,
            host: (copy.places.len() == 1).then(|| self.hosts[copy.places[0].host].name.clone()),
            bytes: least.map(|place| place.bytes),
            reason,
            why,
        }
    }
}

#[cfg(test)]
mod tests;
