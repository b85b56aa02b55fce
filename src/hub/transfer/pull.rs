//! Brings one piece of a file to the disk: asks, writes as it comes, tries again from the byte reached, and goes
//! to the next source when one is good for nothing.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use reqwest::Response;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Job;
use super::file::FileJob;
use super::open::{Failure, Opened, Wanted, host, stalled};
use super::piece::Piece;
use super::route::Route;
use super::sink::Sink;
use crate::error::{Error, Result};
use crate::hub::interrupted;
use crate::hub::source::Source;
use crate::hub::trouble::unreachable;
use crate::metrics;
use larder_jobs::{FilePath, Reason};

/// A connection that brings nothing is given up after this share of `hub.stall_timeout` if others bring something.
const SIBLINGS_RUN: u32 = 6;

/// Seven tries within some ten seconds, counted anew whenever bytes came; three where another source can be asked.
pub(super) fn patience(route: &Route) -> ExponentialBackoff {
    waits(if route.is_last() { 6 } else { 2 })
}

fn waits(times: usize) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(times)
        .with_jitter()
        .build()
}

/// How a request ended that did not fail.
enum Step {
    /// What was asked for is on the disk, or others have it.
    Done,
    /// Another connection brings the whole file.
    Elsewhere,
}

impl Job {
    /// Fetches a piece of `file`; everything that came is on the disk and noted when this returns.
    ///
    /// If the source ignores ranges, the first to notice brings the whole file, and the others leave it to that.
    pub(super) async fn pull(&self, file: &Arc<FileJob>, piece: &Piece) -> Result<()> {
        let mut owner = false;
        let mut waits = patience(&file.route);
        loop {
            let wanted = match owner {
                false => piece.left(),
                true => {
                    let size = file.partial.size();
                    file.missing_in(0..size).first().map_or(size..size, |first| first.start..size)
                }
            };
            if wanted.is_empty() {
                return Ok(());
            }
            let (start, missing, source) = (wanted.start, file.missing_bytes(), file.route.source());
            let failure = match self.part(file, piece, wanted, &mut owner).await {
                Ok(Step::Done) => continue,
                Ok(Step::Elsewhere) => return Ok(()),
                Err(failure) => failure,
            };
            if if owner { file.missing_bytes() < missing } else { piece.left().start > start } {
                waits = patience(&file.route);
            }
            if self.recover(&file.path, &file.route, source, failure, &mut waits, &file.stop).await? {
                waits = patience(&file.route);
            }
        }
    }

    /// Waits before the next try, or goes to the next source (`true`), or gives up with the error that says most.
    pub(super) async fn recover(
        &self,
        path: &FilePath,
        route: &Route,
        source: Arc<Source>,
        failure: Failure,
        waits: &mut ExponentialBackoff,
        stop: &CancellationToken,
    ) -> Result<bool> {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        let (error, wait) = match failure {
            Failure::Local(error) => return Err(error),
            Failure::Refused(error) => return route.leave(&source, error).map(|()| true),
            Failure::Again { error, wait } => (error, wait),
            Failure::Expired(error) => (error, None),
        };
        if error.reason() == Reason::RateLimited {
            self.crew.refused();
        }
        let Some(next) = waits.next() else { return route.leave(&source, error).map(|()| true) };
        let wait = wait.unwrap_or(next);
        tracing::debug!(%path, %error, ?wait, "a part of a file is asked for again");
        tokio::select! {
            () = stop.cancelled() => Err(interrupted()),
            () = tokio::time::sleep(wait) => Ok(false),
        }
    }

    /// One request for `wanted`.
    async fn part(
        &self,
        file: &Arc<FileJob>,
        piece: &Piece,
        wanted: Range<u64>,
        owner: &mut bool,
    ) -> Result<Step, Failure> {
        let asked = Wanted { path: &file.path, size: file.partial.size(), route: &file.route };
        let opened = tokio::select! {
            biased;
            () = file.stop.cancelled() => return Err(Failure::Local(interrupted())),
            () = piece.taken() => return Ok(Step::Done),
            opened = self.open(asked, &wanted) => opened?,
        };
        let Opened { source, response, whole } = opened;
        if whole {
            if !*owner && !file.claim_whole() {
                return Ok(Step::Elsewhere);
            }
            *owner = true;
        }
        let run = if whole { 0..file.partial.size() } else { wanted };
        let mut sink = Sink::new(file, run.start);
        let mut stream = Stream { place: host(response.url()), source, response, path: &file.path };
        let streamed = match *owner {
            true => self.stream_rest(file, &mut stream, run, &mut sink).await,
            false => self.stream_piece(file, &mut stream, run, piece, &mut sink).await,
        };
        sink.close().await.map_err(Failure::Local)?;
        streamed.map(|()| Step::Done)
    }

