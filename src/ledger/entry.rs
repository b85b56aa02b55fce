//! One revision in the cache, as stored and as shown.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use larder_jobs::{CommitId, ModelRef, RepoId, Revision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `owner/name@commit`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of one revision.
    pub fn new(repo: &RepoId, commit: &CommitId) -> Self {
        Self(format!("{repo}@{commit}").into())
    }

    /// What comes before the keys of a repo, and before nobody else's.
    pub(super) fn before(repo: &RepoId) -> Self {
        Self(format!("{repo}@").into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a revision came into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Fetched by larder, with a receipt.
    Staged,
    /// Fetched by another client.
    Adopted,
}

impl Origin {
    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Origin::Staged => "staged",
            Origin::Adopted => "adopted",
        }
    }
}

/// What the ledger stores of one revision. Fields are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Branches and tags that led to it.
    #[serde(default)]
    pub revisions: Vec<Revision>,
    /// How it came here.
    pub origin: Origin,
    /// Bytes of its files, equal files once.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// The weight format, if the file names tell.
    #[serde(default)]
    pub format: Option<String>,
    /// The quantization, if the file names tell.
    #[serde(default)]
    pub quantization: Option<String>,
    /// Never evicted until it is unpinned.
    #[serde(default)]
    pub pinned: bool,
    /// When it was staged, or first seen.
    pub added_at: Timestamp,
    /// When it was last asked for, or seen in use; unknown for what others fetched.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// How often it was used, each use counting less with time: [`crate::plan::heat`] as of `last_used_at`.
    #[serde(default)]
    pub heat: f64,
    /// When its bytes were last read and found right.
    #[serde(default)]
    pub verified_at: Option<Timestamp>,
}

impl Entry {
    /// Its key.
    pub fn key(&self) -> Key {
        Key::new(&self.repo, &self.commit)
    }
}

impl ModelView {
    /// Whether a name means this revision: its repo, and its commit, branch or tag if the name has one.
    pub fn is(&self, model: &ModelRef) -> bool {
        self.repo == *model.repo()
            && model.revision().is_none_or(|wanted| {
                self.commit.as_str() == wanted.as_str() || self.revisions.iter().any(|known| known == wanted)
            })
    }
}

/// A lease as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseView {
    /// Who needs it.
    pub holder: String,
    /// Until when.
    pub until: Timestamp,
}

/// A revision as `GET /v1/models` and `larder ls --json` show it. Unknown is `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelView {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Branches and tags that led to it.
    pub revisions: Vec<Revision>,
    /// Bytes of its files, equal files once.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// When it was last asked for, or seen in use.
    pub last_used_at: Option<Timestamp>,
    /// Never evicted until it is unpinned.
    pub pinned: bool,
    /// Whether somebody holds a lease on it.
    pub leased: bool,
    /// Who, and until when.
    pub leases: Vec<LeaseView>,
    /// Whether a process had it open when that was last looked at.
    pub in_use: Option<bool>,
    /// How it came here.
    pub origin: Origin,
    /// The weight format.
    pub format: Option<String>,
    /// The quantization.
    pub quantization: Option<String>,
    /// When it was staged, or first seen.
    pub added_at: Timestamp,
    /// When its bytes were last read and found right.
    pub verified_at: Option<Timestamp>,
    /// The folder that readers open.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_shape_only_grows() {
        let golden = serde_json::json!({
            "repo": "a/b", "commit": "c".repeat(40), "origin": "staged", "bytes": 3, "files": 1,
            "added_at": "2026-01-02T03:04:05Z",
        });
        let entry: Entry = serde_json::from_value(golden).expect("the first shape still reads");
        let now = serde_json::to_value(&entry).expect("writes");
        let keys: Vec<_> = now.as_object().expect("object").keys().cloned().collect();
        let known = [
            "added_at",
            "bytes",
            "commit",
            "files",
            "format",
            "heat",
            "last_used_at",
            "origin",
            "pinned",
            "quantization",
            "repo",
            "revisions",
            "verified_at",
        ];
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(sorted, known);
    }
}
