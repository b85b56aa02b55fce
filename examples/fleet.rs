//! A fleet in one process: hosts that register, say what they have, wait for jobs and take them, by the code of the
//! Redis queue that `larder serve` runs, on a Redis of their own. It measures what they cost at rest and how long a job
//! waits for its host.
//!
//! ```sh
//! cargo run --release --example fleet -- --hosts 1000
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use larder::config::{Config, Environment, Sources};
use larder::queue::{Claimed, Done, JobStore, Redis, Settlement, reap_until};
use larder_jobs::client::Address;
use larder_jobs::{
    HeldModel, HostDisk, HostGpu, HostHealth, HostName, HostRecord, Hosts, Job, Kind, Progress,
};
use support::Dice;
use support::redis::RedisOptions;
use tokio_util::sync::CancellationToken;

/// As often as a worker asks without being told to.
const TICK: Duration = Duration::from_secs(30);
/// As often as `larder serve` counts the jobs.
const COUNT: Duration = Duration::from_secs(30);
/// How long the last job may take.
const LATEST: Duration = Duration::from_secs(30);

/// What a fleet costs its Redis.
#[derive(Parser)]
struct Args {
    /// Hosts
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Models in the cache of each
    #[arg(long, default_value_t = 50)]
    models: usize,
    /// Jobs per second; half for the pool, half for hosts by name
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Seconds of rest, and seconds of work
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// When each job was asked for, and how long those took that were claimed.
#[derive(Default)]
struct Times {
    asked: HashMap<String, Instant>,
    waited: Vec<Duration>,
}

type Shared = Arc<Mutex<Times>>;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    // Two connections each, and the files of this process.
    let files = u64::try_from(args.hosts)? * 2 + 1_000;
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(files * 2), maximum: Some(files * 2) },
    )?;
    let options = RedisOptions::default().directive("maxclients", &files.to_string());
    let server = support::Redis::with(options);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&args, &server))?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}

