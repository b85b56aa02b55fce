//! The hash that follows a transfer, always up to the last byte before which nothing is missing, and remembered every
//! 64 MiB so that a restart goes on from there.
//!
//! Bytes that come right where the hash is are hashed while they are in memory; what came too early is read back, on a
//! thread that may block, when the gap before it is closed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::blocking;
use super::file::FileJob;
use super::partial::{Partial, SAFE_EVERY};
use crate::error::{Error, Result};
use crate::hub::interrupted;
use crate::layout::Hasher;
use larder_jobs::Digest;

/// Bytes that are read back at once: they stay in the processor's cache between the copy and the hash.
const READ: usize = 128 << 10;
/// Whoever brings bytes at most this far behind the hash lets it catch up; more is left to [`behind`].
const STEP: u64 = 8 << 20;
/// The most that is read back without a look at the others.
const LONGEST_STEP: u64 = 256 << 20;

/// The hash of a file on its way.
#[derive(Debug)]
pub(super) struct Follower {
    /// Everything before this byte is hashed; changes under the lock only.
    at: AtomicU64,
    hasher: Mutex<Hasher>,
    /// Whether it is remembered in the partial's journal.
    remembered: bool,
}

impl Follower {
    /// A hash that has taken in everything before `at`.
    pub(super) fn new(at: u64, hasher: Hasher) -> Self {
        Self { at: AtomicU64::new(at), hasher: Mutex::new(hasher), remembered: true }
    }

    fn at(&self) -> u64 {
        self.at.load(Relaxed)
    }

