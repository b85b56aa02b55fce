//! Who may do what over TCP: tokens and their roles, their rotation, what is refused at the start, what the audit log
//! says, and the command line as a client with a token.

mod slow;
mod tls;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::http::{Place, Reply, ask};
use support::{Daemon, Hub, Larder, larder, models};

const SOON: Duration = Duration::from_secs(60);

/// Tokens, one of each role.
pub(crate) const READ: &str = "read-token-0123456789";
pub(crate) const ENQUEUE: &str = "enqueue-token-0123456789";
pub(crate) const ADMIN: &str = "admin-token-0123456789";

/// Writes a secret that only its owner can read.
pub(crate) fn secret(larder: &Larder, name: &str, text: &str) -> PathBuf {
    let path = larder.root().join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    path
}

/// Gives a larder one token of each role, and further lines of configuration.
pub(crate) fn guarded(larder: &Larder, more: &str) {
    let mut tokens = Vec::new();
    for (role, token) in [("read", READ), ("enqueue", ENQUEUE), ("admin", ADMIN)] {
        let file = secret(larder, role, token);
        tokens.push(format!("{{ name = \"the-{role}\", role = \"{role}\", file = {file:?} }}"));
    }
    let text = format!("[api]\ntokens = [{}]\n{more}", tokens.join(", "));
    std::fs::write(larder.root().join("larder.toml"), text).expect("written");
}

/// One request over TCP; an empty token is none.
pub(crate) fn tcp(daemon: &Daemon, token: &str, request: &str, body: &[u8]) -> Reply {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Host", "gpu-7.internal")];
    if !token.is_empty() {
        headers.push(("Authorization", bearer.as_str()));
    }
    ask(&Place::Tcp(daemon.address()), request, &headers, body)
}

/// The lines of the audit log.
fn audit(daemon: &Daemon) -> Vec<Value> {
    let lines = daemon.logs().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    lines.filter(|line| line["target"] == "audit").collect()
}

#[test]
fn each_role_may_what_its_name_says() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder!(&hub);
    guarded(&larder, "");
    let daemon = larder.serve();
    for path in ["/v1/jobs", "/v1/models", "/metrics", "/readyz", "/v1/nothing"] {
        let request = format!("GET {path}");
        let without = tcp(&daemon, "", &request, b"");
        without.problem(401, "unauthorized");
        assert_eq!(without.header("www-authenticate"), "Bearer realm=\"larder\"");
        let wrong = tcp(&daemon, "wrong-token-0123456789", &request, b"");
        wrong.problem(401, "unauthorized");
        assert!(wrong.header("www-authenticate").contains("invalid_token"));
        for token in [READ, ENQUEUE, ADMIN] {
            let status = tcp(&daemon, token, &request, b"").status;
            assert_eq!(status, if path == "/v1/nothing" { 404 } else { 200 }, "{path}");
        }
    }
    let download = br#"{"kind": "download", "repo": "test/tiny-gpt2-1"}"#;
    let evict = br#"{"kind": "evict", "repo": "test/tiny-gpt2-1"}"#;
    let limit = br#"{"bandwidth": null}"#;
    // The request, its body, and the least role that may; whoever may not even ask for jobs hears of that first.
    let pin = "PUT /v1/models/test/tiny-gpt2-1/pin";
    let cases: [(&str, &[u8], &str); 6] = [
        ("POST /v1/jobs", download, "enqueue"),
        (pin, b"", "enqueue"),
        ("POST /v1/jobs", evict, "admin"),
        ("POST /v1/jobs/redrive", b"", "admin"),
        ("PUT /v1/limits", limit, "admin"),
        ("POST /v1/fit", br#"{"repo": "nothing", "local": true}"#, "read"),
    ];
    for (request, body, least) in cases {
        let mut may = false;
        for (role, token) in [("read", READ), ("enqueue", ENQUEUE), ("admin", ADMIN)] {
            may |= role == least;
            let reply = tcp(&daemon, token, request, body);
            if may {
                assert!(reply.status != 401 && reply.status != 403, "{request} as {role}: {}", reply.text());
                continue;
            }
            let problem = reply.problem(403, "unauthorized");
            let told = if (request, role) == ("POST /v1/jobs", "read") { "enqueue" } else { least };
            assert!(
                problem["detail"].as_str().expect("text").contains(told),
                "{request} as {role}: {problem}"
            );
            assert!(reply.header("www-authenticate").contains(&format!("scope=\"{told}\"")));
        }
    }
    // The unix socket belongs to the owner of the folder, who needs no token.
    assert_eq!(daemon.request("PUT", "/v1/limits", Some(&json!({"bandwidth": null}))).status, 200);
    let jobs = daemon.get("/v1/jobs").expect(200);
    for job in jobs["jobs"].as_array().expect("jobs") {
        daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    }
}

