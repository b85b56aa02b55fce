//! What can go wrong between a program and the queue: a reason of the closed table, what happened, what to do.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::address::{Address, Mode};
use super::connection::Connection;
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
pub(super) fn silent(address: &Address, seconds: u64) -> Error {
    let hint = format!("see whether it is overloaded, frozen or behind a firewall{}", or_no_tls(address));
    unavailable(address.place(), &format!("gave no answer within {seconds} s"), hint)
}

/// A server that expects something else than TLS waits for the rest of it.
fn or_no_tls(address: &Address) -> &'static str {
    if address.has_tls() { "; if that port has no TLS write redis://" } else { "" }
}

/// A failure that the library reports, in words that lead somewhere.
pub(super) fn explain(address: &Address, error: &RedisError) -> Error {
    let (place, user, text) = (address.place(), address.user(), error.to_string());
    let said = error.detail().map_or_else(|| text.clone(), str::to_owned);
    let code = error.code().unwrap_or_default();
    if code == "NOPERM" || DENIALS.iter().any(|words| text.contains(words)) {
        return denied(address, &text);
    }
    if code == "WRONGPASS" || code == "NOAUTH" || error.kind() == ErrorKind::AuthenticationFailed {
        let [name, file] = address.login_keys();
        let hint = format!("correct user and password: {name} and {file}, or those in {}", address.key());
        return unavailable(place, &format!("refuses the user `{user}`: wrong or missing password"), hint);
    }
    if text.contains("OOM") {
        let hint = "raise its maxmemory, or cancel jobs";
        return unavailable(place, "is out of memory (maxmemory is reached, nothing may be evicted)", hint);
    }
    if code == "NOREPLICAS" {
        let hint = "bring its replicas back, or lower min-replicas-to-write";
        return unavailable(place, "takes no writes, since too few replicas follow it", hint);
    }
    match error.kind() {
        ErrorKind::Server(kind) if moves(kind) => elsewhere(address, kind, &text),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => unavailable(place, "is loading its data", "wait"),
        ErrorKind::InvalidClientConfig => {
            Error::new(Reason::InvalidRequest, format!("{}: {said}", address.key()), ADDRESS_HINT)
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => not_redis(address),
        ErrorKind::Io => unreachable(address, error, &text),
        _ if text.contains("invalid response") => not_redis(address),
        _ if text.contains("cluster support disabled") => no_cluster(address),
        _ if text.contains("unknown command") && text.to_uppercase().contains("'SENTINEL'") => unavailable(
            place,
            "is no sentinel",
            "name the sentinels in queue.urls; they listen on port 26379",
        ),
        _ if text.contains("DB index is out of range") => Error::new(
            Reason::InvalidRequest,
            format!("Redis at {place} does not have the database of {}", address.key()),
            "use a smaller database number; 0 is always there",
        ),
        _ => unavailable(place, &format!("answers with an error: {text}"), "see its log"),
    }
}

/// How a queue is addressed.
pub(super) const ADDRESS_HINT: &str =
    "write redis://host:6379/0, rediss://host:6379 with TLS, or redis+unix:///run/redis.sock?db=0";

/// The server at the other end speaks something else.
pub(super) fn not_redis(address: &Address) -> Error {
    let key = address.key();
    let hint =
        format!("correct {key}; if the server wants TLS write rediss://, if it does not write redis://");
    unavailable(address.place(), "does not answer like a Redis", hint)
}

/// The server is a replica, or was made one.
pub(super) fn read_only(address: &Address) -> Error {
    let hint = match address.mode() {
        Mode::Single => "point queue.url at the master, or name its sentinels (queue.mode = \"sentinel\")",
        Mode::Sentinel | Mode::Cluster => "wait until the failover to the new master is over",
    };
    unavailable(address.place(), "is a read-only replica", hint)
}

/// The server belongs to no cluster.
pub(super) fn no_cluster(address: &Address) -> Error {
    unavailable(address.place(), "is no node of a cluster", "set queue.mode = \"single\" and queue.url")
}

/// Nobody who was asked knows where the queue is.
pub(super) fn nowhere(address: &Address) -> Error {
    let (what, hint) = match address.mode() {
        Mode::Sentinel => {
            ("is a master that they do not know", "correct queue.master_name, or wait for a failover")
        }
        _ => ("has no node for the queue", "see CLUSTER INFO; every slot needs a master"),
    };
    unavailable(address.place(), what, hint)
}

/// Whether another server has the queue, or will have it in a moment.
fn moves(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(kind, Ask | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
}

fn elsewhere(address: &Address, kind: ServerErrorKind, text: &str) -> Error {
    let place = address.place();
    match kind {
        ServerErrorKind::ReadOnly => read_only(address),
        ServerErrorKind::MasterDown => {
            unavailable(place, "has lost its master", "wait for the failover, or see its log")
        }
        ServerErrorKind::Moved if address.mode() == Mode::Single => {
            let hint = "set queue.mode = \"cluster\" and name some of its nodes in queue.urls";
            unavailable(place, "is a node of a cluster, and another one has the queue", hint)
        }
        ServerErrorKind::Ask | ServerErrorKind::TryAgain => {
            let hint = "wait until the slot is moved; see CLUSTER SETSLOT if that was given up";
            unavailable(place, "is handing the queue to another node", hint)
        }
        _ => unavailable(place, &format!("is in a cluster that is not whole: {text}"), "see CLUSTER INFO"),
    }
}

fn unreachable(address: &Address, error: &RedisError, text: &str) -> Error {
    let place = address.place();
    if error.is_timeout() {
        let hint = format!("see whether it runs and the network lets it through{}", or_no_tls(address));
        return unavailable(place, "cannot be reached in time", hint);
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
        let hint = format!("see whether it restarts; if it wants TLS write rediss:// in {}", address.key());
        return unavailable(place, "closed the connection", hint);
    }
    unavailable(place, &format!("cannot be reached: {text}"), "see whether it runs (redis-cli ping)")
}

/// How the versions of Redis say that a user lacks a right, in a script and outside.
const DENIALS: [&str; 3] = ["no permissions", "No permissions", "user executing the script can't"];

/// The user lacks a right.
fn denied(address: &Address, said: &str) -> Error {
    let (place, user, prefix) = (address.place(), address.user(), address.prefix());
    let what = |thing: &str| format!("denies the user `{user}` what larder needs: {thing}");
    let grant = |rules: &str| {
        format!("grant it: ACL SETUSER {user} {rules}; docs/queue.md has all that larder needs")
    };
    let commands = commands_in(said);
    if !commands.is_empty() {
        let rules: Vec<_> = commands.iter().map(|name| format!("+{name}")).collect();
        return unavailable(
            place,
            &what(&format!("to run {}", commands.join(", "))),
            grant(&rules.join(" ")),
        );
    }
    let (thing, sign) = match () {
        () if said.contains("channel") => ("channels", '&'),
        () if said.contains("key") => ("keys", '~'),
        () => return unavailable(place, &what(said), grant("…")),
    };
    unavailable(place, &what(&format!("the {thing} {prefix}*")), grant(&format!("{sign}{prefix}*")))
}

/// The commands that a denial is about. Of a script, Redis before 7.2 says only which line it did not get past.
fn commands_in(said: &str) -> Vec<String> {
    if let Some(name) = said.split("run the '").nth(1).and_then(|rest| rest.split('\'').next()) {
        return vec![name.to_lowercase()];
    }
    if !said.contains("can't run this command") {
        return Vec::new();
    }
    let number = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<usize>().ok()?.checked_sub(1)
    };
    let line = said.split("@user_script:").skip(1).find_map(number);
    let text = line.and_then(|line| Connection::script().lines().nth(line)).unwrap_or_default();
    let names = text.split("call('").skip(1).filter_map(|rest| rest.split('\'').next());
    names.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_rule_that_is_missing() {
        let address = Address::new("redis://larder@h", "larder").expect("an address");
        let line = 1 + Connection::script()
            .lines()
            .position(|line| line.contains("'PUBLISH'"))
            .expect("it publishes");
        let in_script = |said: &str| format!("{said} script: 08be, on @user_script:{line}.");
        for (said, rule) in [
            ("this user has no permissions to run the 'info' command".to_owned(), "+info;"),
            ("User larder has no permissions to run the 'script|load' command".to_owned(), "+script|load;"),
            (
                "this user has no permissions to access one of the keys used as arguments".to_owned(),
                "~{larder}:*;",
            ),
            ("No permissions to access a channel".to_owned(), "&{larder}:*;"),
            (in_script("The user executing the script can't run this command or subcommand"), "+publish;"),
            (
                in_script(
                    "The user executing the script can't access at least one of the keys mentioned in the command \
                     arguments",
                ),
                "~{larder}:*;",
            ),
            (
                in_script(
                    "The user executing the script can't publish to the channel mentioned in the command",
                ),
                "&{larder}:*;",
            ),
        ] {
            let error = denied(&address, &said);
            assert!(error.hint().contains(&format!("ACL SETUSER larder {rule}")), "{said}: {error}");
        }
    }
}
