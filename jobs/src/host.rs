//! Hosts: their names, which of them a job is for, and the queue that it waits in.

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

/// Which hosts a job is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "Written"))]
pub enum Hosts {
    /// The host whose larder is asked.
    #[default]
    This,
    /// Any one host of the fleet.
    Pool,
    /// The host of this name.
    Named(HostName),
}

/// The forms on the wire: `"this"`, `"pool"`, `["gpu-1"]`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = r#"`hosts` is "this", "pool" or a list of one host name"#)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Written {
    Word(Word),
    Names([HostName; 1]),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Word {
    This,
    Pool,
}

impl From<Hosts> for Written {
    fn from(hosts: Hosts) -> Self {
        match hosts {
            Hosts::This => Self::Word(Word::This),
            Hosts::Pool => Self::Word(Word::Pool),
            Hosts::Named(name) => Self::Names([name]),
        }
    }
}

impl From<Written> for Hosts {
    fn from(written: Written) -> Self {
        match written {
            Written::Word(Word::This) => Self::This,
            Written::Word(Word::Pool) => Self::Pool,
            Written::Names([name]) => Self::Named(name),
        }
    }
}

impl FromStr for Hosts {
    type Err = Invalid;

    /// As a person writes it: `this`, `pool` or a name.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(match text {
            "this" => Self::This,
            "pool" => Self::Pool,
            name => Self::Named(name.parse()?),
        })
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
    use serde_json::json;

    #[test]
    fn hosts_have_three_forms_on_the_wire() {
        for (hosts, wire) in [
            (Hosts::This, json!("this")),
            (Hosts::Pool, json!("pool")),
            (Hosts::Named("gpu-1".parse().unwrap()), json!(["gpu-1"])),
        ] {
            assert_eq!(serde_json::to_value(&hosts).unwrap(), wire);
            assert_eq!(serde_json::from_value::<Hosts>(wire).unwrap(), hosts);
        }
        for wrong in [json!("gpu-1"), json!([]), json!(["a", "b"]), json!(["a b"]), json!(1), json!("all")] {
            assert!(serde_json::from_value::<Hosts>(wrong.clone()).is_err(), "{wrong}");
        }
    }

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
