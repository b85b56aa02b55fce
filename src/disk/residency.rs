//! How much of a file is in the page cache, without touching it.
//!
//! `cachestat(2)` (Linux 6.5) counts without a mapping. Before that, and on overlay filesystems, `mincore(2)` looks at a
//! mapping of at most 1 GiB at a time, which nobody reads. On overlay, the pages belong to the file of the layer below:
//! a mapping leads there, a descriptor does not, and cachestat says that nothing is cached.
//!
//! Both are for a file's owner and for those who may write it: other processes' reading is nobody else's business. To
//! others cachestat says EPERM (or, before Linux 6.13, the truth) and mincore says that every page is resident; so
//! mincore is not asked then, and the answer is unknown.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags};
use serde::Serialize;

use crate::error::{Error, Result};

/// Bytes of one question.
const WINDOW: u64 = 1 << 30;
/// The number of the system call, the same on all architectures that larder runs on; libc does not have it everywhere.
const CACHESTAT: libc::c_long = 451;
/// `linux/magic.h`.
const OVERLAY: u64 = 0x794c_7630;

/// What of some bytes is in the page cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Residency {
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of these in the page cache; `None` if the kernel does not tell.
    pub resident: Option<u64>,
}

/// Counts what of some files is in the page cache. Each file is open for a moment, which others who ask for leases on it
/// can see. Blocks; some milliseconds for each GiB.
///
/// # Errors
/// `io_error` if a file cannot be opened, `interrupted` if `stop` said so.
pub fn residency<P: AsRef<Path>>(
    files: impl IntoIterator<Item = P>,
    stop: &dyn Fn() -> bool,
) -> Result<Residency> {
    let mut sum = Residency { bytes: 0, resident: Some(0) };
    for path in files {
        let path = path.as_ref();
        let failed = |error: io::Error| Error::io("look at the page cache of", path, &error);
        let file = open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut at = 0;
        while at < bytes {
            if stop() {
                return Err(super::stopped("the look at the page cache"));
            }
            let length = WINDOW.min(bytes - at);
            sum.resident = sum.resident.and_then(|sum| Some(sum + resident(&file, at, length).ok()??));
            at += length;
        }
        sum.bytes += bytes;
    }
    Ok(sum)
}

/// Opens a regular file to read; a pipe in its place does not hang.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        let what = if kind.is_fifo() { "a pipe" } else { "not a regular file" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}")));
    }
    Ok(file)
}

/// Bytes of a part of a file that are in the page cache, counted in whole pages; `None` if the kernel does not tell. The
/// part begins at a multiple of the page size and lies within the file.
///
/// # Errors
/// What the kernel said.
pub(super) fn resident(file: &File, offset: u64, length: u64) -> io::Result<Option<u64>> {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let bytes = |pages: u64| Some(pages.saturating_mul(page).min(length));
    if length == 0 {
        return Ok(Some(0));
    }
    if !on_overlay(file)?
        && let Some(pages) = cachestat(file, offset, length)
    {
        return Ok(bytes(pages));
    }
    if !told(file)? {
        return Ok(None);
    }
    let mut pages = 0;
    let mut at = offset;
    while at < offset + length {
        let window = WINDOW.min(offset + length - at);
        pages += mincore(file, at, window, page)?;
        at += window;
    }
    Ok(bytes(pages))
}

fn on_overlay(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| kind == OVERLAY))
}

/// Whether mincore tells this process the truth: it owns the file, or may write it.
fn told(file: &File) -> io::Result<bool> {
    if file.metadata()?.uid() == rustix::process::geteuid().as_raw() {
        return Ok(true);
    }
    let same = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::accessat(rustix::fs::CWD, same, Access::WRITE_OK, AtFlags::EACCESS).is_ok())
}

/// `struct cachestat_range` and `struct cachestat` of `linux/mman.h`.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages in the page cache; `None` on older kernels, and where the kernel or a seccomp filter refuses.
#[allow(unsafe_code)]
fn cachestat(file: &File, offset: u64, length: u64) -> Option<u64> {
    let range = Range { offset, length };
    let mut counts = Counts::default();
    // SAFETY: the kernel reads `range` and writes `counts`, both of its own layout, during the call only.
    let status = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0 as libc::c_uint)
    };
    (status == 0).then_some(counts.cached)
}

