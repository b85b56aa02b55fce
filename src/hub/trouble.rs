//! What went wrong with the hub, in the words of the closed table, with a hint that helps.
//!
//! The hub answers 401 to a name that does not exist, so the status alone says little; `X-Error-Code` says
//! which case it is (`RepoNotFound`, `RevisionNotFound`, `EntryNotFound`, `GatedRepo`; source: `hf_raise_for_status`
//! of Python huggingface_hub 2.4.0).

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::Error;
use larder_jobs::{FilePath, Reason, RepoId};

/// Longest excerpt of a server's own words, in characters.
const MAX_WORDS: usize = 200;

/// What was asked, so that an error can name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) endpoint: &'a str,
    pub(super) repo: &'a RepoId,
    pub(super) revision: &'a str,
    pub(super) path: Option<&'a FilePath>,
    pub(super) token: bool,
}

/// An answer that is no success.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `X-Error-Code`.
    pub(super) code: Option<String>,
    /// `X-Error-Message`, or what the body says.
    pub(super) message: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// The body is a web page: this is not an API.
    pub(super) page: bool,
}

impl Answer {
    /// What the head of an answer says.
    pub(super) fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let page = text("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        let (code, message) = (text("x-error-code"), text("x-error-message"));
        Self { status, code, message, retry_after: retry_after(headers), page }
    }
}

/// How long the source asked to wait: seconds, or an HTTP date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// The error that an answer amounts to.
pub(super) fn explain(asked: Asked<'_>, answer: &Answer) -> Error {
    let Asked { endpoint, repo, revision, .. } = asked;
    let thing = match asked.path {
        Some(path) => format!("{path} of {repo}@{revision}"),
        None => format!("{repo}@{revision}"),
    };
    let words = answer.message.as_deref().map(|words| format!(" ({})", shown(words))).unwrap_or_default();
    let status = answer.status;
    let code = answer.code.as_deref().unwrap_or_default();
    let gone = |what: String, hint: &str| Error::new(Reason::NotFound, what, hint);
    match (status, code) {
        (401 | 403, "GatedRepo") => gated(asked),
        (401 | 403 | 404, "RepoNotFound") => gone(
            format!("{endpoint} has no model {repo}, or it is private"),
            if asked.token {
                "check the name; if it is private, the token's account needs access to it"
            } else {
                "check the name; if it is private, set HF_TOKEN or hub.token_file to a token that may read it"
            },
        ),
        (404, "RevisionNotFound") => gone(
            format!("{repo} has no revision {revision} at {endpoint}"),
            "check the branch, tag or commit on the model's page",
        ),
        (404, "EntryNotFound") => {
            gone(format!("{thing} is not there at {endpoint}"), "check the file's name on the model's page")
        }
        (401, _) => refused(asked, &words),
        (403, _) => Error::new(
            Reason::Unauthorized,
            format!("{endpoint} does not allow access to {thing}{words}"),
            "use a token (HF_TOKEN or hub.token_file) of an account that may read it",
        ),
        (404, _) if answer.page => not_a_hub(endpoint, "it sent a web page"),
        (404 | 410, _) => gone(
            format!("{endpoint} knows no {thing}{words}"),
            "check the name and the revision; if hub.endpoint is a mirror, it may not have the model",
        ),
        (429, _) => Error::new(
            Reason::RateLimited,
            format!("{endpoint} says that there were too many requests{words}"),
            "wait; a token (HF_TOKEN) raises the limit",
        )
        .with_retry_after(answer.retry_after),
        (408 | 500..=599, _) => Error::new(
            Reason::SourceUnavailable,
            format!("{endpoint} answered {status} for {thing}{words}"),
            "try again later; the hub's state is shown at status.huggingface.co",
        )
        .with_retry_after(answer.retry_after),
        _ => Error::new(
            Reason::SourceUnavailable,
            format!("{endpoint} answered {status} for {thing}{words}"),
            "check hub.endpoint or HF_ENDPOINT, and proxies on the way",
        ),
    }
}

fn gated(asked: Asked<'_>) -> Error {
    let Asked { endpoint, repo, .. } = asked;
    let hint = if asked.token {
        format!("accept the terms at {endpoint}/{repo} with the account of the token")
    } else {
        format!("accept the terms at {endpoint}/{repo}, then set HF_TOKEN or hub.token_file")
    };
    Error::new(Reason::Gated, format!("{repo} is gated: its terms must be accepted first"), hint)
}

fn refused(asked: Asked<'_>, words: &str) -> Error {
    let Asked { endpoint, repo, .. } = asked;
    if asked.token {
        let what = format!("{endpoint} refused the token{words}");
        return Error::new(
            Reason::Unauthorized,
            what,
            "renew the token (HF_TOKEN or hub.token_file); it may be mistyped or expired",
        );
    }
    let what = format!("{endpoint} wants a token for {repo}{words}");
    Error::new(Reason::Unauthorized, what, "set HF_TOKEN or hub.token_file, and check the model's name")
}

/// Something answered, but not the way a hub does.
pub(super) fn not_a_hub(endpoint: &str, why: &str) -> Error {
    Error::new(
        Reason::SourceUnavailable,
        format!("{endpoint} does not answer like a hub: {why}"),
        "check hub.endpoint or HF_ENDPOINT, and proxies or captive portals on the way",
    )
}

