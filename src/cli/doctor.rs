//! `larder doctor`: what works here, what larder can and cannot see, and what to do about it.

use std::path::Path;
use std::time::Duration;

use axum::http::Method;
use jiff::Timestamp;
use larder_jobs::client as fleet;
use larder_jobs::{Reason, Size};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::output::{Output, at};
use super::{FAILED, OK};
use crate::config::Settings;
use crate::disk;
use crate::error::{Error, Result};
use crate::layout::{self, Inventory, Probe, RepoEntry, probe};
use crate::ledger::Repaired;

/// How long a probe waits; whoever probes does so again.
const PROBE: Duration = Duration::from_secs(2);

/// What `GET /readyz` says of a larder that is ready.
#[derive(Deserialize, Serialize)]
struct Ready {
    ready: bool,
    host: String,
    version: String,
    eviction_off_until: Option<Timestamp>,
}

/// How it stands with one thing.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// `ok`, `warning` or `problem`.
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Problem,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, state: State::Ok, found: found.into(), hint: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what, state: State::Warning, found: found.into(), hint: Some(hint.into()) }
    }

    fn problem(what: &'static str, error: &Error) -> Self {
        let (found, hint) = (error.to_string(), Some(error.hint().to_owned()));
        Self { what, state: State::Problem, found, hint }
    }
}

pub(super) async fn run(settings: Settings, reconcile: bool, output: &Output) -> Result<u8> {
    let mut findings = vec![larder(&settings).await];
    findings.extend(queue(&settings).await);
    let root = settings.cache_root.clone();
    findings.extend(tokio::task::spawn_blocking(move || cache(&root)).await.map_err(died)?);
    if reconcile {
        findings.push(reconciled(settings).await);
    }
    output.print(&findings, || human(&findings))?;
    Ok(if findings.iter().any(|finding| finding.state == State::Problem) { FAILED } else { OK })
}

/// `larder doctor --ready`, for whoever probes: containers, service managers, scripts.
///
/// # Errors
/// `queue_unavailable` if nobody serves the state folder or nothing is said in time; else why larder is not ready.
pub(super) async fn ready(settings: &Settings, output: &Output) -> Result<u8> {
    let socket = settings.socket();
    let client = Client::on_socket(&socket)?;
    let asked = tokio::time::timeout(PROBE, client.call::<Ready>(Method::GET, "/readyz", None));
    let ready = asked.await.unwrap_or_else(|_| {
        Err(Error::new(
            Reason::QueueUnavailable,
            format!("the larder at {} said nothing for {} s", socket.display(), PROBE.as_secs()),
            "see its log, and what else the host is busy with",
        ))
    })?;
    output.print(&ready, || format!("{} is ready, larder {}", ready.host, ready.version))?;
    Ok(OK)
}

fn died(died: impl std::fmt::Display) -> Error {
    Error::internal(format!("looking at the cache died: {died}"))
}

async fn larder(settings: &Settings) -> Finding {
    match Client::larder(settings).await {
        Ok(Some(_)) => Finding::ok("larder", format!("runs for {}", settings.state_dir.display())),
        Ok(None) => Finding::warning(
            "larder",
            format!("nobody serves {}", settings.state_dir.display()),
            "start larder serve; without it nothing keeps to the watermarks, and leases and pins are only kept",
        ),
        Err(error) => Finding::problem("larder", &error),
    }
}

