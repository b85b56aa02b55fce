//! What a night did: the runs of schedules, the downloads that ended, those that still wait, where the bytes came from, and
//! what went too early.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_jobs::{CameBack, CommitId, HostName, JobId, JobView, Kind, RepoId, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PastRun;

/// Who asks for the jobs of manifests.
const WARM: &str = "warm";

/// Which part of a report a job is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Done,
    Skipped,
    Failed,
    Cancelled,
    Waiting,
    Running,
}

/// One download.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportRow {
    /// The job.
    pub id: JobId,
    /// The model, `owner/name@revision`, as far as it is known.
    pub model: String,
    /// Its hosts, as far as they are known.
    pub hosts: Vec<String>,
    /// Bytes of its files.
    pub bytes_total: Option<u64>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// When a worker took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it failed or waits.
    pub reason: Option<String>,
    /// The same in words, with what to do.
    pub message: Option<String>,
    /// Until when it waits.
    pub until: Option<Timestamp>,
}

/// A model that was evicted and came back within a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Regret {
    /// Where.
    pub host: String,
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Bytes that became free, and had to come again.
    pub bytes: u64,
    /// When it went.
    pub evicted_at: Timestamp,
    /// When it came back.
    pub back_at: Timestamp,
}

/// What went: on this host for whatever reason, on others what jobs made go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evicted {
    /// Revisions.
    pub models: u64,
    /// Bytes that became free.
    pub bytes: u64,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The host that tells it.
    pub host: HostName,
    /// The jobs are those of all hosts of a fleet; the runs are this host's.
    #[serde(default)]
    pub is_fleet: bool,
    /// The beginning of the time that it is about.
    pub from: Timestamp,
    /// The end.
    pub to: Timestamp,
    /// Only what this requester asked for.
    pub requested_by: Option<String>,
    /// Runs of this host's schedules, the oldest first.
    #[serde(default)]
    pub runs: Vec<PastRun>,
    /// Staged, with bytes that came for it.
    pub done: Vec<ReportRow>,
    /// Staged before; nothing came.
    pub skipped: Vec<ReportRow>,
    /// Ended without success.
    pub failed: Vec<ReportRow>,
    /// Called off.
    pub cancelled: Vec<ReportRow>,
    /// Not ended: waits, or is queued.
    pub waiting: Vec<ReportRow>,
    /// Not ended: a worker is at it.
    pub running: Vec<ReportRow>,
    /// How many failed, by reason.
    pub failed_by_reason: BTreeMap<String, usize>,
    /// How many wait, by reason; `queued` for those that wait for a worker only.
    pub waiting_by_reason: BTreeMap<String, usize>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// Where those of the staged models came from, by source; what attempts before the last one fetched is in none of them.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// What went.
    pub evicted: Evicted,
    /// What of it should have stayed.
    pub regretted: Vec<Regret>,
    /// There were more jobs than are looked at, so the oldest are missing.
    pub is_partial: bool,
}

impl Report {
    /// A report without anything in it.
    pub fn new(host: HostName, from: Timestamp, to: Timestamp, requested_by: Option<String>) -> Self {
        Self {
            host,
            is_fleet: false,
            from,
            to,
            requested_by,
            runs: Vec::new(),
            done: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
            cancelled: Vec::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            failed_by_reason: BTreeMap::new(),
            waiting_by_reason: BTreeMap::new(),
            bytes_fetched: 0,
            bytes_by_source: BTreeMap::new(),
            evicted: Evicted::default(),
            regretted: Vec::new(),
            is_partial: false,
        }
    }

    /// Adds those runs of schedules that were due or were tried in that time, if it is about manifests.
    pub fn add_runs(&mut self, runs: &[PastRun]) {
        if self.requested_by.as_ref().is_none_or(|name| name == WARM) {
            let told = runs.iter().filter(|run| run.at >= self.from && run.due <= self.to);
            self.runs.extend(told.cloned());
        }
    }

