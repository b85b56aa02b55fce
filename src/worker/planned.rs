//! What a download would do: which commit, which files, what the disk has of them, whether there is room. Looking
//! changes nothing; a reservation only promises room.

use std::path::Path;

use larder_jobs::{CommitId, Download, Reason, RepoFile, RepoId};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::disk::{self, Reservation};
use crate::error::{Error, Result};
use crate::hub::{self, Kept};
use crate::layout::{Receipt, ReceiptFile, RepoDir, Selection};
use crate::plan::{self, DownloadPlan, Facts, FileFact, KeepFree};

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
    pub(super) receipt: Option<Receipt>,
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
    let looked = look(context, want, stop).await?;
    let (root, keep_free) = (context.cache.root().to_owned(), context.keep_free);
    // What a daemon has promised to its downloads is not known here.
    blocking(move || looked.decide(&root, keep_free, None)).await
}

/// As [`plan`], and promises the download its room on the disk: nobody else gets it.
pub(super) async fn reserve(
    context: &Context,
    want: &Download,
    stop: &CancellationToken,
) -> Result<(Reservation, Planned)> {
    let looked = look(context, want, stop).await?;
    let (root, keep_free) = (context.cache.root().to_owned(), context.keep_free);
    let reservations = context.reservations.clone();
    blocking(move || {
        reservations.reserve(|promised| {
            let planned = looked.decide(&root, keep_free, Some(promised))?;
            Ok((planned.plan.disk_needed, planned))
        })
    })
    .await
}

/// What is known of a download before anybody has looked whether there is room for it.
struct Looked {
    repo: RepoId,
    commit: CommitId,
    receipt: Option<Receipt>,
    /// What is fetched, and what the disk has of it; `None` if the receipt proves that everything is there.
    chosen: Option<(plan::Selection, Vec<FileFact>)>,
}

async fn look(context: &Context, want: &Download, stop: &CancellationToken) -> Result<Looked> {
    let (repo, commit) = resolve(context, want, stop).await?;
    let Proof { receipt, satisfied } = proof(context, want, &commit).await?;
    if satisfied {
        return Ok(Looked { repo, commit, receipt, chosen: None });
    }
    if context.hub.is_offline() {
        return Err(offline(want));
    }
    let chosen = plan::select(&context.hub.tree(&repo, &commit, stop).await?, want)?;
    let facts = facts(context, want, &chosen.files).await?;
    Ok(Looked { repo, commit, receipt, chosen: Some((chosen, facts)) })
}

impl Looked {
    /// Plans with the disk as it is now, of whose free bytes `promised` are others'. Blocks.
    fn decide(self, root: &Path, keep_free: KeepFree, promised: Option<u64>) -> Result<Planned> {
        let Self { repo, commit, receipt, chosen } = self;
        let Some((chosen, files)) = chosen else {
            let files = receipt.as_ref().map_or(&[][..], |receipt| &receipt.files);
            return Ok(Planned { repo, commit, chosen: None, plan: all_present(files), receipt });
        };
        let usage = disk::usage(root)?;
        let facts = Facts { files, disk_total: usage.total, disk_free: usage.free, disk_promised: promised };
        let plan = plan::plan_download(&facts, keep_free)?;
        Ok(Planned { repo, commit, chosen: Some(chosen), plan, receipt })
    }
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
pub(super) fn receipt_of(dir: &RepoDir, commit: &CommitId) -> Option<Receipt> {
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

pub(super) fn selection(want: &Download) -> Selection {
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

fn all_present(files: &[ReceiptFile]) -> DownloadPlan {
    let bytes_total = files.iter().map(|file| file.size).sum();
    let file =
        |file: &ReceiptFile| plan::PlannedFile { path: file.path.to_string(), bytes: file.size, to_fetch: 0 };
    DownloadPlan {
        files: files.iter().map(file).collect(),
        bytes_total,
        bytes_present: bytes_total,
        bytes_to_fetch: 0,
        disk_needed: 0,
        disk_promised: None,
        disk_free: None,
        keep_free: None,
    }
}

/// What the disk has of the files.
async fn facts(context: &Context, want: &Download, files: &[RepoFile]) -> Result<Vec<FileFact>> {
    let (dir, files) = (context.cache.repo(&want.repo), files.to_vec());
    blocking(move || {
        let files = files.into_iter().map(|file| {
            let there = std::fs::metadata(dir.blob(&file.digest)).is_ok_and(|found| found.len() == file.size);
            let kept = if there { Kept { bytes: file.size, allocated: 0 } } else { hub::kept(&dir, &file) };
            FileFact { file, on_disk: kept.bytes, allocated: kept.allocated }
        });
        Ok(files.collect())
    })
    .await
}
