//! The plan of a night against every possible choice, and the rules that no plan may break.

mod told;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::ToSpan as _;
use larder_jobs::{Bandwidth, Windows};
use proptest::prelude::*;

use super::*;
use crate::plan::{Chosen, Evict};

const START: &str = "2026-03-01T20:00:00Z";

fn start() -> Timestamp {
    START.parse().expect("a time")
}

fn bandwidth(bytes: u64) -> Bandwidth {
    Bandwidth::new(bytes).expect("not zero")
}

fn name(n: usize) -> larder_jobs::HostName {
    format!("gpu-{n}").parse().expect("a name")
}

fn victim(n: usize, bytes: u64) -> Chosen {
    let name = (format!("old/{n}").parse().expect("a repo"), "ab".repeat(20).parse().expect("a commit"));
    Chosen { name, bytes, reason: Evict::LeastRecentlyUsed }
}

fn host(n: usize, rate: f64, free_bytes: u64) -> NightHost {
    NightHost {
        name: name(n),
        rate: Rate::measured(rate),
        free_bytes,
        evictable: Vec::new(),
        refuses: None,
        needs: BTreeMap::new(),
    }
}

fn entry(n: usize, priority: i16, route: Route) -> Entry {
    Entry { model: format!("a/{n}"), want: format!("a/{n}"), priority, route, nobody: None }
}

fn ask(entries: Vec<Entry>, hours: i64) -> NightAsk {
    NightAsk {
        entries,
        now: start(),
        deadline: Some(start().checked_add(hours.hours()).expect("a time")),
        windows: None,
        inside: None,
        outside: None,
        source: None,
        order: NightOrder::Priority,
    }
}

fn fetch(bytes: u64) -> Need {
    Need::Fetch { bytes, disk: bytes }
}

/// A small night: what it takes to be planned by trying everything.
fn night(hosts: usize, entries: usize) -> impl Strategy<Value = (NightAsk, Vec<NightHost>)> {
    let one_host = (1..9_u32, 3..60_u64, prop::collection::vec(1..20_u64, 0..2), any::<bool>());
    let place = prop_oneof![5 => (1..12_u64).prop_map(fetch), 1 => (1..12_u64).prop_map(|bytes| Need::There { bytes })];
    let one_entry = (0..2_i16, any::<bool>(), 1..(1_usize << hosts), prop::collection::vec(place, hosts));
    let bounds = (
        prop::option::weighted(0.7, Just("22:00-02:00 UTC")),
        prop::option::of(1..6_u64),
        prop::option::of(1..4_u64),
        prop::option::weighted(0.6, 1..12_u32),
        1..8_i64,
    );
    (prop::collection::vec(one_host, hosts), prop::collection::vec(one_entry, 1..=entries), bounds).prop_map(
        |(hosts, entries, (windows, inside, outside, source, hours))| {
            let mut all: Vec<NightHost> = Vec::new();
            for (n, (rate, free, victims, refuses)) in hosts.into_iter().enumerate() {
                let mut one = host(n, f64::from(rate), free * 1_000);
                one.evictable = victims.iter().map(|bytes| victim(n, bytes * 1_000)).collect();
                one.refuses = (refuses && n > 0).then(|| "drained".to_owned());
                all.push(one);
            }
            let mut asked = Vec::new();
            for (n, (priority, each, which, needs)) in entries.into_iter().enumerate() {
                let among: Vec<usize> = (0..all.len()).filter(|host| which >> host & 1 == 1).collect();
                for host in &among {
                    let need = match &needs[*host] {
                        Need::Fetch { bytes, .. } => fetch(bytes * 10_000),
                        other => other.clone(),
                    };
                    all[*host].needs.insert(n, need);
                }
                asked.push(entry(n, priority, if each { Route::Each(among) } else { Route::OneOf(among) }));
            }
            let ask = NightAsk {
                windows: windows.map(|text| text.parse().expect("a window")),
                inside: inside.map(bandwidth),
                outside: outside.map(bandwidth),
                source: source.map(|rate| Rate::measured(f64::from(rate))),
                ..ask(asked, hours)
            };
            (ask, all)
        },
    )
}

/// What a host may take at that moment, as the manifest says it.
fn allowed(ask: &NightAsk, host: &NightHost, at: Timestamp) -> f64 {
    let is_open = ask.windows.as_ref().is_none_or(|windows| windows.contains(at));
    #[allow(clippy::cast_precision_loss)] // small numbers
    let limit = |bandwidth: Option<Bandwidth>| bandwidth.map(|bandwidth| bandwidth.bytes() as f64);
    let most =
        if is_open { limit(ask.inside).unwrap_or(f64::INFINITY) } else { limit(ask.outside).unwrap_or(0.0) };
    host.rate.low.min(most)
}

