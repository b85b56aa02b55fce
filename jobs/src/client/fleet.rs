//! The steps that a fleet adds: who is there and has what, who takes no jobs, and jobs that are asked for together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use redis::Value;
use serde_json::json;

use super::connection::Step;
use super::error::{Error, Result};
use super::queue::{Queue, refused, request, strange, unknown};
use super::row;
use crate::{
    Bandwidth, Batch, Drain, Ended, FleetLimits, FleetLimitsChange, HeldModel, HostName, HostState, Job,
    JobId, Kind, MAX_BATCH, MAX_LIMITED_SOURCES, Presence, Reason, Record, RepoId, SourceLimits,
    SourceLimitsChange, SourceName, Target,
};

/// Changes of a host's stock that travel together.
const CHANGES: usize = 256;

/// A job of a batch, for one queue.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The id that it gets unless it joins one in flight.
    pub id: JobId,
    /// The job.
    pub job: Job,
    /// The queue.
    pub target: Target,
    /// Why it is for that queue.
    pub why: Option<String>,
}

/// What a batch is, beside its jobs.
#[derive(Debug, Clone)]
pub struct Title {
    /// Its id; repeating it changes nothing.
    pub id: JobId,
    /// Who asks for it.
    pub requested_by: Option<String>,
    /// A second request with this key answers the batch of the first.
    pub idempotency_key: Option<String>,
    /// What it is called: the name of a manifest.
    pub name: Option<String>,
    /// The payload, if it is one for several hosts.
    pub job: Option<serde_json::Value>,
    /// What is asked for, as a text that is the same whenever the same is: the payload, or the manifest's digest. A key
    /// answers nothing else.
    pub asks: String,
    /// Who is told when all of its jobs have ended.
    pub notify: Option<String>,
}

/// What the queue owes to those who want to be told of ends.
#[derive(Debug, Default)]
pub struct Notices {
    /// Jobs that have ended.
    pub jobs: Vec<Record>,
    /// Batches whose jobs have all ended, with those that are still known.
    pub batches: Vec<(Batch, Vec<Record>)>,
    /// How long until there may be another one.
    pub next: Option<Duration>,
}

/// Who asks for the jobs of a schedule's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// This host.
    Mine,
    /// Another one, now.
    Taken(String),
    /// Nobody any more; somebody has.
    Ended,
}

