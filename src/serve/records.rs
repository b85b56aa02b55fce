//! What lies in the state folder, opened in the order in which one needs the other.

use std::sync::Arc;

use jiff::Timestamp;
use larder_jobs::Ended;

use crate::config::Settings;
use crate::disk::Reservations;
use crate::error::{Error, Result, blocking};
use crate::keeper::Keeper;
use crate::layout::Cache;
use crate::ledger::Ledger;
use crate::notify::Notifier;
use crate::queue::{self, Embedded, JobStore as _, Redis, Scope};
use crate::store::{StateLock, Store};

/// The open state folder.
pub(super) struct Records {
    pub(super) lock: StateLock,
    pub(super) store: Store,
    pub(super) keeper: Keeper,
    /// This machine's own queue.
    pub(super) queue: Arc<Embedded>,
    pub(super) notifier: Notifier,
}

impl Records {
    /// Takes the folder, opens the store, reconciles with the disk, recovers the queue.
    ///
    /// # Errors
    /// As [`super::House::open`].
    pub(super) async fn open(settings: &Settings, scope: Scope) -> Result<Self> {
        let dir = settings.state_dir.clone();
        let cache = Cache::new(settings.cache_root.clone());
        let config = settings.config.clone();
        blocking(move || {
            let lock = StateLock::acquire(&dir)?.map_err(Error::from)?;
            let (store, opened) = Store::open(&dir)?;
            let grace = config.cache.recovery_grace;
            let ledger = Ledger::open(store.clone(), cache.clone(), grace, &opened, Timestamp::now())?;
            let keeper = Keeper::new(cache, Arc::new(ledger), &config.cache, Reservations::default());
            let notifier = Notifier::open(store.clone(), &config.notify, &config.host.name)?;
            let queue = Arc::new(Embedded::open(store.clone(), config.queue, scope)?);
            Ok(Self { lock, store, keeper, queue, notifier })
        })
        .await
    }

    /// Whoever wants to know that a job has ended is told.
    pub(super) fn tell_of_ends(&self, fleet: Option<&Redis>) {
        let tell = |how: fn(&Notifier, &Ended<'_>) -> bool| -> queue::Tell {
            let notifier = self.notifier.clone();
            Arc::new(move |end| how(&notifier, end))
        };
        self.queue.on_end(tell(|notifier, end| notifier.tell_asked(end) & notifier.tell_house(end)));
        if let Some(fleet) = fleet {
            fleet.on_end(tell(Notifier::tell_house));
            // Whoever has no secret leaves it to those that have one.
            if self.notifier.is_able() {
                fleet.on_notice(tell(Notifier::tell_asked));
            }
        }
    }

    /// Says which jobs nobody works off while the queue is a fleet's.
    pub(super) async fn left_behind(&self) {
        let stats = self.queue.stats().await.unwrap_or_default();
        let open: usize =
            stats.jobs.iter().filter(|((_, state), _)| !state.is_terminal()).map(|(_, n)| n).sum();
        if open > 0 {
            tracing::warn!(
                jobs = open,
                "jobs are left in this machine's own queue; they run when no queue of a fleet is named, or ask for them again"
            );
        }
    }
}
