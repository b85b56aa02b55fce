//! `/metrics` of a live larder against `docs/metrics.md`: every family, its type and labels, zeros at birth, true numbers
//! after a staging, and no waiting for a hub that stands still.

mod hung;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::http::{Reply, ask};
use support::{Daemon, Fault, Hub, Larder, Model, Tripwire, models};

const SOON: Duration = Duration::from_secs(60);

fn larder(hub: &Hub) -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).hub(hub)
}

pub(crate) fn scrape(daemon: &Daemon, headers: &[(&str, &str)]) -> Reply {
    let reply = ask(&daemon.place(), "GET /metrics", &[&[("Host", "localhost")], headers].concat(), b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn text(daemon: &Daemon) -> String {
    scrape(daemon, &[]).text()
}

/// Type and label names.
type Shape = (String, BTreeSet<String>);

/// The families of the table in docs/metrics.md that every worker has.
fn documented() -> BTreeMap<String, Shape> {
    table("| `larder_", 1, 2)
}

/// Those of the table of what appears with what it tells.
pub(crate) fn documented_later() -> BTreeMap<String, Shape> {
    table("| gauge | `larder_", 2, 1)
}

/// The rows that begin so; the names are in one column, the type in another.
fn table(begin: &str, names: usize, kind: usize) -> BTreeMap<String, Shape> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md");
    let mut families = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with(begin)) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for name in cells[names].split(", ").map(|name| name.trim_matches('`')) {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            families.insert(name.to_owned(), (cells[kind].to_owned(), labels.map(str::to_owned).collect()));
        }
    }
    // Labels of several names in one cell are not split.
    assert!(families.len() > 20, "the table is read: {families:?}");
    families
}

/// The families of a scrape with the label names of all their series.
pub(crate) fn families(text: &str) -> BTreeMap<String, Shape> {
    let mut families: BTreeMap<String, Shape> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let twice = families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert!(twice.is_none(), "{name} has two families");
        }
    }
    for (name, labels, _) in series(text) {
        let family = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        let family =
            family.into_iter().find(|family| families.contains_key(*family)).unwrap_or(&name).to_owned();
        let shape = families.get_mut(&family).unwrap_or_else(|| panic!("{name} has no TYPE line"));
        shape.1.extend(labels.into_keys().filter(|label| label != "le"));
    }
    families
}

/// Name, labels and value of each series. No label value in these tests holds a comma or a quote.
pub(crate) fn series(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let parse = |line: &str| {
        let (head, value) = line.rsplit_once(' ')?;
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
        Some((name.to_owned(), labels, value.parse().ok()?))
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("no series: {line}"))).collect()
}