/// Whether each host can have its load in time: no set of hosts may want more than flows to it, minute by minute.
fn is_possible(ask: &NightAsk, hosts: &[NightHost], load: &[u64]) -> bool {
    let minutes = ask.deadline.expect("a deadline").duration_since(ask.now).as_mins();
    let source = ask.source.map_or(f64::INFINITY, |source| source.low);
    let rates: Vec<Vec<f64>> = (0..minutes)
        .map(|n| ask.now.checked_add(n.minutes()).expect("a time"))
        .map(|at| hosts.iter().map(|host| allowed(ask, host, at)).collect())
        .collect();
    (1_usize..1 << hosts.len()).all(|set| {
        let inside = |host: &usize| set >> host & 1 == 1;
        let among: Vec<usize> = (0..hosts.len()).filter(inside).collect();
        let flows: f64 =
            rates.iter().map(|now| among.iter().map(|host| now[*host]).sum::<f64>().min(source) * 60.0).sum();
        #[allow(clippy::cast_precision_loss)] // small numbers
        let wanted = among.iter().map(|host| load[*host]).sum::<u64>() as f64;
        wanted <= flows + 1e-6
    })
}

/// Each model that is to be fetched once, with its places, as the manifest means it.
fn wants(ask: &NightAsk, hosts: &[NightHost]) -> Vec<(i16, Vec<(usize, u64)>)> {
    let mut all = Vec::new();
    for (n, entry) in ask.entries.iter().enumerate() {
        let mut once = |among: &[usize]| {
            let need = |host: &usize| hosts[*host].needs.get(&n);
            if among.iter().any(|host| matches!(need(host), Some(Need::There { .. }))) {
                return;
            }
            let places: Vec<_> = among
                .iter()
                .filter(|host| hosts[**host].refuses.is_none())
                .filter_map(|host| match need(host) {
                    Some(Need::Fetch { bytes, .. }) => Some((*host, *bytes)),
                    _ => None,
                })
                .collect();
            if !places.is_empty() {
                all.push((entry.priority, places));
            }
        };
        match &entry.route {
            Route::Each(among) => among.iter().for_each(|host| once(std::slice::from_ref(host))),
            Route::OneOf(among) => once(among),
        }
    }
    all
}

/// The best that can be, by trying everything: how many of each priority, the highest first.
fn optimum(ask: &NightAsk, hosts: &[NightHost]) -> BTreeMap<Reverse<i16>, usize> {
    fn go(
        wants: &[(i16, Vec<(usize, u64)>)],
        fits: &dyn Fn(&[u64]) -> bool,
        load: &mut Vec<u64>,
        hits: &mut Vec<i16>,
        best: &mut Vec<i16>,
    ) {
        let Some(((priority, places), rest)) = wants.split_first() else {
            let order = |hits: &[i16]| {
                let mut sorted = hits.to_vec();
                sorted.sort_unstable_by_key(|priority| Reverse(*priority));
                sorted
            };
            if count(&order(hits)) > count(&order(best)) {
                best.clone_from(hits);
            }
            return;
        };
        for (host, bytes) in places {
            load[*host] += bytes;
            if fits(load) {
                hits.push(*priority);
                go(rest, fits, load, hits, best);
                hits.pop();
            }
            load[*host] -= bytes;
        }
        go(rest, fits, load, hits, best);
    }
    let fits = |load: &[u64]| {
        load.iter().zip(hosts).all(|(load, host)| *load <= room(host)) && is_possible(ask, hosts, load)
    };
    let mut best = Vec::new();
    go(&wants(ask, hosts), &fits, &mut vec![0; hosts.len()], &mut Vec::new(), &mut best);
    tally(best.into_iter())
}

/// How many there are of priority 1, and of 0.
fn count(hits: &[i16]) -> (usize, usize) {
    let of = |priority| hits.iter().filter(|hit| **hit == priority).count();
    (of(1), of(0))
}

fn tally(hits: impl Iterator<Item = i16>) -> BTreeMap<Reverse<i16>, usize> {
    let mut all = BTreeMap::new();
    hits.for_each(|priority| *all.entry(Reverse(priority)).or_default() += 1);
    all
}

fn hits(plan: &NightPlan) -> BTreeMap<Reverse<i16>, usize> {
    let all = plan.hosts.iter().flat_map(|night| &night.fetch);
    tally(all.filter(|one| one.finishes == Finish::Will).map(|one| one.priority))
}

