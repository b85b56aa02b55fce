//! The eviction job: which revisions should go, by name, by bytes to free, or by age.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CommitId, Invalid, RepoId, Revision, Size, Span};

/// Remove revisions from the cache: those of one model, or as many as it takes. Exactly one of `repo`, `free_bytes` and
/// `older_than` is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evict {
    /// The model to remove, with all its revisions unless `revision` names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoId>,
    /// Branch, tag or commit of `repo`; the others stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Bytes that are to become free, by the host's own rules of what goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<Size>,
    /// Everything goes that was not used for so long and that the host's rules let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Span>,
    /// Only say what would go.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it by reference
fn is_false(value: &bool) -> bool {
    !*value
}

impl Evict {
    pub(crate) const FIELDS: &'static [&'static str] =
        &["repo", "revision", "free_bytes", "older_than", "dry_run"];

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// None or several of `repo`, `free_bytes` and `older_than`, a revision without a repo, or nothing to free.
    pub fn validate(&self) -> Result<(), Invalid> {
        let named = [self.repo.is_some(), self.free_bytes.is_some(), self.older_than.is_some()];
        match named.into_iter().filter(|is_set| *is_set).count() {
            1 => {}
            0 => {
                return Err(Invalid::new(
                    "nothing says what to evict",
                    "name a model (`repo`), bytes to free (`free_bytes`) or an age (`older_than`)",
                ));
            }
            _ => {
                return Err(Invalid::new(
                    "`repo`, `free_bytes` and `older_than` exclude each other",
                    "send one job for each",
                ));
            }
        }
        if self.revision.is_some() && self.repo.is_none() {
            return Err(Invalid::new("`revision` is set, but not `repo`", "name the model too"));
        }
        if self.free_bytes == Some(Size(0)) {
            return Err(Invalid::new("`free_bytes` is 0", "say how many bytes to free, for example 20GB"));
        }
        Ok(())
    }

    /// The want: two evictions with the same want are the same job while one of them is in flight.
    pub(crate) fn want(&self) -> String {
        serde_json::json!(["evict", self.repo, self.revision, self.free_bytes, self.older_than, self.dry_run])
            .to_string()
    }
}

/// A download brought back what the rules had evicted less than a day before: it should have stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CameBack {
    /// Bytes that the eviction had made free.
    pub bytes: u64,
    /// When it went.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub evicted_at: Timestamp,
    /// When it was back.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub back_at: Timestamp,
}

/// A revision that an eviction removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EvictedModel {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Bytes that became free.
    pub bytes: u64,
    /// Why it was chosen, in the words of eviction plans.
    pub reason: String,
}
