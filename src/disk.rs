//! What the cache's disk has, asked of the filesystem that holds the path and not of a list of disks, and how much of
//! that was promised to somebody.

pub mod load;
pub mod preload;
mod quiet;
mod reserve;
pub mod residency;
pub mod speed;
mod worth;

use std::path::Path;

use crate::error::{Error, Result};

pub use quiet::Quiet;
pub use reserve::{Reservation, Reservations};

/// Room on the filesystem of one path: bytes, and entries of folders that it may still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Size of the filesystem.
    pub total: u64,
    /// Free for this user (the blocks reserved for root are not).
    pub free: u64,
    /// Inodes in all and free; `None` where the filesystem makes them as needed.
    pub inodes: Option<(u64, u64)>,
}

/// Asks the filesystem that holds `path`, or its nearest existing parent.
///
/// # Errors
/// `io_error` if the filesystem does not answer.
pub fn usage(path: &Path) -> Result<Usage> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let stat = rustix::fs::statvfs(existing)
        .map_err(|errno| Error::io("ask for the free space of", existing, &errno.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let inodes = (stat.f_files > 0).then_some((stat.f_files, stat.f_favail));
    Ok(Usage { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail), inodes })
}

/// Where the filesystem of `path` is mounted: the topmost parent on the same device.
pub fn mountpoint(path: &Path) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let start = path.ancestors().find(|ancestor| ancestor.exists())?.canonicalize().ok()?;
    let device = start.metadata().ok()?.dev();
    start
        .ancestors()
        .take_while(|ancestor| ancestor.metadata().is_ok_and(|meta| meta.dev() == device))
        .last()
        .map(Path::to_owned)
}

/// What was under way on the disk and was stopped before its end.
fn stopped(what: &str) -> Error {
    let hint = "it begins anew when it is asked for again";
    Error::new(larder_jobs::Reason::Interrupted, format!("{what} was stopped"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_yet_has_the_disk_of_its_parent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let usage = usage(&dir.path().join("not/yet")).expect("answers");
        assert!(usage.total >= usage.free && usage.total > 0);
        assert!(usage.inodes.is_none_or(|(total, free)| total >= free));
        assert!(mountpoint(dir.path()).is_some_and(|mount| dir.path().starts_with(mount)));
    }
}
