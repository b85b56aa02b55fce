//! What became of the runs of schedules, as the report and `/metrics` tell it: of those that asked for nothing, too.

use std::path::Path;

use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, Redis, Tripwire, larder, models};

use super::tally::{refusing, scheduled};
use super::{SOON, manifest};
use crate::fleet::machine;
use crate::metrics::{scrape_until, sum};

/// The runs that the report tells of, when there are some.
fn runs(daemon: &Daemon) -> Vec<Value> {
    let some = |report: &Value| report["runs"].as_array().is_some_and(|runs| !runs.is_empty());
    daemon.wait_until("/v1/report", SOON, some)["runs"].as_array().expect("runs").clone()
}

/// How often the log says that a scheduled manifest could not be asked for.
fn complaints(daemon: &Daemon) -> usize {
    let said = |line: &&String| line.contains("a scheduled manifest") && line.contains("asked for");
    daemon.logs().iter().filter(said).filter(|line| !line.contains("is asked for")).count()
}

fn failed(daemon: &Daemon, value: f64) {
    scrape_until(daemon, |text| sum(text, "larder_warm_run_failed", &[]) == Some(value));
}

#[test]
fn a_night_without_a_manifest_is_told_in_the_morning() {
    let hub = Hub::start();
    let model = models::huge(31, 200_000);
    hub.add(model.clone());
    let larder = larder!(&hub);
    let path = manifest(&larder, "night.toml", "[[models]]\nmodle = \"a/b\"\n");
    let config = scheduled(&larder, &path);
    let larder = larder.env("LARDER_CONFIG", config);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let broken = runs(&daemon);
    assert_eq!(broken.len(), 1, "{broken:#?}");
    assert_eq!((&broken[0]["manifest"], &broken[0]["outcome"]), (&json!(path), &json!("failed")));
    assert_eq!(broken[0]["reason"], "invalid_request", "{broken:#?}");
    assert!(broken[0]["message"].as_str().is_some_and(|why| why.contains("line 2: unknown key `modle`")));
    assert_eq!(complaints(&daemon), 1, "said once: {:?}", daemon.logs());
    failed(&daemon, 1.0);
    let page = larder.root().join("night.html");
    let args = ["report", "--check", "--html", page.to_str().expect("UTF-8")];
    let shown = larder.run(&args).expect_code(75).stdout;
    for part in [path.as_str(), "failed", "unknown key `modle`", "no download was asked for"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    assert!(!shown.contains("MODELS"), "no head of an empty table:\n{shown}");
    assert!(std::fs::read_to_string(page).expect("a page").contains("unknown key `modle`"));
    larder.run(&["report", "--check", "--requested-by", "pod-7"]).expect_code(0);
    drop(daemon);

    // It is remembered, and may be mounted late: then it is tried on.
    larder.run(&["report", "--check"]).expect_code(75);
    std::fs::remove_file(&path).expect("removed");
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let missing = daemon.wait_until("/v1/report", SOON, |report| report["runs"][0]["outcome"] == "trying");
    assert_eq!(
        (&missing["runs"][0]["reason"], missing["runs"].as_array().map(Vec::len)),
        (&json!("io_error"), Some(1))
    );
    assert_eq!(complaints(&daemon), 1, "{:?}", daemon.logs());
    failed(&daemon, 1.0);
    larder.run(&["report", "--check"]).expect_code(75);
    drop(daemon);

    manifest(&larder, "night.toml", &format!("models = [\"{}\"]\n", model.id()));
    let daemon = larder.serve();
    let good = daemon.wait_until("/v1/report", SOON, |report| report["runs"][0]["outcome"] == "asked");
    assert_eq!((&good["runs"][0]["jobs"], &good["runs"][0]["dropped"]), (&json!(1), &json!([])));
    failed(&daemon, 0.0);
    daemon.wait_until("/v1/jobs", SOON, |list| list["jobs"][0]["state"] == "ready");
    let shown = larder.run(&["report", "--check"]).expect_code(0).stdout;
    assert!(shown.contains("asked") && shown.contains("1 job"), "{shown}");
    let asked = larder.run(&["warm", &path]).expect_code(0).stderr;
    assert!(asked.contains("1 job is accepted"), "{asked}");
}

#[test]
fn what_a_plan_leaves_out_is_told_in_the_morning() {
    let hub = Hub::start();
    let (larder, text) = refusing(&hub, 32);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let refused = runs(&daemon);
    assert_eq!((&refused[0]["outcome"], &refused[0]["jobs"]), (&json!("refused"), &json!(0)), "{refused:#?}");
    let dropped = refused[0]["dropped"].as_array().expect("a list");
    assert_eq!((dropped.len(), &dropped[0]["model"]), (1, &json!("no/body@main")), "{refused:#?}");
    assert_eq!(dropped[0]["reason"], "unfit", "{refused:#?}");
    failed(&daemon, 1.0);
    larder.run(&["report", "--check"]).expect_code(75);
    drop(daemon);

    manifest(&larder, "night.toml", &format!("impossible = \"warn\"\n{text}"));
    let daemon = larder.serve();
    let warned = daemon.wait_until("/v1/report", SOON, |report| report["runs"][0]["outcome"] == "asked");
    assert_eq!(
        (&warned["runs"][0]["jobs"], &warned["runs"][0]["dropped"][0]["model"]),
        (&json!(1), &json!("no/body@main"))
    );
    failed(&daemon, 0.0);
    daemon.wait_until("/v1/jobs", SOON, |list| list["jobs"][0]["state"] == "ready");
    let shown = larder.run(&["report", "--check"]).expect_code(75).stdout;
    assert!(shown.contains("1 job; 1 model not asked for") && shown.contains("no/body@main"), "{shown}");
}

/// Two hosts of a fleet, each with a manifest of its own for one schedule.
fn two(redis: &Redis, hub: &Hub, folder: &Path, texts: [&str; 2]) -> [Larder; 2] {
    // The path is the same on every host of a fleet, and the text should be: here each has a folder.
    [0, 1].map(|n| {
        let larder = machine(["gpu-1", "gpu-2"][n], &redis.url(), hub);
        let own = folder.join(n.to_string());
        std::fs::create_dir(&own).expect("a folder");
        let (path, config) = (own.join("night.toml"), own.join("larder.toml"));
        std::fs::write(&path, texts[n]).expect("written");
        let section = format!(
            "[[warm]]\nmanifest = {path:?}\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"24h\"\n"
        );
        std::fs::write(&config, section).expect("written");
        larder.env("LARDER_CONFIG", config)
    })
}

#[test]
fn a_manifest_of_a_fleet_is_refused_as_a_whole() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let (own, shared) = (models::huge(33, 100_000), models::huge(34, 100_000));
    [&own, &shared].into_iter().for_each(|model| drop(hub.add(model.clone())));
    let text = format!(
        "[[models]]\nmodel = \"{}\"\n[[models]]\nmodel = \"{}\"\nhosts = [\"nobody\"]\n",
        own.id(),
        shared.id()
    );
    let folder = tempfile::tempdir().expect("a folder");
    let machines = two(&redis, &hub, folder.path(), [&text, &text]);
    let mut daemons = machines.each_ref().map(Larder::serve);
    for daemon in &mut daemons {
        daemon.allow(Tripwire::Errors);
        let refused = |report: &Value| report["runs"][0]["outcome"] == "refused";
        let run = daemon.wait_until("/v1/report", 3 * SOON, refused)["runs"][0].clone();
        assert_eq!((&run["jobs"], &run["dropped"][0]["reason"]), (&json!(0), &json!("refused")), "{run:#}");
    }
    assert_eq!(daemons[0].get("/v1/jobs").expect(200)["jobs"], json!([]), "not the hosts' own part either");
}

