//! The download job: resolve, list, choose, check the room, fetch, verify, publish, record.
//!
//! Every step may be killed and repeated. What readers see changes only at the end and in this order: receipt
//! (so that a pin is never behind its model), snapshot folder, ref, ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{CameBack, Digest, Download, EvictedModel, Job, ModelRef, Progress, Reason, State, Work};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use super::planned::{Planned, receipt_of, reserve, selection};
use super::rate::Rate;
use super::{Context, blocking};
use crate::error::{Error, Result};
use crate::gpu;
use crate::host::{self, Roots};
use crate::hub::{self, Fetch, Fetched, JobLimit, Phase, Totals, Tracker};
use crate::layout::{Receipt, ReceiptFile, RepoDir};
use crate::ledger::{Key, Ledger};
use crate::metrics;
use crate::queue::{Done, Record};

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How long a transfer waits for room on a disk that filled up meanwhile.
const FULL_DISK: Duration = Duration::from_secs(60);

/// What earlier attempts of a job did, which its record must go on telling.
#[derive(Debug, Clone, Default)]
pub(super) struct Earlier {
    /// Bytes that came.
    pub(super) bytes_fetched: u64,
    /// What went to make room.
    pub(super) evicted: Vec<EvictedModel>,
}

impl Earlier {
    fn progress(self) -> Progress {
        Progress { bytes_fetched: self.bytes_fetched, evicted: self.evicted, ..Progress::default() }
    }
}

/// Runs the job, of the variant that this host's GPU can run if the download allows others than the model itself; what is
/// staged and why goes along with every report.
pub(super) async fn variant(
    context: &Context,
    want: &Download,
    earlier: Earlier,
    limit: JobLimit,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    healthy(context)?;
    let context = &context.with_token_of(want)?;
    report(State::Planning, earlier.clone().progress());
    let choice = context.scout.choose(want, stop).instrument(debug_span!("choose"));
    let (exact, chosen) = choice.await?;
    if let Some(chosen) = chosen.as_ref().filter(|chosen| chosen.is_fallback) {
        metrics::fell_back(&chosen.variant);
        tracing::info!(model = %want.repo, variant = %chosen.variant, repo = %chosen.repo, why = %chosen.why,
            "another variant than was named is staged");
    }
    let (want, chosen) = (exact, chosen.map(Box::new));
    let told = |state, progress| report(state, Progress { chosen: chosen.clone(), ..progress });
    let (begun, before) = (Instant::now(), earlier.bytes_fetched);
    let mut done = download(context, &want, earlier, limit, told, stop).await?;
    let fetched = done.progress.bytes_fetched.saturating_sub(before);
    context.keeper()?.ledger().fetched(fetched, begun.elapsed())?;
    done.progress.chosen = chosen;
    Ok(done)
}

/// # Errors
/// `host_unhealthy` if the host is not fit for work and its owner does not want more of it then.
fn healthy(context: &Context) -> Result<()> {
    if !context.refuses_unhealthy {
        return Ok(());
    }
    let facts = host::Facts::read(&Roots::default(), &[context.cache.root()]);
    let Some(health) = context.scout.health(&facts).filter(|health| health.state == gpu::State::Degraded)
    else {
        return Ok(());
    };
    let hint = health.reasons.first().map_or_else(String::new, |reason| format!("{}; or ", reason.hint));
    Err(Error::new(
        Reason::HostUnhealthy,
        format!("this host is not healthy, and gpu.unhealthy = \"refuse\": {}", health.words()),
        format!("{hint}set gpu.unhealthy = \"warn\""),
    ))
}

