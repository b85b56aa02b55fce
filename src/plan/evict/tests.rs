//! What an eviction plan may never do, over random caches, rules and goals.

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600;
const NOW: i64 = 1_000 * HOUR;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("in range")
}

fn name(n: usize) -> Name {
    (format!("a/m{n:02}").parse().expect("name"), format!("{n:040x}").parse().expect("commit"))
}

/// Staged, unprotected, last used `hours` ago, with blobs of its own.
fn plain(n: usize, hours: i64, blobs: &[usize]) -> Candidate {
    Candidate {
        name: name(n),
        blobs: blobs.to_vec(),
        staged: true,
        last_used_at: at(NOW - hours * HOUR),
        heat: 1.0,
        pinned: false,
        leased_until: None,
        fetching: false,
        used: Use::Free,
    }
}

fn policy() -> Policy {
    Policy {
        allowed: Allowed::Staged,
        order: Order::Lru,
        min_age: Duration::from_secs(24 * 3_600),
        expire_after: None,
        keep_free: KeepFree::Bytes(0),
        capacity: None,
        watermarks: Watermarks { high: 90, low: 80 },
    }
}

fn stock(revisions: Vec<Candidate>, blobs: &[u64]) -> Stock {
    let cache_bytes = blobs.iter().sum();
    Stock {
        revisions,
        blobs: blobs.to_vec(),
        disk_total: 1_000,
        disk_free: 1_000,
        cache_bytes,
        is_amnesic: false,
    }
}

fn evicted(plan: &EvictionPlan) -> Vec<(usize, u64)> {
    let number = |name: &Name| usize::from_str_radix(name.1.as_str(), 16).expect("hex");
    plan.evict.iter().map(|chosen| (number(&chosen.name), chosen.bytes)).collect()
}

#[test]
fn room_is_made_from_the_least_recently_used_on_and_none_goes_in_vain() {
    let stock = stock(vec![plain(1, 50, &[0]), plain(2, 90, &[1]), plain(3, 70, &[2])], &[100, 10, 60]);
    let plan = |bytes| plan_eviction(&stock, &policy(), &Goal::Room(bytes), at(NOW));
    assert_eq!(evicted(&plan(5)), [(2, 10)]);
    assert_eq!(evicted(&plan(60)), [(3, 60)], "the older one alone is not enough, and then not needed");
    assert_eq!(evicted(&plan(70)), [(2, 10), (3, 60)]);
    assert_eq!(
        (evicted(&plan(171)), plan(171).short_bytes),
        (vec![], 171),
        "nothing goes for a download in vain"
    );
    let as_much = plan_eviction(&stock, &policy(), &Goal::Free(171), at(NOW));
    assert_eq!((as_much.freed_bytes, as_much.short_bytes), (170, 1));
}

#[test]
fn by_value_what_is_used_often_or_is_small_stays_longer() {
    let policy = Policy { order: Order::Value, ..policy() };
    let often = Candidate { heat: 20.0, ..plain(1, 90, &[0]) };
    let stock = stock(vec![often, plain(2, 50, &[1]), plain(3, 60, &[2])], &[100, 100, 10]);
    let plan = |bytes| plan_eviction(&stock, &policy, &Goal::Room(bytes), at(NOW));
    assert_eq!(evicted(&plan(10)), [(2, 100)], "the large one, though it was used later than the small one");
    assert_eq!(evicted(&plan(110)), [(2, 100), (3, 10)], "what is used often goes last");
    assert_eq!(plan(10).evict[0].reason, Evict::LowValue);
    let after = |days: i64| heat(1.0, at(NOW), at(NOW + days * 24 * HOUR));
    assert!((after(0) - 2.0).abs() < 1e-9 && (after(7) - 1.5).abs() < 1e-9, "{} {}", after(0), after(7));
}

#[test]
fn a_blob_goes_with_the_last_that_needs_it() {
    let stock = stock(vec![plain(1, 90, &[0, 1]), plain(2, 50, &[0, 2])], &[100, 1, 2]);
    let named = |names: &[usize]| Goal::Named(names.iter().map(|n| name(*n)).collect());
    let plan = |goal| plan_eviction(&stock, &policy(), &goal, at(NOW));
    assert_eq!(evicted(&plan(named(&[1]))), [(1, 1)]);
    assert_eq!(evicted(&plan(named(&[1, 2]))), [(1, 1), (2, 102)]);
    assert_eq!(evicted(&plan(Goal::Room(50))), [(1, 1), (2, 102)]);
    assert_eq!(evicted(&plan(Goal::Room(2))), [(2, 2)]);
}

