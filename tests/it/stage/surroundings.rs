//! What the hub's own variables say about cache, endpoint and token, and where the token never goes.

use std::fs;

use support::cache::{Snapshot, assert_clean, walk};
use support::{Host, Hub, Larder, Model, Output, larder, models};

use super::{snapshot, stage};

const TOKEN: &str = "hf_geheimGeheimGeheim";

fn gated(hub: &Hub, seed: u64) -> Model {
    let model = models::sharded_gpt2(seed, 200_000, 2).gated();
    hub.add(model.clone());
    hub.grant(TOKEN, model.id());
    model
}

/// Panics if the token stands in an output or in any file that larder wrote.
fn assert_silent(larder: &Larder, outputs: &[&str]) {
    for output in outputs {
        assert!(!output.contains(TOKEN), "the token was printed:\n{output}");
    }
    let files: Vec<_> = walk(&larder.state()).into_iter().chain(walk(larder.cache())).collect();
    assert!(files.len() > 5, "there is something to look into");
    for file in files {
        // The socket of a running daemon is no file to read.
        let bytes = fs::read(&file).unwrap_or_default();
        let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        assert!(!found, "the token is in {}", file.display());
    }
}

#[test]
fn a_gated_model_needs_a_token_that_was_granted_and_the_token_stays_at_home() {
    let hub = Hub::start();
    let model = gated(&hub, 40);
    hub.allow_token("hf_somebody");
    let mut larder = larder!(&hub).env("LARDER__LOG__LEVEL", "trace").env("RUST_BACKTRACE", "1");
    let refused = larder.run(&["stage", model.id(), "--json"]).expect_code(4);
    assert_eq!(refused.json()["reason"], "gated");
    let terms = format!("{}/{}", hub.endpoint(), model.id());
    assert!(refused.stderr.contains(&terms), "where to accept them: {}", refused.stderr);

    larder.set_env("HF_TOKEN", "hf_somebody");
    assert_eq!(larder.run(&["stage", model.id(), "--json"]).expect_code(4).json()["reason"], "gated");
    larder.set_env("HF_TOKEN", "hf_unknown");
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(4);
    assert_eq!(output.json()["reason"], "unauthorized");
    assert!(Snapshot::read(larder.cache(), model.id(), "main").is_none());

    larder.set_env("HF_TOKEN", TOKEN);
    let Output { stdout, stderr, .. } = larder.run(&["stage", model.id(), "--json", "-v"]).expect_code(0);
    assert!(stderr.contains("TRACE") || stderr.contains("\"trace\""), "the log was on:\n{stderr}");
    snapshot(&larder, &model, "main").assert_is(&model);
    let shown = larder.run(&["config", "show"]).expect_code(0).stdout;
    assert_silent(&larder, &[&stdout, &stderr, &shown]);
    assert!(!hub.token_reached_cdn());
    assert!(hub.requests().iter().any(|request| request.host == Host::Cdn && request.content));
    assert_clean(larder.cache());
}

#[test]
fn a_daemon_keeps_the_token_to_itself() {
    let hub = Hub::start();
    let model = gated(&hub, 41);
    let larder = larder!(&hub).env("HF_TOKEN", TOKEN).env("LARDER__LOG__LEVEL", "trace");
    let daemon = larder.serve();
    let job = stage(&larder, &[model.id()]);
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let answers = [&path, "/v1/models", "/metrics"].map(|path| daemon.get(path).text);
    let log = daemon.logs().join("\n");
    drop(daemon);
    assert_silent(&larder, &[&log, &answers[0], &answers[1], &answers[2], &job.to_string()]);
    assert!(!hub.token_reached_cdn());
}

#[test]
fn the_token_may_lie_in_a_file() {
    let hub = Hub::start();
    let model = gated(&hub, 42);
    let house = larder!(&hub);
    let file = house.root().join("token");
    fs::write(&file, format!("{TOKEN}\n")).expect("writes");
    let larder = house.env("HF_TOKEN_PATH", &file);
    stage(&larder, &[model.id()]);
    snapshot(&larder, &model, "main").assert_is(&model);

    // `hf auth login` leaves it in HF_HOME, and hub.token_file goes before everything else.
    let house = larder!(&hub);
    let home = house.root().join("hf");
    fs::create_dir(&home).expect("a folder");
    fs::write(home.join("token"), TOKEN).expect("writes");
    stage(&house.env("HF_HOME", &home), &[model.id()]);
    let house = larder!(&hub).env("HF_TOKEN", "hf_wrong");
    let file = house.root().join("token");
    fs::write(&file, TOKEN).expect("writes");
    stage(&house.env("LARDER__HUB__TOKEN_FILE", &file), &[model.id()]);
}

#[test]
fn the_cache_is_where_the_hubs_variables_say() {
    let (hub, model) = (Hub::start(), models::tiny_gpt2(43, 50_000));
    hub.add(model.clone());
    // The test ground sets HF_HUB_CACHE; empty is as good as unset, for Python too.
    let larder = larder!(&hub).env("HF_HUB_CACHE", "");
    let default = larder.home().join(".cache/huggingface/hub");
    let hf_home = larder.root().join("hf-home");
    let hub_cache = larder.root().join("elsewhere");
    let configured = larder.root().join("configured");

    let staged = |larder: &Larder, cache: &std::path::Path| {
        let job = stage(larder, &[model.id()]);
        let path = job["path"].as_str().expect("a path");
        assert!(path.starts_with(&cache.display().to_string()), "{path} is not in {}", cache.display());
        Snapshot::read(cache, model.id(), "main").expect("staged there").assert_is(&model);
        assert_clean(cache);
    };
    staged(&larder, &default);
    let larder = larder.env("HF_HOME", &hf_home);
    staged(&larder, &hf_home.join("hub"));
    let larder = larder.env("HF_HUB_CACHE", &hub_cache);
    staged(&larder, &hub_cache);
    let larder = larder.env("LARDER__CACHE__ROOT", &configured);
    staged(&larder, &configured);
}

#[test]
fn the_endpoint_is_where_the_variables_say() {
    let (wrong, right) = (Hub::start(), Hub::start());
    let model = models::tiny_gpt2(44, 50_000);
    right.add(model.clone());
    // A path and a slash at the end belong to an endpoint as mirrors have it.
    let larder = larder!(&right).env("HF_ENDPOINT", format!("{}/", right.endpoint()));
    stage(&larder, &[model.id()]);
    let larder = larder!(&wrong).env("LARDER__HUB__ENDPOINT", right.endpoint());
    stage(&larder, &[model.id()]);
    assert!(wrong.requests().is_empty(), "larder's own key goes before the hub's variable");
}
