//! The steps that everybody may take: ask for a job, look, call it off, try it again. Workers have a few more,
//! which live with them.

use std::collections::HashSet;
use std::time::Duration;

use redis::Value;

use super::connection::{Connection, Step};
use super::error::{Error, Result};
use super::row::{self, Unreadable};
use crate::{
    Cursor, HostName, HostState, Invalid, Job, JobId, JobView, Kind, Reason, Record, State, Target, Work,
};

/// Jobs that may wait, unless the caller says otherwise; further ones are refused.
const MAX_QUEUED: usize = 100_000;
/// How long an ended job can be looked up, unless the caller says otherwise.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Failed jobs that are looked at together.
const REDRIVE: usize = 256;

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The job ended at once.
    Ended,
    /// A worker holds the job and was told to stop.
    Stopping,
    /// Others want the job too, so it goes on.
    Wanted,
    /// The job had ended before.
    Over,
}

/// The queue in Redis, as records. Programs other than larder use [`super::Client`].
#[derive(Debug, Clone)]
pub struct Queue {
    pub(super) connection: Connection,
    pub(super) max_queued: usize,
    pub(super) retention: Duration,
}

impl Queue {
    /// The queue behind `connection`, with larder's default bounds.
    pub fn new(connection: Connection) -> Self {
        Self { connection, max_queued: MAX_QUEUED, retention: RETENTION }
    }

    /// With other bounds: jobs of one kind that may wait, and how long an ended one is kept.
    #[must_use]
    pub fn with_bounds(self, max_queued: usize, retention: Duration) -> Self {
        Self { max_queued, retention, ..self }
    }

    /// The way to Redis.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Puts a job into the queue of `target` under the name `id`, or joins the one in flight that does the same;
    /// says whether it is a new one. Repeating it with the same id changes nothing.
    ///
    /// # Errors
    /// `invalid_request` for a job that breaks the contract, `queue_unavailable` if the queue is full or away.
    pub async fn enqueue(&self, id: JobId, job: &Job, target: &Target) -> Result<(bool, Record)> {
        self.enqueue_placed(id, job, target, None).await
    }

