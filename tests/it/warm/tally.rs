//! How far a scheduled manifest has come, as `/metrics` tells it: while bytes come, when it is over, after a restart, and
//! not at all without a schedule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use support::{Hub, Larder, Tripwire, larder, models};

use super::{SOON, manifest};
use crate::metrics::{documented_later, families, scrape_until, series, sum};

/// One that was due within the last day, and so is as soon as larder starts.
pub(super) fn scheduled(larder: &Larder, path: &str) -> String {
    let section = format!(
        "[[warm]]\nmanifest = \"{path}\"\nschedule = \"0 1 * * *\"\nzone = \"UTC\"\ngrace = \"24h\"\n"
    );
    manifest(larder, "larder.toml", &section)
}

/// The models of the run, by what became of them.
pub(super) fn states(text: &str) -> BTreeMap<String, u64> {
    let of = series(text).into_iter().filter(|(name, ..)| name == "larder_warm_models");
    let counted = of.map(|(_, labels, value)| (labels["state"].clone(), value as u64));
    counted.filter(|(_, count)| *count > 0).collect()
}

fn counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect()
}

#[test]
fn a_run_tells_what_was_planned_what_is_there_and_what_remains() {
    let hub = Hub::start();
    let (there, coming) = (models::huge(21, 300_000), models::huge(22, 12_000_000));
    [&there, &coming].into_iter().for_each(|model| drop(hub.add(model.clone())));
    let larder = larder!(&hub);
    larder.run(&["stage", there.id()]).expect_code(0);
    let text = format!(
        "zone = \"UTC\"\ndeadline = \"2999-01-01T00:00:00Z\"\nimpossible = \"warn\"\nmodels = [\"{}\", \"{}\", \"no/body\"]\n",
        there.id(),
        coming.id()
    );
    let path = manifest(&larder, "night.toml", &text);
    let config = scheduled(&larder, &path);
    let mut larder = larder.env("LARDER_CONFIG", &config);
    // Several scrapes, however many connections there are.
    hub.throttle(Some(150_000));
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let whole = u32::try_from(coming.bytes()).map(f64::from).expect("a small model");
    let of = |text: &str, name: &str| sum(text, &format!("larder_warm_{name}"), &[("manifest", &path)]);
    let halfway = scrape_until(&daemon, |text| {
        let (done, left) = (of(text, "done_bytes"), of(text, "remaining_bytes"));
        // What is there when it begins is neither planned nor done.
        assert!(done <= Some(whole) && left <= Some(whole), "{done:?} {left:?}");
        done > Some(0.0) && left > Some(0.0)
    });
    assert_eq!(of(&halfway, "planned_bytes"), Some(whole));
    let (done, left) = (of(&halfway, "done_bytes"), of(&halfway, "remaining_bytes"));
    assert_eq!(done.zip(left).map(|(done, left)| done + left), Some(whole), "{halfway}");
    assert_eq!(states(&halfway), counts(&[("done", 1), ("running", 1), ("dropped", 1)]));
    assert_eq!(of(&halfway, "deadline_timestamp_seconds"), Some(32_472_144_000.0));
    assert!(of(&halfway, "due_timestamp_seconds") > Some(1.7e9));
    the_document_knows_them(&halfway);

    hub.throttle(None);
    let over = counts(&[("done", 2), ("dropped", 1)]);
    let is_over = |text: &str| states(text) == over;
    let ended = scrape_until(&daemon, is_over);
    let numbers = |text: &str| ["planned_bytes", "done_bytes", "remaining_bytes"].map(|name| of(text, name));
    assert_eq!(numbers(&ended), [Some(whole), Some(whole), Some(0.0)]);

    // The run is due again, and all of it is there: what was planned at first still counts, from the first scrape on.
    drop(daemon);
    // A command that knows of no schedule forgets nothing.
    larder.set_env("LARDER_CONFIG", manifest(&larder, "other.toml", ""));
    larder.run(&["stage", there.id()]).expect_code(0);
    larder.set_env("LARDER_CONFIG", &config);
    let daemon = larder.serve();
    let first = daemon.get("/metrics").text;
    assert_eq!((numbers(&first), states(&first)), (numbers(&ended), over.clone()));
    daemon
        .wait_line(|line| line.contains("a scheduled manifest is asked for"), SOON)
        .expect("it looks again");
    let again = daemon.get("/metrics").text;
    assert_eq!((numbers(&again), states(&again)), (numbers(&ended), over));
    drop(daemon);

    std::fs::write(larder.root().join("larder.toml"), "").expect("written");
    let daemon = larder.serve();
    let text = scrape_until(&daemon, |text| text.contains("larder_queue_up 1"));
    assert!(!text.contains("larder_warm_"), "without a schedule there is no run:\n{text}");
}

/// Each with its type and labels, and no others.
fn the_document_knows_them(text: &str) {
    let ours = |families: BTreeMap<String, (String, BTreeSet<String>)>| {
        families.into_iter().filter(|(name, _)| name.starts_with("larder_warm_")).collect::<BTreeMap<_, _>>()
    };
    let told = ours(documented_later());
    assert_eq!(told.len(), 7, "{told:?}");
    assert_eq!(ours(families(text)), told);
}

/// A larder with a schedule whose manifest, which is returned, refuses the night: one of its two models is nowhere.
pub(super) fn refusing(hub: &Hub, seed: u64) -> (Larder, String) {
    let model = models::huge(seed, 200_000);
    hub.add(model.clone());
    let larder = larder!(hub);
    let text = format!("deadline = \"2999-01-01T00:00:00Z\"\nmodels = [\"{}\", \"no/body\"]\n", model.id());
    let path = manifest(&larder, "night.toml", &text);
    let config = scheduled(&larder, &path);
    (larder.env("LARDER_CONFIG", config), text)
}

#[test]
fn a_run_that_its_manifest_refuses_is_dropped_as_a_whole() {
    let hub = Hub::start();
    let (larder, _) = refusing(&hub, 23);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    let text = scrape_until(&daemon, |text| !states(text).is_empty());
    assert_eq!(states(&text), counts(&[("dropped", 2)]));
    assert_eq!(sum(&text, "larder_warm_planned_bytes", &[]), Some(0.0));
    let said =
        daemon.wait_line(|line| line.contains("a scheduled manifest is not asked for"), Duration::ZERO);
    assert!(said.is_some(), "{:?}", daemon.logs());
}
