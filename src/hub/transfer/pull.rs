//! Brings one piece of a file to the disk: asks, writes as it comes, tries again from the byte reached.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use reqwest::Response;
use tokio::task::JoinHandle;

use super::file::FileJob;
use super::source::{Failure, Opened, host};
use super::{Job, blocking, blocking_failed};
use crate::error::{Error, Result};
use crate::hub::interrupted;
use crate::hub::trouble::unreachable;
use crate::metrics;
use larder_jobs::Reason;

/// Bytes that are gathered before they are written; at most twice this waits in memory per connection.
const WRITE: u64 = 256 << 10;
/// A connection remembers at least this often what it brought.
const NOTE: u64 = 4 << 20;

/// Seven tries within some ten seconds, counted anew whenever bytes came.
fn patience() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(6)
        .with_jitter()
        .build()
}

impl Job {
    /// Fetches `range` of `file`; everything that came is on the disk and noted when this returns.
    ///
    /// If the source ignores ranges, the first to notice brings the whole file, and the others leave it to that.
    pub(super) async fn pull(&self, file: &Arc<FileJob>, range: Range<u64>) -> Result<()> {
        let mut wanted = range;
        let mut owner = false;
        let mut waits = patience();
        while !wanted.is_empty() {
            let (start, missing) = (wanted.start, file.missing_bytes());
            let step = self.part(file, &mut wanted, &mut owner).await;
            let progress = if owner { file.missing_bytes() < missing } else { wanted.start > start };
            match step {
                Ok(Step::Done) => {}
                Ok(Step::Elsewhere) => return Ok(()),
                Err(failure) => {
                    if progress {
                        waits = patience();
                    }
                    self.pause(file, failure, &mut waits).await?;
                }
            }
            if owner {
                let size = file.partial.size();
                wanted = file.missing_in(0..size).first().map_or(size..size, |first| first.start..size);
            }
        }
        Ok(())
    }

    /// Waits before the next try, or gives up with the error of the last.
    async fn pause(&self, file: &FileJob, failure: Failure, waits: &mut ExponentialBackoff) -> Result<()> {
        if file.stop.is_cancelled() {
            return Err(interrupted());
        }
        let (error, wait) = match failure {
            Failure::Fatal(error) => return Err(error),
            Failure::Again { error, wait } => (error, wait),
            Failure::Expired(error) => (error, None),
        };
        let Some(next) = waits.next() else { return Err(error) };
        let wait = wait.unwrap_or(next);
        tracing::debug!(path = %file.path, %error, ?wait, "a part of a file is asked for again");
        tokio::select! {
            () = file.stop.cancelled() => Err(interrupted()),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// One request; takes what it brought off the front of `wanted`.
    async fn part(
        &self,
        file: &Arc<FileJob>,
        wanted: &mut Range<u64>,
        owner: &mut bool,
    ) -> Result<Step, Failure> {
        let opened = tokio::select! {
            biased;
            () = file.stop.cancelled() => return Err(Failure::Fatal(interrupted())),
            opened = self.open(file, wanted) => opened?,
        };
        let (response, range) = match opened {
            Opened::Part(response) => (response, wanted.clone()),
            Opened::Whole(response) => {
                if !*owner && !file.claim_whole() {
                    return Ok(Step::Elsewhere);
                }
                *owner = true;
                (response, 0..file.partial.size())
            }
        };
        let mut sink = Sink::new(file, range.start);
        let streamed = self.stream(file, response, range, &mut sink).await;
        let closed = sink.close().await;
        wanted.start = sink.written.clamp(wanted.start, wanted.end);
        closed.map_err(Failure::Fatal)?;
        streamed.map(|()| Step::Done)
    }

    /// Takes bytes `from..end` off an answer. Those that are on the disk already are dropped.
    async fn stream(
        &self,
        file: &FileJob,
        mut response: Response,
        range: Range<u64>,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let place = host(response.url());
        let limit = self.hub.config.stall_timeout.get();
        let Range { start: mut at, end } = range;
        loop {
            let next = tokio::select! {
                biased;
                () = file.stop.cancelled() => return Err(Failure::Fatal(interrupted())),
                next = tokio::time::timeout(limit, response.chunk()) => next,
            };
            let chunk = match next {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) if at == end => return Ok(()),
                Ok(Ok(None)) => return Err(Failure::later(odd(file, &place, "stopped before the end"))),
                Ok(Err(error)) => return Err(Failure::later(unreachable(&place, &error))),
                Err(_) => return Err(Failure::later(self.stalled(&place))),
            };
            let length = chunk.len() as u64;
            self.tracker.came(length);
            metrics::bytes_received(&self.hub.source, length);
            if at + length > end {
                return Err(Failure::later(odd(file, &place, "sent more bytes than were asked for")));
            }
            // What came is written also when the transfer stops in the meantime.
            tokio::select! {
                biased;
                () = self.limit.take(length) => {}
                () = file.stop.cancelled() => {}
            }
            if file.is_whole() {
                let missing = file.missing_in(at..at + length);
                let wanted: u64 = missing.iter().map(|range| range.end - range.start).sum();
                metrics::bytes_wasted("restarted", length - wanted);
                for range in missing {
                    let cut = (range.start - at) as usize..(range.end - at) as usize;
                    sink.push(range.start, chunk.slice(cut)).await.map_err(Failure::Fatal)?;
                }
            } else {
                sink.push(at, chunk).await.map_err(Failure::Fatal)?;
            }
            at += length;
        }
    }
}

/// How a request ended that did not fail.
enum Step {
    /// The piece is on the disk.
    Done,
    /// Another connection brings the whole file.
    Elsewhere,
}

fn odd(file: &FileJob, place: &str, what: &str) -> Error {
    Error::new(
        Reason::SourceUnavailable,
        format!("{place} {what} of {}", file.path),
        "try again; check mirrors and proxies on the way",
    )
}

/// Gathers what comes and writes it on a thread that may block, one write at a time.
struct Sink {
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
    fn new(file: &Arc<FileJob>, at: u64) -> Self {
        let file = Arc::clone(file);
        let (held, pending, broken) = (Vec::new(), None, false);
        Self { file, held, start: at, end: at, written: at, noted: at, pending, broken }
    }

    async fn push(&mut self, at: u64, bytes: Bytes) -> Result<()> {
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
    async fn close(&mut self) -> Result<()> {
        let mut result = self.write().await;
        result = result.and(self.settle().await);
        let note = std::mem::replace(&mut self.noted, self.written)..self.written;
        if !note.is_empty() {
            let file = Arc::clone(&self.file);
            result = result.and(blocking(move || file.partial.note(note)).await);
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
            if !note.is_empty() {
                file.partial.note(note)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_bounded() {
        let waits: Vec<Duration> = patience().collect();
        assert_eq!(waits.len(), 6);
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(20), "{waits:?}");
    }
}