/// How it stands with the Redis of a fleet, in which jobs are as safe as it keeps its data.
async fn queue(settings: &Settings) -> Vec<Finding> {
    let Some((address, _)) = settings.fleet.clone() else { return Vec::new() };
    let server = match fleet::Client::new(address).server().await {
        Ok(server) => server,
        Err(error) => return vec![Finding::problem("queue", &error.into())],
    };
    let found = format!("{} has Redis {}", server.place, server.version);
    let mut findings = Vec::new();
    if !server.append_only {
        findings.push(Finding::warning(
            "queue",
            format!("{found} without an append-only file: a crash of it loses accepted jobs"),
            "set appendonly yes in Redis",
        ));
    }
    if server.evicts {
        findings.push(Finding::warning(
            "queue",
            format!("{found}, which throws keys away when its memory is full, also jobs"),
            "set maxmemory-policy noeviction in Redis",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("queue", found));
    }
    findings
}

/// What can be seen of the cache, and of who uses it. Blocks.
fn cache(root: &Path) -> Vec<Finding> {
    let inventory = match layout::scan(root) {
        Ok(inventory) => inventory,
        Err(error) => return vec![Finding::problem("cache", &error)],
    };
    let mut findings = vec![room(root), contents(root, &inventory)];
    for problem in &inventory.problems {
        findings.push(Finding::problem("cache", problem));
    }
    findings.push(in_use(&inventory));
    findings
}

fn room(root: &Path) -> Finding {
    match disk::usage(root) {
        Ok(usage) => {
            let inodes = usage.inodes.map(|(total, free)| format!(", {free} of {total} inodes"));
            let (free, total) = (Size(usage.free), Size(usage.total));
            Finding::ok("disk", format!("{free} of {total} are free{}", inodes.unwrap_or_default()))
        }
        Err(error) => Finding::problem("disk", &error),
    }
}

fn contents(root: &Path, inventory: &Inventory) -> Finding {
    let revisions: usize = inventory.repos.iter().map(|repo| repo.revisions.len()).sum();
    let halves = inventory.repos.iter().flat_map(|repo| &repo.revisions).filter(|one| !one.complete).count();
    let partial: u64 = inventory.repos.iter().flat_map(|repo| &repo.partials).map(|one| one.bytes).sum();
    let orphans: u64 = inventory.repos.iter().flat_map(RepoEntry::orphans).map(|(_, blob)| blob.frees).sum();
    let found = format!(
        "{} holds {} models in {revisions} revisions ({halves} incomplete), {} in unfinished transfers, {} in blobs \
         that no revision needs, {} foreign entries",
        root.display(),
        inventory.repos.len(),
        Size(partial),
        Size(orphans),
        inventory.foreign.len(),
    );
    Finding::ok("cache", found)
}

/// Asks the kernel about one blob of each repo: what it does not tell here it will not tell when it matters.
fn in_use(inventory: &Inventory) -> Finding {
    let blobs = inventory.repos.iter().filter_map(|repo| {
        let (name, _) = repo.blobs.iter().find(|(_, blob)| !blob.shared)?;
        Some(repo.path.join("blobs").join(name.as_ref()))
    });
    let mut hidden = Vec::new();
    let mut asked = 0;
    for blob in blobs {
        asked += 1;
        match probe(&blob) {
            Ok(Probe::Unknown(why)) => hidden.push((blob, why)),
            Ok(_) => {}
            Err(error) => return Finding::problem("in use", &error),
        }
    }
    let is_seen = layout::sees_everything();
    let proc = if is_seen { "the files of every process" } else { "only those of this user's processes" };
    match hidden.first() {
        None => Finding::ok(
            "in use",
            format!("the kernel tells of {asked} of {asked} models who has them open; /proc shows {proc}"),
        ),
        Some(_) if is_seen => Finding::ok(
            "in use",
            format!(
                "of {} of {asked} models the kernel does not tell who has them open; /proc does",
                hidden.len()
            ),
        ),
        Some((path, why)) => Finding::warning(
            "in use",
            format!(
                "of {} of {asked} models, for example {}, the kernel does not tell who has them open, and they are \
                 evicted only by name; /proc shows {proc}",
                hidden.len(),
                path.display()
            ),
            why.in_words(),
        ),
    }
}

/// The walk that repairs the records, by whoever has them.
async fn reconciled(settings: Settings) -> Finding {
    let drift = async { Client::larder_or_here(settings).await?.reconcile().await };
    match drift.await {
        Ok(drift) if drift == Repaired::default() => Finding::ok("records", "they agree with the cache"),
        Ok(drift) => Finding::ok(
            "records",
            format!(
                "repaired: {} adopted, {} vanished, {} pins restored, {} damaged receipts",
                drift.adopted, drift.vanished, drift.pins_restored, drift.damaged_receipts
            ),
        ),
        Err(error) => Finding::problem("records", &error),
    }
}

fn human(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match finding.state {
            State::Ok => "ok",
            State::Warning => "note",
            State::Problem => "PROBLEM",
        };
        lines.push(format!("{mark:8}{:8}{}", finding.what, finding.found));
        lines.extend(finding.hint.as_ref().map(|hint| format!("{:16}hint: {hint}", "")));
    }
    lines.push(format!("looked at {}", at(Timestamp::now())));
    lines.join("\n")
}
