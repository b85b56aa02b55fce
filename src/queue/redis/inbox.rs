//! The inbox: what programs asked for with `FCALL larder_enqueue` is checked here, as every request is, and queued under
//! the id that they were given.
//!
//! One larder is told of each request and takes all that wait; each hears at every heartbeat whether some wait, should the
//! one that was told be gone. A request is taken out by the step that queues it, so two who look at the same do no harm.

use std::convert::Infallible;

use larder_jobs::client::{Entry, Library, Want};
use larder_jobs::{Common, Hosts, Job, JobId, Kind, MAX_PAYLOAD, Reason, TokenRef};
use serde_json::Value;

use super::Redis;
use crate::error::{Error, Result};
use crate::queue::bounds;

/// Requests that are looked at together.
const CHUNK: usize = 64;
/// A round ends when so many requests cannot be queued now.
const MOST_STAY: usize = 512;

impl Redis {
    /// Empties the inbox whenever there is something in it, as far as anybody knows.
    pub(super) async fn tend_inbox(&self) -> Infallible {
        loop {
            // While the queue is away there is nothing to take; who attends says so.
            if let Err(error) = self.empty_inbox().await {
                tracing::debug!(%error, "the inbox cannot be emptied");
            }
            self.inbox.notified().await;
        }
    }

    /// Takes out what is there. What this larder may not take, or nobody just now, stays and holds up nothing behind it.
    async fn empty_inbox(&self) -> Result<()> {
        let mut stays = 0;
        loop {
            let entries = self.queue.inbox(stays, CHUNK).await?;
            if entries.is_empty() {
                return Ok(());
            }
            // All at once: a hub that is slow holds up a chunk once, and not once for each of its requests.
            let sizes = entries.iter().map(|entry| self.size(entry));
            let sizes = futures_util::future::join_all(sizes).await;
            for (entry, want) in entries.iter().zip(sizes) {
                stays += usize::from(!self.take_in(entry, want).await?);
            }
            if stays >= MOST_STAY {
                return Ok(());
            }
        }
    }

    /// What is known of the size of a request's model, where that decides who takes it.
    async fn size(&self, entry: &Entry) -> Want {
        match (self.sizer.get(), read(&entry.request)) {
            (Some(sizer), Ok(job)) if matches!(job.common.hosts, Hosts::Best(_)) => sizer(job).await,
            _ => Want::default(),
        }
    }

    /// Whether a request stays that cannot be queued now: there is no room for its kind, or no host for it.
    ///
    /// # Errors
    /// `queue_unavailable` if the queue is away, for all of them.
    async fn stays(&self, entry: &Entry, error: &larder_jobs::client::Error) -> Result<bool> {
        self.queue.inbox(0, 1).await?;
        tracing::debug!(request = %entry.id, %error, "a request waits in the inbox");
        Ok(false)
    }

    /// Queues one request or turns it away; whether it is out of the inbox.
    async fn take_in(&self, entry: &Entry, want: Want) -> Result<bool> {
        let invalid = match read(&entry.request) {
            Ok(job) => {
                if job.common.hosts.are_chosen() {
                    return self.take_in_for_chosen(entry, &job, want).await;
                }
                let target = self.target(&job.common.hosts);
                match self.queue.deliver(entry.id, &job, &target, None).await {
                    Ok(answer) => {
                        if let Some((created, record)) = answer {
                            tracing::info!(job = %record.id, request = %entry.id, created, "a request was taken in");
                            audit(record.id, &job);
                        }
                        return Ok(true);
                    }
                    Err(error) if error.reason() == Reason::QueueUnavailable => {
                        return self.stays(entry, &error).await;
                    }
                    Err(error) => Error::from(error),
                }
            }
            // A newer larder of the fleet may take it.
            Err(invalid) if invalid.reason() == Reason::UnsupportedVersion => return Ok(false),
            Err(invalid) => invalid,
        };
        self.turn_away(entry, &invalid).await
    }

