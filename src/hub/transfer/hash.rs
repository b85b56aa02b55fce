//! The hash that follows a transfer: always up to the last byte before which nothing is missing, on threads of its
//! own, remembered every 64 MiB so that a restart goes on from there.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::blocking;
use super::file::FileJob;
use super::partial::{Partial, SAFE_EVERY};
use crate::error::Result;
use crate::hub::interrupted;
use crate::layout::Hasher;
use larder_jobs::Digest;

/// Bytes that the hash reads at once: they stay in the processor's cache between the copy and the hash.
const READ: usize = 128 << 10;
/// The hash follows in steps of at least this, and stays at most that long on its thread.
const STEP: u64 = 8 << 20;
const LONGEST_STEP: u64 = 256 << 20;

/// Hashes a file while it comes, from `at` on, where `hasher` is.
pub(super) async fn behind(job: Arc<FileJob>, mut at: u64, mut hasher: Hasher) -> Result<Digest> {
    let size = job.partial.size();
    let mut frontier = job.frontier();
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
        hasher = blocking(move || step(&job.partial, hasher, at, end, &job.stop)).await?;
        at = end;
    }
    Ok(hasher.finish())
}

/// Hashes what the disk has, all of it.
pub(super) async fn all(partial: Arc<Partial>, promise: &Digest, stop: &CancellationToken) -> Result<Digest> {
    let (size, stop) = (partial.size(), stop.clone());
    let hasher = Hasher::new(promise, size);
    blocking(move || read(&partial, hasher, 0, size, &stop)).await.map(Hasher::finish)
}

fn step(
    partial: &Partial,
    mut hasher: Hasher,
    mut at: u64,
    end: u64,
    stop: &CancellationToken,
) -> Result<Hasher> {
    while at < end {
        let next = end.min((at / SAFE_EVERY + 1) * SAFE_EVERY);
        hasher = read(partial, hasher, at, next, stop)?;
        at = next;
        if at.is_multiple_of(SAFE_EVERY) {
            partial.note_hash(at, &hasher)?;
        }
    }
    Ok(hasher)
}

fn read(
    partial: &Partial,
    mut hasher: Hasher,
    mut at: u64,
    end: u64,
    stop: &CancellationToken,
) -> Result<Hasher> {
    let mut buffer = vec![0; READ];
    while at < end {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        let length = usize::try_from(end - at).unwrap_or(READ).min(READ);
        partial.read(at, &mut buffer[..length])?;
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hasher)
}
