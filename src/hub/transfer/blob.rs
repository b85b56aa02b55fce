//! One blob from "wanted" to "published": look, lock, look again, fetch, verify, move.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::file::FileJob;
use super::partial::Partial;
use super::{Job, blocking};
use crate::error::{Error, Result};
use crate::hub::interrupted;
use crate::layout::{BlobLock, Hasher, RepoDir, digest_of, mtime_ns};
use crate::metrics;
use larder_jobs::{Digest, Reason, RepoFile};

/// Bytes that the hash reads at once.
const READ: usize = 256 << 10;
/// The hash follows the transfer in steps of at least this, and stays at most that long on its thread.
const STEP: u64 = 8 << 20;
const LONGEST_STEP: u64 = 256 << 20;

/// Bytes that are wanted, and under which names.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// The first of its names, its size and its digest.
    pub(super) file: RepoFile,
    /// Number of its names.
    pub(super) paths: u64,
}

/// A blob that is published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) blob: Blob,
    pub(super) found: Metadata,
    /// Bytes of an earlier attempt that were used again.
    pub(super) resumed: u64,
}

/// What lies under a blob's name.
enum Existing {
    Absent,
    Sound(Metadata),
    /// Bytes that are not the promised ones.
    Wrong(Mark),
}

/// Inode, modification time and size: enough to know a wrong blob again without reading it twice.
type Mark = (u64, i64, u64);

impl Job {
    /// Sees to it that the blob is in the cache.
    pub(super) async fn stage(self: Arc<Self>, blob: Blob) -> Result<Published> {
        let paths = blob.paths;
        let mut existing = self.existing(&blob.file, None).await?;
        if let Existing::Sound(found) = existing {
            self.tracker.there(paths, blob.file.size);
            return Ok(Published { blob, found, resumed: 0 });
        }
        self.hub.online(&format_args!("{} of {}", blob.file.path, self.repo))?;
        let _lock = self.lock(&blob.file.digest).await?;
        // Whoever had the lock before may have brought it.
        let wrong = match existing {
            Existing::Wrong(mark) => Some(mark),
            _ => None,
        };
        existing = self.existing(&blob.file, wrong).await?;
        if let Existing::Sound(found) = existing {
            self.tracker.there(paths, blob.file.size);
            return Ok(Published { blob, found, resumed: 0 });
        }
        let replace = matches!(existing, Existing::Wrong(..));
        for _ in 0..2 {
            if let Some((found, resumed)) = self.fetch_once(&blob, replace).await? {
                return Ok(Published { blob, found, resumed });
            }
        }
        Err(Error::new(
            Reason::IntegrityMismatch,
            format!(
                "the bytes of {} of {}@{} are not the promised ones ({}), twice",
                blob.file.path,
                self.repo,
                self.commit.short(),
                blob.file.digest
            ),
            "try again later; if it stays, the file at the source is damaged, or a proxy on the way changes it",
        ))
    }

    /// Looks whether the blob is there and right; `wrong` is one that is known not to be.
    async fn existing(&self, file: &RepoFile, wrong: Option<Mark>) -> Result<Existing> {
        let path = self.into.blob(&file.digest);
        let (wanted, trusted, place) = (file.digest.clone(), Arc::clone(&self.trusted), path.clone());
        let look = move || look(&place, |found| trusted(&wanted, found));
        let (found, linked) = match blocking(look).await? {
            Look::Nothing => return Ok(Existing::Absent),
            // A link into the shared store whose payload is gone: replaced like nothing at all.
            Look::Dangling => return Ok(Existing::Wrong((0, 0, 0))),
            Look::Trusted(found) => return Ok(Existing::Sound(found)),
            Look::Unknown { found, linked } => (found, linked),
        };
        let mark = (found.ino(), mtime_ns(&found), found.len());
        if wrong != Some(mark) {
            if found.is_file() && found.len() == file.size && self.hash_existing(file).await? {
                return Ok(Existing::Sound(found));
            }
            tracing::warn!(path = %path.display(), "a blob of the cache has other bytes than the hub promised");
        }
        if found.is_file() && !linked {
            return Ok(Existing::Wrong(mark));
        }
        Err(Error::new(
            Reason::IntegrityMismatch,
            format!(
                "{} has wrong bytes and is not larder's to replace, being a link or a folder",
                path.display()
            ),
            "remove that model with `hf cache rm`, then stage it again",
        ))
    }