/// Runs the job; `report` is called with every change of state and several times a second, `limit` says how fast bytes
/// may come.
async fn download(
    context: &Context,
    want: &Download,
    earlier: Earlier,
    limit: JobLimit,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    report(State::Planning, earlier.clone().progress());
    let keeper = context.keeper()?.clone();
    // From the first look until it is recorded nobody evicts what this counts on.
    let _work = keeper.repos().work(&want.repo).await;
    let Earlier { bytes_fetched: earlier, mut evicted } = earlier;
    let reserved = reserve(context, want, &mut evicted, stop).instrument(debug_span!("plan")).await;
    let report = |state, progress| report(state, Progress { evicted: evicted.clone(), ..progress });
    let (room, mut planned) = reserved.inspect_err(|_| {
        report(State::Planning, Progress { bytes_fetched: earlier, ..Progress::default() });
    })?;
    let dir = context.cache.repo(&want.repo);
    let totals = Totals {
        commit: planned.commit.clone(),
        bytes: planned.plan.bytes_total,
        files: u64::try_from(planned.plan.files.len()).unwrap_or(u64::MAX),
    };
    // A long list that nobody reads any more.
    planned.plan.files = Vec::new();
    let proved = planned.is_satisfied();
    let (mut receipt, progress) = match planned.chosen.take() {
        None => {
            let receipt =
                planned.receipt.clone().ok_or_else(|| Error::internal("a satisfied want has no receipt"))?;
            (receipt, all_done(&totals, earlier))
        }
        Some(chosen) => {
            let fetch = Fetch {
                repo: planned.repo.clone(),
                commit: planned.commit.clone(),
                files: chosen.files,
                into: dir.clone(),
                trusted: trust(planned.receipt.clone()),
                limit,
                room: Arc::new(room),
            };
            let tracker = Arc::new(Tracker::new(earlier));
            let fetched = fetch_all(context, fetch, &tracker, &totals, &report, stop);
            let fetched = fetched.instrument(debug_span!("fetch", bytes = totals.bytes)).await;
            let progress = tracker.snapshot(&totals);
            // Also of an attempt that failed the last word must be true: the next one counts on from it.
            let fetched =
                fetched.map_err(midway).inspect_err(|_| report(State::Fetching, progress.clone()))?;
            report(State::Verifying, progress.clone());
            let progress = Progress { bytes_by_source: fetched.by_source.clone(), ..progress };
            let earlier_files = still_there(&dir, planned.receipt.clone()).await?;
            (new_receipt(context, want, &planned, fetched, earlier_files), progress)
        }
    };
    receipt.pinned |= want.pin;
    if !receipt.revisions.contains(&want.revision) {
        receipt.revisions.push(want.revision.clone());
    }
    let ledger = Arc::clone(keeper.ledger());
    let path = dir.snapshot(&planned.commit).display().to_string();
    let proved = proved && planned.receipt.as_ref() == Some(&receipt);
    let publication = Publication { dir, revision: want.revision.clone(), receipt, proved };
    let published = publish(publication, Arc::clone(&ledger)).instrument(debug_span!("publish")).await;
    let came_back = published.map_err(midway)?.map(Box::new);
    ledger.durable().await?;
    Ok(Done { path: Some(path), progress: Progress { evicted, came_back, ..progress } })
}

/// Blobs that an earlier receipt vouches for need no hashing.
fn trust(receipt: Option<Receipt>) -> hub::Trust {
    let files = receipt.map(|receipt| receipt.files).unwrap_or_default();
    let known: BTreeMap<Digest, ReceiptFile> = files.into_iter().map(|file| (file.digest, file)).collect();
    Arc::new(move |digest, found| known.get(digest).is_some_and(|file| file.is(found)))
}

fn all_done(totals: &Totals, earlier: u64) -> Progress {
    Progress {
        commit: Some(totals.commit.clone()),
        bytes_total: Some(totals.bytes),
        bytes_done: totals.bytes,
        bytes_verified: totals.bytes,
        bytes_fetched: earlier,
        files_total: Some(totals.files),
        files_done: totals.files,
        ..Progress::default()
    }
}

/// The plan did fit, and then somebody else filled the disk: the job waits for room and keeps its bytes.
fn midway(error: Error) -> Error {
    match error.reason() {
        Reason::InsufficientDisk => error.with_retry_after(Some(FULL_DISK)),
        _ => error,
    }
}

