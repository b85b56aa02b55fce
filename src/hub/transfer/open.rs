//! Opens the stream of a range: asks the source's resolve URL, and wherever that redirects to.
//!
//! Redirects are followed by hand: the token goes to the source's own origin only, the address that they lead to
//! is kept for the other pieces of the file, and it is asked for anew when it has expired.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::Job;
use super::route::Route;
use crate::error::Error;
use crate::hub::source::Source;
use crate::hub::trouble::{Answer, Asked, explain, not_a_hub, unreachable};
use crate::metrics;
use larder_jobs::{FilePath, Reason, Span};

/// Redirects from the resolve URL to the bytes: renamed repo, network, region.
const MAX_HOPS: usize = 6;
/// How long a piece lets another one of the same file ask where the bytes are.
const MAX_GATE: Duration = Duration::from_secs(2);
/// A wait that the source asks for is obeyed here up to this; a longer one is the queue's business.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Why a request brought no bytes.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is this host's fault: no other source can help.
    Local(Error),
    /// Asking this source again cannot help; another one may.
    Refused(Error),
    /// Asking again may help, after `wait` if the source named one.
    Again { error: Error, wait: Option<Duration> },
    /// The address that a redirect led to is good for nothing (any more); the source knows another.
    Expired(Error),
}

impl Failure {
    pub(super) fn later(error: Error) -> Self {
        Self::Again { error, wait: None }
    }
}

/// A file of which bytes are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a FilePath,
    pub(super) size: u64,
    pub(super) route: &'a Route,
}

/// A stream of bytes and the source that it is of.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Arc<Source>,
    pub(super) response: Response,
    /// The source ignores ranges: this is the whole file, not the range that was asked for.
    pub(super) whole: bool,
}

impl Job {
    /// Asks for `range` of a file.
    pub(super) async fn open(&self, wanted: Wanted<'_>, range: &Range<u64>) -> Result<Opened, Failure> {
        if let (source, Some(known)) = wanted.route.place() {
            return self.open_known(wanted, source, known, range).await;
        }
        // The first one asks for all; when that takes too long, each asks for itself.
        let gate = tokio::time::timeout(MAX_GATE, wanted.route.gate.lock()).await.ok();
        let (source, known) = wanted.route.place();
        if let Some(known) = known {
            drop(gate);
            return self.open_known(wanted, source, known, range).await;
        }
        match self.follow(wanted, &source, self.resolve_url(&source, wanted.path), range).await {
            Ok((response, landed)) => {
                wanted.route.found(&source, landed);
                drop(gate);
                self.check(wanted, source, range, response)
            }
            Err(Failure::Expired(error)) => Err(Failure::later(error)),
            Err(failure) => Err(failure),
        }
    }

