//! The access token: read once, sent to the endpoint, shown to nobody.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::{Error, Result};
use larder_jobs::Reason;

/// Tokens of the hub have some 40 characters; this is no limit that a real one meets.
const MAX_BYTES: usize = 4096;

/// An access token of the hub. Prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from a variable or a prompt; blanks around it are dropped.
    ///
    /// # Errors
    /// `invalid_request` if it is empty or cannot stand in an HTTP header. The message never holds the token.
    pub fn new(text: &str) -> Result<Self> {
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(
                Reason::InvalidRequest,
                "the hub token is empty or has characters that no token has",
                "set HF_TOKEN, or the content of hub.token_file, to one token like hf_…, without quotes",
            ));
        }
        Ok(Self(token.to_owned()))
    }

    /// The token in a file that holds nothing else. Warns if others can read the file.
    ///
    /// # Errors
    /// `io_error` if it cannot be read, `invalid_request` if it holds no token; both name the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|error| Error::io("read the token file", path, &error))?;
        let mode = fs::metadata(path).map(|found| found.permissions().mode()).unwrap_or_default();
        if mode & 0o004 != 0 {
            tracing::warn!(path = %path.display(), "everybody on this host can read the token file; chmod 600 it");
        }
        Self::new(&text).map_err(|error| {
            let what = format!("the token file {} is of no use: {error}", path.display());
            Error::new(error.reason(), what, error.hint())
        })
    }

    /// The token itself, for the one header that holds it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_trimmed_and_never_shown() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("token");
        fs::write(&path, "  hf_geheim\n").expect("written");
        let token = Token::from_file(&path).expect("token");
        assert_eq!(token.secret(), "hf_geheim");
        assert_eq!(format!("{token} {token:?}"), "[redacted] [redacted]");
        for bad in ["", "\n", "two words", "hf_ge\u{e4}"] {
            fs::write(&path, bad).expect("written");
            let error = Token::from_file(&path).expect_err("refused");
            assert!(error.message().contains(&path.display().to_string()));
            assert!(!error.message().contains("two words"));
        }
        let gone = Token::from_file(&dir.path().join("gone")).expect_err("refused");
        assert_eq!(gone.reason(), Reason::IoError);
    }
}
