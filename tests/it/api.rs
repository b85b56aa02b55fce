//! The HTTP API from outside: accepting, joining, looking, cancelling, retrying, order and durability of jobs, and the
//! borders of the listeners. What is malformed is refused as a problem document, and the worker goes on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{Place, Reply, ask};
use support::{Daemon, Fault, Hub, Larder, Tripwire, models};

const SOON: Duration = Duration::from_secs(60);
const LOCAL: &[(&str, &str)] = &[("Host", "localhost")];

fn larder(hub: &Hub) -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).hub(hub)
}

/// A hub with `test/tiny-gpt2-1` to `test/tiny-gpt2-N`.
fn hub_of(models: u64) -> Hub {
    let hub = Hub::start();
    (1..=models).for_each(|seed| drop(hub.add(models::tiny_gpt2(seed, 20_000))));
    hub
}

fn want(seed: u64) -> Value {
    json!({"kind": "download", "repo": format!("test/tiny-gpt2-{seed}")})
}

fn with(mut job: Value, field: &str, value: Value) -> Value {
    job[field] = value;
    job
}

fn id(job: &Value) -> String {
    job["id"].as_str().unwrap_or_else(|| panic!("no id: {job}")).to_owned()
}

fn post(daemon: &Daemon, body: &[u8]) -> Reply {
    ask(&daemon.place(), "POST /v1/jobs", LOCAL, body)
}

fn state(daemon: &Daemon, job: &str) -> Value {
    daemon.get(&format!("/v1/jobs/{job}")).expect(200)["state"].clone()
}

/// Stops the bytes of a model until `Hub::release`, and returns its job once they stand still.
fn stuck(daemon: &Daemon, hub: &Hub, seed: u64) -> String {
    hub.fault(
        Fault::on(format!("tiny-gpt2-{seed}/model.safetensors"))
            .host(support::Host::Cdn)
            .stall(1_000)
            .always(),
    );
    let job = id(&daemon.post("/v1/jobs", &want(seed)).expect(202));
    assert!(hub.wait_for_stalled(1, SOON), "the bytes of {seed} stand still");
    daemon.wait_until(&format!("/v1/jobs/{job}"), SOON, |job| job["state"] == "fetching");
    job
}

fn unstick(hub: &Hub) {
    hub.clear_faults();
    hub.release();
}

#[test]
fn a_job_is_accepted_joined_and_remembered() {
    let hub = hub_of(2);
    let larder = larder(&hub);
    let daemon = larder.serve();
    let first = stuck(&daemon, &hub, 1);
    let again = post(&daemon, with(want(1), "requested_by", json!("b")).to_string().as_bytes());
    assert_eq!((again.status, again.header("location")), (202, format!("/v1/jobs/{first}").as_str()));
    let again = again.json();
    assert_eq!((&again["id"], &again["created"]), (&json!(first), &json!(false)));
    assert!(again["state"].is_string(), "{again}");
    let keyed = with(want(2), "idempotency_key", json!("key-1"));
    let second = daemon.post("/v1/jobs", &keyed).expect(202);
    assert_eq!(second["created"], true);
    unstick(&hub);
    assert_eq!(daemon.wait_job(&first, SOON)["state"], "ready");
    assert_eq!(daemon.wait_job(&id(&second), SOON)["state"], "ready");
    let late = daemon.post("/v1/jobs", &keyed).expect(202);
    assert_eq!(
        (&late["id"], &late["created"]),
        (&second["id"], &json!(false)),
        "the key is known after the end"
    );
    let fresh = daemon.post("/v1/jobs", &want(1)).expect(202);
    assert_eq!(fresh["created"], true, "without a key an ended job is not joined");
    let done = daemon.wait_job(&id(&fresh), SOON);
    assert_eq!((&done["state"], &done["bytes_fetched"]), (&json!("ready"), &json!(0)), "the model was there");
}

