//! Job ids: ULIDs, so that they sort by the time of asking and can be read over the phone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// The name of one job, 26 characters of Crockford's base 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct JobId(ulid::Ulid);

impl JobId {
    /// The first of all.
    pub const MIN: Self = Self(ulid::Ulid(0));

    /// A new id for a job asked for at `now`; `random` makes it unique.
    pub fn new(now: jiff::Timestamp, random: u128) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(ulid::Ulid::from_parts(millis, random))
    }

    /// A new id for a job asked for at `now`, unlike any other.
    pub fn random(now: jiff::Timestamp) -> Self {
        use std::hash::BuildHasher as _;
        // The standard library seeds each of these from the system's randomness.
        let half = |n: u8| u128::from(std::hash::RandomState::new().hash_one(n));
        Self::new(now, half(0) << 64 | half(1))
    }
}

impl JobId {
    /// When the job was asked for, to the millisecond, by the clock of whoever made the id.
    pub fn asked_at(self) -> jiff::Timestamp {
        let millis = i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for JobId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for JobId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        ulid::Ulid::from_string(text).map(Self).map_err(|_| {
            Invalid::new(
                format!("`{}` is not a job id", shown(text)),
                "a job id has 26 letters and digits, as printed by `larder jobs`",
            )
        })
    }
}