    /// The same for hosts that are chosen by who is there.
    async fn take_in_for_chosen(&self, entry: &Entry, job: &Job, want: Want) -> Result<bool> {
        match self.queue.deliver_to_chosen(entry.id, job, want).await {
            Ok(()) => {
                tracing::info!(request = %entry.id, hosts = %job.common.hosts, "a request was taken in");
                audit(entry.id, job);
                Ok(true)
            }
            Err(error) if error.reason() == Reason::QueueUnavailable => self.stays(entry, &error).await,
            Err(error) => self.turn_away(entry, &error.into()).await,
        }
    }

    async fn turn_away(&self, entry: &Entry, invalid: &Error) -> Result<bool> {
        let raw = serde_json::from_str(&entry.request).unwrap_or_else(|_| entry.request.clone().into());
        let raw = without_secrets(raw);
        let kind = raw["kind"].as_str().and_then(|word| word.parse().ok()).unwrap_or(Kind::Download);
        let (why, payload) = (bounds::message(&invalid.message()), bounds::clipped_payload(&raw).to_string());
        if self.queue.turn_away(entry.id, kind, invalid.reason(), &why, &payload).await? {
            self.ended_unread(entry.id).await;
            tracing::warn!(request = %entry.id, reason = %invalid.reason(), "a request was turned away: {invalid}");
        }
        Ok(true)
    }

    /// Gives the server the functions that fill the inbox, if it has none and lets us.
    pub(super) async fn offer_functions(&self, told: &mut bool) {
        if !self.config.functions {
            return;
        }
        match self.queue.connection().load_library().await {
            Ok(Library::Loaded) => tracing::info!("the functions larder_enqueue and larder_job are in Redis"),
            Ok(Library::Known | Library::Unsupported) => {}
            Err(error) if !std::mem::replace(told, true) => tracing::info!(
                "the Redis functions for other languages cannot be loaded: {error}; load them by hand (larder config \
                 functions), and set queue.functions = false"
            ),
            Err(_) => {}
        }
    }
}

/// One line of the audit log, as the API writes them.
fn audit(id: JobId, job: &Job) {
    tracing::info!(
        target: "audit",
        who = "redis",
        what = "enqueue",
        job = %id,
        kind = job.work.kind().word(),
        model = job.work.model().0.map(tracing::field::display),
        hosts = %job.common.hosts,
        requested_by = job.common.requested_by,
        outcome = "done",
        "somebody asked for a change"
    );
}

/// What is kept of a request that nobody takes: a token in the place of its name, or a login in an address, would lie in
/// Redis for as long as it.
fn without_secrets(mut request: Value) -> Value {
    let is_name = |text: &str| text.parse::<TokenRef>().is_ok();
    let is_address = |text: &str| {
        let common = Common { notify: Some(text.to_owned()), ..Common::default() };
        common.validate().is_ok()
    };
    let fine = [
        ("token_ref", request["token_ref"].as_str().is_some_and(is_name)),
        ("notify", request["notify"].as_str().is_some_and(is_address)),
    ];
    for (field, is_fine) in fine {
        if let Some(value) = request.get_mut(field).filter(|_| !is_fine) {
            *value = "[redacted]".into();
        }
    }
    request
}

/// Checks a request that came from a program elsewhere.
fn read(request: &str) -> Result<Job> {
    let invalid = |what: &str, hint: &str| Error::new(Reason::InvalidRequest, what, hint);
    if request.len() > MAX_PAYLOAD {
        return Err(invalid("the job is larger than 8 KiB", "use fewer, wider patterns"));
    }
    let value = serde_json::from_str(request)
        .map_err(|error| invalid(&format!("the request is no JSON: {error}"), "send one JSON object"))?;
    let job = Job::from_json(value)?;
    match job.common.hosts {
        Hosts::This => Err(invalid(
            "the job is for \"this\" host, and it came through Redis",
            "set `hosts` to a host's name, or to \"pool\" for any one",
        )),
        _ => Ok(job),
    }
}

#[cfg(test)]
mod tests;