/// No more than the link gives, no byte outside the hours beyond the allowed rate, all that was promised.
fn obeys(ask: &NightAsk, hosts: &[NightHost], plan: &NightPlan) -> Result<(), TestCaseError> {
    let at = |seconds: f64| {
        ask.now.checked_add(SignedDuration::try_from_secs_f64(seconds).expect("seconds")).expect("a time")
    };
    let mut ends: Vec<f64> = plan.pieces.iter().flat_map(|piece| [piece.from, piece.to]).collect();
    ends.sort_by(f64::total_cmp);
    for pair in ends.windows(2).filter(|pair| pair[1] - pair[0] > 1e-6) {
        let middle = f64::midpoint(pair[0], pair[1]);
        let now: Vec<_> =
            plan.pieces.iter().filter(|piece| piece.from <= middle && middle < piece.to).collect();
        for piece in &now {
            let most = allowed(ask, &hosts[piece.host], at(middle));
            prop_assert!(
                piece.rate <= most * (1.0 + 1e-9),
                "{piece:?} at {}, {most} are allowed",
                at(middle)
            );
            let same = now.iter().filter(|other| other.host == piece.host).count();
            prop_assert_eq!(same, 1, "a host fetches one at a time");
        }
        let all: f64 = now.iter().map(|piece| piece.rate).sum();
        let most = ask.source.map_or(f64::INFINITY, |source| source.low);
        prop_assert!(all <= most * (1.0 + 1e-9), "{all} of {most} at {}", at(middle));
    }
    for (n, night) in plan.hosts.iter().enumerate() {
        for one in night.fetch.iter().filter(|one| one.finishes == Finish::Will) {
            let pieces = plan.pieces.iter().filter(|piece| piece.host == n && piece.entry == one.entry);
            let bytes: f64 = pieces.map(|piece| piece.rate * (piece.to - piece.from)).sum();
            #[allow(clippy::cast_precision_loss)] // small numbers
            let wanted = one.bytes.expect("known") as f64;
            prop_assert!((bytes - wanted).abs() < 0.1, "{} of {wanted} bytes of {}", bytes, one.model);
            let ends = one.ends_at.expect("it ends");
            prop_assert!(ends.duration_since(ask.deadline.expect("one")).as_millis() <= 1, "{one:?}");
            prop_assert!(one.starts_at <= Some(ends) && one.ends_at_earliest <= Some(ends));
        }
        let freed: u64 = night.evict.iter().map(|victim| victim.bytes).sum();
        prop_assert!(night.disk_needed <= Some(night.disk_free + freed), "{night:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn as_much_is_there_in_time_as_can_be((ask, hosts) in night(3, 6)) {
        let plan = plan_night(&ask, &hosts);
        prop_assert_eq!(hits(&plan), optimum(&ask, &hosts));
    }

    #[test]
    fn nothing_flows_that_may_not((ask, hosts) in night(3, 12)) {
        let plan = plan_night(&ask, &hosts);
        obeys(&ask, &hosts, &plan)?;
        // Whatever is asked for is there, fetched or dropped, once for each place that it is for.
        let wanted: usize = ask.entries.iter().map(|entry| match &entry.route {
            Route::Each(among) => among.len(),
            Route::OneOf(_) => 1,
        }).sum();
        let told: usize = plan.hosts.iter().map(|night| night.present.len() + night.fetch.len()).sum();
        prop_assert_eq!(told + plan.dropped.len(), wanted);
        prop_assert_eq!(plan_night(&ask, &hosts), plan, "the same facts give the same plan");
    }

    #[test]
    fn a_rate_that_nobody_measured_is_a_range((ask, hosts) in night(2, 8), faster in 1..5_u32) {
        let slow = plan_night(&ask, &hosts);
        let mut vague = hosts.clone();
        vague.iter_mut().for_each(|host| host.rate.high *= f64::from(faster));
        let plan = plan_night(&ask, &vague);
        prop_assert_eq!(hits(&plan), hits(&slow), "what is sure rests on the lowest rate");
        prop_assert!(plan.dropped.len() <= slow.dropped.len());
        prop_assert_eq!(plan.measured, faster == 1);
        for one in plan.hosts.iter().flat_map(|night| &night.fetch).filter(|one| one.finishes == Finish::May) {
            prop_assert!(one.ends_at.is_none() && one.ends_at_earliest.is_some(), "{one:?}");
        }
    }
}

/// Many models on many hosts, more than are searched: at least 95 of 100 of what even water could do.
#[test]
fn many_models_lose_little() {
    let mut dice = 7_u64;
    let mut roll = |most: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % most
    };
    let (mut hit, mut possible) = (0, 0);
    for _ in 0..20 {
        let mut hosts: Vec<_> = (0..10).map(|n| host(n, 10.0, u64::MAX)).collect();
        let sizes: Vec<u64> = (0..100).map(|_| 1_000 + roll(200_000)).collect();
        for (n, bytes) in sizes.iter().enumerate() {
            hosts.iter_mut().for_each(|host| drop(host.needs.insert(n, fetch(*bytes))));
        }
        let entries = (0..100).map(|n| entry(n, 0, Route::OneOf((0..10).collect()))).collect();
        let plan = plan_night(&ask(entries, 12), &hosts);
        hit += plan.hosts.iter().map(|night| night.fetch.len()).sum::<usize>();
        let (mut sorted, mut room) = (sizes, 10 * 10 * 12 * 3_600_u64);
        sorted.sort_unstable();
        possible += sorted
            .iter()
            .take_while(|bytes| room.checked_sub(**bytes).map(|left| room = left).is_some())
            .count();
    }
    println!("{hit} of {possible}");
    assert!(hit * 100 >= possible * 95, "{hit} of {possible}");
}

