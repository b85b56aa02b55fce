//! The kinds of jobs and the states on their way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

macro_rules! words {
    ($(#[$enum_doc:meta])* $name:ident, $thing:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every value, in the order of the contract.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word, as in JSON and metric labels.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(word: &str) -> Result<Self, Invalid> {
                Self::ALL.iter().copied().find(|value| value.word() == word).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|value| value.word()).collect();
                    Invalid::new(
                        format!(concat!("`{}` is not a ", $thing), crate::invalid::shown(word)),
                        format!("use one of: {}", known.join(", ")),
                    )
                })
            }
        }
    };
}

words! {
    /// What a job does. A kind appears here with the release that serves it.
    Kind, "kind of job" {
        /// Stage a model into the hub cache.
        Download = "download",
        /// Remove models from the hub cache.
        Evict = "evict",
        /// Read models again and compare them with their hashes.
        Verify = "verify",
        /// Measure this host, or look closely at a model in its cache.
        Profile = "profile",
        /// Bring the files of a model into memory.
        Preload = "preload",
    }
}

words! {
    /// Where a job stands.
    State, "job state" {
        /// Accepted, not yet taken by a worker.
        Queued = "queued",
        /// Waits for a retry or a condition; the view says for what and until when.
        Waiting = "waiting",
        /// The revision is resolved, files are chosen, room is checked.
        Planning = "planning",
        /// Bytes are coming in.
        Fetching = "fetching",
        /// Bytes are being checked against their hashes and published.
        Verifying = "verifying",
        /// A worker is at it, and the kind has no finer states.
        Running = "running",
        /// A download is done: the model is staged and verified.
        Ready = "ready",
        /// Any other kind is done.
        Done = "done",
        /// Ended without success; the view says why.
        Failed = "failed",
        /// Ended by whoever asked for it.
        Cancelled = "cancelled",
    }
}

impl State {
    /// Whether nothing more will happen to the job by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Ready | State::Done | State::Failed | State::Cancelled)
    }

    /// Whether a worker holds the job.
    pub const fn is_running(self) -> bool {
        matches!(self, State::Planning | State::Fetching | State::Verifying | State::Running)
    }
}

impl Kind {
    /// The state in which a worker begins.
    pub const fn first(self) -> State {
        match self {
            Kind::Download => State::Planning,
            Kind::Evict | Kind::Verify | Kind::Profile | Kind::Preload => State::Running,
        }
    }

    /// The state of a job that succeeded.
    pub const fn success(self) -> State {
        match self {
            Kind::Download => State::Ready,
            Kind::Evict | Kind::Verify | Kind::Profile | Kind::Preload => State::Done,
        }
    }
}
