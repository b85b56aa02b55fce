//! The closed table of reasons: the same word in JSON, on the command line, in metrics and in docs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What a reason means for the attempt that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Trying again cannot help; the job fails.
    Permanent,
    /// Tried again once per file, then permanent.
    TransientOnce,
    /// Tried again with back-off, up to `queue.max_attempts`.
    Transient,
    /// The job waits for a condition; no attempt is spent.
    Waiting,
    /// The job ended, or was handed back, for the reason that the word says.
    Terminal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $class:ident, exit $exit:literal, http $http:literal;)*) => {
        /// Why a job failed, waits or was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The word, as in JSON and metric labels.
            pub const fn word(self) -> &'static str {
                match self { $(Reason::$variant => $word,)* }
            }

            /// What the reason means for the attempt.
            pub const fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class,)* }
            }

            /// Exit code of a command that ends with this reason.
            pub const fn exit_code(self) -> u8 {
                match self { $(Reason::$variant => $exit,)* }
            }

            /// HTTP status of a problem document with this reason.
            pub const fn http_status(self) -> u16 {
                match self { $(Reason::$variant => $http,)* }
            }
        }
    };
}

reasons! {
    /// A name, a field or a value that the contract does not allow.
    InvalidRequest = "invalid_request", Permanent, exit 2, http 400;
    /// A payload or a stored record of a newer larder.
    UnsupportedVersion = "unsupported_version", Permanent, exit 2, http 422;
    /// No such repo, revision, file or job.
    NotFound = "not_found", Permanent, exit 3, http 404;
    /// The repo asks for its terms to be accepted first.
    Gated = "gated", Permanent, exit 4, http 403;
    /// The token is missing, wrong or has no access.
    Unauthorized = "unauthorized", Permanent, exit 4, http 401;
    /// Only pickled weights are there, and they were not allowed.
    UnsafeFormat = "unsafe_format", Permanent, exit 4, http 409;
    /// The GPU cannot run this artifact.
    IncompatibleGpu = "incompatible_gpu", Permanent, exit 4, http 409;
    /// The model does not fit into the GPU's memory.
    InsufficientVram = "insufficient_vram", Permanent, exit 4, http 409;
    /// The repo's listing or files contradict themselves.
    StructureInvalid = "structure_invalid", Permanent, exit 4, http 409;
    /// The model is pinned, leased, in use or being fetched, so it is not deleted.
    Protected = "protected", Permanent, exit 4, http 409;
    /// The bytes do not have the hash that the hub promised.
    IntegrityMismatch = "integrity_mismatch", TransientOnce, exit 1, http 409;
    /// The source said "too many requests".
    RateLimited = "rate_limited", Transient, exit 75, http 503;
    /// The source cannot be reached, or answers with errors.
    SourceUnavailable = "source_unavailable", Transient, exit 75, http 503;
    /// The source stopped sending.
    Stalled = "stalled", Transient, exit 75, http 503;
    /// The disk or the state folder cannot be read or written.
    IoError = "io_error", Transient, exit 75, http 503;
    /// The queue cannot be reached, or is held by another process.
    QueueUnavailable = "queue_unavailable", Transient, exit 75, http 503;
    /// Another worker took the job over.
    LeaseLost = "lease_lost", Transient, exit 75, http 503;
    /// A fault of larder's own.
    Internal = "internal", Transient, exit 75, http 503;
    /// Not enough room on the cache's disk.
    InsufficientDisk = "insufficient_disk", Permanent, exit 4, http 507;
    /// Outside the hours in which the job may run.
    OutsideWindow = "outside_window", Waiting, exit 75, http 202;
    /// The host takes no new work.
    HostDrained = "host_drained", Waiting, exit 75, http 202;
    /// The host's hardware is not fit for new work.
    HostUnhealthy = "host_unhealthy", Waiting, exit 75, http 202;
    /// The host is short of memory.
    MemoryPressure = "memory_pressure", Waiting, exit 75, http 202;
    /// The job was not done by its deadline.
    DeadlineMissed = "deadline_missed", Terminal, exit 1, http 409;
    /// Somebody cancelled the job.
    Cancelled = "cancelled", Terminal, exit 1, http 409;
    /// The worker stopped in the middle; the job goes back, its attempt uncounted.
    Interrupted = "interrupted", Terminal, exit 75, http 409;
    /// The host that held the job is gone for good.
    HostGone = "host_gone", Terminal, exit 75, http 409;
    /// Offline mode is on and the model is not in the cache.
    Offline = "offline", Terminal, exit 1, http 409;
}

impl Reason {
    /// Whether another attempt may help.
    pub const fn is_transient(self) -> bool {
        matches!(self.class(), Class::Transient)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Reason {
    type Err = Invalid;

    fn from_str(word: &str) -> Result<Self, Invalid> {
        Self::ALL.iter().copied().find(|reason| reason.word() == word).ok_or_else(|| {
            Invalid::new(
                format!("`{}` is not a reason", crate::invalid::shown(word)),
                "see the table of reasons in docs/reasons.md",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.word().parse::<Reason>(), Ok(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.word());
        }
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn exit_codes_and_statuses_follow_the_class() {
        for reason in Reason::ALL {
            match reason.class() {
                Class::Transient => {
                    assert_eq!((reason.exit_code(), reason.http_status()), (75, 503), "{reason}");
                }
                Class::Waiting => {
                    assert_eq!((reason.exit_code(), reason.http_status()), (75, 202), "{reason}");
                }
                Class::Permanent => assert!([2, 3, 4].contains(&reason.exit_code()), "{reason}"),
                Class::TransientOnce | Class::Terminal => {
                    assert!([1, 75].contains(&reason.exit_code()), "{reason}");
                    assert_eq!(reason.http_status(), 409, "{reason}");
                }
            }
        }
    }
}
