//! The hub: which commit a revision is, which files it has, and their bytes.
//!
//! hf-hub does what it is good at: building requests for the repo's info, reading the answer and its error
//! codes. Bytes, listings and everything that must be bounded, resumed or verified are ours (docs/architecture.md
//! says what was measured): its listing ends silently at a relative `Link`, its downloads verify nothing.
//!
//! The network is what the environment says: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are
//! honoured (reqwest goes through a proxy, bytes without one come by way of `direct`); certificates are those of the
//! system, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` instead of them (rustls-native-certs), which is the way to
//! trust a private authority.
//!
//! Sources are asked in order, `hub.endpoints` before `hub.endpoint`, and the next one when one fails (`source`). A
//! token is sent to the origin of its own source and to nobody else. No error, log line or metric holds the
//! query of a URL, because that is where content delivery networks put signatures.

mod client;
mod direct;
mod limits;
mod peek;
mod published;
mod source;
#[cfg(test)]
mod testing;
mod token;
mod transfer;
mod tree;
mod trouble;
mod xet;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::{Error, Result};
use larder_jobs::{Bandwidth, Reason, Size, Span, TokenRef};
use source::{Clients, Source};

pub use client::Resolved;
pub use limits::{JobLimit, Limits, Share, SourceShare};
pub use published::Published;
pub use token::Token;
pub use transfer::{Fetch, Fetched, Kept, PageCache, Phase, Totals, Tracker, Trust, kept};
pub use xet::{CHILD_VERB, fetch_as_ordered};

/// More connections than this make no transfer faster and no source happier.
const MAX_CONNECTIONS: usize = 256;
/// More mirrors than this are a mistake in the configuration.
const MAX_MIRRORS: usize = 16;
/// Most tokens with names.
const MAX_TOKENS: usize = 64;

/// The `[hub]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The hub or a mirror of it, `https://huggingface.co`.
    pub endpoint: String,
    /// A file that holds the token and nothing else; empty means none.
    pub token_file: String,
    /// Tokens of the hub that jobs may name.
    pub tokens: Vec<NamedToken>,
    /// Mirrors that are asked before the endpoint, in this order.
    pub endpoints: Vec<Mirror>,
    /// Connections that bytes come over at the same time, over all downloads, and files in flight, 1 to 256.
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
    /// Bytes that may be written and not flushed yet, over all downloads.
    pub max_dirty: Size,
    /// What stays in memory of a file that is verified and flushed.
    pub page_cache: PageCache,
    /// Large files that a source keeps in Xet are fetched over Xet first, by a child process.
    pub xet: bool,
}

/// A token of the hub that jobs may name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedToken {
    /// What jobs call it.
    pub name: TokenRef,
    /// The file that holds it and nothing else.
    pub file: String,
}

/// One mirror: its address, or a table with what else it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The address, `https://mirror.example`.
    pub url: String,
    /// A file that holds the token for this mirror; empty means none. The hub's own token is never sent to it.
    pub token_file: String,
    /// Connections for bytes that it may have at the same time; `hub.connections` is the bound for all.
    pub connections: Option<usize>,
    /// What all downloads of this host together may take from it, beside `hub.bandwidth` for all sources.
    pub bandwidth: Option<Bandwidth>,
}

impl Mirror {
    /// One that needs nothing but its address.
    fn at(url: &str) -> Self {
        Self { url: url.to_owned(), token_file: String::new(), connections: None, bandwidth: None }
    }
}

impl<'de> Deserialize<'de> for Mirror {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            url: String,
            #[serde(default)]
            token_file: String,
            connections: Option<usize>,
            #[serde(default, deserialize_with = "limits::configured")]
            bandwidth: Option<Bandwidth>,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "an address, or a table with `url` and perhaps `token_file`, `connections` and `bandwidth`"
        )]
        enum Raw {
            Url(String),
            Table(Table),
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Url(url) => Self::at(&url),
            Raw::Table(Table { url, token_file, connections, bandwidth }) => {
                Self { url, token_file, connections, bandwidth }
            }
        })
    }
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
            return Err(bad("range", "set a size like 16MiB"));
        }
        if self.max_dirty.bytes() < 1 << 20 {
            return Err(bad("max_dirty", "set a size like 256MiB, at least 1MiB"));
        }
        if self.endpoints.len() > MAX_MIRRORS {
            return Err(bad("endpoints", "name 16 mirrors at most"));
        }
        for mirror in &self.endpoints {
            address("hub.endpoints", &mirror.url)?;
            if mirror.connections.is_some_and(|most| most == 0 || most > MAX_CONNECTIONS) {
                return Err(bad("endpoints.connections", "set a number from 1 to 256"));
            }
        }
        let names: BTreeSet<_> = self.tokens.iter().map(|token| &token.name).collect();
        if self.tokens.len() > MAX_TOKENS || names.len() < self.tokens.len() {
            return Err(bad("tokens", "give each its own name, and 64 at most"));
        }
        if let Some(token) = self.tokens.iter().find(|token| token.file.is_empty()) {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("hub.tokens: {} has no file", token.name),
                "set file to one that holds the token and nothing else",
            ));
        }
        if self.connect_timeout.get().is_zero() || self.stall_timeout.get().is_zero() {
            return Err(bad("connect_timeout or hub.stall_timeout", "set a duration like 30s"));
        }
        Ok(())
    }
}