    /// Takes the bytes of a piece off an answer to `asked`, until the piece ends, be it that others took its rest.
    async fn stream_piece(
        &self,
        file: &FileJob,
        stream: &mut Stream<'_>,
        asked: Range<u64>,
        piece: &Piece,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        loop {
            let left = piece.left();
            let chunk = tokio::select! {
                biased;
                () = piece.taken() => return Ok(()),
                chunk = self.next(stream, &file.stop) => chunk?,
            };
            let Some(chunk) = chunk else {
                return match piece.left().is_empty() {
                    true => Ok(()),
                    false => Err(stream.odd("stopped before the end")),
                };
            };
            let came = chunk.len() as u64;
            if left.start + came > asked.end {
                return Err(stream.odd("sent more bytes than were asked for"));
            }
            let wanted = piece.came(came);
            metrics::bytes_wasted("hedged", came - wanted);
            let wait = async {
                self.paced(came, &stream.source, &file.stop).await;
                sink.push(left.start, chunk.slice(..wanted as usize)).await
            };
            piece.held(wait).await.map_err(Failure::Local)?;
            if piece.left().is_empty() && left.start + came < asked.end {
                // The rest of the answer is another connection's.
                return Ok(());
            }
        }
    }

    /// Takes a whole file off an answer, or what is asked for to its end. Bytes that are on the disk already are dropped.
    async fn stream_rest(
        &self,
        file: &FileJob,
        stream: &mut Stream<'_>,
        run: Range<u64>,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let Range { start: mut at, end } = run;
        while let Some(chunk) = self.next(stream, &file.stop).await? {
            let length = chunk.len() as u64;
            if at + length > end {
                return Err(stream.odd("sent more bytes than the file has"));
            }
            let missing = file.missing_in(at..at + length);
            let wanted: u64 = missing.iter().map(|range| range.end - range.start).sum();
            metrics::bytes_wasted("restarted", length - wanted);
            self.paced(length, &stream.source, &file.stop).await;
            for range in missing {
                let cut = (range.start - at) as usize..(range.end - at) as usize;
                sink.push(range.start, chunk.slice(cut)).await.map_err(Failure::Local)?;
            }
            at += length;
        }
        match at == end {
            true => Ok(()),
            false => Err(stream.odd("stopped before the end")),
        }
    }

    /// Waits as long as the limits of job, host and source say that these bytes take. They are used also when the
    /// transfer stops meanwhile.
    pub(super) async fn paced(&self, bytes: u64, source: &Source, stop: &CancellationToken) {
        let limits = async {
            self.limit.take(bytes).await;
            source.take(bytes).await;
        };
        tokio::select! {
            biased;
            () = limits => {}
            () = stop.cancelled() => {}
        }
    }

    /// The next bytes of an answer, counted; `None` at its end. A connection that brings nothing is given up
    /// sooner when others bring something.
    pub(super) async fn next(
        &self,
        stream: &mut Stream<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<Bytes>, Failure> {
        let limit = self.hub.config.stall_timeout.get();
        let begun = Instant::now();
        let others = self.tracker.bytes_fetched();
        let chunk = stream.response.chunk();
        tokio::pin!(chunk);
        let mut until = begun + limit / SIBLINGS_RUN;
        let chunk = loop {
            let waited = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Failure::Local(interrupted())),
                chunk = tokio::time::timeout_at(until, &mut chunk) => chunk,
            };
            match waited {
                Ok(Ok(chunk)) => break chunk,
                Ok(Err(error)) => return Err(Failure::later(unreachable(&stream.place, &error))),
                Err(_) if self.tracker.bytes_fetched() > others || until >= begun + limit => {
                    return Err(Failure::later(stalled(&stream.place, until - begun)));
                }
                Err(_) => until = begun + limit,
            }
        };
        if let Some(chunk) = &chunk {
            self.tracker.came(&stream.source.name, chunk.len() as u64);
            stream.source.received(chunk.len() as u64);
        }
        Ok(chunk)
    }
}

/// The bytes of one answer.
pub(super) struct Stream<'a> {
    /// Scheme and host that they come from, after all redirects.
    pub(super) place: String,
    pub(super) source: Arc<Source>,
    pub(super) response: Response,
    pub(super) path: &'a FilePath,
}

impl Stream<'_> {
    /// The failure of an answer that is not what HTTP promises.
    pub(super) fn odd(&self, what: &str) -> Failure {
        Failure::later(Error::new(
            Reason::SourceUnavailable,
            format!("{} {what} of {}", self.place, self.path),
            "try again; check mirrors and proxies on the way",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_bounded() {
        let waits: Vec<Duration> = waits(6).collect();
        assert_eq!(waits.len(), 6);
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(20), "{waits:?}");
    }
}
