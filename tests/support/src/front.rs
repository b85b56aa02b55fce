//! TLS in front of the test hub and its CDN, in the HTTP version that a test wants.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, LINK, LOCATION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::hub::Hub;

/// The HTTP versions that the front agrees to (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only: a client that does not offer it gets no connection.
    Http2,
    /// Whichever the client likes better.
    Both,
}

impl Speaks {
    fn names(self) -> Vec<Vec<u8>> {
        let names: &[&str] = match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Both => &["h2", "http/1.1"],
        };
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
}

/// What both listeners know.
#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    /// What is written instead of what in `Location` and `Link`.
    origins: [(String, String); 2],
    connections: AtomicUsize,
    seen: Mutex<Vec<Version>>,
}

/// The running front; ends with its connections when dropped.
#[derive(Debug)]
pub struct Front {
    shared: Arc<Shared>,
    certificates: Certificates,
    runtime: Option<Runtime>,
    _dir: TempDir,
}

impl Front {
    /// Starts it before this hub.
    pub fn before(hub: &Hub, speaks: Speaks) -> Self {
        let dir = tempfile::Builder::new().prefix("larder-front-").tempdir().expect("a temporary folder");
        let certificates = Certificates::make(dir.path());
        let acceptor = TlsAcceptor::from(Arc::new(config(&certificates, speaks)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime for the front");
        let listen = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let behind = [hub.endpoint(), hub.cdn()];
        let doors = behind.map(|behind| (behind, listen()));
        let origins = doors.each_ref().map(|(behind, door)| {
            let address = door.local_addr().expect("a bound socket");
            (behind.clone(), format!("https://{address}"))
        });
        let client = reqwest::Client::builder().no_proxy().http1_only();
        let client = client.redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let shared = Shared { client, origins, connections: AtomicUsize::new(0), seen: Mutex::default() };
        let shared = Arc::new(shared);
        for (behind, door) in doors {
            runtime.spawn(accept(door, acceptor.clone(), behind, shared.clone()));
        }
        Self { shared, certificates, runtime: Some(runtime), _dir: dir }
    }

    /// `https://127.0.0.1:PORT` of the hub, for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.shared.origins[0].1.clone()
    }

    /// The file with the authority to trust, for `SSL_CERT_FILE`.
    pub fn ca_file(&self) -> &Path {
        &self.certificates.authority
    }

    /// Connections that came, also those without a common HTTP version.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The HTTP version of each request, oldest first.
    pub fn seen(&self) -> Vec<Version> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Also ends connections that nobody reads.
            runtime.shutdown_background();
        }
    }
}

fn config(certificates: &Certificates, speaks: Speaks) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(&certificates.server).expect("a certificate");
    let chain = chain.collect::<Result<_, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&certificates.key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions of TLS").with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.expect("a certificate with its key");
    config.alpn_protocols = speaks.names();
    config
}

async fn accept(door: TcpListener, acceptor: TlsAcceptor, behind: String, shared: Arc<Shared>) {
    while let Ok((stream, _)) = door.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, acceptor.clone(), behind.clone(), shared.clone()));
    }
}

/// Serves one connection until one side leaves.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, behind: String, shared: Arc<Shared>) {
    stream.set_nodelay(true).ok();
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let (behind, shared) = (behind.clone(), shared.clone());
        async move { Ok::<_, Infallible>(forward(&shared, &behind, request).await) }
    });
    let stream = TokioIo::new(stream);
    // A client may leave whenever it likes.
    if speaks_h2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.serve_connection(stream, service).await.ok();
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await.ok();
    }
}

/// Asks the hub for the same; 502 when it does not answer.
async fn forward(shared: &Shared, behind: &str, request: Request<Incoming>) -> Response<reqwest::Body> {
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.version());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut headers = request.headers().clone();
    headers.remove(HOST);
    headers.remove(CONNECTION);
    let asked = shared.client.request(request.method().clone(), format!("{behind}{path}")).headers(headers);
    let Ok(answer) = asked.send().await else {
        let mut refusal = Response::new(reqwest::Body::from("the hub does not answer"));
        *refusal.status_mut() = StatusCode::BAD_GATEWAY;
        return refusal;
    };
    let mut answer: Response<reqwest::Body> = answer.into();
    *answer.version_mut() = Version::default();
    for name in [LOCATION, LINK] {
        let Some(value) = answer.headers().get(&name).and_then(|value| value.to_str().ok()) else { continue };
        let outside = |text: String, (behind, front): &(String, String)| text.replace(behind, front);
        let value = shared.origins.iter().fold(value.to_owned(), outside);
        answer.headers_mut().insert(name, HeaderValue::from_str(&value).expect("an address"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Model};

    /// Fetches the file over the front with a client that offers these versions; the version that they agreed on.
    fn fetched(front: &Front, h1_only: bool, weights: &Content) -> Result<Version, reqwest::Error> {
        let pem = std::fs::read(front.ca_file()).expect("reads");
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("a certificate")]);
        let client = if h1_only { client.http1_only() } else { client }.build().expect("a client");
        let url = format!("{}/acme/tiny/resolve/main/w.safetensors", front.endpoint());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let answer = client.get(url).header("Range", "bytes=5-").send().await?;
            let version = answer.version();
            assert_eq!((answer.status().as_u16(), answer.url().scheme()), (206, "https"));
            assert_eq!(answer.bytes().await?.as_ref(), weights.slice(5, u64::MAX).expect("reads"));
            Ok(version)
        })
    }

    #[test]
    fn both_sides_agree_on_a_version_or_part() {
        let (hub, weights) = (Hub::start(), Content::pattern(3_000_000, 1));
        hub.add(Model::new("acme/tiny").lfs("w.safetensors", weights.clone()));
        for (speaks, agreed) in [
            (Speaks::Http1, Version::HTTP_11),
            (Speaks::Http2, Version::HTTP_2),
            (Speaks::Both, Version::HTTP_2),
        ] {
            let front = Front::before(&hub, speaks);
            assert_eq!(fetched(&front, false, &weights).expect("fetches"), agreed, "{speaks:?}");
            assert_eq!(front.seen(), [agreed, agreed], "the hub and, redirected, the CDN");
        }
        let front = Front::before(&hub, Speaks::Http2);
        fetched(&front, true, &weights).expect_err("no common version");
        assert_eq!((front.connections(), front.seen().len()), (1, 0));
    }
}
