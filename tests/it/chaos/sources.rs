//! Sources that break off, ignore what was asked, refuse it, or send wrong bytes.

use std::time::{Duration, Instant};

use support::{Content, Fault, FaultKind, Host};

use super::{PATIENCE, WEIGHTS, assert_hit, assert_there, house, number, refused, short_or_long, staged};

const MB: u64 = 1_000_000;

#[test]
fn a_fifth_of_the_answers_is_cut_anywhere_and_next_to_nothing_is_fetched_again() {
    let (hub, larder, model) = house(900, short_or_long(32 * MB, 600 * MB));
    let larder = larder.env("LARDER__HUB__RANGE", "256KiB");
    hub.fault(Fault::on(model.id()).host(Host::Cdn).cut_anywhere().share(20, 1).always());
    hub.fault(Fault::on("/resolve/").host(Host::Hub).cut_anywhere().share(20, 2).always());
    let job = staged(&larder, &model);
    let requests = hub.requests();
    let cuts = requests.iter().filter(|request| request.content && !request.fault.is_empty()).count() as u64;
    let again = hub.bytes_of(model.id()) - model.bytes();
    println!("{cuts} of {} answers were cut, {again} bytes of {} came again", requests.len(), model.bytes());
    assert!(cuts * 256 * 1024 * 20 >= model.bytes(), "only {cuts} answers were cut");
    assert_eq!(job["attempts"], 1, "the transfer heals itself: {job}");
    // Whoever asks for all of a range that was cut fetches a tenth of the model again.
    assert!(again <= model.bytes() / 20, "{again} bytes of {} came again for {cuts} cuts", model.bytes());
    assert!(number(&job, "bytes_fetched") <= model.bytes() + again, "{job}");
}

#[test]
fn a_mirror_that_ignores_ranges_sends_the_file_once_and_once_more_when_it_breaks() {
    let (hub, larder, model) = house(901, 24 * MB);
    let size = model.at(WEIGHTS).size;
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::IgnoreRange).always());
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    let fetched = number(&job, "bytes_fetched");
    assert!(fetched <= model.bytes() + MB, "{fetched} bytes came, the model has {}: {job}", model.bytes());

    let (hub, larder, model) = house(902, 24 * MB);
    hub.throttle(Some(12 << 20));
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).kind(FaultKind::IgnoreRange).always());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let half = |request: &support::Request| request.content && request.bytes_sent > size / 2;
            assert!(hub.wait_for(|requests| requests.iter().any(half), PATIENCE), "half of it was sent");
            hub.reset_connections();
        });
        let job = staged(&larder, &model);
        let fetched = number(&job, "bytes_fetched");
        assert!(fetched <= model.bytes() + size, "{fetched} bytes came for one break: {job}");
    });
}

#[test]
fn an_edge_that_answers_400_without_a_range_never_gets_to_do_so() {
    let (hub, larder, model) = house(903, 9 * MB);
    let model = model.lfs("empty.bin.json", Content::from("")).lfs("one.json", Content::from("1"));
    hub.update(model.clone());
    hub.fault(Fault::on("").host(Host::Cdn).kind(FaultKind::RangelessRefused).always());
    staged(&larder, &model);
    let hits = hub.requests().iter().filter(|request| !request.fault.is_empty()).count();
    assert_eq!(hits, 0, "every request for bytes on the CDN has its range");
}

#[test]
fn a_range_that_is_refused_once_is_asked_for_again_and_one_that_always_is_has_its_reason() {
    let (hub, larder, model) = house(904, 9 * MB);
    hub.fault(Fault::on(WEIGHTS).kind(FaultKind::Unsatisfiable).times(1));
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    let fetched = number(&job, "bytes_fetched");
    assert!(fetched <= model.bytes() + MB, "what came before was kept: {job}");

    let (hub, larder, model) = house(905, 9 * MB);
    let larder = larder.env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    hub.fault(Fault::on(WEIGHTS).kind(FaultKind::Unsatisfiable).always());
    let job = refused(&larder, &model, 75, "source_unavailable");
    assert!(job["message"].as_str().is_some_and(|text| text.contains(WEIGHTS)), "{job}");
}

#[test]
fn a_cdn_that_has_too_many_requests_is_left_alone_for_as_long_as_it_says() {
    let (hub, larder, model) = house(906, 9 * MB);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).retry_after(429, "2").times(1));
    let begun = Instant::now();
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    assert!(begun.elapsed() >= Duration::from_secs(2), "it came back after {:?}", begun.elapsed());
    assert_eq!(job["bytes_fetched"], model.bytes(), "{job}");
}

#[test]
fn one_range_that_came_wrong_once_does_not_cost_the_whole_file_again() {
    let (hub, larder, model) = house(907, 40 * MB);
    let size = model.at(WEIGHTS).size;
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).wrong_range(15 * MB..15 * MB + 4096));
    let job = staged(&larder, &model);
    assert_hit(&hub, 1);
    assert_eq!(job["attempts"], 1, "{job}");
    let fetched = number(&job, "bytes_fetched");
    assert!(fetched < model.bytes() + size, "{fetched} bytes came for {}: {job}", model.bytes());
}

#[test]
fn a_range_that_always_comes_wrong_ends_as_a_mismatch_within_bounds() {
    let (hub, larder, model) = house(908, 20 * MB);
    hub.fault(Fault::on(WEIGHTS).host(Host::Cdn).wrong_range(9 * MB..9 * MB + 4096).always());
    let job = refused(&larder, &model, 1, "integrity_mismatch");
    let (fetched, most) = (number(&job, "bytes_fetched"), model.bytes() + 2 * model.at(WEIGHTS).size);
    assert!(fetched <= most, "{fetched} bytes came, {most} at most: {job}");
    hub.clear_faults();
    staged(&larder, &model);
    assert_there(&larder, &model);
}
