//! A Prometheus for one test: the real server on a port of its own, with a folder of its own, asked over its HTTP API.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Place, ask};
use crate::port::Port;
use crate::process::{self, Lines, Output, Running, spawn_followed};

/// How long it may take to start, and promtool to judge.
const PATIENCE: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_millis(50);

/// A Prometheus server; killed and removed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    server: Running,
    lines: Lines,
    port: Port,
    _data: TempDir,
}

/// One series of an answer: its labels, `__name__` among them, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// `data` of an answer of the API of whichever Prometheus is there; the error is its own words.
pub fn get(place: &Place, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
    let form =
        query.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    let form = form.collect::<Vec<_>>().join("&");
    let mut reply = ask(place, &format!("GET {path}?{form}"), &[("Host", "localhost")], b"").json();
    match reply["status"].as_str() {
        Some("success") => Ok(reply["data"].take()),
        _ => Err(reply["error"].as_str().unwrap_or("no answer").to_owned()),
    }
}

impl Prometheus {
    /// Starts one with this configuration; panics with its log when it does not come up, and where it is not installed.
    #[track_caller]
    pub fn start(config: &Path) -> Self {
        let data = tempfile::Builder::new().prefix("larder-prometheus-").tempdir().expect("temp folder");
        // The port is held before the server binds it, so no other test can be given the same.
        let (port, lines) = (Port::free(), Lines::default());
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.path().display()));
        command.arg(format!("--web.listen-address={}", port.address()));
        let server = spawn_followed(&mut command, &lines);
        let mut prometheus = Self { server, lines, port, _data: data };
        let ready = |line: &str| line.contains("Server is ready");
        if prometheus.lines.wait(PATIENCE, ready).is_none() {
            let ended = prometheus.server.wait(Duration::ZERO);
            panic!("Prometheus is not ready ({ended:?})\n{}", prometheus.lines.all().join("\n"));
        }
        prometheus
    }

    /// `data` of an answer of its API; the error is its own words.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        get(&Place::Tcp(self.port.address()), path, query)
    }

    /// What a query gives now; the error is Prometheus' own.
    pub fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let data = self.get("/api/v1/query", &[("query", expr)])?;
        let sample = |one: &Value| {
            let labels = one["metric"].as_object()?.iter();
            let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            Some(Sample { labels: labels.collect(), value: one["value"][1].as_str()?.parse().ok()? })
        };
        let series = data["result"].as_array().filter(|_| data["resultType"] == "vector");
        let series = series.ok_or_else(|| format!("no vector: {data}"))?;
        series.iter().map(sample).collect::<Option<_>>().ok_or_else(|| format!("no samples: {data}"))
    }

    /// The names of all metrics that it has.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let names = self.get("/api/v1/label/__name__/values", &[]).expect("names");
        names.as_array().expect("a list").iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    }

    /// Waits until a query gives something; panics with the state of its targets when the time is over.
    #[track_caller]
    pub fn wait_for(&self, expr: &str, timeout: Duration) {
        let start = Instant::now();
        while self.query(expr).unwrap_or_else(|error| panic!("{expr}: {error}")).is_empty() {
            if start.elapsed() > timeout {
                let targets = self.get("/api/v1/targets", &[]);
                panic!("never: {expr}\n{targets:#?}\n{}", self.lines.all().join("\n"));
            }
            std::thread::sleep(LATER);
        }
    }

    /// Runs `promtool`, which comes with it.
    pub fn promtool(folder: &Path, args: &[&str]) -> Output {
        process::run(Command::new("promtool").args(args).current_dir(folder), PATIENCE)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.server.kill();
        if std::thread::panicking() {
            eprintln!("--- log of Prometheus ---\n{}", self.lines.all().join("\n"));
        }
    }
}
