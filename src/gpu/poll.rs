//! The threads that read the GPUs, and the handle to what they read last.
//!
//! One thread reads, one listens for Xids. Neither is ever waited for: a library that does not return keeps its thread,
//! the snapshot turns stale, and larder goes on and ends without it.

mod reader;
mod shared;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::config::Config;
use super::history::{History, Minute};
use super::nvml;
use super::snapshot::Gpus;
use crate::error::Error;
use reader::Poller;
use shared::Shared;

/// After a failed attempt to listen for Xids.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
/// How often the listener looks whether there is something to listen to: at first, and when it has long been without.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(5);

/// What the threads read last. Clones are the same; with the last one the threads end, as soon as they can.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    _ends: Arc<Ends>,
}

#[derive(Debug)]
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Handle {
    /// The last snapshot. Never blocks; it is marked as stale once three intervals passed without a newer one.
    pub fn latest(&self) -> Arc<Gpus> {
        self.shared.latest()
    }

    /// How the GPUs fared over the last hours.
    pub fn history(&self) -> History {
        self.shared.history()
    }

    /// Remembers what was before: the minutes of an earlier process, oldest first.
    pub fn precede(&self, earlier: Vec<Minute>) {
        self.shared.precede(earlier);
    }

    /// The newest minute: the one that is open, or the last that is over.
    pub fn newest_minute(&self, is_over: bool) -> Option<Minute> {
        self.shared.newest_minute(is_over)
    }

    /// That NVML worked and has failed altogether for `gpu.give_up_after`. A container whose devices were taken away
    /// (`systemctl daemon-reload` on the host does that) gets them back only by being started again.
    pub fn lost_for_good(&self) -> Option<Error> {
        self.shared.lost_for_good()
    }

    /// Ends when [`Handle::lost_for_good`] says so, and not before.
    pub async fn until_lost_for_good(&self) -> Error {
        self.shared.until_lost_for_good().await
    }
}

/// Starts the threads. Never fails and never waits: what goes wrong is in the snapshot.
pub fn start(config: &Config) -> Handle {
    let shared = Arc::new(Shared::new(nvml::not_read_yet(), config.interval.get()));
    let handle = Handle { shared: Arc::clone(&shared), _ends: Arc::new(Ends(Arc::clone(&shared))) };
    let poller = Poller::new(config);
    let polled = Arc::clone(&shared);
    spawn("gpu", move || poll(&polled, poller));
    let library = config.library().map(str::to_owned);
    spawn("gpu-events", move || listen(&shared, library.as_deref()));
    handle
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    // Detached: it may never return.
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::warn!(%error, "cannot start the thread {name}; the GPUs stay unknown");
    }
}

fn poll(shared: &Shared, mut poller: Poller) {
    while !shared.ended() {
        let step = poller.step(Timestamp::now(), &|open| shared.session(open));
        shared.publish(step.gpus, step.pause, step.lost_for_good);
        shared.sleep(step.pause);
    }
}

fn listen(shared: &Shared, library: Option<&str>) {
    let mut pause = LOOK;
    while !shared.ended() {
        let Some(session) = shared.open_session() else {
            shared.sleep(pause);
            pause = (pause * 2).min(LOOK_SELDOM);
            continue;
        };
        pause = LOOK;
        let go_on = || !shared.ended() && shared.open_session() == Some(session);
        let ended = nvml::events::listen(library, &go_on, &mut |heard| shared.hear(heard, Timestamp::now()));
        match ended {
            nvml::events::Ended::Asked => {}
            nvml::events::Ended::Nobody => {
                tracing::debug!("no GPU reports Xids");
                while go_on() {
                    shared.sleep(LOOK_SELDOM);
                }
            }
            nvml::events::Ended::Failed(why) => {
                tracing::debug!(why, "cannot listen for Xids");
                shared.sleep(LISTEN_AGAIN);
            }
        }
    }
}

/// Reads the GPUs once, for a command that ends soon. Blocks for `deadline` at most; a library that does not return by
/// then keeps its thread.
pub fn once(config: &Config, deadline: Duration) -> Gpus {
    let library = config.library().map(str::to_owned);
    let (send, receive) = mpsc::sync_channel(1);
    spawn("gpu-once", move || {
        let now = Timestamp::now();
        let read = nvml::Session::open(library.as_deref()).and_then(|mut session| session.read(now));
        // Nobody listens any more after the deadline.
        let _ = send.send(reader::finished(read, now));
    });
    receive
        .recv_timeout(deadline)
        .unwrap_or_else(|_| Gpus::none(nvml::not_answering(deadline), Timestamp::now()))
}