#[test]
fn every_change_leaves_one_line_that_says_who() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder!(&hub);
    guarded(&larder, "");
    let daemon = larder.serve();
    let job =
        tcp(&daemon, ENQUEUE, "POST /v1/jobs", br#"{"kind": "download", "repo": "test/tiny-gpt2-1"}"#).json();
    let id = job["id"].as_str().expect("an id").to_owned();
    daemon.wait_job(&id, SOON);
    tcp(&daemon, READ, "GET /v1/jobs", b"");
    tcp(&daemon, READ, &format!("DELETE /v1/jobs/{id}"), b"").problem(403, "unauthorized");
    tcp(&daemon, "", "POST /v1/jobs", b"{}").problem(401, "unauthorized");
    tcp(&daemon, ADMIN, "PUT /v1/models/test/none/pin", b"").problem(404, "not_found");
    daemon.request("PUT", "/v1/models/test/tiny-gpt2-1/pin", None).expect(200);
    assert!(daemon.wait_line(|line| line.contains("\"who\":\"socket\""), SOON).is_some());
    let said: Vec<Value> = audit(&daemon)
        .into_iter()
        .map(|line| {
            json!([line["who"], line["what"], line["job"], line["model"], line["status"], line["reason"]])
        })
        .collect();
    let none = Value::Null;
    assert_eq!(
        said,
        [
            json!(["the-enqueue", "enqueue", id, "test/tiny-gpt2-1", 202, none]),
            json!(["the-read", "cancel", id, none, 403, "unauthorized"]),
            json!(["nobody", "enqueue", none, none, 401, "unauthorized"]),
            json!(["the-admin", "pin", none, "test/none", 404, "not_found"]),
            json!(["socket", "pin", none, "test/tiny-gpt2-1", 200, none]),
        ]
    );
    let log = daemon.logs().join("\n");
    for token in [READ, ENQUEUE, ADMIN] {
        assert!(!log.contains(token), "a token is in the log");
    }
}

#[test]
fn trying_again_needs_the_role_of_the_job() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder!(&hub);
    guarded(&larder, "");
    let daemon = larder.serve();
    let staged = json!({"kind": "download", "repo": "test/tiny-gpt2-1", "pin": true});
    daemon.wait_job(daemon.post("/v1/jobs", &staged).expect(202)["id"].as_str().expect("an id"), SOON);
    let evict = br#"{"kind": "evict", "repo": "test/tiny-gpt2-1"}"#;
    let id = tcp(&daemon, ADMIN, "POST /v1/jobs", evict).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.wait_job(&id, SOON)["reason"], "protected");
    assert_eq!(tcp(&daemon, ENQUEUE, "DELETE /v1/models/test/tiny-gpt2-1/pin", b"").status, 200);
    let retry = format!("POST /v1/jobs/{id}/retry");
    tcp(&daemon, ENQUEUE, &retry, b"").problem(403, "unauthorized");
    assert_eq!(daemon.get(&format!("/v1/jobs/{id}")).expect(200)["state"], "failed");
    let line = audit(&daemon).into_iter().find(|line| line["what"] == "retry").expect("is in the log");
    assert_eq!((&line["kind"], &line["model"]), (&json!("evict"), &json!("test/tiny-gpt2-1")), "{line}");
    assert_eq!(tcp(&daemon, ADMIN, &retry, b"").status, 202);
    assert_eq!(daemon.wait_job(&id, SOON)["state"], "done");
}

