//! What a download would do: which commit, which files, what the disk has of them, whether there is room. Looking
//! changes nothing; a reservation only promises room.

use std::path::Path;

use jiff::Timestamp;
use larder_jobs::{CommitId, Download, EvictedModel, Reason, RepoFile, RepoId};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::disk::{self, Reservation};
use crate::error::{Error, Result};
use crate::hub::{self, Kept};
use crate::keeper::Keeper;
use crate::layout::{Receipt, ReceiptFile, RepoDir, Selection};
use crate::plan::{self, DownloadPlan, Facts, FileFact, Goal, KeepFree};

/// How often room is made for one download: whoever is faster may take it.
const MAX_ROUNDS: usize = 5;

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
    let planned = size(context, want, stop).await?;
    match planned.plan.disk_short {
        0 => Ok(planned),
        _ => Err(planned.plan.no_room(context.keep_free, None)),
    }
}

/// As [`plan`], whether there is room or not.
pub(super) async fn size(context: &Context, want: &Download, stop: &CancellationToken) -> Result<Planned> {
    let looked = look(context, want, stop).await?;
    let (root, keep_free) = (context.cache.root().to_owned(), context.keep_free);
    // What a daemon has promised to its downloads, or could evict for them, is not known here.
    blocking(move || looked.decide(&root, keep_free, None, None)).await
}

/// As [`plan`], and promises the download its room on the disk: nobody else gets it. Where there is none, room is made
/// by evicting what the rules let go; nothing goes if that is not enough. What went is added to `evicted`, also if this
/// fails.
pub(super) async fn reserve(
    context: &Context,
    want: &Download,
    evicted: &mut Vec<EvictedModel>,
    stop: &CancellationToken,
) -> Result<(Reservation, Planned)> {
    let looked = look(context, want, stop).await?;
    for _ in 0..MAX_ROUNDS {
        let (looked, keeper) = (looked.clone(), context.keeper()?.clone());
        let (root, keep_free) = (context.cache.root().to_owned(), context.keep_free);
        let may_evict = context.may_evict;
        let (reservations, stop) = (keeper.reservations().clone(), stop.clone());
        let reserved = blocking(move || {
            let (reservation, planned) = reservations.reserve(|promised| {
                let shelf = keeper.ledger().shelf();
                let taken = shelf.bytes().saturating_add(reservations.granted());
                let room = keeper.capacity().map(|capacity| capacity.saturating_sub(taken));
                let planned = looked.decide(&root, keep_free, Some(promised), room)?;
                let fits = planned.plan.disk_short == 0;
                Ok((if fits { planned.plan.disk_needed } else { 0 }, planned))
            })?;
            if planned.plan.disk_short == 0 {
                return Ok(Reserved::Room(reservation, Box::new(planned)));
            }
            drop(reservation);
            if !may_evict {
                let evictable = keeper.evictable(Timestamp::now())?;
                let no_room = planned.plan.no_room(keep_free, Some(&evictable));
                return Err(no_room.or("let other models go for it with --evict"));
            }
            make_room(&keeper, &planned.plan, keep_free, &|| stop.is_cancelled()).map(Reserved::Evicted)
        });
        match reserved.await? {
            Reserved::Room(reservation, planned) => return Ok((reservation, *planned)),
            Reserved::Evicted(models) => evicted.extend(models),
        }
    }
    Err(Error::new(
        Reason::InsufficientDisk,
        format!("the room that was made for {} was taken by others, {MAX_ROUNDS} times", want.model()),
        "stage it again when less is going on",
    ))
}

/// How one round of [`reserve`] ended.
enum Reserved {
    /// There is room.
    Room(Reservation, Box<Planned>),
    /// These went; somebody else may have taken the room.
    Evicted(Vec<EvictedModel>),
}

/// Evicts what is needed for a plan that does not fit, and says what went.
fn make_room(
    keeper: &Keeper,
    plan: &DownloadPlan,
    keep_free: KeepFree,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<EvictedModel>> {
    let outcome = keeper.evict(&Goal::Room(plan.disk_short), stop)?;
    if outcome.freed > 0 || !outcome.evicted.is_empty() || outcome.is_stopped {
        return Ok(outcome.evicted);
    }
    Err(plan.no_room(keep_free, Some(&keeper.evictable(Timestamp::now())?)))
}

/// What is known of a download before anybody has looked whether there is room for it.
#[derive(Clone)]
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
    /// `room` is what the cache may still grow by.
    fn decide(
        self,
        root: &Path,
        keep_free: KeepFree,
        promised: Option<u64>,
        room: Option<u64>,
    ) -> Result<Planned> {
        let Self { repo, commit, receipt, chosen } = self;
        let Some((chosen, files)) = chosen else {
            let files = receipt.as_ref().map_or(&[][..], |receipt| &receipt.files);
            return Ok(Planned { repo, commit, chosen: None, plan: all_present(files), receipt });
        };
        let usage = disk::usage(root)?;
        let facts = Facts {
            files,
            disk_total: usage.total,
            disk_free: usage.free,
            disk_promised: promised,
            cache_room: room,
        };
        let plan = plan::plan_download(&facts, keep_free);
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
        cache_room: None,
        disk_short: 0,
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
