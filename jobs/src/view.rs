//! A job as others see it: what `GET /v1/jobs/{id}` and `larder jobs show --json` print.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CameBack, ChosenVariant, CommitId, EvictedModel, JobId, Kind, Reason, RepoId, Revision, State};

/// One file that is being fetched right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileProgress {
    /// Path within the repo.
    pub path: String,
    /// Size in bytes.
    pub bytes_total: u64,
    /// Bytes that are on the disk.
    pub bytes_done: u64,
}

/// How far a job has come. Unknown is absent, never zero.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Progress {
    /// The commit that the revision resolved to.
    pub commit: Option<CommitId>,
    /// Bytes of all chosen files; of an eviction, bytes that are to become free.
    pub bytes_total: Option<u64>,
    /// Bytes that are on the disk, fetched now or before; of an eviction, bytes that became free; of a verification,
    /// bytes that were read.
    pub bytes_done: u64,
    /// Bytes that came over the network for this job, over all its attempts.
    pub bytes_fetched: u64,
    /// Number of chosen files; of an eviction, of revisions.
    pub files_total: Option<u64>,
    /// Files that are verified and published; of an eviction, revisions that are gone.
    pub files_done: u64,
    /// What an eviction removed or would remove, or what went to make room for a download, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<EvictedModel>,
    /// Of a download whose model had been evicted too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came_back: Option<Box<CameBack>>,
    /// What a download that allowed variants stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Box<ChosenVariant>>,
    /// What a profile or a preload found; its shape is in docs/api.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<serde_json::Value>>,
    /// Where the bytes of the attempt that staged it came from, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes_by_source: BTreeMap<String, u64>,
    /// Bytes of the files of a download whose digest was found right, now or before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_verified: u64,
    /// How fast bytes come over the network, in bytes per second; only while they do. This and the next are cut off as
    /// text when a job stops, so they stay the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// The files in flight, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<FileProgress>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it by reference
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Progress {
    /// How long the missing bytes take at the speed of now.
    pub fn seconds_left(&self) -> Option<u64> {
        let missing = self.bytes_total?.saturating_sub(self.bytes_done);
        missing.checked_div(self.bytes_per_second?)
    }

    /// Nothing is in flight any more.
    pub fn stop(&mut self) {
        self.bytes_per_second = None;
        self.active.clear();
    }
}

/// A job of a batch, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChildView {
    /// Its id.
    pub id: JobId,
    /// The host that it is for; `null` while that is open.
    pub host: Option<String>,
    /// The repo that it is about.
    pub repo: Option<RepoId>,
    /// Where it stands.
    pub state: State,
    /// Why it failed or waits.
    pub reason: Option<Reason>,
    /// Bytes of all chosen files.
    pub bytes_total: Option<u64>,
    /// Bytes that are on the disk.
    pub bytes_done: u64,
}

/// A job as others see it. Fields are only ever added; times are RFC 3339, sizes bytes, unknown is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobView {
    /// The job's id.
    pub id: JobId,
    /// What it does.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Why it failed or waits.
    pub reason: Option<Reason>,
    /// The last error in words, with its hint.
    pub message: Option<String>,
    /// Until when it waits.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub until: Option<jiff::Timestamp>,
    /// The repo; `null` if the job is not about one, or the payload cannot be read.
    pub repo: Option<RepoId>,
    /// The revision as asked for.
    pub revision: Option<Revision>,
    /// The commit that the revision resolved to.
    pub commit: Option<CommitId>,
    /// The snapshot folder, once the model is ready.
    pub path: Option<String>,
    /// Bytes of all chosen files.
    pub bytes_total: Option<u64>,
    /// Bytes that are on the disk.
    pub bytes_done: u64,
    /// Bytes of the files of a download whose digest was found right.
    #[serde(default)]
    pub bytes_verified: u64,
    /// Bytes that came over the network for this job.
    pub bytes_fetched: u64,
    /// How fast bytes come over the network, in bytes per second; only while they do.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes at that speed.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// Number of chosen files.
    pub files_total: Option<u64>,
    /// Files that are verified and published.
    pub files_done: u64,
    /// The files in flight, at most 16.
    pub active: Vec<FileProgress>,
    /// What an eviction removed or would remove, at most 32; `bytes_done` and `files_done` count all of it. Of a
    /// download, what went to make room for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<EvictedModel>,
    /// Of a download whose model the rules had evicted less than a day before: when it went, and when it was back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came_back: Option<Box<CameBack>>,
    /// What a download that allowed variants stages, and why; `repo` is what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Box<ChosenVariant>>,
    /// What a profile or a preload found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<serde_json::Value>>,
    /// Where the bytes of the attempt that staged it came from, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes_by_source: BTreeMap<String, u64>,
    /// The hosts that the job runs on.
    pub hosts: Vec<String>,
    /// Why it is for that host, if it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<String>,
    /// The batch that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The jobs of a batch; the fields above sum them up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildView>,
    /// When it must be done.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub deadline: Option<jiff::Timestamp>,
    /// Higher goes first.
    pub priority: i16,
    /// Everybody who asked for it.
    pub requested_by: Vec<String>,
    /// Attempts that were begun and not handed back.
    pub attempts: u32,
    /// When it was accepted.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub created_at: jiff::Timestamp,
    /// When a worker first took it.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub started_at: Option<jiff::Timestamp>,
    /// When it ended.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub finished_at: Option<jiff::Timestamp>,
}
