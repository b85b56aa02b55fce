//! Disks that are full and caches with a bound: staging makes room, watermarks are kept, and nothing goes in vain.

use serde_json::json;
use support::cache::assert_clean;
use support::fs::Tmpfs;
use support::{Hub, larder};

use super::{MIB, PATIENCE, listed, metric, model, text};

#[test]
fn a_full_disk_makes_room_by_the_rules_or_says_why_not() {
    let Some(disk) = Tmpfs::mount(26 * MIB) else {
        println!("skipped: mounting a small filesystem needs root");
        return;
    };
    let hub = Hub::start();
    for (n, name) in ["a/one", "a/two", "a/three", "a/four"].iter().enumerate() {
        hub.add(model(name, 520 + n as u64, 8_000_000));
    }
    let larder = larder!(&hub).with_cache(&disk.path().join("hub"));
    let larder = larder.env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__KEEP_FREE", "0%");
    for name in ["a/one", "a/two", "a/three"] {
        larder.run(&["stage", name]).expect_code(0);
    }
    // In the foreground nothing goes unless somebody says so.
    let refused = larder.run(&["stage", "a/four"]).expect_code(4);
    assert!(
        refused.stderr.contains("22.9 MiB can be evicted") && refused.stderr.contains("--evict"),
        "{}",
        refused.stderr
    );
    assert_eq!(listed(&larder).len(), 3);

    let mut daemon = larder.serve();
    larder.run(&["stage", "a/one"]).expect_code(0);
    let four = larder.run(&["stage", "a/four"]).expect_code(0);
    assert!(four.stderr.contains("evicted to make room: a/two@"), "never silently: {}", four.stderr);
    assert_eq!(listed(&larder), ["a/four", "a/one", "a/three"], "two was used longest ago");
    assert_clean(larder.cache());
    assert_eq!(metric(&daemon, "larder_evictions_total{reason=\"least_recently_used\"}"), 1.0);
    // What went and is wanted again so soon should have stayed.
    let two = larder.run(&["stage", "a/two"]).expect_code(0);
    assert!(two.stderr.contains("it had been evicted at"), "{}", two.stderr);
    assert_eq!(metric(&daemon, "larder_eviction_regret_total"), 1.0);
    let why = larder.run(&["why", "a/two"]).expect_code(0);
    assert!(why.stdout.contains("asked for again just now: it should have stayed"), "{}", why.stdout);
    assert_eq!(listed(&larder), ["a/four", "a/one", "a/two"]);
    let why = daemon.get("/v1/models/a/three").expect(404);
    assert!(text(&why["detail"]).contains("was evicted at"), "{why}");

    larder.run(&["pin", "a/one"]).expect_code(0);
    larder.run(&["lease", "a/two", "--holder", "pod"]).expect_code(0);
    larder.run(&["pin", "a/four"]).expect_code(0);
    let refused = larder.run(&["stage", "a/three", "--json"]).expect_code(4);
    let message = text(&refused.json()["message"]);
    for part in ["not enough room for 7.6 MiB", "can be evicted (not: 15.3 MiB pinned, 7.6 MiB leased)"] {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
    assert_eq!(listed(&larder), ["a/four", "a/one", "a/two"]);
    daemon.terminate(PATIENCE);
    // By hand, and told to.
    larder.run(&["release", "a/two", "--all"]).expect_code(0);
    larder.run(&["stage", "a/three", "--evict"]).expect_code(0);
    assert_eq!(listed(&larder), ["a/four", "a/one", "a/three"]);
    assert_clean(larder.cache());
}

#[test]
fn a_download_that_room_cannot_be_made_for_costs_nobody_his_model() {
    let hub = Hub::start();
    hub.add(model("a/small", 530, 2_000_000));
    hub.add(model("a/large", 531, 9_000_000));
    let larder = larder!(&hub).env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__CAPACITY", "8MB");
    let daemon = larder.serve();
    larder.run(&["stage", "a/small"]).expect_code(0);
    let refused = larder.run(&["stage", "a/large"]).expect_code(4);
    assert!(refused.stderr.contains("(cache.capacity)"), "{}", refused.stderr);
    assert_eq!(listed(&larder), ["a/small"], "it would not have been enough");
    assert_eq!(metric(&daemon, "larder_cache_capacity_bytes"), 8e6);
}

#[test]
fn a_cache_with_a_bound_stays_within_its_watermarks() {
    let hub = Hub::start();
    let names = ["a/one", "a/two", "a/three", "a/four"];
    for (n, name) in names.iter().enumerate() {
        hub.add(model(name, 540 + n as u64, 2_000_000));
    }
    // 8.0 MB are above 90 % of 8.8 MB, and 70 % leave room for three.
    let larder = larder!(&hub)
        .env("LARDER__CACHE__MIN_AGE", "0s")
        .env("LARDER__CACHE__CAPACITY", "8.8MB")
        .env("LARDER__CACHE__LOW_WATERMARK", "70%");
    for name in names {
        larder.run(&["stage", name]).expect_code(0);
    }
    larder.run(&["pin", "a/one"]).expect_code(0);
    let plan = larder.run(&["evict", "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(
        (&plan["evict"][0]["repo"], &plan["evict"][0]["reason"], plan["evict"].as_array().map(Vec::len)),
        (&json!("a/two"), &json!("over_capacity"), Some(1)),
        "{plan}"
    );
    let larder = larder.env("LARDER__CACHE__CHECK_EVERY", "1s");
    let daemon = larder.serve();
    daemon.wait_until("/v1/models", PATIENCE, |all| all["models"].as_array().map(Vec::len) == Some(3));
    assert_eq!(listed(&larder), ["a/four", "a/one", "a/three"]);
    assert!(daemon.wait_line(|line| line.contains("the cache is within its bounds"), PATIENCE).is_some());
    assert_eq!(metric(&daemon, "larder_evictions_total{reason=\"over_capacity\"}"), 1.0);
}

#[test]
fn what_is_unused_for_long_expires_and_an_ended_lease_protects_no_more() {
    let hub = Hub::start();
    for (n, name) in ["a/one", "a/two"].iter().enumerate() {
        hub.add(model(name, 550 + n as u64, 500_000));
    }
    let larder = larder!(&hub)
        .env("LARDER__CACHE__MIN_AGE", "0s")
        .env("LARDER__CACHE__EXPIRE_AFTER", "1s")
        // However full this machine's disk is.
        .env("LARDER__CACHE__CAPACITY", "1GB")
        .env("LARDER__CACHE__CHECK_EVERY", "1s");
    for name in ["a/one", "a/two"] {
        larder.run(&["stage", name]).expect_code(0);
    }
    larder.run(&["lease", "a/one", "--holder", "pod", "--ttl", "5s"]).expect_code(0);
    let daemon = larder.serve();
    let left =
        daemon.wait_until("/v1/models", PATIENCE, |all| all["models"].as_array().map(Vec::len) == Some(1));
    assert_eq!((&left["models"][0]["repo"], &left["models"][0]["leased"]), (&json!("a/one"), &json!(true)));
    daemon.wait_until("/v1/models", PATIENCE, |all| all["models"].as_array().map(Vec::len) == Some(0));
    assert_eq!(metric(&daemon, "larder_evictions_total{reason=\"expired\"}"), 2.0);
}
