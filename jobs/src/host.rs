//! Hosts: their names, and the queues that jobs wait in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// Longest name, as of DNS.
const MAX_NAME: usize = 253;

/// The name of one larder in a fleet: letters, digits, `.`, `_` and `-`, as host names are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct HostName(String);

impl HostName {
    /// The name of a machine that has none.
    pub fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl TryFrom<String> for HostName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for HostName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(fits) {
            return Err(Invalid::new(
                format!("`{}` is not a host name", shown(text)),
                "use letters, digits, dots, dashes and underscores, at most 253",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The queue that a job waits in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// The only one there is: that of a machine without a fleet.
    #[default]
    Only,
    /// That of all hosts; whoever is free takes the job.
    Pool,
    /// That of one host.
    Host(HostName),
}

impl Target {
    /// Whether it is [`Target::Only`].
    pub fn is_only(&self) -> bool {
        *self == Self::Only
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("only"),
            Self::Pool => f.write_str("pool"),
            Self::Host(name) => write!(f, "host:{name}"),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        match (text.as_str(), text.strip_prefix("host:")) {
            ("only", _) => Ok(Self::Only),
            ("pool", _) => Ok(Self::Pool),
            (_, Some(name)) => Ok(Self::Host(name.parse()?)),
            _ => Err(Invalid::new(
                format!("`{}` is not a queue", shown(&text)),
                "known: only, pool, host:NAME",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_key_are_refused() {
        for wrong in ["", "a b", "a:b", "{a}", "a\n", &"x".repeat(254)] {
            assert!(wrong.parse::<HostName>().is_err(), "{wrong:?}");
        }
        assert!("gpu-1.rack_7.example".parse::<HostName>().is_ok());
    }

    #[test]
    fn queues_are_written_and_read_back() {
        for target in [Target::Only, Target::Pool, Target::Host("pool".parse().unwrap())] {
            assert_eq!(Target::try_from(target.to_string()), Ok(target));
        }
        assert!(Target::try_from("host:".to_owned()).is_err());
    }
}
