//! One blob from "wanted" to "published": look, lock, look again, fetch, verify, move.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

use super::file::FileJob;
use super::hash::{self, Follower};
use super::journal::Known;
use super::partial::{JOURNAL_FROM, Partial};
use super::route::Route;
use super::{Job, blocking};
use crate::error::{Error, Result};
use crate::hub::{interrupted, source};
use crate::layout::{BlobLock, Hasher, RepoDir, digest_of, mtime_ns};
use crate::metrics;
use larder_jobs::{Digest, Reason, RepoFile};

/// Bytes that are wanted, and under which names.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// The first of its names, its size and its digest.
    pub(super) file: RepoFile,
    /// Number of its names.
    pub(super) paths: u64,
}

/// A blob that is in the cache, and how to recognise it again; a model may have very many.
#[derive(Debug, Clone, Default)]
pub(super) struct Staged {
    pub(super) mtime_ns: i64,
    pub(super) inode: u64,
    /// Bytes of an earlier attempt that were used again.
    pub(super) resumed: u64,
}

impl Staged {
    fn new(found: &Metadata, resumed: u64) -> Self {
        Self { mtime_ns: mtime_ns(found), inode: found.ino(), resumed }
    }
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
    pub(super) async fn stage(self: Arc<Self>, blob: Blob) -> Result<Staged> {
        let mut existing = self.existing(&blob.file, None).await?;
        if let Existing::Sound(found) = existing {
            return Ok(self.there(&blob, &found));
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
            return Ok(self.there(&blob, &found));
        }
        let replace = matches!(existing, Existing::Wrong(..));
        let staged = match blob.file.size < JOURNAL_FROM {
            true => {
                self.less_to_do(blob.file.size);
                self.stage_small(&blob, replace).await?.map(|found| (found, 0))
            }
            false => self.stage_large(&blob, replace).await?,
        };
        match staged {
            Some((found, resumed)) => Ok(Staged::new(&found, resumed)),
            None => Err(Error::new(
                Reason::IntegrityMismatch,
                format!(
                    "the bytes of {} of {}@{} are not the promised ones ({}), twice",
                    blob.file.path,
                    self.repo,
                    self.commit.short(),
                    blob.file.digest
                ),
                "try again later; if it stays, the file at the source is damaged, or a proxy on the way changes it",
            )),
        }
    }

    /// The blob was there before.
    fn there(&self, blob: &Blob, found: &Metadata) -> Staged {
        self.less_to_do(blob.file.size);
        self.tracker.there(blob.paths, blob.file.size);
        Staged::new(found, 0)
    }

    /// Looks whether the blob is there and right; `wrong` is one that is known not to be.
    async fn existing(&self, file: &RepoFile, wrong: Option<Mark>) -> Result<Existing> {
        let path = self.into.blob(&file.digest);
        let (found, linked) = match look(&path, |found| (self.trusted)(&file.digest, found))? {
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
        let (promise, size, stop) = (file.digest, file.size, self.stop.clone());
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
            if let Some(lock) = self.into.try_lock(digest)? {
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

    /// Brings all bytes into the partial, checks and publishes them. `None`: they are wrong, and out of the way.
    async fn stage_large(self: &Arc<Self>, blob: &Blob, replace: bool) -> Result<Option<(Metadata, u64)>> {
        let file = &blob.file;
        let progress = self.tracker.begin(file.path.as_str(), file.size);
        let route = Route::new(source::in_order(&self.hub.sources));
        let by_xet = self.by_xet(file, &route.source(), &progress).await?;
        let (into, wanted, care) = (self.into.clone(), file.clone(), self.care.clone());
        let opened = blocking(move || Partial::open(&into, &wanted.digest, wanted.size, &care)).await;
        let (partial, Known { ranges, hashed }) = opened?;
        let resumed = ranges.bytes().saturating_sub(by_xet);
        metrics::bytes_resumed(resumed);
        self.less_to_do(ranges.bytes());
        let (path, stop) = (file.path.clone(), self.stop.child_token());
        let from = hashed.and_then(|(at, state)| Some((at, Hasher::restore(&file.digest, &state)?)));
        let (at, hasher) = from.unwrap_or_else(|| (0, Hasher::new(&file.digest, file.size)));
        let follower = Follower::new(at, hasher);
        let job = Arc::new(FileJob::new(path, partial, follower, ranges, progress, route, stop));
        let behind = tokio::spawn(hash::behind(Arc::clone(&job)));
        let fetching = self.tracker.fetching();
        self.queue.push(Arc::clone(&job));
        let complete = job.complete().await;
        drop(fetching);
        if let Err(error) = complete {
            job.stop.cancel();
            return Err(error);
        }
        let busy = self.tracker.verifying();
        let mut digest = behind.await.map_err(super::blocking_failed)??;
        if job.is_whole() {
            // Two connections may have written the same bytes; only what the disk says now counts.
            digest = hash::all(Arc::clone(&job.partial), &file.digest, &job.stop).await?;
        }
        drop(busy);
        if digest != file.digest && !self.repair(blob, &job).await? {
            self.set_aside(&file.digest, &job).await?;
            return Ok(None);
        }
        let _busy = self.tracker.verifying();
        let (into, digest) = (self.into.clone(), file.digest);
        let found = blocking(move || publish(&into, &digest, replace)).await?;
        job.partial.settle();
        if let Some(progress) = &job.progress {
            progress.published(blob.paths);
        }
        Ok(Some((found, resumed)))
    }

    /// The bytes that came are not the promised ones: fetches them once more, from another source if there is one,
    /// piece by piece, and replaces what differs, until the digest is right. `false` if it never is.
    async fn repair(self: &Arc<Self>, blob: &Blob, job: &Arc<FileJob>) -> Result<bool> {
        let file = &blob.file;
        tracing::warn!(path = %file.path, repo = %self.repo, "the bytes that came are not the promised ones; comparing");
        let (into, digest, partial) = (self.into.clone(), file.digest, Arc::clone(&job.partial));
        blocking(move || partial.forget_hash(&into, &digest)).await?;
        let again = Arc::new(job.comparing(job.route.by_others(), self.stop.child_token()));
        let _fetching = self.tracker.fetching();
        self.queue.push(Arc::clone(&again));
        loop {
            let complete = again.complete_or_corrected().await.inspect_err(|_| again.stop.cancel())?;
            let is_right = again.was_corrected()
                && hash::all(Arc::clone(&job.partial), &file.digest, &self.stop).await? == file.digest;
            if is_right || complete {
                again.stop.cancel();
                return Ok(is_right);
            }
            again.go_on();
            self.queue.look();
        }
    }

    /// Moves a blob that is wrong for good out of the way.
    async fn set_aside(&self, digest: &Digest, job: &FileJob) -> Result<()> {
        metrics::bytes_wasted("integrity_mismatch", job.partial.size());
        metrics::download_quarantined();
        if let Some(progress) = &job.progress {
            progress.reset();
        }
        let (into, wanted) = (self.into.clone(), *digest);
        let aside = blocking(move || {
            remove(&into.partial_map(&wanted));
            into.quarantine(&wanted)
        });
        let aside = aside.await?;
        tracing::warn!(path = %aside.display(), "the wrong bytes were moved aside");
        Ok(())
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
