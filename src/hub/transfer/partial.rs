//! A blob on its way: the file with its bytes, beside its journal ([`super::journal`]).
//!
//! `<etag>.part` is allocated at its full size ahead (so that a full disk is found at the start) and written at
//! offsets. Every 64 MiB the bytes are flushed, then the journal says so, then the journal is flushed: that is
//! what a loss of power leaves. Small files have no journal; they come in one piece anyway.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::care::{Dirty, PageCache};
use super::journal::{self, Journal, Known};
use crate::disk::Reservation;
use crate::error::{Error, Result};
use crate::layout::{Hasher, RepoDir};
use larder_jobs::{Digest, RepoFile};

/// Below this a file is fetched anew rather than journalled: it is one write anyway.
pub(super) const JOURNAL_FROM: u64 = 256 << 10;
/// Bytes of one file that are written before they are flushed, and hashed before the hash is remembered.
pub(super) const SAFE_EVERY: u64 = 64 << 20;
/// Bytes that are compared at once.
const COMPARE: usize = 64 << 10;

/// What an earlier attempt has left of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that the disk has set aside, whether they came or not.
    pub allocated: u64,
}

/// What an earlier attempt has left of `file`; nothing if it would not be used. Blocks.
pub fn kept(dir: &RepoDir, file: &RepoFile) -> Kept {
    if file.size < JOURNAL_FROM {
        return Kept::default();
    }
    let Ok(found) = fs::metadata(dir.partial(&file.digest)) else { return Kept::default() };
    if found.len() != file.size {
        return Kept::default();
    }
    let known = journal::read(&dir.partial_map(&file.digest), &file.digest, file.size);
    let allocated = found.blocks().saturating_mul(512).min(file.size);
    Kept { bytes: known.map_or(0, |known| known.ranges.bytes()), allocated }
}

/// How the disk is treated.
#[derive(Debug, Clone)]
pub(super) struct Care {
    pub(super) dirty: Arc<Dirty>,
    pub(super) pages: PageCache,
    /// What was promised to the job whose bytes these are.
    pub(super) room: Arc<Reservation>,
}

/// The open partial of one blob. Everything here blocks.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    journal: Option<Journal>,
    size: u64,
    care: Care,
    /// The filesystem gives room only as bytes are written.
    is_sparse: bool,
    /// Bytes that were written since the last flush began.
    unsafe_bytes: AtomicU64,
    /// Everything before this byte is hashed.
    hashed: AtomicU64,
    flushing: Mutex<()>,
}

impl Partial {
    /// Opens the partial of `digest`, or begins one; returns what is there.
    ///
    /// # Errors
    /// `insufficient_disk` if `size` bytes do not fit; `io_error`.
    pub(super) fn open(dir: &RepoDir, digest: &Digest, size: u64, care: &Care) -> Result<(Self, Known)> {
        let (path, map) = (dir.partial(digest), dir.partial_map(digest));
        let file = open(&path)?;
        let length = file.metadata().map_err(|error| Error::io("look at", &path, &error))?.len();
        let mut known = Known::default();
        if length == size && size >= JOURNAL_FROM {
            known = journal::read(&map, digest, size)?;
        }
        let resumed = known.ranges.bytes() > 0;
        let prepared = if resumed {
            // From here on all of it counts as flushed.
            file.sync_data()
        } else {
            file.set_len(0)
        };
        prepared.map_err(|error| Error::io("prepare", &path, &error))?;
        let allocated = care.room.take(|| {
            let before = blocks(&file);
            let allocated = allocate(&file, size);
            let after = blocks(&file);
            (after.saturating_sub(before), allocated.map(|()| after))
        });
        let allocated = allocated.map_err(|error| {
            if !resumed {
                // Nothing of worth is in it, and what it took is missed elsewhere.
                let _ = fs::remove_file(&path);
            }
            Error::io("allocate", &path, &error)
        })?;
        let mut journal = None;
        if size >= JOURNAL_FROM {
            journal = Some(Journal::begin(&map, digest, size, &known)?);
            dir.sync_partials()?;
        }
        let hashed = AtomicU64::new(known.hashed.as_ref().map_or(0, |(at, _)| *at));
        let (unsafe_bytes, flushing, care) = (AtomicU64::new(0), Mutex::new(()), care.clone());
        let is_sparse = allocated < size;
        Ok((Self { file, path, journal, size, care, is_sparse, unsafe_bytes, hashed, flushing }, known))
    }

