//! A job as a store keeps it. Versioned, only ever grows, and always below 32 KiB.

use jiff::Timestamp;
use larder_jobs::{Invalid, Job, JobId, JobView, Kind, Progress, Reason, State, Work};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The version of stored records that this larder writes, and the newest that it reads.
pub const VERSION: u64 = 1;

/// Most bytes of a payload, as JSON.
pub(super) const MAX_PAYLOAD: usize = 8 << 10;
/// Most requesters and idempotency keys that are remembered, and their bytes as JSON.
const MAX_NAMES: usize = 64;
const MAX_NAMES_BYTES: usize = 6 << 10;
/// Most bytes of a message, as JSON.
const MAX_MESSAGE: usize = 2 << 10;
/// Most files in flight that are kept, and their bytes as JSON.
const MAX_ACTIVE: usize = 16;
const MAX_ACTIVE_BYTES: usize = 3 << 10;
/// Most bytes that are kept of a payload that cannot be read.
const MAX_RAW: usize = 4 << 10;

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
    /// Who asked for it by name, at most 64.
    pub requesters: Vec<String>,
    /// Whether somebody asked for it without a name, or beyond the names that are remembered.
    pub anonymous: bool,
    /// Keys that answer this job, at most 64.
    pub keys: Vec<String>,
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
    pub(super) fn new(id: JobId, kind: Kind, seq: u64, now: Timestamp) -> Self {
        Self {
            v: VERSION,
            id,
            kind,
            seq,
            job: Value::Null,
            want: String::new(),
            priority: 0,
            state: State::Queued,
            reason: None,
            message: None,
            due: None,
            requesters: Vec::new(),
            anonymous: false,
            keys: Vec::new(),
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
    /// `invalid_request` or `unsupported_version` for a payload that this larder cannot read.
    pub fn decode(&self) -> Result<Job, Invalid> {
        Job::from_json(self.job.clone())
    }

    /// The job as others see it, on the host called `host`.
    pub fn view(&self, host: &str) -> JobView {
        let model = self.decode().ok().and_then(|job| match job.work {
            Work::Download(download) => Some((download.repo, download.revision)),
            _ => None,
        });
        let (repo, revision) = model.unzip();
        let progress = self.progress.clone();
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
            bytes_fetched: progress.bytes_fetched,
            files_total: progress.files_total,
            files_done: progress.files_done,
            active: progress.active,
            hosts: vec![host.to_owned()],
            priority: self.priority,
            requested_by: self.requesters.clone(),
            attempts: self.attempts,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        }
    }

    /// Whether `token` is the one of the claim that runs now.
    pub fn is_held_by(&self, token: u64) -> bool {
        self.state.is_running() && self.token == token
    }

    /// Whether a request for the same want joins this job.
    pub(super) fn is_joinable(&self) -> bool {
        !self.state.is_terminal() && !self.cancel
    }

    /// Remembers who asks for the job.
    pub(super) fn remember_requester(&mut self, name: Option<&str>) {
        let known = name.is_some_and(|name| remember(&mut self.requesters, name));
        self.anonymous |= !known;
    }

    /// Remembers a key that answers this job. One beyond the bound is forgotten, so that repeating it
    /// after the job's end makes a new job.
    pub(super) fn remember_key(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            remember(&mut self.keys, key);
        }
    }

    /// Keeps how far the job has come, within the record's bounds.
    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
        self.progress.active.truncate(MAX_ACTIVE);
        while json_size(&self.progress.active) > MAX_ACTIVE_BYTES {
            self.progress.active.pop();
        }
    }

    /// Keeps why the job failed or waits, within the record's bounds.
    pub(super) fn set_reason(&mut self, reason: Reason, message: &str) {
        self.reason = Some(reason);
        self.message = Some(clipped(message, MAX_MESSAGE));
    }

    /// The dead letter of a job whose record cannot be read.
    pub(super) fn unreadable(id: JobId, seq: u64, raw: &Value, invalid: &Invalid, now: Timestamp) -> Self {
        let kind = raw.get("kind").cloned().and_then(|kind| serde_json::from_value(kind).ok());
        let mut record = Self {
            job: clipped_payload(raw),
            state: State::Failed,
            anonymous: true,
            finished_at: Some(now),
            // A kind that this larder does not know has no queue of its own to lie in.
            ..Self::new(id, kind.unwrap_or(Kind::Download), seq, now)
        };
        record.set_reason(invalid.reason(), &format!("{invalid}; hint: {}", invalid.hint()));
        record
    }
}

/// The hash by which a want is compared.
pub(super) fn want_of(work: &Work) -> String {
    hex::encode(Sha256::digest(work.want()))
}

/// The payload itself if it is small, else the beginning of its text.
pub(super) fn clipped_payload(raw: &Value) -> Value {
    if json_size(raw) <= MAX_RAW { raw.clone() } else { Value::String(clipped(&raw.to_string(), MAX_RAW)) }
}

/// Bytes of `value` as JSON.
pub(super) fn json_size<T: Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// Adds `name` unless it is there; false if there is no room.
fn remember(names: &mut Vec<String>, name: &str) -> bool {
    if names.iter().any(|known| known == name) {
        return true;
    }
    names.push(name.to_owned());
    let fits = names.len() <= MAX_NAMES && json_size(names) <= MAX_NAMES_BYTES;
    if !fits {
        names.pop();
    }
    fits
}

/// The longest beginning of `text` that is at most `max` bytes of JSON.
fn clipped(text: &str, max: usize) -> String {
    if json_size(&text) <= max {
        return text.to_owned();
    }
    let mut size = "\"…\"".len();
    let fitting = text.chars().take_while(|c| {
        // The quotes around a single character make up for the longest escape.
        size += json_size(c) - 2;
        size <= max
    });
    fitting.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::FileProgress;
    use serde_json::json;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

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
    }

    #[test]
    fn the_view_names_the_model_and_tells_until_when() {
        let record: Record = serde_json::from_value(golden()).expect("reads");
        let view = record.view("gpu-1");
        assert_eq!(view.repo.map(String::from).as_deref(), Some("openai-community/gpt2"));
        assert_eq!(view.until, Some(time("2026-01-02T03:04:06Z")));
        assert_eq!((view.hosts, view.bytes_done), (vec!["gpu-1".to_owned()], 4));
        let unreadable = Record { job: json!("?"), state: State::Queued, ..record };
        let view = unreadable.view("gpu-1");
        assert_eq!((view.repo, view.until), (None, None));
    }

    #[test]
    fn the_largest_record_is_below_32_kib() {
        let mut record: Record = serde_json::from_value(golden()).expect("reads");
        record.job = json!("x".repeat(MAX_PAYLOAD - 2));
        record.set_reason(Reason::IoError, &"\u{1}\"é".repeat(9_999));
        for n in 0..99 {
            record.remember_requester(Some(&format!("{n}{}", "\"é".repeat(62))));
            record.remember_key(Some(&format!("{n}{}", "k".repeat(125))));
        }
        let file = FileProgress { path: "\u{1}".repeat(1_024), bytes_total: u64::MAX, bytes_done: u64::MAX };
        record.set_progress(Progress { active: vec![file; 99], ..record.progress.clone() });
        record.path = Some("p".repeat(4_096));
        assert!(record.anonymous && record.requesters.len() > 10 && record.keys.len() > 40);
        assert!(json_size(&record) < 32 << 10, "{}", json_size(&record));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(clipped("short", 100), "short");
        let cut = clipped(&"é\n".repeat(100), 50);
        assert!(json_size(&cut) <= 50 && cut.ends_with('…') && cut.len() > 30, "{cut:?}");
    }
}
