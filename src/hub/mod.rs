//! The hub: which commit a revision is, which files it has, and their bytes.
//!
//! hf-hub does what it is good at: building requests for the repo's info, reading the answer and its error
//! codes. Bytes, listings and everything that must be bounded, resumed or verified are ours (docs/architecture.md
//! says what was measured): its listing ends silently at a relative `Link`, its downloads verify nothing.
//!
//! The network is what the environment says: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are
//! honoured by reqwest; certificates are those of the system, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`
//! instead of them (rustls-native-certs), which is the way to trust a private authority.
//!
//! The token is sent to the origin of `hub.endpoint` and to nobody else. No error, log line or metric holds the
//! query of a URL, because that is where content delivery networks put signatures.

mod client;
mod limits;
#[cfg(test)]
mod testing;
mod token;
mod transfer;
mod tree;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::{Error, Result};
use crate::metrics;
use larder_jobs::{Bandwidth, Reason, Size, Span};

pub use client::Resolved;
pub use limits::{JobLimit, Limits};
pub use token::Token;
pub use transfer::{Fetch, Fetched, Kept, Phase, Totals, Tracker, Trust, kept};

/// More connections than this make no transfer faster and no source happier.
const MAX_CONNECTIONS: usize = 256;
/// The longest that a question about a repo may take, from the first byte sent to the last received.
const API_TIMEOUT: Duration = Duration::from_secs(120);

/// The `[hub]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The hub or a mirror of it, `https://huggingface.co`.
    pub endpoint: String,
    /// A file that holds the token and nothing else; empty means none.
    pub token_file: String,
    /// Connections that bytes come over at the same time, and files in flight, 1 to 256.
    pub connections: usize,
    /// What all downloads of this host together may take; `None` (written as nothing) for all there is.
    #[serde(deserialize_with = "limits::configured")]
    pub bandwidth: Option<Bandwidth>,
    /// Ask nobody; what is not in the cache is not to be had.
    pub offline: bool,
    /// The longest wait for a connection.
    pub connect_timeout: Span,
    /// A connection that brings nothing for that long is given up.
    pub stall_timeout: Span,
    /// Bytes that one request asks for at most.
    pub range: Size,
}

impl Config {
    /// Refuses nonsense, naming the key.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn validate(&self) -> Result<()> {
        if !self.endpoint.is_empty() {
            check_endpoint(&self.endpoint)?;
        }
        let bad = |key: &str, hint: &str| {
            Error::new(Reason::InvalidRequest, format!("hub.{key} makes no sense as it is set"), hint)
        };
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return Err(bad("connections", "set a number from 1 to 256"));
        }
        if self.range.bytes() == 0 {
            return Err(bad("range", "set a size like 32MiB"));
        }
        if self.connect_timeout.get().is_zero() || self.stall_timeout.get().is_zero() {
            return Err(bad("connect_timeout or hub.stall_timeout", "set a duration like 30s"));
        }
        Ok(())
    }
}

/// A client of one hub; clones share its connections.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    endpoint: Url,
    /// Scheme and host of the endpoint, as metrics name it.
    source: String,
    token: Option<Token>,
    /// Questions about repos: follows redirects, has a time limit.
    api: reqwest::Client,
    /// Bytes: HTTP/1.1 and many connections, because one HTTP/2 connection shares one window.
    bytes: reqwest::Client,
    hf: hf_hub::HFClient,
    limits: Limits,
    reached: AtomicBool,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.inner.endpoint.as_str())
            .field("token", &self.inner.token)
            .field("offline", &self.inner.config.offline)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// A client of `config.endpoint`. Nothing is asked yet.
    ///
    /// # Errors
    /// `invalid_request` if the configuration makes no sense; `source_unavailable` if the system has no
    /// certificates.
    pub fn new(config: &Config, token: Option<Token>) -> Result<Self> {
        let endpoint = endpoint(&config.endpoint)?;
        config.validate()?;
        let base = || {
            reqwest::Client::builder()
                .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.connect_timeout.get())
        };
        let api = base()
            .read_timeout(config.stall_timeout.get())
            .timeout(API_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(5))
            .build()
            .map_err(|error| no_client(&error))?;
        let bytes = base()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(config.connections)
            .build()
            .map_err(|error| no_client(&error))?;
        let hf = client::build(&endpoint, token.as_ref(), api.clone())?;
        let source = endpoint.origin().ascii_serialization();
        metrics::source_known(&source);
        let reached = AtomicBool::new(false);
        let (limits, config) = (Limits::new(config.bandwidth), config.clone());
        let inner = Inner { config, endpoint, source, token, api, bytes, hf, limits, reached };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How many bytes per second may come, for this host and for each running job.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Whether a hub answered in the life of this client, be it an error; a web page is no answer of a hub.
    pub fn reached(&self) -> bool {
        self.inner.reached.load(Ordering::Relaxed)
    }

    /// Whether nobody may be asked.
    pub fn is_offline(&self) -> bool {
        self.inner.config.offline
    }

    /// The endpoint, which holds no credentials.
    pub fn endpoint(&self) -> &str {
        self.inner.endpoint.as_str().trim_end_matches('/')
    }
}

