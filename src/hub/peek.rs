//! The beginning of a file: what its header says, before anybody fetches the rest of it.

use std::time::{Duration, Instant};

use backon::Retryable as _;
use reqwest::header::RANGE;
use tokio_util::sync::CancellationToken;

use super::client::{Failed, quick};
use super::source::{Round, Source};
use super::trouble::{Answer, Asked, explain};
use super::{Hub, unless_stopped};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, FilePath, RepoId};

/// Most bytes that are read of one file; the headers of real models have less than a megabyte.
const MAX_BYTES: u64 = 64 << 20;
/// The longest wait for a round trip.
const TRIP_TIMEOUT: Duration = Duration::from_secs(10);

impl Hub {
    /// The first `bytes` bytes of a file at a commit, or all of it if it has less.
    ///
    /// # Errors
    /// As [`Hub::resolve`]; `source_unavailable` if the source sends another part.
    pub async fn peek(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        path: &FilePath,
        bytes: u64,
        stop: &CancellationToken,
    ) -> Result<Vec<u8>> {
        let inner = &*self.inner;
        inner.online(&format_args!("{path} of {repo}@{}", commit.short()))?;
        let asked = async {
            let mut round = Round::new(&inner.sources);
            while let Some(source) = round.next() {
                let ask = || source.beginning(repo, commit, path, bytes.clamp(1, MAX_BYTES));
                match ask.retry(quick()).when(|failed: &Failed| failed.again).await {
                    Ok(read) => return Ok(read),
                    Err(failed) => round.failed(&source, failed.error),
                }
            }
            Err(round.end())
        };
        unless_stopped(stop, asked).await
    }

    /// How long the source that is asked first takes to answer a small question, the best of three.
    ///
    /// # Errors
    /// `source_unavailable` if it does not answer, `offline`.
    pub async fn round_trip(&self, stop: &CancellationToken) -> Result<Duration> {
        let inner = &*self.inner;
        inner.online(&"the time that the hub takes to answer")?;
        let mut round = Round::new(&inner.sources);
        let Some(source) = round.next() else { return Err(round.end()) };
        let asked = async {
            let mut best = Duration::MAX;
            for _ in 0..3 {
                let mut url = source.url(["api", "models"]);
                url.query_pairs_mut().append_pair("limit", "1");
                let begun = Instant::now();
                let sent = source.clients.api.get(url).timeout(TRIP_TIMEOUT).send().await;
                // Whatever it says: it answered.
                let answer = sent.map_err(|error| source.no_answer(&error).error)?;
                source.counted(answer.status().as_u16());
                best = best.min(begun.elapsed());
            }
            Ok(best)
        };
        unless_stopped(stop, asked).await
    }
}

impl Source {
    async fn beginning(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        path: &FilePath,
        bytes: u64,
    ) -> Result<Vec<u8>, Failed> {
        let head = [repo.owner(), repo.name(), "resolve", commit.as_str()];
        let url = self.url(head.into_iter().chain(path.as_str().split('/')));
        let mut request = self.clients.api.get(url).header(RANGE, format!("bytes=0-{}", bytes - 1));
        if let Some(token) = &self.token {
            // Taken off again by the client where it is sent on to another origin.
            request = request.bearer_auth(token.secret());
        }
        self.turn().await;
        let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
        let status = response.status().as_u16();
        self.answered(status);
        match status {
            200 | 206 => {}
            // An empty file has no first byte.
            416 => return Ok(Vec::new()),
            _ => {
                let asked = Asked {
                    endpoint: self.address(),
                    repo,
                    revision: commit.as_str(),
                    path: Some(path),
                    token: self.token.is_some(),
                };
                let error = explain(asked, &Answer::of(status, response.headers()));
                return Err(Failed { error, again: false });
            }
        }
        let is_other_part = status == 206
            && response.headers().get(reqwest::header::CONTENT_RANGE).is_some_and(|range| {
                range.to_str().is_ok_and(|range| !range.trim_start().starts_with("bytes 0-"))
            });
        if is_other_part {
            let error = Error::new(
                larder_jobs::Reason::SourceUnavailable,
                format!("{} sent another part of {path} than was asked for", self.address()),
                "check proxies on the way to it",
            );
            return Err(Failed { error, again: false });
        }
        let most = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut read = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(&error))? {
            read.extend_from_slice(&chunk[..chunk.len().min(most - read.len())]);
            // A source that ignores the range sends everything.
            if read.len() == most {
                break;
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::{Fault, TestHub, commit, noise, repo};

    #[tokio::test]
    async fn the_beginning_is_read_and_not_more() {
        let (large, small) = (noise(100_000, 1), noise(10, 2));
        let server = TestHub::start(&[("w.bin", large.clone()), ("s.json", small.clone())]).await;
        let (hub, stop) = (server.hub(true, |_| {}), CancellationToken::new());
        let path = |text: &str| text.parse::<FilePath>().expect("path");
        let peek = async |name: &str, bytes| hub.peek(&repo(), &commit(), &path(name), bytes, &stop).await;
        assert_eq!(peek("w.bin", 4096).await.expect("read"), large[..4096]);
        assert!(server.seen().iter().filter(|seen| seen.second_origin).all(|seen| !seen.token));
        assert_eq!(peek("s.json", 4096).await.expect("read"), small);
        server.faults([Fault::Whole(50_000)]);
        assert_eq!(peek("w.bin", 100).await.expect("read"), large[..100], "the range was ignored");
        let absent = peek("none.json", 10).await.expect_err("absent");
        assert_eq!(absent.reason(), larder_jobs::Reason::NotFound);
        assert!(hub.round_trip(&stop).await.is_ok());
    }
}
