//! The simulated host: the real `larder serve` with a hub of its own, GPUs of a file, and people who want models.
//!
//! What takes days elsewhere takes minutes here: the cache has room for two thirds of the models, models are
//! small, each connection is slow, and somebody asks every second.
//!
//! - [`shelf`]: the hub, its models, and what is wrong with some of them;
//! - [`cards`]: GPUs whose memory fills and empties;
//! - [`engines`]: processes that hold what is staged, so that predictions are compared;
//! - [`traffic`]: who asks for what;
//! - [`history`]: a Prometheus that knows it, and the days before, which [`past`] makes up out of
//!   [`tides`].

mod cards;
mod engines;
mod history;
mod page;
mod past;
mod shelf;
mod tides;
mod traffic;

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use fake_nvml::Fake;
use jiff::Timestamp;
use past::Past;
use support::Hub;

type Answer<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: host [--listen ADDRESS] [--folder FOLDER] [--prometheus ADDRESS [--days NUMBER]]
  --listen ADDRESS      where page, metrics and API are [default: 127.0.0.1:7717; port 0 is any free one]
  --folder FOLDER       where cache and state are, and stay [default: a temporary folder, removed at the end]
  --prometheus ADDRESS  starts a Prometheus there that scrapes it (needs prometheus and promtool)
  --days NUMBER         the days before that it knows, made up [default: 3]";
/// The host's name, in its own words and in Prometheus.
const NAME: &str = "simulated-1";
/// Days before that Prometheus knows, unless somebody says another number, and at most.
const DAYS: i64 = 3;
const MOST_DAYS: i64 = 30;

/// What was asked for.
struct Options {
    listen: SocketAddr,
    folder: Option<PathBuf>,
    prometheus: Option<SocketAddr>,
    days: i64,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 7717));
        let mut options = Self { listen, folder: None, prometheus: None, days: DAYS };
        let address = |value: &str| value.parse().map_err(|_| format!("`{value}` is no ip:port"));
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value, or is unknown"))?;
            match flag.as_str() {
                "--listen" => options.listen = address(&value)?,
                "--prometheus" => options.prometheus = Some(address(&value)?),
                "--days" => {
                    let days = value.parse().ok().filter(|days| (0..=MOST_DAYS).contains(days));
                    options.days =
                        days.ok_or_else(|| format!("`{value}` is no number of days up to {MOST_DAYS}"))?;
                }
                "--folder" => options.folder = Some(value.into()),
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(options)
    }
}

/// Runs until SIGINT or SIGTERM. Once in a process, since larder starts its log.
pub(crate) fn run(args: impl Iterator<Item = String>) -> ExitCode {
    let options = match Options::read(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    simulate(&options).unwrap_or_else(|error| {
        eprintln!("the simulated host failed: {error}");
        ExitCode::FAILURE
    })
}

fn simulate(options: &Options) -> Answer<ExitCode> {
    let temporary = tempfile::Builder::new().prefix("larder-host-").tempdir()?;
    let folder = options.folder.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder)?;
    let address = free(options.listen)?;
    let hub = shelf::open();
    let gpus = Fake::new(&cards::at(0, None))?;
    let config = folder.join("larder.toml");
    std::fs::write(night(folder), shelf::NIGHT)?;
    std::fs::write(&config, configuration(folder, &hub, &gpus, address))?;
    println!(
        "a simulated host: {} GPUs, {} models, room for two thirds of them",
        cards::NUMBER,
        shelf::MODELS.len()
    );
    println!("  page     http://{address}/");
    println!("  metrics  http://{address}/metrics");
    println!("  command  larder --api-url http://{address} jobs");
    let _prometheus = match options.prometheus {
        Some(listen) => Some(watched(folder, free(listen)?, address, &hub, options.days)?),
        None => None,
    };
    println!("Ctrl-C ends it");

    let (stop, held) = (AtomicBool::new(false), engines::Held::default());
    let code = std::thread::scope(|scope| {
        scope.spawn(|| cards::move_until(&gpus, &held, &stop));
        scope.spawn(|| traffic::flow_until(address, &hub, &folder.join("hub"), &held, &stop));
        let line = ["larder", "--config", &config.to_string_lossy(), "serve"];
        let code = larder::cli::main_from(line.map(Into::into));
        stop.store(true, Ordering::Relaxed);
        code
    });
    temporary.close()?;
    Ok(code)
}

/// A Prometheus with so many days of history, which goes on to scrape the host.
fn watched(
    folder: &Path,
    listen: SocketAddr,
    address: SocketAddr,
    hub: &Hub,
    days: i64,
) -> Answer<history::Prometheus> {
    let data = folder.join("prometheus");
    let _ = std::fs::remove_dir_all(&data);
    std::fs::create_dir_all(&data)?;
    let ends = Timestamp::now().as_second();
    let begins = ends - days * 24 * 3_600;
    let mut past = Past::new(place(folder, hub)?, begins, ends);
    history::backfill(&mut past, (begins, ends), &data)?;
    let server = history::start(folder, &data, listen, (NAME, address))?;
    println!(
        "  history  http://{listen}/  a Prometheus that scrapes it and knows {days} days before, made up"
    );
    Ok(server)
}

/// What the past has in common with the host of now.
fn place(folder: &Path, hub: &Hub) -> Answer<past::Place> {
    let usage = larder::disk::usage(folder)?;
    let mountpoint = larder::disk::mountpoint(folder);
    Ok(past::Place {
        instance: NAME.into(),
        source: hub.endpoint(),
        mountpoint: mountpoint.map_or_else(|| "unknown".into(), |mount| mount.to_string_lossy().into_owned()),
        disk: (usage.total, usage.free),
        manifest: night(folder),
    })
}

/// The address, with the port that the system chose for port 0.
fn free(listen: SocketAddr) -> Answer<SocketAddr> {
    let taken = |error| format!("cannot listen on {listen}: {error}; --listen 127.0.0.1:0 takes a free port");
    Ok(TcpListener::bind(listen).and_then(|listener| listener.local_addr()).map_err(taken)?)
}

/// The manifest of what should be there by morning.
fn night(folder: &Path) -> PathBuf {
    folder.join("night.toml")
}

/// A host in a hurry: everything that takes hours or days is told to take seconds.
fn configuration(folder: &Path, hub: &Hub, gpus: &Fake, address: SocketAddr) -> String {
    let night = night(folder);
    let (folder, endpoint, library) = (folder.display(), hub.endpoint(), gpus.library());
    let capacity = shelf::ROOM;
    format!(
        r#"
        host.name = "{NAME}"
        hub = {{ endpoint = "{endpoint}", offline = false, connections = 8, stall_timeout = "3s" }}
        api.listen = "{address}"
        state.path = "{folder}/state"
        gpu = {{ nvml_library = "{}", interval = "1s", give_up_after = "0s" }}
        log.level = "warn"

        [queue]
        max_attempts = 3
        backoff_min = "500ms"
        backoff_max = "2s"
        max_finished = 500

        [cache]
        root = "{folder}/hub"
        capacity = "{capacity}"
        keep_free = "0%"
        min_age = "10s"
        check_every = "5s"
        reconcile_every = "1m"
        scrub_every = "1h"
        verify_bandwidth = "20MB"

        # A night every five minutes.
        [[warm]]
        manifest = {night:?}
        schedule = "*/5 * * * *"
        zone = "UTC"
        "#,
        library.display()
    )
}
