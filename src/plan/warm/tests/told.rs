//! Entries that are one job, and what is told of those that have no time.

use super::*;

#[test]
fn the_same_want_on_the_same_host_is_one_job() {
    // 432,000 bytes come in twelve hours: one copy of 300,000 does, two would not.
    let mut hosts = vec![host(0, 10.0, 500_000), host(1, 10.0, 500_000), host(2, 10.0, 500_000)];
    hosts.iter_mut().for_each(|host| (0..4).for_each(|n| drop(host.needs.insert(n, fetch(300_000)))));
    let same = |n, priority, route| Entry { want: "a/0".into(), ..entry(n, priority, route) };
    let entries = vec![
        same(0, 0, Route::Each(vec![0, 1])),
        same(1, 7, Route::Each(vec![1])),
        same(2, 3, Route::OneOf(vec![0, 1, 2])),
    ];
    let plan = plan_night(&ask(entries, 12), &hosts);
    assert_eq!((plan.finishes, plan.bytes_to_fetch), (Finish::Will, Some(600_000)), "{plan:#?}");
    let of = |host: usize| {
        let one = &plan.hosts[host].fetch[0];
        (one.entry, one.also.clone(), one.priority)
    };
    assert_eq!((of(0), of(1)), ((0, vec![2], 3), (0, vec![1], 7)), "the highest priority of both counts");
    assert!(plan.hosts[2].fetch.is_empty() && plan.dropped.is_empty());

    // Two that each may be on one of several are one where both may be.
    let entries = vec![same(0, 0, Route::OneOf(vec![0, 1, 2])), same(1, 5, Route::OneOf(vec![1]))];
    let plan = plan_night(&ask(entries, 12), &hosts);
    let told: Vec<_> = plan.hosts.iter().map(|night| night.fetch.len()).collect();
    assert_eq!((told, plan.hosts[1].fetch[0].priority), (vec![0, 1, 0], 5));
}

#[test]
fn what_has_no_time_says_what_is_in_its_way() {
    let mut one = host(0, 10.0, u64::MAX);
    one.needs.insert(0, fetch(9_000_000));
    let why = |wanted: NightAsk| plan_night(&wanted, std::slice::from_ref(&one)).dropped[0].why.clone();
    let night = || ask(vec![entry(0, 0, Route::Each(vec![0]))], 12);
    assert_eq!(
        why(NightAsk { deadline: Some(start()), ..night() }),
        format!("its deadline, {START}, is past")
    );
    let shut = NightAsk { windows: "12:00-13:00 UTC".parse().ok(), ..night() };
    assert_eq!(why(shut), "no byte may come to gpu-0 by the deadline: its window does not open");
    let late = why(night());
    assert!(late.ends_with("that gpu-0 can fetch by the deadline"), "{late}");
    let endless = why(NightAsk { deadline: None, ..night() });
    assert!(endless.ends_with("that gpu-0 can fetch within a week"), "{endless}");
    let nobody =
        Entry { nobody: Some("no host has the label gpu=h10".into()), ..entry(0, 0, Route::Each(vec![])) };
    assert_eq!(why(ask(vec![nobody], 1)), "no host has the label gpu=h10");
}