    /// `pieces` were written at `offset`, where nothing before is missing: hashes them if the hash is there or close
    /// behind, and nobody else works on it. Blocks.
    pub(super) fn take(&self, partial: &Partial, offset: u64, pieces: &[Bytes]) -> Result<()> {
        let mut hasher = match self.hasher.try_lock() {
            Ok(hasher) => hasher,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if self.at() > offset || offset - self.at() > STEP {
            return Ok(());
        }
        self.read_back(&mut hasher, partial, offset)?;
        for piece in pieces {
            self.update(&mut hasher, partial, piece)?;
        }
        Ok(())
    }

    /// Hashes what is on the disk, up to `end`. Blocks.
    fn catch_up(&self, partial: &Partial, end: u64, stop: &CancellationToken) -> Result<()> {
        let mut hasher = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        while self.at() < end {
            if stop.is_cancelled() {
                return Err(interrupted());
            }
            let next = end.min(self.at() + STEP);
            self.read_back(&mut hasher, partial, next)?;
        }
        Ok(())
    }

    fn read_back(&self, hasher: &mut Hasher, partial: &Partial, end: u64) -> Result<()> {
        if self.at() >= end {
            return Ok(());
        }
        let mut buffer = vec![0; READ];
        while self.at() < end {
            let length = usize::try_from(end - self.at()).unwrap_or(READ).min(READ);
            partial.read(self.at(), &mut buffer[..length])?;
            self.update(hasher, partial, &buffer[..length])?;
        }
        Ok(())
    }

    /// Takes the next bytes in, and remembers the hash wherever that is due.
    fn update(&self, hasher: &mut Hasher, partial: &Partial, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let at = self.at();
            let until_due = (at / SAFE_EVERY + 1) * SAFE_EVERY - at;
            let (now, later) =
                bytes.split_at(usize::try_from(until_due).unwrap_or(usize::MAX).min(bytes.len()));
            hasher.update(now);
            let at = at + now.len() as u64;
            self.at.store(at, Relaxed);
            if self.remembered && at.is_multiple_of(SAFE_EVERY) {
                partial.note_hash(at, hasher)?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn finish(&self, size: u64) -> Result<Digest> {
        let hasher = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        match self.at() == size {
            true => Ok(hasher.clone().finish()),
            false => Err(Error::internal(format!("the hash is at {} of {size} bytes", self.at()))),
        }
    }
}

/// Hashes a file while it comes: whatever those who bring it do not.
pub(super) async fn behind(job: Arc<FileJob>) -> Result<Digest> {
    let size = job.partial.size();
    let mut frontier = job.frontier();
    while job.follower.at() < size {
        let at = job.follower.at();
        let reached = tokio::select! {
            biased;
            () = job.stop.cancelled() => return Err(interrupted()),
            reached = frontier.wait_for(|reached| *reached == size || *reached > at + STEP) => match reached {
                Ok(reached) => *reached,
                Err(_) => return Err(interrupted()),
            },
        };
        let at = job.follower.at();
        if reached < size && reached <= at + STEP {
            continue;
        }
        let (job, end) = (Arc::clone(&job), reached.min(at + LONGEST_STEP));
        blocking(move || job.follower.catch_up(&job.partial, end, &job.stop)).await?;
    }
    job.follower.finish(size)
}

/// Hashes what the disk has, all of it.
pub(super) async fn all(partial: Arc<Partial>, promise: &Digest, stop: &CancellationToken) -> Result<Digest> {
    let size = partial.size();
    let follower = Follower { remembered: false, ..Follower::new(0, Hasher::new(promise, size)) };
    let stop = stop.clone();
    blocking(move || {
        follower.catch_up(&partial, size, &stop)?;
        follower.finish(size)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Reservation;
    use crate::hub::testing::{noise, sha256};
    use crate::hub::transfer::care::{Dirty, PageCache};
    use crate::hub::transfer::partial::Care;
    use crate::layout::Cache;

    const SIZE: usize = 20 << 20;
    const PART: usize = 1 << 20;

    /// Writes the parts of a file in the order given and shows each to the hash, as a sink does; without `written`
    /// the disk has zeros.
    fn follow(order: impl Iterator<Item = usize>, written: bool) -> (Arc<Partial>, Follower, Digest) {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        let bytes = Bytes::from(noise(SIZE, 7));
        let digest = sha256("x", &bytes).digest;
        let room = Arc::new(Reservation::none());
        let care = Care { dirty: Arc::new(Dirty::new(u64::MAX)), pages: PageCache::Leave, room };
        let (partial, _) = Partial::open(&repo, &digest, SIZE as u64, &care).expect("opens");
        let follower = Follower::new(0, Hasher::new(&digest, SIZE as u64));
        let mut there = super::super::ranges::Ranges::default();
        for part in order {
            let (at, piece) = (part * PART, bytes.slice(part * PART..(part + 1) * PART));
            if written {
                partial.write(at as u64, std::slice::from_ref(&piece)).expect("written");
            }
            if there.frontier() >= at as u64 {
                follower.take(&partial, at as u64, &[piece]).expect("hashed");
            }
            there.add(at as u64..(at + PART) as u64);
        }
        (Arc::new(partial), follower, digest)
    }

    #[test]
    fn what_comes_in_order_is_never_read_back() {
        let (_partial, follower, digest) = follow(0..20, false);
        assert_eq!(follower.finish(SIZE as u64).expect("complete"), digest);
    }

    #[test]
    fn a_small_gap_is_closed_by_who_comes_next_and_a_large_one_is_left() {
        let (partial, follower, digest) = follow([1, 2, 0, 3, 4].into_iter().chain(5..20), true);
        assert_eq!(follower.finish(SIZE as u64).expect("complete"), digest);
        drop(partial);
        let (partial, follower, digest) = follow((1..19).chain([0, 19]), true);
        assert_eq!(follower.at(), PART as u64, "18 MiB lie between");
        follower.catch_up(&partial, SIZE as u64, &CancellationToken::new()).expect("read back");
        assert_eq!(follower.finish(SIZE as u64).expect("complete"), digest);
    }

    #[test]
    fn an_unfinished_hash_is_no_digest() {
        let (_partial, follower, _) = follow([0, 2].into_iter(), true);
        assert!(follower.finish(SIZE as u64).is_err());
    }
}
