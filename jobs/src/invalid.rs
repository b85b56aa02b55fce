//! The one error of this crate: a value that is not what the contract says, with a way out.

use crate::Reason;

/// A name, a quantity or a payload that the contract does not allow.
///
/// Displays as one sentence; [`Invalid::hint`] says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Invalid {
    what: String,
    hint: String,
    reason: Reason,
}

impl Invalid {
    /// `what` names the thing and what is wrong with it, `hint` what would be right.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), reason: Reason::InvalidRequest }
    }

    /// A payload that was written by a newer larder than this one.
    pub fn newer(found: u64, known: u64) -> Self {
        Self {
            what: format!("the job has version {found}, this larder knows versions up to {known}"),
            hint: "upgrade larder on this host, or send the older version".into(),
            reason: Reason::UnsupportedVersion,
        }
    }

    /// What to do instead, as an imperative without a full stop.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// [`Reason::InvalidRequest`] or [`Reason::UnsupportedVersion`].
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// At most 64 characters of `text`, with everything that could spoil a terminal or a log line escaped.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        out.push('…');
    }
    out
}
