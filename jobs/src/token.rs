//! The name of an access token. Jobs name tokens and never hold them: each host has its own file for a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::invalid::shown;
use crate::model::text_newtype;

/// Longest name.
const MAX_NAME: usize = 64;

/// What a host's configuration calls an access token of the hub: `[[hub.tokens]]`, `name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct TokenRef(String);

text_newtype!(TokenRef);

impl FromStr for TokenRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // The start of every token of the hub: somebody sends the secret itself, which must not be repeated.
        if text.starts_with("hf_") {
            return Err(Invalid::new(
                "`token_ref` is a token and not the name of one",
                "put it into a file on each host, name that in [[hub.tokens]], and send its name; then replace the token, \
                 since it has travelled",
            ));
        }
        if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(fits) {
            return Err(Invalid::new(
                format!("`{}` is not the name of a token", shown(text)),
                "use 1 to 64 letters, digits, dots, dashes and underscores",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_and_a_token_is_refused_and_not_repeated() {
        assert_eq!("team-a".parse::<TokenRef>().expect("a name").to_string(), "team-a");
        for bad in ["", "two words", "a/b", &"x".repeat(65)] {
            bad.parse::<TokenRef>().expect_err(bad);
        }
        let secret = "hf_abcdefghijklmnop".parse::<TokenRef>().expect_err("a token");
        assert!(!format!("{secret} {}", secret.hint()).contains("abcdef"), "{secret}");
    }
}