#[test]
fn a_refusal_leaves_the_connection_to_the_next_request() {
    use std::io::{Read as _, Write as _};
    let hub = Hub::start();
    let larder = larder!(&hub);
    guarded(&larder, "");
    let daemon = larder.serve();
    let mut stream = std::net::TcpStream::connect(daemon.address()).expect("connects");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let body = "x".repeat(30_000);
    for token in ["wrong-token-0123456789", READ, "wrong-token-0123456789"] {
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("is taken");
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"}") {
            let read = stream.read(&mut piece).expect("an answer");
            assert!(read > 0, "it was closed after {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 40") && !answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
}

#[test]
fn a_token_is_replaced_without_a_restart_and_probes_can_be_opened() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    guarded(&larder, "public_metrics = true\n");
    let mut daemon = larder.serve();
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(tcp(&daemon, "", &format!("GET {path}"), b"").status, 200, "{path}");
    }
    tcp(&daemon, "", "GET /v1/jobs", b"").problem(401, "unauthorized");
    let new = "new-admin-token-0123456789";
    let works = |daemon: &Daemon, token: &str| tcp(daemon, token, "GET /v1/jobs", b"").status == 200;
    let reload = |daemon: &mut Daemon, text: &str, nth: usize, word: &str| {
        secret(&larder, "admin", text);
        daemon.signal(Signal::HUP);
        let lines = |daemon: &Daemon| daemon.logs().iter().filter(|line| line.contains(word)).count();
        let begun = std::time::Instant::now();
        while lines(daemon) < nth {
            assert!(begun.elapsed() < SOON, "{:?}", daemon.logs());
            assert!(daemon.wait_line(|line| line.contains(word), SOON).is_some());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    reload(&mut daemon, &format!("{new}\n{ADMIN}\n"), 1, "certificate are read again");
    assert!(works(&daemon, new) && works(&daemon, ADMIN), "both, while they are handed out");
    reload(&mut daemon, new, 2, "certificate are read again");
    assert!(works(&daemon, new) && !works(&daemon, ADMIN));
    reload(&mut daemon, "short", 1, "stay as they were");
    assert!(works(&daemon, new), "a file that is of no use locks nobody out");
    std::fs::write(larder.root().join("larder.toml"), "[api]\nlisten = \"127.0.0.1:0\"\n").expect("written");
    reload(&mut daemon, new, 2, "stay as they were");
    tcp(&daemon, "", "GET /v1/jobs", b"").problem(401, "unauthorized");
}

#[test]
fn what_would_let_strangers_in_is_refused_at_the_start() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let refused = |args: &[&str], words: &[&str]| {
        let all = [&["serve", "--set", "log.format=human"], args].concat();
        let stderr = larder.run(&all).expect_code(2).stderr;
        words.iter().for_each(|word| assert!(stderr.contains(word), "{word}: {stderr}"));
        assert!(!stderr.contains("guess-me"), "{stderr}");
    };
    refused(&["--set", "api.listen=0.0.0.0:0"], &["api.listen", "api.tokens", "hint"]);
    refused(&["--set", "api.tls.cert_file=/x"], &["api.tls", "key_file"]);
    let configure = |text: &str| std::fs::write(larder.root().join("larder.toml"), text).expect("written");
    let token = |text: &str, mode: u32| {
        let path = secret(&larder, "token", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        configure(&format!("[api]\ntokens = [{{ name = \"a\", role = \"read\", file = {path:?} }}]\n"));
    };
    token("guess-me", 0o600);
    refused(&[], &["api.tokens", "16 to 512", "openssl"]);
    token("guess-me-guess-me-guess-me", 0o666);
    refused(&[], &["written by everybody", "chmod 600"]);
    for (entry, word) in [
        ("name = \"a\", role = \"root\", file = \"/x\"", "root"),
        ("name = \"a b\", role = \"read\", file = \"/x\"", "name"),
        ("name = \"socket\", role = \"read\", file = \"/x\"", "taken"),
        ("name = \"a\", role = \"read\", file = \"\"", "no file"),
        ("name = \"a\", role = \"read\", token = \"x\"", "token"),
    ] {
        configure(&format!("[api]\ntokens = [{{ {entry} }}]\n"));
        refused(&[], &[word]);
    }
    // With a token that is fine, it listens everywhere.
    token("guess-me-guess-me-guess-me", 0o644);
    let open = larder.spawn(&["serve", "--set", "api.listen=0.0.0.0:0"]);
    assert_eq!(open.address().ip().to_string(), "0.0.0.0");
    assert!(open.logs().iter().any(|line| line.contains("chmod 600")), "readable for all is warned of");
    assert!(open.logs().iter().any(|line| line.contains("clear text")), "and so is a missing certificate");
}

#[test]
fn commands_bring_a_token() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    guarded(&larder, "");
    let daemon = larder.serve();
    let url = format!("http://{}", daemon.address());
    let mut far = Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).env("LARDER__API__URL", &url);
    let without = far.run(&["jobs"]).expect_code(4);
    assert!(
        without.stderr.contains("unauthorized") && without.stderr.contains("api.token_file"),
        "{}",
        without.stderr
    );
    let file = secret(&far, "token", READ);
    far.set_env("LARDER__API__TOKEN_FILE", &file);
    far.run(&["jobs", "--json"]).expect_code(0);
    let refused = far.run(&["limit", "20MB"]).expect_code(4);
    assert!(refused.stderr.contains("admin"), "{}", refused.stderr);
    secret(&far, "token", ADMIN);
    far.run(&["limit", "20MB"]).expect_code(0);
    far.set_env("LARDER__API__URL", url.replace("http://", "http://me:geheim@"));
    let login = far.run(&["jobs"]).expect_code(2);
    assert!(login.stderr.contains("api.token_file") && !login.stderr.contains("geheim"), "{}", login.stderr);
}
