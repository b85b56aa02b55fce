//! The profile job: what this host can do, or what a staged model is; and the job that brings a model into memory.

use serde::{Deserialize, Serialize};

use crate::{Invalid, RepoId, Revision, Size};

/// The smallest and the largest file with which a disk is measured.
const TEST_FILE: std::ops::RangeInclusive<u64> = 16 << 20..=64 << 30;

/// What a profile of the host measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Test {
    /// How fast the cache's disk is written and read, with an own file.
    Disk,
    /// How fast memory is copied.
    Memory,
    /// How long the hub takes to answer; how fast bytes come from it is known from downloads.
    Hub,
}

impl Test {
    /// Every test.
    pub const ALL: &'static [Test] = &[Test::Disk, Test::Memory, Test::Hub];

    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Test::Disk => "disk",
            Test::Memory => "memory",
            Test::Hub => "hub",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ProfileTarget {
    /// The host, or the model if `repo` names one.
    #[default]
    Auto,
    /// The host.
    Host,
    /// The model that `repo` names.
    Model,
}

/// Measure this host, or look closely at a model in its cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Profile {
    /// `host` or `model`; need not be said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: ProfileTarget,
    /// The model; the host is measured without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoId>,
    /// Branch, tag or commit of `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What of the host to measure; everything if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
    /// Bytes of the file with which the disk is measured; the host chooses if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<Size>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Profile {
    pub(crate) const FIELDS: &'static [&'static str] = &["target", "repo", "revision", "tests", "disk_bytes"];

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// A target that contradicts the model, tests of a model, or a test file of a size that measures nothing.
    pub fn validate(&self) -> Result<(), Invalid> {
        let is_model = self.repo.is_some();
        if self.revision.is_some() && !is_model {
            return Err(Invalid::new("`revision` is set, but not `repo`", "name the model too"));
        }
        match self.target {
            ProfileTarget::Host if is_model => {
                return Err(Invalid::new(
                    "`target` is host, and `repo` names a model",
                    "send one of the two",
                ));
            }
            ProfileTarget::Model if !is_model => {
                return Err(Invalid::new("`target` is model, but `repo` is missing", "name the model"));
            }
            _ => {}
        }
        if is_model && (!self.tests.is_empty() || self.disk_bytes.is_some()) {
            return Err(Invalid::new(
                "`tests` and `disk_bytes` are about the host, and `repo` names a model",
                "leave one of them out",
            ));
        }
        if self.disk_bytes.is_some_and(|size| !TEST_FILE.contains(&size.bytes())) {
            return Err(Invalid::new("`disk_bytes` is not between 16MiB and 64GiB", "send for example 1GiB"));
        }
        Ok(())
    }

    pub(crate) fn want(&self) -> String {
        let mut tests = self.tests.clone();
        tests.sort_unstable();
        tests.dedup();
        serde_json::json!(["profile", self.repo, self.revision, tests, self.disk_bytes]).to_string()
    }
}

/// Bring the files of a model into the page cache, so that the next engine loads it from memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Preload {
    /// The model.
    pub repo: RepoId,
    /// Branch, tag or commit; `main` if absent.
    #[serde(default)]
    pub revision: Revision,
    /// Also when the gain is small or unknown; never when memory is short.
    #[serde(default, skip_serializing_if = "is_default")]
    pub force: bool,
}

impl Preload {
    pub(crate) const FIELDS: &'static [&'static str] = &["repo", "revision", "force"];

    pub(crate) fn want(&self) -> String {
        serde_json::json!(["preload", self.repo, self.revision]).to_string()
    }
}
