//! Validated names of models: nothing that passes here can leave the cache folder or confuse a URL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::shown};

/// Longest owner or name that the hub accepts, in characters.
const MAX_PART: usize = 96;
/// Longest revision that is accepted, in characters.
const MAX_REVISION: usize = 256;

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }
    };
}

pub(crate) use text_newtype;

/// A repo on the hub, `owner/name`.
///
/// The rules are the hub's own (`validate_repo_id` of its Python client): each part is 1 to 96 of
/// `A-Z a-z 0-9 . _ -`, does not start or end with `.` or `-`, has no `--` and no `..`, and the name does
/// not end in `.git`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct RepoId(String);

text_newtype!(RepoId);

impl RepoId {
    /// The part before the slash.
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or("", |(owner, _)| owner)
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }
}

impl FromStr for RepoId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            Invalid::new(
                format!("`{}` is not a model name: {why}", shown(text)),
                "write owner/name as on the hub, for example openai-community/gpt2",
            )
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let Some((owner, name)) = text.split_once('/') else {
            return Err(wrong("the owner is missing"));
        };
        for part in [owner, name] {
            if part.is_empty() {
                return Err(wrong("one side of the slash is empty"));
            }
            if part.len() > MAX_PART {
                return Err(wrong("a part is longer than 96 characters"));
            }
            if part.contains('/') {
                return Err(wrong("there is more than one slash"));
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
                return Err(wrong("only letters, digits, `.`, `_` and `-` are allowed"));
            }
            if part.starts_with(['.', '-']) || part.ends_with(['.', '-']) {
                return Err(wrong("a part starts or ends with `.` or `-`"));
            }
            if part.contains("--") || part.contains("..") {
                return Err(wrong("`--` and `..` are not allowed"));
            }
        }
        if name.ends_with(".git") {
            return Err(wrong("it ends in `.git`"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A branch, a tag, `refs/pr/N` or a commit, as asked for.
///
/// The rules are those of git for ref names (`git check-ref-format`), which also make it safe as a path
/// below `refs/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct Revision(String);

text_newtype!(Revision);

impl Revision {
    /// The hub's default branch.
    pub fn main() -> Self {
        Self("main".into())
    }

    /// The commit, if the revision is the full name of one.
    pub fn as_commit(&self) -> Option<CommitId> {
        self.0.parse().ok()
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self::main()
    }
}

impl FromStr for Revision {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            Invalid::new(
                format!("`{}` is not a revision: {why}", shown(text)),
                "use a branch, a tag, refs/pr/N or a full commit hash",
            )
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.len() > MAX_REVISION {
            return Err(wrong("it is longer than 256 characters"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\@{}%#".contains(c)) {
            return Err(wrong("it has a character that git does not allow in a ref"));
        }
        let bad_part = |part: &str| {
            part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock")
        };
        if text.starts_with('-') || text.contains("..") || text.split('/').any(bad_part) {
            return Err(wrong("a part is empty, starts or ends with `.`, ends in `.lock`, or has `..`"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A commit on the hub: 40 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct CommitId(String);

text_newtype!(CommitId);

impl CommitId {
    /// The first twelve digits, enough for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for CommitId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == 40 && digits {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            format!("`{}` is not a commit", shown(text)),
            "a commit has 40 lower-case hexadecimal digits",
        ))
    }
}

/// A model at a revision, `owner/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct ModelRef {
    repo: RepoId,
    revision: Option<Revision>,
}

impl ModelRef {
    /// `revision` of `repo`; `None` means that none was named.
    pub fn new(repo: RepoId, revision: Option<Revision>) -> Self {
        Self { repo, revision }
    }

    /// The repo.
    pub fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// The revision, if one was named.
    pub fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => write!(f, "{}", self.repo),
        }
    }
}

impl From<ModelRef> for String {
    fn from(model: ModelRef) -> Self {
        model.to_string()
    }
}

impl TryFrom<String> for ModelRef {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for ModelRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once('@') {
            Some((repo, revision)) => Ok(Self::new(repo.parse()?, Some(revision.parse()?))),
            None => Ok(Self::new(text.parse()?, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_the_hub_has_are_accepted() {
        for name in ["openai-community/gpt2", "a/b", "01-ai/Yi-1.5-6B", "TheBloke/x_y.z-GGUF", "a_/_b"] {
            assert_eq!(name.parse::<RepoId>().map(|id| id.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        let long = format!("a/{}", "b".repeat(10_000));
        let names = [
            "",
            "gpt2",
            "/",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/b/c",
            "/etc/passwd",
            "a/b\0",
            "a\\b/c",
            "a/b c",
            "a/b--c",
            "models--a/b",
            "a/.b",
            "a/b.",
            "a/b.git",
            "ä/b",
            "a/b\n",
            &long,
        ];
        for name in names {
            let error = name.parse::<RepoId>().expect_err(name);
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn revisions_follow_git() {
        for good in ["main", "v1.0", "refs/pr/1", "feature/x", "607a30d783dfa663caf39e06633721c8d4cfcd7e"] {
            assert!(good.parse::<Revision>().is_ok(), "{good}");
        }
        for bad in
            ["", "..", "a..b", "/main", "main/", "a//b", ".hidden", "a/.b", "-rf", "a b", "x.lock", "a\0"]
        {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
        assert!("main".parse::<Revision>().unwrap().as_commit().is_none());
    }

    proptest! {
        /// Whatever is accepted stays one folder below the cache root and reads back as itself.
        #[test]
        fn accepted_names_are_safe(text in "[\\PC]{0,40}(/|@|\\.\\.)?[\\PC]{0,40}") {
            if let Ok(model) = text.parse::<ModelRef>() {
                prop_assert_eq!(model.to_string(), text.clone());
                let path = std::path::Path::new(model.repo().as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), 2);
            }
        }
    }
}
