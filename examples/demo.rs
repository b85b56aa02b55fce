//! The main job without a network: a hub on this machine serves a small generated model with true headers,
//! and `larder stage` stages it with the real queue, worker, store and metrics. Leaves nothing behind.
//!
//! `cargo run --release --example demo`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use larder::config::{Environment, Settings, Sources};
use larder::queue::Scope;
use larder::serve::House;
use support::cache::Snapshot;
use support::{Hub, models};
use tower::ServiceExt as _;

const MODEL: &str = "demo/tiny-gpt2";
/// Parameters of the generated model; 48 MB in 32-bit floats.
const PARAMETERS: u64 = 12_000_000;
/// Each connection gets that much, so that there is something to watch.
const BYTES_PER_SECOND: u64 = 1_000_000;

type Answer<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Answer<()> {
    let folder = tempfile::Builder::new().prefix("larder-demo-").tempdir()?;
    let hub = Hub::start();
    hub.add(models::sharded_gpt2(7, PARAMETERS, 3).named(MODEL));
    hub.throttle(Some(BYTES_PER_SECOND));
    let config = folder.path().join("larder.toml");
    std::fs::write(&config, configuration(folder.path(), &hub))?;

    say(&format!("a hub of our own at {} serves {MODEL}", hub.endpoint()));
    let before = metrics(&config)?;
    say(&format!("larder stage {MODEL}"));
    let line = ["larder", "--config", &config.to_string_lossy(), "stage", MODEL];
    if larder::cli::main_from(line.map(Into::into)) != ExitCode::SUCCESS {
        return Err("staging failed".into());
    }

    say("what readers see, each file hashed again");
    let snapshot = Snapshot::read(&folder.path().join("hub"), MODEL, "main").ok_or("no snapshot")?;
    for (path, entry) in &snapshot.files {
        let verdict = if entry.is_true() { "verified" } else { "WRONG" };
        println!("  {verdict}  {:>10}  {path}", entry.size);
    }

    say("what changed in /metrics");
    for (series, value) in metrics(&config)? {
        let old = before.get(&series).map_or("absent", String::as_str);
        if old != value && !series.contains("_bucket") && !series.contains("duration") {
            println!("  {series}  {old} -> {value}");
        }
    }
    drop(hub);
    folder.close()?;
    say("cleaned up; with a network: cargo run --release -- stage openai-community/gpt2");
    Ok(())
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn configuration(folder: &Path, hub: &Hub) -> String {
    let path = folder.display();
    format!(
        "hub.endpoint = \"{}\"\ncache.root = \"{path}/hub\"\ncache.keep_free = \"0%\"\nstate.path = \"{path}/state\"\n",
        hub.endpoint()
    )
}

/// The series that `/metrics` shows for this state folder, by the same API that `larder serve` listens with.
fn metrics(config: &Path) -> Answer<BTreeMap<String, String>> {
    let sources = Sources { file: Some(config.to_owned()), flags: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(async {
        let settings = Settings::load(&sources, &Environment::process())?;
        let house = House::open(settings, Scope::Own).await?;
        let answer = house.router().oneshot(Request::get("/metrics").body(Body::empty())?).await?;
        Answer::Ok(to_bytes(answer.into_body(), 1 << 20).await?)
    })?;
    let lines = std::str::from_utf8(&text)?.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}
