//! Labels of hosts, and the selection of hosts by them: `gpu=h100,zone=a`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// Most labels of a host or of a selector.
const MAX_LABELS: usize = 64;
/// Longest name and longest value of a label, as in Kubernetes.
const MAX_PART: usize = 63;

/// Names and values, for example `gpu=h100,zone=a`. As a selector it means every host that has all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "BTreeMap<String, String>")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "BTreeMap<String, String>"))]
pub struct Labels(BTreeMap<String, String>);

/// An object, or the text that a person or an environment variable has.
#[derive(Deserialize)]
#[serde(untagged, expecting = r#"labels are an object of texts, or a text such as "gpu=h100,zone=a""#)]
enum Written {
    Object(BTreeMap<String, String>),
    Text(String),
}

impl Labels {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Every label, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a host with the labels `of` is selected by these.
    pub fn select(&self, of: &Labels) -> bool {
        self.iter().all(|(name, value)| of.get(name) == Some(value))
    }

    fn checked(labels: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if labels.len() > MAX_LABELS {
            return Err(Invalid::new("more than 64 labels", "use fewer"));
        }
        if let Some(part) = labels.iter().flat_map(|(name, value)| [name, value]).find(|part| !is_part(part))
        {
            return Err(Invalid::new(
                format!("`{}` is not the name or value of a label", shown(part)),
                "use letters, digits, `.`, `_`, `-` and `/`, at most 63",
            ));
        }
        Ok(Self(labels))
    }
}

fn is_part(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    !text.is_empty() && text.len() <= MAX_PART && text.chars().all(fits)
}

impl TryFrom<Written> for Labels {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
        match written {
            Written::Object(labels) => Self::checked(labels),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl FromStr for Labels {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut labels = BTreeMap::new();
        for label in text.split(',').map(str::trim).filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').ok_or_else(|| {
                Invalid::new(
                    format!("`{}` is not a label", shown(label)),
                    "write name=value, with commas between several",
                )
            })?;
            if labels.insert(name.to_owned(), value.to_owned()).is_some() {
                let hint = "name it once; a host has one value for a label";
                return Err(Invalid::new(format!("the label `{}` is named twice", shown(name)), hint));
            }
        }
        Self::checked(labels)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<_> = self.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.pad(&labels.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_read_from_text_and_from_an_object() {
        let labels: Labels = "zone=a, gpu=h100".parse().expect("labels");
        assert_eq!(labels.to_string(), "gpu=h100,zone=a");
        assert_eq!(serde_json::to_value(&labels).expect("json"), json!({"gpu": "h100", "zone": "a"}));
        for written in [json!("gpu=h100,zone=a"), json!({"gpu": "h100", "zone": "a"})] {
            assert_eq!(serde_json::from_value::<Labels>(written).expect("reads"), labels);
        }
        assert!("".parse::<Labels>().expect("none").is_empty());
        for wrong in ["gpu", "gpu=", "=a", "a=b=c", "a=b,a=c", "a b=c"] {
            assert!(wrong.parse::<Labels>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_selector_means_hosts_that_have_all_of_it() {
        let host: Labels = "gpu=h100,zone=a".parse().expect("labels");
        for (selector, selects) in [
            ("", true),
            ("gpu=h100", true),
            ("gpu=h100,zone=a", true),
            ("gpu=a100", false),
            ("rack=1", false),
        ] {
            let selector: Labels = selector.parse().expect("a selector");
            assert_eq!(selector.select(&host), selects, "{selector}");
        }
    }
}
