//! How far a transfer has come: counters that the transfer bumps and anybody may read at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use larder_jobs::{CommitId, FileProgress, Progress};

/// Most files that are listed as in flight.
const MAX_ACTIVE: usize = 16;

/// What the plan says about the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// The commit.
    pub commit: CommitId,
    /// Bytes of all chosen files.
    pub bytes: u64,
    /// Number of chosen files.
    pub files: u64,
}

/// What a transfer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Bytes are missing.
    Fetching,
    /// All bytes of what is in flight are there, and their digests are being checked.
    Verifying,
}

/// The counters of one job's transfer.
#[derive(Debug, Default)]
pub struct Tracker {
    done: AtomicU64,
    verified: AtomicU64,
    fetched: AtomicU64,
    files: AtomicU64,
    fetching: AtomicUsize,
    verifying: AtomicUsize,
    next: AtomicU64,
    active: Mutex<BTreeMap<u64, Arc<Active>>>,
    /// Bytes by the source that they came from; as many entries as there are sources.
    sources: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug)]
struct Active {
    path: String,
    size: u64,
    done: AtomicU64,
}

impl Tracker {
    /// A tracker for a job whose earlier attempts fetched that many bytes.
    pub fn new(fetched_before: u64) -> Self {
        Self { fetched: AtomicU64::new(fetched_before), ..Self::default() }
    }

    /// Bytes of chosen files that are on the disk, fetched now or before.
    pub fn bytes_done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Bytes that came over the network, over all attempts.
    pub fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Relaxed)
    }

    /// What is being done right now.
    pub fn phase(&self) -> Phase {
        let verifying = self.fetching.load(Relaxed) == 0 && self.verifying.load(Relaxed) > 0;
        if verifying { Phase::Verifying } else { Phase::Fetching }
    }

    /// The progress as others see it.
    pub fn snapshot(&self, totals: &Totals) -> Progress {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = active.values().take(MAX_ACTIVE).map(|file| FileProgress {
            path: file.path.clone(),
            bytes_total: file.size,
            bytes_done: file.done.load(Relaxed),
        });
        Progress {
            commit: Some(totals.commit.clone()),
            bytes_total: Some(totals.bytes),
            bytes_done: self.bytes_done(),
            bytes_verified: self.verified.load(Relaxed),
            bytes_fetched: self.bytes_fetched(),
            files_total: Some(totals.files),
            files_done: self.files.load(Relaxed),
            active: shown.collect(),
            ..Progress::default()
        }
    }

    pub(super) fn came(&self, source: &str, bytes: u64) {
        self.fetched.fetch_add(bytes, Relaxed);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get_mut(source) {
            Some(known) => *known += bytes,
            None => drop(sources.insert(source.to_owned(), bytes)),
        }
    }

    /// Bytes of this attempt by the source that they came from.
    pub fn by_source(&self) -> BTreeMap<String, u64> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `files` files of `size` bytes are there, whose bytes were not counted before.
    pub(super) fn there(&self, files: u64, size: u64) {
        self.files.fetch_add(files, Relaxed);
        self.done.fetch_add(size.saturating_mul(files), Relaxed);
        self.verified.fetch_add(size.saturating_mul(files), Relaxed);
    }

    /// A file is in flight for as long as the answer lives.
    pub(super) fn begin(self: &Arc<Self>, path: &str, size: u64) -> InFlight {
        let id = self.next.fetch_add(1, Relaxed);
        let file = Arc::new(Active { path: path.to_owned(), size, done: AtomicU64::new(0) });
        self.active.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&file));
        InFlight { tracker: Arc::clone(self), id, file }
    }

    pub(super) fn verifying(self: &Arc<Self>) -> Busy {
        self.verifying.fetch_add(1, Relaxed);
        Busy { tracker: Arc::clone(self), phase: Phase::Verifying }
    }

    pub(super) fn fetching(self: &Arc<Self>) -> Busy {
        self.fetching.fetch_add(1, Relaxed);
        Busy { tracker: Arc::clone(self), phase: Phase::Fetching }
    }
}

/// A file in flight, listed until this is dropped. Bytes that stay on the disk stay counted.
#[derive(Debug)]
pub(super) struct InFlight {
    tracker: Arc<Tracker>,
    id: u64,
    file: Arc<Active>,
}

impl InFlight {
    /// `bytes` more of it are on the disk.
    pub(super) fn more(&self, bytes: u64) {
        self.file.done.fetch_add(bytes, Relaxed);
        self.tracker.done.fetch_add(bytes, Relaxed);
    }

    /// `bytes` of it are on the disk, counted before or not.
    pub(super) fn reached(&self, bytes: u64) {
        let before = self.file.done.swap(bytes, Relaxed);
        self.tracker.done.fetch_add(bytes, Relaxed);
        self.tracker.done.fetch_sub(before, Relaxed);
    }

    /// Its bytes were thrown away.
    pub(super) fn reset(&self) {
        let bytes = self.file.done.swap(0, Relaxed);
        self.tracker.done.fetch_sub(bytes, Relaxed);
    }

    /// It is published under `paths` names.
    pub(super) fn published(&self, paths: u64) {
        let counted = self.file.done.swap(0, Relaxed);
        let bytes = self.file.size.saturating_mul(paths);
        self.tracker.done.fetch_add(bytes.saturating_sub(counted), Relaxed);
        self.tracker.verified.fetch_add(bytes, Relaxed);
        self.tracker.files.fetch_add(paths, Relaxed);
        self.end();
    }
}

impl InFlight {
    fn end(&self) {
        self.tracker.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end();
    }
}

/// Something is being done for as long as this lives.
#[derive(Debug)]
pub(super) struct Busy {
    tracker: Arc<Tracker>,
    phase: Phase,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let counter = match self.phase {
            Phase::Fetching => &self.tracker.fetching,
            Phase::Verifying => &self.tracker.verifying,
        };
        counter.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_was_counted() {
        let tracker = Arc::new(Tracker::new(7));
        let totals = Totals { commit: "c".repeat(40).parse().expect("commit"), bytes: 30, files: 3 };
        tracker.there(1, 10);
        let file = tracker.begin("w.bin", 10);
        let fetching = tracker.fetching();
        tracker.came("http://a", 4);
        file.more(4);
        let seen = tracker.snapshot(&totals);
        assert_eq!((seen.bytes_done, seen.bytes_fetched, seen.files_done), (14, 11, 1));
        assert_eq!(seen.bytes_verified, 10, "half a file is no verified one");
        assert_eq!(seen.active[0].bytes_done, 4);
        assert_eq!(tracker.by_source(), BTreeMap::from([("http://a".to_owned(), 4)]));
        assert_eq!(tracker.phase(), Phase::Fetching);
        let verifying = tracker.verifying();
        drop(fetching);
        assert_eq!(tracker.phase(), Phase::Verifying);
        drop(verifying);
        file.published(2);
        let seen = tracker.snapshot(&totals);
        assert_eq!((seen.bytes_done, seen.files_done, seen.active.len()), (30, 3, 0));
        assert_eq!(seen.bytes_verified, 30);
    }
}
