//! Webhooks: signed, tried again, told once a job has ended, also after a restart, and never to where only larder gets.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use support::http::ask;
use support::{Daemon, Hub, Larder, Redis, larder, models};

use crate::access::secret;
use crate::fleet::machine;

const SOON: Duration = Duration::from_secs(60);
const SECRET: &str = "webhook-secret-0123456789";

/// One request that came to a receiver.
#[derive(Debug)]
struct Told {
    head: String,
    body: String,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Somebody who is told: answers these statuses one after the other, the last one for ever. The thread ends with the
/// test's process.
fn receiver(statuses: &'static [&'static str]) -> (String, Receiver<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook?key=in-the-address", listener.local_addr().expect("bound"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let mut stream = stream;
            let status = statuses[n.min(statuses.len() - 1)];
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            let (head, body) = loop {
                let got = stream.read(&mut buffer).unwrap_or(0);
                bytes.extend_from_slice(&buffer[..got]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
                    });
                    if body.len() >= length.unwrap_or(0) {
                        break (head.to_owned(), body.to_owned());
                    }
                }
                if got == 0 {
                    return;
                }
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok();
            if tell.send(Told { head, body }).is_err() {
                return;
            }
        }
    });
    (url, told)
}

/// Lets a larder send to loopback, quickly again.
fn telling(larder: Larder) -> Larder {
    let file = secret(&larder, "webhook", SECRET);
    larder
        .env("LARDER__NOTIFY__SECRET_FILE", file)
        .env("LARDER__NOTIFY__ALLOW_PRIVATE", "true")
        .env("LARDER__NOTIFY__BACKOFF_MIN", "50ms")
}

fn want(url: &str) -> Value {
    json!({"kind": "download", "repo": "test/tiny-gpt2-1", "notify": url})
}

fn counted(daemon: &Daemon, result: &str) -> String {
    let text = daemon.get("/metrics").text;
    let series = format!("larder_webhooks_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("absent").to_owned()
}

/// Waits until so many notices had this result.
fn wait_counted(daemon: &Daemon, result: &str, count: &str) {
    let begun = std::time::Instant::now();
    while counted(daemon, result) != count {
        assert!(begun.elapsed() < SOON, "{result} is {}", counted(daemon, result));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What docs/api.md shows for Python, as it is there.
fn verify_with_the_documents_example(told: &Told) {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).expect("reads");
    let example =
        docs.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let script = format!(
        "{example}\nimport sys\nsecret, signature, body = sys.argv[1:]\n\
         assert is_from_larder(secret, signature, body.encode())\n\
         assert not is_from_larder('another-secret-0123456789', signature, body.encode())\n\
         assert not is_from_larder(secret, signature, body.encode() + b' ')\n\
         old = 't=1000000000,' + signature.split(',')[1]\n\
         assert not is_from_larder(secret, old, body.encode())\n"
    );
    support::python::python(&script, &[SECRET, told.header("larder-signature"), &told.body], &[])
        .expect_code(0);
}

#[test]
fn whoever_asked_is_told_signed_and_until_it_is_taken() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = telling(larder!(&hub));
    let daemon = larder.serve();
    let (url, told) = receiver(&["500 Internal Server Error", "302 Found", "200 OK"]);
    let job = daemon.post("/v1/jobs", &want(&url)).expect(202);
    let id = job["id"].as_str().expect("an id");
    assert_eq!(daemon.wait_job(id, SOON)["state"], "ready");
    let tries: Vec<Told> = (0..3).map(|_| told.recv_timeout(SOON).expect("told")).collect();
    wait_counted(&daemon, "delivered", "1");
    assert_eq!(counted(&daemon, "retried"), "2");
    for told in &tries {
        let body = told.json();
        assert_eq!(
            (&body["event"], &body["job"]["id"], &body["job"]["state"]),
            (&json!("job.ended"), &json!(id), &json!("ready"))
        );
        assert_eq!(told.header("larder-delivery"), body["delivery"].as_str().expect("a number"));
        assert_eq!(body["delivery"], tries[0].json()["delivery"], "the same number each time");
        assert!(told.head.starts_with("POST /hook?key=in-the-address HTTP/1.1"), "{}", told.head);
        verify_with_the_documents_example(told);
    }
    let log = daemon.logs().join("\n");
    assert!(!log.contains(SECRET) && !log.contains("in-the-address"), "{log}");
    assert!(told.try_recv().is_err(), "what was taken is not sent again");
}

#[test]
fn everybody_who_joined_is_told_and_so_is_the_operator() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let (operator, to_operator) = receiver(&["204 No Content"]);
    let larder = telling(larder!(&hub)).env("LARDER__NOTIFY__URL", operator);
    let daemon = larder.serve();
    let (one, to_one) = receiver(&["200 OK"]);
    let (two, to_two) = receiver(&["200 OK"]);
    let mut later = want(&one);
    later["not_before"] = json!("2999-01-01T00:00:00Z");
    let id = daemon.post("/v1/jobs", &later).expect(202)["id"].as_str().expect("an id").to_owned();
    let joined = daemon.post("/v1/jobs", &want(&two)).expect(202);
    assert_eq!((joined["id"].as_str(), &joined["created"]), (Some(id.as_str()), &json!(false)));
    for told in [&to_one, &to_two, &to_operator] {
        assert_eq!(told.recv_timeout(SOON).expect("told").json()["job"]["id"], json!(id));
    }
    // A failure is an end as well.
    let failed = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "test/none"})).expect(202);
    let body = to_operator.recv_timeout(SOON).expect("told").json();
    assert_eq!((&body["job"]["id"], &body["job"]["reason"]), (&failed["id"], &json!("not_found")));
}

