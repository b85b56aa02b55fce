//! A job as a store keeps it. Versioned, only ever grows; `larder` keeps it below 32 KiB.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{HostName, Invalid, Job, JobId, JobView, Kind, Progress, Reason, State, Target, Work};

/// The version of stored records that this crate writes, and the newest that it reads.
pub const RECORD_VERSION: u64 = 1;

/// A job as a store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this record.
    pub v: u64,
    /// The job's id.
    pub id: JobId,
    /// What it does.
    pub kind: Kind,
    /// Its place among all jobs, in the order of asking.
    pub seq: u64,
    /// The queue that it waits in.
    #[serde(default, skip_serializing_if = "Target::is_only")]
    pub target: Target,
    /// The host that took it last; in a fleet only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<HostName>,
    /// The batch that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// Why it is for that host, if it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<String>,
    /// The payload as it came, kept even if it cannot be read.
    pub job: Value,
    /// SHA-256 of the want, in hexadecimal: jobs with the same want are the same job while in flight.
    pub want: String,
    /// Higher goes first.
    pub priority: i16,
    /// Where it stands.
    pub state: State,
    /// Why it failed or waits.
    pub reason: Option<Reason>,
    /// The last error in words, with its hint.
    pub message: Option<String>,
    /// When it may run, if not at once.
    pub due: Option<Timestamp>,
    /// From when on it waits for its turn, if that is later than `created_at`: what it could not have run in makes no job
    /// more urgent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ages_from: Option<Timestamp>,
    /// Who asked for it by name, at most 64.
    pub requesters: Vec<String>,
    /// Whether somebody asked for it without a name, or beyond the names that are remembered.
    pub anonymous: bool,
    /// Keys that answer this job, at most 64.
    pub keys: Vec<String>,
    /// Addresses that are told when it has ended, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// Attempts that were begun and not handed back.
    pub attempts: u32,
    /// The fencing token of the last claim.
    pub token: u64,
    /// When the claim ends unless it is renewed.
    pub lease_until: Option<Timestamp>,
    /// Whether a running job was cancelled.
    pub cancel: bool,
    /// How far it has come.
    pub progress: Progress,
    /// The snapshot folder, once the model is ready.
    pub path: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When a worker first took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it must be done.
    pub deadline: Option<Timestamp>,
}

impl Record {
    /// A record of a job that was accepted at `now`, before anything is known of it.
    pub fn new(id: JobId, kind: Kind, seq: u64, now: Timestamp) -> Self {
        Self {
            v: RECORD_VERSION,
            id,
            kind,
            seq,
            target: Target::Only,
            owner: None,
            parent: None,
            placed: None,
            job: Value::Null,
            want: String::new(),
            priority: 0,
            state: State::Queued,
            reason: None,
            message: None,
            due: None,
            ages_from: None,
            requesters: Vec::new(),
            anonymous: false,
            keys: Vec::new(),
            notify: Vec::new(),
            attempts: 0,
            token: 0,
            lease_until: None,
            cancel: false,
            progress: Progress::default(),
            path: None,
            created_at: now,
            started_at: None,
            finished_at: None,
            deadline: None,
        }
    }

    /// The job that the payload describes.
    ///
    /// # Errors
    /// `invalid_request` or `unsupported_version` for a payload that this crate cannot read.
    pub fn decode(&self) -> Result<Job, Invalid> {
        Job::from_json(self.job.clone())
    }

    /// Whether `token` is the one of the claim that runs now.
    pub fn is_held_by(&self, token: u64) -> bool {
        self.state.is_running() && self.token == token
    }

    /// Whether a request for the same want joins this job.
    pub fn is_joinable(&self) -> bool {
        !self.state.is_terminal() && !self.cancel
    }

    /// The hosts that the job runs on, as far as they are known; `only` is the host without a fleet.
    fn hosts(&self, only: Option<&str>) -> Vec<String> {
        let name = match &self.target {
            Target::Only => only.map(str::to_owned),
            Target::Host(name) => Some(name.to_string()),
            Target::Pool => self.owner.as_ref().map(ToString::to_string),
        };
        name.into_iter().collect()
    }

