//! How a job stands as a stream of events: over the embedded queue and over Redis, begun again after a break, bounded;
//! lists in pages; and keys in a header.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::http::ask;
use support::{Daemon, Fault, Hub, Larder, Redis, larder, models};

use crate::fleet::machine;

const SOON: Duration = Duration::from_secs(60);
const LOCAL: &[(&str, &str)] = &[("Host", "localhost")];
/// Streams at a time.
const MAX_STREAMS: usize = 128;

/// One event.
#[derive(Debug, Clone)]
struct Event {
    id: String,
    name: String,
    job: Value,
}

/// A stream of events over TCP, read line by line.
struct Events {
    lines: BufReader<TcpStream>,
    status: u16,
    heartbeats: usize,
}

impl Events {
    fn open(address: SocketAddr, job: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n{last}Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("written");
        let mut events = Self { lines: BufReader::new(stream), status: 0, heartbeats: 0 };
        let line = events.line().expect("a status");
        events.status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        while events.line().is_some_and(|line| !line.is_empty()) {}
        events
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) => panic!("the stream broke: {error}"),
        }
    }

    /// The next event; `None` at the end of the stream. Sizes of chunks are no lines of events.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut name, mut data) = (String::new(), String::new(), String::new());
        loop {
            let line = self.line()?;
            if let Some(value) = line.strip_prefix("id: ") {
                id = value.into();
            } else if let Some(value) = line.strip_prefix("event: ") {
                name = value.into();
            } else if let Some(value) = line.strip_prefix("data: ") {
                data = value.into();
            } else if line.starts_with(':') {
                self.heartbeats += 1;
            } else if line.is_empty() && !data.is_empty() {
                return Some(Event { id, name, job: serde_json::from_str(&data).expect("JSON") });
            }
        }
    }

    fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// Stops the bytes of the model until `Hub::release`.
fn hold(hub: &Hub) {
    let fault = Fault::on("tiny-gpt2-1/model.safetensors").host(support::Host::Cdn);
    hub.fault(fault.stall(1_000).always());
}

fn enqueue(daemon: &Daemon) -> String {
    let body = json!({"kind": "download", "repo": "test/tiny-gpt2-1"});
    daemon.post("/v1/jobs", &body).expect(202)["id"].as_str().expect("an id").to_owned()
}

/// Follows a job through a break to its end.
fn followed_to_its_end(hub: &Hub, larder: &Larder) {
    let daemon = larder.serve();
    let address = daemon.address();
    hold(hub);
    let job = enqueue(&daemon);
    let (mut one, mut two) = (Events::open(address, &job, None), Events::open(address, &job, None));
    assert_eq!(one.status, 200);
    let mut last = one.next().expect("how it stands");
    assert_eq!(
        (last.name.as_str(), &last.job["id"]),
        ("state", &json!(job)),
        "the first event is the job as it is"
    );
    while last.job["state"] != "fetching" {
        last = one.next().expect("it goes on");
    }
    drop(one);
    // What is known is not said again; what comes is.
    let mut again = Events::open(address, &job, Some(&last.id));
    hub.clear_faults();
    hub.release();
    let events = again.rest();
    assert!(events.iter().all(|event| event.id != last.id), "{events:?}");
    let end = events.last().expect("an end");
    assert_eq!((end.name.as_str(), &end.job["state"]), ("end", &json!("ready")));
    assert_eq!(events.iter().filter(|event| event.name == "end").count(), 1);
    let others = two.rest();
    assert_eq!(others.last().map(|event| event.id.clone()), Some(end.id.clone()), "two streams say the same");
    let states: Vec<_> =
        others.iter().filter(|event| event.name == "state").map(|event| &event.job["state"]).collect();
    assert!(states.contains(&&json!("fetching")), "{states:?}");
    assert!(others.iter().zip(&others[1..]).all(|(a, b)| a.id != b.id), "nothing is said twice");
    // An ended job is one event, and none for who has it.
    let late = Events::open(address, &job, None).rest();
    assert_eq!(late.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), [end.id.as_str()]);
    assert_eq!(
        Events::open(address, &job, Some(&end.id)).status,
        204,
        "a client that begins again by itself stops"
    );
}

#[test]
fn a_job_is_followed_to_its_end() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    followed_to_its_end(&hub, &larder!(&hub));
}

