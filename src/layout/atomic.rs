//! One step from the old to the new: things are made in a scratch folder and renamed into their place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::sync_folder;
use crate::error::{Error, Result};

/// A name in `scratch` that nobody else uses.
pub(super) fn unique(scratch: &Path, what: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = jiff::Timestamp::now().as_nanosecond();
    scratch.join(format!("{what}-{}-{now}-{next}", std::process::id()))
}

/// Replaces `path` by `bytes` in one step, by way of a file in `scratch`, and flushes both.
pub(super) fn write_atomic(scratch: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    stream_atomic(scratch, path, |out| out.write_all(bytes))
}

/// The same for a content that need not be in memory as a whole.
pub(super) fn stream_atomic(
    scratch: &Path,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let temporary = unique(scratch, "file");
    let written = File::create_new(&temporary).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // Nobody reads it there; the failure that counts is the one that is returned.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, &error));
    }
    path.parent().map_or(Ok(()), sync_folder)
}
