//! What all hosts of a fleet together may take of the network, as a whole and of single sources.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Bandwidth, Invalid, invalid::shown};

/// Longest name of a source: a host name, a scheme and a port.
const MAX_SOURCE: usize = 280;
/// Most sources that have limits of their own.
pub const MAX_LIMITED_SOURCES: usize = 64;

/// What all hosts of a fleet together may take of the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetLimits {
    /// Bytes per second of all downloads; `null` is no limit.
    pub bandwidth: Option<Bandwidth>,
    /// Requests per second to each source that has no such limit of its own; `null` is no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Of single sources, by scheme and host (`https://huggingface.co`).
    #[serde(default)]
    pub sources: BTreeMap<SourceName, SourceLimits>,
}

/// What all hosts of a fleet together may take of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceLimits {
    /// Bytes per second, beside the limit of all downloads; `null` is none of its own.
    pub bandwidth: Option<Bandwidth>,
    /// Requests per second, instead of those to each source; `null` is none of its own.
    pub requests_per_second: Option<NonZeroU32>,
}

/// A change of the limits: what is not named stays as it is, `null` lifts a limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetLimitsChange {
    /// As [`FleetLimits::bandwidth`].
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Option<Bandwidth>>,
    /// As [`FleetLimits::requests_per_second`].
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<Option<NonZeroU32>>,
    /// As [`FleetLimits::sources`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<SourceName, SourceLimitsChange>,
}

/// A change of the limits of one source: what is not named stays as it is, `null` lifts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceLimitsChange {
    /// As [`SourceLimits::bandwidth`].
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Option<Bandwidth>>,
    /// As [`SourceLimits::requests_per_second`].
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<Option<NonZeroU32>>,
}

/// A field that is there, be it `null`.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A hub or a mirror by scheme and host, as larder names it in metrics and records: `https://huggingface.co`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct SourceName(String);

impl SourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

impl TryFrom<String> for SourceName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for SourceName {
    type Err = Invalid;

    /// Small letters, no path and no port that the scheme has anyway, so that a source has one name.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_suffix('/').unwrap_or(&lower);
        let host = match rest.split_once("://") {
            Some(("https", host)) => host.strip_suffix(":443").unwrap_or(host),
            Some(("http", host)) => host.strip_suffix(":80").unwrap_or(host),
            _ => "",
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']');
        if host.is_empty() || text.len() > MAX_SOURCE || !host.chars().all(fits) {
            return Err(Invalid::new(
                format!("`{}` is no source", shown(text)),
                "write the scheme and the host of a hub or a mirror, like https://huggingface.co",
            ));
        }
        let scheme = if rest.starts_with("https") { "https" } else { "http" };
        Ok(Self(format!("{scheme}://{host}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_source_has_one_name() {
        for (text, name) in [
            ("https://huggingface.co", "https://huggingface.co"),
            ("HTTPS://HuggingFace.co:443/", "https://huggingface.co"),
            ("http://mirror:8080", "http://mirror:8080"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<SourceName>().expect(text).as_str(), name);
        }
        for wrong in
            ["huggingface.co", "https://", "ftp://a", "https://a/b", "https://user@a", "https://a b", ""]
        {
            assert!(wrong.parse::<SourceName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_change_tells_null_from_nothing() {
        let read = |value| serde_json::from_value::<FleetLimitsChange>(value);
        let change = read(json!({"bandwidth": null, "sources": {"http://a/": {"requests_per_second": 3}}}));
        let change = change.expect("reads");
        assert_eq!((change.bandwidth, change.requests_per_second), (Some(None), None));
        let source = change.sources[&"http://a".parse().expect("a name")];
        assert_eq!((source.bandwidth, source.requests_per_second), (None, Some(NonZeroU32::new(3))));
        assert_eq!(
            serde_json::to_value(&change).expect("writes"),
            json!({"bandwidth": null, "sources": {"http://a": {"requests_per_second": 3}}})
        );
        for wrong in
            [json!({"sources": {"a": {}}}), json!({"speed": 1}), json!({"sources": {"http://a": {"x": 1}}})]
        {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