/// Pages in the page cache, of a part of at most [`WINDOW`] bytes.
#[allow(unsafe_code)]
fn mincore(file: &File, offset: u64, length: u64, page: u64) -> io::Result<u64> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let size = usize::try_from(length).map_err(invalid)?;
    let start = libc::off_t::try_from(offset).map_err(invalid)?;
    let mut pages = vec![0_u8; usize::try_from(length.div_ceil(page)).map_err(invalid)?];
    // SAFETY: a new mapping at an address of the kernel's choice; it cannot be read or written (PROT_NONE), so a file that
    // shrinks meanwhile does no harm. `pages` has a byte for each page of it, and the mapping is gone at the end.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_NONE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            start,
        );
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let status = libc::mincore(map, size, pages.as_mut_ptr());
        let error = io::Error::last_os_error();
        libc::munmap(map, size);
        if status != 0 {
            return Err(error);
        }
    }
    let resident = pages.iter().filter(|page| **page & 1 == 1).count();
    Ok(u64::try_from(resident).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file of 8 MiB and some bytes whose pages were dropped; `None` where the temp folder has no disk.
    fn dropped() -> Option<(tempfile::NamedTempFile, u64)> {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        let bytes = 8 * MIB + 100;
        file.write_all(&vec![7; usize::try_from(bytes).expect("small")]).expect("writes");
        file.as_file().sync_all().expect("syncs");
        let tmpfs = 0x0102_1994;
        if rustix::fs::fstatfs(file.as_file()).expect("answers").f_type == tmpfs {
            assert_eq!(resident(file.as_file(), 0, bytes).expect("answers"), Some(bytes), "it lives there");
            return None;
        }
        // Pages that are in other hands for a moment stay.
        for _ in 0..50 {
            fadvise(file.as_file(), 0, None, Advice::DontNeed).expect("drops");
            if resident(file.as_file(), 0, bytes).expect("answers") == Some(0) {
                return Some((file, bytes));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the pages stay");
    }

    #[test]
    fn half_read_is_half_resident_in_both_ways_of_counting() {
        let Some((file, bytes)) = dropped() else { return };
        let of = || residency([file.path()], &|| false).expect("answers");
        assert_eq!(of(), Residency { bytes, resident: Some(0) });
        // No reading ahead, so that half is half.
        fadvise(file.as_file(), 0, None, Advice::Random).expect("advice");
        let mut buffer = vec![0; usize::try_from(MIB).expect("small")];
        for at in 0..4 {
            file.as_file().read_exact_at(&mut buffer, at * MIB).expect("reads");
        }
        let half = of().resident.expect("known");
        assert!((4 * MIB..5 * MIB).contains(&half), "{half}");
        let page = u64::try_from(rustix::param::page_size()).expect("small");
        assert_eq!(mincore(file.as_file(), 0, bytes, page).expect("answers") * page, half);
        assert_eq!(resident(file.as_file(), 0, 4 * MIB).expect("answers"), Some(4 * MIB));
        file.as_file().read_exact_at(&mut [0; 100], 8 * MIB).expect("reads");
        let tail = resident(file.as_file(), 8 * MIB, 100).expect("answers");
        assert_eq!(tail, Some(100), "the last page counts its bytes, not its size");
    }

    #[test]
    fn a_question_can_be_stopped_and_what_is_no_file_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        assert_eq!(residency([file.path()], &|| true), Ok(Residency { bytes: 0, resident: Some(0) }));
        file.as_file().set_len(1).expect("grows");
        let error = residency([file.path()], &|| true).expect_err("stopped");
        assert_eq!(error.reason(), larder_jobs::Reason::Interrupted);
        let folder = tempfile::tempdir().expect("temp dir");
        assert!(residency([folder.path()], &|| false).is_err());
        assert!(residency([folder.path().join("gone")], &|| false).is_err());
    }

    #[test]
    fn whose_file_it_is_decides_what_may_be_known() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        assert!(told(file.as_file()).expect("answers"));
        let hosts = File::open("/proc/version").expect("opens");
        let root = rustix::process::geteuid().is_root();
        assert!(root || !told(&hosts).expect("answers"), "root's file, and read-only");
    }
}