async fn run(args: &Args, server: &support::Redis) -> Result<(), Box<dyn Error>> {
    let config = Config::load(&Sources::default(), &Environment::of(&[]))?.queue;
    let address = Address::new(&server.url(), "larder")?;
    let (stop, times) = (CancellationToken::new(), Shared::default());
    let empty = server.used_memory();
    let names: Vec<HostName> =
        (0..args.hosts).map(|n| format!("gpu-{n:05}").parse()).collect::<Result<_, _>>()?;
    let mut stores = Vec::new();
    for name in &names {
        let store = Arc::new(Redis::new(address.clone(), config.clone(), name.clone()));
        store.describe(record(args.models), stock(name, args.models)?);
        begin(&store, config.lease.get(), &times, &stop);
        stores.push(store);
    }
    println!("{} hosts with {} models each", args.hosts, args.models);
    let begun = Instant::now();
    while there(server) < args.hosts || stocked(server) < args.hosts {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("all there after {:.1} s", begun.elapsed().as_secs_f64());

    let rest =
        measure(server, args.seconds, tokio::time::sleep(Duration::from_secs(args.seconds.into()))).await;
    let hosts = args.hosts as f64;
    println!("| | per host and second | in all |\n|---|---:|---:|");
    println!("| commands at rest | {:.2} | {:.0}/s |", rest.calls / hosts, rest.calls);
    println!("| of which scripts run inside Redis | {:.2} | {:.0}/s |", rest.inner / hosts, rest.inner);
    let memory = (server.used_memory() - empty) as f64;
    println!("| memory, {:.0} kB each | | {:.1} MB |", memory / hosts / 1e3, memory / 1e6);
    println!("| processor of Redis at rest | | {:.1} % of a core |", rest.processor * 100.0);

    let before = server.used_memory();
    let jobs = u64::from(args.rate) * u64::from(args.seconds);
    let work = measure(server, args.seconds, ask(args, &stores[0], &names, &times)).await;
    settle(&times).await;
    let mut waited = std::mem::take(&mut lock(&times).waited);
    waited.sort_unstable();
    let at = |share: f64| waited[((waited.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "| {} jobs/s: claimed after, p50 / p99 / most | | {:.1} / {:.1} / {:.1} ms |",
        args.rate,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    println!("| processor of Redis at {} jobs/s | | {:.1} % of a core |", args.rate, work.processor * 100.0);
    println!("| commands at {} jobs/s | {:.2} | {:.0}/s |", args.rate, work.calls / hosts, work.calls);
    println!(
        "| memory of a finished job until queue.retention | | {} B |",
        // Buffers of connections come and go meanwhile: of few jobs it may be less than nothing.
        (server.used_memory() as i64 - before as i64) / jobs as i64
    );
    stop.cancel();
    Ok(())
}

/// Everything that a larder does with its queue when nothing else happens.
fn begin(store: &Arc<Redis>, lease: Duration, times: &Shared, stop: &CancellationToken) {
    let (attends, token) = (Arc::clone(store), stop.clone());
    tokio::spawn(async move { attends.attend_until(&token).await });
    let (reaps, token) = (Arc::clone(store), stop.clone());
    tokio::spawn(async move { reap_until(&*reaps, lease, &token).await });
    let counts = Arc::clone(store);
    tokio::spawn(async move {
        loop {
            // A queue that is away is looked at again.
            let _ = counts.stats().await;
            tokio::time::sleep(COUNT).await;
        }
    });
    for kind in Kind::ALL {
        tokio::spawn(work(Arc::clone(store), *kind, Arc::clone(times)));
    }
}

/// A worker of one kind whose jobs take no time.
async fn work(store: Arc<Redis>, kind: Kind, times: Shared) {
    let mut ready = store.ready(kind);
    loop {
        ready.borrow_and_update();
        let wait = match store.claim(kind).await {
            Ok(Claimed::Job(claim)) => {
                let repo = claim.record.job["repo"].as_str().unwrap_or_default().to_owned();
                {
                    let mut times = lock(&times);
                    if let Some(asked) = times.asked.remove(&repo) {
                        times.waited.push(asked.elapsed());
                    }
                }
                let done = Settlement::Done(staged(&repo));
                if let Err(error) = store.settle(claim.record.id, claim.token, done).await {
                    eprintln!("a job was not settled: {error}");
                }
                continue;
            }
            Ok(Claimed::Nothing { wait }) => wait.unwrap_or(TICK).min(TICK),
            Err(_) => Duration::from_secs(1),
        };
        tokio::select! {
            _ = ready.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What a job has come to that staged a model of twelve files.
fn staged(repo: &str) -> Done {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let bytes = 15_231_233_024;
    let progress = Progress {
        commit: commit.parse().ok(),
        bytes_total: Some(bytes),
        bytes_done: bytes,
        bytes_fetched: bytes,
        files_total: Some(12),
        files_done: 12,
        bytes_by_source: [("https://huggingface.co".to_owned(), bytes)].into(),
        ..Progress::default()
    };
    let folder = repo.replace('/', "--");
    Done { path: Some(format!("/var/lib/larder/hub/models--{folder}/snapshots/{commit}")), progress }
}

async fn ask(args: &Args, store: &Redis, names: &[HostName], times: &Shared) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.rate);
    let mut dice = Dice::new(1);
    for n in 0..u64::from(args.rate) * u64::from(args.seconds) {
        tick.tick().await;
        let repo = format!("load/{n}");
        let Ok(model) = repo.parse() else { continue };
        let mut job = Job::download(model);
        let host = usize::try_from(dice.below(names.len() as u64)).unwrap_or_default();
        job.common.hosts = if n % 2 == 0 { Hosts::Pool } else { Hosts::named(names[host].clone()) };
        lock(times).asked.insert(repo, Instant::now());
        if let Err(error) = store.enqueue(job).await {
            eprintln!("a job was not accepted: {error}");
        }
    }
}

/// Until every job was claimed.
async fn settle(times: &Shared) {
    let begun = Instant::now();
    while !lock(times).asked.is_empty() && begun.elapsed() < LATEST {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = lock(times).asked.len();
    if left > 0 {
        println!("{left} jobs were not claimed within {} s", LATEST.as_secs());
    }
}

fn lock(times: &Shared) -> std::sync::MutexGuard<'_, Times> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Per second: calls that came over the network, commands that scripts ran; and the share of a core.
struct Cost {
    calls: f64,
    inner: f64,
    processor: f64,
}

async fn measure(server: &support::Redis, seconds: u32, during: impl Future<Output = ()>) -> Cost {
    let before = counters(server);
    during.await;
    let after = counters(server);
    let per_second = |n: usize| (after[n] - before[n]) / f64::from(seconds);
    Cost { calls: per_second(0), inner: per_second(1) - per_second(0), processor: per_second(2) }
}

/// Calls over the network, all commands, seconds of processor.
fn counters(server: &support::Redis) -> [f64; 3] {
    let text = server.command(&["INFO", "commandstats"]).text();
    let calls = |line: &str| -> f64 {
        let calls = line.split("calls=").nth(1).and_then(|rest| rest.split(',').next());
        calls.and_then(|calls| calls.parse().ok()).unwrap_or_default()
    };
    // What a client sends is a script, a ping of a subscription, or the look at a record.
    let outer = ["cmdstat_evalsha:", "cmdstat_ping:", "cmdstat_subscribe:"];
    let sent = text.lines().filter(|line| outer.iter().any(|word| line.starts_with(word))).map(calls).sum();
    let all = text.lines().filter(|line| line.starts_with("cmdstat_")).map(calls).sum();
    let seconds = |field: &str| server.info(field).parse::<f64>().unwrap_or_default();
    [sent, all, seconds("used_cpu_user") + seconds("used_cpu_sys")]
}

fn there(server: &support::Redis) -> usize {
    usize::try_from(server.command(&["ZCARD", "{larder}:hosts"]).int()).unwrap_or_default()
}

fn stocked(server: &support::Redis) -> usize {
    server.keys("{larder}:stock:*").len()
}

fn record(models: usize) -> HostRecord {
    let gpu = HostGpu {
        name: "NVIDIA H100 80GB HBM3".into(),
        memory_total: Some(85_520_809_984),
        memory_free: Some(84_000_000_000),
    };
    HostRecord {
        v: 1,
        version: env!("CARGO_PKG_VERSION").into(),
        labels: "gpu=h100,zone=a".parse().unwrap_or_default(),
        device: "cuda".into(),
        health: HostHealth { state: "healthy".into(), reasons: Vec::new() },
        gpus: vec![gpu; 8],
        disk: HostDisk {
            total: Some(1 << 42),
            room: Some(1 << 40),
            evictable: Some(1 << 40),
            ..HostDisk::default()
        },
        models: models as u64,
        fetched_bytes_per_second: Some(1e9),
        running: Vec::new(),
    }
}

fn stock(host: &HostName, models: usize) -> Result<Vec<HeldModel>, larder_jobs::Invalid> {
    let held = (0..models).map(|n| {
        Ok(HeldModel {
            host: host.clone(),
            repo: format!("organisation/model-{n}-instruct").parse()?,
            commit: format!("{n:040x}").parse()?,
            bytes: 15_000_000_000,
            last_used_at: None,
        })
    });
    held.collect()
}
