//! A question and its answer before the wire, so that faults can be applied to what would have been true.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::content::Content;
use super::fault::FaultKind;
use super::record::Host;

/// A parsed request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) host: Host,
    pub(crate) method: String,
    /// Path as sent.
    pub(crate) raw_path: String,
    /// Path, percent-decoded.
    pub(crate) path: String,
    /// Segments of the path, each percent-decoded.
    pub(crate) segments: Vec<String>,
    pub(crate) query: String,
    pub(crate) range: Option<String>,
    /// Whether it waits for `100 Continue` before it sends its body.
    pub(crate) expects: bool,
    pub(crate) authorization: Option<String>,
    pub(crate) user_agent: String,
    pub(crate) body: Vec<u8>,
    pub(crate) close: bool,
}

impl Call {
    /// Value of a query parameter, decoded.
    pub(crate) fn param(&self, name: &str) -> Option<String> {
        form_pairs(&self.query).into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether a query parameter is switched on.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.param(name).is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1" | ""))
    }
}

/// Percent-decoded text.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The pairs of a query or a form.
pub(crate) fn form_pairs(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// A reply in place of what was wanted.
pub(crate) type Refusal = Box<Reply>;

/// An answer: head, and which part of which content is its body.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content: Content,
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// `owner/name/path` when a file was asked for.
    pub(crate) file: String,
    /// Whether the body is the file's bytes.
    pub(crate) is_content: bool,
    /// `Content-Length`, where it is not `len`.
    pub(crate) stated_len: Option<u64>,
}

