//! HTTP/1.1 for bytes where no proxy stands between, from the crates that reqwest itself is made of.
//!
//! Reqwest lets hyper read up to 400 KiB at once and offers no word against it: with what waits between two tasks that
//! is more than a MiB for each connection. A network that caps its connections is filled by many of them, so here each
//! reads [`READ`] at most. Answers come as reqwest's, and where a proxy is needed reqwest asks itself.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::http::{HeaderMap, HeaderValue, Method, Request, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::header::{ACCEPT, USER_AGENT};
use reqwest::{Body, Response, ResponseBuilderExt as _};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service as _, service_fn};
use url::Url;

use super::trouble::Broken;

/// Bytes that a connection reads at once: what is written at once ([`super::transfer`]), so that it is still in the
/// processor's cache then.
const READ: usize = 128 << 10;
/// After so long without a byte it is asked whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Makes connections.
type Dial = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// A client without a proxy.
pub(super) struct Direct {
    client: Client<Dial, Empty<Bytes>>,
    /// What this process is told about proxies; nothing if there is none for anybody.
    proxies: Option<Matcher>,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").finish_non_exhaustive()
    }
}

impl Direct {
    /// A client that keeps at most `idle` connections to a host that it does not use.
    ///
    /// # Errors
    /// The system has no certificates.
    pub(super) fn new(
        connect_timeout: Duration,
        idle: usize,
        proxies: Option<Matcher>,
    ) -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?;
        let mut tls = tls.with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        let https = HttpsConnector::from((tcp, tls));
        let dial = service_fn(move |to: Uri| {
            let connected = https.clone().call(to);
            async move {
                let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                tokio::time::timeout(connect_timeout, connected).await.map_err(late)?
            }
        });
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(READ)
            .build(BoxCloneSyncService::new(dial));
        Ok(Self { client, proxies })
    }

    /// The address for this client; `None` if a proxy stands before it, or if it is an unusual one.
    pub(super) fn reaches(&self, url: &Url) -> Option<Uri> {
        let uri = Uri::try_from(url.as_str()).ok()?;
        let is_plain = url.username().is_empty() && url.password().is_none();
        let is_free = self.proxies.as_ref().is_none_or(|proxies| proxies.intercept(&uri).is_none());
        (is_plain && is_free).then_some(uri)
    }

    /// Asks for `uri`, which is `url`.
    pub(super) async fn ask(
        &self,
        method: Method,
        uri: Uri,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, Broken> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("*/*"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(super::source::USER_AGENT));
        let answer = self.client.request(request).await.map_err(|error| Broken::from(&error))?;
        Ok(as_reqwest(answer, url))
    }
}

fn as_reqwest(answer: hyper::Response<Incoming>, url: &Url) -> Response {
    let (parts, body) = answer.into_parts();
    let mut same = hyper::Response::new(Body::wrap(body));
    if let Ok(known) = hyper::Response::builder().url(url.clone()).body(()) {
        *same.extensions_mut() = known.into_parts().0.extensions;
    }
    *same.status_mut() = parts.status;
    *same.version_mut() = parts.version;
    *same.headers_mut() = parts.headers;
    Response::from(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_stands_before_is_left_to_who_knows_proxies() {
        let proxies = Matcher::builder().all("http://proxy:3128").no("inside").build();
        let with = Direct::new(Duration::from_secs(1), 1, Some(proxies)).expect("certificates");
        let without = Direct::new(Duration::from_secs(1), 1, None).expect("certificates");
        let reaches = |client: &Direct, url: &str| client.reaches(&url.parse().expect("a URL")).is_some();
        assert!(reaches(&with, "https://inside/a?b=c") && !reaches(&with, "https://outside/a"));
        assert!(reaches(&without, "https://outside/a") && reaches(&without, "http://[::1]:80/"));
        assert!(!reaches(&without, "https://name:word@outside/a"), "a login would be lost");
    }
}
