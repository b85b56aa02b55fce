//! What the plan of a night says.

use jiff::Timestamp;
use larder_jobs::{CommitId, HostName, RepoId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Evict;
use super::timeline::Piece;

/// Whether something is there by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It is.
    Will,
    /// It is if the rates that nobody has measured are high, or if what nobody knows the size of is small.
    May,
    /// It is not.
    WillNot,
}

/// A model that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Present {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// Other entries that are the same job: they want the same there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<usize>,
    /// The model.
    pub model: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A model that is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fetching {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// Other entries that are the same job: they want the same there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<usize>,
    /// The model.
    pub model: String,
    /// Its priority.
    pub priority: i16,
    /// Bytes to fetch; `null` if nobody knows.
    pub bytes: Option<u64>,
    /// When it begins; `null` if nobody knows.
    pub starts_at: Option<Timestamp>,
    /// When it is there at the lowest rates; `null` if it is not by the deadline.
    pub ends_at: Option<Timestamp>,
    /// When it is there at the highest rates.
    pub ends_at_earliest: Option<Timestamp>,
    /// Whether it is there by the deadline.
    pub finishes: Finish,
    /// Why this host, or why nobody knows.
    pub why: String,
}

/// The night of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostNight {
    /// Its name.
    pub host: HostName,
    /// What is there.
    pub present: Vec<Present>,
    /// What is fetched, in its order.
    pub fetch: Vec<Fetching>,
    /// What goes to make room, at most, in its order.
    pub evict: Vec<Victim>,
    /// Bytes to fetch; `null` if nobody knows the size of one of its models.
    pub bytes_to_fetch: Option<u64>,
    /// Bytes of the disk that it takes; `null` likewise.
    pub disk_needed: Option<u64>,
    /// Bytes that models may take before anything goes.
    pub disk_free: u64,
    /// When its last byte comes, at the lowest rates.
    pub ends_at: Option<Timestamp>,
}

/// A revision that goes to make room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Victim {
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Bytes that become free.
    pub bytes: u64,
    /// Why it may go.
    pub reason: Evict,
}

/// Why something is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// There is no time for it.
    Deadline,
    /// There is no room for it.
    Room,
    /// It cannot be staged or run there.
    Unfit,
    /// The host takes no new work.
    Refused,
    /// No host is left that it could go to.
    NoHost,
}

/// What is not fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// The entry's place in the manifest, from 0.
    pub entry: usize,
    /// Other entries that are the same job: they want the same there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<usize>,
    /// The model.
    pub model: String,
    /// Its priority.
    pub priority: i16,
    /// The host; `null` if any one would have done.
    pub host: Option<HostName>,
    /// Bytes to fetch, on the host where it would be least; `null` if nobody knows.
    pub bytes: Option<u64>,
    /// Why.
    pub reason: DropReason,
    /// The same in words.
    pub why: String,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NightPlan {
    /// The beginning.
    pub now: Timestamp,
    /// When it should all be there.
    pub deadline: Option<Timestamp>,
    /// Seconds until then in which the window is open.
    pub open_seconds: f64,
    /// The hosts, in the order in which they were given.
    pub hosts: Vec<HostNight>,
    /// What is not fetched, the highest priority first.
    pub dropped: Vec<Dropped>,
    /// Whether all of it is there by the deadline.
    pub finishes: Finish,
    /// Bytes to fetch; `null` if nobody knows the size of one of the models.
    pub bytes_to_fetch: Option<u64>,
    /// Whether every rate that it rests on was measured.
    pub measured: bool,
    /// How the bytes flow at the lowest rates.
    #[serde(skip)]
    pub pieces: Vec<Piece>,
}