impl Reply {
    pub(crate) fn new(status: u16, content_type: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        Self {
            status,
            headers: vec![("Content-Type", content_type.into())],
            len: content.len(),
            content,
            start: 0,
            file: String::new(),
            is_content: false,
            stated_len: None,
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::new(200, "application/json; charset=utf-8", value.to_string())
    }

    /// An error as the hub words it.
    pub(crate) fn refusal(status: u16, code: Option<&str>, message: &str) -> Self {
        let mut reply = Self::json(&json!({ "error": message }));
        reply.status = status;
        if let Some(code) = code {
            reply.set("X-Error-Code", code);
        }
        reply.set("X-Error-Message", message);
        reply
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        let mut reply = Self::new(status, "text/plain; charset=utf-8", format!("Found. Redirecting to {to}"));
        reply.set("Location", to);
        reply
    }

    pub(crate) fn html() -> Self {
        let page =
            "<html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>";
        Self::new(200, "text/html; charset=utf-8", page)
    }

    /// Sets or replaces a header.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// 416 from somebody who has `total` bytes.
    fn unsatisfiable(total: u64) -> Self {
        let mut reply = Self::new(416, "text/plain", "Range Not Satisfiable");
        reply.set("Content-Range", format!("bytes */{total}"));
        reply
    }

    /// Narrows the answer to the range asked for: 206, or 416 when nothing of it exists.
    pub(crate) fn ranged(mut self, range: Option<&str>) -> Self {
        let total = self.content.len();
        self.set("Accept-Ranges", "bytes");
        match range.map(|range| parse_range(range, total)) {
            None | Some(Range::Ignored) => self,
            Some(Range::Part(start, end)) => {
                self.status = 206;
                self.start = start;
                self.len = end - start + 1;
                self.set("Content-Range", format!("bytes {start}-{end}/{total}"));
                self
            }
            Some(Range::Unsatisfiable) => {
                let mut reply = Self::unsatisfiable(total);
                reply.file = self.file;
                reply
            }
        }
    }

    /// Whether a fault of this kind has something to bite on here.
    pub(crate) fn suffers(&self, kind: &FaultKind, call: &Call) -> bool {
        let sends_body = call.method != "HEAD" && (200..300).contains(&self.status);
        match kind {
            FaultKind::Status { .. } | FaultKind::Html | FaultKind::Redirect { .. } => true,
            FaultKind::Cut { after_bytes }
            | FaultKind::Reset { after_bytes }
            | FaultKind::Stall { after_bytes }
            | FaultKind::Trickle { after_bytes, .. } => sends_body && *after_bytes < self.len,
            FaultKind::CutAnywhere => sends_body && self.is_content && self.len > 0,
            FaultKind::WrongRange { from, to } => {
                sends_body && *from < self.start + self.len && self.start < *to
            }
            FaultKind::WrongBytes { at } => sends_body && (self.start..self.start + self.len).contains(at),
            FaultKind::ShortBody { missing } => sends_body && *missing <= self.len,
            FaultKind::IgnoreRange | FaultKind::WrongContentRange | FaultKind::Unsatisfiable => {
                self.status == 206
            }
            FaultKind::ChangedCommit => !self.file.is_empty() && self.header("X-Repo-Commit").is_some(),
            FaultKind::RangelessRefused => self.is_content && call.method == "GET" && call.range.is_none(),
            FaultKind::LyingLength { .. } => false,
        }
    }

    /// Changes the answer as the fault says; faults of the wire itself leave it as it is.
    pub(crate) fn suffer(&mut self, kind: &FaultKind) {
        let file = std::mem::take(&mut self.file);
        match kind {
            FaultKind::Status { code, retry_after } => {
                *self = Self::refusal(*code, None, &format!("The test hub was told to answer {code}."));
                if let Some(value) = retry_after {
                    self.set("Retry-After", value);
                }
            }
            FaultKind::Html => *self = Self::html(),
            FaultKind::Redirect { to } => *self = Self::redirect(302, to),
            FaultKind::RangelessRefused => *self = Self::refusal(400, None, "Range header required."),
            FaultKind::Unsatisfiable => *self = Self::unsatisfiable(0),
            FaultKind::ShortBody { missing } => self.len -= missing,
            FaultKind::IgnoreRange => {
                self.status = 200;
                self.start = 0;
                self.len = self.content.len();
                self.headers.retain(|(name, _)| *name != "Content-Range");
            }
            FaultKind::WrongContentRange => {
                let (first, last) = (self.start + 1, self.start + self.len);
                self.set("Content-Range", format!("bytes {first}-{last}/{}", self.content.len()));
            }
            FaultKind::ChangedCommit => {
                let commit = self.header("X-Repo-Commit").unwrap_or_default().to_owned();
                self.set("X-Repo-Commit", Content::from(commit).git_oid());
            }
            FaultKind::Cut { .. } | FaultKind::CutAnywhere | FaultKind::Reset { .. } => {}
            FaultKind::Stall { .. } | FaultKind::Trickle { .. } => {}
            FaultKind::WrongBytes { .. } | FaultKind::WrongRange { .. } | FaultKind::LyingLength { .. } => {}
        }
        self.file = file;
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// First and last byte.
    Part(u64, u64),
    /// Nothing that exists.
    Unsatisfiable,
    /// Not understood, or several ranges: answered as if absent.
    Ignored,
}

fn parse_range(text: &str, total: u64) -> Range {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Range::Ignored;
    };
    let (first, last) = (first.trim().parse::<u64>(), last.trim());
    match (first, last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => Range::Ignored,
        (Ok(first), _) if first >= total => Range::Unsatisfiable,
        (Ok(first), Ok(last)) => Range::Part(first, last.min(total - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Range::Part(first, total - 1),
        (Err(_), Ok(0)) => Range::Unsatisfiable,
        (Err(_), Ok(suffix)) if text.starts_with("bytes=-") && total > 0 => {
            Range::Part(total.saturating_sub(suffix), total - 1)
        }
        _ => Range::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        assert_eq!(parse_range("bytes=0-0", 10), Range::Part(0, 0));
        assert_eq!(parse_range("bytes=2-99", 10), Range::Part(2, 9));
        assert_eq!(parse_range("bytes=9-", 10), Range::Part(9, 9));
        assert_eq!(parse_range("bytes=-4", 10), Range::Part(6, 9));
        assert_eq!(parse_range("bytes=-40", 10), Range::Part(0, 9));
        assert_eq!(parse_range("bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(parse_range("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(parse_range("bytes=5-2", 10), Range::Ignored);
        assert_eq!(parse_range("bytes=0-1,4-5", 10), Range::Ignored);
        assert_eq!(parse_range("lines=0-1", 10), Range::Ignored);
    }

    #[test]
    fn forms_and_queries_are_decoded() {
        let pairs = form_pairs("paths=a%2Fb&paths=c+d&expand");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs, [pair("paths", "a/b"), pair("paths", "c d"), pair("expand", "")]);
    }
}
