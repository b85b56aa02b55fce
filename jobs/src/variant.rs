//! Which published variant of a model may be staged: the one that was named, or one that needs less memory.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Invalid, RepoId};

/// Most words of one preference.
const MAX_WORDS: usize = 16;
/// Words of variants beside `gguf:<QUANTIZATION>`.
const WORDS: &[&str] = &["16bit", "fp8", "mxfp4", "int8", "int4", "awq", "gptq", "gptq-int8", "nf4"];

/// Which variant to stage. Whatever is staged instead of the model that was named is said in the job's view, never
/// silent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// The repo that was named and no other.
    #[default]
    Exact,
    /// The best one that fits this host's GPU: the repo itself if it fits, else a published quantization of it.
    Auto,
    /// The first of these that is published and fits, in this order.
    Prefer(Vec<VariantWord>),
}

/// The name of a variant: `16bit`, `fp8`, `int4` (AWQ or GPTQ), `gguf:Q4_K_M`, …
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VariantWord(String);

impl VariantWord {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The quantization behind `gguf:`.
    pub fn gguf(&self) -> Option<&str> {
        self.0.strip_prefix("gguf:")
    }
}

impl fmt::Display for VariantWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for VariantWord {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_gguf = text.strip_prefix("gguf:").is_some_and(|name| {
            (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        if is_gguf || WORDS.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            format!("`{}` is not a variant", crate::invalid::shown(text)),
            format!("use one of: {}, or gguf:<QUANTIZATION> such as gguf:Q4_K_M", WORDS.join(", ")),
        ))
    }
}

impl<'de> Deserialize<'de> for VariantWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Invalid| de::Error::custom(format!("{error}: {}", error.hint())))
    }
}

impl Variant {
    /// Checks what the types alone cannot.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Prefer(words) if words.is_empty() || words.len() > MAX_WORDS => Err(Invalid::new(
                "`variant` is an empty list or has more than 16 words",
                r#"name variants in the order of preference, or send "auto" or "exact""#,
            )),
            _ => Ok(()),
        }
    }
}

/// `auto`, `exact`, or words with commas between them, as on the command line.
impl FromStr for Variant {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let variant = match text {
            "exact" => Self::Exact,
            // The second is how people say it.
            "auto" | "best_fit" => Self::Auto,
            list => Self::Prefer(list.split(',').map(str::trim).map(str::parse).collect::<Result<_, _>>()?),
        };
        variant.validate()?;
        Ok(variant)
    }
}

impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact => serializer.serialize_str("exact"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Prefer(words) => words.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Variant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "`auto`, `exact`, or a list of variants in the order of preference")]
        enum Raw {
            Word(String),
            List(Vec<String>),
        }
        let parsed = match Raw::deserialize(deserializer)? {
            Raw::Word(word) => word.parse(),
            Raw::List(words) => {
                words.iter().map(|word| word.parse()).collect::<Result<_, _>>().map(Self::Prefer)
            }
        };
        parsed.map_err(|error: Invalid| de::Error::custom(format!("{error}: {}", error.hint())))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Variant {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Variant".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let word = format!("^({}|gguf:[A-Za-z0-9_]{{1,16}})$", WORDS.join("|"));
        schemars::json_schema!({
            "description": "Which variant to stage: exactly the repo, the best one that fits, or the first of a list that is published and fits.",
            "oneOf": [
                {"enum": ["exact", "auto"]},
                {"type": "array", "items": {"type": "string", "pattern": word}, "minItems": 1, "maxItems": MAX_WORDS},
            ],
        })
    }
}

/// What is staged for a download that allowed variants, and why that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChosenVariant {
    /// The repo that is staged; another one than asked for if the variant is published elsewhere.
    pub repo: RepoId,
    /// The variant in the words of requests, for example `16bit` or `gguf:Q4_K_M`.
    pub variant: String,
    /// Whether it is not what was named.
    pub is_fallback: bool,
    /// Why this one.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read_as_they_are_written() {
        for text in [r#""exact""#, r#""auto""#, r#"["16bit","fp8","int4","gguf:Q4_K_M"]"#] {
            let variant: Variant = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&variant).expect("writes"), text);
        }
        let listed: Variant = "fp8, gguf:IQ4_XS".parse().expect("a list");
        let Variant::Prefer(words) = &listed else { panic!("a list") };
        assert_eq!((words[0].gguf(), words[1].gguf()), (None, Some("IQ4_XS")));
    }

    #[test]
    fn what_is_no_variant_is_refused_with_the_list() {
        for text in [r#""int5""#, r#"["gguf:"]"#, r#"["gguf:../x"]"#, "7", r#""""#] {
            let error = serde_json::from_str::<Variant>(text).expect_err(text).to_string();
            assert!(error.contains("variant"), "{text}: {error}");
        }
        assert!(Variant::Prefer(Vec::new()).validate().is_err());
    }
}
