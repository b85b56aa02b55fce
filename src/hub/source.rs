//! One place that models come from: its address, its token, its connections, and whether it rests.
//!
//! Mirrors stand in front of the hub in one list. A source that could not be reached or had enough rests for a
//! while: it is asked last, not never, so that a host whose sources all rest still makes progress.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use tokio::sync::Semaphore;
use url::Url;

use super::direct::Direct;
use super::limits::Bucket;
use super::trouble::{Broken, causes};
use super::{Config, Mirror, Token, client, endpoint, no_client};
use crate::error::{Error, Result};
use crate::metrics;
use larder_jobs::Reason;

/// How long a source that failed is asked last, unless it named a time.
const REST: Duration = Duration::from_secs(60);
/// The longest rest that a source may ask for; asking last costs little.
const MAX_REST: Duration = Duration::from_secs(3_600);
/// The longest that a question about a repo may take, from the first byte sent to the last received.
const API_TIMEOUT: Duration = Duration::from_secs(120);
/// What an HTTP/2 server may send ahead of what was read, for one answer and for the connection.
const WINDOWS: (u32, u32) = (1 << 20, 8 << 20);

/// What larder calls itself.
pub(super) const USER_AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients that all sources share; those for bytes are made when the first byte is wanted.
#[derive(Debug)]
pub(super) struct Clients {
    /// Questions about repos: follows redirects, has a time limit.
    pub(super) api: reqwest::Client,
    config: Config,
    direct: OnceLock<Direct>,
    http1: OnceLock<reqwest::Client>,
    http2: OnceLock<reqwest::Client>,
}

impl Clients {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let api = base(config)
            .read_timeout(config.stall_timeout.get())
            .timeout(API_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(5));
        let (api, config) = (built(api)?, config.clone());
        Ok(Self { api, config, direct: OnceLock::new(), http1: OnceLock::new(), http2: OnceLock::new() })
    }

    /// Bytes: HTTP/1.1 and many connections, because one HTTP/2 connection shares one window.
    fn direct(&self) -> Result<&Direct> {
        made(&self.direct, || {
            let proxies = (!nobody_by_proxy()).then(Matcher::from_system);
            let client = Direct::new(self.config.connect_timeout.get(), self.config.connections, proxies);
            client.map_err(|error| no_client(&error.to_string()))
        })
    }

    /// The same by way of a proxy.
    fn http1(&self) -> Result<&reqwest::Client> {
        let connections = self.config.connections;
        made(&self.http1, || built(self.bytes().http1_only().pool_max_idle_per_host(connections)))
    }

    /// Bytes from a server that speaks nothing but HTTP/2.
    fn http2(&self) -> Result<&reqwest::Client> {
        let (stream, connection) = WINDOWS;
        made(&self.http2, || {
            let builder = self.bytes().http2_initial_stream_window_size(stream);
            built(builder.http2_initial_connection_window_size(connection))
        })
    }

    fn bytes(&self) -> reqwest::ClientBuilder {
        base(&self.config).redirect(reqwest::redirect::Policy::none())
    }
}

fn base(config: &Config) -> reqwest::ClientBuilder {
    let builder =
        reqwest::Client::builder().user_agent(USER_AGENT).connect_timeout(config.connect_timeout.get());
    if nobody_by_proxy() { builder.no_proxy() } else { builder }
}

/// curl and Python take `*` for everybody, reqwest for every name but no address.
fn nobody_by_proxy() -> bool {
    ["NO_PROXY", "no_proxy"].into_iter().filter_map(std::env::var_os).any(|list| list == "*")
}

/// What is in `cell`; made now if nobody needed it before.
fn made<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(client) = cell.get() {
        return Ok(client);
    }
    let client = make()?;
    Ok(cell.get_or_init(|| client))
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| no_client(&causes(&error)))
}