#[test]
fn lists_are_filtered_and_unknown_things_are_problems() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let daemon = larder.serve();
    for body in [want(1), json!({"kind": "download", "repo": "test/none"})] {
        daemon.wait_job(&id(&daemon.post("/v1/jobs", &body).expect(202)), SOON);
    }
    let count =
        |query: &str| daemon.get(&format!("/v1/jobs{query}")).expect(200)["jobs"].as_array().map(Vec::len);
    for (query, jobs) in [
        ("", 2),
        ("?state=ready", 1),
        ("?state=failed&kind=download", 1),
        ("?limit=1", 1),
        ("?state=queued", 0),
    ] {
        assert_eq!(count(query), Some(jobs), "{query}");
    }
    let newest = daemon.get("/v1/jobs?limit=1").expect(200);
    assert_eq!(newest["jobs"][0]["repo"], "test/none", "the newest first");
    let get = |path: &str| ask(&daemon.place(), &format!("GET {path}"), LOCAL, b"");
    for query in ["state=over", "kind=teleport", "limit=0", "limit=1001", "limit=x", "colour=red"] {
        get(&format!("/v1/jobs?{query}")).problem(400, "invalid_request");
    }
    let unknown = "/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV";
    get(unknown).problem(404, "not_found");
    ask(&daemon.place(), &format!("DELETE {unknown}"), LOCAL, b"").problem(404, "not_found");
    ask(&daemon.place(), &format!("POST {unknown}/retry"), LOCAL, b"").problem(404, "not_found");
    for path in ["/v1/jobs/x", "/v1/jobs/%ff", "/v1/models/%ff/x", "/v1/models/-/x"] {
        get(path).problem(400, "invalid_request");
    }
    for path in ["/v1", "/v1/jobs/x/y/z", "/v1/models/a", "/v1/models/test/none", "/metrics/x"] {
        get(path).problem(404, "not_found");
    }
    for request in
        ["PUT /v1/jobs", "DELETE /v1/models", "POST /metrics", "GET /v1/jobs/redrive/retry", "PATCH /healthz"]
    {
        ask(&daemon.place(), request, LOCAL, b"").problem(405, "invalid_request");
    }
}

#[test]
fn models_are_shown() {
    let hub = hub_of(2);
    let larder = larder(&hub);
    let daemon = larder.serve();
    assert_eq!(daemon.get("/v1/models").expect(200), json!({"models": [], "next": null}));
    daemon.wait_job(&id(&daemon.post("/v1/jobs", &with(want(1), "pin", json!(true))).expect(202)), SOON);
    let all = daemon.get("/v1/models").expect(200);
    let one = daemon.get("/v1/models/test/tiny-gpt2-1").expect(200);
    let (listed, model) = (&all["models"][0], &one["models"][0]);
    for (key, value) in listed.as_object().expect("an object") {
        assert_eq!(value, &model[key], "{key}");
    }
    assert_eq!((&model["decision"], &model["reason"]), (&json!("keep"), &json!("pinned")));
    assert_eq!(
        (&model["pinned"], &model["origin"], &model["in_use"]),
        (&json!(true), &json!("staged"), &Value::Null)
    );
    assert!(Path::new(model["path"].as_str().expect("a path")).join("config.json").is_file());
    assert_eq!(
        larder.run(&["ls", "--json"]).expect_code(0).json(),
        all["models"],
        "the same on the command line"
    );
}

