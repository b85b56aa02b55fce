//! A hub of a few lines for the tests of this room: one repo, a second origin for large files, faults on demand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use futures_util::StreamExt as _;
use tokio::net::TcpListener;

use super::{Config, Hub, PageCache, Token, Tokens};
use crate::layout::Hasher;
use larder_jobs::{CommitId, Digest, RepoFile, RepoId, Size, Span};

/// Files above this come from the second origin.
const LARGE: usize = 1000;

/// What goes wrong with one answer that brings bytes.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// None; lets a later one hit a later answer.
    Fine,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Nothing more comes after so many bytes.
    Hang(usize),
    /// The range is ignored; ends after so many bytes.
    Whole(usize),
    /// One byte is another.
    Flip,
    /// This status, with this `Retry-After`.
    Status(u16, Option<&'static str>),
    /// `Content-Range` speaks of other bytes.
    OtherRange,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) second_origin: bool,
    pub(super) range: Option<String>,
    pub(super) token: bool,
}

/// Status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, String);

struct Inner {
    files: HashMap<String, Vec<u8>>,
    second: OnceLock<String>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    /// Answers to `/api/…`, by path and query.
    answers: Mutex<HashMap<String, Answer>>,
}

/// The running server; ends with the runtime.
pub(super) struct TestHub {
    pub(super) url: String,
    inner: Arc<Inner>,
}

pub(super) fn config(endpoint: &str) -> Config {
    Config {
        endpoint: endpoint.to_owned(),
        token_file: String::new(),
        tokens: Vec::new(),
        endpoints: Vec::new(),
        connections: 4,
        bandwidth: None,
        offline: false,
        connect_timeout: Span(Duration::from_secs(5)),
        stall_timeout: Span(Duration::from_secs(5)),
        range: Size(64 << 10),
        max_dirty: Size(64 << 20),
        page_cache: PageCache::Leave,
        xet: false,
    }
}

pub(super) fn repo() -> RepoId {
    "own/name".parse().expect("name")
}

pub(super) fn commit() -> CommitId {
    "c".repeat(40).parse().expect("commit")
}

/// Bytes without a pattern that a shifted copy would repeat.
pub(super) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(step).collect()
}

pub(super) fn sha256(path: &str, bytes: &[u8]) -> RepoFile {
    let size = bytes.len() as u64;
    let mut hasher = Hasher::new(&Digest::Sha256([0; 32]), size);
    hasher.update(bytes);
    RepoFile { path: path.parse().expect("path"), size, digest: hasher.finish() }
}

impl TestHub {
    pub(super) async fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let inner = Arc::new(Inner {
            files: files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect(),
            second: OnceLock::new(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            answers: Mutex::default(),
        });
        let second = serve(Arc::clone(&inner), true).await;
        inner.second.set(second).expect("once");
        Self { url: serve(Arc::clone(&inner), false).await, inner }
    }

    pub(super) fn hub(&self, token: bool, change: impl FnOnce(&mut Config)) -> Hub {
        let mut config = config(&self.url);
        change(&mut config);
        let endpoint = token.then(|| Token::new("hf_geheim").expect("token"));
        Hub::new(&config, Tokens { endpoint, ..Tokens::default() }).expect("client")
    }

    pub(super) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner.faults.lock().expect("lock").extend(faults);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().expect("lock").clone()
    }

    pub(super) fn answer(&self, place: &str, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let answer = (status, headers, body.to_owned());
        self.inner.answers.lock().expect("lock").insert(place.to_owned(), answer);
    }
}

async fn serve(inner: Arc<Inner>, second: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().fallback(handle).with_state((inner, second));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn handle(State((inner, second)): State<(Arc<Inner>, bool)>, request: Request) -> Response<Body> {
    let text = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
    let (path, range) = (request.uri().path().to_owned(), text("range"));
    let seen = Seen {
        path: path.clone(),
        second_origin: second,
        range: range.clone(),
        token: text("authorization").is_some(),
    };
    inner.seen.lock().expect("lock").push(seen);
    let place = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    if let Some((status, headers, body)) = inner.answers.lock().expect("lock").get(&place).cloned() {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        return response.body(Body::from(body)).expect("response");
    }
    let name =
        path.split_once("/resolve/").map(|(_, rest)| rest.split_once('/').map_or("", |(_, name)| name));
    let Some((name, bytes)) = name.and_then(|name| inner.files.get_key_value(name)) else {
        return plain(StatusCode::NOT_FOUND.as_u16())
            .header("x-error-code", "EntryNotFound")
            .body(Body::empty())
            .expect("response");
    };
    if bytes.len() > LARGE && !second {
        let location = format!("{}/x/resolve/y/{name}?Signature=geheim", inner.second.get().expect("set"));
        return plain(302)
            .header("location", location)
            .header("x-repo-commit", commit().as_str())
            .body(Body::empty())
            .expect("response");
    }
    let fault = inner.faults.lock().expect("lock").pop_front().unwrap_or(Fault::Fine);
    data(bytes, range.as_deref(), fault)
}

fn plain(status: u16) -> axum::http::response::Builder {
    Response::builder().status(status)
}

fn data(bytes: &[u8], range: Option<&str>, fault: Fault) -> Response<Body> {
    let all = bytes.len();
    let parsed = range.and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?.min(all - 1)))
    });
    if let Fault::Status(status, wait) = fault {
        let mut response = plain(status);
        if let Some(wait) = wait {
            response = response.header("retry-after", wait);
        }
        return response.body(Body::empty()).expect("response");
    }
    let (start, end) = parsed.unwrap_or((0, all - 1));
    if let Fault::Whole(most) = fault {
        return plain(200)
            .header("content-length", all)
            .body(broken(bytes[..most.min(all)].to_vec(), most < all))
            .expect("response");
    }
    let mut part = bytes[start..=end].to_vec();
    let response = plain(206).header("content-length", part.len());
    let shown = if matches!(fault, Fault::OtherRange) { start + 1 } else { start };
    let response = response.header("content-range", format!("bytes {shown}-{end}/{all}"));
    let body = match fault {
        Fault::Cut(at) => broken(part[..at.min(part.len())].to_vec(), true),
        Fault::Hang(at) => {
            let head = Bytes::from(part[..at.min(part.len())].to_vec());
            let head = futures_util::stream::iter([Ok::<_, std::io::Error>(head)]);
            Body::from_stream(head.chain(futures_util::stream::pending()))
        }
        Fault::Flip => {
            let middle = part.len() / 2;
            part[middle] ^= 1;
            Body::from(part)
        }
        _ => Body::from(part),
    };
    response.body(body).expect("response")
}

/// A body that ends with an error, so that the connection is cut.
fn broken(head: Vec<u8>, cut: bool) -> Body {
    let tail = cut.then(|| Err(std::io::Error::other("cut")));
    Body::from_stream(futures_util::stream::iter([Ok(Bytes::from(head))].into_iter().chain(tail)))
}
