//! Care for the host's other work: how many written bytes may wait in memory for the disk, and what stays in the
//! page cache afterwards.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{Advice, fadvise};
use serde::Deserialize;

/// What becomes of a file's pages in memory once it is verified and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageCache {
    /// The kernel decides.
    #[default]
    Leave,
    /// They are read in again where they left already: somebody will load the model soon.
    Keep,
    /// They go, also while the transfer runs: nobody will read the model soon, and others need the memory.
    Drop,
}

impl PageCache {
    /// The first `bytes` of `file` are flushed and will not be read again for now.
    pub(super) fn passed(self, file: &File, bytes: u64) {
        if self == Self::Drop
            && let Some(bytes) = NonZeroU64::new(bytes)
        {
            // Advice only: where the filesystem takes none, nothing is lost.
            let _ = fadvise(file, 0, Some(bytes), Advice::DontNeed);
        }
    }

    /// `file` is complete and flushed.
    pub(super) fn complete(self, file: &File) {
        let advice = match self {
            Self::Leave => return,
            Self::Keep => Advice::WillNeed,
            Self::Drop => Advice::DontNeed,
        };
        let _ = fadvise(file, 0, None, advice);
    }
}

/// Bytes of all transfers of this process that were written and not flushed yet.
#[derive(Debug)]
pub(crate) struct Dirty {
    bytes: AtomicU64,
    most: u64,
}

impl Dirty {
    pub(crate) fn new(most: u64) -> Self {
        Self { bytes: AtomicU64::new(0), most }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn less(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Whoever wants to write more flushes first.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Relaxed) >= self.most
    }
}
