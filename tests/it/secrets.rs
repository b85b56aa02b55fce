//! No secret is where it does not belong: seeds one of each kind, makes every part of larder use or refuse it, and looks
//! everywhere that others can read.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::http::{Place, ask};
use support::{Hub, Redis, larder, models};

use crate::access::{ADMIN, ENQUEUE, READ, guarded, secret};

const SOON: Duration = Duration::from_secs(60);
const HUB: &str = "hf_geheimHubTokenGeheimHubToken";
const REDIS: &str = "geheim-redis-password-0123";
const NAMED: &str = "hf_geheimNamedTokenGeheimNamed";
const WEBHOOK: &str = "geheim-webhook-secret-0123";
/// In the address that a job names: Redis and the store must keep it, and nobody else need know.
const ADDRESS: &str = "geheim-key-in-an-address-0123";
const SECRETS: [&str; 7] = [HUB, NAMED, REDIS, WEBHOOK, READ, ENQUEUE, ADMIN];

/// Every file below a folder, as bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    found
}

#[track_caller]
fn assert_none(place: &str, bytes: &[u8]) {
    for secret in SECRETS {
        let hidden = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!hidden, "{secret} is in {place}");
    }
}

#[test]
fn no_secret_is_where_others_can_read() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "requirepass", REDIS]);
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 20_000).gated();
    hub.grant(NAMED, model.id());
    hub.add(model);
    let larder = larder!(&hub)
        .env("HF_TOKEN", HUB)
        .env("LARDER__LOG__LEVEL", "debug")
        .env("LARDER__HOST__NAME", "gpu-1")
        .env("LARDER__QUEUE__URL", redis.tcp_url());
    let larder = {
        let password = secret(&larder, "redis", REDIS);
        let webhook = secret(&larder, "webhook", WEBHOOK);
        larder
            .env("LARDER__QUEUE__PASSWORD_FILE", password)
            .env("LARDER__NOTIFY__SECRET_FILE", webhook)
            .env("LARDER__NOTIFY__ALLOW_PRIVATE", "true")
            .env("LARDER__NOTIFY__ATTEMPTS", "2")
            .env("LARDER__NOTIFY__BACKOFF_MIN", "50ms")
    };
    let named = secret(&larder, "team", NAMED);
    guarded(&larder, &format!("[[hub.tokens]]\nname = \"team\"\nfile = {named:?}\n"));
    let daemon = larder.serve();
    let to_nowhere = format!("http://127.0.0.1:1/hook?key={ADDRESS}");
    let mut answers = Vec::new();
    let address = Place::Tcp(daemon.address());
    let mut send = |request: &str, token: &str, body: &str| {
        let bearer = format!("Bearer {token}");
        let reply =
            ask(&address, request, &[("Host", "x"), ("Authorization", bearer.as_str())], body.as_bytes());
        answers.push((request.to_owned(), reply.text()));
        reply
    };
    let job = json!({"kind": "download", "repo": "test/tiny-gpt2-1", "notify": to_nowhere}).to_string();
    let id = send("POST /v1/jobs", ENQUEUE, &job).json()["id"].as_str().expect("an id").to_owned();
    let ended = daemon.wait_job(&id, SOON);
    let with_name = json!({"kind": "download", "repo": "test/tiny-gpt2-1", "token_ref": "team"}).to_string();
    let other = send("POST /v1/jobs", ENQUEUE, &with_name).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.wait_job(&other, SOON)["state"], "ready");
    // Wrong ones, right ones for too much, and everything that there is to see.
    for token in [READ, ENQUEUE, HUB, REDIS, WEBHOOK] {
        send("PUT /v1/limits", token, "{}");
    }
    let document = send("GET /openapi.json", ADMIN, "").json();
    let paths = document["paths"].as_object().expect("paths").iter();
    let looks: Vec<_> =
        paths.filter(|(path, verbs)| !path.contains('{') && verbs["get"].is_object()).collect();
    assert!(looks.len() > 15, "{looks:?}");
    for (path, _) in looks {
        send(&format!("GET {path}"), ADMIN, "");
    }
    send("GET /v1/models/test/tiny-gpt2-1", ADMIN, "");
    send(&format!("GET /v1/jobs/{id}"), ADMIN, "");
    let manifest =
        json!({"manifest": "[[models]]\nmodel = \"test/tiny-gpt2-1\"\n", "notify": to_nowhere}).to_string();
    send("POST /v1/warm", READ, &manifest);
    send("POST /v1/warm/jobs", ENQUEUE, &manifest);
    send("PUT /v1/fleet/limits", ADMIN, r#"{"bandwidth": 1000000000}"#);
    send(&format!("GET /v1/jobs/{id}/events"), ADMIN, "");
    send("POST /v1/fit", READ, r#"{"repo": "test/tiny-gpt2-1"}"#);
    send("POST /v1/plan", READ, r#"{"repo": "test/tiny-gpt2-1"}"#);
    send("POST /v1/jobs", ENQUEUE, r#"{"kind": "download", "repo": "test/none"}"#);
    for (request, text) in &answers {
        assert_none(request, text.as_bytes());
        assert!(!text.contains(ADDRESS), "{ADDRESS} is in {request}: {text}");
    }
    assert!(
        daemon.wait_line(|line| line.contains("given up"), SOON).is_some(),
        "the notice went nowhere: {ended}"
    );
    assert_none(
        "the command line",
        &std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).expect("reads"),
    );
    for key in redis_dump(&redis) {
        assert_none("Redis", key.as_bytes());
    }
    for args in [&["config", "show"][..], &["doctor"], &["jobs"], &["jobs", "show", &id], &["info"], &["ls"]]
    {
        let output = larder.run(args);
        assert_none(&format!("{args:?}"), format!("{}{}", output.stdout, output.stderr).as_bytes());
    }
    let log = daemon.logs().join("\n");
    assert_none("the log", log.as_bytes());
    assert!(!log.contains(ADDRESS), "{ADDRESS} is in the log");
    assert!(log.contains("DEBUG") || log.contains("debug"), "the log says much");
    drop(daemon);
    for (path, bytes) in files(&larder.state()).into_iter().chain(files(larder.cache())) {
        assert_none(&path, &bytes);
    }
}

/// Everything that Redis holds, as text.
fn redis_dump(redis: &Redis) -> Vec<String> {
    let ask = |words: &[&str]| format!("{:?}", redis.command_as("default", REDIS, words));
    let script = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do all[#all + 1] = key \
        local kind = redis.call('TYPE', key).ok \
        if kind == 'hash' then for _, v in ipairs(redis.call('HGETALL', key)) do all[#all + 1] = v end \
        elseif kind == 'zset' then for _, v in ipairs(redis.call('ZRANGE', key, 0, -1)) do all[#all + 1] = v end \
        elseif kind == 'string' then all[#all + 1] = redis.call('GET', key) end end return table.concat(all, ' ')";
    let dump = ask(&["EVAL", script, "0"]);
    assert!(dump.contains("tiny-gpt2-1"), "the job is in there: {dump}");
    vec![dump]
}

#[test]
fn the_search_itself_finds_secrets() {
    let found = std::panic::catch_unwind(|| assert_none("a text", format!("x{WEBHOOK}y").as_bytes()));
    assert!(found.is_err());
}
