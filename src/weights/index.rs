//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::shown;

/// The longest index in bytes. 139,583 tensors (384 experts in 60 layers, FP8 with scales) take 12.5 MB.
pub const TEXT_LIMIT: usize = 32 << 20;
/// The most shards.
pub const SHARD_LIMIT: usize = 10_000;
/// The most tensors.
pub const TENSOR_LIMIT: usize = 524_288;

/// Which shard holds which tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Index {
    /// The index's own path in the repo.
    pub path: String,
    /// Paths of the shards in the repo, sorted.
    pub shards: Vec<String>,
    /// Each tensor's shard, as a place in `shards`.
    pub tensors: BTreeMap<String, usize>,
    /// Bytes of all tensors, if the index says so. Many repos do not keep it up to date.
    pub total_size: Option<u64>,
}

/// Why an index cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum IndexError {
    /// More text than the bound.
    #[error("the index has {bytes} bytes, the limit is {TEXT_LIMIT}")]
    TooLong {
        /// Its size in bytes.
        bytes: usize,
    },
    /// Not JSON, or not the JSON of an index.
    #[error("the index is not readable: {what}")]
    Unreadable {
        /// The parser's words, bounded.
        what: String,
    },
    /// No tensors.
    #[error("the index lists no tensors")]
    Empty,
    /// A shard outside of the index's folder.
    #[error("the index names the shard \"{shard}\", which is no file name")]
    Outside {
        /// The name, bounded.
        shard: String,
    },
}

impl IndexError {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        "choose another revision or publisher, and tell the repo's owner"
    }
}

impl Index {
    /// Reads the index that stands at `path` in the repo; its shards lie in the same folder.
    ///
    /// # Errors
    /// It is not an index, or beyond the bounds.
    pub fn parse(path: &str, text: &str) -> Result<Self, IndexError> {
        if text.len() > TEXT_LIMIT {
            return Err(IndexError::TooLong { bytes: text.len() });
        }
        let raw: Raw = serde_json::from_str(text)
            .map_err(|error| IndexError::Unreadable { what: shown(&error.to_string()) })?;
        let Map { names, tensors } = raw.weight_map;
        if tensors.is_empty() {
            return Err(IndexError::Empty);
        }
        if let Some(shard) = names.keys().find(|name| !is_file_name(name)) {
            return Err(IndexError::Outside { shard: shown(shard) });
        }
        let folder = path.rfind('/').map_or("", |slash| &path[..=slash]);
        // Shards are numbered as they are met; their places change as they are sorted.
        let mut places = vec![0; names.len()];
        for (place, number) in names.values().enumerate() {
            places[*number] = place;
        }
        Ok(Self {
            path: path.to_owned(),
            shards: names.into_keys().map(|name| format!("{folder}{name}")).collect(),
            tensors: tensors.into_iter().map(|(name, number)| (name, places[number])).collect(),
            total_size: raw.metadata.and_then(|metadata| metadata.total_size.0),
        })
    }

    /// The path of the shard that holds that tensor.
    pub fn shard_of(&self, tensor: &str) -> Option<&str> {
        self.tensors.get(tensor).and_then(|place| self.shards.get(*place)).map(String::as_str)
    }
}

/// A plain name: nothing that leaves its folder on any system.
fn is_file_name(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(bad)
}

#[derive(Deserialize)]
struct Raw {
    weight_map: Map,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    total_size: Size,
}

/// `weight_map`: shards by name with a number each, tensors with their shard's number.
struct Map {
    names: BTreeMap<String, usize>,
    tensors: BTreeMap<String, usize>,
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shards;
        impl<'de> Visitor<'de> for Shards {
            type Value = Map;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensors to shards")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                let mut out = Map { names: BTreeMap::new(), tensors: BTreeMap::new() };
                while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
                    let next = out.names.len();
                    let number = *out.names.entry(shard).or_insert(next);
                    if out.names.len() > SHARD_LIMIT {
                        return Err(A::Error::custom(format_args!("more than {SHARD_LIMIT} shards")));
                    }
                    if out.tensors.len() == TENSOR_LIMIT {
                        return Err(A::Error::custom(format_args!("more than {TENSOR_LIMIT} tensors")));
                    }
                    if let Some(old) = out.tensors.insert(tensor, number)
                        && old != number
                    {
                        return Err(A::Error::custom("a tensor is in two shards"));
                    }
                }
                Ok(out)
            }
        }
        deserializer.deserialize_map(Shards)
    }
}

