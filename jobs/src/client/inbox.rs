//! The inbox: requests of programs in other languages (`FCALL larder_enqueue`), which a larder takes out, checks and
//! queues under the id that the program was given.
//!
//! A request is taken out by the same atomic step that queues it, so it is taken once, whoever dies. One that joins a
//! job in flight leaves its id there as a key of that job.

use redis::Value;

use super::choose::Want;
use super::connection::Step;
use super::error::Result;
use super::queue::{Queue, strange};
use super::row;
use crate::{Hosts, Job, JobId, Kind, Reason, Record, State, Target};

/// Digits of an id.
const ID: usize = 26;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id that the program was given, and that its job will have.
    pub id: JobId,
    /// JSON, checked by nobody yet.
    pub request: String,
}

impl Entry {
    fn read(text: &str) -> Option<Self> {
        let (id, request) = text.split_at_checked(ID)?;
        Some(Self { id: id.parse().ok()?, request: request.to_owned() })
    }
}

impl Queue {
    /// At most `limit` requests that wait to be taken, behind the first `skip` of them; nothing is changed.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn inbox(&self, skip: usize, limit: usize) -> Result<Vec<Entry>> {
        match self.connection().run(&Step::new("inbox").arg(skip).arg(limit)).await? {
            Value::Array(entries) => {
                Ok(entries.iter().filter_map(row::text).filter_map(|text| Entry::read(&text)).collect())
            }
            _ => Err(strange()),
        }
    }

    /// Takes the request `id` out of the inbox and queues it as `job`, as [`Queue::enqueue`] does; `None` if somebody
    /// else has taken it before.
    ///
    /// # Errors
    /// As [`Queue::enqueue`], and for a host that no larder ever was; the request is still there.
    pub async fn deliver(
        &self,
        id: JobId,
        job: &Job,
        target: &Target,
        placed: Option<&str>,
    ) -> Result<Option<(bool, Record)>> {
        let note = match target {
            Target::Host(name) if placed.is_none() => self.absence(name).await?,
            _ => None,
        };
        let placed = placed.or(note.as_deref());
        let step = self.request("deliver", id, job, target)?.maybe(placed).arg(self.retention().as_micros());
        match self.connection().run(&step).await? {
            Value::Nil => Ok(None),
            reply => self.accepted(&reply).map(Some),
        }
    }

    /// Takes the request `id` out of the inbox and queues it for the hosts that it is for, several under its id as a batch;
    /// `want` is what is known of its size where the best host is to be found.
    /// A larder that dies in between has queued it under the same id, which the next one finds.
    ///
    /// # Errors
    /// As [`Queue::submit`]; the request is still there.
    pub async fn deliver_to_chosen(&self, id: JobId, job: &Job, want: Want) -> Result<()> {
        if let Hosts::Best(labels) = &job.common.hosts {
            let chosen = self.best(job, labels, want).await?;
            self.deliver(id, job, &Target::Host(chosen.host), Some(&chosen.why)).await?;
            return Ok(());
        }
        let led = self.submit_as(id, job, None, want).await?.id();
        let step = Step::new("handled").arg(id).arg(led).arg(self.retention().as_micros());
        self.connection().run(&step).await?;
        Ok(())
    }

    /// Takes the request `id` out of the inbox as a failed job that says why; whether it was still there.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn turn_away(
        &self,
        id: JobId,
        kind: Kind,
        reason: Reason,
        why: &str,
        request: &str,
    ) -> Result<bool> {
        let step = Step::new("turn_away")
            .arg(id)
            .arg(kind)
            .arg(reason)
            .arg(why)
            .arg(request)
            .arg(self.retention().as_micros());
        Ok(matches!(self.connection().run(&step).await?, Value::Int(1)))
    }

    /// The job that the request `id` joined.
    pub(super) async fn led_to(&self, id: JobId) -> Result<Option<JobId>> {
        let mut command = redis::cmd("GET");
        command.arg(format!("{}key:{id}", self.connection().address().prefix()));
        let reply = self.connection().command(&command).await?;
        Ok(row::text(&reply).and_then(|id| id.parse().ok()))
    }

    /// What became of the request `id`, if it is no job under its own name: it joined another one, or nobody has looked
    /// at it yet, and then it is queued.
    pub(super) async fn asked_for(&self, id: JobId) -> Result<Option<Record>> {
        if let Some(joined) = self.led_to(id).await? {
            return self.look(joined).await;
        }
        let mut command = redis::cmd("ZRANGE");
        command.arg(format!("{}inbox", self.connection().address().prefix()));
        command.arg(format!("[{id}")).arg([format!("[{id}").as_bytes(), b"\xff"].concat());
        command.arg("BYLEX").arg("LIMIT").arg(0).arg(1);
        let Value::Array(found) = self.connection().command(&command).await? else { return Err(strange()) };
        let entry = found.first().and_then(row::text).and_then(|text| Entry::read(&text));
        Ok(entry.map(|entry| {
            let job =
                serde_json::from_str(&entry.request).unwrap_or(serde_json::Value::String(entry.request));
            let kind = job["kind"].as_str().and_then(|word| word.parse().ok()).unwrap_or(Kind::Download);
            let record = Record::new(id, kind, 0, id.asked_at());
            Record { job, state: State::Queued, target: Target::Pool, anonymous: true, ..record }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_an_id_and_a_request() {
        let entry = Entry::read("01JDFP00000000000000000000{\"v\":1}").expect("an entry");
        assert_eq!(
            (entry.id.to_string().as_str(), entry.request.as_str()),
            ("01JDFP00000000000000000000", "{\"v\":1}")
        );
        for text in ["", "01JDFP", "?1JDFP00000000000000000000{}", "01JDFP0000000000000000000ü{}"] {
            assert_eq!(Entry::read(text), None, "{text}");
        }
    }
}
