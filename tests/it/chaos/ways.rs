//! The way to the hub: names that resolve to nothing or to too much, and proxies that the environment names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{ForwardProxy, Front, Hub, Larder, Model, Speaks, larder, models};

use super::{assert_not_visible, staged};

/// A hub with a small model, one file of which comes from the CDN.
fn hub(seed: u64) -> (Hub, Model) {
    let (hub, model) = (Hub::start(), models::huge(seed, 200_000));
    hub.add(model.clone());
    (hub, model)
}

#[test]
fn a_name_that_does_not_resolve_is_said_to_be_one_within_patience() {
    let (hub, model) = hub(930);
    let larder = larder!(&hub).env("HF_ENDPOINT", "http://does-not-exist.invalid");
    let begun = Instant::now();
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(75);
    let (took, job) = (begun.elapsed(), output.json());
    assert_eq!(job["reason"], "source_unavailable", "{job}");
    for part in ["does-not-exist.invalid", "cannot be resolved"] {
        assert!(output.stderr.contains(part), "`{part}` is missing: {}", output.stderr);
    }
    assert!(output.stderr.contains("hint: check the host's name server"), "{}", output.stderr);
    assert!(took < Duration::from_secs(25), "it kept its user waiting for {took:?}");
    assert_not_visible(&larder, &model);
    assert!(hub.requests().is_empty());
}

/// A program that runs larder where `localhost` is `::1` first and then `127.0.0.1`; none where that takes rights
/// that are not there.
fn with_two_localhosts(folder: &Path) -> Option<PathBuf> {
    let (hosts, program) = (folder.join("hosts"), folder.join("larder"));
    std::fs::write(&hosts, "::1 localhost\n127.0.0.1 localhost\n").expect("writes");
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc/hosts && exec {} \"$@\"' larder \"$@\"\n",
        hosts.display(),
        env!("CARGO_BIN_EXE_larder"),
    );
    std::fs::write(&program, script).expect("writes");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("permits");
    let works = Command::new(&program).arg("--version").output().expect("a shell");
    works.status.success().then_some(program)
}

#[test]
fn localhost_is_tried_under_both_its_addresses() {
    let (hub, model) = hub(931);
    let endpoint = hub.endpoint().replace("127.0.0.1", "localhost");
    // The hub listens on 127.0.0.1 only.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = with_two_localhosts(folder.path());
    if program.is_none() {
        println!("localhost is what this machine says: a private /etc/hosts needs root");
    }
    let binary = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_larder").into());
    let larder = Larder::new(&binary).env("HF_ENDPOINT", endpoint);
    let begun = Instant::now();
    staged(&larder, &model);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
}

#[test]
fn a_proxy_is_asked_for_everything_and_resolves_the_name() {
    let (hub, model) = hub(932);
    let there = hub.endpoint().replace("http://", "");
    for endpoint in [hub.endpoint(), "http://hub.invalid".to_owned()] {
        hub.clear_requests();
        let proxy = ForwardProxy::with_names(&[("hub.invalid:80", &there)]);
        let larder =
            larder!(&hub).env("HF_ENDPOINT", &endpoint).env("NO_PROXY", "").env("HTTP_PROXY", proxy.url());
        staged(&larder, &model);
        let seen = proxy.seen();
        assert_eq!(
            seen.len(),
            hub.requests().len(),
            "whoever asks the hub goes through the proxy: {seen:#?}"
        );
        for origin in [&endpoint, &hub.cdn()] {
            assert!(seen.iter().any(|address| address.starts_with(origin.as_str())), "{origin}: {seen:#?}");
        }
    }
}

#[test]
fn no_proxy_names_those_who_are_asked_directly() {
    let (hub, model) = hub(933);
    let proxy = ForwardProxy::start();
    for exempt in ["127.0.0.1", "example.org, 127.0.0.0/8"] {
        hub.clear_requests();
        let larder = larder!(&hub).env("NO_PROXY", exempt).env("HTTP_PROXY", proxy.url());
        staged(&larder, &model);
        assert!(proxy.seen().is_empty(), "NO_PROXY={exempt}: {:?}", proxy.seen());
    }
    let larder = larder!(&hub).env("NO_PROXY", "example.org").env("HTTP_PROXY", proxy.url());
    staged(&larder, &model);
    assert!(!proxy.seen().is_empty(), "others are not exempt");
}

#[test]
fn an_asterisk_in_no_proxy_exempts_names_and_addresses() {
    let (hub, model) = hub(935);
    let proxy = ForwardProxy::start();
    let larder = larder!(&hub).env("NO_PROXY", "*").env("HTTP_PROXY", proxy.url());
    staged(&larder, &model);
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

#[test]
fn a_proxy_that_is_not_there_is_named_in_the_hint() {
    let (hub, model) = hub(934);
    let larder = larder!(&hub)
        .env("NO_PROXY", "")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(75);
    assert_eq!(output.json()["reason"], "source_unavailable", "{}", output.stdout);
    assert!(output.stderr.contains("PROXY"), "{}", output.stderr);
    assert!(hub.requests().is_empty(), "nobody goes around the proxy");
}

#[test]
fn http_1_and_2_are_spoken_as_the_server_likes() {
    for (seed, speaks) in [(936, Speaks::Http1), (937, Speaks::Http2), (938, Speaks::Both)] {
        let (hub, model) = (Hub::start(), models::huge(seed, 12_000_000));
        hub.add(model.clone());
        let front = Front::before(&hub, speaks);
        let larder = larder!(&hub)
            .env("HF_ENDPOINT", front.endpoint())
            .env("SSL_CERT_FILE", front.ca_file())
            .env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
        let job = staged(&larder, &model);
        assert_eq!(front.seen().len(), hub.requests().len(), "{speaks:?}: nobody goes around the front");
        println!("{speaks:?}: {} requests over {} connections", front.seen().len(), front.connections());
        assert_eq!(job["bytes_fetched"], model.bytes(), "{speaks:?}: {job}");
    }
}

#[test]
fn an_authority_that_is_not_trusted_is_said_to_be_so() {
    let (hub, model) = hub(939);
    let front = Front::before(&hub, Speaks::Both);
    let larder = larder!(&hub).env("HF_ENDPOINT", front.endpoint()).env("LARDER__QUEUE__MAX_ATTEMPTS", "1");
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(75);
    assert_eq!(output.json()["reason"], "source_unavailable", "{}", output.stdout);
    assert!(output.stderr.contains("SSL_CERT_FILE"), "{}", output.stderr);
    assert!(front.seen().is_empty() && front.connections() > 0);
}
