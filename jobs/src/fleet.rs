//! The hosts of a fleet as they say what they are, and as the queue knows them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CommitId, EvictedModel, HostName, JobId, Labels, RepoId};

/// The version of [`HostRecord`] that this crate writes. Fields are only ever added.
pub const HOST_RECORD_VERSION: u64 = 1;

/// Most revisions of which a host says that they would be evicted first.
pub const MAX_FIRST: usize = 32;

/// What a larder says of its host at every heartbeat. Sizes are bytes, unknown is `null`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostRecord {
    /// The version of this record.
    pub v: u64,
    /// Version of larder.
    pub version: String,
    /// `host.labels`.
    pub labels: Labels,
    /// What a framework would run on: `cuda`, `rocm`, `mps` or `cpu`.
    pub device: String,
    /// Whether it is fit for work.
    pub health: HostHealth,
    /// Its GPUs that can be reached.
    pub gpus: Vec<HostGpu>,
    /// The filesystem of its cache.
    pub disk: HostDisk,
    /// Revisions in its cache.
    pub models: u64,
    /// Bytes per second of its downloads, if there were any of a telling size.
    pub fetched_bytes_per_second: Option<f64>,
    /// What it works on, at most 64.
    pub running: Vec<JobId>,
}

/// Whether a host is fit for work: `healthy`, `degraded` or `unknown`, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostHealth {
    /// The word.
    pub state: String,
    /// What is wrong, as words of `larder_host_health_reasons`.
    pub reasons: Vec<String>,
}

/// A GPU in the record of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostGpu {
    /// Its name.
    pub name: String,
    /// All of its memory.
    pub memory_total: Option<u64>,
    /// What of it is free.
    pub memory_free: Option<u64>,
}

/// The filesystem of a host's cache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostDisk {
    /// All of it.
    pub total: Option<u64>,
    /// What downloads may still take: free bytes without what must stay free and what is promised.
    pub room: Option<u64>,
    /// What an eviction by the host's rules would add to that.
    pub evictable: Option<u64>,
    /// What would go first, at most [`MAX_FIRST`] revisions in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goes_first: Vec<EvictedModel>,
}

/// Whether a host takes jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Presence {
    /// It was there within the last minute.
    Up,
    /// It is there and takes no jobs, because somebody said so.
    Drained,
    /// It has not been there for a minute.
    Gone,
}

impl Presence {
    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drained => "drained",
            Self::Gone => "gone",
        }
    }
}

/// Since when a host takes no jobs, and who said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Drain {
    /// Since when.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub since: Timestamp,
    /// Who said so, if they gave a name.
    pub by: Option<String>,
}

/// A host as the queue knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostState {
    /// Its name.
    pub name: HostName,
    /// Whether it takes jobs.
    pub state: Presence,
    /// When it was there last; `null` for one that only jobs name.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub seen_at: Option<Timestamp>,
    /// Who drained it, if somebody did.
    pub drained: Option<Drain>,
    /// Jobs in its own queue that could run.
    pub queued: u64,
    /// Jobs in its own queue that wait for a time or a condition.
    pub waiting: u64,
    /// Jobs that run there now; `null` where nobody counts.
    #[serde(default)]
    pub running: Option<u64>,
    /// What it said of itself last; `null` if it never did.
    pub about: Option<HostRecord>,
}

impl HostState {
    /// Whether it takes jobs.
    pub fn is_up(&self) -> bool {
        self.state == Presence::Up
    }

    /// Its labels; none of one that never said any.
    pub fn labels(&self) -> Labels {
        self.about.as_ref().map(|about| about.labels.clone()).unwrap_or_default()
    }
}

/// A model in the cache of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeldModel {
    /// The host.
    pub host: HostName,
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last used, to the hour.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub last_used_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn version_1_reads_and_a_newer_one_does_too() {
        let golden = json!({
            "v": 1, "version": "0.1.0", "labels": {"gpu": "h100"}, "device": "cuda",
            "health": {"state": "degraded", "reasons": ["xid"]},
            "gpus": [{"name": "NVIDIA H100", "memory_total": 85_520_809_984_u64, "memory_free": 80_000_000_000_u64}],
            "disk": {"total": 1_000, "room": 500, "evictable": null}, "models": 3,
            "fetched_bytes_per_second": 1.5, "running": ["01JDFP0000000000000000000A"],
        });
        let record: HostRecord = serde_json::from_value(golden.clone()).expect("reads");
        assert_eq!(serde_json::to_value(&record).expect("writes"), golden);
        let mut newer = golden;
        (newer["v"], newer["added_later"]) = (json!(2), json!(1));
        assert!(serde_json::from_value::<HostRecord>(newer).is_ok());
        assert_eq!(
            serde_json::from_value::<HostRecord>(json!({})).expect("an older one"),
            HostRecord::default()
        );
    }
}