#[test]
fn queued_running_and_ended_jobs_are_cancelled_and_run_again() {
    let hub = hub_of(2);
    let larder = larder(&hub).env("LARDER__QUEUE__CONCURRENCY__DOWNLOAD", "1");
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Partials);
    let running = stuck(&daemon, &hub, 1);
    let queued = id(&daemon.post("/v1/jobs", &want(2)).expect(202));
    let delete = |job: &str, query: &str| daemon.request("DELETE", &format!("/v1/jobs/{job}{query}"), None);
    assert_eq!(delete(&queued, "?by=me").status, 400, "a typo in the parameter cancels nothing");
    assert_eq!(delete(&queued, "?requested_by=").status, 400, "nobody's wish is not everybody's");
    assert_eq!(state(&daemon, &queued), "queued");
    let ended = delete(&queued, "").expect(202);
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("cancelled"), &json!("cancelled")));
    delete(&running, "").expect(202);
    assert_eq!(daemon.wait_job(&running, SOON)["state"], "cancelled");
    assert_eq!(delete(&running, "").expect(202)["state"], "cancelled", "once more changes nothing");
    unstick(&hub);
    for job in [&queued, &running] {
        let again = daemon.request("POST", &format!("/v1/jobs/{job}/retry"), None).expect(202);
        assert_eq!(again["id"], json!(job));
        assert_eq!(daemon.wait_job(job, SOON)["state"], "ready");
    }
    let refused = daemon.request("POST", &format!("/v1/jobs/{queued}/retry"), None).expect(400);
    assert_eq!(refused["reason"], "invalid_request");
}

#[test]
fn failed_jobs_are_redriven_together() {
    let hub = hub_of(0);
    let larder = larder(&hub);
    let daemon = larder.serve();
    let jobs: Vec<String> =
        (1..=2).map(|seed| id(&daemon.post("/v1/jobs", &want(seed)).expect(202))).collect();
    for job in &jobs {
        assert_eq!(daemon.wait_job(job, SOON)["reason"], "not_found");
    }
    (1..=2).for_each(|seed| drop(hub.add(models::tiny_gpt2(seed, 20_000))));
    assert_eq!(daemon.request("POST", "/v1/jobs/redrive", None).expect(202), json!({"redriven": 2}));
    for job in &jobs {
        assert_eq!(daemon.wait_job(job, SOON)["state"], "ready");
    }
    assert_eq!(daemon.request("POST", "/v1/jobs/redrive", None).expect(202), json!({"redriven": 0}));
}

