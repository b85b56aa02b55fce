//! Files of a repo: paths that cannot leave their folder, and the two hashes that the hub promises.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// Longest path, in bytes, so that it fits below any cache root (PATH_MAX is 4096).
const MAX_PATH: usize = 1024;
/// Longest part of a path, in bytes (NAME_MAX of ext4, xfs and btrfs).
const MAX_PART: usize = 255;
/// Names that Windows reserves; a cache may lie on a share that it reads too.
const RESERVED: &[&str] = &["con", "prn", "aux", "nul"];

/// The path of a file within its repo: relative, with `/`, without `.`, `..`, `\` or control characters.
///
/// A repo may have very many files, each in several lists: a clone shares the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct FilePath(Arc<str>);

impl FilePath {
    /// The path as the hub gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Number of folders above the file.
    pub fn depth(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> Self {
        path.as_str().to_owned()
    }
}

impl TryFrom<String> for FilePath {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for FilePath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            Invalid::new(
                format!("`{}` is not a file of a repo: {why}", shown(text)),
                "a path is relative, with /, and stays inside the repo",
            )
        };
        if text.is_empty() || text.len() > MAX_PATH {
            return Err(wrong("it is empty or longer than 1024 bytes"));
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(wrong("it has a backslash or a control character"));
        }
        for part in text.split('/') {
            if matches!(part, "" | "." | "..") {
                return Err(wrong("a part is empty, `.` or `..`"));
            }
            if part.len() > MAX_PART {
                return Err(wrong("a part is longer than 255 bytes"));
            }
            let stem = part.split('.').next().unwrap_or(part);
            if RESERVED.iter().any(|name| stem.eq_ignore_ascii_case(name)) {
                return Err(wrong("a part is a reserved name"));
            }
        }
        Ok(Self(text.into()))
    }
}

/// What the hub promises about a file's bytes.
///
/// Written `sha256:<64 hex>` or `git-sha1:<40 hex>`. The hexadecimal part is also the blob's name in the cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub enum Digest {
    /// SHA-256 of the bytes: files in LFS or Xet.
    Sha256([u8; 32]),
    /// SHA-1 of the git object `blob <length>\0<bytes>`: files that live in git itself.
    GitSha1([u8; 20]),
}

impl Digest {
    /// A SHA-256, if `hex` is one: 64 lower-case digits.
    pub fn sha256(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Sha256)
    }

    /// The SHA-1 of a git object, if `hex` is one: 40 lower-case digits.
    pub fn git_sha1(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::GitSha1)
    }

    /// The hexadecimal digits, which are the blob's name in the hub cache.
    pub fn hex(&self) -> String {
        match self {
            Digest::Sha256(bytes) => hex::encode(bytes),
            Digest::GitSha1(bytes) => hex::encode(bytes),
        }
    }
}

/// The bytes that lower-case hexadecimal digits stand for, if there are exactly `N`.
fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !hex.bytes().any(|digit| digit.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(hex, &mut bytes).is_ok()).then_some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Digest::Sha256(_) => "sha256",
            Digest::GitSha1(_) => "git-sha1",
        };
        write!(f, "{kind}:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let parsed = match text.split_once(':') {
            Some(("sha256", hex)) => Self::sha256(hex),
            Some(("git-sha1", hex)) => Self::git_sha1(hex),
            _ => None,
        };
        parsed.ok_or_else(|| {
            Invalid::new(
                format!("`{}` is not a digest", shown(&text)),
                "write sha256:<hex> or git-sha1:<hex>",
            )
        })
    }
}

/// One file of a repo at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepoFile {
    /// Path within the repo.
    pub path: FilePath,
    /// Size in bytes.
    pub size: u64,
    /// What the hub promises about the bytes.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for good in ["config.json", "1_Pooling/config.json", ".gitattributes", "a/b/c d.txt", "...x"] {
            assert!(good.parse::<FilePath>().is_ok(), "{good}");
        }
        for bad in
            ["", "/etc/passwd", "../../evil", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "aux.txt", "NUL"]
        {
            assert!(bad.parse::<FilePath>().is_err(), "{bad}");
        }
        assert!("x".repeat(256).parse::<FilePath>().is_err());
    }

    proptest! {
        #[test]
        fn accepted_paths_stay_inside(text in "(\\.|/|\\.\\.|[a-z\\\\]){0,12}") {
            if let Ok(path) = text.parse::<FilePath>() {
                let normal = |c| matches!(c, std::path::Component::Normal(_));
                prop_assert!(std::path::Path::new(path.as_str()).components().all(normal));
            }
        }
    }

    #[test]
    fn digests_read_back() {
        let digest = Digest::sha256(&"a".repeat(64)).expect("valid");
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert!(Digest::sha256("../x").is_none());
        assert!(Digest::sha256(&"A".repeat(64)).is_none(), "a blob's name has small letters");
        assert!(Digest::try_from(format!("md5:{}", "a".repeat(32))).is_err());
    }
}