#[test]
fn two_hosts_whose_manifests_differ_by_a_comment_have_one_run() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = models::huge(35, 100_000);
    hub.add(model.clone());
    let text = format!("[[models]]\nmodel = \"{}\"\nhosts = \"pool\"\n", model.id());
    let folder = tempfile::tempdir().expect("a folder");
    let commented = format!("# of gpu-2\n\n{text}");
    let machines = two(&redis, &hub, folder.path(), [&text, &commented]);
    let daemons = machines.each_ref().map(Larder::serve);
    let outcomes = daemons.each_ref().map(|daemon| runs(daemon)[0]["outcome"].clone());
    let is_one = outcomes.iter().filter(|one| **one == "asked").count() == 1;
    assert!(is_one && outcomes.contains(&json!("elsewhere")), "{outcomes:?}");
    let lines = daemons.iter().flat_map(Daemon::logs);
    assert_eq!(lines.filter(|line| line.contains("a scheduled manifest is asked for")).count(), 1);
    // The jobs are those of both.
    let is_done = |report: &Value| report["done"].as_array().is_some_and(|rows| rows.len() == 1);
    for (machine, daemon) in machines.iter().zip(&daemons) {
        let report = daemon.wait_until("/v1/report", SOON, is_done);
        assert_eq!(report["is_fleet"], true);
        let shown = machine.run(&["report", "--check"]).expect_code(0).stdout;
        assert!(shown.starts_with("what the hosts of the fleet did"), "{shown}");
    }
}