#[test]
fn deadline_not_before_and_priority() {
    let hub = hub_of(5);
    let larder = larder(&hub).env("LARDER__QUEUE__CONCURRENCY__DOWNLOAD", "1");
    let daemon = larder.serve();
    let missed =
        id(&daemon.post("/v1/jobs", &with(want(5), "deadline", json!("2020-01-01T00:00:00Z"))).expect(202));
    let missed = daemon.wait_job(&missed, SOON);
    assert_eq!((&missed["state"], &missed["reason"]), (&json!("failed"), &json!("deadline_missed")));
    let later =
        daemon.post("/v1/jobs", &with(want(5), "not_before", json!("2999-01-01T00:00:00Z"))).expect(202);
    assert_eq!((&later["state"], &later["until"]), (&json!("waiting"), &json!("2999-01-01T00:00:00Z")));
    let first = stuck(&daemon, &hub, 1);
    let order = [(2, -5), (3, 7), (4, 0)].map(|(seed, priority)| {
        id(&daemon.post("/v1/jobs", &with(want(seed), "priority", json!(priority))).expect(202))
    });
    unstick(&hub);
    daemon.wait_job(&first, SOON);
    let started =
        order.map(|job| daemon.wait_job(&job, SOON)["started_at"].as_str().expect("a time").to_owned());
    assert!(started[1] < started[2] && started[2] < started[0], "7, then 0, then -5: {started:?}");
    assert_eq!(state(&daemon, &id(&later)), "waiting", "its time has not come");
    daemon.request("DELETE", &format!("/v1/jobs/{}", id(&later)), None).expect(202);
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let daemon = larder.serve();
    let place = Place::Tcp(daemon.address());
    let host = daemon.address().to_string();
    let own = format!("http://{host}");
    let body = want(1).to_string();
    let post = |path: &str, headers: &[(&str, &str)]| {
        let headers = [&[("Host", host.as_str()), ("Content-Type", "text/plain")], headers].concat();
        ask(&place, &format!("POST {path}"), &headers, body.as_bytes())
    };
    for headers in [
        &[("Origin", "https://evil.example")][..],
        &[("Origin", "null")],
        &[("Origin", "http://localhost:1")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", own.as_str())],
    ] {
        for path in ["/v1/jobs", "/v1/plan", "/v1/reconcile", "/v1/jobs/redrive"] {
            post(path, headers).problem(403, "unauthorized");
        }
    }
    assert_eq!(daemon.get("/v1/jobs").expect(200)["jobs"], json!([]));
    for headers in [&[][..], &[("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")]] {
        assert_eq!(post("/v1/jobs", headers).status, 202, "{headers:?}");
    }
    // Who only follows a link may look.
    let look = [("Host", host.as_str()), ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(ask(&place, "GET /v1/jobs", &look, b"").status, 200);
    for job in daemon.get("/v1/jobs").expect(200)["jobs"].as_array().expect("jobs") {
        daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    }
}

#[test]
fn what_a_route_does_not_know_is_refused() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let daemon = larder.serve();
    for (method, path, body) in [
        ("POST", "/v1/jobs?dry_run=true", Some(want(1))),
        ("GET", "/v1/limits?x=1", None),
        ("PUT", "/v1/models/a/b/lease?revision=x", Some(json!({"holder": "pod", "ttl": "1m"}))),
        ("PUT", "/v1/limits", Some(json!([null]))),
        ("PUT", "/v1/models/a/b/lease", Some(json!(["pod", "1m", null]))),
        ("POST", "/v1/warm", Some(json!(["[[models]]"]))),
        (
            "POST",
            "/v1/jobs",
            Some(with(
                with(want(1), "not_before", json!("2999-01-02T00:00:00Z")),
                "deadline",
                json!("2999-01-01T00:00:00Z"),
            )),
        ),
    ] {
        let problem = daemon.request(method, path, body.as_ref()).expect(400);
        assert_eq!(problem["reason"], "invalid_request", "{path}: {problem}");
    }
    assert_eq!(daemon.get("/v1/jobs").expect(200)["jobs"], json!([]), "nothing was asked for");
    // Whoever probes is often told to add something.
    daemon.get("/healthz?probe=1").text.contains("ok").then_some(()).expect("it lives");
    assert_eq!(daemon.get("/v1/jobs?host=nobody").expect(200)["jobs"], json!([]));
}

#[test]
fn an_accepted_job_survives_kill_9() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let mut daemon = larder.serve();
    let job = id(&daemon.post("/v1/jobs", &want(1)).expect(202));
    daemon.kill9();
    drop(daemon);
    let daemon = larder.serve();
    assert_eq!(daemon.wait_job(&job, SOON)["state"], "ready");
    drop(daemon);
    support::cache::assert_clean(larder.cache());
}

#[test]
fn a_stopped_daemon_hands_its_job_back() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let mut daemon = larder.serve();
    let job = stuck(&daemon, &hub, 1);
    daemon.allow(Tripwire::Jobs).allow(Tripwire::Partials);
    assert!(daemon.terminate(SOON).success(), "SIGTERM is no failure");
    assert!(!daemon.socket().exists(), "the socket goes with its owner");
    drop(daemon);
    let view = larder.run(&["jobs", "show", &job, "--json"]).expect_code(0).json();
    assert_eq!((&view["state"], &view["attempts"]), (&json!("queued"), &json!(0)), "{view}");
    unstick(&hub);
    let daemon = larder.serve();
    assert_eq!(daemon.wait_job(&job, SOON)["attempts"], 1);
}