    /// Whether something failed, or was not asked for although a schedule says so.
    pub fn is_wrong(&self) -> bool {
        !self.failed.is_empty() || self.runs.iter().any(PastRun::is_wrong)
    }

    /// Whether no download was asked for.
    pub fn is_empty(&self) -> bool {
        [&self.done, &self.skipped, &self.failed, &self.cancelled, &self.waiting, &self.running]
            .iter()
            .all(|rows| rows.is_empty())
    }

    /// Adds a job, if it is a download of that time and that requester; says whether it is.
    pub fn add(&mut self, job: &JobView) -> bool {
        let is_theirs = self.requested_by.as_ref().is_none_or(|name| job.requested_by.contains(name));
        let is_in_time = match job.finished_at {
            Some(at) => at >= self.from && at <= self.to,
            None => !job.state.is_terminal(),
        };
        if job.kind != Kind::Download || !is_theirs || !is_in_time {
            return false;
        }
        let row = row(job);
        let reason = row.reason.clone();
        self.bytes_fetched = self.bytes_fetched.saturating_add(job.bytes_fetched);
        for (source, bytes) in &job.bytes_by_source {
            *self.bytes_by_source.entry(source.clone()).or_default() += bytes;
        }
        let rows = match part(job) {
            Part::Done => &mut self.done,
            Part::Skipped => &mut self.skipped,
            Part::Failed => {
                *self.failed_by_reason.entry(reason.unwrap_or_else(|| "unknown".into())).or_default() += 1;
                &mut self.failed
            }
            Part::Cancelled => &mut self.cancelled,
            Part::Waiting => {
                *self.waiting_by_reason.entry(reason.unwrap_or_else(|| "queued".into())).or_default() += 1;
                &mut self.waiting
            }
            Part::Running => &mut self.running,
        };
        rows.push(row);
        true
    }

    /// Adds what a job of that time made go, or brought back too soon, on another host than the one that tells, which
    /// remembers its own; whoever asked for it.
    pub fn add_evictions(&mut self, job: &JobView) {
        let is_in_time = job.finished_at.is_some_and(|at| at >= self.from && at <= self.to);
        let Some(host) = job.hosts.first().filter(|host| *host != self.host.as_str() && is_in_time) else {
            return;
        };
        let (models, bytes) = match job.kind {
            // Of a dry run no byte became free.
            Kind::Evict if job.bytes_done == 0 => (0, 0),
            Kind::Evict => (job.files_done, job.bytes_done),
            _ => (job.evicted.len() as u64, job.evicted.iter().map(|gone| gone.bytes).sum()),
        };
        self.evicted.models += models;
        self.evicted.bytes = self.evicted.bytes.saturating_add(bytes);
        let repo = job.chosen.as_ref().map(|chosen| &chosen.repo).or(job.repo.as_ref());
        if let (Some(back), Some(repo), Some(commit)) = (&job.came_back, repo, &job.commit) {
            let CameBack { bytes, evicted_at, back_at } = **back;
            let (host, repo, commit) = (host.clone(), repo.clone(), commit.clone());
            self.regretted.push(Regret { host, repo, commit, bytes, evicted_at, back_at });
        }
    }
}

fn part(job: &JobView) -> Part {
    match job.state {
        State::Ready | State::Done if job.bytes_fetched > 0 => Part::Done,
        State::Ready | State::Done => Part::Skipped,
        State::Failed => Part::Failed,
        State::Cancelled => Part::Cancelled,
        state if state.is_running() => Part::Running,
        _ => Part::Waiting,
    }
}