/// The tokens of all sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// For `hub.endpoint`.
    pub endpoint: Option<Token>,
    /// For `hub.endpoints`, in their order.
    pub mirrors: Vec<Option<Token>>,
    /// For `hub.endpoint`, by the names that jobs use.
    pub named: BTreeMap<TokenRef, Token>,
}

/// A client of the hub and its mirrors; clones share its connections.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    config: Config,
    /// In the order in which they are asked; never empty, the last one is the hub itself.
    sources: Sources,
    /// The same with each of the tokens that jobs may name.
    named: Arc<BTreeMap<TokenRef, Sources>>,
    /// Connections for bytes over all downloads.
    connections: Arc<Semaphore>,
    /// Where they are read, written and hashed.
    lane: Arc<transfer::Lane>,
    /// Bytes that wait for the disk, over all downloads.
    dirty: Arc<transfer::Dirty>,
    limits: Limits,
    /// The one child process for Xet that may run at a time.
    xet: Arc<Semaphore>,
    reached: Arc<AtomicBool>,
}

type Sources = Vec<Arc<Source>>;

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("sources", &self.inner.sources)
            .field("offline", &self.inner.config.offline)
            .finish_non_exhaustive()
    }
}

/// The sources, with another token for the hub itself.
fn with_token(sources: &[Arc<Source>], home: &Url, token: &Token) -> Result<Sources> {
    let with = |source: &Arc<Source>| match source.endpoint == *home {
        true => source.with_token(token.clone()).map(Arc::new),
        false => Ok(Arc::clone(source)),
    };
    sources.iter().map(with).collect()
}