impl Queue {
    /// Puts all of these jobs into their queues, or none of them; each may join one in flight that does the same. Says
    /// whether the batch is a new one.
    ///
    /// # Errors
    /// `invalid_request` for a job that breaks the contract, or more than [`MAX_BATCH`] of them; `queue_unavailable` if
    /// the queue has no room for all or is away. Asking again with the same id is safe.
    pub async fn enqueue_all(&self, title: &Title, jobs: &[Placed]) -> Result<(bool, JobId)> {
        if jobs.is_empty() || jobs.len() > MAX_BATCH {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("{} jobs at once; 1 to {MAX_BATCH} may be asked for together", jobs.len()),
                "ask for them in several parts",
            ));
        }
        let mut rows = Vec::with_capacity(jobs.len());
        for placed in jobs {
            let mut fields = request(placed.id, &placed.job, &placed.target)?.to_vec();
            fields.push(placed.job.common.notify.as_ref().map(ToString::to_string).unwrap_or_default());
            fields.push(placed.why.clone().unwrap_or_default());
            rows.push(fields);
        }
        let wants: BTreeSet<_> = rows.iter().map(|row| format!("{} {}", row[2], row[3])).collect();
        let step = Step::new("enqueue_all")
            .arg(title.id)
            .arg(self.max_queued)
            .maybe(title.idempotency_key.as_ref())
            .maybe(title.requested_by.as_ref())
            .maybe(title.name.as_ref())
            .maybe(title.job.as_ref())
            .arg(hash(&wants))
            .arg(&title.asks)
            .maybe(title.notify.as_ref())
            .arg(json!(rows));
        let reply = self.connection.run(&step).await?;
        if let Some(word) = row::text(&reply) {
            return Err(refused(&word));
        }
        let Value::Array(parts) = &reply else { return Err(strange()) };
        let id = parts.get(1).and_then(row::text).and_then(|id| id.parse().ok()).ok_or_else(strange)?;
        Ok((matches!(parts.first(), Some(Value::Int(1))), id))
    }

    /// A batch and those of its jobs that are still known, if there is a batch of that id.
    ///
    /// # Errors
    /// `queue_unavailable`, or `internal` for one that cannot be read.
    pub async fn batch(&self, id: JobId) -> Result<Option<(Batch, Vec<Record>)>> {
        let reply = self.connection.run(&Step::new("batch").arg(id)).await?;
        if row::text(&reply).is_some() {
            return Ok(None);
        }
        // Of one whose jobs are all forgotten nobody knows what they did.
        Ok(Some(batch(&reply)?).filter(|(_, records)| !records.is_empty()))
    }

    /// At most `limit` ends of which somebody wants to be told, for this caller alone for as long as `lease`.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn notices(&self, limit: usize, lease: Duration) -> Result<Notices> {
        let step = Step::new("notices").arg(limit).arg(lease.as_micros());
        let Value::Array(parts) = self.connection.run(&step).await? else { return Err(strange()) };
        let [Value::Array(jobs), Value::Array(batches), next] = parts.as_slice() else {
            return Err(strange());
        };
        let next = row::text(next).and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
        Ok(Notices {
            jobs: jobs.iter().filter_map(|row| row::read(row).ok()).collect(),
            batches: batches.iter().filter_map(|row| batch(row).ok()).collect(),
            next,
        })
    }

    /// The notice of a job's end, or that of its batch, is written down and needs no other teller.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn noticed(&self, end: &Ended<'_>) -> Result<()> {
        let step = match end {
            Ended::Job(job) => {
                let ended = job.finished_at.unwrap_or(job.created_at);
                Step::new("noticed").arg(job.id).arg(ended.as_microsecond())
            }
            Ended::Batch(batch, _) => Step::new("noticed").arg(format_args!("batch:{}", batch.id)).arg(""),
        };
        self.connection.run(&step).await.map(drop)
    }

    /// Every host that the fleet knows, by name.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn hosts(&self) -> Result<Vec<HostState>> {
        let reply = self.connection.run(&Step::new("hosts")).await?;
        let Value::Array(rows) = &reply else { return Err(strange()) };
        let mut hosts: Vec<_> = rows.iter().filter_map(host).collect();
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(hosts)
    }

    /// How many hosts were there a moment ago.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn present(&self) -> Result<u32> {
        let mut command = redis::cmd("ZCARD");
        command.arg(format!("{}hosts", self.connection.address().prefix()));
        let reply = self.connection.command(&command).await?;
        row::text(&reply).and_then(|hosts| hosts.parse().ok()).ok_or_else(strange)
    }

    /// Which hosts have this repo, and what of it.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn holders(&self, repo: &RepoId) -> Result<Vec<HeldModel>> {
        let held = self.pairs(&format!("has:{repo}")).await?;
        let read = |(place, value): &(String, String)| {
            let (host, commit) = place.rsplit_once('@')?;
            held_model(host, &repo.to_string(), commit, value)
        };
        Ok(held.iter().filter_map(read).collect())
    }

    /// What a host has in its cache, by repo and commit.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn stock(&self, host: &HostName) -> Result<Vec<HeldModel>> {
        let held = self.pairs(&format!("stock:{host}")).await?;
        let read = |(place, value): &(String, String)| {
            let (repo, commit) = place.rsplit_once('@')?;
            held_model(host.as_str(), repo, commit, value)
        };
        let mut held: Vec<_> = held.iter().filter_map(read).collect();
        held.sort_by(|one, other| {
            (&one.repo, one.commit.as_str()).cmp(&(&other.repo, other.commit.as_str()))
        });
        Ok(held)
    }

    async fn pairs(&self, key: &str) -> Result<Vec<(String, String)>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(format!("{}{key}", self.connection.address().prefix()));
        let reply = self.connection.command(&command).await?;
        let flat = match reply {
            Value::Map(pairs) => {
                Value::Array(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect())
            }
            other => other,
        };
        Ok(row::fields(&flat).into_iter().collect())
    }

    /// Tells what changed in a host's cache: models that it has, and with `false` those that it has no more.
    ///
    /// # Errors
    /// `queue_unavailable`; a part may have been told by then, and may be told again.
    pub async fn restock(&self, host: &HostName, changes: &[(HeldModel, bool)]) -> Result<()> {
        for some in changes.chunks(CHANGES) {
            let rows: Vec<_> = some
                .iter()
                .map(|(model, there)| {
                    let used = model.last_used_at.map_or(String::new(), |at| at.as_second().to_string());
                    let value = if *there { format!("{} {used}", model.bytes) } else { String::new() };
                    json!([model.repo, model.commit, value])
                })
                .collect();
            self.connection.run(&Step::new("stock").arg(host).arg(json!(rows))).await?;
        }
        Ok(())
    }

    /// The host takes no more jobs; what runs there goes on. Jobs of its queue wait with `host_drained`.
    ///
    /// # Errors
    /// `not_found` for a host that the fleet does not know, with the nearest names; `queue_unavailable`.
    pub async fn drain(&self, host: &HostName, by: Option<&str>) -> Result<()> {
        let reply = self
            .connection
            .run(&Step::new("drain").arg(host).maybe(by).arg(self.retention().as_micros()))
            .await?;
        if matches!(reply, Value::Int(1)) {
            return Ok(());
        }
        Err(super::choose::stranger(host, &self.hosts().await?))
    }

    /// The host takes jobs again.
    ///
    /// # Errors
    /// As [`Queue::drain`].
    pub async fn undrain(&self, host: &HostName) -> Result<()> {
        let hosts = self.hosts().await?;
        if !hosts.iter().any(|known| known.name == *host) {
            return Err(super::choose::stranger(host, &hosts));
        }
        for kind in Kind::ALL {
            let mut skip = 0_usize;
            loop {
                let reply = self.connection.run(&Step::new("undrain").arg(host).arg(kind).arg(skip)).await?;
                let (woken, passed) = super::queue::pair(&reply)?;
                let number = |value: &Value| row::text(value).and_then(|n| n.parse::<usize>().ok());
                let (woken, passed) = number(woken).zip(number(passed)).ok_or_else(strange)?;
                if woken == 0 {
                    break;
                }
                skip += passed;
            }
        }
        Ok(())
    }

    /// What all hosts of the fleet together may take.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn limits(&self) -> Result<FleetLimits> {
        Ok(limits(&self.connection.run(&Step::new("limits")).await?))
    }

    /// Changes what all hosts together may take; every larder follows within seconds.
    ///
    /// # Errors
    /// `invalid_request` if more than [`MAX_LIMITED_SOURCES`] sources would have limits; `queue_unavailable`.
    pub async fn change_limits(&self, change: &FleetLimitsChange) -> Result<()> {
        let text = |number: Option<String>| number.unwrap_or_default();
        let mut fields = BTreeMap::new();
        let mut put = |source: Option<&SourceName>, part: &SourceLimitsChange| {
            let field =
                |name: &str| source.map_or_else(|| name.to_owned(), |source| format!("{name} {source}"));
            if let Some(bandwidth) = part.bandwidth {
                fields
                    .insert(field(BANDWIDTH), text(bandwidth.map(|bandwidth| bandwidth.bytes().to_string())));
            }
            if let Some(requests) = part.requests_per_second {
                fields.insert(field(REQUESTS), text(requests.map(|requests| requests.to_string())));
            }
        };
        let FleetLimitsChange { bandwidth, requests_per_second, sources } = change;
        put(None, &SourceLimitsChange { bandwidth: *bandwidth, requests_per_second: *requests_per_second });
        sources.iter().for_each(|(source, part)| put(Some(source), part));
        let step = Step::new("limit").arg(MAX_LIMITED_SOURCES).arg(json!(fields));
        let reply = self.connection.run(&step).await?;
        if row::text(&reply).is_some() {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("more than {MAX_LIMITED_SOURCES} sources would have limits of their own"),
                "lift those of sources that are not used any more",
            ));
        }
        Ok(())
    }

    /// What the fleet may take, and among how many hosts; `active` says whether `host` is one of them.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn share(&self, host: &HostName, active: bool) -> Result<(FleetLimits, u32)> {
        let reply = self.connection.run(&Step::new("share").arg(host).arg(u8::from(active))).await?;
        let (fields, hosts) = super::queue::pair(&reply)?;
        let hosts = row::text(hosts).and_then(|hosts| hosts.parse().ok()).ok_or_else(strange)?;
        Ok((limits(fields), hosts))
    }

    /// Makes `host` the one that asks for the jobs of a schedule's run, for so long, unless another one does or did.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn take_run(&self, run: &str, host: &HostName, ttl: Duration) -> Result<Run> {
        let reply =
            self.connection.run(&Step::new("take_run").arg(run).arg(host).arg(ttl.as_millis())).await?;
        match row::text(&reply).ok_or_else(strange)? {
            by if by.is_empty() => Ok(Run::Ended),
            by if by == host.as_str() => Ok(Run::Mine),
            by => Ok(Run::Taken(by)),
        }
    }

    /// The jobs of the run were asked for; for so long nobody asks again.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn end_run(&self, run: &str, ttl: Duration) -> Result<()> {
        self.connection.run(&Step::new("end_run").arg(run).arg(ttl.as_millis())).await.map(drop)
    }

    /// `host` cannot ask for the jobs of the run: another one may.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn leave_run(&self, run: &str, host: &HostName) -> Result<()> {
        self.connection.run(&Step::new("leave_run").arg(run).arg(host)).await.map(drop)
    }

    /// Takes back one requester's wish for a job or for every job of a batch; says what became of each.
    ///
    /// # Errors
    /// As [`Queue::cancel`].
    pub async fn cancel_all(&self, id: JobId, requester: Option<&str>) -> Result<()> {
        let (batch, _) = self.batch(id).await?.ok_or_else(|| unknown(id))?;
        for job in batch.jobs {
            match self.cancel(job, requester).await {
                Err(error) if error.reason() != Reason::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs every job of a batch again that failed or was cancelled, unless something in flight does the same; returns
    /// how many.
    ///
    /// # Errors
    /// `not_found`, `invalid_request` if none of them did, `queue_unavailable`.
    pub async fn retry_all(&self, id: JobId) -> Result<usize> {
        let (_, records) = self.batch(id).await?.ok_or_else(|| unknown(id))?;
        let mut ended = records
            .iter()
            .filter(|job| matches!(job.state, crate::State::Failed | crate::State::Cancelled))
            .peekable();
        if ended.peek().is_none() {
            return Err(super::queue::none_to_retry(id).into());
        }
        let mut count = 0;
        for record in ended {
            match self.retry(record.id).await {
                Ok(_) => count += 1,
                Err(error) if error.reason() == Reason::QueueUnavailable => return Err(error),
                Err(_) => {}
            }
        }
        Ok(count)
    }
}

/// Fields of the hash of limits, followed by a space and the source if they are of one.
const BANDWIDTH: &str = "bandwidth";
const REQUESTS: &str = "requests";

/// The limits that a hash holds; what cannot be read is no limit.
fn limits(fields: &Value) -> FleetLimits {
    let mut limits = FleetLimits::default();
    for (field, value) in row::fields(fields) {
        let (name, source) =
            field.split_once(' ').map_or((field.as_str(), None), |(name, of)| (name, Some(of)));
        let source = match source.map(str::parse).transpose() {
            Ok(source) => source.map(|source| limits.sources.entry(source).or_default()),
            Err(_) => continue,
        };
        let (bandwidth, requests) = match source {
            Some(SourceLimits { bandwidth, requests_per_second }) => (bandwidth, requests_per_second),
            None => (&mut limits.bandwidth, &mut limits.requests_per_second),
        };
        match name {
            BANDWIDTH => *bandwidth = value.parse().ok().and_then(|bytes| Bandwidth::new(bytes).ok()),
            REQUESTS => *requests = value.parse().ok(),
            _ => {}
        }
    }
    limits
}

fn hash(wants: &BTreeSet<String>) -> String {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    for want in wants {
        hasher.update(want);
        hasher.update([0]);
    }
    hex::encode(hasher.finalize())
}

fn held_model(host: &str, repo: &str, commit: &str, value: &str) -> Option<HeldModel> {
    let (bytes, used) = value.split_once(' ')?;
    Some(HeldModel {
        host: host.parse().ok()?,
        repo: repo.parse().ok()?,
        commit: commit.parse().ok()?,
        bytes: bytes.parse().ok()?,
        last_used_at: used.parse().ok().and_then(|second| Timestamp::from_second(second).ok()),
    })
}

/// A batch and those of its jobs that are still known, as the step `batch` answers them.
fn batch(reply: &Value) -> Result<(Batch, Vec<Record>)> {
    let (fields, jobs) = super::queue::pair(reply)?;
    let fields = row::fields(fields);
    let text = |name: &str| fields.get(name).filter(|text| !text.is_empty()).cloned();
    let read = |name: &str| text(name).and_then(|text| serde_json::from_str(&text).ok());
    let created = text("created_at").and_then(|micros| micros.parse().ok());
    let batch = Batch {
        v: 1,
        id: text("id").and_then(|id| id.parse().ok()).ok_or_else(strange)?,
        created_at: created
            .and_then(|micros| Timestamp::from_microsecond(micros).ok())
            .ok_or_else(strange)?,
        requested_by: text("requested_by"),
        idempotency_key: text("key"),
        more_keys: text("keys").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        name: text("name"),
        job: read("job"),
        asks: text("asks").unwrap_or_default(),
        notify: text("notify"),
        jobs: text("jobs").and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(strange)?,
    };
    let Value::Array(rows) = jobs else { return Err(strange()) };
    Ok((batch, rows.iter().filter_map(|row| row::read(row).ok()).collect()))
}

/// A row of the step `hosts`; none for a name that this version cannot read.
fn host(row: &Value) -> Option<HostState> {
    let Value::Array(parts) = row else { return None };
    let text = |n: usize| parts.get(n).and_then(row::text).filter(|text| !text.is_empty());
    let number = |n: usize| text(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    #[derive(serde::Deserialize)]
    struct Drained {
        since: String,
        by: String,
    }
    let micros =
        |text: &str| text.parse::<f64>().ok().and_then(|n| Timestamp::from_microsecond(n as i64).ok());
    let drained = text(3).and_then(|text| serde_json::from_str::<Drained>(&text).ok()).map(|drained| Drain {
        since: micros(&drained.since).unwrap_or(Timestamp::UNIX_EPOCH),
        by: Some(drained.by).filter(|by| !by.is_empty()),
    });
    let about = text(6).and_then(|text| serde_json::from_str(&text).ok());
    let state = match (number(2), &drained) {
        (0, _) => Presence::Gone,
        (_, Some(_)) => Presence::Drained,
        (_, None) => Presence::Up,
    };
    Some(HostState {
        name: text(0)?.parse().ok()?,
        state,
        // One that only jobs name never said anything.
        seen_at: about.as_ref().and_then(|_: &crate::HostRecord| text(1).and_then(|text| micros(&text))),
        drained,
        queued: number(4),
        waiting: number(5),
        running: text(7).and_then(|text| text.parse::<i64>().ok()).map(|count| count.max(0).unsigned_abs()),
        about,
    })
}