fn row(job: &JobView) -> ReportRow {
    let revision = job.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
    ReportRow {
        id: job.id,
        model: job.repo.as_ref().map_or_else(|| "unknown".into(), |repo| format!("{repo}{revision}")),
        hosts: job.hosts.clone(),
        bytes_total: job.bytes_total,
        bytes_fetched: job.bytes_fetched,
        started_at: job.started_at,
        finished_at: job.finished_at,
        reason: job.reason.map(|reason| reason.word().to_owned()),
        message: job.message.clone(),
        until: job.until,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use larder_jobs::{Job, Reason, Record};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn job(state: State, fetched: u64, finished: Option<&str>, by: &str) -> JobView {
        let mut record =
            Record::new(JobId::new(Timestamp::UNIX_EPOCH, 7), Kind::Download, 0, at("2026-06-01T20:00:00Z"));
        let wanted = Job::download("a/b@main".parse().expect("a model"));
        record.job = serde_json::to_value(&wanted).expect("JSON");
        record.state = state;
        record.progress.bytes_fetched = fetched;
        record.finished_at = finished.map(at);
        record.requesters = vec![by.to_owned()];
        record.view(Some("gpu-1"))
    }

    #[test]
    fn a_night_that_was_not_asked_for_is_wrong() {
        let (from, to) = (at("2026-06-01T18:00:00Z"), at("2026-06-02T06:00:00Z"));
        let report = |by: Option<&str>, run: &PastRun| {
            let mut report = Report::new("gpu-1".parse().expect("a name"), from, to, by.map(str::to_owned));
            report.add_runs(std::slice::from_ref(run));
            report
        };
        let run = PastRun::new("/etc/night.toml".into(), at("2026-06-01T17:00:00Z"));
        let ended = |outcome| run.ended(outcome, None, at("2026-06-01T19:00:00Z"));
        for (outcome, is_wrong) in [
            (Outcome::Asked, false),
            (Outcome::Elsewhere, false),
            (Outcome::Trying, true),
            (Outcome::Refused, true),
            (Outcome::Failed, true),
        ] {
            let report = report(None, &ended(outcome));
            assert_eq!((report.runs.len(), report.is_wrong(), report.is_empty()), (1, is_wrong, true));
        }
        assert_eq!(report(Some("warm"), &ended(Outcome::Failed)).runs.len(), 1);
        assert!(!report(Some("pod-7"), &ended(Outcome::Failed)).is_wrong(), "somebody else's");
        assert!(!report(None, &run).is_wrong(), "before it");
        let dropped = PastRun { dropped_more: 1, ..ended(Outcome::Asked) };
        assert!(report(None, &dropped).is_wrong());
    }

    #[test]
    fn a_night_is_told_in_parts() {
        let (from, to) = (at("2026-06-01T18:00:00Z"), at("2026-06-02T06:00:00Z"));
        let mut report = Report::new("gpu-1".parse().expect("a name"), from, to, Some("warm".into()));
        let night = Some("2026-06-02T01:00:00Z");
        assert!(report.add(&job(State::Ready, 5, night, "warm")));
        assert!(report.add(&job(State::Ready, 0, night, "warm")));
        let failed = JobView { reason: Some(Reason::Gated), ..job(State::Failed, 2, night, "warm") };
        assert!(report.add(&failed));
        let shut = JobView { reason: Some(Reason::OutsideWindow), ..job(State::Waiting, 3, None, "warm") };
        assert!(report.add(&shut));
        assert!(report.add(&job(State::Queued, 0, None, "warm")));
        assert!(report.add(&job(State::Fetching, 1, None, "warm")));
        assert!(report.add(&job(State::Cancelled, 0, night, "warm")));
        assert!(!report.add(&job(State::Ready, 5, Some("2026-06-01T17:59:59Z"), "warm")), "before it");
        assert!(!report.add(&job(State::Ready, 5, night, "pod-7")), "somebody else's");
        let sizes = [
            &report.done,
            &report.skipped,
            &report.failed,
            &report.cancelled,
            &report.waiting,
            &report.running,
        ];
        assert_eq!(sizes.map(Vec::len), [1, 1, 1, 1, 2, 1]);
        assert_eq!(report.failed_by_reason, BTreeMap::from([("gated".into(), 1)]));
        assert_eq!(
            report.waiting_by_reason,
            BTreeMap::from([("outside_window".into(), 1), ("queued".into(), 1)])
        );
        assert_eq!((report.bytes_fetched, report.done[0].model.as_str()), (11, "a/b@main"));
    }
}
