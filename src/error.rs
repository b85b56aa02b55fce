//! The error that leaves a room: a reason of the closed table, what happened to which thing, and what to do.

use std::io;
use std::path::Path;
use std::time::Duration;

use larder_jobs::{Invalid, Problem, Reason};

/// The result of everything that can fail for a user-visible reason.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with its reason, one sentence of what happened, and a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    reason: Reason,
    what: String,
    hint: String,
    retry_after: Option<Duration>,
}

impl Error {
    /// `what` names the thing and says what happened; `hint` says what to do, as an imperative.
    pub fn new(reason: Reason, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason, what: what.into(), hint: hint.into(), retry_after: None }
    }

    /// A failed system call on `path`; `doing` is a verb phrase such as "create the lock file".
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot {doing} {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(Reason::InsufficientDisk, what, "free some space on that disk, then try again")
            }
            io::ErrorKind::PermissionDenied => Self::new(
                Reason::IoError,
                what,
                "run as the owner of that folder, or grant write access to it",
            ),
            io::ErrorKind::ReadOnlyFilesystem => {
                Self::new(Reason::IoError, what, "mount that filesystem writable, or choose another folder")
            }
            _ => Self::new(Reason::IoError, what, "check that disk and folder, then try again"),
        }
    }

    /// The same failure with one more way out behind the hint, for example another setting.
    #[must_use]
    pub fn or(mut self, way_out: &str) -> Self {
        self.hint = format!("{}; or {way_out}", self.hint);
        self
    }

    /// A fault of larder's own: something that the code says cannot happen.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Reason::Internal, what, "this is a fault of larder; please report it with the log")
    }

    /// The source asked to wait that long before the next attempt.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The word of the closed table.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// How long the source asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What happened and what to do, in one line.
    pub fn message(&self) -> String {
        format!("{}; hint: {}", self.what, self.hint)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.reason(), invalid.to_string(), invalid.hint())
    }
}

impl From<larder_jobs::client::Error> for Error {
    fn from(error: larder_jobs::client::Error) -> Self {
        Self::new(error.reason(), error.what(), error.hint())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::new(error.reason, error.what, error.hint)
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::new(problem.reason, problem.detail, problem.hint)
    }
}

/// Runs `work` on a thread that may block.
///
/// # Errors
/// What `work` says; `internal` if it died.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|died| Err(Error::internal(format!("a blocking step died: {died}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_any_io_error() {
        let full = io::Error::from_raw_os_error(28);
        let error = Error::io("write", Path::new("/cache/x"), &full);
        assert_eq!(error.reason(), Reason::InsufficientDisk);
        assert!(error.to_string().starts_with("cannot write /cache/x: "));
    }
}