    /// Writes a small blob whole, and flushes it.
    pub(super) fn write_small(
        dir: &RepoDir,
        digest: &Digest,
        pieces: &[Bytes],
        room: &Reservation,
    ) -> Result<()> {
        let path = dir.partial(digest);
        let file = open(&path)?;
        file.set_len(0).map_err(|error| Error::io("empty", &path, &error))?;
        let write = || (length(pieces), write_at(&file, 0, pieces));
        room.take(write).map_err(|error| Error::io("write", &path, &error))
    }

    /// Writes pieces one behind the other from `offset`; says whether it is time for [`Self::make_safe`].
    pub(super) fn write(&self, offset: u64, pieces: &[Bytes]) -> Result<bool> {
        let length = length(pieces);
        let write = || write_at(&self.file, offset, pieces);
        let written = if self.is_sparse { self.care.room.take(|| (length, write())) } else { write() };
        written.map_err(|error| Error::io("write", &self.path, &error))?;
        self.care.dirty.add(length);
        let waiting = self.unsafe_bytes.fetch_add(length, Relaxed) + length;
        Ok(waiting >= SAFE_EVERY || self.care.dirty.is_full())
    }

    /// As [`Self::write`], where the bytes should be there already: `true` if they were others.
    pub(super) fn correct(&self, offset: u64, pieces: &[Bytes]) -> Result<bool> {
        let (mut at, mut buffer, mut same) = (offset, [0; COMPARE], true);
        for part in pieces.iter().flat_map(|piece| piece.chunks(COMPARE)) {
            let there = &mut buffer[..part.len()];
            self.read(at, there)?;
            same &= *there == *part;
            at += part.len() as u64;
        }
        if !same && self.write(offset, pieces)? {
            self.make_safe()?;
        }
        Ok(!same)
    }

    /// Flushes what was written, and remembers that it is.
    pub(super) fn make_safe(&self) -> Result<()> {
        let _one = match self.flushing.try_lock() {
            Ok(one) => one,
            // Another connection flushes this file; only a full memory is a reason to wait for it.
            Err(_) if !self.care.dirty.is_full() => return Ok(()),
            Err(_) => self.flushing.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let mark = self.journal.as_ref().map(Journal::mark);
        let hashed = self.hashed.load(Relaxed);
        let waiting = self.unsafe_bytes.swap(0, Relaxed);
        if waiting == 0 {
            return Ok(());
        }
        let flushed = self.file.sync_data().map_err(|error| Error::io("flush", &self.path, &error));
        self.care.dirty.less(waiting);
        flushed?;
        self.care.pages.passed(&self.file, hashed);
        match (&self.journal, mark) {
            (Some(journal), Some(mark)) => journal.safe(mark),
            _ => Ok(()),
        }
    }

    /// Remembers that the bytes of `range` were written.
    pub(super) fn note(&self, range: &Range<u64>) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), |journal| journal.note(range))
    }

    /// Remembers that everything before `at` is hashed.
    pub(super) fn note_hash(&self, at: u64, hasher: &Hasher) -> Result<()> {
        self.hashed.store(at, Relaxed);
        self.journal.as_ref().map_or(Ok(()), |journal| journal.hashed(at, &hasher.save()))
    }

    /// Forgets every hash that was remembered: the bytes are not the promised ones.
    pub(super) fn forget_hash(&self, dir: &RepoDir, digest: &Digest) -> Result<()> {
        let mut ranges = super::ranges::Ranges::default();
        ranges.add(0..self.size);
        self.file.sync_data().map_err(|error| Error::io("flush", &self.path, &error))?;
        Journal::begin(&dir.partial_map(digest), digest, self.size, &Known { ranges, hashed: None }).map(drop)
    }

    /// Reads into `buffer` from `offset`, for the hash.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| Error::io("read", &self.path, &error))
    }

    /// It was published: what stays of it in memory.
    pub(super) fn settle(&self) {
        self.care.pages.complete(&self.file);
    }

    /// Size in bytes that the whole blob will have.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.care.dirty.less(*self.unsafe_bytes.get_mut());
    }
}

