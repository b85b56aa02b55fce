//! The files of one transfer that have pieces to be fetched, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::file::FileJob;
use super::piece::Piece;
use crate::hub::source::Source;

/// The files in flight; at most as many as there are connections.
#[derive(Debug, Default)]
pub(super) struct Queue {
    files: Mutex<VecDeque<Arc<FileJob>>>,
    pushed: Notify,
}

impl Queue {
    fn files(&self) -> MutexGuard<'_, VecDeque<Arc<FileJob>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, file: Arc<FileJob>) {
        self.files().push_back(file);
        self.look();
    }

    /// There may be new pieces.
    pub(super) fn look(&self) {
        self.pushed.notify_waiters();
    }

    /// Resolves when a file is pushed after this call.
    pub(super) fn pushed(&self) -> Notified<'_> {
        self.pushed.notified()
    }

    /// Pieces that somebody works on.
    pub(super) fn working(&self) -> usize {
        self.files().iter().map(|file| file.working()).sum()
    }

    /// The source of the first file that is not over.
    pub(super) fn source(&self) -> Option<Arc<Source>> {
        let mut files = self.files();
        files.retain(|file| !file.is_over());
        files.front().map(|file| file.route.source())
    }

    /// The next piece of at most `most` bytes, or a part of one that a slow connection works on while others bring
    /// `typical` bytes a second.
    pub(super) fn take(&self, most: u64, typical: f64) -> Option<(Arc<FileJob>, Arc<Piece>)> {
        let mut files = self.files();
        files.retain(|file| !file.is_over());
        // One piece of each file after the other: what comes in order is hashed while it is in memory.
        let mut by_work: Vec<_> = files.iter().map(|file| (file.working(), file)).collect();
        by_work.sort_by_key(|(working, _)| *working);
        let fresh = by_work.iter().find_map(|(_, file)| Some((Arc::clone(file), file.next_piece(most)?)));
        let now = Instant::now();
        fresh
            .or_else(|| files.iter().find_map(|file| Some((Arc::clone(file), file.take_over(typical, now)?))))
    }
}