impl Hub {
    /// A client of `config.endpoints` and `config.endpoint`. Nothing is asked yet.
    ///
    /// # Errors
    /// `invalid_request` if the configuration makes no sense; `source_unavailable` if the system has no
    /// certificates.
    pub fn new(config: &Config, tokens: Tokens) -> Result<Self> {
        config.validate()?;
        let (clients, reached) = (Arc::new(Clients::new(config)?), Arc::new(AtomicBool::new(false)));
        let own = Mirror::at(&config.endpoint);
        let mut tokens_of_mirrors = tokens.mirrors.into_iter();
        let mut all: Vec<(&Mirror, Option<Token>)> =
            config.endpoints.iter().map(|mirror| (mirror, tokens_of_mirrors.next().flatten())).collect();
        // Whoever lists the hub among its mirrors means its place in the order.
        if all.iter().all(|(mirror, _)| endpoint(&mirror.url).ok() != endpoint(&own.url).ok()) {
            all.push((&own, None));
        }
        let home = endpoint(&own.url)?;
        let mut sources = Vec::with_capacity(all.len());
        for (mirror, token) in all {
            let is_own = endpoint(&mirror.url)? == home;
            let token = token.or_else(|| tokens.endpoint.clone().filter(|_| is_own));
            let source = Source::new(mirror, token, Arc::clone(&clients), Arc::clone(&reached))?;
            sources.push(Arc::new(source));
        }
        let named =
            tokens.named.into_iter().map(|(name, token)| Ok((name, with_token(&sources, &home, &token)?)));
        let named = Arc::new(named.collect::<Result<_>>()?);
        let connections = Arc::new(Semaphore::new(config.connections));
        let dirty = Arc::new(transfer::Dirty::new(config.max_dirty.bytes()));
        let (limits, config) = (Limits::new(config.bandwidth), config.clone());
        let xet = Arc::new(Semaphore::new(1));
        let lane = Arc::default();
        let inner = Inner { config, sources, named, connections, lane, dirty, limits, xet, reached };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same hub, asked with the token of that name; without a name with the host's own.
    ///
    /// # Errors
    /// `unauthorized` if this host has no token of that name.
    pub fn with_token(&self, name: Option<&TokenRef>) -> Result<Self> {
        let Some(name) = name else { return Ok(self.clone()) };
        let Some(sources) = self.inner.named.get(name) else {
            let known: Vec<_> = self.inner.named.keys().map(TokenRef::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::new(
                Reason::Unauthorized,
                format!("this host has no hub token called {name}; it has {known}"),
                "add it to the host's [[hub.tokens]] and start larder again, or leave token_ref out for the host's own",
            ));
        };
        let inner = Inner { sources: sources.clone(), ..(*self.inner).clone() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether a hub answered in the life of this client, be it an error; a web page is no answer of a hub.
    pub fn reached(&self) -> bool {
        self.inner.reached.load(Ordering::Relaxed)
    }

    /// How many bytes per second may come, for this host and for each running job.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Keeps this host to its share of what its fleet may take.
    pub fn set_share(&self, share: &Share) {
        self.inner.limits.set_share(share.bytes);
        for source in &self.inner.sources {
            let own = share.sources.get(source.name.as_str()).copied().unwrap_or_default();
            let requests = own.requests.or(share.requests).unwrap_or(f64::INFINITY);
            source.set_share(own.bytes.unwrap_or(f64::INFINITY), requests);
        }
    }

    /// Whether nobody may be asked.
    pub fn is_offline(&self) -> bool {
        self.inner.config.offline
    }

    /// The hub's own endpoint, which holds no credentials.
    pub fn endpoint(&self) -> &str {
        self.inner.config.endpoint.trim_end_matches('/')
    }
}

impl Inner {
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
    address("hub.endpoint", text)
}

/// The address that the configuration key `key` holds.
fn address(key: &str, text: &str) -> Result<Url> {
    let bad = |why: &str| {
        Error::new(
            Reason::InvalidRequest,
            format!("{key} is not the address of a hub: {why}"),
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

fn no_client(causes: &str) -> Error {
    Error::new(
        Reason::SourceUnavailable,
        format!("cannot set up HTTPS: {causes}"),
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
        let token = Token::new("hf_geheim").expect("token");
        let tokens = Tokens { endpoint: Some(token), ..Tokens::default() };
        let hub = Hub::new(&config, tokens).expect("client");
        let url = hub.inner.sources[0].url(["a", "b", "resolve", "feature/x", "d", "f #1?.bin"]);
        assert_eq!(url.as_str(), "https://host/api/hf/a/b/resolve/feature%2Fx/d/f%20%231%3F.bin");
        assert!(!format!("{hub:?}").contains("geheim"));
        config.connections = 0;
        let refused = Hub::new(&config, Tokens::default()).expect_err("refused");
        assert_eq!(refused.reason(), Reason::InvalidRequest);
    }

    #[test]
    fn mirrors_come_first_and_a_token_stays_with_its_source() {
        let mut config = testing::config("https://host");
        let mirror = Mirror::at;
        config.endpoints = vec![mirror("http://a"), mirror("http://b/")];
        let token = |text: &str| Some(Token::new(text).expect("token"));
        let tokens =
            Tokens { endpoint: token("hf_hub"), mirrors: vec![None, token("hf_b")], ..Tokens::default() };
        let hub = Hub::new(&config, tokens.clone()).expect("client");
        let seen: Vec<_> =
            hub.inner.sources.iter().map(|source| (source.name.as_str(), source.token.clone())).collect();
        assert_eq!(
            seen,
            [("http://a", None), ("http://b", token("hf_b")), ("https://host", token("hf_hub"))]
        );

        config.endpoints = vec![mirror("https://host/"), mirror("http://b")];
        let hub = Hub::new(&config, tokens).expect("client");
        let seen: Vec<_> = hub.inner.sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(seen, ["https://host", "http://b"], "the hub may stand in front of a mirror");
        assert_eq!(hub.inner.sources[0].token, token("hf_hub"));

        config.endpoints = vec![mirror("ftp://x")];
        let refused = Hub::new(&config, Tokens::default()).expect_err("refused");
        assert!(refused.to_string().contains("hub.endpoints"), "{refused}");
    }
}
