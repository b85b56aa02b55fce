//! Where the bytes of one answer go: gathered, written on a thread that may block, noted in the journal, and
//! hashed if it is their turn.

use std::ops::Range;
use std::sync::Arc;

use super::blocking;
use super::file::FileJob;
use super::partial::SAFE_EVERY;
use crate::error::Result;
use bytes::Bytes;

/// Bytes that are gathered before they are written.
const WRITE: u64 = 128 << 10;
/// A connection remembers at least this often what it brought.
const NOTE: u64 = 4 << 20;

/// Gathers what comes and writes it. While a write is under way nothing more is read from this connection: what waits
/// in memory is bounded, and the other connections go on.
pub(super) struct Sink {
    file: Arc<FileJob>,
    held: Vec<Bytes>,
    /// Where the held bytes begin, and where they end.
    start: u64,
    end: u64,
    /// Everything before here, from where this run began, is in the journal.
    noted: u64,
    /// A write failed; what comes after the hole is not written.
    broken: bool,
}

impl Sink {
    pub(super) fn new(file: &Arc<FileJob>, at: u64) -> Self {
        Self { file: Arc::clone(file), held: Vec::new(), start: at, end: at, noted: at, broken: false }
    }

    pub(super) async fn push(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        if at != self.end {
            self.close().await?;
            (self.start, self.end, self.noted) = (at, at, at);
        }
        self.end += bytes.len() as u64;
        self.held.push(bytes);
        if self.end - self.start >= WRITE { self.write(NOTE).await } else { Ok(()) }
    }

    /// Writes everything, and notes what was written, also when a write failed.
    pub(super) async fn close(&mut self) -> Result<()> {
        let closed = self.write(1).await;
        let note = self.noted..self.start;
        if note.is_empty() || self.file.comparing {
            return closed;
        }
        self.noted = self.start;
        closed.and_then(|()| self.file.partial.note(&note))
    }

    /// Writes what is held, and notes what was written if it is at least `note_from` bytes.
    async fn write(&mut self, note_from: u64) -> Result<()> {
        if self.broken || (self.held.is_empty() && self.start - self.noted < note_from) {
            return Ok(());
        }
        let (pieces, range) = (std::mem::take(&mut self.held), self.start..self.end);
        let note = self.noted..self.end;
        // A hash that is remembered must not be ahead of the bytes that are.
        let is_due = note.end - note.start >= note_from || range.start / SAFE_EVERY < range.end / SAFE_EVERY;
        let written = range.clone();
        let done = match self.file.comparing {
            true => self.correct(range.start, pieces).await,
            false => self.put(range.start, &pieces, is_due.then_some(&note)).await,
        };
        self.broken = done.is_err();
        done?;
        self.start = written.end;
        if is_due || self.file.comparing {
            self.noted = written.end;
        }
        self.file.received(written);
        Ok(())
    }

    /// The page cache takes bytes at once, so that is done here; the disk is waited for elsewhere.
    async fn put(&self, at: u64, pieces: &[Bytes], note: Option<&Range<u64>>) -> Result<()> {
        let flush = self.file.partial.write(at, pieces)?;
        if let Some(note) = note {
            self.file.partial.note(note)?;
        }
        self.file.hash(at, pieces)?;
        if flush {
            let file = Arc::clone(&self.file);
            blocking(move || file.partial.make_safe()).await?;
        }
        Ok(())
    }

    async fn correct(&self, at: u64, pieces: Vec<Bytes>) -> Result<()> {
        let file = Arc::clone(&self.file);
        let work = move || {
            if file.partial.correct(at, &pieces)? {
                file.corrected();
            }
            Ok(())
        };
        blocking(work).await
    }
}