#[test]
fn the_listeners_let_in_who_belongs_there() {
    let hub = hub_of(0);
    let larder = larder(&hub);
    let daemon = larder.serve();
    let mode = std::fs::metadata(daemon.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the owner may order downloads");
    let address = daemon.address();
    let tcp = |host: &str| ask(&Place::Tcp(address), "GET /v1/jobs", &[("Host", host)], b"");
    for host in [
        "localhost",
        "LOCALHOST:7717",
        "127.0.0.1",
        "127.0.0.1:7717",
        "127.0.0.2:7717",
        "[::1]",
        "[::1]:7717",
    ] {
        assert_eq!(tcp(host).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:7717",
        "10.0.0.1",
        "[::2]",
        "",
        "user@localhost",
    ] {
        tcp(host).problem(403, "unauthorized");
    }
    for (path, says) in [("/healthz", "ok"), ("/readyz", "\"ready\":true")] {
        let answer = daemon.get(path);
        assert!(answer.status == 200 && answer.text.contains(says), "{path}: {}", answer.text);
    }
    let second = Larder::new(Path::new(env!("CARGO_BIN_EXE_larder")));
    for (listen, code, word) in [
        ("0.0.0.0:0", 2, "api.listen"),
        ("192.0.2.1:7717", 2, "api.listen"),
        (&address.to_string(), 75, "api.listen"),
    ] {
        let output = second
            .run(&["serve", "--set", &format!("api.listen={listen}"), "--set", "log.format=human"])
            .expect_code(code);
        assert!(output.stderr.contains(listen) && output.stderr.contains(word), "{}", output.stderr);
    }
}

#[test]
fn malformed_requests_are_problems_and_the_worker_goes_on() {
    let hub = hub_of(1);
    let larder = larder(&hub);
    let daemon = larder.serve();
    let cases: &[(&[u8], u16, &str)] = &[
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[]", 400, "object"),
        (b"null", 400, "object"),
        (b"{}", 400, "kind"),
        (br#"{"kind": "sing", "repo": "a/b"}"#, 400, "sing"),
        (br#"{"kind": 7, "repo": "a/b"}"#, 400, "kind"),
        (br#"{"kind": "download"}"#, 400, "repo"),
        (br#"{"kind": "download", "repo": "../etc"}"#, 400, "../etc"),
        (br#"{"kind": "download", "repo": "a/b", "colour": "red"}"#, 400, "colour"),
        (br#"{"kind": "download", "repo": "a/b", "priority": "high"}"#, 400, "priority"),
        (br#"{"kind": "download", "repo": "a/b", "priority": 99999}"#, 400, "priority"),
        (br#"{"kind": "download", "repo": "a/b", "include": "x"}"#, 400, "include"),
        (br#"{"kind": "download", "repo": "a/b", "deadline": "soon"}"#, 400, "deadline"),
        (br#"{"kind": "download", "repo": "a/b", "pin": 1}"#, 400, "pin"),
        (br#"{"kind": "download", "repo": "a/b", "hosts": "gpu-1"}"#, 400, "hosts"),
        (br#"{"kind": "download", "repo": "a/b", "requested_by": ""}"#, 400, "requested_by"),
        (br#"{"kind": "download", "repo": "a/b", "format": "pickle"}"#, 400, "pickle"),
        (br#"{"kind": "download", "repo": "a/b", "v": "x"}"#, 400, "version"),
        (br#"{"kind": "download", "repo": "a/b", "v": 99}"#, 422, "99"),
    ];
    for (body, status, word) in cases {
        let reason = if *status == 422 { "unsupported_version" } else { "invalid_request" };
        let problem = post(&daemon, body).problem(*status, reason);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(word), "{}: {detail}", String::from_utf8_lossy(body));
    }
    let large =
        format!(r#"{{"kind": "download", "repo": "a/b", "requested_by": "{}"}}"#, "x".repeat(1 << 20));
    post(&daemon, large.as_bytes()).problem(413, "invalid_request");
    let deep = "[".repeat(10_000);
    post(&daemon, deep.as_bytes()).problem(400, "invalid_request");
    assert_eq!(
        daemon.get("/v1/jobs").expect(200),
        json!({"jobs": [], "next": null}),
        "nothing of it became a job"
    );
    let good = id(&daemon.post("/v1/jobs", &want(1)).expect(202));
    assert_eq!(daemon.wait_job(&good, SOON)["state"], "ready");
}
