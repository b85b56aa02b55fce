//! The connections of one transfer: tasks that take pieces until there are none, as many as bring something.
//!
//! All transfers of the process share the permits of `hub.connections`, and each source has its own; whoever works
//! on a piece holds one of each, so a second transfer gets its turn at the next piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::Job;
use super::climb::Climb;
use super::open::Failure;
use crate::hub::interrupted;
use crate::hub::source::Source;

/// How often the number of connections is thought about, and how often an idle one looks for slow ones.
const WINDOW: Duration = Duration::from_millis(250);
/// The first look, at connections that all had work since the one before, comes sooner.
const FIRST_WINDOW: Duration = Duration::from_millis(100);
/// Smallest piece that is asked for, unless the file ends.
const MIN_PIECE: u64 = 1 << 20;
/// How fast the memory of what a connection brought fades, each window.
const FADE: f64 = 0.98;

/// What the connections of one transfer know of each other.
#[derive(Debug, Default)]
pub(super) struct Crew {
    /// Connections that there should be, that may be soon, and that there are.
    target: AtomicUsize,
    shares: AtomicUsize,
    members: AtomicUsize,
    refused: AtomicBool,
    /// Bytes a second that a connection brings when it goes well, as the bits of an `f64`.
    typical: AtomicU64,
}

impl Crew {
    /// The source said that there were too many requests.
    pub(super) fn refused(&self) {
        self.refused.store(true, Relaxed);
    }

    /// Bytes a second that a connection brings when it goes well.
    pub(super) fn typical(&self) -> f64 {
        f64::from_bits(self.typical.load(Relaxed))
    }

    /// Leaves if there are more members than there should be.
    fn is_surplus(&self) -> bool {
        let target = self.target.load(Relaxed);
        let left =
            self.members.fetch_update(Relaxed, Relaxed, |members| (members > target).then(|| members - 1));
        left.is_ok()
    }
}

/// The right to have one more connection to a source.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    _host: SemaphorePermit<'a>,
    _source: SemaphorePermit<'a>,
}

fn every(window: Duration) -> Interval {
    let mut tick = interval_at(Instant::now() + window, window);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick
}

impl Job {
    /// Waits for the right to have one more connection to `source`.
    pub(super) async fn connection<'a>(&'a self, source: &'a Source) -> Result<Connection<'a>, Failure> {
        let closed = |_| Failure::Local(interrupted());
        let _source = source.connections.acquire().await.map_err(closed)?;
        let _host = self.hub.connections.acquire().await.map_err(closed)?;
        Ok(Connection { _host, _source })
    }

    /// Has as many connections as bring something, until the transfer is over.
    pub(super) async fn run_crew(self: Arc<Self>) {
        let mut climb = Climb::new(self.hub.config.connections);
        let mut members = JoinSet::new();
        let mut tick = every(FIRST_WINDOW);
        let mut before = (Instant::now(), self.tracker.bytes_fetched());
        let mut all_had_work = false;
        loop {
            self.crew.target.store(climb.target(), Relaxed);
            self.crew.shares.store(climb.shares(), Relaxed);
            while self.crew.members.load(Relaxed) < climb.target() {
                self.crew.members.fetch_add(1, Relaxed);
                members.spawn(Arc::clone(&self).work());
            }
            while members.try_join_next().is_some() {}
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let now = (Instant::now(), self.tracker.bytes_fetched());
            let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64().max(0.001);
            before = now;
            let working = self.queue.working();
            if working > 0 {
                let typical = (self.crew.typical() * FADE).max(rate / working as f64);
                self.crew.typical.store(typical.to_bits(), Relaxed);
            }
            let had_work = all_had_work;
            // Nearly all have work; the others are between two pieces.
            all_had_work = working * 10 >= climb.target() * 9;
            if self.crew.refused.swap(false, Relaxed) {
                climb.refused();
            } else if all_had_work && (had_work || !climb.is_new()) {
                climb.window(rate);
            }
            if !climb.is_new() && tick.period() == FIRST_WINDOW {
                tick = every(WINDOW);
            }
        }
        while members.join_next().await.is_some() {}
    }

    /// One connection: takes pieces until the transfer is over or has too many connections.
    async fn work(self: Arc<Self>) {
        while !self.crew.is_surplus() {
            let pushed = self.queue.pushed();
            if self.work_once().await {
                continue;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = pushed => {}
                () = tokio::time::sleep(WINDOW) => {}
            }
        }
    }

    /// Brings one piece; `false` if there is none. A piece that was taken is brought to its end, since others wait
    /// for what becomes of it; `stop` reaches it through its file.
    async fn work_once(&self) -> bool {
        let Some(source) = self.queue.source() else { return false };
        let connection = tokio::select! {
            biased;
            () = self.stop.cancelled() => return false,
            connection = self.connection(&source) => connection,
        };
        let Ok(_connection) = connection else { return false };
        let most = self.piece_size();
        let Some((file, piece)) = self.queue.take(most, self.crew.typical()) else { return false };
        let taken = piece.left();
        self.less_to_do(taken.end - taken.start);
        let result = self.pull(&file, &piece).await;
        file.ended(&piece, result);
        true
    }

    /// Bytes that one request asks for: less near the end, so that all connections end at the same time, and at the
    /// beginning of a small model.
    fn piece_size(&self) -> u64 {
        let most = self.hub.config.range.bytes();
        let shares = self.crew.shares.load(Relaxed).max(1) as u64;
        (self.todo.load(Relaxed) / shares).clamp(MIN_PIECE.min(most), most)
    }
}