/// A hub or a mirror of it.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) endpoint: Url,
    /// Scheme and host of the endpoint, as metrics and messages name it.
    pub(super) name: String,
    pub(super) token: Option<Token>,
    pub(super) clients: Arc<Clients>,
    pub(super) hf: hf_hub::HFClient,
    /// Connections for bytes that it may have at the same time.
    pub(super) connections: Arc<Semaphore>,
    /// How fast bytes may come from it.
    pub(super) bandwidth: Arc<Bucket>,
    /// The host's share of what its fleet may take from it: bytes, and requests.
    shared: Arc<(Bucket, Bucket)>,
    reached: Arc<AtomicBool>,
    received: metrics::Bytes,
    /// It takes no HTTP/1.1.
    http2: Arc<AtomicBool>,
    rests_until: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Source {
    /// Waits until it may be sent another request.
    pub(super) async fn turn(&self) {
        self.shared.1.take(1).await;
    }

    /// Takes what came from it: waits until the host may have it, then until its fleet may.
    pub(super) async fn take(&self, bytes: u64) {
        self.bandwidth.take(bytes).await;
        self.shared.0.take(bytes).await;
    }

    /// Whether bytes may come from it only so fast.
    pub(super) fn is_limited(&self) -> bool {
        self.bandwidth.bandwidth().or(self.shared.0.bandwidth()).is_some()
    }

    /// What the host may take of what its fleet may: bytes, and requests in a second. Infinity is no limit.
    pub(super) fn set_share(&self, bytes: f64, requests: f64) {
        self.shared.0.set_speed(bytes);
        self.shared.1.set_speed(requests);
    }

    /// A source at `mirror`; `reached` becomes true when anybody answers.
    pub(super) fn new(
        mirror: &Mirror,
        token: Option<Token>,
        clients: Arc<Clients>,
        reached: Arc<AtomicBool>,
    ) -> Result<Self> {
        let endpoint = endpoint(&mirror.url)?;
        let hf = client::build(&endpoint, token.as_ref(), clients.api.clone())?;
        let name = endpoint.origin().ascii_serialization();
        let received = metrics::source_known(&name);
        let connections = Arc::new(Semaphore::new(mirror.connections.unwrap_or(Semaphore::MAX_PERMITS)));
        let bandwidth = Arc::new(Bucket::new(mirror.bandwidth));
        let (http2, rests_until) = (Arc::new(AtomicBool::new(false)), Arc::default());
        Ok(Self {
            endpoint,
            name,
            token,
            clients,
            hf,
            connections,
            bandwidth,
            shared: Arc::new((Bucket::new(None), Bucket::new(None))),
            reached,
            received,
            http2,
            rests_until,
        })
    }

    /// The same source for somebody with another token; connections, limits and rests are those of both.
    pub(super) fn with_token(&self, token: Token) -> Result<Self> {
        let hf = client::build(&self.endpoint, Some(&token), self.clients.api.clone())?;
        Ok(Self { token: Some(token), hf, ..self.clone() })
    }

    /// The endpoint as people write it.
    pub(super) fn address(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// A hub answered; count it.
    pub(super) fn answered(&self, status: u16) {
        self.reached.store(true, Ordering::Relaxed);
        self.counted(status);
    }

    /// Something answered that may be no hub at all, such as the page of a captive portal; count it.
    pub(super) fn counted(&self, status: u16) {
        metrics::http_response(&self.name, status);
    }

    /// Bytes of files came from it.
    pub(super) fn received(&self, bytes: u64) {
        self.received.more(bytes);
    }

    /// Whether `url` is at the endpoint, where the token may go.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// The endpoint with more path segments, each percent-encoded.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        // An http URL always has a path; `endpoint` refuses the others.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// What every request for bytes at `url` says: send them as they are, and, at home only, who asks.
    pub(super) fn headers(&self, url: &Url) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            let bearer = HeaderValue::try_from(format!("Bearer {}", token.secret()));
            let mut bearer = bearer.map_err(|_| Error::internal("a token cannot stand in a header"))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(headers)
    }

    /// Asks for bytes at `url`; the inner failure is one on the way.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Result<Response, Broken>> {
        if !self.http2.load(Ordering::Relaxed) {
            let (direct, method, headers) = (self.clients.direct()?, method.clone(), headers.clone());
            let answer = match direct.reaches(url) {
                Some(uri) => direct.ask(method, uri, url, headers).await,
                None => asked(self.clients.http1()?, method, url, headers).await,
            };
            if !answer.as_ref().is_err_and(Broken::wants_http2) {
                return Ok(answer);
            }
            self.http2.store(true, Ordering::Relaxed);
        }
        Ok(asked(self.clients.http2()?, method, url, headers).await)
    }

    /// It failed, or it had enough: others are asked first for a while.
    pub(super) fn rest(&self, error: &Error) {
        let busy =
            matches!(error.reason(), Reason::SourceUnavailable | Reason::RateLimited | Reason::Stalled);
        if busy {
            let wait = error.retry_after().unwrap_or(REST).min(MAX_REST);
            *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
    }

    /// Whether others should be asked first.
    pub(super) fn rests(&self) -> bool {
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

async fn asked(
    client: &reqwest::Client,
    method: Method,
    url: &Url,
    headers: HeaderMap,
) -> Result<Response, Broken> {
    let request = client.request(method, url.clone()).headers(headers);
    request.send().await.map_err(|error| Broken::from(&error))
}

/// The sources in the order in which they are asked: those that rest come last.
pub(super) fn in_order(sources: &[Arc<Source>]) -> Vec<Arc<Source>> {
    let mut order = sources.to_vec();
    order.sort_by_key(|source| source.rests());
    order
}

/// One question, put to the sources in order until one answers.
#[derive(Debug)]
pub(super) struct Round {
    left: std::vec::IntoIter<Arc<Source>>,
    told: Option<Error>,
}

impl Round {
    pub(super) fn new(sources: &[Arc<Source>]) -> Self {
        Self { left: in_order(sources).into_iter(), told: None }
    }

    /// The next one to ask.
    pub(super) fn next(&mut self) -> Option<Arc<Source>> {
        self.left.next()
    }

    /// `source` did not help.
    pub(super) fn failed(&mut self, source: &Source, error: Error) {
        if self.left.len() > 0 || self.told.is_some() {
            tracing::debug!(source = %source.name, %error, "this source does not help");
            source.rest(&error);
        }
        self.told = Some(telling(self.told.take(), error));
    }

    /// The failure that says most.
    pub(super) fn end(self) -> Error {
        self.told.unwrap_or_else(|| Error::internal("there is no source to ask"))
    }
}

/// Which of two failures of two sources says more: `later` is that of the source further down the list.
pub(super) fn telling(earlier: Option<Error>, later: Error) -> Error {
    // A mirror that lacks the model says nothing about the hub; a source that is away may have it.
    let weight = |error: &Error| match error.reason() {
        Reason::NotFound => 0,
        Reason::SourceUnavailable | Reason::RateLimited | Reason::Stalled => 1,
        _ => 2,
    };
    match earlier {
        Some(earlier) if weight(&earlier) > weight(&later) => earlier,
        _ => later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_that_says_most_is_told() {
        let error = |reason| Error::new(reason, "x", "y");
        let told = |earlier, later| telling(Some(error(earlier)), error(later)).reason();
        assert_eq!(told(Reason::NotFound, Reason::SourceUnavailable), Reason::SourceUnavailable);
        assert_eq!(told(Reason::SourceUnavailable, Reason::NotFound), Reason::SourceUnavailable);
        assert_eq!(told(Reason::SourceUnavailable, Reason::Gated), Reason::Gated);
        assert_eq!(told(Reason::NotFound, Reason::NotFound), Reason::NotFound);
        assert_eq!(telling(None, error(Reason::NotFound)).reason(), Reason::NotFound);
    }
}