    /// The job as others see it; `only` names the host of a queue without a fleet.
    pub fn view(&self, only: Option<&str>) -> JobView {
        let work = self.decode().ok().map(|job| job.work);
        let (repo, revision) = work
            .as_ref()
            .map(Work::model)
            .map_or((None, None), |(repo, revision)| (repo.cloned(), revision.cloned()));
        let progress = self.progress.clone();
        let seconds_left = progress.seconds_left();
        JobView {
            id: self.id,
            kind: self.kind,
            state: self.state,
            reason: self.reason,
            message: self.message.clone(),
            until: self.due.filter(|_| self.state == State::Waiting),
            repo,
            revision,
            commit: progress.commit,
            path: self.path.clone(),
            bytes_total: progress.bytes_total,
            bytes_done: progress.bytes_done,
            bytes_verified: progress.bytes_verified,
            bytes_fetched: progress.bytes_fetched,
            bytes_per_second: progress.bytes_per_second,
            seconds_left,
            files_total: progress.files_total,
            files_done: progress.files_done,
            active: progress.active,
            evicted: progress.evicted,
            came_back: progress.came_back,
            chosen: progress.chosen,
            report: progress.report,
            bytes_by_source: progress.bytes_by_source,
            hosts: self.hosts(only),
            placed: self.placed.clone(),
            parent: self.parent,
            children: Vec::new(),
            deadline: self.deadline,
            priority: self.priority,
            requested_by: self.requesters.clone(),
            attempts: self.attempts,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn golden() -> Value {
        json!({
            "v": 1, "id": "01JDFP0000000000000000000A", "kind": "download", "seq": 7,
            "job": {"v": 1, "kind": "download", "repo": "openai-community/gpt2", "revision": "main"},
            "want": "ab".repeat(32), "priority": 5, "state": "waiting", "reason": "rate_limited",
            "message": "too many requests; hint: wait", "due": "2026-01-02T03:04:06Z",
            "requesters": ["alice"], "anonymous": false, "keys": ["night-1"], "attempts": 2, "token": 3,
            "lease_until": null, "cancel": false,
            "progress": {"commit": null, "bytes_total": 10, "bytes_done": 4, "bytes_fetched": 4,
                         "files_total": 2, "files_done": 1},
            "path": null, "created_at": "2026-01-02T03:04:05Z", "started_at": "2026-01-02T03:04:05Z",
            "finished_at": null, "deadline": "2026-01-03T00:00:00Z",
        })
    }

    #[test]
    fn version_1_reads_and_writes_the_same_for_ever() {
        let record: Record = serde_json::from_value(golden()).expect("reads");
        assert_eq!(serde_json::to_value(&record).expect("writes"), golden());
        let mut newer = golden();
        newer["added_later"] = json!(1);
        assert_eq!(serde_json::from_value::<Record>(newer).expect("ignores what was added"), record);
        let mut fleet = golden();
        (fleet["target"], fleet["owner"]) = (json!("host:gpu-1"), json!("gpu-1"));
        let record: Record = serde_json::from_value(fleet.clone()).expect("reads");
        assert_eq!(serde_json::to_value(&record).expect("writes"), fleet);
    }

    #[test]
    fn the_view_names_the_model_and_tells_until_when() {
        let record: Record = serde_json::from_value(golden()).expect("reads");
        let view = record.view(Some("gpu-1"));
        assert_eq!(view.repo.map(String::from).as_deref(), Some("openai-community/gpt2"));
        assert_eq!(view.until, Some("2026-01-02T03:04:06Z".parse().expect("a time")));
        assert_eq!((view.hosts, view.bytes_done), (vec!["gpu-1".to_owned()], 4));
        let unreadable = Record { job: json!("?"), state: State::Queued, ..record };
        let view = unreadable.view(None);
        assert_eq!((view.repo, view.until), (None, None));
    }

    #[test]
    fn a_job_of_the_pool_has_no_host_until_one_takes_it() {
        let record: Record = serde_json::from_value(golden()).expect("reads");
        let pool = Record { target: Target::Pool, ..record };
        assert_eq!(pool.view(Some("other")).hosts, [""; 0]);
        let taken = Record { owner: Some("gpu-2".parse().expect("a name")), ..pool };
        assert_eq!(taken.view(None).hosts, ["gpu-2"]);
    }
}
