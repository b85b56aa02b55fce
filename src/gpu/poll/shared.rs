//! What the threads and the handle share. The lock is held for moments only, never across a call of the library.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::super::health;
use super::super::history::{History, Minute};
use super::super::nvml::events::Heard;
use super::super::snapshot::{Gpus, WhyNone, Xids};
use crate::error::Error;

/// A snapshot is stale after so many intervals without a newer one.
const INTERVALS: u32 = 3;
/// GPUs whose Xids are remembered.
const MAX_UUIDS: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    now: Mutex<Now>,
    wake: Condvar,
    interval: Duration,
    lost: watch::Sender<Option<Error>>,
}

#[derive(Debug)]
struct Now {
    gpus: Arc<Gpus>,
    history: History,
    /// From then on the snapshot is stale.
    fresh_until: Instant,
    /// By UUID.
    xids: BTreeMap<String, Xids>,
    /// Counts the openings of the library.
    session: u64,
    open: bool,
    ended: bool,
}

impl Shared {
    pub(super) fn new(why: WhyNone, interval: Duration) -> Self {
        let now = Now {
            gpus: Arc::new(Gpus::none(why, Timestamp::now())),
            history: History::default(),
            fresh_until: Instant::now() + INTERVALS * interval,
            xids: BTreeMap::new(),
            session: 0,
            open: false,
            ended: false,
        };
        Self { now: Mutex::new(now), wake: Condvar::new(), interval, lost: watch::Sender::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn latest(&self) -> Arc<Gpus> {
        let mut now = self.lock();
        if !now.gpus.stale && Instant::now() >= now.fresh_until {
            Arc::make_mut(&mut now.gpus).stale = true;
        }
        Arc::clone(&now.gpus)
    }

    pub(super) fn history(&self) -> History {
        self.lock().history.clone()
    }

    pub(super) fn precede(&self, earlier: Vec<Minute>) {
        self.lock().history.precede(earlier);
    }

    pub(super) fn newest_minute(&self, is_over: bool) -> Option<Minute> {
        self.lock().history.newest(is_over)
    }

    /// The newest reading; the next one is due after `pause`.
    pub(super) fn publish(&self, mut gpus: Gpus, pause: Duration, lost_for_good: Option<Error>) {
        let mut now = self.lock();
        apply(&mut gpus, &now.xids);
        now.history.note(&gpus);
        now.gpus = Arc::new(gpus);
        now.fresh_until = Instant::now() + pause + (INTERVALS - 1) * self.interval;
        drop(now);
        self.lost.send_if_modified(|lost| {
            let changed = *lost != lost_for_good;
            *lost = lost_for_good;
            changed
        });
    }

    /// An Xid is shown at once: the thread that reads may stand still because of what it reports.
    pub(super) fn hear(&self, heard: Heard, at: Timestamp) {
        let mut now = self.lock();
        match heard {
            Heard::Listening(uuids) => {
                for uuid in uuids.into_iter().take(MAX_UUIDS) {
                    now.xids.entry(uuid).or_insert_with(|| Xids::since(at));
                }
            }
            Heard::Xid { uuid, code } => {
                let class = super::super::xid::class(code).word();
                tracing::warn!(uuid, code, class, "the NVIDIA driver reported an Xid");
                if let Some(xids) = now.xids.get_mut(&uuid) {
                    xids.push(code, at);
                }
            }
        }
        let Now { gpus, xids, .. } = &mut *now;
        apply(Arc::make_mut(gpus), xids);
    }

    /// The library was opened, or closed.
    pub(super) fn session(&self, open: bool) {
        let mut now = self.lock();
        now.session += u64::from(open);
        now.open = open;
    }

    /// The number of the opening, while the library is open.
    pub(super) fn open_session(&self) -> Option<u64> {
        let now = self.lock();
        now.open.then_some(now.session)
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.wake.notify_all();
    }

    pub(super) fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Sleeps, or until the end.
    pub(super) fn sleep(&self, pause: Duration) {
        // Spurious wake-ups are waited out by the condition; a poisoned lock ends the sleep.
        let _ = self.wake.wait_timeout_while(self.lock(), pause, |now| !now.ended);
    }

    pub(super) fn lost_for_good(&self) -> Option<Error> {
        self.lost.borrow().clone()
    }

    pub(super) async fn until_lost_for_good(&self) -> Error {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.ok().and_then(|error| error.clone()) {
            Some(error) => error,
            // The sender lives in `self`, so this is never reached while somebody waits.
            None => std::future::pending().await,
        }
    }
}

/// Puts what was heard into the snapshot, and judges anew.
fn apply(gpus: &mut Gpus, xids: &BTreeMap<String, Xids>) {
    for gpu in &mut gpus.devices {
        gpu.xid = gpu.uuid.as_ref().and_then(|uuid| xids.get(uuid)).cloned();
        gpu.health = health::of_gpu(gpu, gpus.taken_at);
    }
}
