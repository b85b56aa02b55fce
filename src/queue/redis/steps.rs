//! The steps that only workers take: claim, renew, settle, reap, count.

use std::time::Duration;

use jiff::SignedDuration;
use larder_jobs::client::{Reply, Step, Unreadable, read_record, reply_text, strange, write_record};
use larder_jobs::{JobId, Kind, Progress, Record, State};

use super::Redis;
use crate::error::{Error, Result};
use crate::queue::store::SLACK_OF;
use crate::queue::{Claim, Claimed, Reaped, Renewal, Settled, Settlement, Stats, bounds, rules};

/// Most jobs that one step of tidying changes, so that Redis is not kept from others.
const CHUNK: usize = 256;
/// Most rounds of tidying at a time.
const ROUNDS: usize = 64;

impl Redis {
    fn lease(&self) -> u128 {
        self.config.lease.get().as_micros()
    }

    fn retention(&self) -> u128 {
        self.config.retention.get().as_micros()
    }

    async fn run(&self, step: Step) -> Result<Reply> {
        Ok(self.queue.connection().run(&step).await?)
    }

    pub(super) async fn take(&self, kind: Kind) -> Result<Claimed> {
        loop {
            let nonce = self.nonce(kind);
            let step = Step::new("claim")
                .arg(kind)
                .arg(&self.host)
                .arg(&nonce)
                .arg(self.lease())
                .arg(self.retention())
                .arg(self.target(&larder_jobs::Hosts::This))
                .arg(larder_jobs::Target::Pool);
            let reply = match self.run(step).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.held().unanswered.push((kind, nonce));
                    return Err(error);
                }
            };
            let [word, answer, missed] = parts(&reply)?;
            for record in list(missed) {
                self.observer.step(None, &record);
            }
            if !matches!(word, Reply::Int(1)) {
                let wait = reply_text(answer).filter(|text| !text.is_empty());
                let wait = wait.map(|text| text.parse().map(Duration::from_micros)).transpose();
                return Ok(Claimed::Nothing { wait: wait.map_err(|_| strange())? });
            }
            match read_record(answer) {
                Ok(record) => {
                    let token = record.token;
                    self.held().jobs.insert(record.id, record.clone());
                    return Ok(Claimed::Job(Box::new(Claim { record, token })));
                }
                Err(unreadable) => self.bury(kind, answer, &unreadable).await?,
            }
        }
    }

    /// The number of a claim of this kind that was never answered, else a new one.
    fn nonce(&self, kind: Kind) -> String {
        let mut held = self.held();
        match held.unanswered.iter().position(|(asked, _)| *asked == kind) {
            Some(at) => held.unanswered.swap_remove(at).1,
            None => JobId::random(jiff::Timestamp::now()).to_string(),
        }
    }

    /// A claimed job whose record cannot be read becomes a dead letter; the worker goes on.
    async fn bury(&self, kind: Kind, row: &Reply, unreadable: &Unreadable) -> Result<()> {
        let field = |name: &str| {
            let Reply::Array(list) = row else { return None };
            let mut pairs = list.chunks_exact(2).map(|pair| (reply_text(&pair[0]), reply_text(&pair[1])));
            // A later one replaces an earlier one.
            pairs.rfind(|(key, _)| key.as_deref() == Some(name)).and_then(|(_, value)| value)
        };
        let error = Error::from(unreadable.invalid.clone());
        let id = field("id");
        tracing::error!(job = id, %error, "a job cannot be read; it is kept as failed");
        let step = Step::new("bury")
            .maybe(id.as_deref())
            .maybe(field("token"))
            .arg(kind)
            .arg(error.reason())
            .arg(bounds::message(&error.message()))
            .arg(bounds::clipped_payload(&unreadable.raw))
            .arg(self.retention());
        self.run(step).await?;
        match id.and_then(|id| id.parse().ok()) {
            Some(id) => self.ended_unread(id).await,
            None => crate::metrics::job_failed(kind, error.reason()),
        }
        Ok(())
    }

    /// A request or a record that could not be read has become a dead letter, which counts and is told of like every end.
    pub(super) async fn ended_unread(&self, id: JobId) {
        match self.queue.get(id).await {
            Ok(Some(record)) => self.observer.step(None, &record),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, job = %id, "the end of a job is not counted"),
        }
    }

    pub(super) async fn prolong(
        &self,
        id: JobId,
        token: u64,
        state: State,
        progress: Progress,
    ) -> Result<Renewal> {
        let progress = bounds::progress(progress);
        let step = Step::new("renew").arg(id).arg(token).arg(state).arg(json(&progress)?).arg(self.lease());
        let reply = self.run(step).await?;
        match reply_text(&reply).as_deref() {
            Some("HELD") => Ok(Renewal::Held { cancel: false }),
            Some("CANCEL") => Ok(Renewal::Held { cancel: true }),
            Some("GONE") if self.put_back(id, token, Some((state, progress))).await? => {
                Ok(Renewal::Held { cancel: false })
            }
            Some("GONE" | "LOST") => {
                self.let_go(id, token);
                Ok(Renewal::Lost)
            }
            _ => Err(strange().into()),
        }
    }

    /// Redis does not know a job that runs here: it lost its data. The job is put back as it stands, and goes on
    /// also if another one does the same by now.
    async fn put_back(&self, id: JobId, token: u64, now: Option<(State, Progress)>) -> Result<bool> {
        let Some(mut record) = self.held().jobs.get(&id).filter(|record| record.token == token).cloned()
        else {
            return Ok(false);
        };
        if let Some((state, progress)) = now {
            (record.state, record.progress) = (state, progress);
        }
        let fields = write_record(&record);
        let step = Step::new("restore").arg(self.lease());
        let step = fields.iter().fold(step, |step, (name, value)| step.arg(name).arg(value));
        let back = matches!(self.run(step).await?, Reply::Int(1));
        self.emptied.notify_one();
        tracing::warn!(job = %id, back, "the queue has lost a job that runs here: Redis was emptied; the job goes on");
        Ok(true)
    }

    pub(super) async fn end_attempt(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled> {
        let before = self.held().jobs.get(&id).filter(|record| record.token == token).cloned();
        let step = self.settlement(id, token, settlement, before.as_ref()).await?;
        let mut reply = self.run(step.clone()).await?;
        if reply_text(&reply).as_deref() == Some("GONE") && self.put_back(id, token, None).await? {
            reply = self.run(step).await?;
        }
        self.let_go(id, token);
        if reply_text(&reply).is_some() {
            return Ok(Settled::Fenced);
        }
        let record = read_record(&reply).map_err(|unreadable| Error::from(unreadable.invalid))?;
        if let Some(before) = &before {
            self.observer.step(Some(before), &record);
        }
        Ok(Settled::Done(Box::new(record)))
    }

    async fn settlement(
        &self,
        id: JobId,
        token: u64,
        settlement: Settlement,
        held: Option<&Record>,
    ) -> Result<Step> {
        let step = Step::new("settle").arg(id).arg(token);
        let none = Duration::ZERO;
        let (how, reason, message, pause) = match &settlement {
            Settlement::Done(_) => ("done", None, "", none),
            Settlement::Fail { reason, message } => ("fail", Some(*reason), message.as_str(), none),
            Settlement::Cancelled => ("cancelled", None, "", none),
            Settlement::Release => ("release", None, "", none),
            Settlement::Wait { reason, message, wait } => {
                ("wait", Some(*reason), message.as_str(), (*wait).min(rules::MAX_WAIT))
            }
            Settlement::Retry { reason, message, after } => {
                let attempts = match held {
                    Some(record) => record.attempts,
                    None => self.queue.get(id).await?.map_or(1, |record| record.attempts),
                };
                let least = after.unwrap_or_default().min(rules::MAX_RETRY_AFTER);
                let pause = rules::backoff(id, attempts, &self.config).max(least);
                ("retry", Some(*reason), message.as_str(), pause)
            }
        };
        // A payload that cannot be read is kept, but not all of a large one.
        let unreadable = held.filter(|record| how == "fail" && record.decode().is_err());
        let (progress, path) = match &settlement {
            Settlement::Done(done) => (json(&bounds::progress(done.progress.clone()))?, done.path.clone()),
            _ => (String::new(), None),
        };
        Ok(step
            .arg(how)
            .maybe(reason)
            .arg(bounds::message(message))
            .arg(pause.as_micros())
            .arg(self.config.max_attempts)
            .arg(self.retention())
            .arg(progress)
            .maybe(path)
            .maybe(unreadable.map(|record| bounds::clipped_payload(&record.job))))
    }

    pub(super) async fn count(&self) -> Result<Stats> {
        if let Some(error) = self.held().absent.clone() {
            return Err(error);
        }
        let mut stats = Stats::default();
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        let step = Step::new("stats").arg(kinds.join(",")).arg(SLACK_OF);
        let step = State::ALL.iter().fold(step, Step::arg);
        let Reply::Array(rows) = self.run(step).await? else { return Err(strange().into()) };
        for (kind, row) in Kind::ALL.iter().zip(&rows) {
            let Reply::Array(counts) = row else { return Err(strange().into()) };
            let number = |reply: &Reply| reply_text(reply).and_then(|text| text.parse::<u64>().ok());
            for (state, count) in State::ALL.iter().zip(counts) {
                let count = number(count).and_then(|count| usize::try_from(count).ok());
                stats.jobs.insert((*kind, *state), count.ok_or_else(strange)?);
            }
            if let Some(age) = counts.get(State::ALL.len()).and_then(number) {
                stats.oldest_queued.insert(*kind, Duration::from_micros(age));
            }
            let slack = counts.get(State::ALL.len() + 1).and_then(reply_text);
            if let Some(micros) = slack.and_then(|text| text.parse().ok()) {
                stats.deadline_slack.insert(*kind, SignedDuration::from_micros(micros));
            }
        }
        Ok(stats)
    }

    pub(super) async fn tidy(&self) -> Result<Reaped> {
        let mut reaped = Reaped::default();
        for _ in 0..ROUNDS {
            let step = Step::new("reap")
                .arg(CHUNK)
                .arg(self.config.max_attempts)
                .arg(self.retention())
                .arg(self.config.max_finished);
            let reply = self.run(step).await?;
            let [steps, purged, late, owed] = parts(&reply)?;
            let Reply::Array(steps) = steps else { return Err(strange().into()) };
            for after in steps.iter().filter_map(|row| read_record(row).ok()) {
                tracing::warn!(
                    job = %after.id,
                    host = after.owner.as_ref().map(tracing::field::display),
                    attempt = after.attempts,
                    state = %after.state,
                    "the worker of a job vanished"
                );
                let before = Record { state: State::Planning, ..after.clone() };
                self.observer.step(Some(&before), &after);
                // The claim was given up: it must not bring the job back once it is forgotten.
                self.held().jobs.retain(|id, held| *id != after.id || held.token >= after.token);
                if after.state.is_terminal() { reaped.ended += 1 } else { reaped.returned += 1 }
            }
            for after in list(late) {
                tracing::warn!(job = %after.id, "a job was not done by its deadline");
                self.observer.step(Some(&Record { state: State::Queued, ..after.clone() }), &after);
                reaped.ended += 1;
            }
            if !matches!(owed, Reply::Int(0)) {
                self.owed.notify_one();
            }
            let purged: usize = reply_text(purged).and_then(|n| n.parse().ok()).ok_or_else(strange)?;
            reaped.purged += purged;
            if steps.len() < CHUNK && purged < CHUNK {
                break;
            }
        }
        self.watch_fleet().await?;
        Ok(reaped)
    }
}

/// A reply of so many parts.
fn parts<const N: usize>(reply: &Reply) -> Result<&[Reply; N]> {
    match reply {
        Reply::Array(list) => list.as_slice().try_into().map_err(|_| strange().into()),
        _ => Err(strange().into()),
    }
}

/// The records in a reply; those that cannot be read are left out.
fn list(reply: &Reply) -> Vec<Record> {
    match reply {
        Reply::Array(rows) => rows.iter().filter_map(|row| read_record(row).ok()).collect(),
        _ => Vec::new(),
    }
}

fn json(progress: &Progress) -> Result<String> {
    serde_json::to_string(progress).map_err(|error| Error::internal(format!("progress is no JSON: {error}")))
}