    /// The same, with why the job is for that queue.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_placed(
        &self,
        id: JobId,
        job: &Job,
        target: &Target,
        placed: Option<&str>,
    ) -> Result<(bool, Record)> {
        let step = self.request("enqueue", id, job, target)?.maybe(placed);
        self.accepted(&self.connection.run(&step).await?)
    }

    /// The step that puts a job into a queue.
    pub(super) fn request(&self, verb: &str, id: JobId, job: &Job, target: &Target) -> Result<Step> {
        let step = request(id, job, target)?.iter().fold(Step::new(verb), Step::arg);
        Ok(step.arg(self.max_queued).maybe(job.common.notify.as_ref()))
    }

    /// The answer to that step.
    pub(super) fn accepted(&self, reply: &Value) -> Result<(bool, Record)> {
        if let Some(word) = row::text(reply) {
            return Err(refused(&word));
        }
        let (word, record) = pair(reply)?;
        Ok((matches!(word, Value::Int(1)), self.record(record)?))
    }

    /// The job, if it is known.
    ///
    /// # Errors
    /// `queue_unavailable`, or `internal` for a record that cannot be read.
    pub async fn get(&self, id: JobId) -> Result<Option<Record>> {
        match self.look(id).await? {
            Some(record) => Ok(Some(record)),
            None => self.asked_for(id).await,
        }
    }

    pub(super) async fn look(&self, id: JobId) -> Result<Option<Record>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(format!("{}job:{id}", self.connection.address().prefix()));
        match self.connection.command(&command).await? {
            Value::Array(list) if list.is_empty() => Ok(None),
            Value::Map(pairs) => {
                let flat = pairs.into_iter().flat_map(|(name, value)| [name, value]).collect();
                self.record(&Value::Array(flat)).map(Some)
            }
            reply => self.record(&reply).map(Some),
        }
    }

    /// At most `limit` jobs of these kinds, the newest first, from behind `after` on; those that cannot be read are
    /// left out. With `host` those that wait for it or that it took last, among the 10,000 newest of each state. While
    /// more than 2,000 are queued, one that was put back among them may be missing behind `after`.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn list(
        &self,
        kinds: &[Kind],
        state: Option<State>,
        host: Option<&HostName>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        // Beyond this Redis takes no number for an index.
        let limit = limit.min(u32::MAX as usize);
        let mut ask = limit;
        loop {
            let step = Step::new("list").arg(ask).maybe(state);
            let step = step
                .maybe(after.map(|after| after.seq))
                .maybe(after.map(|after| after.created_at.as_microsecond()))
                .maybe(host);
            let step = kinds.iter().fold(step, Step::arg);
            let Value::Array(rows) = self.connection.run(&step).await? else { return Err(strange()) };
            let mut records: Vec<_> = rows.iter().filter_map(|row| row::read(row).ok()).collect();
            // So that a page is short only when it is the last one.
            if rows.len() < ask || records.len() >= limit {
                records.truncate(limit);
                return Ok(records);
            }
            ask += rows.len() - records.len();
        }
    }

    /// Takes back one requester's wish, or everybody's if none is named.
    ///
    /// # Errors
    /// `not_found` for an id that the queue does not know, `queue_unavailable`.
    pub async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<(Outcome, Record)> {
        let step = Step::new("cancel").arg(id).maybe(requester).arg(self.retention.as_micros());
        let reply = self.connection.run(&step).await?;
        if row::text(&reply).is_some() {
            return match self.led_to(id).await? {
                Some(joined) => Box::pin(self.cancel(joined, requester)).await,
                None => Err(unknown(id)),
            };
        }
        let (word, record) = pair(&reply)?;
        let outcome = match row::text(word).as_deref() {
            Some("ended") => Outcome::Ended,
            Some("stopping") => Outcome::Stopping,
            Some("wanted") => Outcome::Wanted,
            Some("over") => Outcome::Over,
            _ => return Err(strange()),
        };
        Ok((outcome, self.record(record)?))
    }

    /// Runs a failed or cancelled job again, with all its attempts.
    ///
    /// # Errors
    /// `not_found`; `invalid_request` if it has not failed, cannot be read, or another job does the same.
    pub async fn retry(&self, id: JobId) -> Result<Record> {
        let before = self.get(id).await?.ok_or_else(|| unknown(id))?;
        if matches!(before.state, State::Failed | State::Cancelled) {
            before.decode()?;
        }
        let reply = self.connection.run(&Step::new("retry").arg(id)).await?;
        let Some(word) = row::text(&reply) else { return self.record(&reply) };
        match word.split_once(' ') {
            Some(("STATE", state)) => Err(Error::new(
                Reason::InvalidRequest,
                format!("the job {id} is {state}; only a failed or cancelled job can be retried"),
                "ask for the same again instead; one that has not ended can be cancelled first",
            )),
            Some(("TAKEN", other)) => Err(Error::new(
                Reason::InvalidRequest,
                format!("the job {other} in flight does the same as {id}"),
                format!("follow it with `larder jobs show {other}`"),
            )),
            _ => Err(unknown(id)),
        }
    }

    /// Runs every failed job of a kind again, unless something in flight does the same; returns how many.
    ///
    /// # Errors
    /// `queue_unavailable`; some may have been run again by then.
    pub async fn redrive(&self, kind: Kind) -> Result<usize> {
        let (mut count, mut passed_over) = (0, HashSet::new());
        loop {
            let failed =
                self.list(&[kind], Some(State::Failed), None, None, REDRIVE + passed_over.len()).await?;
            let fresh: Vec<_> = failed.iter().filter(|record| !passed_over.contains(&record.id)).collect();
            if fresh.is_empty() {
                return Ok(count);
            }
            for record in fresh {
                // It may have been retried or forgotten since; one that cannot be read stays where it is.
                match self.retry(record.id).await {
                    Ok(_) => count += 1,
                    Err(error) if error.reason() == Reason::QueueUnavailable => return Err(error),
                    Err(_) => {
                        passed_over.insert(record.id);
                    }
                }
            }
        }
    }

    /// Whether a larder has been there within the last minute that takes jobs of `target`.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn is_served(&self, target: &Target) -> Result<bool> {
        let prefix = self.connection.address().prefix();
        let (word, key) = match target {
            Target::Host(name) => ("EXISTS", format!("{prefix}host:{name}")),
            Target::Pool | Target::Only => ("ZCARD", format!("{prefix}hosts")),
        };
        let mut command = redis::cmd(word);
        command.arg(key);
        Ok(matches!(self.connection.command(&command).await?, Value::Int(1..)))
    }

    /// A job as others see it; of one that is queued while nobody is there who could take it the message says so.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn view(&self, record: &Record, only: Option<&str>) -> Result<JobView> {
        let mut view = record.view(only);
        if record.state == State::Queued && view.message.is_none() {
            view.message = self.nobody_for(&record.target).await?;
        }
        Ok(view)
    }

    async fn nobody_for(&self, target: &Target) -> Result<Option<String>> {
        const HINT: &str =
            "hint: see larder hosts; start larder serve there, or cancel the job and ask another host";
        let is_served = self.is_served(target).await?;
        Ok(match target {
            Target::Only => None,
            Target::Host(name) => (!is_served)
                .then(|| format!("no larder called {name} is there; the job waits for it; {HINT}")),
            Target::Pool if !is_served => {
                Some(format!("no larder is there; the job waits for the first that comes; {HINT}"))
            }
            Target::Pool => self.is_everybody_drained().await?.then(|| {
                "every host that is there is drained; hint: see larder hosts, and larder hosts undrain"
                    .to_owned()
            }),
        })
    }

    async fn is_everybody_drained(&self) -> Result<bool> {
        let mut command = redis::cmd("EXISTS");
        command.arg(format!("{}drained", self.connection.address().prefix()));
        // Most often nobody is, and the hosts of a large fleet need not be asked for.
        if matches!(self.connection.command(&command).await?, Value::Int(0)) {
            return Ok(false);
        }
        Ok(!self.hosts().await?.iter().any(HostState::is_up))
    }

    pub(super) fn retention(&self) -> Duration {
        self.retention
    }

    pub(super) fn record(&self, reply: &Value) -> Result<Record> {
        row::read(reply).map_err(|unreadable| {
            let Unreadable { id, invalid, .. } = *unreadable;
            let id = id.map_or_else(|| "?".into(), |id| id.to_string());
            Error::new(Reason::Internal, format!("the job {id}: {invalid}"), invalid.hint())
        })
    }
}

