//! Which hosts a job is for: one, several, or whichever is best.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{HostName, Invalid, Labels};

/// Most hosts that a job names one by one.
const MAX_NAMED: usize = 256;

/// Which hosts a job is for.
///
/// For several hosts it becomes one job for each of them, under a parent that sums them up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "Written"))]
pub enum Hosts {
    /// The host whose larder is asked.
    #[default]
    This,
    /// Any one host of the fleet: whoever is free.
    Pool,
    /// The one host that suits the job best, of those with these labels.
    Best(Labels),
    /// Every host of the fleet that is there when the job is asked for.
    All,
    /// Every host with these labels that is there when the job is asked for.
    Labelled(Labels),
    /// Each host of these names, 1 to 256.
    Named(Vec<HostName>),
}

/// The forms on the wire: `"this"`, `"pool"`, `"best"`, `"all"`, `["gpu-1"]`, `{"labels": {"gpu": "h100"}}`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = r#"`hosts` is "this", "pool", "best", "all", a list of host names, or {"labels": {…}, "pick": "best"}"#
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Written {
    Word(Word),
    Names(Vec<HostName>),
    Selector(Selector),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Word {
    This,
    Pool,
    Best,
    All,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Selector {
    /// What the hosts have.
    labels: Labels,
    /// Which of them.
    #[serde(default, skip_serializing_if = "Pick::is_all")]
    pick: Pick,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Pick {
    #[default]
    All,
    Best,
}

impl Pick {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it by reference
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl Hosts {
    /// One host by its name.
    pub fn named(name: HostName) -> Self {
        Self::Named(vec![name])
    }

    /// Whether who they are depends on who is there.
    pub fn are_chosen(&self) -> bool {
        match self {
            Self::Best(_) | Self::All | Self::Labelled(_) => true,
            Self::Named(names) => names.len() > 1,
            Self::This | Self::Pool => false,
        }
    }
}

impl From<Hosts> for Written {
    fn from(hosts: Hosts) -> Self {
        match hosts {
            Hosts::This => Self::Word(Word::This),
            Hosts::Pool => Self::Word(Word::Pool),
            Hosts::All => Self::Word(Word::All),
            Hosts::Best(labels) if labels.is_empty() => Self::Word(Word::Best),
            Hosts::Best(labels) => Self::Selector(Selector { labels, pick: Pick::Best }),
            Hosts::Labelled(labels) => Self::Selector(Selector { labels, pick: Pick::All }),
            Hosts::Named(names) => Self::Names(names),
        }
    }
}

impl TryFrom<Written> for Hosts {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
        Ok(match written {
            Written::Word(Word::This) => Self::This,
            Written::Word(Word::Pool) => Self::Pool,
            Written::Word(Word::Best) => Self::Best(Labels::default()),
            Written::Word(Word::All) => Self::All,
            Written::Names(names) => Self::of(names)?,
            Written::Selector(Selector { labels, .. }) if labels.is_empty() => {
                return Err(Invalid::new(
                    "`hosts` selects by no label",
                    r#"name one, or send "all" or "best""#,
                ));
            }
            Written::Selector(Selector { labels, pick: Pick::Best }) => Self::Best(labels),
            Written::Selector(Selector { labels, pick: Pick::All }) => Self::Labelled(labels),
        })
    }
}

impl Hosts {
    fn of(names: Vec<HostName>) -> Result<Self, Invalid> {
        let distinct: BTreeSet<_> = names.iter().collect();
        if !(1..=MAX_NAMED).contains(&names.len()) || distinct.len() < names.len() {
            return Err(Invalid::new(
                "`hosts` names nobody, somebody twice, or more than 256 hosts",
                r#"name each host once, send {"labels": {…}} for many, or "this" for the host that is asked"#,
            ));
        }
        Ok(Self::Named(names))
    }
}

impl FromStr for Hosts {
    type Err = Invalid;

    /// As a person writes it: `this`, `pool`, `best`, `all`, names or labels with commas between them, `best:` and
    /// labels.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(match text {
            "this" => Self::This,
            "pool" => Self::Pool,
            "best" => Self::Best(Labels::default()),
            "all" => Self::All,
            text if text.starts_with("best:") => Self::Best(text["best:".len()..].parse()?),
            text if text.contains('=') => Self::Labelled(text.parse()?),
            names => Self::of(names.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?)?,
        })
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::This => f.write_str("this"),
            Self::Pool => f.write_str("pool"),
            Self::All => f.write_str("all"),
            Self::Best(labels) if labels.is_empty() => f.write_str("best"),
            Self::Best(labels) => write!(f, "best:{labels}"),
            Self::Labelled(labels) => labels.fmt(f),
            Self::Named(names) => {
                let names: Vec<_> = names.iter().map(HostName::as_str).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_is_read_and_written() {
        for (text, wire) in [
            ("this", json!("this")),
            ("pool", json!("pool")),
            ("best", json!("best")),
            ("all", json!("all")),
            ("gpu-1", json!(["gpu-1"])),
            ("gpu-1,gpu-2", json!(["gpu-1", "gpu-2"])),
            ("gpu=h100,zone=a", json!({"labels": {"gpu": "h100", "zone": "a"}})),
            ("best:gpu=h100", json!({"labels": {"gpu": "h100"}, "pick": "best"})),
        ] {
            let hosts: Hosts = text.parse().expect(text);
            assert_eq!(hosts.to_string(), text);
            assert_eq!(serde_json::to_value(&hosts).expect("json"), wire);
            assert_eq!(serde_json::from_value::<Hosts>(wire).expect("reads"), hosts);
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for wrong in [
            json!("gpu-1"),
            json!([]),
            json!(["a", "a"]),
            json!(["a b"]),
            json!(1),
            json!({"labels": {}}),
            json!({"labels": {"a": "b"}, "pick": "worst"}),
            json!({"label": {"a": "b"}}),
            json!(vec!["x"; 257]),
        ] {
            assert!(serde_json::from_value::<Hosts>(wrong.clone()).is_err(), "{wrong}");
        }
        for wrong in ["", "a,a", "a b", "gpu=", "best:gpu"] {
            assert!(wrong.parse::<Hosts>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_is_chosen_depends_on_who_is_there() {
        for (text, chosen) in [
            ("this", false),
            ("pool", false),
            ("a", false),
            ("a,b", true),
            ("all", true),
            ("x=y", true),
            ("best", true),
        ] {
            assert_eq!(text.parse::<Hosts>().expect("hosts").are_chosen(), chosen, "{text}");
        }
    }
}
