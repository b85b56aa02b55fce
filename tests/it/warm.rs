//! Nights: windows that hold, manifests that are planned and asked for, schedules, and the report of the morning.

mod plan;
mod runs;
mod tally;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit, Zoned};
use serde_json::{Value, json};
use support::cache::Snapshot;
use support::{Daemon, Hub, Larder, Model, Redis, Tripwire, larder, models};

use crate::fleet::machine;
use crate::metrics::scrape_until;
use crate::redis::clock::liar;

const SOON: Duration = Duration::from_secs(60);

/// A larder whose clock shows `time` of some day, in UTC, when this returns; it goes on from there.
fn at_clock(larder: Larder, liar: &Path, time: &str) -> Larder {
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let wanted =
        now.date().at(0, 0, 0, 0).with().time(time.parse().expect("a time")).build().expect("a time");
    let wanted: Zoned = wanted.in_tz("UTC").expect("UTC");
    let ahead = wanted.since((Unit::Second, &now)).expect("seconds").get_seconds();
    let ahead = if ahead < 0 { ahead + 86_400 } else { ahead };
    larder
        .env("LD_PRELOAD", liar)
        .env("FAKETIME", format!("+{ahead}"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}

fn ask(daemon: &Daemon, model: &Model, more: Value) -> String {
    let mut body = json!({"kind": "download", "repo": model.id()});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    daemon.post("/v1/jobs", &body).expect(202)["id"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn wait_shut_out(daemon: &Daemon, id: &str) -> Value {
    daemon.wait_until(&format!("/v1/jobs/{id}"), SOON, |job| job["reason"] == "outside_window")
}

#[test]
fn a_job_waits_for_its_window_and_spends_no_attempt() {
    let Some(liar) = liar() else { return };
    let hub = Hub::start();
    let model = models::huge(1, 200_000);
    hub.add(model.clone());
    let larder = at_clock(larder!(&hub), &liar, "21:59:30");
    let daemon = larder.serve();
    let id = ask(&daemon, &model, json!({"window": "22:00-06:00 UTC"}));
    let job = wait_shut_out(&daemon, &id);
    assert_eq!((&job["state"], &job["attempts"]), (&json!("waiting"), &json!(0)), "{job}");
    assert!(
        job["until"].as_str().is_some_and(|until| until.contains("T22:00:0") || until.contains("T21:59:59")),
        "{job}"
    );
    assert!(job["message"].as_str().is_some_and(|why| why.contains("22:00-06:00 UTC is closed")), "{job}");
    assert_eq!(hub.bytes_sent(model.id()), 0);
    let job = daemon.wait_job(&id, SOON);
    assert_eq!((&job["state"], &job["attempts"]), (&json!("ready"), &json!(1)), "{job}");
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(&model);
}

#[test]
fn a_window_that_closes_stops_the_transfer_and_keeps_its_bytes() {
    let Some(liar) = liar() else { return };
    let hub = Hub::start();
    let model = models::huge(2, 20_000_000);
    hub.add(model.clone());
    let larder = at_clock(larder!(&hub), &liar, "22:59:30");
    let daemon = larder.serve();
    let id = ask(&daemon, &model, json!({"window": "22:00-23:00 UTC", "bandwidth": 400_000}));
    let job = wait_shut_out(&daemon, &id);
    assert_eq!((&job["state"], &job["attempts"]), (&json!("waiting"), &json!(0)), "{job}");
    let kept = job["bytes_fetched"].as_u64().expect("known");
    // At most half a minute at the rate of the window, and what was read ahead.
    assert!(kept > 100_000 && kept < 16_000_000, "{job}");
    // Somebody who wants it at once gets it, from the bytes that are there.
    let again = ask(&daemon, &model, json!({"requested_by": "pod-1"}));
    assert_eq!(again, id);
    let job = daemon.wait_job(&id, SOON);
    assert_eq!(job["state"], "ready", "{job}");
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(&model);
    let sent = hub.bytes_sent(model.id());
    assert!(sent < model.bytes() + kept / 2 + (3 << 20), "{sent} bytes for {}", model.bytes());
}

#[test]
fn outside_the_window_all_jobs_share_the_lower_rate() {
    let Some(liar) = liar() else { return };
    let hub = Hub::start();
    let both = [models::huge(3, 6_000_000), models::huge(4, 6_000_000)];
    both.iter().for_each(|model| drop(hub.add(model.clone())));
    let larder = at_clock(larder!(&hub), &liar, "12:00:00");
    let mut daemon = larder.serve();
    let hours = json!({"window": "22:00-06:00 UTC", "bandwidth_outside": 200_000});
    let ids = both.each_ref().map(|model| ask(&daemon, model, hours.clone()));
    let fetched = |id: &String| {
        let job = daemon.get(&format!("/v1/jobs/{id}")).expect(200);
        assert_eq!(job["reason"], Value::Null, "{job}");
        job["bytes_fetched"].as_u64().expect("known")
    };
    let begun = Instant::now();
    while ids.iter().any(|id| fetched(id) == 0) {
        assert!(begun.elapsed() < SOON, "nothing comes");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (before, since) = (ids.iter().map(fetched).sum::<u64>(), Instant::now());
    // Long enough that two rates would be more than one and what the connections have read ahead, which counts late.
    std::thread::sleep(Duration::from_secs(8));
    let came = ids.iter().map(fetched).sum::<u64>() - before;
    let most = 200_000.0 * since.elapsed().as_secs_f64() + 1_000_000.0;
    #[allow(clippy::cast_precision_loss)] // megabytes
    let came = came as f64;
    assert!(came < most, "{came} bytes of both, {most} at most");
    for id in &ids {
        daemon.request("DELETE", &format!("/v1/jobs/{id}"), None).expect(202);
        daemon.wait_job(id, SOON);
    }
    daemon.allow(Tripwire::Partials);
}

/// A manifest in a file of its own.
fn manifest(larder: &Larder, name: &str, text: &str) -> String {
    let path: PathBuf = larder.root().join(name);
    std::fs::write(&path, text).expect("writes");
    path.to_str().expect("UTF-8").to_owned()
}

const TOMORROW: &str = "zone = \"UTC\"\ndeadline = \"06:30\"\n";

#[test]
fn a_night_is_planned_for_this_host_and_nothing_is_done() {
    let hub = Hub::start();
    let both = [models::huge(5, 300_000), models::huge(6, 400_000)];
    both.iter().for_each(|model| drop(hub.add(model.clone())));
    let larder = larder!(&hub);
    larder.run(&["stage", both[0].id()]).expect_code(0);
    let text = format!(
        "{TOMORROW}[[models]]\nmodel = \"{}\"\n[[models]]\nmodel = \"{}\"\npriority = 5\n[[models]]\nmodel = \"no/body\"\n",
        both[0].id(),
        both[1].id()
    );
    let path = manifest(&larder, "night.toml", &text);
    // The third is not there, so not all of it can be.
    let plan = larder.run(&["warm", &path, "--dry-run", "--json"]).expect_code(4).json();
    assert_eq!(plan["finishes"], "will_not", "{plan:#}");
    let night = &plan["hosts"][0];
    assert_eq!(night["present"][0]["model"], format!("{}@main", both[0].id()));
    assert_eq!(night["present"][0]["bytes"], json!(both[0].bytes()));
    assert_eq!(night["fetch"][0]["model"], format!("{}@main", both[1].id()));
    assert_eq!(night["fetch"][0]["bytes"], json!(both[1].bytes()));
    assert!(night["fetch"][0]["ends_at_earliest"].is_string(), "{plan:#}");
    assert_eq!(
        (&plan["dropped"][0]["model"], &plan["dropped"][0]["reason"]),
        (&json!("no/body@main"), &json!("unfit"))
    );
    assert_eq!(plan["jobs"], json!([]), "nothing is asked for of a manifest that refuses");

    let warned = manifest(&larder, "warned.toml", &format!("impossible = \"warn\"\n{text}"));
    let plan = larder.run(&["warm", &warned, "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(plan["jobs"].as_array().map(Vec::len), Some(2));
    let shown = larder.run(&["warm", &warned, "--dry-run"]).expect_code(0).stdout;
    for part in ["there", "fetch", "drop no/body@main", "of the manifest will not be there by"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    assert!(Snapshot::read(larder.cache(), both[1].id(), "main").is_none(), "nothing is staged");
    let nobody = larder.run(&["warm", &warned]).expect_code(75);
    assert!(nobody.stderr.contains("larder serve"), "{}", nobody.stderr);
}

#[test]
fn a_night_is_asked_for_and_reported() {
    let hub = Hub::start();
    let both = [models::huge(7, 300_000), models::huge(8, 400_000)];
    both.iter().for_each(|model| drop(hub.add(model.clone())));
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let text =
        format!("models:\n  - {}\n  - {{model: {}, pin: true, lease_ttl: 2h}}\n", both[0].id(), both[1].id());
    let path = manifest(&larder, "night.yaml", &text);
    let asked = larder.run(&["warm", &path, "--json"]).expect_code(0).json();
    let jobs = asked["jobs"].as_array().expect("jobs");
    assert_eq!(jobs.len(), 2, "{asked}");
    for job in jobs {
        let job = daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
        assert_eq!((&job["state"], &job["requested_by"]), (&json!("ready"), &json!(["warm"])), "{job}");
    }
    both.iter().for_each(|model| {
        Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    });
    let listed = larder.run(&["ls", "--json"]).expect_code(0).json();
    let of = |model: &Model| {
        listed.as_array().expect("models").iter().find(|one| one["repo"] == model.id()).cloned()
    };
    let second = of(&both[1]).expect("listed");
    assert_eq!((&second["pinned"], &second["leased"]), (&json!(true), &json!(true)), "{second}");

    // The next night it is there.
    let again = larder.run(&["warm", &path, "--json"]).expect_code(0).json();
    for job in again["jobs"].as_array().expect("jobs") {
        daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    }
    let failed =
        daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "no/body", "requested_by": "warm"}));
    let failed = failed.expect(202)["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.wait_job(&failed, SOON)["state"], "failed");

    let page = larder.root().join("night.html");
    let args = ["report", "--json", "--requested-by", "warm", "--html", page.to_str().expect("UTF-8")];
    let report = larder.run(&args).expect_code(0).json();
    let count = |part: &str| report[part].as_array().map_or(0, Vec::len);
    assert_eq!([count("done"), count("skipped"), count("failed")], [2, 2, 1], "{report:#}");
    assert_eq!(report["failed_by_reason"], json!({"not_found": 1}));
    let sources: u64 =
        report["bytes_by_source"].as_object().expect("sources").values().filter_map(Value::as_u64).sum();
    assert_eq!(sources, both[0].bytes() + both[1].bytes(), "{report:#}");
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains(both[0].id()) && page.contains("not_found"), "{page}");
    let shown = larder.run(&["report"]).expect_code(0).stdout;
    assert!(shown.contains("not_found 1") && shown.contains("it was there"), "{shown}");
    let checked = larder.run(&["report", "--check"]).expect_code(75).stdout;
    assert!(checked.lines().skip(1).eq(shown.lines().skip(1)), "the same, with a code: {checked}");
    assert!(larder.run(&["report", "--since", "400d"]).expect_code(2).stderr.contains("31 days"));
    assert_eq!(daemon.get("/v1/report?since=0s").expect(400)["reason"], "invalid_request");
}

#[test]
fn a_bad_manifest_is_refused_with_its_line_and_nothing_is_asked_for() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let refused = |name: &str, text: &str, code: i32, part: &str| {
        let path = manifest(&larder, name, text);
        for args in [&["warm", &path][..], &["warm", &path, "--dry-run"]] {
            let output = larder.run(args).expect_code(code);
            assert!(
                output.stderr.contains(part) || output.stdout.contains(part),
                "{part}: {}",
                output.stderr
            );
        }
    };
    refused("empty.toml", "", 2, "names no model");
    refused("typo.toml", "[[models]]\nmodle = \"a/b\"\n", 2, "line 2: unknown key `modle`");
    refused("zone.yml", "windows: [\"22:00-06:00\"]\nmodels: [a/b]\n", 2, "has no time zone");
    refused("short.toml", "[[models]]\nmodel = \"gtp2\"\n", 2, "gpt2");
    let past = "deadline = \"2020-01-01T00:00:00Z\"\n[[models]]\nmodel = \"a/b\"\n";
    refused("past.toml", past, 4, "will not be there by");
    let begun = Instant::now();
    let long: String = (0..100_000).map(|n| format!("- a/b{n}\n")).collect();
    refused("long.yaml", &format!("models:\n{long}"), 2, "1 MiB");
    let lines: String = (0..100_000).map(|_| "#\n").collect();
    refused("lines.toml", &format!("{lines}models = 3\n"), 2, "line 100001");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    larder.run(&["warm", "/nowhere/night.toml"]).expect_code(2);
    let listed = daemon.get("/v1/jobs").expect(200);
    assert_eq!(listed["jobs"], json!([]), "nothing was asked for");
}

#[test]
fn a_schedule_asks_for_its_manifest_once() {
    let Some(liar) = liar() else { return };
    let hub = Hub::start();
    let model = models::huge(9, 200_000);
    hub.add(model.clone());
    let larder = at_clock(larder!(&hub), &liar, "00:59:30");
    let path = manifest(&larder, "night.toml", &format!("[[models]]\nmodel = \"{}\"\n", model.id()));
    let config = manifest(
        &larder,
        "larder.toml",
        &format!(
            "[[warm]]\nmanifest = \"{path}\"\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"2h\"\n"
        ),
    );
    let larder = larder.env("LARDER_CONFIG", config);
    let daemon = larder.serve();
    let jobs = |daemon: &Daemon| daemon.get("/v1/jobs").expect(200)["jobs"].as_array().expect("jobs").clone();
    assert_eq!(jobs(&daemon).len(), 0, "it is not due yet");
    daemon.wait_until("/v1/jobs", SOON, |list| list["jobs"][0]["state"] == "ready");
    drop(daemon);
    // The run is found to be due again, and its jobs are known.
    let daemon = larder.serve();
    daemon
        .wait_line(|line| line.contains("a scheduled manifest is asked for"), SOON)
        .expect("it looks again");
    assert_eq!(jobs(&daemon).len(), 1);
}

#[test]
fn a_schedule_of_a_fleet_is_asked_for_by_one_host() {
    let Some(liar) = liar() else { return };
    let (redis, hub) = (Redis::start(), Hub::start());
    let (shared, own) = (models::huge(9, 200_000), models::huge(10, 100_000));
    [&shared, &own].into_iter().for_each(|model| drop(hub.add(model.clone())));
    let text = format!(
        "[[models]]\nmodel = \"{}\"\nhosts = \"all\"\n[[models]]\nmodel = \"{}\"\n",
        shared.id(),
        own.id()
    );
    // The same words on every host, as a fleet's configuration has them.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("night.toml");
    std::fs::write(&path, text).expect("written");
    let config = folder.path().join("larder.toml");
    let section =
        format!("[[warm]]\nmanifest = {path:?}\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"2h\"\n");
    std::fs::write(&config, section).expect("written");
    let at = |name: &str| {
        at_clock(machine(name, &redis.url(), &hub), &liar, "00:59:15").env("LARDER_CONFIG", &config)
    };
    let machines = ["gpu-1", "gpu-2", "gpu-3"].map(at);
    let daemons: Vec<_> = machines.iter().map(Larder::serve).collect();
    let are_up = |list: &Value| {
        let hosts = list["hosts"].as_array().expect("a list");
        hosts.len() == 3 && hosts.iter().all(|host| host["about"].is_object())
    };
    daemons[0].wait_until("/v1/hosts", SOON, are_up);
    assert_eq!(daemons[0].get("/v1/jobs").expect(200)["jobs"], json!([]), "it is not due yet");

    // The model for all of them on each, and the one for whoever reads it too: six jobs in all, and no seventh.
    let all_there = |list: &Value| {
        let jobs = list["jobs"].as_array().expect("a list");
        jobs.len() == 6 && jobs.iter().all(|job| job["state"] == "ready")
    };
    let list = daemons[0].wait_until("/v1/jobs", 2 * SOON, all_there);
    let of = |model: &Model| {
        let jobs = list["jobs"].as_array().expect("a list").iter();
        let jobs = jobs.filter(|job| job["repo"] == model.id());
        jobs.map(|job| job["hosts"].to_string()).collect::<BTreeSet<_>>()
    };
    let hosts = BTreeSet::from(["gpu-1", "gpu-2", "gpu-3"].map(|name| json!([name]).to_string()));
    assert_eq!((of(&shared), of(&own)), (hosts.clone(), hosts));
    // One host asked for the fleet's three, and each for its own one.
    let lines = daemons.iter().flat_map(Daemon::logs);
    let asked = lines.filter(|line| line.contains("a scheduled manifest is asked for"));
    let number = |line: String| serde_json::from_str::<Value>(&line).expect("JSON")["jobs"].as_u64();
    let mut numbers: Vec<_> = asked.map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(1), Some(1), Some(1), Some(3)]);
    // Each tells of what it asked for, so the sum is the night.
    let is_over = |text: &str| tally::states(text).keys().eq(["done"]);
    let done = daemons.iter().map(|daemon| tally::states(&scrape_until(daemon, is_over))["done"]);
    assert_eq!(done.sum::<u64>(), 6);
}

#[test]
fn a_night_knows_what_the_fleet_may_take_together() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = models::huge(9, 8 << 20);
    hub.add(model.clone());
    let larder = machine("gpu-1", &redis.url(), &hub);
    let _daemon = larder.serve();
    let deadline = Timestamp::now() + Duration::from_secs(3_600);
    let text =
        format!("deadline = \"{deadline}\"\n[[models]]\nmodel = \"{}\"\nhosts = \"pool\"\n", model.id());
    let path = manifest(&larder, "night.toml", &text);
    let finishes = |code| {
        larder.run(&["warm", &path, "--dry-run", "--json"]).expect_code(code).json()["finishes"].clone()
    };
    assert_ne!(finishes(0), "will_not");
    larder.run(&["limit", "--fleet", "1kB"]).expect_code(0);
    assert_eq!(finishes(4), "will_not", "8 MiB take more than two hours");
}

#[path = "../../examples/night/mod.rs"]
mod night;

#[test]
fn nights_of_fifty_hosts_keep_to_the_window_and_the_line_and_bring_what_can_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("night.svg");
    for seed in ["20261024", "1", "2"] {
        let arguments = [picture.display().to_string(), seed.to_owned()];
        assert_eq!(night::run(arguments), std::process::ExitCode::SUCCESS, "{seed}");
    }
    let svg = std::fs::read_to_string(&picture).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("gpu-50"), "{}", &svg[..200.min(svg.len())]);
}