/// The sum of the family's series whose labels have all these values; `None` if there is no such series.
pub(crate) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |found: &BTreeMap<String, String>| {
        labels.iter().all(|(key, value)| found.get(*key).is_some_and(|known| known == value))
    };
    let values: Vec<f64> = series(text)
        .into_iter()
        .filter(|(n, found, _)| n == name && fits(found))
        .map(|(.., value)| value)
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Scrapes until the samplers have seen what `ready` asks for.
pub(crate) fn scrape_until(daemon: &Daemon, ready: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let text = text(daemon);
        if ready(&text) {
            return text;
        }
        assert!(start.elapsed() < SOON, "never in a scrape:\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn stage(daemon: &Daemon, repo: &str, state: &str) {
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": repo})).expect(202);
    assert_eq!(daemon.wait_job(job["id"].as_str().expect("an id"), SOON)["state"], state);
}

#[test]
fn counters_are_born_at_zero() {
    let hub = Hub::start();
    let larder = larder(&hub);
    let daemon = larder.serve();
    let text = scrape_until(&daemon, |text| text.contains("larder_queue_up 1"));
    for (name, _) in documented().into_iter().filter(|(_, (kind, _))| kind == "counter") {
        assert_eq!(sum(&text, &name, &[]), Some(0.0), "{name} before anything happened");
    }
    for kind in larder_jobs::Kind::ALL {
        for result in [if kind.word() == "download" { "ready" } else { "done" }, "failed", "cancelled"] {
            let labels = [("kind", kind.word()), ("result", result)];
            assert_eq!(
                sum(&text, "larder_job_duration_seconds_count", &labels),
                Some(0.0),
                "{kind} {result}"
            );
        }
    }
    for code in ["401", "403", "404", "429", "503"] {
        let labels = [("source", hub.endpoint()), ("code", code.to_owned())];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(sum(&text, "larder_http_responses_total", &labels), Some(0.0), "{code}");
    }
    for state in larder_jobs::State::ALL {
        assert_eq!(
            sum(&text, "larder_jobs", &[("kind", "download"), ("state", state.word())]),
            Some(0.0),
            "{state}"
        );
    }
    for reason in larder_jobs::Reason::ALL {
        let labels = [("kind", "download"), ("reason", reason.word())];
        assert_eq!(sum(&text, "larder_jobs_failed_total", &labels), Some(0.0), "{reason}");
    }
    assert_eq!(sum(&text, "larder_model_info", &[]), None, "no model, no series");
    assert_eq!(sum(&text, "larder_models_omitted", &[]), Some(0.0));
}

#[test]
fn a_staging_shows_and_the_documents_tell_the_truth() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 200_000);
    let (bytes, commit) = (model.bytes(), hub.add(model.clone()));
    let larder = larder(&hub);
    let daemon = larder.serve();
    stage(&daemon, model.id(), "ready");
    stage(&daemon, "test/none", "failed");
    let text = scrape_until(&daemon, |text| {
        sum(text, "larder_jobs", &[("state", "ready")]) == Some(1.0)
            && sum(text, "larder_jobs", &[("state", "failed")]) == Some(1.0)
    });
    let (want, have) = (documented(), families(&text));
    let ours = have.keys().filter(|name| name.starts_with("larder_"));
    assert_eq!(
        ours.collect::<Vec<_>>(),
        want.keys().collect::<Vec<_>>(),
        "a live scrape against docs/metrics.md"
    );
    for (name, (kind, labels)) in &want {
        let (live, found) = &have[name];
        assert_eq!((kind, labels), (live, found), "type and labels of {name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is explained");
    }
    let bytes = f64::from(u32::try_from(bytes).expect("a small model"));
    let repo = ("repo", model.id());
    let endpoint = hub.endpoint();
    for (name, labels, value) in [
        ("larder_download_bytes_total", vec![("source", endpoint.as_str())], bytes),
        ("larder_model_bytes", vec![repo], bytes),
        (
            "larder_model_info",
            vec![repo, ("commit", &commit), ("format", "safetensors"), ("quantization", "")],
            1.0,
        ),
        ("larder_cache_used_bytes", vec![("class", "evictable")], bytes),
        ("larder_download_resumed_bytes_total", vec![], 0.0),
        ("larder_download_wasted_bytes_total", vec![], 0.0),
        ("larder_jobs_failed_total", vec![("reason", "not_found")], 1.0),
        ("larder_jobs_failed_total", vec![], 1.0),
        ("larder_job_duration_seconds_count", vec![("kind", "download"), ("result", "ready")], 1.0),
        ("larder_job_duration_seconds_count", vec![("result", "failed")], 1.0),
        ("larder_build_info", vec![("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ("larder_collect_success", vec![("collector", "disk")], 1.0),
    ] {
        assert_eq!(sum(&text, name, &labels), Some(value), "{name}{labels:?}\n{text}");
    }
    assert!(sum(&text, "larder_model_last_used_timestamp_seconds", &[repo]).is_some_and(|at| at > 1.7e9));
    assert!(sum(&text, "larder_disk_free_bytes", &[]).is_some_and(|free| free > 0.0));
    check_with_promtool(&text);
}

#[test]
fn series_of_an_evicted_model_are_gone_at_the_next_scrape() {
    let hub = Hub::start();
    let (going, staying) = (models::tiny_gpt2(1, 50_000), models::tiny_gpt2(2, 60_000));
    [&going, &staying].into_iter().for_each(|model| drop(hub.add(model.clone())));
    let larder = larder(&hub);
    let daemon = larder.serve();
    let of = |text: &str, model: &Model| {
        let own = series(text)
            .into_iter()
            .filter(|(_, labels, _)| labels.get("repo").is_some_and(|repo| repo == model.id()));
        own.map(|(name, ..)| name).collect::<BTreeSet<_>>()
    };
    let all = ["larder_model_bytes", "larder_model_info", "larder_model_last_used_timestamp_seconds"];
    let all = BTreeSet::from(all.map(str::to_owned));
    for model in [&going, &staying] {
        stage(&daemon, model.id(), "ready");
    }
    let before = text(&daemon);
    assert_eq!((of(&before, &going), of(&before, &staying)), (all.clone(), all.clone()), "{before}");

    let job = daemon.post("/v1/jobs", &json!({"kind": "evict", "repo": going.id()})).expect(202);
    assert_eq!(daemon.wait_job(job["id"].as_str().expect("an id"), SOON)["state"], "done");
    // No waiting: the very next one.
    let after = text(&daemon);
    assert_eq!((of(&after, &going), of(&after, &staying)), (BTreeSet::new(), all), "{after}");
    assert_eq!(sum(&after, "larder_evictions_total", &[("reason", "requested")]), Some(1.0));
}

/// Prometheus' own judge of the format, where it is installed.
fn check_with_promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return println!("skipped: promtool is not installed") };
    child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_format_is_exact_and_compressed_when_asked_for() {
    let hub = Hub::start();
    let larder = larder(&hub);
    let daemon = larder.serve();
    let plain = scrape(&daemon, &[]);
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(plain.header("content-encoding"), "");
    assert!(plain.text().ends_with('\n'));
    let packed = scrape(&daemon, &[("Accept-Encoding", "gzip")]);
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(packed.header("content-type"), plain.header("content-type"));
    assert!(packed.body.len() < plain.body.len() / 2, "{} of {} bytes", packed.body.len(), plain.body.len());
    let mut gunzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    gunzip.stdin.take().expect("stdin").write_all(&packed.body).expect("gzip reads");
    let unpacked = gunzip.wait_with_output().expect("gzip ends");
    assert!(unpacked.status.success(), "the body is gzip");
    let unpacked = String::from_utf8(unpacked.stdout).expect("UTF-8");
    assert_eq!(
        families(&unpacked).keys().collect::<Vec<_>>(),
        families(&plain.text()).keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_scrape_does_not_wait_for_a_hub() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    hub.fault(Fault::on("/api/models/").stall(0).always());
    let larder = larder(&hub);
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Jobs);
    let job = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": "test/tiny-gpt2-1"})).expect(202);
    assert!(hub.wait_for_stalled(1, SOON), "the hub stands still");
    for path in ["/metrics", "/healthz", "/readyz"] {
        let start = Instant::now();
        assert_eq!(daemon.get(path).status, 200, "{path}");
        assert!(start.elapsed() < Duration::from_secs(5), "{path} took {:?}", start.elapsed());
    }
    scrape_until(&daemon, |text| sum(text, "larder_jobs", &[("state", "planning")]) == Some(1.0));
    hub.clear_faults();
    hub.release();
    daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
}
