//! One blob in flight: which pieces are still to be fetched, which came, from where, and when it is complete.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::hash::Follower;
use super::partial::Partial;
use super::piece::Piece;
use super::ranges::Ranges;
use super::route::Route;
use super::tracker::InFlight;
use crate::error::Error;
use crate::hub::interrupted;
use larder_jobs::FilePath;

/// Pieces that are compared at the same time: few, because the first that differs may be the only one.
const COMPARED_AT_ONCE: usize = 4;
/// A file is compared in at least so many pieces.
const COMPARED_PIECES: u64 = 16;

/// One blob in flight.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) path: FilePath,
    pub(super) partial: Arc<Partial>,
    /// The hash of the bytes before the first that is missing.
    pub(super) follower: Arc<Follower>,
    /// Where it is listed as in flight; a second look at bytes that were counted before has none.
    pub(super) progress: Option<InFlight>,
    /// Ends everybody who works on it: the job was stopped, or one piece failed for good.
    pub(super) stop: CancellationToken,
    pub(super) route: Route,
    state: Mutex<State>,
    /// Everything before this byte is on the disk.
    frontier: watch::Sender<u64>,
    changed: Notify,
    /// The source ignores ranges: one stream brings the file.
    whole: AtomicBool,
    /// The bytes were there and are fetched again to find out which are wrong.
    pub(super) comparing: bool,
}

#[derive(Debug)]
struct State {
    missing: VecDeque<Range<u64>>,
    received: Ranges,
    /// Pieces that somebody works on.
    active: Vec<Arc<Piece>>,
    failed: Option<Error>,
    /// Bytes turned out to be others than what the disk had: no more pieces until somebody has looked whether that
    /// was all.
    corrected: bool,
}

impl FileJob {
    /// The bytes that are missing beside `there`, with the hash of the beginning of those.
    pub(super) fn new(
        path: FilePath,
        partial: Partial,
        follower: Follower,
        there: Ranges,
        progress: InFlight,
        route: Route,
        stop: CancellationToken,
    ) -> Self {
        progress.reached(there.bytes());
        Self::build(path, (Arc::new(partial), Arc::new(follower)), there, Some(progress), route, stop)
    }

    /// All bytes once more, to be compared with those that are there.
    pub(super) fn comparing(&self, route: Route, stop: CancellationToken) -> Self {
        let bytes = (Arc::clone(&self.partial), Arc::clone(&self.follower));
        let job = Self::build(self.path.clone(), bytes, Ranges::default(), None, route, stop);
        Self { comparing: true, ..job }
    }

    fn build(
        path: FilePath,
        (partial, follower): (Arc<Partial>, Arc<Follower>),
        there: Ranges,
        progress: Option<InFlight>,
        route: Route,
        stop: CancellationToken,
    ) -> Self {
        let missing = there.missing(0..partial.size()).into();
        let (frontier, _) = watch::channel(there.frontier());
        let state = State { missing, received: there, active: Vec::new(), failed: None, corrected: false };
        Self {
            path,
            partial,
            follower,
            progress,
            stop,
            route,
            state: Mutex::new(state),
            frontier,
            changed: Notify::new(),
            whole: AtomicBool::new(false),
            comparing: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece of at most `most` bytes. Whoever takes it calls [`Self::ended`] afterwards.
    pub(super) fn next_piece(&self, most: u64) -> Option<Arc<Piece>> {
        let mut state = self.state();
        let is_enough = self.comparing && (state.corrected || state.active.len() >= COMPARED_AT_ONCE);
        if self.stop.is_cancelled() || is_enough {
            return None;
        }
        let most = match self.comparing {
            true => most.min((self.partial.size() / COMPARED_PIECES).max(super::partial::JOURNAL_FROM)),
            false => most,
        };
        let Range { start, end } = state.missing.pop_front()?;
        let cut = end.min(start.saturating_add(most));
        if cut < end {
            state.missing.push_front(cut..end);
        }
        let piece = Arc::new(Piece::new(start..cut));
        state.active.push(Arc::clone(&piece));
        Some(piece)
    }

    /// A part of a piece that a slow connection works on, while others bring `typical` bytes a second.
    pub(super) fn take_over(&self, typical: f64, now: Instant) -> Option<Arc<Piece>> {
        if self.is_whole() || self.stop.is_cancelled() {
            return None;
        }
        let mut state = self.state();
        let given = state.active.iter().find_map(|piece| piece.give(typical, now))?;
        let given = Arc::new(given);
        state.active.push(Arc::clone(&given));
        Some(given)
    }

    /// Whether nobody has to do anything for it any more.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.active.is_empty() && (state.missing.is_empty() || self.stop.is_cancelled())
    }

    /// Pieces that somebody works on.
    pub(super) fn working(&self) -> usize {
        self.state().active.len()
    }

    /// `pieces` were written at `offset`: hashes them if nothing is missing before. Blocks.
    pub(super) fn hash(&self, offset: u64, pieces: &[Bytes]) -> Result<(), Error> {
        if *self.frontier.borrow() < offset {
            return Ok(());
        }
        self.follower.take(&self.partial, offset, pieces)
    }

    /// The bytes of `range` are on the disk.
    pub(super) fn received(&self, range: Range<u64>) {
        let mut state = self.state();
        let new = state.received.add(range);
        if let Some(progress) = &self.progress {
            progress.more(new);
        }
        let frontier = state.received.frontier();
        self.frontier.send_if_modified(|known| std::mem::replace(known, frontier) != frontier);
    }

    /// Bytes on the disk were others than those that came, and were replaced. No more pieces are given out until
    /// [`Self::go_on`].
    pub(super) fn corrected(&self) {
        self.state().corrected = true;
    }

    /// Whether bytes were corrected since the last [`Self::go_on`].
    pub(super) fn was_corrected(&self) -> bool {
        self.state().corrected
    }

    /// What was corrected was not all: more pieces are to be compared.
    pub(super) fn go_on(&self) {
        self.state().corrected = false;
    }

    /// A piece is done with; `Err` ends the file.
    pub(super) fn ended(&self, piece: &Arc<Piece>, result: Result<(), Error>) {
        let mut state = self.state();
        state.active.retain(|active| !Arc::ptr_eq(active, piece));
        if let Err(error) = result {
            state.failed.get_or_insert(error);
            self.stop.cancel();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until every byte is there and nobody works on it any more, or until it failed or was stopped.
    pub(super) async fn complete(&self) -> Result<(), Error> {
        while !self.complete_or_corrected().await? {}
        Ok(())
    }

    /// As [`Self::complete`], `true` then; `false` when bytes were corrected and nobody works on it any more.
    pub(super) async fn complete_or_corrected(&self) -> Result<bool, Error> {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.active.is_empty() {
                    if let Some(error) = &state.failed {
                        return Err(error.clone());
                    }
                    if state.received.bytes() == self.partial.size() {
                        return Ok(true);
                    }
                    if self.stop.is_cancelled() {
                        return Err(interrupted());
                    }
                    if state.corrected {
                        return Ok(false);
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
