//! The inside of the child process that fetches one file over Xet, with hf-hub, into a folder of its parent's.
//!
//! hf-hub's Xet transfer verifies no more than the size, cannot be cancelled and takes as much memory as it finds
//! (docs/architecture.md). So it runs where it can be killed: this process does nothing else, and ends when its
//! parent does. Its order is one line of JSON on stdin, because the command line is for everybody to read; the
//! environment ([`limits`]) says how much memory and how many connections it may use.
//!
//! hf-hub's cache mode is used, not its `local_dir`: only there it looks for `X-Xet-Hash` on the hub's own answer
//! instead of the one that a redirect leads to.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use hf_hub::HFClient;
use serde::{Deserialize, Serialize};

use super::client::NO_TOKEN;
use super::trouble::without_addresses;
use crate::error::{Error, Result};
use larder_jobs::{CommitId, FilePath, Reason, RepoId};

/// What comes behind the program's name on the command line of the child.
pub const CHILD_VERB: &str = "xet-fetch";
/// An order is shorter than this.
const MAX_ORDER: u64 = 64 << 10;
/// Exit code of a child whose parent is gone.
const PARENT_GONE: i32 = 75;

/// What the child is told on stdin. It holds a token, so there is no `Debug` of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) endpoint: String,
    /// The source's token, if there is one.
    pub(super) token: Option<String>,
    pub(super) repo: RepoId,
    pub(super) commit: CommitId,
    pub(super) path: FilePath,
    /// The root of a hub cache that is this order's alone.
    pub(super) folder: PathBuf,
}

/// Variables that hf-xet reads, so that nobody's settings of it reach the child.
pub(super) fn is_of_xet(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"HF_XET_")
}

/// The environment that keeps hf-xet 1.8.0 small: what it may hold of a file that is not written yet, how many
/// streams it has, no cache of chunks, no telemetry, and files of its own only in `folder`.
pub(super) fn limits(
    folder: &Path,
    streams: usize,
    connect: Duration,
    stall: Duration,
) -> Vec<(&'static str, String)> {
    let millis = |time: Duration| format!("{}ms", time.as_millis().max(1));
    vec![
        ("HF_XET_CACHE", folder.join("xet").display().to_string()),
        ("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0".into()),
        ("HF_XET_CLIENT_AC_INITIAL_DOWNLOAD_CONCURRENCY", streams.min(4).to_string()),
        ("HF_XET_CLIENT_AC_MAX_DOWNLOAD_CONCURRENCY", streams.to_string()),
        ("HF_XET_CLIENT_CONNECT_TIMEOUT", millis(connect)),
        ("HF_XET_CLIENT_READ_TIMEOUT", millis(stall)),
        ("HF_XET_CLIENT_RETRY_BASE_DELAY", "500ms".into()),
        ("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "3".into()),
        ("HF_XET_CLIENT_RETRY_MAX_DURATION", "5s".into()),
        ("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT", "128mb".into()),
        ("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_PERFILE_SIZE", "64mb".into()),
        ("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE", "64mb".into()),
        ("HF_XET_RECONSTRUCTION_MAX_RECONSTRUCTION_FETCH_SIZE", "128mb".into()),
        ("HF_XET_RECONSTRUCTION_MIN_PREFETCH_BUFFER", "128mb".into()),
        ("HF_XET_RECONSTRUCTION_MIN_RECONSTRUCTION_FETCH_SIZE", "64mb".into()),
        ("HF_XET_TELEMETRY_ENABLED", "false".into()),
    ]
}

/// Reads one order from stdin and does it; the whole of `larder xet-fetch`. The process ends when stdin does.
///
/// # Errors
/// `invalid_request` if there is no order; `source_unavailable` if the file did not come.
pub fn fetch_as_ordered() -> Result<()> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_ORDER).read_line(&mut line);
    let order: Option<Order> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(order) = order else {
        return Err(Error::new(
            Reason::InvalidRequest,
            "there is no order on stdin",
            "larder starts this command by itself; set hub.xet = true to use Xet",
        ));
    };
    thread::spawn(|| {
        // Ends when the parent is gone, however it went.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(PARENT_GONE);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::internal(format!("cannot start the runtime: {error}")))?;
    let fetched = runtime.block_on(fetch(order));
    runtime.shutdown_background();
    fetched
}

async fn fetch(order: Order) -> Result<()> {
    let failed = |error: hf_hub::HFError| {
        Error::new(
            Reason::SourceUnavailable,
            format!("hf-hub says: {}", without_addresses(&error.to_string())),
            "the file is fetched by ranges instead",
        )
    };
    let client = HFClient::builder()
        .endpoint(order.endpoint)
        .token(order.token.as_deref().unwrap_or(NO_TOKEN))
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
        .cache_dir(order.folder)
        .build()
        .map_err(failed)?;
    let model = client.model(order.repo.owner(), order.repo.name());
    let download = model.download_file().filename(order.path.as_str()).revision(order.commit.as_str());
    download.send().await.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_begins_with_no_setting_but_ours() {
        assert!(is_of_xet(OsStr::new("HF_XET_HIGH_PERFORMANCE")));
        assert!(!is_of_xet(OsStr::new("HTTPS_PROXY")));
        let limits = limits(Path::new("/f"), 3, Duration::from_secs(10), Duration::from_secs(30));
        let value = |name| limits.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("HF_XET_CLIENT_AC_MAX_DOWNLOAD_CONCURRENCY"), Some("3"));
        assert_eq!(value("HF_XET_CLIENT_READ_TIMEOUT"), Some("30000ms"));
        assert_eq!(value("HF_XET_CACHE"), Some("/f/xet"));
    }
}
