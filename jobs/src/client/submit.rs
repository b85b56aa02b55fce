//! From a job and the hosts that it is for to jobs in queues: who they are is decided when the job is asked for.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::choose::{self, Want};
use super::connection::Step;
use super::error::{Error, Result};
use super::fleet::{Placed, Title};
use super::queue::{Queue, strange};
use super::row;
use crate::{Batch, HostName, Hosts, Job, JobId, JobView, Labels, Reason, Record, Target, Work};

/// With so many hosts a download does not start everywhere at once, so that a hub is not asked by all in one moment.
const CROWD: usize = 8;
/// Their starts are spread over so much for each of them, and over this at most.
const SPREAD: Duration = Duration::from_millis(50);
/// So long a queue may not have heard of every host of the fleet.
const YOUNG: Duration = Duration::from_secs(120);
const MAX_SPREAD: Duration = Duration::from_secs(10);

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// One job.
    One {
        /// Whether it is a new one; `false` means that one in flight does the same.
        created: bool,
        /// The job.
        record: Box<Record>,
    },
    /// One job for each of several hosts.
    Many {
        /// Whether it is a new batch.
        created: bool,
        /// The batch.
        batch: Box<Batch>,
        /// Its jobs.
        records: Vec<Record>,
    },
}

impl Submitted {
    /// Whether it is a new one.
    pub fn created(&self) -> bool {
        match self {
            Self::One { created, .. } | Self::Many { created, .. } => *created,
        }
    }

    /// The job's id, or the batch's.
    pub fn id(&self) -> JobId {
        match self {
            Self::One { record, .. } => record.id,
            Self::Many { batch, .. } => batch.id,
        }
    }

    /// As others see it.
    pub fn view(&self, only: Option<&str>) -> JobView {
        match self {
            Self::One { record, .. } => record.view(only),
            Self::Many { batch, records, .. } => batch.view(records, only),
        }
    }
}

impl Queue {
    /// Puts a job into the queues of the hosts that it is for. `this` is the host of whoever asks; `want` is what is
    /// known of the job's size where the best host is to be found.
    ///
    /// # Errors
    /// `invalid_request` for a job that breaks the contract, for hosts or labels that the fleet does not know, and for
    /// "this" host of nobody's; `queue_unavailable` if nobody takes such a job or the queue is full or away.
    pub async fn submit(&self, job: &Job, this: Option<&HostName>, want: Want) -> Result<Submitted> {
        self.submit_as(JobId::random(Timestamp::now()), job, this, want).await
    }

    /// The same under an id of the caller's.
    pub(super) async fn submit_as(
        &self,
        id: JobId,
        job: &Job,
        this: Option<&HostName>,
        want: Want,
    ) -> Result<Submitted> {
        match &job.common.hosts {
            Hosts::Pool => self.submit_to(id, job, Target::Pool, None).await,
            Hosts::This => match this {
                Some(this) => self.submit_to(id, job, Target::Host(this.clone()), None).await,
                None => Err(nobody()),
            },
            Hosts::Named(names) if names.len() == 1 => {
                let target = Target::Host(names[0].clone());
                let note = self.absence(&names[0]).await?;
                self.submit_to(id, job, target, note.as_deref()).await
            }
            Hosts::Best(labels) => {
                let chosen = self.best(job, labels, want).await?;
                self.submit_to(id, job, Target::Host(chosen.host), Some(&chosen.why)).await
            }
            Hosts::Named(names) => {
                let hosts = self.hosts().await?;
                let names = choose::named(names, &hosts)?.iter().map(|host| host.name.clone()).collect();
                self.fan_out(id, job, names).await
            }
            Hosts::All => self.to_labelled(id, job, &Labels::default()).await,
            Hosts::Labelled(labels) => self.to_labelled(id, job, labels).await,
        }
    }

    /// The best host for a job now, of those with these labels.
    ///
    /// # Errors
    /// `invalid_request` if no host has these labels; `queue_unavailable` if none that has them takes jobs, or the queue is
    /// away.
    pub async fn best(&self, job: &Job, labels: &Labels, want: Want) -> Result<choose::Chosen> {
        let hosts = self.hosts().await?;
        let held = match job.work.model().0 {
            Some(repo) => self.holders(repo).await?,
            None => Vec::new(),
        };
        // Whoever has it tells how large it is.
        let bytes = want.bytes.or_else(|| held.iter().map(|model| model.bytes).max());
        let holders = held.into_iter().map(|model| model.host).collect();
        choose::best(Want { bytes, ..want }, labels, &hosts, &holders)
    }

