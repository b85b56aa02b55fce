//! The plan of a night: which models which host fetches, in which order, at which rate, and whether all of it is there
//! by the deadline. What cannot be is dropped so that the least is lost: first the count of the highest priority is as
//! large as it can be, then that of the next.
//!
//! Bytes flow as water does: within the hours, a host takes at most what its line and the allowed rate let through, and
//! all hosts together what the source gives. Rates that nobody has measured are ranges, and then some models only may be
//! there in time.

mod choose;
mod facts;
mod join;
mod tell;
mod timeline;
mod view;

use jiff::{SignedDuration, Timestamp};

use choose::{Capacity, Place, Want};
use join::Wish;
use tell::Picture;
use timeline::{Hours, Speeds};

pub use facts::{Entry, Need, NightAsk, NightHost, NightOrder, Rate, Route};
pub use timeline::Piece;
pub use view::{DropReason, Dropped, Fetching, Finish, HostNight, NightPlan, Present, Victim};

/// Without a deadline the plan looks so far ahead.
const HORIZON: SignedDuration = SignedDuration::from_hours(7 * 24);

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
    let speed = |pick: fn(Rate) -> f64| Speeds::new(ask, hosts, pick);
    let (low, high) = (speed(|rate| rate.low), speed(|rate| rate.high));
    let none = vec![None; sorted.copies.len()];
    let sure = choose::choose(&sorted.copies, &Capacity::of(&hours, &low), &rooms, &none);
    let maybe = choose::choose(&sorted.copies, &Capacity::of(&hours, &high), &rooms, &sure);
    let slow = timeline::run(&sorted.copies, &sure, &hours, &low, ask.order);
    let fast = timeline::run(&sorted.copies, &maybe, &hours, &high, ask.order);
    let picture = Picture {
        ask,
        hosts,
        copies: &sorted.copies,
        sure,
        maybe,
        slow,
        fast,
        rooms,
        capacity: Capacity::of(&hours, &high),
    };
    picture.plan(sorted.nights, sorted.dropped, hours.open_seconds())
}

/// Bytes that models may take on a host if everything goes that may.
fn room(host: &NightHost) -> u64 {
    host.evictable.iter().fold(host.free_bytes, |sum, victim| sum.saturating_add(victim.bytes))
}

/// What is clear before any arithmetic.
struct Sorted {
    copies: Vec<Want>,
    nights: Vec<HostNight>,
    dropped: Vec<Dropped>,
}

fn sort_out(ask: &NightAsk, hosts: &[NightHost]) -> Sorted {
    let empty = |host: &NightHost| HostNight {
        host: host.name.clone(),
        present: Vec::new(),
        fetch: Vec::new(),
        evict: Vec::new(),
        bytes_to_fetch: None,
        disk_needed: None,
        disk_free: host.free_bytes,
        ends_at: None,
    };
    let mut sorted =
        Sorted { copies: Vec::new(), nights: hosts.iter().map(empty).collect(), dropped: Vec::new() };
    for wish in join::joined(&ask.entries, hosts) {
        sorted.one_of(&wish, &ask.entries[wish.entry], hosts);
    }
    sorted
}

fn no_host() -> (DropReason, String) {
    (DropReason::NoHost, "no host is left that it could go to".into())
}

impl Sorted {
    fn drop(
        &mut self,
        wish: &Wish,
        entry: &Entry,
        host: Option<&NightHost>,
        (reason, why): (DropReason, String),
    ) {
        self.dropped.push(Dropped {
            entry: wish.entry,
            also: wish.also.clone(),
            model: entry.model.clone(),
            priority: wish.priority,
            host: host.map(|host| host.name.clone()),
            bytes: None,
            reason,
            why,
        });
    }

    /// Puts a wish to the host that has it, among what is to be fetched, or away.
    fn one_of(&mut self, wish: &Wish, entry: &Entry, hosts: &[NightHost]) {
        let (n, among, also) = (wish.entry, &wish.among, wish.also.clone());
        let needs = |host: usize| hosts[host].needs.get(&n);
        let there = among.iter().find_map(|host| match needs(*host) {
            Some(Need::There { bytes }) => Some((*host, *bytes)),
            _ => None,
        });
        if let Some((host, bytes)) = there {
            let model = entry.model.clone();
            return self.nights[host].present.push(Present { entry: n, also, model, bytes });
        }
        let open = || among.iter().copied().filter(|host| hosts[*host].refuses.is_none());
        let places: Vec<_> = open()
            .filter_map(|host| match needs(host) {
                Some(Need::Fetch { bytes, disk }) => Some(Place { host, bytes: *bytes, disk: *disk }),
                _ => None,
            })
            .collect();
        if !places.is_empty() {
            return self.copies.push(Want { entry: n, also, priority: wish.priority, places });
        }
        let unknown = open().find_map(|host| match needs(host) {
            Some(Need::Unknown(why)) => Some((host, why.clone())),
            _ => None,
        });
        if let Some((host, why)) = unknown {
            return self.nights[host].fetch.push(Fetching {
                entry: n,
                also,
                model: entry.model.clone(),
                priority: wish.priority,
                bytes: None,
                starts_at: None,
                ends_at: None,
                ends_at_earliest: None,
                finishes: Finish::May,
                why,
            });
        }
        let unfit = open().find_map(|host| match needs(host) {
            Some(Need::Unfit(why)) => Some((DropReason::Unfit, why.clone())),
            _ => None,
        });
        let refused =
            among.iter().find_map(|host| hosts[*host].refuses.clone()).map(|why| (DropReason::Refused, why));
        let only = (among.len() == 1).then(|| &hosts[among[0]]);
        let nobody = entry.nobody.clone().map_or_else(no_host, |why| (DropReason::NoHost, why));
        self.drop(wish, entry, only, unfit.or(refused).unwrap_or(nobody));
    }
}

#[cfg(test)]
mod tests;