/// What a step takes of a job: id kind target want job priority deadline not_before requester key pin bandwidth lease
/// window bandwidth_outside.
///
/// # Errors
/// `invalid_request` for a job that breaks the contract.
pub(super) fn request(id: JobId, job: &Job, target: &Target) -> Result<[String; 15]> {
    let common = &job.common;
    let micros = |time: Option<jiff::Timestamp>| time.map(|time| time.as_microsecond().to_string());
    let download = match &job.work {
        Work::Download(download) => Some(download),
        _ => None,
    };
    let bandwidth = download.and_then(|download| download.bandwidth).map(crate::Bandwidth::bytes);
    let outside = download.and_then(|download| download.bandwidth_outside).map(crate::Bandwidth::bytes);
    let lease = download.and_then(|download| download.lease_ttl).map(|ttl| ttl.get().as_secs());
    Ok([
        id.to_string(),
        job.work.kind().to_string(),
        target.to_string(),
        job.work.want_hash(),
        job.payload()?.to_string(),
        common.priority.to_string(),
        micros(common.deadline).unwrap_or_default(),
        micros(common.not_before).unwrap_or_default(),
        common.requested_by.clone().unwrap_or_default(),
        common.idempotency_key.clone().unwrap_or_default(),
        u8::from(download.is_some_and(|download| download.pin)).to_string(),
        bandwidth.map(|bandwidth| bandwidth.to_string()).unwrap_or_default(),
        lease.map(|lease| lease.to_string()).unwrap_or_default(),
        download.and_then(|download| download.window.as_ref()).map(ToString::to_string).unwrap_or_default(),
        outside.map(|outside| outside.to_string()).unwrap_or_default(),
    ])
}

/// Why the queue did not take a job.
pub(super) fn refused(word: &str) -> Error {
    match word.split_once(' ') {
        Some(("FULL", waiting)) => Error::new(
            Reason::QueueUnavailable,
            format!("{waiting} jobs are queued, which is queue.max_queued"),
            "try again when some are done, cancel some, or raise queue.max_queued",
        ),
        Some(("BATCH" | "KEYED", id)) => keyed_otherwise(id).into(),
        _ => strange(),
    }
}

/// A key stands for something else than what is asked for with it.
pub fn keyed_otherwise(id: impl std::fmt::Display) -> Invalid {
    Invalid::new(
        format!("the idempotency key belongs to {id}, which was asked for something else"),
        format!("use a key of its own for each request; see larder jobs show {id}"),
    )
}

/// Nothing of a batch can be tried again.
pub fn none_to_retry(id: JobId) -> Invalid {
    let what = format!("none of the jobs of {id} failed or was cancelled");
    Invalid::new(what, format!("see each with larder jobs show {id}"))
}

/// A reply of two parts.
pub(super) fn pair(reply: &Value) -> Result<(&Value, &Value)> {
    match reply {
        Value::Array(parts) if parts.len() == 2 => Ok((&parts[0], &parts[1])),
        _ => Err(strange()),
    }
}

/// A reply that no version of the steps gives.
pub fn strange() -> Error {
    Error::new(
        Reason::Internal,
        "the queue gave an answer that larder does not know",
        "this is a fault of larder; please report it with the version of Redis",
    )
}

/// The queue does not know the job.
pub(super) fn unknown(id: JobId) -> Error {
    Error::new(
        Reason::NotFound,
        format!("there is no job {id}"),
        "see `larder jobs list`; ended jobs are forgotten after queue.retention",
    )
}