impl Inner {
    /// A hub answered; count it.
    fn answered(&self, status: u16) {
        self.reached.store(true, Ordering::Relaxed);
        self.counted(status);
    }

    /// Something answered that may be no hub at all, such as the page of a captive portal; count it.
    fn counted(&self, status: u16) {
        metrics::http_response(&self.source, status);
    }

    /// Whether `url` is at the endpoint, where the token may go.
    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// # Errors
    /// `offline` if nobody may be asked; `what` names what is missing.
    fn online(&self, what: &dyn fmt::Display) -> Result<()> {
        if !self.config.offline {
            return Ok(());
        }
        Err(Error::new(
            Reason::Offline,
            format!("{what} is not in the cache, and offline mode is on"),
            "unset hub.offline and HF_HUB_OFFLINE, or stage it while online",
        ))
    }

    /// The endpoint with more path segments, each percent-encoded.
    fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        // An http URL always has a path; `endpoint` refuses the others.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

/// What everybody answers whose work was stopped from outside.
fn interrupted() -> Error {
    Error::new(Reason::Interrupted, "the work was stopped before its end", "start it again; bytes are kept")
}

/// Runs `work` until it ends or `stop` says so.
async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(interrupted()),
        done = work => done,
    }
}

/// Refuses an address that cannot be a hub's, such as one with credentials in it.
///
/// # Errors
/// `invalid_request`, without the address, which may hold a secret.
pub fn check_endpoint(text: &str) -> Result<()> {
    endpoint(text).map(|_| ())
}

fn endpoint(text: &str) -> Result<Url> {
    let bad = |why: &str| {
        Error::new(
            Reason::InvalidRequest,
            format!("hub.endpoint is not the address of a hub: {why}"),
            "write it like https://huggingface.co, and put a token into HF_TOKEN or hub.token_file",
        )
    };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("it does not start with http:// or https:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it holds a user name or a password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a query or a fragment"));
    }
    Ok(url)
}

fn no_client(error: &reqwest::Error) -> Error {
    Error::new(
        Reason::SourceUnavailable,
        format!("cannot set up HTTPS: {}", trouble::causes(error)),
        "install the system's CA certificates (package ca-certificates), or set SSL_CERT_FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_and_never_hold_secrets() {
        for good in
            ["https://huggingface.co", "http://127.0.0.1:8080", "https://host/artifactory/api/hf/repo"]
        {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "huggingface.co", "ftp://x", "https://user:geheim@host", "https://host?token=geheim"]
        {
            let error = endpoint(bad).expect_err(bad);
            assert_eq!(error.reason(), Reason::InvalidRequest);
            assert!(!error.message().contains("geheim"), "{}", error.message());
        }
    }

    #[test]
    fn urls_keep_the_endpoints_path_and_encode_the_rest() {
        let mut config = testing::config("https://host/api/hf/");
        let hub = Hub::new(&config, Some(Token::new("hf_geheim").expect("token"))).expect("client");
        let url = hub.inner.url(["a", "b", "resolve", "feature/x", "d", "f #1?.bin"]);
        assert_eq!(url.as_str(), "https://host/api/hf/a/b/resolve/feature%2Fx/d/f%20%231%3F.bin");
        assert!(!format!("{hub:?}").contains("geheim"));
        config.connections = 0;
        assert_eq!(Hub::new(&config, None).expect_err("refused").reason(), Reason::InvalidRequest);
    }
}
