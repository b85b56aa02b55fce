//! The bytes of a model, from its sources into the cache: ranged, resumed, verified, then published as blobs.
//!
//! All files of a job share one queue of pieces, served by as many connections as bring something (`crew`, `climb`),
//! the next piece from the file that fewest work on; at most `hub.connections` files are in flight. Bytes go to
//! `.larder/partial` at their offsets and are noted in a journal (`journal`), so that a killed transfer goes on where
//! it was. The hash follows (`hash`), in memory where bytes come in order, and only a file with the promised digest is
//! renamed into `blobs/`. Snapshots and refs are the caller's step.
//!
//! What survives what, in this order: bytes are written, then noted (a kill); every 64 MiB the file is flushed, then
//! the journal says so, then the journal is flushed (a loss of power); a complete file is flushed, renamed into
//! `blobs/`, and the folder is flushed once all are there, before this room says that it is done.
//!
//! Bounds: per connection four buffers of 128 KiB at most in memory (`hub/direct.rs`); open files: one partial, one
//! journal and one lock per file in flight; per piece and source seven tries, counted anew while bytes come; written
//! bytes that wait for the disk: `hub.max_dirty` for the whole process. All of it runs on threads of its own (`lane`).

mod blob;
mod care;
mod child;
mod climb;
mod crew;
mod file;
mod hash;
mod journal;
mod lane;
mod open;
mod partial;
mod piece;
mod pull;
mod queue;
mod ranges;
mod route;
mod sink;
mod small;
mod tracker;
mod xet;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::Metadata;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Hub, Inner, JobLimit, interrupted};
use crate::disk::Reservation;
use crate::error::{Error, Result};
use crate::layout::{ReceiptFile, RepoDir};
use blob::{Blob, Staged};
use crew::Crew;
use larder_jobs::{CommitId, Digest, Reason, RepoFile, RepoId};
use partial::Care;
use queue::Queue;

pub(super) use care::Dirty;
pub use care::PageCache;
pub(super) use lane::Lane;
pub use partial::{Kept, kept};
pub use tracker::{Phase, Totals, Tracker};

/// Whether a blob that is there may be used without hashing it, as its receipt says.
pub type Trust = Arc<dyn Fn(&Digest, &Metadata) -> bool + Send + Sync>;

/// What to fetch.
#[derive(Clone)]
pub struct Fetch {
    /// The repo, under the name that the hub has for it ([`super::Resolved::repo`]).
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// The files, as [`Hub::tree`] listed them.
    pub files: Vec<RepoFile>,
    /// Where the blobs go; may be the folder of the name that was asked for.
    pub into: RepoDir,
    /// Which blobs need no hashing.
    pub trusted: Trust,
    /// How fast bytes may come.
    pub limit: JobLimit,
    /// Room on the disk that was promised to this call.
    pub room: Arc<Reservation>,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("repo", &self.repo)
            .field("commit", &self.commit)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// What came of it: every file's blob is in the cache, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came over the network, in this call.
    pub bytes_fetched: u64,
    /// Bytes of earlier attempts that were used again.
    pub bytes_resumed: u64,
    /// Bytes by the source that they came from.
    pub by_source: BTreeMap<String, u64>,
    /// The files in the order of [`Fetch::files`], as a receipt holds them.
    pub files: Vec<ReceiptFile>,
}

/// One call of [`Hub::fetch`].
struct Job {
    hub: Arc<Inner>,
    repo: RepoId,
    commit: CommitId,
    into: RepoDir,
    trusted: Trust,
    limit: JobLimit,
    tracker: Arc<Tracker>,
    queue: Queue,
    crew: Crew,
    care: Care,
    /// Bytes that nobody has begun to fetch.
    todo: AtomicU64,
    /// Xet failed for one of its files; the others do not try their luck.
    no_xet: AtomicBool,
    stop: CancellationToken,
}