/// A size that some writers store as a float or a text; anything else than a whole number is unknown.
#[derive(Default)]
struct Size(Option<u64>);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size")
            }
            fn visit_u64<E>(self, n: u64) -> Result<Size, E> {
                Ok(Size(Some(n)))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Size, E> {
                Ok(Size(u64::try_from(n).ok()))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Size, E> {
                // Whole numbers up to 2^53 are exact.
                let exact = n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n);
                Ok(Size(exact.then_some(n as u64)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Size, E> {
                Ok(Size(text.parse().ok()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Size, E> {
                Ok(Size(None))
            }
            fn visit_unit<E>(self) -> Result<Size, E> {
                Ok(Size(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Size, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Size(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Size(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str =
        r#"{"metadata":{"total_size":12.0,"x":[1]},"weight_map":{"b":"s-2","a":"s-1","c":"s-2"}}"#;

    #[test]
    fn an_index_says_which_shard_holds_a_tensor() {
        let index = Index::parse("unet/model.safetensors.index.json", TWO).expect("an index");
        assert_eq!(index.shards, ["unet/s-1", "unet/s-2"]);
        assert_eq!(index.shard_of("a"), Some("unet/s-1"));
        assert_eq!(index.shard_of("c"), Some("unet/s-2"));
        assert_eq!(index.shard_of("d"), None);
        assert_eq!(index.total_size, Some(12));
    }

    #[test]
    fn a_total_that_is_no_whole_number_is_unknown() {
        for (text, size) in [
            ("7", Some(7)),
            ("\"8\"", Some(8)),
            ("-1", None),
            ("1.5", None),
            ("null", None),
            ("[1]", None),
            ("{\"a\":1}", None),
            ("1e300", None),
            ("true", None),
        ] {
            let text = format!(r#"{{"metadata":{{"total_size":{text}}},"weight_map":{{"a":"s"}}}}"#);
            assert_eq!(Index::parse("i", &text).expect("an index").total_size, size, "{text}");
        }
        assert_eq!(Index::parse("i", r#"{"weight_map":{"a":"s"}}"#).expect("an index").total_size, None);
    }

    #[test]
    fn bad_indexes_are_named() {
        let deep = format!("{{\"weight_map\":{}", "[".repeat(100_000));
        for (text, want) in [
            (r#"{"weight_map":{"a":"../s"}}"#, "\"../s\", which is no file name"),
            (r#"{"weight_map":{"a":"/etc/x"}}"#, "which is no file name"),
            (r#"{"weight_map":{"a":"s","a":"t"}}"#, "a tensor is in two shards"),
            (r#"{"weight_map":{}}"#, "no tensors"),
            (r#"{"weight_map":{"a":1}}"#, "invalid type"),
            ("{}", "weight_map"),
            ("NaN", "not readable"),
            (&deep, "not readable"),
        ] {
            let error = Index::parse("i", text).expect_err("refused").to_string();
            assert!(error.contains(want), "{error}");
            assert!(error.len() < 300, "{}", error.len());
        }
    }

    #[test]
    fn the_bounds_hold() {
        let entries: Vec<String> = (0..=SHARD_LIMIT).map(|n| format!(r#""t{n}":"s{n}""#)).collect();
        let text = format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","));
        let error = Index::parse("i", &text).expect_err("too many shards");
        assert!(error.to_string().contains("more than 10000 shards"), "{error}");
        let long = " ".repeat(TEXT_LIMIT + 1);
        assert_eq!(Index::parse("i", &long), Err(IndexError::TooLong { bytes: TEXT_LIMIT + 1 }));
    }
}
