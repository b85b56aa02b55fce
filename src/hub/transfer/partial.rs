//! A blob on its way: the file with its bytes and the journal that says which of them are there.
//!
//! `<etag>.part` is allocated at its full size ahead (so that a full disk is found at the start) and written at
//! offsets. `<etag>.map` is text, one line each, every line closed by its CRC-32:
//!
//! ```text
//! larder-partial 1 <size> <etag> <crc>
//! <start> <end> <crc>
//! ```
//!
//! A line is appended after the bytes that it stands for were written, so after a kill the journal never says
//! too much. After a loss of power it may, because it is not fsynced; the digest then finds out, and the file
//! is fetched anew. A torn line ends the reading. Small files have no journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::ranges::Ranges;
use crate::error::{Error, Result};
use crate::layout::RepoDir;
use larder_jobs::{Digest, RepoFile};

/// Below this a file is fetched anew rather than journalled: it is one write anyway.
const JOURNAL_FROM: u64 = 256 << 10;
/// A journal is compacted when it is opened; 64 MiB are 1.5 million lines, far more than one run writes.
const MAX_MAP: u64 = 64 << 20;

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
    let Ok(found) = fs::metadata(dir.partial(&file.digest)) else { return Kept::default() };
    if found.len() != file.size || file.size < JOURNAL_FROM {
        return Kept::default();
    }
    let there = read_map(&dir.partial_map(&file.digest), &header(&file.digest, file.size), file.size);
    let allocated = found.blocks().saturating_mul(512).min(file.size);
    Kept { bytes: there.map_or(0, |there| there.bytes()), allocated }
}

fn header(digest: &Digest, size: u64) -> String {
    format!("larder-partial 1 {size} {}", digest.hex())
}

/// The open partial of one blob. Everything here blocks.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    map: PathBuf,
    journal: Option<Mutex<File>>,
    size: u64,
}

impl Partial {
    /// Opens the partial of `digest`, or begins one; returns the bytes that are there.
    ///
    /// # Errors
    /// `insufficient_disk` if `size` bytes do not fit; `io_error`.
    pub(super) fn open(dir: &RepoDir, digest: &Digest, size: u64) -> Result<(Self, Ranges)> {
        let (path, map) = (dir.partial(digest), dir.partial_map(digest));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|error| Error::io("open", &path, &error))?;
        let length = file.metadata().map_err(|error| Error::io("look at", &path, &error))?.len();
        let header = header(digest, size);
        let mut there = Ranges::default();
        if length == size && size >= JOURNAL_FROM {
            there = read_map(&map, &header, size)?;
        }
        if there.bytes() == 0 {
            file.set_len(0).map_err(|error| Error::io("empty", &path, &error))?;
        }
        if let Err(error) = allocate(&file, size) {
            if there.bytes() == 0 {
                // Nothing of worth is in it, and what it took is missed elsewhere.
                let _ = fs::remove_file(&path);
            }
            return Err(Error::io("allocate", &path, &error));
        }
        let journal = match size >= JOURNAL_FROM {
            true => Some(Mutex::new(write_map(&map, &header, &there)?)),
            false => None,
        };
        Ok((Self { file, path, map, journal, size }, there))
    }

    /// Writes pieces one behind the other from `offset`.
    pub(super) fn write(&self, mut offset: u64, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            self.file.write_all_at(piece, offset).map_err(|error| Error::io("write", &self.path, &error))?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Remembers that the bytes of `range` were written.
    pub(super) fn note(&self, range: Range<u64>) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let line = closed(&format!("{} {}", range.start, range.end));
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.write_all(line.as_bytes()).map_err(|error| Error::io("write", &self.map, &error))
    }

    /// Reads into `buffer` from `offset`, for the hash.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| Error::io("read", &self.path, &error))
    }

    /// Size in bytes that the whole blob will have.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
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

fn closed(line: &str) -> String {
    format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))
}

fn opened(line: &str) -> Option<&str> {
    let (text, crc) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text.as_bytes())).then_some(text)
}

/// What a journal says; nothing if it is not the one of this blob.
fn read_map(path: &Path, header: &str, size: u64) -> Result<Ranges> {
    let mut there = Ranges::default();
    let bytes = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() || found.len() > MAX_MAP => return Ok(there),
        Ok(_) => fs::read(path).map_err(|error| Error::io("read", path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(there),
        Err(error) => return Err(Error::io("look at", path, &error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.split_inclusive('\n').map_while(opened);
    if lines.next() != Some(header) {
        return Ok(there);
    }
    for line in lines {
        let range =
            line.split_once(' ').and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
        match range {
            Some(Range { start, end }) if start < end && end <= size => there.add(start..end),
            _ => break,
        };
    }
    Ok(there)
}

/// Writes the journal anew, merged, and opens it for more.
fn write_map(path: &Path, header: &str, there: &Ranges) -> Result<File> {
    let mut text = closed(header);
    for range in there.iter() {
        text.push_str(&closed(&format!("{} {}", range.start, range.end)));
    }
    let aside = path.with_extension("map.new");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    written
        .and_then(|()| OpenOptions::new().append(true).open(path))
        .map_err(|error| Error::io("write", path, &error))
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

    fn there(repo: &RepoDir, digest: &Digest) -> Vec<(u64, u64)> {
        let (_, there) = Partial::open(repo, digest, SIZE).expect("opens");
        there.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn bytes_are_found_again_also_behind_a_torn_line() {
        let (_dir, repo, digest) = fixture();
        let (partial, none) = Partial::open(&repo, &digest, SIZE).expect("opens");
        assert_eq!(none.bytes(), 0);
        partial.write(10, &[Bytes::from_static(b"hello"), Bytes::from_static(b"!")]).expect("written");
        partial.note(10..16).expect("noted");
        partial.note(100..200).expect("noted");
        drop(partial);
        assert_eq!(there(&repo, &digest), [(10, 16), (100, 200)]);
        let mut buffer = [0; 6];
        Partial::open(&repo, &digest, SIZE).expect("opens").0.read(10, &mut buffer).expect("read");
        assert_eq!(&buffer, b"hello!");

        let map = repo.partial_map(&digest);
        let mut torn = fs::read(&map).expect("there");
        torn.truncate(torn.len() - 3);
        fs::write(&map, torn).expect("torn");
        assert_eq!(there(&repo, &digest), [(10, 16)]);
    }

    #[test]
    fn a_journal_that_does_not_fit_is_discarded() {
        let (_dir, repo, digest) = fixture();
        let (partial, _) = Partial::open(&repo, &digest, SIZE).expect("opens");
        partial.note(0..SIZE).expect("noted");
        drop(partial);
        let map = repo.partial_map(&digest);
        let sound = fs::read(&map).expect("there");
        let other = Digest::sha256(&"1".repeat(64)).expect("hex");
        fs::copy(repo.partial(&digest), repo.partial(&other)).expect("copied");
        fs::write(repo.partial_map(&other), &sound).expect("of another blob");
        assert_eq!(there(&repo, &other), []);
        OpenOptions::new().write(true).open(repo.partial(&digest)).expect("opens").set_len(5).expect("cut");
        assert_eq!(there(&repo, &digest), [], "the file has another size");
        fs::write(&map, b"\xff\xfe garbage").expect("damaged");
        assert_eq!(there(&repo, &digest), []);
    }
}
