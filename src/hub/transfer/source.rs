//! Where the bytes of a file come from: the resolve URL, and wherever it redirects to.
//!
//! Redirects are followed by hand: the token goes to the endpoint's origin only, the address that they lead to
//! is kept for the other pieces of the file, and it is asked for anew when it has expired.

use std::ops::Range;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use reqwest::{Response, StatusCode};
use url::Url;

use super::Job;
use super::file::FileJob;
use crate::error::Error;
use crate::hub::trouble::{Answer, Asked, explain, not_a_hub, unreachable};
use crate::metrics;
use larder_jobs::Reason;

/// Redirects from the resolve URL to the bytes: renamed repo, network, region.
const MAX_HOPS: usize = 6;
/// How long a piece lets another one of the same file ask where the bytes are.
const MAX_GATE: Duration = Duration::from_secs(2);
/// A wait that the source asks for is obeyed here up to this; a longer one is the queue's business.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Why a request brought no bytes.
#[derive(Debug)]
pub(super) enum Failure {
    /// Asking again here cannot help.
    Fatal(Error),
    /// Asking again may help, after `wait` if the source named one.
    Again { error: Error, wait: Option<Duration> },
    /// The address that a redirect led to is good for nothing (any more); the hub knows another.
    Expired(Error),
}

impl Failure {
    pub(super) fn later(error: Error) -> Self {
        Self::Again { error, wait: None }
    }
}

/// An answer that brings bytes.
#[derive(Debug)]
pub(super) enum Opened {
    /// The range that was asked for, exactly.
    Part(Response),
    /// The whole file: the source ignores ranges.
    Whole(Response),
}

impl Job {
    /// Asks for `range` of `file`.
    pub(super) async fn open(&self, file: &FileJob, range: &Range<u64>) -> Result<Opened, Failure> {
        if let Some(known) = file.target() {
            return self.open_known(file, known, range).await;
        }
        // The first one asks for all; when that takes too long, each asks for itself.
        let gate = tokio::time::timeout(MAX_GATE, file.gate.lock()).await.ok();
        if let Some(known) = file.target() {
            drop(gate);
            return self.open_known(file, known, range).await;
        }
        match self.follow(file, self.resolve_url(file), range).await {
            Ok((response, landed)) => {
                file.set_target(landed);
                drop(gate);
                self.check(file, range, response)
            }
            Err(Failure::Expired(error)) => Err(Failure::later(error)),
            Err(failure) => Err(failure),
        }
    }

    async fn open_known(&self, file: &FileJob, url: Url, range: &Range<u64>) -> Result<Opened, Failure> {
        match self.follow(file, url.clone(), range).await {
            Ok((response, _)) => self.check(file, range, response),
            Err(Failure::Expired(error)) => {
                file.forget_target(&url);
                Err(Failure::Again { error, wait: Some(Duration::ZERO) })
            }
            Err(failure) => Err(failure),
        }
    }

    fn resolve_url(&self, file: &FileJob) -> Url {
        let (owner, name) = (self.repo.owner(), self.repo.name());
        let base = [owner, name, "resolve", self.commit.as_str()];
        self.hub.url(base.into_iter().chain(file.path.as_str().split('/')))
    }

    /// Follows redirects to an answer with bytes; returns it and where it came from.
    async fn follow(
        &self,
        file: &FileJob,
        mut url: Url,
        range: &Range<u64>,
    ) -> Result<(Response, Url), Failure> {
        for _ in 0..MAX_HOPS {
            let mut response = self.get(&url, range).await?;
            let status = response.status();
            if self.hub.is_home(&url) {
                self.check_commit(response.headers())?;
            }
            if status.is_success() {
                return Ok((response, url));
            }
            if !status.is_redirection() {
                return Err(self.refusal(file, &url, &response));
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
                let error = not_a_hub(&self.hub.source, &format!("it redirects {} to nowhere", file.path));
                return Err(Failure::Fatal(error));
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                let error = not_a_hub(&self.hub.source, "it redirects from https to http");
                return Err(Failure::Fatal(error));
            }
            // A redirect's body is short; read to its end, the connection can be used again.
            if response.content_length().is_some_and(|length| length <= 16 << 10) {
                let _ = tokio::time::timeout(self.hub.config.stall_timeout.get(), response.chunk()).await;
            }
            url = next;
        }
        Err(Failure::Fatal(not_a_hub(&self.hub.source, &format!("it redirects {} in circles", file.path))))
    }

