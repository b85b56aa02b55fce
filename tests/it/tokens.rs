//! Tokens that jobs name: the host has the file, the job the name, and nobody else the token.

use serde_json::{Value, json};
use support::{Hub, Larder, larder, models};

use crate::access::secret;
use crate::fleet::PATIENCE;

const OWN: &str = "hf_ownTokenOfTheHost";
const TEAM: &str = "hf_tokenOfTeamA";

/// A host whose own token may not read the model, and that of a team may.
fn host() -> (Hub, Larder, String) {
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 30_000).gated();
    let id = model.id().to_owned();
    hub.add(model);
    hub.allow_token(OWN);
    hub.grant(TEAM, &id);
    let larder = larder!(&hub).env("HF_TOKEN", OWN);
    let file = secret(&larder, "team-a", TEAM);
    let text = format!("[[hub.tokens]]\nname = \"team-a\"\nfile = {file:?}\n");
    std::fs::write(larder.root().join("larder.toml"), text).expect("written");
    (hub, larder, id)
}

#[test]
fn a_download_asks_with_the_token_that_it_names() {
    let (hub, larder, id) = host();
    let own = larder.run(&["stage", &id, "--json"]);
    assert_eq!((own.code, own.json()["reason"].as_str()), (4, Some("gated")), "{own:?}");
    let stranger = larder.run(&["stage", &id, "--token-ref", "team-b", "--json"]);
    assert_eq!(
        (stranger.code, stranger.json()["reason"].as_str()),
        (2, Some("invalid_request")),
        "{stranger:?}"
    );
    let message = stranger.json()["detail"].to_string();
    assert!(message.contains("team-b") && message.contains("it has team-a"), "{message}");
    larder.run(&["plan", &id, "--token-ref", "team-b"]).expect_code(4);
    let named = ["--token-ref", "team-a"];
    let plan = larder.run(&[&["plan", &id, "--json"][..], &named].concat()).expect_code(0).json();
    assert!(plan["fit"]["parameters"].is_u64(), "the headers are read with it, too: {plan}");
    let fit = larder.run(&[&["fit", &id, "--vram", "8GiB", "--json"][..], &named].concat()).expect_code(0);
    assert!(fit.json()["total_bytes"].is_u64(), "{fit:?}");
    larder.run(&[&["stage", &id][..], &named].concat()).expect_code(0);
    assert!(!hub.token_reached_cdn());
    let shown =
        larder.run(&["jobs", "--json"]).expect_code(0).stdout + &larder.run(&["config", "show"]).stdout;
    assert!(!shown.contains(TEAM) && shown.contains("team-a"), "{shown}");
}

#[test]
fn a_daemon_takes_names_and_no_tokens() {
    let (_hub, larder, id) = host();
    let daemon = larder.serve();
    let job = |name: &str| json!({"kind": "download", "repo": id, "token_ref": name});
    let secret = daemon.post("/v1/jobs", &job(TEAM)).expect(400);
    assert!(!secret.to_string().contains(TEAM), "{secret}");
    assert!(!daemon.logs().join("\n").contains(TEAM), "nor is it in the log");
    let unknown = daemon.post("/v1/jobs", &job("team-b")).expect(400);
    assert_eq!(unknown["reason"], "invalid_request", "{unknown}");
    let own = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": id})).expect(202);
    let named = daemon.post("/v1/jobs", &job("team-a")).expect(202);
    assert_ne!(own["id"], named["id"], "what one may not read the other may");
    let end = |job: &Value| {
        let job = daemon.wait_job(job["id"].as_str().expect("an id"), PATIENCE);
        (job["state"].as_str().map(str::to_owned), job["reason"].as_str().map(str::to_owned))
    };
    assert_eq!(end(&named), (Some("ready".into()), None));
    assert_eq!(end(&own), (Some("failed".into()), Some("gated".into())));
    let manifest = format!("[defaults]\ntoken_ref = \"team-a\"\n[[models]]\nmodel = \"{id}\"\n");
    let asked = daemon.post("/v1/warm/jobs", &json!({"manifest": manifest})).expect(202);
    assert_eq!(end(&asked["batch"]), (Some("ready".into()), None), "{asked}");
}

#[test]
fn names_without_files_and_names_that_are_there_twice_are_refused() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    for (text, what) in [
        ("[[hub.tokens]]\nname = \"a\"\nfile = \"\"\n", "a has no file"),
        (
            "[[hub.tokens]]\nname = \"a\"\nfile = \"/x\"\n[[hub.tokens]]\nname = \"a\"\nfile = \"/y\"\n",
            "its own name",
        ),
        ("[[hub.tokens]]\nname = \"a b\"\nfile = \"/x\"\n", "not the name of a token"),
        ("[[hub.tokens]]\nname = \"a\"\nfile = \"/no/such/file\"\n", "/no/such/file"),
    ] {
        std::fs::write(larder.root().join("larder.toml"), text).expect("written");
        let refused = larder.run(&["plan", "a/b"]);
        assert!(refused.code != 0 && refused.stderr.contains(what), "{text}: {refused:?}");
    }
}