/// Why no answer came, or not all of it, whichever client says so.
#[derive(Debug)]
pub(super) struct Broken {
    causes: String,
    is_connect: bool,
    is_timeout: bool,
}

impl Broken {
    /// Whether there is no HTTP/1.1 to be had: what rustls says when the server's list of protocols has none of ours
    /// (RFC 7301, 3.2).
    pub(super) fn wants_http2(&self) -> bool {
        self.is_connect && self.causes.contains("NoApplicationProtocol")
    }
}

impl From<&reqwest::Error> for Broken {
    fn from(error: &reqwest::Error) -> Self {
        Self { causes: causes(error), is_connect: error.is_connect(), is_timeout: error.is_timeout() }
    }
}

impl From<&hyper_util::client::legacy::Error> for Broken {
    fn from(error: &hyper_util::client::legacy::Error) -> Self {
        let (mut cause, mut is_timeout) = (error.source(), false);
        while let Some(this) = cause {
            is_timeout |=
                this.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::TimedOut);
            cause = this.source();
        }
        Self { causes: told(Some(error)), is_connect: error.is_connect(), is_timeout }
    }
}

/// No answer came from `host`, or it broke off.
pub(super) fn unreachable(host: &str, error: impl Into<Broken>) -> Error {
    let Broken { causes, is_connect, is_timeout } = error.into();
    let has = |word: &str| causes.contains(word);
    let (what, hint) = if has("dns error") || has("failed to lookup") {
        ("its name cannot be resolved", "check the host's name server, hub.endpoint and HTTPS_PROXY")
    } else if has("certificate") || has("UnknownIssuer") {
        ("its certificate is not trusted", "for a private authority set SSL_CERT_FILE to its certificate")
    } else if is_timeout {
        ("it did not answer in time", "check the network, firewalls and HTTPS_PROXY")
    } else if is_connect {
        ("no connection", "check that it is up, and firewalls and HTTPS_PROXY on the way")
    } else {
        ("the connection broke", "check the network; it is tried again")
    };
    Error::new(Reason::SourceUnavailable, format!("cannot reach {host}: {what} ({causes})"), hint)
}

/// The causes of an error, outermost first, without the URL, which may hold a signature.
pub(super) fn causes(error: &reqwest::Error) -> String {
    told(error.source())
}

fn told(mut next: Option<&(dyn StdError + 'static)>) -> String {
    let mut causes: Vec<String> = Vec::new();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Many layers repeat what the one below says.
        if !text.contains("http://") && !text.contains("https://") {
            causes.retain(|known| !text.contains(known.as_str()));
            if !causes.iter().any(|known| known.contains(&text)) {
                causes.push(text);
            }
        }
        next = cause.source();
    }
    if causes.is_empty() { "no details".to_owned() } else { shown(&causes.join(": ")) }
}

/// What another library says, without the addresses in it, which may hold signatures.
pub(super) fn without_addresses(text: &str) -> String {
    let words = text.split_whitespace().map(|word| if word.contains("://") { "(address)" } else { word });
    shown(&words.collect::<Vec<_>>().join(" "))
}

/// A server's words, short and fit for a log line.
fn shown(words: &str) -> String {
    words.chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(status: u16, code: &str, token: bool) -> Error {
        let repo = "own/name".parse().expect("name");
        let asked = Asked { endpoint: "http://h", repo: &repo, revision: "main", path: None, token };
        let code = (!code.is_empty()).then(|| code.to_owned());
        explain(asked, &Answer { status, code, ..Answer::default() })
    }

    #[test]
    fn every_answer_has_its_reason_and_a_hint() {
        let cases = [
            (401, "RepoNotFound", Reason::NotFound),
            (404, "RepoNotFound", Reason::NotFound),
            (404, "RevisionNotFound", Reason::NotFound),
            (404, "EntryNotFound", Reason::NotFound),
            (404, "", Reason::NotFound),
            (401, "GatedRepo", Reason::Gated),
            (403, "GatedRepo", Reason::Gated),
            (401, "", Reason::Unauthorized),
            (403, "", Reason::Unauthorized),
            (429, "", Reason::RateLimited),
            (500, "", Reason::SourceUnavailable),
            (503, "", Reason::SourceUnavailable),
            (418, "", Reason::SourceUnavailable),
        ];
        for (status, code, reason) in cases {
            for token in [false, true] {
                let error = explained(status, code, token);
                assert_eq!(error.reason(), reason, "{status} {code}");
                assert!(!error.hint().is_empty(), "{error}");
            }
        }
        assert!(explained(401, "RepoNotFound", false).hint().contains("HF_TOKEN"));
        assert!(explained(403, "GatedRepo", false).hint().contains("http://h/own/name"));
        assert!(explained(404, "RevisionNotFound", false).to_string().contains("main"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("header"));
            retry_after(&headers)
        };
        assert_eq!(read("42"), Some(Duration::from_secs(42)));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(90);
        let date = jiff::fmt::rfc2822::to_string(&soon.to_zoned(jiff::tz::TimeZone::UTC)).expect("date");
        let wait = read(&date.replace("+0000", "GMT")).expect("a date");
        assert!((80..=90).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(read("soon"), None);
    }
}
