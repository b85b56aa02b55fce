//! Where the bytes of one answer go: gathered, written on a thread that may block, noted in the journal.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::file::FileJob;
use super::{blocking, blocking_failed};
use crate::error::Result;

/// Bytes that are gathered before they are written; at most twice this waits in memory per connection.
const WRITE: u64 = 128 << 10;
/// A connection remembers at least this often what it brought.
const NOTE: u64 = 4 << 20;

/// Gathers what comes and writes it, one write at a time.
pub(super) struct Sink {
    file: Arc<FileJob>,
    held: Vec<Bytes>,
    /// Where the held bytes begin, and where they end.
    start: u64,
    end: u64,
    /// Everything of this run before here is on the disk.
    written: u64,
    /// Everything before here is in the journal.
    noted: u64,
    pending: Option<JoinHandle<Result<Range<u64>>>>,
    /// A write failed; what comes after the hole is not written.
    broken: bool,
}

impl Sink {
    pub(super) fn new(file: &Arc<FileJob>, at: u64) -> Self {
        let file = Arc::clone(file);
        let (held, pending, broken) = (Vec::new(), None, false);
        Self { file, held, start: at, end: at, written: at, noted: at, pending, broken }
    }

    pub(super) async fn push(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        if at != self.end {
            self.close().await?;
            (self.start, self.end, self.written, self.noted) = (at, at, at, at);
        }
        self.end += bytes.len() as u64;
        self.held.push(bytes);
        if self.end - self.start >= WRITE {
            self.write().await?;
        }
        Ok(())
    }

    /// Writes everything, and notes what was written, also when the last write failed.
    pub(super) async fn close(&mut self) -> Result<()> {
        let mut result = self.write().await;
        result = result.and(self.settle().await);
        let note = std::mem::replace(&mut self.noted, self.written)..self.written;
        if !note.is_empty() && !self.file.comparing {
            let file = Arc::clone(&self.file);
            result = result.and(blocking(move || file.partial.note(&note)).await);
        }
        result
    }

    /// Starts the next write, after the one before it has ended. What that one brought is noted now and then.
    async fn write(&mut self) -> Result<()> {
        self.settle().await?;
        let (pieces, range) = (std::mem::take(&mut self.held), self.start..self.end);
        self.start = self.end;
        if self.broken || pieces.is_empty() {
            return Ok(());
        }
        let mut note = self.noted..self.written;
        if note.end - note.start < NOTE {
            note.end = note.start;
        }
        self.noted = note.end;
        let file = Arc::clone(&self.file);
        self.pending = Some(tokio::task::spawn_blocking(move || {
            if file.comparing {
                if file.partial.correct(range.start, &pieces)? {
                    file.corrected();
                }
                return Ok(range);
            }
            if !note.is_empty() {
                file.partial.note(&note)?;
            }
            file.partial.write(range.start, &pieces)?;
            Ok(range)
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        match pending.await.map_err(blocking_failed).and_then(|written| written) {
            Ok(range) => {
                self.written = range.end;
                self.file.received(range);
                Ok(())
            }
            Err(error) => {
                self.broken = true;
                Err(error)
            }
        }
    }
}
