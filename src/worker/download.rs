//! The download job: resolve, list, choose, check the room, fetch, verify, publish, record.
//!
//! Every step may be killed and repeated. What readers see changes only at the end and in this order: receipt
//! (so that a pin is never behind its model), snapshot folder, ref, ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{CommitId, Digest, Download, Job, Progress, Reason, RepoFile, RepoId, State, Work};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::disk;
use crate::error::{Error, Result};
use crate::hub::{self, Fetch, Fetched, JobLimit, Kept, Phase, Totals, Tracker};
use crate::layout::{Receipt, ReceiptFile, RepoDir, Selection};
use crate::ledger::{Key, Ledger};
use crate::plan::{self, DownloadPlan, Facts, FileFact};
use crate::queue::{Done, Record};

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How long a transfer waits for room on a disk that filled up meanwhile.
const FULL_DISK: Duration = Duration::from_secs(60);

/// A download that is planned but not begun.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The repo under the name that the hub knows it by.
    pub repo: RepoId,
    /// The commit that the revision resolved to.
    pub commit: CommitId,
    /// What is fetched and what is not; `None` if a receipt proves that everything is there.
    pub chosen: Option<plan::Selection>,
    /// Bytes and room.
    pub plan: DownloadPlan,
    receipt: Option<Receipt>,
}

impl Planned {
    /// Whether a receipt proves that everything is there.
    pub fn is_satisfied(&self) -> bool {
        self.chosen.is_none()
    }
}

/// Finds out what a download would do, and does nothing.
///
/// # Errors
/// Whatever the hub answers, `unsafe_format`, `structure_invalid`, `insufficient_disk`; `offline` if the
/// model is not there and the hub must not be asked.
pub async fn plan(context: &Context, want: &Download, stop: &CancellationToken) -> Result<Planned> {
    let (repo, commit) = resolve(context, want, stop).await?;
    let proof = proof(context, want, &commit).await?;
    if let Some(receipt) = proof.receipt.as_ref().filter(|_| proof.satisfied) {
        let plan = all_present(receipt);
        return Ok(Planned { repo, commit, chosen: None, plan, receipt: proof.receipt });
    }
    if context.hub.is_offline() {
        return Err(offline(want));
    }
    let chosen = plan::select(&context.hub.tree(&repo, &commit, stop).await?, want)?;
    let facts = facts(context, want, &chosen.files).await?;
    let plan = plan::plan_download(&facts, context.keep_free)?;
    Ok(Planned { repo, commit, chosen: Some(chosen), plan, receipt: proof.receipt })
}

async fn resolve(context: &Context, want: &Download, stop: &CancellationToken) -> Result<(RepoId, CommitId)> {
    if let Some(commit) = want.revision.as_commit()
        && proof(context, want, &commit).await?.satisfied
    {
        return Ok((want.repo.clone(), commit));
    }
    if context.hub.is_offline() {
        let dir = context.cache.repo(&want.repo);
        let local = want
            .revision
            .as_commit()
            .or_else(|| std::fs::read_to_string(dir.reference(&want.revision)).ok()?.trim().parse().ok());
        return local.map(|commit| (want.repo.clone(), commit)).ok_or_else(|| offline(want));
    }
    let resolved = context.hub.resolve(&want.repo, &want.revision, stop).await?;
    Ok((resolved.repo, resolved.commit))
}

fn offline(want: &Download) -> Error {
    Error::new(
        Reason::Offline,
        format!("{} is not complete in the cache, and offline mode is on", want.model()),
        "unset HF_HUB_OFFLINE (or hub.offline) and stage it once",
    )
}

/// What the disk proves about a commit, without asking anybody.
struct Proof {
    receipt: Option<Receipt>,
    /// Every file that is wanted is there as it was verified, and visible to readers.
    satisfied: bool,
}

async fn proof(context: &Context, want: &Download, commit: &CommitId) -> Result<Proof> {
    // The folder is that of the name that was asked for, as the hub's own clients have it.
    let (dir, want, commit) = (context.cache.repo(&want.repo), want.clone(), commit.clone());
    blocking(move || {
        let receipt = receipt_of(&dir, &commit);
        let satisfied = receipt.as_ref().is_some_and(|receipt| satisfies(receipt, &want, &dir));
        Ok(Proof { receipt, satisfied })
    })
    .await
}

/// An unreadable receipt is as good as none: the files are listed and hashed again.
fn receipt_of(dir: &RepoDir, commit: &CommitId) -> Option<Receipt> {
    dir.read_receipt(commit)
        .inspect_err(|error| tracing::warn!(%error, "a receipt is ignored"))
        .unwrap_or_default()
}

/// Whether the receipt is for the same choice of files and every one of them is still as it was verified,
/// and visible to readers.
fn satisfies(receipt: &Receipt, want: &Download, dir: &RepoDir) -> bool {
    receipt.selection == selection(want)
        && receipt.files.iter().all(|file| {
            let seen = std::fs::metadata(dir.snapshot_file(&receipt.commit, &file.path));
            seen.is_ok_and(|found| file.is(&found))
        })
}