    async fn hash_existing(&self, file: &RepoFile) -> Result<bool> {
        let _busy = self.tracker.verifying();
        let path = self.into.blob(&file.digest);
        let (promise, size, stop) = (file.digest.clone(), file.size, self.stop.clone());
        let digest = blocking(move || {
            File::open(&path)
                .and_then(|mut input| digest_of(&mut input, &promise, size, &|| stop.is_cancelled()))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => interrupted(),
                    _ => Error::io("read", &path, &error),
                })
        });
        Ok(digest.await? == file.digest)
    }

    /// Takes the blob's lock, waiting for whoever has it.
    async fn lock(&self, digest: &Digest) -> Result<BlobLock> {
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .build();
        loop {
            let (into, wanted) = (self.into.clone(), digest.clone());
            if let Some(lock) = blocking(move || into.try_lock(&wanted)).await? {
                return Ok(lock);
            }
            tracing::debug!(digest = %digest, "another process fetches this blob; waiting for it");
            let wait = waits.next().unwrap_or(Duration::from_secs(1));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(interrupted()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Brings all bytes into the partial, checks and publishes them. `None`: they were wrong and are gone.
    async fn fetch_once(self: &Arc<Self>, blob: &Blob, replace: bool) -> Result<Option<(Metadata, u64)>> {
        let file = &blob.file;
        let (into, wanted) = (self.into.clone(), file.clone());
        let (partial, there) = blocking(move || Partial::open(&into, &wanted.digest, wanted.size)).await?;
        let resumed = there.bytes();
        metrics::bytes_resumed(resumed);
        let progress = self.tracker.begin(file.path.as_str(), file.size);
        let job = Arc::new(FileJob::new(file, partial, there, progress, self.stop.child_token()));
        let hash = tokio::spawn(hash_behind(Arc::clone(&job), file.digest.clone()));
        let fetching = self.tracker.fetching();
        self.queue.push(Arc::clone(&job));
        let complete = job.complete().await;
        drop(fetching);
        if let Err(error) = complete {
            job.stop.cancel();
            return Err(error);
        }
        let _busy = self.tracker.verifying();
        let mut digest = hash.await.map_err(super::blocking_failed)??;
        if job.is_whole() {
            // Two connections may have written the same bytes; only what the disk says now counts.
            digest = hash_behind(Arc::clone(&job), file.digest.clone()).await?;
        }
        let into = self.into.clone();
        if digest == file.digest {
            let found = blocking(move || publish(&into, &digest, replace)).await?;
            job.progress.published(blob.paths);
            return Ok(Some((found, resumed)));
        }
        tracing::warn!(path = %file.path, repo = %self.repo, "the bytes that came are not the promised ones");
        metrics::bytes_wasted("integrity_mismatch", file.size);
        job.progress.reset();
        let wanted = file.digest.clone();
        blocking(move || {
            remove(&into.partial_map(&wanted));
            remove(&into.partial(&wanted));
            Ok(())
        })
        .await?;
        Ok(None)
    }
}

/// What lies under a blob's name, without reading it.
enum Look {
    Nothing,
    Dangling,
    Trusted(Metadata),
    Unknown { found: Metadata, linked: bool },
}

fn look(path: &Path, trusted: impl FnOnce(&Metadata) -> bool) -> Result<Look> {
    let failed = |error: &io::Error| Error::io("look at", path, error);
    let linked = match fs::symlink_metadata(path) {
        Ok(found) => found.is_symlink(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Nothing),
        Err(error) => return Err(failed(&error)),
    };
    match fs::metadata(path) {
        Ok(found) if trusted(&found) => Ok(Look::Trusted(found)),
        Ok(found) => Ok(Look::Unknown { found, linked }),
        Err(error) if linked && error.kind() == io::ErrorKind::NotFound => Ok(Look::Dangling),
        Err(error) => Err(failed(&error)),
    }
}

fn publish(into: &RepoDir, digest: &Digest, replace: bool) -> Result<Metadata> {
    let found = if replace { into.replace_blob(digest) } else { into.publish_blob(digest) }?;
    remove(&into.partial_map(digest));
    Ok(found)
}

/// Removes a part of a partial; if it stays, the next attempt finds that it does not fit and begins anew.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a partial file stays behind");
    }
}

/// Hashes a file while it comes, always up to the last byte before which nothing is missing.
async fn hash_behind(job: Arc<FileJob>, promise: Digest) -> Result<Digest> {
    let size = job.partial.size();
    let mut hasher = Hasher::new(&promise, size);
    let mut frontier = job.frontier();
    let mut at = 0;
    while at < size {
        let reached = tokio::select! {
            biased;
            () = job.stop.cancelled() => return Err(interrupted()),
            reached = frontier.wait_for(|reached| *reached == size || *reached >= at + STEP) => match reached {
                Ok(reached) => *reached,
                Err(_) => return Err(interrupted()),
            },
        };
        let (job, end) = (Arc::clone(&job), reached.min(at + LONGEST_STEP));
        hasher = blocking(move || hash_step(&job, hasher, at, end)).await?;
        at = end;
    }
    Ok(hasher.finish())
}

fn hash_step(job: &FileJob, mut hasher: Hasher, mut at: u64, end: u64) -> Result<Hasher> {
    let mut buffer = vec![0; READ];
    let stop: &CancellationToken = &job.stop;
    while at < end {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        let length = usize::try_from(end - at).unwrap_or(READ).min(READ);
        job.partial.read(at, &mut buffer[..length])?;
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hasher)
}
