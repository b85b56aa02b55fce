//! Puts what was decided about a night into words and times.

use jiff::{SignedDuration, Timestamp};
use larder_jobs::Size;

use super::super::Name;
use super::choose::{Capacity, Place, Want};
use super::timeline::Timeline;
use super::{
    DropReason, Dropped, Fetching, Finish, HostNight, NightAsk, NightHost, NightPlan, Rate, Victim, no_host,
};

/// What was decided, to be told.
pub(super) struct Picture<'a> {
    pub(super) ask: &'a NightAsk,
    pub(super) hosts: &'a [NightHost],
    pub(super) copies: &'a [Want],
    pub(super) sure: Vec<Option<usize>>,
    pub(super) maybe: Vec<Option<usize>>,
    pub(super) slow: Timeline,
    pub(super) fast: Timeline,
    pub(super) rooms: Vec<u64>,
    pub(super) capacity: Capacity,
}

impl Picture<'_> {
    pub(super) fn plan(
        self,
        mut nights: Vec<HostNight>,
        mut dropped: Vec<Dropped>,
        open_seconds: f64,
    ) -> NightPlan {
        let mut disks = vec![0_u64; nights.len()];
        let mut placed: Vec<usize> = (0..self.copies.len()).filter(|n| self.maybe[*n].is_some()).collect();
        placed.sort_by(|a, b| self.fast.starts(*a).total_cmp(&self.fast.starts(*b)));
        let unknown: Vec<Vec<Fetching>> =
            nights.iter_mut().map(|night| std::mem::take(&mut night.fetch)).collect();
        for n in placed {
            let Some(place) = self.maybe[n].map(|at| self.copies[n].places[at]) else { continue };
            let night = &mut nights[place.host];
            disks[place.host] = disks[place.host].saturating_add(place.disk);
            night.fetch.push(self.fetching(n, place));
        }
        for (n, (night, unknown)) in nights.iter_mut().zip(unknown).enumerate() {
            let (host, needed) = (&self.hosts[n], disks[n]);
            night.fetch.extend(unknown);
            night.bytes_to_fetch = night.fetch.iter().map(|one| one.bytes).try_fold(0, add);
            night.disk_needed = night.bytes_to_fetch.map(|_| needed);
            night.ends_at = night.fetch.iter().filter_map(|one| one.ends_at).max();
            let mut room = night.disk_free;
            for victim in host.evictable.iter().take_while(|victim| {
                let goes = room < needed;
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
            bytes_to_fetch: nights.iter().map(|night| night.bytes_to_fetch).try_fold(0, add),
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
            _ => format!("of {others} hosts the one that has most of it or is done first, and has room"),
        };
        Fetching {
            entry: copy.entry,
            also: copy.also.clone(),
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
            let placed =
                self.copies.iter().zip(&self.maybe).filter_map(|(copy, at)| at.map(|at| copy.places[at]));
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
                    Size(least.disk),
                    host.name,
                    Size(host.free_bytes),
                    Size(evictable),
                );
                (DropReason::Room, what)
            }
            (Some(place), _) => (DropReason::Deadline, self.too_late(place, taken(place.host))),
            (None, None) => no_host(),
        };
        Dropped {
            entry: copy.entry,
            also: copy.also.clone(),
            model: entry.model.clone(),
            priority: copy.priority,
            host: (copy.places.len() == 1).then(|| self.hosts[copy.places[0].host].name.clone()),
            bytes: least.map(|place| place.bytes),
            reason,
            why,
        }
    }

    /// Why a copy that has room on a host has no time there.
    fn too_late(&self, place: &Place, taken: impl Iterator<Item = Place>) -> String {
        let end = match self.ask.deadline {
            Some(deadline) if deadline <= self.ask.now => {
                return format!("its deadline, {deadline}, is past");
            }
            Some(_) => "by the deadline",
            None => "within a week",
        };
        let bytes: u64 = taken.map(|one| one.bytes).sum();
        let most = self.capacity.of_host(place.host);
        let host = &self.hosts[place.host].name;
        if most == 0 {
            return format!("no byte may come to {host} {end}: its window does not open");
        }
        let wanted = bytes.saturating_add(place.bytes);
        if wanted <= most {
            return format!(
                "the source gives no more {end} to all hosts together; what has a higher priority or is smaller comes first"
            );
        }
        let more = Size(wanted.saturating_sub(most).min(place.bytes));
        let before = match bytes {
            0 => String::new(),
            bytes => format!(
                " with {} before it; what has a higher priority or is smaller comes first",
                Size(bytes)
            ),
        };
        format!("{more} more than the {} that {host} can fetch {end}{before}", Size(most))
    }
}

/// The sum, as long as all of it is known.
fn add(sum: u64, bytes: Option<u64>) -> Option<u64> {
    bytes.map(|bytes| sum.saturating_add(bytes))
}
