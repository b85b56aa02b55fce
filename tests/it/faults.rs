//! A hub and a network that misbehave: each fault ends in a verified model or in its reason, and never in a wrong byte.

mod disk;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::cache::{Snapshot, assert_clean, partials, published_early};
use support::{Fault, FaultKind, Host, Hub, Larder, Model, larder, models};

const WEIGHTS: &str = "model.safetensors";

/// A hub with a model of one weight file of 6 MB, and a host that notices a stall after a second.
fn house(seed: u64) -> (Hub, Larder, Model) {
    let (hub, model) = (Hub::start(), models::huge(seed, 6_000_000));
    hub.add(model.clone());
    let larder = larder!(&hub)
        .env("LARDER__HUB__STALL_TIMEOUT", "1s")
        .env("LARDER__QUEUE__BACKOFF_MIN", "100ms")
        .env("LARDER__QUEUE__BACKOFF_MAX", "1s");
    (hub, larder, model)
}

/// Stages, and looks at what came of it with a reader that shares nothing with larder.
#[track_caller]
pub(crate) fn staged(larder: &Larder, model: &Model) -> Value {
    let job = larder.run(&["stage", model.id(), "--json"]).expect_code(0).json();
    assert_eq!(job["state"], "ready", "{job}");
    Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
    assert_clean(larder.cache());
    job
}

/// Stages in vain; returns the job with the reason.
#[track_caller]
pub(crate) fn refused(larder: &Larder, model: &Model, code: i32, reason: &str) -> Value {
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(code);
    let job = output.json();
    assert_eq!(job["reason"], reason, "{job}");
    assert!(output.stderr.contains("hint: "), "{}", output.stderr);
    assert_not_visible(larder, model);
    job
}

#[track_caller]
pub(crate) fn assert_not_visible(larder: &Larder, model: &Model) {
    assert!(Snapshot::read(larder.cache(), model.id(), "main").is_none(), "a snapshot is there");
    assert!(published_early(larder.cache()).is_empty());
}

/// The fault hit somebody; else the test would prove nothing.
#[track_caller]
pub(crate) fn assert_hit(hub: &Hub, times: usize) {
    let hits = hub.requests().iter().filter(|request| !request.fault.is_empty()).count();
    assert!(hits >= times, "the fault hit {hits} times, not {times}");
}

#[test]
fn connections_that_break_go_on_where_they_were() {
    for (seed, fault) in [
        (300, Fault::on(WEIGHTS).host(Host::Cdn).cut(700_000).times(5)),
        (301, Fault::on(WEIGHTS).host(Host::Cdn).reset(700_000).times(5)),
        (302, Fault::on(WEIGHTS).host(Host::Cdn).cut(0).times(5)),
    ] {
        let (hub, larder, model) = house(seed);
        hub.fault(fault);
        let job = staged(&larder, &model);
        assert_hit(&hub, 5);
        assert_eq!(job["attempts"], 1, "the transfer heals itself: {job}");
        let again = hub.bytes_of(model.id()) - model.bytes();
        // What a reset took out of the socket buffers is fetched anew.
        assert!(again <= 5 * 700_000, "{again} bytes were fetched again");
    }
}

#[test]
fn a_listing_that_breaks_is_asked_for_again() {
    let (hub, larder, model) = house(303);
    hub.page_size(1);
    hub.fault(Fault::on("/tree/").cut(10).times(1));
    hub.fault(Fault::on("/tree/").status(503).times(1));
    hub.fault(Fault::on("/revision/").status(500).times(1));
    staged(&larder, &model);
    assert_hit(&hub, 3);
}

#[test]
fn a_connection_that_stalls_is_given_up_and_the_bytes_come_over_another() {
    let (hub, larder, model) = house(304);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).stall(500_000).times(2));
    staged(&larder, &model);
    assert_hit(&hub, 2);
}

#[test]
fn stalls_without_end_are_called_by_their_name() {
    let (hub, larder, model) = house(305);
    let larder = larder.env("LARDER__QUEUE__MAX_ATTEMPTS", "1").env("LARDER__HUB__STALL_TIMEOUT", "200ms");
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).stall(0).always());
    refused(&larder, &model, 75, "stalled");
    hub.clear_faults();
    hub.release();
    staged(&larder, &model);
}

#[test]
fn wrong_bytes_once_are_found_and_replaced() {
    let (hub, larder, model) = house(306);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).wrong_bytes(3_000_000));
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    assert_eq!(job["attempts"], 1);
    let weights = model.at(WEIGHTS).size;
    let fetched = job["bytes_fetched"].as_u64().expect("known");
    assert!(fetched < model.bytes() + weights, "the search ends at the wrong piece: {job}");
}

#[test]
fn wrong_bytes_always_are_a_mismatch_and_nothing_of_them_stays() {
    for (seed, wrong) in [(307, WEIGHTS), (308, "config.json")] {
        let (hub, larder, model) = house(seed);
        hub.fault(Fault::on(wrong).kind(FaultKind::WrongBytes { at: 1 }).method("GET").always());
        let job = refused(&larder, &model, 1, "integrity_mismatch");
        assert_eq!(
            (&job["state"], &job["attempts"]),
            (&"failed".into(), &1.into()),
            "two tries, no third: {job}"
        );
        assert!(job["message"].as_str().is_some_and(|text| text.contains(wrong)), "{job}");
        let left = partials(larder.cache());
        let digest = model.at(wrong).etag();
        assert!(
            left.iter().all(|path| !path.display().to_string().contains(digest)),
            "wrong bytes stay: {left:?}"
        );

        hub.clear_faults();
        staged(&larder, &model);
    }
}