#[test]
fn a_restart_forgets_no_notice() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let mut larder = telling(larder!(&hub));
    larder.set_env("LARDER__NOTIFY__BACKOFF_MIN", "1s");
    let mut daemon = larder.serve();
    // Nobody is there yet.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let job = daemon.post("/v1/jobs", &want(&format!("http://{free}/hook"))).expect(202);
    daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    wait_counted(&daemon, "retried", "1");
    daemon.kill9();
    drop(daemon);
    let listener = TcpListener::bind(free).expect("still free");
    let daemon = larder.serve();
    let (mut stream, _) = listener.accept().expect("it comes");
    let mut bytes = [0; 4096];
    let got = stream.read(&mut bytes).expect("a request");
    assert!(String::from_utf8_lossy(&bytes[..got]).contains("larder-delivery"));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("answered");
    wait_counted(&daemon, "delivered", "1");
}

#[test]
fn notices_do_not_go_where_only_larder_gets_and_not_unsigned() {
    let hub = Hub::start();
    let mut larder = telling(larder!(&hub));
    larder.set_env("LARDER__NOTIFY__ALLOW_PRIVATE", "false");
    let daemon = larder.serve();
    let post = |daemon: &Daemon, url: &str| {
        ask(&daemon.place(), "POST /v1/jobs", &[("Host", "x")], want(url).to_string().as_bytes())
    };
    for url in [
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://0x7f.1/",
        "http://10.1.2.3/",
        "ftp://example.com/",
        "https://u:p@example.com/",
        "nowhere",
    ] {
        post(&daemon, url).problem(400, "invalid_request");
    }
    // A name tells only when it is resolved.
    let (url, told) = receiver(&["200 OK"]);
    let url = url.replace("127.0.0.1", "localhost");
    let job = post(&daemon, &url).json();
    daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    wait_counted(&daemon, "refused", "1");
    assert!(told.try_recv().is_err());
    let lines: Vec<_> =
        daemon.logs().into_iter().filter(|line| line.contains("a notice is not sent")).collect();
    assert!(lines.len() == 1 && lines[0].contains("allow_private"), "{lines:?}");
    drop(daemon);
    larder.set_env("LARDER__NOTIFY__SECRET_FILE", "");
    let daemon = larder.serve();
    let problem = post(&daemon, "https://hooks.example/").problem(400, "invalid_request");
    assert!(problem["hint"].as_str().expect("a hint").contains("notify.secret_file"));
}

#[test]
fn a_webhook_to_nowhere_is_given_up_and_told_once() {
    let hub = Hub::start();
    let mut larder = telling(larder!(&hub));
    larder.set_env("LARDER__NOTIFY__ATTEMPTS", "3");
    let daemon = larder.serve();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let job = daemon.post("/v1/jobs", &want(&format!("http://{free}/geheim"))).expect(202);
    daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    wait_counted(&daemon, "failed", "1");
    assert_eq!(counted(&daemon, "retried"), "2");
    let lines: Vec<_> = daemon.logs().into_iter().filter(|line| line.contains("given up")).collect();
    assert!(
        lines.len() == 1 && lines[0].contains(&free.to_string()) && !lines[0].contains("geheim"),
        "{lines:?}"
    );
}