#[test]
fn the_defaults_surprise_nobody() {
    let young = plain(1, 23, &[0]);
    let adopted = Candidate { staged: false, ..plain(2, 90, &[1]) };
    let unknown = Candidate { used: Use::Unknown, ..plain(3, 90, &[2]) };
    let stock = stock(vec![young, adopted, unknown], &[10, 10, 10]);
    let plan = plan_eviction(&stock, &policy(), &Goal::Free(30), at(NOW));
    let kept: Vec<Keep> = plan.keep.iter().map(|kept| kept.reason).collect();
    assert_eq!(kept, [Keep::TooYoung, Keep::NotStaged, Keep::UseUnknown]);
    let all = Goal::Named(stock.revisions.iter().map(|one| one.name.clone()).collect());
    assert_eq!(plan_eviction(&stock, &policy(), &all, at(NOW)).freed_bytes, 30, "who names them means them");
}

#[test]
fn what_is_needed_or_not_known_never_goes_whoever_asks() {
    let stock = stock(
        vec![
            Candidate { pinned: true, ..plain(1, 90, &[0]) },
            Candidate { leased_until: Some(at(NOW + 1)), ..plain(2, 90, &[1]) },
            Candidate { used: Use::Busy, ..plain(3, 90, &[2]) },
            Candidate { fetching: true, ..plain(4, 90, &[3]) },
            Candidate { leased_until: Some(at(NOW)), ..plain(5, 90, &[4]) },
        ],
        &[10; 5],
    );
    let all = Goal::Named(stock.revisions.iter().map(|one| one.name.clone()).collect());
    let plan = plan_eviction(&stock, &policy(), &all, at(NOW));
    let kept: Vec<Keep> = plan.keep.iter().map(|kept| kept.reason).collect();
    assert_eq!(kept, [Keep::Pinned, Keep::Leased, Keep::InUse, Keep::Fetching]);
    assert_eq!(evicted(&plan), [(5, 10)], "its lease has ended");
}

#[test]
fn balance_keeps_to_watermarks_capacity_free_room_and_age() {
    let revisions: Vec<_> = (0..10).map(|n| plain(n, 100 - n as i64, &[n])).collect();
    let full = |free| Stock { disk_free: free, ..stock(revisions.clone(), &[50; 10]) };
    let plan = |stock: &Stock, policy: &Policy| plan_eviction(stock, policy, &Goal::Balance, at(NOW));
    let reasons = |plan: &EvictionPlan| plan.evict.iter().map(|chosen| chosen.reason).collect::<Vec<_>>();
    assert_eq!(plan(&full(100), &policy()).freed_bytes, 0, "at the high watermark");
    let over = plan(&full(99), &policy());
    assert_eq!(
        (over.freed_bytes, reasons(&over)),
        (150, vec![Evict::OverCapacity; 3]),
        "down to the low one"
    );
    let below = plan(&full(150), &Policy { keep_free: KeepFree::Bytes(200), ..policy() });
    assert_eq!((below.freed_bytes, reasons(&below)), (50, vec![Evict::BelowKeepFree]));
    let small = plan(&full(900), &Policy { capacity: Some(400), ..policy() });
    assert_eq!(
        (small.freed_bytes, reasons(&small)),
        (200, vec![Evict::OverCapacity; 4]),
        "500 of 400, down to 320"
    );
    let old = plan(&full(900), &Policy { expire_after: Some(Duration::from_secs(98 * 3_600)), ..policy() });
    assert_eq!((old.freed_bytes, reasons(&old)), (150, vec![Evict::Expired; 3]));
    let never = plan(&full(0), &Policy { allowed: Allowed::Never, ..policy() });
    assert_eq!((never.freed_bytes, never.short_bytes), (0, 200));
    let amnesic = plan(&Stock { is_amnesic: true, ..full(0) }, &policy());
    assert_eq!((amnesic.freed_bytes, amnesic.keep[0].reason), (0, Keep::UseUnknown));
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (
        prop::collection::btree_set(0..6_usize, 0..4),
        any::<bool>(),
        0..200_i64,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, -10..10_i64),
        0.0..50.0_f64,
        prop::bool::weighted(0.1),
        prop_oneof![4 => Just(Use::Free), 1 => Just(Use::Busy), 1 => Just(Use::Unknown)],
    );
    prop::collection::vec(one, 0..9).prop_map(|all| {
        let number = all.into_iter().enumerate();
        number
            .map(|(n, (blobs, staged, hours, pinned, lease, heat, fetching, used))| Candidate {
                blobs: blobs.into_iter().collect(),
                staged,
                pinned,
                leased_until: lease.map(|hours| at(NOW + hours * HOUR)),
                heat,
                fetching,
                used,
                ..plain(n, hours, &[])
            })
            .collect()
    })
}

