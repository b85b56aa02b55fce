//! What became of the last runs of schedules: remembered across restarts, for the report and the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::Sampler;
use crate::error::Result;
use crate::store::{Batch, Store, Table};
use crate::warm::PastRun;

/// The runs, by the time at which they were due and the manifest.
const PAST: Table<PastRun> = Table::new("warm_past");

/// All that are remembered.
#[derive(Clone)]
pub(super) struct Past {
    store: Store,
    sampler: Sampler,
    /// Those on a schedule now; of others the report tells, and the metrics do not.
    scheduled: Arc<BTreeSet<String>>,
    /// The oldest first.
    known: Arc<Mutex<Vec<PastRun>>>,
}

impl Past {
    pub(super) fn open(store: Store, sampler: Sampler, scheduled: BTreeSet<String>) -> Result<Self> {
        let (mut known, mut gone) = (Vec::new(), Batch::default());
        for item in store.scan(PAST, b"") {
            match item? {
                (_, Ok(run)) => known.push(run),
                // What cannot be read is of no use to anybody.
                (key, Err(_)) => gone.delete(PAST, &key),
            }
        }
        store.commit(gone)?;
        known.sort_by_key(|run| run.due);
        let past =
            Self { store, sampler, scheduled: Arc::new(scheduled), known: Arc::new(Mutex::new(known)) };
        past.show();
        Ok(past)
    }

    /// Remembers how a run ended, or how it stands.
    pub(super) fn note(&self, run: PastRun) {
        let changed = run.remember(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
        let Some((run, gone)) = changed else { return };
        let mut batch = Batch::default();
        batch.put(PAST, &key(&run), &run);
        for run in gone {
            batch.delete(PAST, &key(&run));
        }
        if let Err(error) = self.store.commit(batch) {
            tracing::debug!(%error, "what became of a night is not remembered");
        }
        self.show();
    }

    /// Hands them to whoever reports and is scraped.
    fn show(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = known.iter().filter(|run| self.scheduled.contains(&run.manifest));
        let failed: BTreeMap<_, _> = last.map(|run| (run.manifest.clone(), run.outcome.is_wrong())).collect();
        self.sampler.ran(known, failed);
    }
}

fn key(run: &PastRun) -> Vec<u8> {
    format!("{}\n{}", run.due, run.manifest).into_bytes()
}