    async fn get(&self, url: &Url, range: &Range<u64>) -> Result<Response, Failure> {
        let mut request = self.hub.bytes.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if !range.is_empty() {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(token) = self.hub.token.as_ref().filter(|_| self.hub.is_home(url)) {
            request = request.bearer_auth(token.secret());
        }
        match tokio::time::timeout(self.hub.config.stall_timeout.get(), request.send()).await {
            Ok(Ok(response)) => {
                self.hub.answered(response.status().as_u16());
                Ok(response)
            }
            Ok(Err(error)) => Err(Failure::later(unreachable(&host(url), &error))),
            Err(_) => Err(Failure::later(self.stalled(&host(url)))),
        }
    }

    /// The error of a connection that brought nothing for too long; counted.
    pub(super) fn stalled(&self, host: &str) -> Error {
        metrics::download_stalled();
        let limit = self.hub.config.stall_timeout;
        Error::new(
            Reason::Stalled,
            format!("{host} sent nothing for {limit}"),
            "check the network; if it is only slow, raise hub.stall_timeout",
        )
    }

    /// A commit never changes; an answer of another one is a cache on the way gone wrong.
    fn check_commit(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let answered = headers.get("x-repo-commit").and_then(|commit| commit.to_str().ok());
        match answered {
            Some(commit) if commit != self.commit.as_str() => Err(Failure::Fatal(Error::new(
                Reason::SourceUnavailable,
                format!("{} answers for another commit of {} than was asked for", self.hub.source, self.repo),
                "check proxies and mirrors on the way, then try again",
            ))),
            _ => Ok(()),
        }
    }

    fn refusal(&self, file: &FileJob, url: &Url, response: &Response) -> Failure {
        let answer = Answer::of(response.status().as_u16(), response.headers());
        let home = self.hub.is_home(url);
        let redirected = *url != self.resolve_url(file);
        let place = host(url);
        let asked = Asked {
            endpoint: if home { &self.hub.source } else { &place },
            repo: &self.repo,
            revision: self.commit.as_str(),
            path: Some(&file.path),
            token: self.hub.token.is_some(),
        };
        match answer.status {
            408 | 429 | 500..=599 => match answer.retry_after {
                Some(wait) if wait > MAX_WAIT => Failure::Fatal(explain(asked, &answer)),
                wait => Failure::Again { error: explain(asked, &answer), wait },
            },
            416 => Failure::Fatal(Error::new(
                Reason::SourceUnavailable,
                format!("{place} has fewer bytes of {} than the hub's listing says", file.path),
                "try again later; check mirrors and proxies on the way",
            )),
            // Addresses with a signature expire, and a network that bytes come from says so in many ways.
            status if redirected && answer.code.is_none() && (400..500).contains(&status) => {
                Failure::Expired(Error::new(
                    Reason::SourceUnavailable,
                    format!("{place} answered {status} for {} of {}", file.path, self.repo),
                    "try again; if it stays, check this host's clock and proxies on the way",
                ))
            }
            _ => Failure::Fatal(explain(asked, &answer)),
        }
    }

    /// Whether a success brings what was asked for: the status and the lengths, before a byte is taken.
    fn check(&self, file: &FileJob, range: &Range<u64>, response: Response) -> Result<Opened, Failure> {
        let size = file.partial.size();
        let headers = response.headers();
        let length = header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        let lie = |what: String| {
            Failure::later(Error::new(
                Reason::SourceUnavailable,
                format!("{} of {}: {} {what}", file.path, self.repo, host(response.url())),
                "try again; check mirrors and proxies on the way",
            ))
        };
        let expected = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let wanted = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let got = header(headers, CONTENT_RANGE.as_str()).unwrap_or("no Content-Range");
                if got != wanted {
                    return Err(lie(format!(
                        "sent `{:.64}` instead of `{wanted}`",
                        got.escape_debug().to_string()
                    )));
                }
                range.end - range.start
            }
            StatusCode::OK => size,
            other => return Err(lie(format!("answered {other} to a request for bytes"))),
        };
        if length.is_some_and(|length| length != expected) {
            return Err(lie(format!("announces {} bytes instead of {expected}", length.unwrap_or_default())));
        }
        if response.status() == StatusCode::OK {
            return Ok(Opened::Whole(response));
        }
        Ok(Opened::Part(response))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme and host of an address, which hold no signature.
pub(super) fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}