#[test]
fn what_is_dropped_is_told_with_the_reason() {
    let mut one = host(0, 10.0, 500_000);
    one.evictable = vec![victim(0, 100_000), victim(1, 50_000)];
    one.needs = BTreeMap::from([
        (0, fetch(100_000)),
        (1, fetch(400_000)),
        (2, Need::Unfit("needs 80 GB of a card with 24 GB".into())),
        (3, Need::There { bytes: 7 }),
        (4, Need::Unknown("the hub does not answer".into())),
        (5, fetch(900_000)),
    ]);
    let each = || Route::Each(vec![0]);
    let entries = [(0, 0), (1, 5), (2, 0), (3, 0), (4, 0), (5, 9), (6, 1)]
        .map(|(n, priority)| entry(n, priority, if n == 6 { Route::OneOf(vec![]) } else { each() }));
    // 432,000 bytes come in twelve hours.
    let plan = plan_night(&ask(entries.to_vec(), 12), &[one]);
    assert_eq!(plan.finishes, Finish::WillNot);
    let told: Vec<_> = plan.dropped.iter().map(|one| (one.entry, one.reason)).collect();
    assert_eq!(
        told,
        [(5, DropReason::Room), (6, DropReason::NoHost), (0, DropReason::Deadline), (2, DropReason::Unfit)]
    );
    assert!(plan.dropped[2].why.starts_with("66.4 KiB more than the"), "{}", plan.dropped[2].why);
    let night = &plan.hosts[0];
    assert_eq!(
        (night.present[0].entry, night.evict.len(), night.bytes_to_fetch),
        (3, 0, None),
        "of one model nobody knows how large it is"
    );
    let fetched: Vec<_> = night.fetch.iter().map(|one| (one.entry, one.finishes)).collect();
    assert_eq!(fetched, [(1, Finish::Will), (4, Finish::May)]);
    let json = serde_json::to_value(&plan).expect("JSON");
    assert_eq!(json["hosts"][0]["fetch"][1]["bytes"], serde_json::Value::Null);
    assert_eq!(json["dropped"][0]["reason"], "room");
}

#[test]
fn a_model_goes_where_it_is_or_where_it_is_done_first() {
    let mut hosts: Vec<_> =
        [1.0, 2.0, 4.0].iter().enumerate().map(|(n, rate)| host(n, *rate, 1_000)).collect();
    for (n, host) in hosts.iter_mut().enumerate() {
        host.needs.insert(0, if n == 0 { Need::There { bytes: 5 } } else { fetch(100) });
        host.needs.insert(1, if n == 2 { Need::Unfit("too large".into()) } else { fetch(100) });
        host.needs.insert(2, fetch(100));
    }
    let entries = (0..3).map(|n| entry(n, 0, Route::OneOf(vec![0, 1, 2]))).collect();
    let plan = plan_night(&ask(entries, 1), &hosts);
    assert_eq!(plan.finishes, Finish::Will);
    let at = |host: usize| plan.hosts[host].fetch.iter().map(|one| one.entry).collect::<Vec<_>>();
    assert_eq!((plan.hosts[0].present[0].entry, at(0), at(1), at(2)), (0, vec![], vec![1], vec![2]));
}

#[test]
fn outside_of_the_window_nothing_flows_unless_it_may() {
    let windows: Windows = "22:00-23:00 UTC".parse().expect("a window");
    let mut one = host(0, 100.0, u64::MAX);
    one.needs.insert(0, fetch(200 * 3_600));
    let mut wanted = NightAsk { windows: Some(windows), ..ask(vec![entry(0, 0, Route::Each(vec![0]))], 10) };
    let plan = plan_night(&wanted, &[one.clone()]);
    assert_eq!((plan.finishes, plan.open_seconds), (Finish::WillNot, 3_600.0));
    wanted.outside = Some(bandwidth(20));
    let plan = plan_night(&wanted, &[one]);
    // 40 before ten, 100 in the hour after it, and the last 60 at 20 bytes per second.
    assert_eq!(plan.hosts[0].ends_at, Some("2026-03-02T02:00:00Z".parse().expect("a time")));
}
