//! What can go wrong between a program and the queue: a reason of the closed table, what happened, what to do.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::{Invalid, Reason};

/// The result of everything that asks the queue.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the queue. `queue_unavailable` may pass, the other reasons do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; hint: {hint}")]
pub struct Error {
    reason: Reason,
    what: String,
    hint: String,
}

impl Error {
    /// `what` names the thing and says what happened; `hint` says what to do.
    pub fn new(reason: Reason, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason, what: what.into(), hint: hint.into() }
    }

    /// The word of the closed table.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What happened.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.reason(), invalid.to_string(), invalid.hint())
    }
}

/// The queue at `place` cannot do what was asked, for now.
pub(super) fn unavailable(place: &str, what: &str, hint: impl Into<String>) -> Error {
    Error::new(Reason::QueueUnavailable, format!("Redis at {place} {what}"), hint)
}

/// Nothing came within the time that an answer may take.
pub(super) fn silent(place: &str, seconds: u64) -> Error {
    unavailable(
        place,
        &format!("gave no answer within {seconds} s"),
        "see whether it is overloaded, frozen or behind a firewall; larder tries on",
    )
}

/// A failure that the library reports, in words that lead somewhere.
pub(super) fn explain(place: &str, user: &str, error: &RedisError) -> Error {
    let text = error.to_string();
    let said = error.detail().map_or_else(|| text.clone(), str::to_owned);
    let code = error.code().unwrap_or_default();
    if code == "NOPERM" || text.contains("no permissions") || text.contains("No permissions") {
        return denied(place, user, &said);
    }
    if code == "WRONGPASS" || code == "NOAUTH" || error.kind() == ErrorKind::AuthenticationFailed {
        let hint = "correct user and password: queue.username and queue.password_file, or those in queue.url";
        return unavailable(place, &format!("refuses the user `{user}`: wrong or missing password"), hint);
    }
    if text.contains("OOM") {
        let hint = "raise its maxmemory, or cancel jobs; larder tries on";
        return unavailable(place, "is out of memory (maxmemory is reached, nothing may be evicted)", hint);
    }
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly) => read_only(place),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => {
            unavailable(place, "is loading its data", "wait; larder tries on")
        }
        ErrorKind::Server(ServerErrorKind::MasterDown) => {
            unavailable(place, "has lost its master", "point queue.url at the master; larder tries on")
        }
        ErrorKind::InvalidClientConfig => {
            Error::new(Reason::InvalidRequest, format!("queue.url: {said}"), ADDRESS_HINT)
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => not_redis(place),
        ErrorKind::Io => unreachable(place, error, &text),
        _ if text.contains("invalid response") => not_redis(place),
        _ if text.contains("DB index is out of range") => Error::new(
            Reason::InvalidRequest,
            format!("Redis at {place} does not have the database of queue.url"),
            "use a smaller database number; 0 is always there",
        ),
        _ => unavailable(place, &format!("answers with an error: {text}"), "see its log; larder tries on"),
    }
}

/// How a queue is addressed.
pub(super) const ADDRESS_HINT: &str =
    "write redis://host:6379/0, rediss://host:6379 with TLS, or redis+unix:///run/redis.sock?db=0";

/// The server at the other end speaks something else.
pub(super) fn not_redis(place: &str) -> Error {
    unavailable(
        place,
        "does not answer like a Redis",
        "correct queue.url; if the server wants TLS write rediss://, if it does not write redis://",
    )
}

/// The server is a replica, or was made one.
pub(super) fn read_only(place: &str) -> Error {
    unavailable(place, "is a read-only replica", "point queue.url at the master; larder tries on")
}

fn unreachable(place: &str, error: &RedisError, text: &str) -> Error {
    if error.is_timeout() {
        return unavailable(
            place,
            "cannot be reached in time",
            "see whether it runs and the network lets it through",
        );
    }
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        let hint = "name the CA that signed it in queue.ca_file, and a host name that the certificate has";
        return unavailable(place, &format!("has a certificate that is not trusted: {text}"), hint);
    }
    if text.contains("corrupt message") || text.contains("InvalidContentType") {
        return unavailable(
            place,
            "does not speak TLS",
            "write redis:// instead of rediss://, or the port that has TLS",
        );
    }
    let closed = ["reset", "closed", "broken pipe", "unexpected end", "eof", "disconnect"];
    if closed.iter().any(|word| text.to_lowercase().contains(word)) {
        let hint = "see whether it restarts; if it wants TLS write rediss:// in queue.url; larder tries on";
        return unavailable(place, "closed the connection", hint);
    }
    unavailable(
        place,
        &format!("cannot be reached: {text}"),
        "see whether it runs (redis-cli ping); larder tries on",
    )
}

/// The user lacks a right; the server says which.
fn denied(place: &str, user: &str, said: &str) -> Error {
    let rule = if said.contains("channel") {
        "the channels: &{NAMESPACE}:*".to_owned()
    } else if said.contains("key") && !said.contains("command") {
        "the keys: ~{NAMESPACE}:*".to_owned()
    } else {
        said.split('\'')
            .nth(1)
            .map_or_else(|| "the command".to_owned(), |name| format!("the command: +{name}"))
    };
    unavailable(
        place,
        &format!("denies the user `{user}` something that larder needs: {said}"),
        format!("grant {rule} (ACL SETUSER {user} …); docs/queue.md lists every rule"),
    )
}