#[test]
fn jobs_of_the_fleet_tell_as_well() {
    let (hub, redis) = (Hub::start(), Redis::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    let (one, to_one) = receiver(&["200 OK"]);
    let (two, to_two) = receiver(&["200 OK"]);
    // One of them hears of every end as well, which is no reason to tell it twice.
    let larder = telling(machine("gpu-1", &redis.tcp_url(), &hub)).env("LARDER__NOTIFY__URL", &two);
    let daemon = larder.serve();
    let mut later = want(&one);
    later["not_before"] = json!("2999-01-01T00:00:00Z");
    let first = daemon.post("/v1/jobs", &later).expect(202);
    let second = daemon.post("/v1/jobs", &want(&two)).expect(202);
    assert_eq!(first["id"], second["id"]);
    for told in [&to_one, &to_two] {
        assert_eq!(told.recv_timeout(SOON).expect("told").json()["job"]["id"], first["id"]);
    }
    wait_counted(&daemon, "delivered", "2");
    assert!(to_two.try_recv().is_err());
}

#[test]
fn a_night_tells_when_all_of_it_has_ended_and_a_key_answers_it() {
    let (hub, redis) = (Hub::start(), Redis::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    hub.add(models::tiny_gpt2(2, 20_000));
    for larder in [telling(larder!(&hub)), telling(machine("gpu-1", &redis.tcp_url(), &hub))] {
        let daemon = larder.serve();
        let (url, told) = receiver(&["200 OK"]);
        let manifest = "[[models]]\nmodel = \"test/tiny-gpt2-1\"\n[[models]]\nmodel = \"test/tiny-gpt2-2\"\n";
        let mut body =
            json!({"manifest": manifest, "name": "night", "notify": url, "idempotency_key": "night-1"});
        let asked = daemon.post("/v1/warm/jobs", &body).expect(202);
        assert_eq!(asked["created"], true, "{asked}");
        let end = told.recv_timeout(SOON).expect("told").json();
        assert_eq!((&end["event"], &end["job"]["id"]), (&json!("batch.ended"), &asked["id"]), "{end}");
        assert_eq!(end["job"]["state"], "ready");
        assert_eq!(end["job"]["children"].as_array().map(Vec::len), Some(2));
        let again = daemon.post("/v1/warm/jobs", &body).expect(202);
        assert_eq!((&again["id"], &again["created"]), (&asked["id"], &json!(false)));
        wait_counted(&daemon, "delivered", "1");
        let other =
            json!({"manifest": "[[models]]\nmodel = \"test/tiny-gpt2-1\"\n", "idempotency_key": "night-1"});
        let refused = daemon.post("/v1/warm/jobs", &other).expect(400);
        assert!(refused["detail"].to_string().contains("asked for something else"), "{refused}");
        body["notify"] = json!("https://user:secret@hooks.example/");
        let refused = daemon.post("/v1/warm/jobs", &body).expect(400);
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
}

#[test]
fn what_ends_without_a_larder_tells_as_well() {
    let (hub, redis) = (Hub::start(), Redis::start());
    let (mute, able) = (machine("gpu-1", &redis.tcp_url(), &hub), machine("gpu-2", &redis.tcp_url(), &hub));
    let able = telling(able);
    let (quiet, teller) = (mute.serve(), able.serve());
    let (url, told) = receiver(&["200 OK"]);
    let mut later = want(&url);
    later["not_before"] = json!("2999-01-01T00:00:00Z");
    later["hosts"] = json!(["gpu-1"]);
    let id = teller.post("/v1/jobs", &later).expect(202)["id"].as_str().expect("an id").to_owned();
    // The host that calls it off has no secret to sign with; the other one has.
    quiet.request("DELETE", &format!("/v1/jobs/{id}"), None).expect(202);
    let end = told.recv_timeout(SOON).expect("told").json();
    assert_eq!(
        (&end["job"]["id"], &end["job"]["state"], &end["host"]),
        (&json!(id), &json!("cancelled"), &json!("gpu-2"))
    );
    // A request that no larder takes.
    let request = json!({"kind": "download", "repo": "test/none", "hosts": ["gpu-1"], "notify": url, "priority": "high"});
    redis.command(&["FCALL", "larder_enqueue", "1", "{larder}:", &request.to_string()]);
    let end = told.recv_timeout(SOON).expect("told").json();
    assert_eq!(
        (&end["job"]["state"], &end["job"]["reason"]),
        (&json!("failed"), &json!("invalid_request")),
        "{end}"
    );
}

#[test]
fn whoever_asked_is_told_that_the_host_of_a_job_is_gone() {
    let (hub, redis) = (Hub::start(), Redis::start());
    hub.add(models::tiny_gpt2(1, 20_000));
    let at = |name: &str| {
        telling(machine(name, &redis.tcp_url(), &hub))
            .env("LARDER__QUEUE__GONE", "fail")
            .env("LARDER__QUEUE__GONE_AFTER", "10s")
    };
    let machines = ["gpu-1", "gpu-2", "gpu-3"].map(at);
    let [one, leaving, two] = machines.each_ref().map(Larder::serve);
    let (url, told) = receiver(&["200 OK"]);
    let mut later = want(&url);
    later["hosts"] = json!(["gpu-2"]);
    later["not_before"] = json!("2999-01-01T00:00:00Z");
    let job = one.post("/v1/jobs", &later).expect(202);
    let mut leaving = leaving;
    leaving.allow(support::Tripwire::Jobs);
    leaving.terminate(SOON);
    let told_of = told.recv_timeout(SOON).expect("told").json();
    assert_eq!(
        (&told_of["job"]["id"], &told_of["job"]["state"], &told_of["job"]["reason"]),
        (&job["id"], &json!("failed"), &json!("host_gone")),
        "{told_of}"
    );
    assert!(told_of["job"]["message"].as_str().is_some_and(|why| why.contains("gpu-2 is gone")), "{told_of}");
    // Both of those who are left looked after it, and one of them told.
    let delivered = || [&one, &two].map(|daemon| counted(daemon, "delivered"));
    let begun = std::time::Instant::now();
    while !delivered().contains(&"1".to_owned()) {
        assert!(begun.elapsed() < SOON, "{:?}", delivered());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(told.try_recv().is_err() && delivered().contains(&"0".to_owned()), "{:?}", delivered());
}
