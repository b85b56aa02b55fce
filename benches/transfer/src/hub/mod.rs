//! `transfer-bench hub`: a hub for one model, fast enough to be no contender itself. A process of its own, so that
//! its CPU time can be told apart from the client's.
//!
//! A thread for each connection, answers that were made beforehand, sendfile for whatever is large. It first prints
//! a line with its addresses. For each line on its standard input it prints one with what it has counted since it
//! started, and it ends when the input does.

mod http;
mod routes;

use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use routes::Site;

/// The bounds of the second origin, when it plays a content network far away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most that one connection brings.
    pub(crate) bytes_per_second: u64,
    /// Until the first byte of each answer.
    pub(crate) first_byte: Duration,
}

/// What a connection is capped at in the runs that are called "CDN".
pub(crate) const CDN: Limits = Limits { bytes_per_second: 50_000_000, first_byte: Duration::from_millis(50) };

/// Where the two origins listen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// Of the hub, `http://…` without a slash at the end.
    pub(crate) hub: String,
    /// Of the second origin.
    pub(crate) cdn: String,
}

/// What the hub has counted since its start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Requests for information and listings.
    pub(crate) api: u64,
    /// Requests for a file at its resolve address.
    pub(crate) resolve: u64,
    /// Requests to the second origin.
    pub(crate) cdn: u64,
    /// Answers with an error.
    pub(crate) refused: u64,
    /// Connections to either origin.
    pub(crate) connections: u64,
}

#[derive(Debug, Default)]
struct Counters {
    api: AtomicU64,
    resolve: AtomicU64,
    cdn: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    fn read(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            api: of(&self.api),
            resolve: of(&self.resolve),
            cdn: of(&self.cdn),
            refused: of(&self.refused),
            connections: of(&self.connections),
        }
    }
}

/// Serves the model in `folder` until the standard input ends.
pub(crate) fn serve(folder: &Path, id: &str, commit: &str, limits: Option<Limits>) -> Result<()> {
    let (hub, cdn) = (listen()?, listen()?);
    let address =
        |listener: &TcpListener| anyhow::Ok(format!("http://127.0.0.1:{}", listener.local_addr()?.port()));
    let addresses = Addresses { hub: address(&hub)?, cdn: address(&cdn)? };
    let site = Arc::new(Site::load(folder, id, commit, &addresses)?);
    let counters = Arc::new(Counters::default());
    for (listener, is_cdn) in [(hub, false), (cdn, true)] {
        let (site, counters) = (site.clone(), counters.clone());
        let limits = limits.filter(|_| is_cdn);
        std::thread::spawn(move || accept(&listener, is_cdn, &site, &counters, limits));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&addresses)?)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", serde_json::to_string(&counters.read())?)?;
    }
    Ok(())
}

fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

fn accept(
    listener: &TcpListener,
    is_cdn: bool,
    site: &Arc<Site>,
    counters: &Arc<Counters>,
    limits: Option<Limits>,
) {
    for stream in listener.incoming().flatten() {
        let (site, counters) = (site.clone(), counters.clone());
        counters.connections.fetch_add(1, Ordering::Relaxed);
        // A client that breaks off is its own affair; it will tell.
        let talk = move || {
            let _ = http::talk(stream, limits, |request| site.answer(request, is_cdn, &counters));
        };
        let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(talk);
        if let Err(error) = thread {
            eprintln!("the hub cannot start a thread: {error}");
        }
    }
}

/// Reads a line that the hub has printed.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(line: &str) -> Result<T> {
    if line.is_empty() {
        bail!("the hub has ended");
    }
    serde_json::from_str(line).with_context(|| format!("the hub said {line}"))
}
