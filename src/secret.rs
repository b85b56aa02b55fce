//! Secrets that others present to larder, or that larder signs with: read from files, one on a line, shown to nobody.
//!
//! Several lines are several secrets that hold at the same time, so that a new one can be handed out before the old
//! one goes.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use larder_jobs::Reason;

use crate::error::{Error, Result};

/// A shorter secret can be guessed; `openssl rand -hex 32` has 64 characters.
const MIN_LENGTH: usize = 16;
/// A longer one fits into no header that a proxy lets through.
const MAX_LENGTH: usize = 512;
/// Most secrets of one file.
const MAX_LINES: usize = 8;
/// Largest file that is read.
const MAX_FILE: u64 = 16 << 10;

/// A secret. Prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The secrets of the file that `key` of the configuration names, in the order of its lines; blank lines are none. Warns
/// if everybody on this host can read the file.
///
/// # Errors
/// `io_error` if it cannot be read; `invalid_request` if everybody can write it, if it has no secret or more than
/// eight, or one that is shorter than 16 or longer than 512 characters, or not printable ASCII. No message has any of it.
pub fn read(path: &Path, key: &str) -> Result<Vec<Secret>> {
    let unreadable = |error| Error::io(&format!("read the file of {key},"), path, &error);
    let found = fs::metadata(path).map_err(unreadable)?;
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(Reason::InvalidRequest, format!("the file of {key}, {}, {why}", path.display()), hint))
    };
    let mode = found.permissions().mode();
    if mode & 0o002 != 0 {
        return refuse(
            "can be written by everybody on this host",
            "chmod 600 it, and put a new secret into it",
        );
    }
    warn_if_readable(path, key);
    if found.len() > MAX_FILE {
        return refuse("is larger than 16 KiB", "let it hold the secret and nothing else");
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let fine = |line: &&str| {
        (MIN_LENGTH..=MAX_LENGTH).contains(&line.len()) && line.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if lines.is_empty() || lines.len() > MAX_LINES {
        return refuse(
            "has no secret in it, or more than eight lines",
            "write one to it: openssl rand -hex 32",
        );
    }
    if !lines.iter().all(fine) {
        return refuse(
            "has a line that is no secret: 16 to 512 printable characters without blanks",
            "make a good one: openssl rand -hex 32",
        );
    }
    Ok(lines.into_iter().map(|line| Secret(line.to_owned())).collect())
}

/// Warns if everybody on this host can read a file that holds a secret.
pub(crate) fn warn_if_readable(path: &Path, key: &str) {
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0) {
        tracing::warn!(key, path = %path.display(), "everybody on this host can read a file with a secret; chmod 600 it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("secret");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        (dir, path)
    }

    #[test]
    fn each_line_is_a_secret_that_is_never_shown() {
        let (_dir, path) = file("first-secret-first\n\n  second-secret-second \n", 0o600);
        let secrets = read(&path, "api.tokens").expect("reads");
        let revealed: Vec<_> = secrets.iter().map(Secret::reveal).collect();
        assert_eq!(revealed, ["first-secret-first", "second-secret-second"]);
        assert_eq!(format!("{secrets:?}"), "[[redacted], [redacted]]");
        let (_dir, path) = file("readable-for-all-of-us", 0o644);
        assert!(read(&path, "api.tokens").is_ok(), "that is only warned of: mounted secrets are so");
    }

    #[test]
    fn what_can_be_guessed_or_replaced_is_refused() {
        let long = "x".repeat(513);
        let many = "a-long-enough-secret\n".repeat(9);
        for (text, mode, why) in [
            ("", 0o600, "no secret"),
            ("\n \n", 0o600, "no secret"),
            ("hunter2hunter2", 0o600, "16 to 512"),
            ("hunter2 hunter2 hunter2", 0o600, "16 to 512"),
            ("hunter2hunter2-\u{e4}\u{f6}\u{fc}", 0o600, "16 to 512"),
            (&long, 0o600, "16 to 512"),
            (&many, 0o600, "eight"),
            ("hunter2hunter2hunter2", 0o602, "written by everybody"),
        ] {
            let (_dir, path) = file(text, mode);
            let message = read(&path, "notify.secret_file").expect_err("refused").message();
            assert!(message.contains(why) && message.contains("notify.secret_file"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert_eq!(read(Path::new("/nowhere"), "x").expect_err("gone").reason(), Reason::IoError);
    }
}
