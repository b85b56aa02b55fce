//! Wishes that are one job: where two entries want the same of the same host, the queue joins them, so they are fetched,
//! counted and told once.

use std::collections::BTreeMap;

use super::{Entry, Need, NightHost, Route, room};

/// One copy that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// The entry that wants it first.
    pub(super) entry: usize,
    /// The others.
    pub(super) also: Vec<usize>,
    /// The highest of theirs.
    pub(super) priority: i16,
    /// The hosts of which one shall have it.
    pub(super) among: Vec<usize>,
}

impl Wish {
    fn new(n: usize, entry: &Entry, among: Vec<usize>) -> Self {
        Self { entry: n, also: Vec::new(), priority: entry.priority, among }
    }

    fn join(&mut self, n: usize, entry: &Entry) {
        if self.entry != n && !self.also.contains(&n) {
            self.also.push(n);
        }
        self.priority = self.priority.max(entry.priority);
    }
}

/// Every copy that is wanted, once.
pub(super) fn joined(entries: &[Entry], hosts: &[NightHost]) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    let mut on_host: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for (n, entry) in entries.iter().enumerate() {
        let Route::Each(all) = &entry.route else { continue };
        if all.is_empty() {
            wishes.push(Wish::new(n, entry, Vec::new()));
        }
        for host in all {
            match on_host.get(&(entry.want.as_str(), *host)) {
                Some(at) => wishes[*at].join(n, entry),
                None => {
                    on_host.insert((&entry.want, *host), wishes.len());
                    wishes.push(Wish::new(n, entry, vec![*host]));
                }
            }
        }
    }
    // Who wants it of one of several hosts has it of one that gets it anyway.
    let mut floating: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, entry) in entries.iter().enumerate() {
        let Route::OneOf(all) = &entry.route else { continue };
        let fixed = all.iter().filter_map(|host| on_host.get(&(entry.want.as_str(), *host)).copied());
        let best = fixed.filter_map(|at| Some((ease(&wishes[at], hosts)?, at))).min();
        if let Some((_, at)) = best {
            wishes[at].join(n, entry);
            continue;
        }
        let same = floating.entry(&entry.want).or_default();
        let both = same.iter().find_map(|at| {
            let both: Vec<usize> =
                wishes[*at].among.iter().copied().filter(|host| all.contains(host)).collect();
            (!both.is_empty()).then_some((*at, both))
        });
        if let Some((at, both)) = both {
            wishes[at].join(n, entry);
            wishes[at].among = both;
        } else {
            same.push(wishes.len());
            wishes.push(Wish::new(n, entry, all.clone()));
        }
    }
    wishes.sort_by_key(|wish| wish.entry);
    wishes
}

/// How surely a host gets a copy, the surest first; `None` if it does not.
fn ease(wish: &Wish, hosts: &[NightHost]) -> Option<(u8, u64)> {
    let host = hosts.get(*wish.among.first()?)?;
    match host.needs.get(&wish.entry)? {
        Need::There { .. } => Some((0, 0)),
        _ if host.refuses.is_some() => None,
        Need::Fetch { bytes, disk } => (*disk <= room(host)).then_some((1, *bytes)),
        Need::Unknown(_) => Some((2, 0)),
        Need::Unfit(_) => None,
    }
}
