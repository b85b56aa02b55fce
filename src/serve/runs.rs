//! The last run of each scheduled manifest, for the metrics: what was planned is remembered across restarts, what has
//! become of it is asked of the queue while jobs of it are open. And how the last runs ended, for the report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::JobId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::past::Past;
use crate::api::Sampler;
use crate::error::Result;
use crate::plan::NightPlan;
use crate::queue::{JobStore, Scope};
use crate::store::{Batch, Store, Table};
use crate::warm::{Asked, Night, Seen, Tally};

/// The runs, by manifest and part.
const RUNS: Table<Asked> = Table::new("warm_runs");
/// How often it is looked how far a run has come.
const INTERVAL: Duration = Duration::from_secs(10);
/// Looks that follow the queue's changes keep at least this distance, and this one when no job is open.
const CALM: Duration = Duration::from_secs(2);
const CALM_WHEN_OVER: Duration = Duration::from_secs(30);
/// And so many times what a look took, since a run may have thousands of jobs.
const REST: u32 = 50;

/// Manifest, and which part of it: in a fleet a host may ask for its own and for everybody's.
type Key = (String, &'static str);

/// One run.
#[derive(Debug, Clone)]
struct Known {
    asked: Asked,
    /// What its jobs were when they were last there to be seen: the queue forgets ended ones, and this does not.
    seen: BTreeMap<JobId, Seen>,
    tally: Tally,
}

impl Known {
    fn new(asked: Asked) -> Self {
        let tally = asked.ended.unwrap_or_else(|| asked.tally(&[], &BTreeMap::new()));
        Self { asked, seen: BTreeMap::new(), tally }
    }
}

/// All of them.
#[derive(Clone)]
pub(super) struct Runs {
    store: Store,
    sampler: Sampler,
    known: Arc<Mutex<BTreeMap<Key, Known>>>,
    asked: Arc<Notify>,
    /// How each of the last runs ended.
    pub(super) past: Past,
}

impl Runs {
    /// The parts of a manifest.
    const PARTS: [&'static str; 2] = ["own", "fleet"];

    /// Those of the manifests that are on a schedule; a daemon forgets the others, a command that is run beside it with
    /// another configuration does not.
    pub(super) fn open(
        store: Store,
        sampler: Sampler,
        manifests: &BTreeSet<String>,
        scope: Scope,
    ) -> Result<Self> {
        let (mut known, mut gone) = (BTreeMap::new(), Batch::default());
        for item in store.scan(RUNS, b"") {
            let (key, asked) = item?;
            let text = String::from_utf8_lossy(&key).into_owned();
            let part =
                Self::PARTS.iter().find_map(|part| Some((text.strip_suffix(&format!("\n{part}"))?, *part)));
            match (part, asked) {
                (Some((manifest, part)), Ok(asked)) if manifests.contains(manifest) => {
                    known.insert((manifest.to_owned(), part), Known::new(asked));
                }
                // A number that cannot be read is lost until the next run.
                _ if scope == Scope::All => gone.delete(RUNS, &key),
                _ => {}
            }
        }
        store.commit(gone)?;
        let past = Past::open(store.clone(), sampler.clone(), manifests.clone())?;
        let runs = Self { store, sampler, known: Arc::new(Mutex::new(known)), asked: Arc::default(), past };
        runs.show();
        Ok(runs)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run was asked for, or is again after a restart: then what was planned at first counts, since some of it is there
    /// by now.
    pub(super) fn note(&self, manifest: String, part: &'static str, asked: Asked) {
        let key = (manifest, part);
        {
            let mut all = self.lock();
            let again = all.get(&key).is_some_and(|known| {
                known.asked.run == asked.run && known.asked.planned.len() == asked.planned.len()
            });
            if again {
                return;
            }
            self.keep(&key, &asked);
            all.insert(key, Known::new(asked));
        }
        self.show();
        self.asked.notify_one();
    }

    fn keep(&self, (manifest, part): &Key, asked: &Asked) {
        let mut batch = Batch::default();
        batch.put(RUNS, format!("{manifest}\n{part}").as_bytes(), asked);
        if let Err(error) = self.store.commit(batch) {
            tracing::debug!(%error, "what was planned for a night is not remembered");
        }
    }

    /// Hands the numbers to whoever is scraped.
    fn show(&self) {
        let mut nights: BTreeMap<String, Night> = BTreeMap::new();
        for ((manifest, _), Known { asked, tally, .. }) in &*self.lock() {
            let night = Night { due: asked.due, deadline: asked.deadline, tally: *tally };
            nights
                .entry(manifest.clone())
                .and_modify(|known| {
                    *known = match known.due.cmp(&night.due) {
                        std::cmp::Ordering::Less => night,
                        std::cmp::Ordering::Equal => Night { tally: known.tally.and(night.tally), ..night },
                        std::cmp::Ordering::Greater => *known,
                    }
                })
                .or_insert(night);
        }
        self.sampler.warmed(nights);
    }

    /// Looks until `stop`.
    pub(super) async fn watch_until(self, queue: Arc<dyn JobStore>, stop: CancellationToken) {
        let watch = async {
            let mut changed = queue.changed();
            loop {
                changed.borrow_and_update();
                let begun = Instant::now();
                let is_over = self.look(&*queue).await;
                let calm = if is_over { CALM_WHEN_OVER } else { CALM }.max(begun.elapsed() * REST);
                let changes = async {
                    tokio::time::sleep(calm).await;
                    if changed.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                let interval = async {
                    match is_over {
                        true => std::future::pending().await,
                        false => tokio::time::sleep(INTERVAL.max(calm)).await,
                    }
                };
                tokio::select! {
                    () = changes => {}
                    () = interval => {}
                    () = self.asked.notified() => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch => {}
        }
    }

    /// Whether no job of any run is open, as far as the queue answers.
    async fn look(&self, queue: &dyn JobStore) -> bool {
        let all: Vec<(Key, Option<JobId>)> =
            self.lock().iter().map(|(key, known)| (key.clone(), known.asked.batch)).collect();
        let mut is_over = true;
        for (key, batch) in all {
            let Some(batch) = batch else { continue };
            let found = match queue.batch(batch).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "how far a night has come cannot be told");
                    is_over = false;
                    continue;
                }
            };
            let Some((batch, records)) = found else { continue };
            let mut known = self.lock();
            // Another run may have begun meanwhile.
            let Some(known) = known.get_mut(&key).filter(|known| known.asked.batch == Some(batch.id)) else {
                is_over = false;
                continue;
            };
            known.seen.extend(records.iter().map(|record| (record.id, Seen::of(record))));
            let tally = known.asked.tally(&batch.jobs, &known.seen);
            let some_are_forgotten = records.len() < batch.jobs.len() && known.asked.ended.is_some();
            if !(some_are_forgotten && tally.is_over()) {
                known.tally = tally;
            }
            is_over &= known.tally.is_over();
            let ended = known.tally.is_over().then_some(known.tally);
            if known.asked.ended != ended {
                known.asked.ended = ended;
                self.keep(&key, &known.asked);
            }
        }
        self.show();
        is_over
    }
}

/// The run of a plan of which these entries of the manifest are asked for as this batch; all of them are dropped if nothing
/// is asked for.
pub(super) fn asked(
    (run, due): (String, Timestamp),
    plan: &NightPlan,
    batch: Option<JobId>,
    is_of_it: impl Fn(usize) -> bool,
) -> Asked {
    let planned = plan.hosts.iter().flat_map(|night| {
        let there = night.present.iter().map(|one| (one.entry, Some(0)));
        there.chain(night.fetch.iter().map(|one| (one.entry, one.bytes)))
    });
    let planned = planned.filter(|(entry, _)| is_of_it(*entry)).map(|(_, bytes)| bytes);
    let dropped = plan.dropped.iter().filter(|one| is_of_it(one.entry)).count();
    let (mut planned, mut dropped): (Vec<_>, _) = (planned.collect(), dropped);
    if batch.is_none() {
        dropped += std::mem::take(&mut planned).len();
    }
    Asked { run, due, deadline: plan.deadline, batch, planned, dropped: dropped as u64, ended: None }
}