fn selection(want: &Download) -> Selection {
    let texts = |globs: &[larder_jobs::Glob]| {
        let mut texts: Vec<_> = globs.iter().map(|glob| glob.as_str().to_owned()).collect();
        texts.sort();
        texts.dedup();
        texts
    };
    Selection {
        include: texts(&want.include),
        exclude: texts(&want.exclude),
        format: Some(want.format.word().to_owned()),
        allow_unsafe: want.allow_unsafe,
    }
}

fn all_present(receipt: &Receipt) -> DownloadPlan {
    let bytes_total = receipt.files.iter().map(|file| file.size).sum();
    let file =
        |file: &ReceiptFile| plan::PlannedFile { path: file.path.to_string(), bytes: file.size, to_fetch: 0 };
    DownloadPlan {
        files: receipt.files.iter().map(file).collect(),
        bytes_total,
        bytes_present: bytes_total,
        bytes_to_fetch: 0,
        disk_free: None,
        keep_free: None,
    }
}

/// What the disk has of the files.
async fn facts(context: &Context, want: &Download, files: &[RepoFile]) -> Result<Facts> {
    let dir = context.cache.repo(&want.repo);
    let (root, files) = (context.cache.root().to_owned(), files.to_vec());
    blocking(move || {
        let usage = disk::usage(&root)?;
        let files = files.into_iter().map(|file| {
            let there = std::fs::metadata(dir.blob(&file.digest)).is_ok_and(|found| found.len() == file.size);
            let kept = if there { Kept { bytes: file.size, allocated: 0 } } else { hub::kept(&dir, &file) };
            FileFact { file, on_disk: kept.bytes, allocated: kept.allocated }
        });
        Ok(Facts { files: files.collect(), disk_total: usage.total, disk_free: usage.free })
    })
    .await
}

/// Runs the job; `report` is called with every change of state and several times a second. `earlier` is the
/// number of bytes that came in earlier attempts, `limit` says how fast more may come.
pub(super) async fn download(
    context: &Context,
    want: &Download,
    earlier: u64,
    limit: JobLimit,
    report: impl Fn(State, Progress),
    stop: &CancellationToken,
) -> Result<Done> {
    report(State::Planning, Progress { bytes_fetched: earlier, ..Progress::default() });
    let mut planned = plan(context, want, stop).await?;
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
            };
            let tracker = Arc::new(Tracker::new(earlier));
            let fetched = fetch_all(context, fetch, &tracker, &totals, &report, stop).await;
            let progress = tracker.snapshot(&totals);
            // Also of an attempt that failed the last word must be true: the next one counts on from it.
            let fetched =
                fetched.map_err(midway).inspect_err(|_| report(State::Fetching, progress.clone()))?;
            report(State::Verifying, progress.clone());
            let earlier_files = still_there(&dir, planned.receipt.clone()).await?;
            (new_receipt(context, want, &planned, fetched, earlier_files), progress)
        }
    };
    receipt.pinned |= want.pin;
    if !receipt.revisions.contains(&want.revision) {
        receipt.revisions.push(want.revision.clone());
    }
    let ledger = context.ledger.clone().ok_or_else(|| Error::internal("a download without a ledger"))?;
    let path = dir.snapshot(&planned.commit).display().to_string();
    let proved = proved && planned.receipt.as_ref() == Some(&receipt);
    let publication = Publication { dir, revision: want.revision.clone(), receipt, proved };
    publish(publication, Arc::clone(&ledger)).await.map_err(midway)?;
    ledger.durable().await?;
    Ok(Done { path: Some(path), progress })
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
        bytes_fetched: earlier,
        files_total: Some(totals.files),
        files_done: totals.files,
        active: Vec::new(),
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
    loop {
        tokio::select! {
            result = &mut transfer => return result,
            _ = tick.tick() => {
                let state = match tracker.phase() {
                    Phase::Fetching => State::Fetching,
                    Phase::Verifying => State::Verifying,
                };
                report(state, tracker.snapshot(totals));
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

async fn publish(publication: Publication, ledger: Arc<Ledger>) -> Result<()> {
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
        // Of the rest nothing is needed any more, and it may be large.
        let Receipt { repo, commit, .. } = receipt;
        let now = Timestamp::now();
        let known = ledger.shelf().get(&Key::new(&repo, &commit)).is_some();
        if proved && known {
            return ledger.touch(&repo, &commit, now);
        }
        ledger.staged(&repo, &commit, now)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal(format!("a blocking step died: {error}"))))
}

/// Writes a pin into the receipt that was asked for only while the job ran. Until then the job's record
/// holds it; a crash in between is mended by the same call at the next request for the model.
pub(super) async fn late_pin(context: &Context, record: &Record) -> Result<()> {
    let (State::Ready, Ok(Job { work: Work::Download(want), .. }), Some(commit)) =
        (record.state, record.decode(), record.progress.commit.clone())
    else {
        return Ok(());
    };
    let (dir, ledger) = (context.cache.repo(&want.repo), context.ledger.clone());
    blocking(move || {
        let Some(mut receipt) = receipt_of(&dir, &commit).filter(|receipt| want.pin && !receipt.pinned)
        else {
            return Ok(());
        };
        receipt.pinned = true;
        dir.write_receipt(&receipt)?;
        ledger.map_or(Ok(()), |ledger| ledger.staged(&want.repo, &commit, Timestamp::now()))
    })
    .await
}
