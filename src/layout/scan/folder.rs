//! The entries of one folder as the kernel lists them, each looked at by its name in it. A walk of a large cache is
//! mostly calls of the kernel and small allocations, so that both are spared here: no path is made that nobody needs,
//! no list is kept, and no lookup begins at the root.

use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, open, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::layout::unused::frees;

/// Bytes of a folder that are listed by one call.
const LISTED_AT_ONCE: usize = 8 << 10;

/// One entry of a folder, which is open.
pub(super) struct Entry<'a> {
    folder: &'a Path,
    dir: BorrowedFd<'a>,
    name: &'a CStr,
    kind: FileType,
}

/// What there is of a file.
pub(super) struct Found {
    pub(super) is_file: bool,
    pub(super) bytes: u64,
    /// Bytes that it takes on the disk.
    pub(super) occupied: u64,
    /// Bytes that its removal frees.
    pub(super) frees: u64,
    pub(super) modified: Option<SystemTime>,
}

/// What came of listing a folder.
pub(super) enum Listed {
    /// Every entry was visited.
    All,
    /// There is no such folder.
    Absent,
    /// A link or a file has its name.
    NoFolder,
}

/// Visits the entries of a folder that is not a link, one by one, since there may be very many.
///
/// # Errors
/// That it cannot be listed, or not to its end.
pub(super) fn each(folder: &Path, mut visit: impl FnMut(&Entry<'_>)) -> io::Result<Listed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match open(folder, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Listed::Absent),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Listed::NoFolder),
        Err(error) => return Err(error.into()),
    };
    let mut buffer = [MaybeUninit::uninit(); LISTED_AT_ONCE];
    let mut entries = RawDir::new(dir.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut one = Entry { folder, dir: dir.as_fd(), name, kind: entry.file_type() };
        if one.kind == FileType::Unknown {
            // Some filesystems do not list the kind.
            let Ok(stat) = one.stat() else { continue };
            one.kind = FileType::from_raw_mode(stat.st_mode);
        }
        visit(&one);
    }
    Ok(Listed::All)
}

impl Entry<'_> {
    /// Its name; what is not UTF-8 in it is replaced.
    pub(super) fn name(&self) -> Cow<'_, str> {
        self.name.to_string_lossy()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(OsStr::from_bytes(self.name.to_bytes()))
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder
    }

    pub(super) fn kind(&self) -> FileType {
        self.kind
    }

    /// What it is; a link is not followed.
    pub(super) fn found(&self) -> io::Result<Found> {
        Ok(Found::from(&self.stat()?))
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The text of a link, which `buffer` is used for.
    pub(super) fn link<'a>(&self, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        *buffer = readlinkat(self.dir, self.name, std::mem::take(buffer)).ok()?.into_bytes();
        Some(buffer)
    }

    /// The beginning of a file that holds a line.
    pub(super) fn line(&self) -> io::Result<String> {
        let file =
            openat(self.dir, self.name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let mut line = [0; 64];
        let read = rustix::io::read(&file, &mut line)?;
        Ok(String::from_utf8_lossy(&line[..read]).trim().to_owned())
    }
}

impl From<&Stat> for Found {
    fn from(stat: &Stat) -> Self {
        let number = |n| u64::try_from(n).unwrap_or(0);
        let blocks = number(stat.st_blocks);
        let since = u64::try_from(stat.st_mtime).ok().zip(u32::try_from(stat.st_mtime_nsec).ok());
        Self {
            is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            bytes: number(stat.st_size),
            occupied: blocks.saturating_mul(512),
            frees: frees(stat.st_nlink, blocks),
            modified: since.and_then(|(s, ns)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(s, ns))),
        }
    }
}
