//! What was asked and answered, so that a test can count requests and bytes instead of guessing from timings.

/// Which of the two servers was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// API and resolve.
    Hub,
    /// File bytes of LFS objects, on another port.
    Cdn,
}

/// One request and its answer, recorded when the answer's head is decided.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// Path, percent-decoded.
    pub path: String,
    /// Query as sent.
    pub query: String,
    /// `Range` header as sent.
    pub range: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Who answered.
    pub host: Host,
    /// Bytes of the body handed to the kernel so far.
    pub bytes_sent: u64,
    /// Whether an `Authorization` header came with it.
    pub had_authorization: bool,
    /// `User-Agent` header.
    pub user_agent: String,
    /// `owner/name/path` when the request was for a file, by resolve or on the CDN; else empty.
    pub file: String,
    /// Whether the bytes of the file were the answer (200 or 206, not a redirect, not an error).
    pub content: bool,
    /// The fault that was applied, in words; empty without one.
    pub fault: String,
    /// Whether the answer is over, in whichever way.
    pub done: bool,
}

impl Request {
    /// Whether path or file name contain `what`.
    pub fn is_about(&self, what: &str) -> bool {
        self.path.contains(what) || self.file.contains(what)
    }
}