impl Hub {
    /// Brings the blobs of all files into the cache. Blobs that are there and right are not fetched. Their names
    /// survive a loss of power when this returns.
    ///
    /// # Errors
    /// The first failure ends the call; bytes are kept. `interrupted` if `stop` said so (the caller knows whether
    /// that means cancelled), `integrity_mismatch` if a file is wrong twice (it is then moved aside), `stalled`,
    /// `rate_limited` with the wait, `source_unavailable`, `not_found`, `gated`, `unauthorized`,
    /// `insufficient_disk`, `io_error`, `offline`; `structure_invalid` if two files of one digest differ in size.
    pub async fn fetch(
        &self,
        fetch: Fetch,
        tracker: Arc<Tracker>,
        stop: &CancellationToken,
    ) -> Result<Fetched> {
        let Blobs { first, paths, of_file } = blobs(&fetch)?;
        let before = tracker.bytes_fetched();
        let stop = stop.child_token();
        // Also when this future is dropped, nobody goes on.
        let _stopped = stop.clone().drop_guard();
        let hub = Arc::clone(&self.inner);
        let care = Care { dirty: Arc::clone(&hub.dirty), pages: hub.config.page_cache, room: fetch.room };
        let todo = first.iter().map(|file| fetch.files[*file].size).sum();
        let job = Arc::new(Job {
            repo: fetch.repo,
            commit: fetch.commit,
            into: fetch.into.clone(),
            trusted: fetch.trusted,
            limit: fetch.limit,
            tracker: Arc::clone(&tracker),
            queue: Queue::default(),
            crew: Crew::default(),
            care,
            todo: AtomicU64::new(todo),
            no_xet: AtomicBool::new(false),
            stop: stop.clone(),
            hub,
        });
        let (into, files) = (fetch.into.clone(), Arc::new(fetch.files));
        blocking(move || into.prepare()).await?;
        let lane = self.inner.lane.enter()?;
        let crew = lane.spawn(Arc::clone(&job).run_crew().in_current_span());
        let (listed, at_once) = (Arc::clone(&files), self.inner.config.connections);
        let blobs = first.into_iter().zip(paths);
        let blobs = blobs.map(move |(file, paths)| Blob { file: listed[file].clone(), paths });
        let staged = async move { job.stage_all(blobs, at_once).await };
        let staged = lane.spawn(staged.in_current_span()).await;
        stop.cancel();
        // After this, nobody writes to the partials any more.
        crew.await.map_err(blocking_failed)?;
        let staged = staged.map_err(blocking_failed)??;
        if tracker.bytes_fetched() > before {
            blocking(move || fetch.into.sync_blobs()).await?;
        }
        let bytes_resumed = staged.iter().map(|staged| staged.resumed).sum();
        let files = Arc::unwrap_or_clone(files).into_iter().zip(of_file);
        let files = files.map(|(file, blob)| receipt_file(file, &staged[blob])).collect();
        let bytes_fetched = tracker.bytes_fetched() - before;
        Ok(Fetched { bytes_fetched, bytes_resumed, by_source: tracker.by_source(), files })
    }
}

fn receipt_file(file: RepoFile, staged: &Staged) -> ReceiptFile {
    let RepoFile { path, size, digest } = file;
    ReceiptFile { path, size, digest, mtime_ns: staged.mtime_ns, inode: staged.inode }
}

/// Which blobs the files have, by number; a blob is fetched once whatever the number of its names.
struct Blobs {
    /// The first file that has it.
    first: Vec<usize>,
    /// How many files have it.
    paths: Vec<u64>,
    /// The blob of each file.
    of_file: Vec<usize>,
}

fn blobs(fetch: &Fetch) -> Result<Blobs> {
    let mut blobs = Blobs { first: Vec::new(), paths: Vec::new(), of_file: Vec::new() };
    let mut known: HashMap<&Digest, usize> = HashMap::new();
    for (number, file) in fetch.files.iter().enumerate() {
        let blob = *known.entry(&file.digest).or_insert(blobs.first.len());
        blobs.of_file.push(blob);
        let Some(first) = blobs.first.get(blob) else {
            blobs.first.push(number);
            blobs.paths.push(1);
            continue;
        };
        let first = &fetch.files[*first];
        if first.size != file.size {
            return Err(Error::new(
                Reason::StructureInvalid,
                format!("{} and {} of {} have one digest and two sizes", first.path, file.path, fetch.repo),
                "report it to the model's owner",
            ));
        }
        blobs.paths[blob] += 1;
    }
    Ok(blobs)
}

impl Job {
    /// Stages all blobs, so many at a time; what came of each, in their order.
    async fn stage_all(
        self: &Arc<Self>,
        blobs: impl ExactSizeIterator<Item = Blob>,
        at_once: usize,
    ) -> Result<Vec<Staged>> {
        let (mut done, mut failed) = (vec![Staged::default(); blobs.len()], None);
        let mut todo = blobs.enumerate();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < at_once
                && failed.is_none()
                && let Some((number, blob)) = todo.next()
            {
                let job = Arc::clone(self);
                let staged = async move { job.stage(blob).await.map(|staged| (number, staged)) };
                tasks.spawn(staged.in_current_span());
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok(Ok((number, staged)))) => done[number] = staged,
                Some(ended) => {
                    self.stop.cancel();
                    let error = ended.map_err(blocking_failed).and_then(|ended| ended.map(|_| ())).err();
                    failed = failed.or(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    /// `bytes` are there already, or somebody fetches them.
    fn less_to_do(&self, bytes: u64) {
        // Never fails: the closure always has an answer.
        let _ = self.todo.fetch_update(Relaxed, Relaxed, |todo| Some(todo.saturating_sub(bytes)));
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(blocking_failed)?
}

/// A task that panicked, or that the runtime ended.
fn blocking_failed(error: JoinError) -> Error {
    if error.is_cancelled() {
        return interrupted();
    }
    Error::internal(format!("a part of a transfer broke: {error}"))
}

#[cfg(test)]
mod tests;