fn goals() -> impl Strategy<Value = Goal> {
    prop_oneof![
        (0..400_u64).prop_map(Goal::Free),
        (0..400_u64).prop_map(Goal::Room),
        (0..200_u64).prop_map(|hours| Goal::UnusedFor(Duration::from_secs(hours * 3_600))),
        prop::collection::btree_set(0..9_usize, 0..5)
            .prop_map(|names| Goal::Named(names.into_iter().map(name).collect())),
        Just(Goal::Balance),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let allowed = prop_oneof![Just(Allowed::Never), Just(Allowed::Staged), Just(Allowed::All)];
    let order = prop_oneof![Just(Order::Lru), Just(Order::Value)];
    (
        (allowed, order),
        0..100_u64,
        prop::option::of(0..200_u64),
        0..400_u64,
        prop::option::of(0..400_u64),
        0..=100_u8,
        0..=100_u8,
    )
        .prop_map(|((allowed, order), min_age, expire, keep_free, capacity, a, b)| Policy {
            allowed,
            order,
            min_age: Duration::from_secs(min_age * 3_600),
            expire_after: expire.map(|hours| Duration::from_secs(hours * 3_600)),
            keep_free: KeepFree::Bytes(keep_free),
            capacity,
            watermarks: Watermarks { high: a.max(b), low: a.min(b) },
        })
}

/// Bytes that are free when these are gone, counted the long way.
fn freed(stock: &Stock, gone: &BTreeSet<&Name>) -> u64 {
    let needed = |blob: usize| {
        let mut users = stock.revisions.iter().filter(|one| one.blobs.contains(&blob)).peekable();
        users.peek().is_none() || users.any(|one| !gone.contains(&one.name))
    };
    (0..stock.blobs.len()).filter(|blob| !needed(*blob)).map(|blob| stock.blobs[blob]).sum()
}

fn may_go(one: &Candidate, stock: &Stock, policy: &Policy, goal: &Goal) -> bool {
    let named = matches!(goal, Goal::Named(names) if names.contains(&one.name));
    let automatic = matches!(goal, Goal::Room(_) | Goal::Balance);
    let age = NOW - one.last_used_at.as_second();
    let is_safe = !one.pinned
        && one.leased_until.is_none_or(|until| until <= at(NOW))
        && one.used != Use::Busy
        && !one.fetching;
    let by_policy = (one.staged || policy.allowed == Allowed::All)
        && age >= policy.min_age.as_secs() as i64
        && one.used != Use::Unknown
        && !(automatic && (policy.allowed == Allowed::Never || stock.is_amnesic));
    is_safe && (named || (by_policy && !matches!(goal, Goal::Named(_))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_plan_takes_what_it_may_and_needs_and_nothing_else(
        revisions in candidates(),
        blobs in prop::collection::vec(0..100_u64, 6),
        free in 0..1_000_u64,
        is_amnesic in prop::bool::weighted(0.1),
        policy in policies(),
        goal in goals(),
    ) {
        let stock = Stock { disk_free: free, is_amnesic, ..stock(revisions, &blobs) };
        let plan = plan_eviction(&stock, &policy, &goal, at(NOW));
        let gone: BTreeSet<&Name> = plan.evict.iter().map(|chosen| &chosen.name).collect();
        let stays: BTreeSet<&Name> = plan.keep.iter().map(|kept| &kept.name).collect();
        prop_assert_eq!(gone.len() + stays.len(), stock.revisions.len());
        prop_assert!(gone.is_disjoint(&stays));
        for one in stock.revisions.iter().filter(|one| gone.contains(&one.name)) {
            prop_assert!(may_go(one, &stock, &policy, &goal), "{one:?}");
        }
        prop_assert_eq!(plan.freed_bytes, freed(&stock, &gone));
        prop_assert_eq!(plan.freed_bytes, plan.evict.iter().map(|chosen| chosen.bytes).sum::<u64>());

        let (wanted, _) = wanted(&stock, &policy, &goal);
        prop_assert_eq!(plan.short_bytes, wanted.saturating_sub(plan.freed_bytes));
        let allowed: BTreeSet<&Name> = stock.revisions.iter().filter(|one| may_go(one, &stock, &policy, &goal)).map(|one| &one.name).collect();
        if plan.short_bytes > 0 {
            prop_assert!(freed(&stock, &allowed) < wanted, "there was more to take");
            prop_assert!(!matches!(goal, Goal::Room(_)) || gone.is_empty());
        }
        let for_room = |chosen: &&Chosen| !matches!(chosen.reason, Evict::Requested | Evict::Expired);
        let reached = wanted.min(plan.freed_bytes);
        for chosen in plan.evict.iter().filter(for_room) {
            let mut others = gone.clone();
            others.remove(&chosen.name);
            prop_assert!(freed(&stock, &others) < reached, "{chosen:?} was not needed");
        }

        let mut turned = stock.clone();
        turned.revisions.reverse();
        prop_assert_eq!(plan_eviction(&turned, &policy, &goal, at(NOW)), plan);
    }
}