    async fn submit_to(&self, id: JobId, job: &Job, target: Target, why: Option<&str>) -> Result<Submitted> {
        let (created, record) = self.enqueue_placed(id, job, &target, why).await?;
        Ok(Submitted::One { created, record: record.into() })
    }

    /// What to say of a host that is not there: the job waits for it.
    ///
    /// # Errors
    /// `invalid_request` for a name that no larder ever had. A queue that is as young as this may not have heard of all.
    pub(super) async fn absence(&self, name: &HostName) -> Result<Option<String>> {
        if self.is_served(&Target::Host(name.clone())).await? {
            return Ok(None);
        }
        let hosts = self.hosts().await?;
        let is_young = || async { Ok::<_, Error>(self.age().await? < YOUNG) };
        let note = format!("no larder called {name} is there now; the job waits for it");
        if hosts.iter().any(|host| host.name == *name && host.seen_at.is_some()) {
            return Ok(Some(note));
        }
        if hosts.iter().any(|host| host.seen_at.is_some()) && !is_young().await? {
            choose::named(std::slice::from_ref(name), &hosts)?;
        }
        Ok(Some(format!("{note}; {}", choose::near_hosts(name, &hosts))))
    }

    /// For how long the queue has been there: since it was first used, or emptied.
    async fn age(&self) -> Result<Duration> {
        let reply = self.connection().run(&Step::new("age")).await?;
        let micros = row::text(&reply).and_then(|micros| micros.parse().ok()).ok_or_else(strange)?;
        Ok(Duration::from_micros(micros))
    }

    async fn to_labelled(&self, id: JobId, job: &Job, labels: &Labels) -> Result<Submitted> {
        let hosts = self.hosts().await?;
        let names = choose::labelled(labels, &hosts)?.iter().map(|host| host.name.clone()).collect();
        self.fan_out(id, job, names).await
    }

    async fn fan_out(&self, id: JobId, job: &Job, names: Vec<HostName>) -> Result<Submitted> {
        let now = Timestamp::now();
        let payload = job.payload()?;
        let title = Title {
            id,
            requested_by: job.common.requested_by.clone(),
            idempotency_key: job.common.idempotency_key.clone(),
            name: None,
            asks: payload.to_string(),
            job: Some(payload),
            notify: job.common.notify.clone(),
        };
        let count = names.len();
        let placed: Vec<_> = names.into_iter().map(|name| for_host(job, name, count, now)).collect();
        let (created, id) = self.enqueue_all(&title, &placed).await?;
        let (batch, records) = self.batch(id).await?.ok_or_else(strange)?;
        Ok(Submitted::Many { created, batch: batch.into(), records })
    }
}

/// The job of one host among `count`.
fn for_host(job: &Job, name: HostName, count: usize, now: Timestamp) -> Placed {
    let mut job = job.clone();
    job.common.idempotency_key = None;
    if matches!(job.work, Work::Download(_)) && count >= CROWD {
        let begin = job.common.not_before.unwrap_or(now).max(now);
        job.common.not_before = begin.checked_add(delay(&name, count)).ok().or(job.common.not_before);
    }
    job.common.hosts = Hosts::named(name.clone());
    Placed { id: JobId::random(now), job, target: Target::Host(name), why: None }
}

/// How much later than the first a host starts: always the same for its name.
fn delay(name: &HostName, count: usize) -> SignedDuration {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(name.as_str());
    let part = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    let spread = SPREAD.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).min(MAX_SPREAD);
    SignedDuration::try_from(spread.mul_f64(part)).unwrap_or_default()
}

/// Nobody knows which host "this" is.
pub(super) fn nobody() -> Error {
    Error::new(
        Reason::InvalidRequest,
        "the job is for \"this\" host, and this program runs on none",
        "set `hosts` to a host's name, or to \"pool\" for any one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_starts_one_after_the_other_and_always_alike() {
        let job = Job::download("a/b".parse().expect("a model"));
        let now = Timestamp::UNIX_EPOCH;
        let starts = |count: usize| -> Vec<_> {
            let names = (0..count).map(|n| format!("gpu-{n}").parse().expect("a name"));
            names.map(|name| for_host(&job, name, count, now).job.common.not_before).collect()
        };
        assert!(starts(CROWD - 1).iter().all(Option::is_none), "few start at once");
        let many = starts(400);
        assert_eq!(many, starts(400));
        let (first, last) =
            (many.iter().flatten().min().expect("one"), many.iter().flatten().max().expect("one"));
        assert!(last.duration_since(*first) > SignedDuration::from_secs(8), "{first} {last}");
        assert!(last.duration_since(now) <= SignedDuration::from_secs(10), "{last}");
    }
}
