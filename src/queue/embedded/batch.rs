//! Jobs that are asked for together: all of them and their batch are one write.

use std::collections::HashMap;

use larder_jobs::client::{Title, keyed_otherwise};
use larder_jobs::{Batch as Jobs, Job, JobId, MAX_BATCH, Reason, State};

use super::steps::Changes;
use super::{Embedded, Inner, key};
use crate::error::{Error, Result};
use crate::queue::{Record, rules};
use crate::store::Table;

/// Most further keys of a batch that was asked for more than once.
const MAX_KEYS: usize = 64;

/// The batches, by id.
const BATCHES: Table<Jobs> = Table::new("batches");

impl Changes {
    /// A job is forgotten; with one that was not done the batch is forgotten, too, which would else look like a success.
    pub(super) fn forget_batch_of(&mut self, job: &Record) {
        if let (Some(parent), State::Failed | State::Cancelled) = (job.parent, job.state) {
            self.batch.delete(BATCHES, &key(parent));
        }
    }
}

/// A job of a batch before and after it was asked for.
type Asked = (Option<Record>, Record);

impl Embedded {
    pub(super) fn accept_all(&self, title: Title, jobs: &[Job]) -> Result<(bool, JobId)> {
        if jobs.is_empty() || jobs.len() > MAX_BATCH {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("{} jobs at once; 1 to {MAX_BATCH} may be asked for together", jobs.len()),
                "ask for them in several parts",
            ));
        }
        jobs.iter().try_for_each(Job::validate)?;
        let mut inner = self.lock();
        if self.store.get(BATCHES, &key(title.id))?.is_some() {
            return Ok((false, title.id));
        }
        let batches = self.batches()?;
        if let Some(text) = title.idempotency_key.as_deref() {
            if let Some(known) = batches.iter().find(|known| known.has_key(text)) {
                let is_same = known.asks == title.asks;
                return if is_same { Ok((false, known.id)) } else { Err(keyed_otherwise(known.id).into()) };
            }
            if let Some(id) = inner.index.keyed(text) {
                return Err(keyed_otherwise(id).into());
            }
        }
        let (ids, asked) = self.ask(&inner, &batches, title.id, jobs)?;
        let known = batches.into_iter().find(|known| known.jobs == ids);
        let id = known.as_ref().map_or(title.id, |known| known.id);
        let mut changes = Changes::default();
        let is_new = known.is_none();
        let batch = match known {
            None => Jobs {
                v: 1,
                id,
                created_at: self.now(),
                requested_by: title.requested_by,
                idempotency_key: title.idempotency_key,
                more_keys: Vec::new(),
                name: title.name,
                job: title.job,
                asks: title.asks,
                notify: title.notify,
                jobs: ids,
            },
            Some(mut known) => {
                let more = title.idempotency_key.filter(|_| known.more_keys.len() < MAX_KEYS);
                known.more_keys.extend(more);
                known
            }
        };
        changes.batch.put(BATCHES, &key(id), &batch);
        let after: Vec<_> = asked.iter().map(|(_, after)| after.clone()).collect();
        for (before, after) in asked {
            changes.put(before, after);
        }
        self.apply(&mut inner, changes)?;
        after.iter().for_each(|record| self.adopt(&mut inner, record));
        if is_new {
            // Keys may have answered with jobs that have all ended.
            self.tell_of_batches(&batch.jobs);
        }
        Ok((is_new, id))
    }

    /// What becomes of each job, and what of each record changes; a want that is there twice is one job.
    fn ask(
        &self,
        inner: &Inner,
        batches: &[Jobs],
        parent: JobId,
        jobs: &[Job],
    ) -> Result<(Vec<JobId>, Vec<Asked>)> {
        let (now, mut seq, mut backlog) = (self.now(), inner.index.next_seq(), inner.index.backlog());
        let (mut ids, mut asked, mut places) = (Vec::new(), Vec::<Asked>::new(), HashMap::new());
        for job in jobs {
            if let Some(record) = self.keyed(inner, batches, job)? {
                ids.push(record.id);
                continue;
            }
            let want = job.work.want_hash();
            let place = match (places.get(&want), inner.index.wanted(&want)) {
                (Some(place), _) => *place,
                (None, Some(id)) => {
                    let record = self.find(id)?;
                    asked.push((Some(record.clone()), record));
                    asked.len() - 1
                }
                (None, None) if backlog >= self.config.max_queued => return Err(super::full(backlog)),
                (None, None) => {
                    let record = rules::accept(job, JobId::random(now), seq, now)?;
                    (seq, backlog) = (seq + 1, backlog + 1);
                    ids.push(record.id);
                    places.insert(want, asked.len());
                    asked.push((None, Record { parent: Some(parent), ..record }));
                    continue;
                }
            };
            places.insert(want, place);
            let (_, after) = &mut asked[place];
            *after = rules::join(after.clone(), job, now);
            ids.push(after.id);
        }
        Ok((ids, asked))
    }

    /// Some jobs have ended: tells of the batches of which they were the last. Never fails, since what ended is written.
    pub(super) fn tell_of_batches(&self, ended: &[JobId]) {
        if ended.is_empty() {
            return;
        }
        let all = self.batches().unwrap_or_else(|error| {
            tracing::warn!(%error, "whether all jobs of a batch have ended cannot be told");
            Vec::new()
        });
        let is_asked =
            |batch: &Jobs| batch.notify.is_some() && ended.iter().any(|id| batch.jobs.contains(id));
        for batch in all.into_iter().filter(is_asked) {
            let known: Vec<_> = batch.jobs.iter().filter_map(|job| self.find(*job).ok()).collect();
            if known.iter().all(|record| record.state.is_terminal()) {
                self.observer.all_ended(&batch, &known);
            }
        }
    }

    /// A batch and those of its jobs that are still known.
    pub(super) fn look_up(&self, id: JobId) -> Result<Option<(Jobs, Vec<Record>)>> {
        let Some(batch) = self.store.get(BATCHES, &key(id))? else { return Ok(None) };
        let known: Vec<_> = batch.jobs.iter().filter_map(|job| self.find(*job).ok()).collect();
        // Of one whose jobs are all forgotten nobody knows what they did.
        Ok(Some((batch, known)).filter(|(_, known)| !known.is_empty()))
    }

    /// Every batch that can be read; there are few, since they go with their jobs.
    pub(super) fn batches(&self) -> Result<Vec<Jobs>> {
        let all = self.store.scan(BATCHES, b"").map(|item| item.map(|(_, batch)| batch.ok()));
        Ok(all.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Forgets the batches none of whose jobs is known any more.
    pub(super) fn tidy_batches(&self) -> Result<()> {
        let mut inner = self.lock();
        let mut changes = Changes::default();
        for batch in self.batches()? {
            if batch
                .jobs
                .iter()
                .all(|job| matches!(self.find(*job), Err(error) if error.reason() == Reason::NotFound))
            {
                changes.batch.delete(BATCHES, &key(batch.id));
            }
        }
        if changes.batch.is_empty() { Ok(()) } else { self.apply(&mut inner, changes) }
    }
}
