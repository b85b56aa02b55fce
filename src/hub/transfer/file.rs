//! One blob in flight: which pieces are still to be fetched, which came, and when it is complete.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::partial::Partial;
use super::ranges::Ranges;
use super::tracker::InFlight;
use crate::error::Error;
use crate::hub::interrupted;
use larder_jobs::{FilePath, RepoFile};

/// One blob in flight.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) path: FilePath,
    pub(super) partial: Partial,
    pub(super) progress: InFlight,
    /// Ends everybody who works on it: the job was stopped, or one piece failed for good.
    pub(super) stop: CancellationToken,
    /// Held by the one that asks where the bytes are.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// Where the bytes are, if that is known.
    target: Mutex<Option<Url>>,
    state: Mutex<State>,
    /// Everything before this byte is on the disk.
    frontier: watch::Sender<u64>,
    changed: Notify,
    /// The source ignores ranges: one stream brings the file.
    whole: AtomicBool,
}

#[derive(Debug)]
struct State {
    missing: VecDeque<Range<u64>>,
    received: Ranges,
    /// Pieces that somebody works on.
    working: usize,
    failed: Option<Error>,
}

impl FileJob {
    pub(super) fn new(
        file: &RepoFile,
        partial: Partial,
        there: Ranges,
        progress: InFlight,
        stop: CancellationToken,
    ) -> Self {
        let missing = there.missing(0..file.size).into();
        let (frontier, _) = watch::channel(there.frontier());
        progress.more(there.bytes());
        Self {
            path: file.path.clone(),
            partial,
            progress,
            stop,
            gate: tokio::sync::Mutex::new(()),
            target: Mutex::new(None),
            state: Mutex::new(State { missing, received: there, working: 0, failed: None }),
            frontier,
            changed: Notify::new(),
            whole: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, Option<Url>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn target(&self) -> Option<Url> {
        self.place().clone()
    }

    pub(super) fn set_target(&self, url: Url) {
        *self.place() = Some(url);
    }

    /// `url` is good for nothing any more; one that somebody found meanwhile stays.
    pub(super) fn forget_target(&self, url: &Url) {
        self.place().take_if(|known| known == url);
    }

    /// The next piece of at most `most` bytes. Whoever takes it calls [`Self::ended`] afterwards.
    pub(super) fn next_piece(&self, most: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        if self.stop.is_cancelled() {
            return None;
        }
        let Range { start, end } = state.missing.pop_front()?;
        let cut = end.min(start.saturating_add(most));
        if cut < end {
            state.missing.push_front(cut..end);
        }
        state.working += 1;
        Some(start..cut)
    }

    /// The bytes of `range` are on the disk.
    pub(super) fn received(&self, range: Range<u64>) {
        let mut state = self.state();
        self.progress.more(state.received.add(range));
        let frontier = state.received.frontier();
        self.frontier.send_if_modified(|known| std::mem::replace(known, frontier) != frontier);
    }

    /// A piece is done with; `Err` ends the file.
    pub(super) fn ended(&self, result: Result<(), Error>) {
        let mut state = self.state();
        state.working -= 1;
        if let Err(error) = result {
            state.failed.get_or_insert(error);
            self.stop.cancel();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until every byte is there and nobody works on it any more, or until it failed or was stopped.
    pub(super) async fn complete(&self) -> Result<(), Error> {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.working == 0 {
                    if let Some(error) = &state.failed {
                        return Err(error.clone());
                    }
                    if state.received.bytes() == self.partial.size() {
                        return Ok(());
                    }
                    if self.stop.is_cancelled() {
                        return Err(interrupted());
                    }
                }
            }
            tokio::select! {
                () = changed => {}
                () = self.stop.cancelled(), if !self.stop.is_cancelled() => {}
            }
        }
    }

    pub(super) fn frontier(&self) -> watch::Receiver<u64> {
        self.frontier.subscribe()
    }

    /// Bytes that did not come yet.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.partial.size() - self.state().received.bytes()
    }

    /// The parts of `range` that did not come yet.
    pub(super) fn missing_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().received.missing(range)
    }

    /// Makes the caller the one that streams the whole file; `false` if somebody else is.
    pub(super) fn claim_whole(&self) -> bool {
        let first = !self.whole.swap(true, Ordering::AcqRel);
        if first {
            self.state().missing.clear();
        }
        first
    }

    /// Whether the source was found to ignore ranges.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}