fn open(path: &std::path::Path) -> Result<File> {
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(nofollow);
    options.open(path).map_err(|error| Error::io("open", path, &error))
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Writes pieces one behind the other from `offset`.
fn write_at(file: &File, mut offset: u64, pieces: &[Bytes]) -> io::Result<()> {
    for piece in pieces {
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Bytes that the disk has set aside for a file.
fn blocks(file: &File) -> u64 {
    file.metadata().map_or(0, |found| found.blocks().saturating_mul(512))
}

/// Takes the room for `size` bytes now, where the filesystem can; else only the length is set.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    if size > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    file.set_len(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Cache;

    const SIZE: u64 = 1 << 20;

    fn fixture() -> (tempfile::TempDir, RepoDir, Digest) {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        (dir, repo, Digest::sha256(&"0".repeat(64)).expect("hex"))
    }

    fn care(most: u64) -> Care {
        Care {
            dirty: Arc::new(Dirty::new(most)),
            pages: PageCache::Drop,
            room: Arc::new(Reservation::none()),
        }
    }

    #[test]
    fn bytes_are_found_again() {
        let (_dir, repo, digest) = fixture();
        let (partial, none) = Partial::open(&repo, &digest, SIZE, &care(SIZE)).expect("opens");
        assert_eq!(none, Known::default());
        partial.write(10, &[Bytes::from_static(b"hello"), Bytes::from_static(b"!")]).expect("written");
        partial.note(&(10..16)).expect("noted");
        drop(partial);
        let (partial, known) = Partial::open(&repo, &digest, SIZE, &care(SIZE)).expect("opens");
        assert_eq!(known.ranges.bytes(), 6);
        let mut buffer = [0; 6];
        partial.read(10, &mut buffer).expect("read");
        assert_eq!(&buffer, b"hello!");
        drop(partial);
        OpenOptions::new().write(true).open(repo.partial(&digest)).expect("opens").set_len(5).expect("cut");
        let (_, known) = Partial::open(&repo, &digest, SIZE, &care(SIZE)).expect("opens");
        assert_eq!(known, Known::default(), "the file has another size");
    }

    #[test]
    fn no_more_than_the_bound_waits_for_the_disk() {
        let (_dir, repo, digest) = fixture();
        let care = care(100);
        let (partial, _) = Partial::open(&repo, &digest, SIZE, &care).expect("opens");
        assert!(!partial.write(0, &[Bytes::from_static(&[1; 99])]).expect("written"));
        assert!(!care.dirty.is_full());
        assert!(partial.write(99, &[Bytes::from_static(&[1; 1])]).expect("written"), "to be flushed");
        assert!(care.dirty.is_full());
        partial.make_safe().expect("flushed");
        assert!(!care.dirty.is_full());
        partial.write(100, &[Bytes::from_static(&[1; 50])]).expect("written");
        drop(partial);
        care.dirty.add(99);
        assert!(!care.dirty.is_full(), "what is dropped waits no longer");
    }

    #[test]
    fn a_correction_says_whether_there_was_something_to_correct() {
        let (_dir, repo, digest) = fixture();
        let (partial, _) = Partial::open(&repo, &digest, SIZE, &care(SIZE)).expect("opens");
        let bytes = [Bytes::from(vec![1; 100_000]), Bytes::from_static(&[2; 3])];
        assert!(partial.correct(7, &bytes).expect("read"));
        assert!(!partial.correct(7, &bytes).expect("read"));
        assert!(partial.correct(100_000, &[Bytes::from_static(&[9])]).expect("read"));
        assert!(partial.correct(7, &bytes).expect("read"));
    }
}
