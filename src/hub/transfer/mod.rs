//! The bytes of a model, from the hub into the cache: ranged, resumed, verified, then published as blobs.
//!
//! All files of a job share one queue of ranges, served by `hub.connections` workers in order of the files;
//! at most as many files are in flight. Bytes go to `.larder/partial` at their offsets and are noted in a
//! journal, so that a killed transfer goes on where it was. The hash follows the transfer on threads of its own,
//! and only a file with the promised digest is renamed into `blobs/`. Snapshots and refs are the caller's step.
//!
//! Bounds: per connection two writes of 256 KiB plus one chunk in memory; open files: one partial, one journal
//! and one lock per file in flight; per piece seven tries, counted anew while bytes come.

mod blob;
mod file;
mod partial;
mod pull;
mod ranges;
mod source;
mod tracker;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Hub, Inner, JobLimit, interrupted};
use crate::error::{Error, Result};
use crate::layout::{ReceiptFile, RepoDir, mtime_ns};
use blob::{Blob, Published};
use file::FileJob;
use larder_jobs::{CommitId, Digest, Reason, RepoFile, RepoId};

pub use partial::{Kept, kept};
pub use tracker::{Phase, Totals, Tracker};

/// Smallest piece that a small job is cut into, so that all connections have something to do.
const MIN_PIECE: u64 = 4 << 20;

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
    piece: u64,
    stop: CancellationToken,
}

impl Hub {
    /// Brings the blobs of all files into the cache. Blobs that are there and right are not fetched.
    ///
    /// # Errors
    /// The first failure ends the call; bytes are kept. `interrupted` if `stop` said so (the caller knows whether
    /// that means cancelled), `integrity_mismatch` after two tries (nothing is kept then), `stalled`,
    /// `rate_limited` with the wait, `source_unavailable`, `not_found`, `gated`, `unauthorized`,
    /// `insufficient_disk`, `io_error`, `offline`; `structure_invalid` if two files of one digest differ in size.
    pub async fn fetch(
        &self,
        fetch: Fetch,
        tracker: Arc<Tracker>,
        stop: &CancellationToken,
    ) -> Result<Fetched> {
        let blobs = blobs(&fetch)?;
        let before = tracker.bytes_fetched();
        let stop = stop.child_token();
        // Also when this future is dropped, nobody goes on.
        let _stopped = stop.clone().drop_guard();
        let connections = self.inner.config.connections;
        let bytes: u64 = blobs.iter().map(|blob| blob.file.size).sum();
        let most = self.inner.config.range.bytes();
        let job = Arc::new(Job {
            hub: Arc::clone(&self.inner),
            repo: fetch.repo,
            commit: fetch.commit,
            into: fetch.into.clone(),
            trusted: fetch.trusted,
            limit: fetch.limit,
            tracker: Arc::clone(&tracker),
            queue: Queue::default(),
            piece: bytes.div_ceil(connections as u64).clamp(MIN_PIECE.min(most), most),
            stop: stop.clone(),
        });
        blocking(move || fetch.into.prepare()).await?;
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(Arc::clone(&job).work());
        }
        let staged = job.stage_all(blobs, connections).await;
        stop.cancel();
        // After this, nobody writes to the partials any more.
        while workers.join_next().await.is_some() {}
        let published = staged?;
        let mut by_digest = BTreeMap::new();
        let mut bytes_resumed = 0;
        for Published { blob, found, resumed } in published {
            bytes_resumed += resumed;
            by_digest.insert(blob.file.digest, found);
        }
        let files = fetch.files.into_iter().filter_map(|file| receipt_file(file, &by_digest)).collect();
        Ok(Fetched { bytes_fetched: tracker.bytes_fetched() - before, bytes_resumed, files })
    }
}

fn receipt_file(file: RepoFile, found: &BTreeMap<Digest, Metadata>) -> Option<ReceiptFile> {
    let found = found.get(&file.digest)?;
    let RepoFile { path, size, digest } = file;
    Some(ReceiptFile { path, size, digest, mtime_ns: mtime_ns(found), inode: found.ino() })
}

/// The blobs of the files, each once, in the order in which they come first.
fn blobs(fetch: &Fetch) -> Result<Vec<Blob>> {
    let mut blobs: Vec<Blob> = Vec::new();
    let mut known: BTreeMap<&Digest, usize> = BTreeMap::new();
    for file in &fetch.files {
        let at = *known.entry(&file.digest).or_insert(blobs.len());
        match blobs.get_mut(at) {
            None => blobs.push(Blob { file: file.clone(), paths: 1 }),
            Some(blob) if blob.file.size == file.size => blob.paths += 1,
            Some(blob) => {
                return Err(Error::new(
                    Reason::StructureInvalid,
                    format!(
                        "{} and {} of {} have one digest and two sizes",
                        blob.file.path, file.path, fetch.repo
                    ),
                    "report it to the model's owner",
                ));
            }
        }
    }
    Ok(blobs)
}

impl Job {
    /// Stages all blobs, as many at a time as there are connections.
    async fn stage_all(self: &Arc<Self>, blobs: Vec<Blob>, at_once: usize) -> Result<Vec<Published>> {
        let mut todo = VecDeque::from(blobs);
        let mut tasks = JoinSet::new();
        let (mut done, mut failed) = (Vec::new(), None);
        loop {
            while tasks.len() < at_once
                && failed.is_none()
                && let Some(blob) = todo.pop_front()
            {
                tasks.spawn(Arc::clone(self).stage(blob));
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok(Ok(published))) => done.push(published),
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

    /// One connection: takes pieces until the job is over.
    async fn work(self: Arc<Self>) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = self.queue.next(self.piece) => next,
            };
            let (file, range) = next;
            let result = self.pull(&file, range).await;
            file.ended(result);
        }
    }
}

/// The files that have pieces to be fetched, in order.
#[derive(Debug, Default)]
struct Queue {
    files: Mutex<VecDeque<Arc<FileJob>>>,
    pushed: Notify,
}

impl Queue {
    fn push(&self, file: Arc<FileJob>) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push_back(file);
        self.pushed.notify_waiters();
    }

    async fn next(&self, most: u64) -> (Arc<FileJob>, Range<u64>) {
        loop {
            let pushed = self.pushed.notified();
            if let Some(next) = self.take(most) {
                return next;
            }
            pushed.await;
        }
    }

    fn take(&self, most: u64) -> Option<(Arc<FileJob>, Range<u64>)> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let file = files.front()?;
            if let Some(range) = file.next_piece(most) {
                return Some((Arc::clone(file), range));
            }
            files.pop_front();
        }
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
