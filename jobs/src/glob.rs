//! File patterns with the meaning of the hub's `allow_patterns` and `ignore_patterns`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// A pattern over the files of a repo, as Python's `fnmatch`: `*` (also across `/`), `?`, `[abc]`, `[!abc]`.
/// A pattern that ends in `/` means everything below that folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct Glob(String);

impl Glob {
    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

impl TryFrom<String> for Glob {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for Glob {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            Invalid::new(
                format!("`{}` is not a file pattern: {why}", shown(text)),
                "use a pattern like *.safetensors, tokenizer* or 1_Pooling/",
            )
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.len() > 256 {
            return Err(wrong("it is longer than 256 characters"));
        }
        if text.starts_with('/') || text.chars().any(char::is_control) {
            return Err(wrong("it starts with `/` or has a control character"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_bounded() {
        assert!("*.safetensors".parse::<Glob>().is_ok());
        assert!("1_Pooling/".parse::<Glob>().is_ok());
        for bad in ["", "/etc/*", "a\nb", &"x".repeat(300)] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }
}