    async fn open_known(
        &self,
        wanted: Wanted<'_>,
        source: Arc<Source>,
        url: Url,
        range: &Range<u64>,
    ) -> Result<Opened, Failure> {
        match self.follow(wanted, &source, url.clone(), range).await {
            Ok((response, _)) => self.check(wanted, source, range, response),
            Err(Failure::Expired(error)) => {
                wanted.route.forget(&url);
                Err(Failure::Again { error, wait: Some(Duration::ZERO) })
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn resolve_url(&self, source: &Source, path: &FilePath) -> Url {
        let (owner, name) = (self.repo.owner(), self.repo.name());
        let base = [owner, name, "resolve", self.commit.as_str()];
        source.url(base.into_iter().chain(path.as_str().split('/')))
    }

    /// Follows redirects to an answer with bytes; returns it and where it came from.
    async fn follow(
        &self,
        wanted: Wanted<'_>,
        source: &Source,
        mut url: Url,
        range: &Range<u64>,
    ) -> Result<(Response, Url), Failure> {
        let path = wanted.path;
        for _ in 0..MAX_HOPS {
            let mut response = self.get(source, &url, range).await?;
            let status = response.status();
            if source.is_home(&url) {
                self.check_commit(source, response.headers())?;
            }
            if status.is_success() {
                return Ok((response, url));
            }
            if !status.is_redirection() {
                return Err(self.refusal(wanted, source, &url, &response));
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
                let error = not_a_hub(&source.name, &format!("it redirects {path} to nowhere"));
                return Err(Failure::Refused(error));
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                let error = not_a_hub(&source.name, "it redirects from https to http");
                return Err(Failure::Refused(error));
            }
            // A redirect's body is short; read to its end, the connection can be used again.
            if response.content_length().is_some_and(|length| length <= 16 << 10) {
                let _ = tokio::time::timeout(self.hub.config.stall_timeout.get(), response.chunk()).await;
            }
            url = next;
        }
        Err(Failure::Refused(not_a_hub(&source.name, &format!("it redirects {path} in circles"))))
    }

    async fn get(&self, source: &Source, url: &Url, range: &Range<u64>) -> Result<Response, Failure> {
        let limit = self.hub.config.stall_timeout.get();
        let mut headers = source.headers(url).map_err(Failure::Local)?;
        if !range.is_empty() {
            let range = HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end - 1));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        source.turn().await;
        match tokio::time::timeout(limit, source.ask(Method::GET, url, headers)).await {
            Ok(Ok(Ok(response))) => {
                source.answered(response.status().as_u16());
                Ok(response)
            }
            Ok(Ok(Err(broken))) => Err(Failure::later(unreachable(&host(url), broken))),
            Ok(Err(error)) => Err(Failure::Local(error)),
            Err(_) => Err(Failure::later(stalled(&host(url), limit))),
        }
    }

    /// A commit never changes; an answer of another one is a cache on the way gone wrong.
    fn check_commit(&self, source: &Source, headers: &HeaderMap) -> Result<(), Failure> {
        let answered = headers.get("x-repo-commit").and_then(|commit| commit.to_str().ok());
        match answered {
            Some(commit) if commit != self.commit.as_str() => Err(Failure::Refused(Error::new(
                Reason::SourceUnavailable,
                format!("{} answers for another commit of {} than was asked for", source.name, self.repo),
                "check proxies and mirrors on the way, then try again",
            ))),
            _ => Ok(()),
        }
    }

    fn refusal(&self, wanted: Wanted<'_>, source: &Source, url: &Url, response: &Response) -> Failure {
        let path = wanted.path;
        let answer = Answer::of(response.status().as_u16(), response.headers());
        let home = source.is_home(url);
        let redirected = *url != self.resolve_url(source, path);
        let place = host(url);
        let asked = Asked {
            endpoint: if home { &source.name } else { &place },
            repo: &self.repo,
            revision: self.commit.as_str(),
            path: Some(path),
            token: source.token.is_some(),
        };
        match answer.status {
            408 | 429 | 500..=599 => match answer.retry_after {
                Some(wait) if wait > MAX_WAIT => Failure::Refused(explain(asked, &answer)),
                wait => Failure::Again { error: explain(asked, &answer), wait },
            },
            416 => Failure::Refused(Error::new(
                Reason::SourceUnavailable,
                format!("{place} has fewer bytes of {path} than the hub's listing says"),
                "try again later; check mirrors and proxies on the way",
            )),
            // Addresses with a signature expire, and a network that bytes come from says so in many ways.
            status if redirected && answer.code.is_none() && (400..500).contains(&status) => {
                Failure::Expired(Error::new(
                    Reason::SourceUnavailable,
                    format!("{place} answered {status} for {path} of {}", self.repo),
                    "try again; if it stays, check this host's clock and proxies on the way",
                ))
            }
            _ => Failure::Refused(explain(asked, &answer)),
        }
    }

    /// Whether a success brings what was asked for: the status and the lengths, before a byte is taken.
    fn check(
        &self,
        wanted: Wanted<'_>,
        source: Arc<Source>,
        range: &Range<u64>,
        response: Response,
    ) -> Result<Opened, Failure> {
        let Wanted { path, size, .. } = wanted;
        let headers = response.headers();
        let length = header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        let lie = |what: String| {
            Failure::later(Error::new(
                Reason::SourceUnavailable,
                format!("{path} of {}: {} {what}", self.repo, host(response.url())),
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
        let whole = response.status() == StatusCode::OK;
        Ok(Opened { source, response, whole })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The error of a connection that brought nothing for too long; counted.
pub(super) fn stalled(host: &str, limit: Duration) -> Error {
    metrics::download_stalled();
    Error::new(
        Reason::Stalled,
        format!("{host} sent nothing for {}", Span(limit)),
        "check the network; if it is only slow, raise hub.stall_timeout",
    )
}

/// Scheme and host of an address, which hold no signature.
pub(super) fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}