#[test]
fn bodies_that_are_too_short_are_asked_for_again() {
    let (hub, larder, model) = house(309);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::ShortBody { missing: 1000 }).times(3));
    hub.fault(Fault::on("config.json").kind(FaultKind::ShortBody { missing: 3 }).method("GET").times(1));
    staged(&larder, &model);
    assert_hit(&hub, 4);
}

#[test]
fn a_listing_that_lies_about_the_length_is_not_believed() {
    let (hub, larder, model) = house(310);
    let larder = larder.env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    hub.fault(Fault::on(WEIGHTS).kind(FaultKind::LyingLength { extra: 100_000 }).always());
    let job = refused(&larder, &model, 75, "source_unavailable");
    assert!(job["message"].as_str().is_some_and(|text| text.contains(WEIGHTS)), "{job}");
    hub.clear_faults();
    staged(&larder, &model);
}

#[test]
fn sources_that_ignore_ranges_or_answer_others_do_no_harm() {
    let (hub, larder, model) = house(311);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::IgnoreRange).always());
    staged(&larder, &model);
    assert_hit(&hub, 1);

    let (hub, larder, model) = house(312);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::WrongContentRange).times(3));
    let job = staged(&larder, &model);
    assert_hit(&hub, 3);
    assert_eq!(job["bytes_fetched"], model.bytes(), "not a byte of those answers was taken");

    let (hub, larder, model) = house(313);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::Html).times(2));
    staged(&larder, &model);
    assert_hit(&hub, 2);
}

#[test]
fn a_source_that_asks_to_wait_is_obeyed() {
    for (seed, fault) in [
        (314, Fault::on("/api/models/").retry_after(429, "2")),
        (315, Fault::on(WEIGHTS).host(Host::Hub).retry_after(429, "2")),
        (316, Fault::on(WEIGHTS).host(Host::Cdn).retry_after(503, "2")),
    ] {
        let (hub, larder, model) = house(seed);
        let what = fault.clone();
        hub.fault(fault);
        let begun = Instant::now();
        staged(&larder, &model);
        assert_hit(&hub, 1);
        assert!(
            begun.elapsed() >= Duration::from_secs(2),
            "{what:?}: it came back after {:?}",
            begun.elapsed()
        );
    }
    let (hub, larder, model) = house(317);
    let larder = larder.env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    hub.fault(Fault::on("/api/models/").status(429).always());
    refused(&larder, &model, 75, "rate_limited");
}

#[test]
fn a_source_that_is_down_for_a_moment_is_tried_again() {
    let (hub, larder, model) = house(318);
    hub.fault(Fault::on("/revision/").status(503).times(2));
    hub.fault(Fault::on(WEIGHTS).host(Host::Hub).status(502).times(2));
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).status(503).times(2));
    staged(&larder, &model);
    assert_hit(&hub, 6);
}

#[test]
fn signed_addresses_that_expire_are_asked_for_anew() {
    let (hub, larder, model) = house(319);
    let larder = larder.env("LARDER__HUB__CONNECTIONS", "1").env("LARDER__HUB__RANGE", "1MiB");
    hub.url_lifetime(Duration::from_millis(300));
    hub.throttle(Some(4 << 20));
    let job = staged(&larder, &model);
    let expired = hub.requests_for("/blob/").iter().filter(|request| request.status == 403).count();
    assert!(expired >= 2, "addresses expired {expired} times");
    assert_eq!((&job["attempts"], &job["bytes_fetched"]), (&1.into(), &model.bytes().into()), "{job}");
}

#[test]
fn answers_for_another_commit_are_refused() {
    let (hub, larder, model) = house(320);
    hub.fault(Fault::on(WEIGHTS).kind(FaultKind::ChangedCommit).times(1));
    staged(&larder, &model);
    assert_hit(&hub, 1);

    let (hub, larder, model) = house(321);
    let larder = larder.env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    hub.fault(Fault::on(WEIGHTS).kind(FaultKind::ChangedCommit).always());
    let job = refused(&larder, &model, 75, "source_unavailable");
    assert!(job["message"].as_str().is_some_and(|text| text.contains("another commit")), "{job}");
}

#[test]
fn a_branch_that_moves_in_mid_transfer_changes_nothing_for_this_job() {
    let (hub, larder, old) = house(322);
    let new = old
        .clone()
        .file("config.json", "{\"new\": true}\n")
        .lfs(WEIGHTS, support::Content::pattern(50_000, 1));
    hub.update_after("/tree/", new.clone());
    let job = staged(&larder, &old);
    assert_eq!(job["commit"], old.commit(), "all files are of the commit that the job began with");
    let next = larder.run(&["stage", new.id(), "--json"]).expect_code(0).json();
    assert_eq!(next["commit"], new.commit());
}

#[test]
fn what_is_no_hub_is_said_to_be_none() {
    let hub = Hub::not_a_hub();
    let model = models::tiny_gpt2(323, 10_000);
    let larder = larder!(&hub).env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    let job = refused(&larder, &model, 75, "source_unavailable");
    assert!(job["message"].as_str().is_some_and(|text| text.contains("not answer like a hub")), "{job}");
}

#[test]
fn a_model_that_is_not_there_is_not_found() {
    let (hub, larder, model) = house(324);
    let unknown = models::tiny_gpt2(325, 10_000);
    refused(&larder, &unknown, 3, "not_found");
    let output = larder.run(&["stage", &format!("{}@v99", model.id()), "--json"]).expect_code(3);
    assert_eq!(output.json()["reason"], "not_found");
    assert!(hub.requests().iter().all(|request| !request.content), "no byte was fetched");
}