async fn fetch_all(
    context: &Context,
    fetch: Fetch,
    tracker: &Arc<Tracker>,
    totals: &Totals,
    report: &impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Fetched> {
    let transfer = context.hub.fetch(fetch, Arc::clone(tracker), stop);
    tokio::pin!(transfer);
    let mut tick = tokio::time::interval(REPORT_EVERY);
    let mut rate = Rate::default();
    loop {
        tokio::select! {
            result = &mut transfer => return result,
            _ = tick.tick() => {
                let state = match tracker.phase() {
                    Phase::Fetching => State::Fetching,
                    Phase::Verifying => State::Verifying,
                };
                rate.add(Instant::now(), tracker.bytes_fetched());
                report(state, Progress { bytes_per_second: rate.per_second(), ..tracker.snapshot(totals) });
            }
        }
    }
}

/// The files of an earlier receipt that are still as it says.
async fn still_there(dir: &RepoDir, receipt: Option<Receipt>) -> Result<Vec<ReceiptFile>> {
    let (Some(receipt), dir) = (receipt, dir.clone()) else { return Ok(Vec::new()) };
    blocking(move || {
        let is_there = |file: &&ReceiptFile| {
            std::fs::metadata(dir.blob(&file.digest)).is_ok_and(|found| file.is(&found))
        };
        Ok(receipt.files.iter().filter(is_there).cloned().collect())
    })
    .await
}

/// The receipt of what is there now: the files of this job, and those of earlier jobs at the same commit.
fn new_receipt(
    context: &Context,
    want: &Download,
    planned: &Planned,
    fetched: Fetched,
    earlier_files: Vec<ReceiptFile>,
) -> Receipt {
    // Where most of it came from; what was all there says nothing new.
    let most = fetched.by_source.iter().max_by_key(|(_, bytes)| **bytes).map(|(source, _)| source.clone());
    let source = most.unwrap_or_else(|| context.hub.endpoint().to_owned());
    let mut receipt = Receipt::new(want.repo.clone(), planned.commit.clone(), source, Timestamp::now());
    receipt.selection = selection(want);
    receipt.bytes_by_source = fetched.by_source;
    receipt.files = fetched.files;
    if let Some(old) = &planned.receipt {
        receipt.pinned = old.pinned;
        receipt.revisions.clone_from(&old.revisions);
    }
    receipt.files.sort_by(|a, b| a.path.cmp(&b.path));
    let is_new =
        |file: &ReceiptFile| receipt.files.binary_search_by(|known| known.path.cmp(&file.path)).is_err();
    let more: Vec<_> = earlier_files.into_iter().filter(is_new).collect();
    receipt.files.extend(more);
    receipt.files.sort_by(|a, b| a.path.cmp(&b.path));
    receipt
}

/// What a finished transfer, or a proof that there is nothing to do, changes for readers.
struct Publication {
    dir: RepoDir,
    revision: larder_jobs::Revision,
    receipt: Receipt,
    /// The receipt on the disk says the same, and it has just proved that every file is visible.
    proved: bool,
}

/// Says if the model had been evicted too early.
async fn publish(publication: Publication, ledger: Arc<Ledger>) -> Result<Option<CameBack>> {
    blocking(move || {
        let Publication { dir, revision, receipt, proved } = publication;
        if !proved {
            dir.write_receipt(&receipt)?;
            let files = receipt.files.iter().map(|file| (&file.path, &file.digest));
            dir.publish_snapshot(&receipt.commit, files)?;
        }
        if revision.as_commit().is_none() {
            dir.publish_ref(&revision, &receipt.commit)?;
        }
        let (repo, commit) = (receipt.repo.clone(), receipt.commit.clone());
        // Of the rest nothing is needed any more, and it may be large.
        drop(receipt);
        let now = Timestamp::now();
        let known = ledger.shelf().get(&Key::new(&repo, &commit)).is_some();
        if proved && known {
            return ledger.touch(&repo, &commit, now).map(|()| None);
        }
        ledger.staged(&repo, &commit, now)
    })
    .await
}

/// Pins and leases what the job has staged, also for those who joined while it ran: a pin goes into the receipt, a lease
/// to everybody who asked by name. Until then the job's record holds both; a crash in between is mended by the same call
/// at the next request for the model.
pub(super) async fn late_wishes(context: &Context, record: &Record) -> Result<()> {
    let (State::Ready, Ok(Job { work: Work::Download(want), .. }), Some(commit)) =
        (record.state, record.decode(), record.progress.commit.clone())
    else {
        return Ok(());
    };
    // Of a variant that is published elsewhere, that repo is staged.
    let repo = record.progress.chosen.as_ref().map_or(&want.repo, |chosen| &chosen.repo);
    let (dir, keeper) = (context.cache.repo(repo), context.keeper()?.clone());
    let model = ModelRef::new(repo.clone(), commit.as_str().parse().ok());
    if want.pin && receipt_of(&dir, &commit).is_some_and(|receipt| !receipt.pinned) {
        keeper.pin(&model, true).await?;
    }
    let Some(ttl) = want.lease_ttl else { return Ok(()) };
    let until =
        SignedDuration::try_from(ttl.get()).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
    let unnamed = record.anonymous.then_some("download");
    for holder in record.requesters.iter().map(String::as_str).chain(unnamed) {
        keeper.lease(&model, holder, until.unwrap_or(Timestamp::MAX)).await?;
    }
    Ok(())
}
