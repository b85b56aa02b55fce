//! Errors over HTTP: problem documents (RFC 9457) with larder's reason and a hint.

use serde::{Deserialize, Serialize};

use crate::{Invalid, Reason};

/// The body of every error answer, media type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// `about:blank`, as RFC 9457 asks where the status says enough; `reason` is the machine's word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, naming the thing.
    pub detail: String,
    /// The word of the closed table.
    pub reason: Reason,
    /// What to do.
    pub hint: String,
}

impl Problem {
    /// A problem with the status that belongs to `reason`.
    pub fn new(reason: Reason, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: reason.word().replace('_', " "),
            status: reason.http_status(),
            detail: detail.into(),
            reason,
            hint: hint.into(),
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.reason(), invalid.to_string(), invalid.hint())
    }
}
