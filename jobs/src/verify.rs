//! The verify job: are the bytes in the cache still those that the hub promised?

use serde::{Deserialize, Serialize};

use crate::{Bandwidth, Invalid, RepoId, Revision};

/// Read models again and compare them with their hashes; a file that is wrong is moved out of the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verify {
    /// The model to read, with all its revisions unless `revision` names one; the whole cache if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoId>,
    /// Branch, tag or commit of `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Bytes per second that may be read; without it the host's `cache.verify_bandwidth` holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<Bandwidth>,
}

impl Verify {
    pub(crate) const FIELDS: &'static [&'static str] = &["repo", "revision", "max_bytes_per_second"];

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// A revision without a repo.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.revision.is_some() && self.repo.is_none() {
            return Err(Invalid::new("`revision` is set, but not `repo`", "name the model too"));
        }
        Ok(())
    }

    /// The want: two readings of the same are the same job while one of them is in flight, whatever their speed.
    pub(crate) fn want(&self) -> String {
        serde_json::json!(["verify", self.repo, self.revision]).to_string()
    }
}
