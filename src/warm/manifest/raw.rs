//! A manifest as it is written.

use std::fmt;

use larder_jobs::{Bandwidth, Format, Glob, Hosts, Invalid, Revision, Span, TokenRef, Variant, Zone};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::trouble;
use super::{Impossible, Syntax};
use crate::plan::NightOrder;

/// The whole manifest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) zone: Option<Zone>,
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) windows: Vec<String>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) bandwidth_outside: Option<Bandwidth>,
    #[serde(default, deserialize_with = "moment")]
    pub(super) deadline: Option<String>,
    #[serde(default)]
    pub(super) order: NightOrder,
    #[serde(default)]
    pub(super) impossible: Impossible,
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) defaults: Defaults,
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) models: Vec<RawWish>,
}

/// YAML's `models:` with nothing behind it is the same as none.
fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A text, or one of TOML's own times.
fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    struct TextOrTime;

    impl<'de> Visitor<'de> for TextOrTime {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time of the day (\"06:30\") or a moment (\"2026-12-01T06:30:00+01:00\")")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<String>, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Option<String>, M::Error> {
            let time = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map));
            time.map(|time| Some(time.to_string()))
                .map_err(|_| de::Error::invalid_type(de::Unexpected::Map, &self))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<String>, E> {
            Ok(None)
        }
    }

    from.deserialize_any(TextOrTime)
}

/// What holds for every model that does not say otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    pub(super) hosts: Option<Hosts>,
    pub(super) format: Option<Format>,
    pub(super) variant: Option<Variant>,
    pub(super) allow_unsafe: Option<bool>,
    pub(super) pin: Option<bool>,
    pub(super) lease_ttl: Option<Span>,
    pub(super) token_ref: Option<TokenRef>,
    pub(super) priority: Option<i16>,
}

/// One model: its name, or its name with more.
#[derive(Debug)]
pub(super) struct RawWish {
    pub(super) model: String,
    pub(super) revision: Option<Revision>,
    pub(super) include: Vec<Glob>,
    pub(super) exclude: Vec<Glob>,
    pub(super) format: Option<Format>,
    pub(super) variant: Option<Variant>,
    pub(super) allow_unsafe: Option<bool>,
    pub(super) pin: Option<bool>,
    pub(super) lease_ttl: Option<Span>,
    pub(super) token_ref: Option<TokenRef>,
    pub(super) priority: Option<i16>,
    pub(super) hosts: Option<Hosts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    model: String,
    revision: Option<Revision>,
    #[serde(default)]
    include: Vec<Glob>,
    #[serde(default)]
    exclude: Vec<Glob>,
    format: Option<Format>,
    variant: Option<Variant>,
    allow_unsafe: Option<bool>,
    pin: Option<bool>,
    lease_ttl: Option<Span>,
    token_ref: Option<TokenRef>,
    priority: Option<i16>,
    hosts: Option<Hosts>,
}

impl From<Full> for RawWish {
    fn from(full: Full) -> Self {
        let Full { model, revision, include, exclude, format, variant, .. } = full;
        let Full { allow_unsafe, pin, lease_ttl, token_ref, priority, hosts, .. } = full;
        Self {
            model,
            revision,
            include,
            exclude,
            format,
            variant,
            allow_unsafe,
            pin,
            lease_ttl,
            token_ref,
            priority,
            hosts,
        }
    }
}

impl<'de> Deserialize<'de> for RawWish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMore;

        impl<'de> Visitor<'de> for NameOrMore {
            type Value = RawWish;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model's name, or a table with `model`")
            }

            fn visit_str<E: de::Error>(self, model: &str) -> Result<RawWish, E> {
                Ok(RawWish {
                    model: model.to_owned(),
                    revision: None,
                    include: Vec::new(),
                    exclude: Vec::new(),
                    format: None,
                    variant: None,
                    allow_unsafe: None,
                    pin: None,
                    lease_ttl: None,
                    token_ref: None,
                    priority: None,
                    hosts: None,
                })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<RawWish, M::Error> {
                Full::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
            }
        }

        deserializer.deserialize_any(NameOrMore)
    }
}

impl Raw {
    /// # Errors
    /// `invalid_request` with the line.
    pub(super) fn read(text: &str, syntax: Syntax) -> Result<Self, Invalid> {
        match syntax {
            Syntax::Toml => toml::from_str(text).map_err(|error| {
                let line =
                    error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                trouble::explain(line, error.message())
            }),
            // An empty document is no map, and what is missing in it is told better later.
            Syntax::Yaml
                if text.lines().map(str::trim).all(|line| {
                    line.starts_with('#') || ["", "---", "...", "[]", "{}", "null", "~"].contains(&line)
                }) =>
            {
                Self::read("", Syntax::Toml)
            }
            Syntax::Yaml => serde_saphyr::from_str(text).map_err(|error| {
                let line = error.location().and_then(|place| usize::try_from(place.line()).ok());
                trouble::explain(line, &error.without_snippet().to_string())
            }),
        }
    }
}