#[test]
fn a_job_of_the_fleet_is_followed_to_its_end() {
    let (hub, redis) = (Hub::start(), Redis::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    followed_to_its_end(&hub, &machine("gpu-1", &redis.tcp_url(), &hub));
}

#[test]
fn several_jobs_are_followed_as_one() {
    let (hub, redis) = (Hub::start(), Redis::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    let machines = ["gpu-1", "gpu-2"].map(|name| machine(name, &redis.tcp_url(), &hub));
    let daemons = machines.each_ref().map(Larder::serve);
    let are_up = |list: &Value| list["hosts"].as_array().map_or(0, Vec::len) == 2;
    daemons[0].wait_until("/v1/hosts", SOON, are_up);
    hold(&hub);
    let body = json!({"kind": "download", "repo": "test/tiny-gpt2-1", "hosts": ["gpu-1", "gpu-2"]});
    let id = daemons[0].post("/v1/jobs", &body).expect(202)["id"].as_str().expect("an id").to_owned();
    let mut events = Events::open(daemons[1].address(), &id, None);
    let first = events.next().expect("how they stand");
    assert_eq!((first.name.as_str(), first.job["children"].as_array().map(Vec::len)), ("state", Some(2)));
    hub.clear_faults();
    hub.release();
    let end = events.rest().pop().expect("an end");
    assert_eq!((end.name.as_str(), &end.job["state"], &end.job["id"]), ("end", &json!("ready"), &json!(id)));
}

#[test]
fn streams_are_bounded_and_end_with_larder() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder!(&hub);
    let mut daemon = larder.serve();
    daemon.allow(support::Tripwire::Jobs).allow(support::Tripwire::Partials);
    let path = "/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/events";
    ask(&daemon.place(), &format!("GET {path}"), LOCAL, b"").problem(404, "not_found");
    hold(&hub);
    let job = enqueue(&daemon);
    let address = daemon.address();
    let mut open: Vec<Events> = (0..MAX_STREAMS).map(|_| Events::open(address, &job, None)).collect();
    for events in &mut open {
        assert_eq!(events.status, 200);
        events.next().expect("how it stands");
    }
    let request = format!("GET /v1/jobs/{job}/events");
    ask(&daemon.place(), &request, LOCAL, b"").problem(503, "rate_limited");
    open.pop();
    let begun = std::time::Instant::now();
    loop {
        let mut stream = UnixStream::connect(daemon.socket()).expect("connects");
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("written");
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).expect("a status");
        if status.contains("200") {
            break;
        }
        assert!(begun.elapsed() < SOON, "a slot that is free again is given on: {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Bytes that stand still: the stream says that it lives.
    let first = &mut open[0];
    while first.heartbeats == 0 {
        let line = first.line().expect("the stream goes on");
        first.heartbeats += usize::from(line.starts_with(':'));
    }
    let begun = std::time::Instant::now();
    assert!(daemon.terminate(SOON).success());
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "nobody's stream holds larder up: {:?}",
        begun.elapsed()
    );
    hub.release();
}

/// All jobs, in pages of `limit`.
fn paged(daemon: &Daemon, query: &str, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/v1/jobs?limit={limit}{query}{cursor}")).expect(200);
        let jobs = page["jobs"].as_array().expect("jobs");
        assert!(jobs.len() <= limit);
        ids.extend(jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

fn lists_come_in_pages(larder: &Larder) {
    let daemon = larder.serve();
    // Jobs that wait, that have failed, and one that was put back.
    let mut asked = Vec::new();
    for n in 0..7 {
        let mut body = json!({"kind": "download", "repo": format!("test/none-{n}")});
        if n % 2 == 0 {
            body["not_before"] = json!("2999-01-01T00:00:00Z");
        }
        asked.push(daemon.post("/v1/jobs", &body).expect(202)["id"].as_str().expect("an id").to_owned());
    }
    for (n, id) in asked.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
        assert_eq!(daemon.wait_job(id, SOON)["state"], "failed", "{n}");
    }
    asked.reverse();
    for limit in [1, 2, 3, 7, 100] {
        assert_eq!(paged(&daemon, "", limit), asked, "in pages of {limit}");
    }
    let failed: Vec<_> =
        asked.iter().rev().enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, id)| id.clone()).collect();
    let failed: Vec<_> = failed.into_iter().rev().collect();
    assert_eq!(paged(&daemon, "&state=failed", 2), failed);
    for cursor in ["x", "1", "-1", "1-x", "99999999999999999999-1"] {
        let request = format!("GET /v1/jobs?cursor={cursor}");
        ask(&daemon.place(), &request, LOCAL, b"").problem(400, "invalid_request");
    }
    for id in &asked {
        daemon.request("DELETE", &format!("/v1/jobs/{id}"), None).expect(202);
    }
}

#[test]
fn jobs_come_in_pages() {
    let hub = Hub::start();
    lists_come_in_pages(&larder!(&hub));
}

#[test]
fn jobs_of_the_fleet_come_in_pages() {
    let (hub, redis) = (Hub::start(), Redis::start());
    lists_come_in_pages(&machine("gpu-1", &redis.tcp_url(), &hub));
}

#[test]
fn models_come_in_pages_and_keys_in_a_header() {
    let hub = Hub::start();
    (1..=3).for_each(|seed| drop(hub.add(models::tiny_gpt2(seed, 20_000))));
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let post = |body: &Value, key: &str| {
        let headers = [("Host", "localhost"), ("Idempotency-Key", key)];
        ask(&daemon.place(), "POST /v1/jobs", &headers, body.to_string().as_bytes())
    };
    let want = |seed: u64| json!({"kind": "download", "repo": format!("test/tiny-gpt2-{seed}")});
    let first = post(&want(1), "night-1").json();
    assert_eq!(first["created"], true);
    assert_eq!(daemon.wait_job(first["id"].as_str().expect("an id"), SOON)["state"], "ready");
    for key in ["night-1", "\"night-1\""] {
        let again = post(&want(1), key).json();
        assert_eq!((&again["id"], &again["created"]), (&first["id"], &json!(false)), "{key}");
    }
    let other = post(&want(2), "night-1").problem(400, "invalid_request");
    assert!(
        other["detail"].as_str().is_some_and(|text| text.contains("asked for something else")),
        "{other}"
    );
    let mut both = want(1);
    both["idempotency_key"] = json!("night-1");
    assert_eq!(post(&both, "night-1").json()["id"], first["id"], "twice the same is no contradiction");
    post(&both, "night-2").problem(400, "invalid_request");
    post(&want(2), &"k".repeat(129)).problem(400, "invalid_request");
    for seed in [2, 3] {
        let job = daemon.post("/v1/jobs", &want(seed)).expect(202);
        daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    }
    let all = daemon.get("/v1/models").expect(200);
    assert_eq!((all["models"].as_array().map(Vec::len), &all["next"]), (Some(3), &Value::Null));
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = daemon.get(&format!("/v1/models?limit=2{cursor}")).expect(200);
        seen.extend(page["models"].as_array().expect("models").clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace('/', "%2F").replace('@', "%40")),
            None => break,
        }
    }
    assert_eq!(json!(seen), all["models"]);
}
