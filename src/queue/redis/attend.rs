//! Being there: the larder on this host registers with the queue and listens for what concerns it.
//!
//! One connection listens for all kinds of jobs: that something is ready in this host's queue or in the pool's,
//! and that a running job was cancelled. Everybody who listens hears of a job in the pool; only who has a
//! free slot asks for it, so a busy or draining larder swallows no wake-up. In a large fleet they do not all ask at
//! once: each waits for a moment of its own, and whoever hears meanwhile that the last job is taken does not ask. What was
//! said while the connection was broken is made up for by one look at the queue when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_jobs::client::{Reply, Server, Step, reply_text};
use larder_jobs::{HeldModel, JobId, Kind};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Redis;
use crate::error::{Error, Result};

/// How often this host says that it is there, and how long it is believed.
const HEARTBEAT: Duration = Duration::from_secs(20);
const BELIEVED: Duration = Duration::from_secs(60);
/// So many hosts all look for a job of the pool at once.
const FEW: u32 = 8;
/// In a larger fleet each looks within so much for each host, and within this at most: with one host in ten free, a job
/// is found after ten milliseconds.
const MOMENT: Duration = Duration::from_millis(1);
const MOMENT_MAX: Duration = Duration::from_secs(2);
/// Most running jobs that are named in a heartbeat.
const MAX_RUNNING: usize = 64;
/// Pauses between attempts to reach a Redis that is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is told once and not at every heartbeat.
#[derive(Default)]
pub(super) struct Told {
    away: bool,
    server: Option<Server>,
    registered: bool,
    twin: bool,
    drained: bool,
    /// How many hosts are there.
    hosts: u32,
    /// When it is this host's turn to look into the pool for jobs of a kind, or into the inbox.
    turns: BTreeMap<Option<Kind>, Instant>,
    /// The models that this server knows of this host.
    stock: Option<Vec<HeldModel>>,
    functions: bool,
    /// Since when the queue has been there.
    born: Option<String>,
}

impl Redis {
    /// Registers this host and listens until `stop`; while Redis is away it tries on for ever.
    pub async fn attend_until(&self, stop: &CancellationToken) {
        let instance = JobId::random(jiff::Timestamp::now()).to_string();
        let mut told = Told::default();
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = self.tend_inbox() => {}
                _ = self.tend_owed() => {}
                Err(error) = self.attend(&instance, &mut told) => {
                    if !told.away {
                        tracing::warn!(reason = %error.reason(), hint = error.hint(), "the queue is away: {error}");
                    }
                    told.away = true;
                    self.held().absent = Some(error);
                }
            }
            // So that whoever samples the queue looks at once.
            self.announce();
            if begun.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
        // At best: a host that is gone is forgotten after a minute anyway.
        let leave = self.queue.connection().clone();
        let step = Step::new("leave").arg(&self.host).arg(&instance);
        let _ = tokio::time::timeout(PAUSE_MAX, leave.run(&step)).await;
    }

    /// Registers and listens until the connection breaks.
    async fn attend(&self, instance: &str, told: &mut Told) -> Result<std::convert::Infallible> {
        let connection = self.queue.connection();
        self.assess(connection.server().await?, told);
        let channels = [format!("to:host:{}", self.host), "to:pool".to_owned()];
        let mut messages = connection.listen(&channels).await?;
        told.stock = None;
        self.register(instance, told).await?;
        if std::mem::take(&mut told.away) {
            tracing::info!("the queue is back");
        }
        self.held().absent = None;
        self.announce();
        self.inbox.notify_one();
        self.owed.notify_one();
        self.offer_functions(&mut told.functions).await;
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = told.turns.values().min().copied();
            tokio::select! {
                () = tokio::time::sleep_until(turn.unwrap_or_else(Instant::now)), if turn.is_some() => {
                    self.take_turns(told);
                }
                message = messages.next() => {
                    if self.heed(&message?, told) {
                        self.register(instance, told).await?;
                    }
                }
                _ = heartbeat.tick() => self.register(instance, told).await?,
                () = self.changed_self.notified() => self.register(instance, told).await?,
                () = self.emptied.notified() => {
                    told.stock = None;
                    self.register(instance, told).await?;
                }
            }
        }
    }

    /// Follows a message; says whether it was about this host itself.
    fn heed(&self, message: &str, told: &mut Told) -> bool {
        let kind = |word: &str| word.parse::<Kind>().ok();
        let mut later = |what| {
            told.turns.entry(what).or_insert_with(|| Instant::now() + own_moment(told.hosts));
        };
        match message {
            "inbox" => {
                later(None);
                return false;
            }
            "notices" => {
                self.owed.notify_one();
                return false;
            }
            _ => {}
        }
        match message.split_once(' ').map(|(verb, word)| (verb, word, kind(word))) {
            Some(("ready", _, Some(kind))) => {
                self.announce_kind(kind);
                self.changed.send_modify(|n| *n += 1);
            }
            Some(("any", _, Some(kind))) => later(Some(kind)),
            Some(("none", word, kind)) if kind.is_some() || word == "inbox" => drop(told.turns.remove(&kind)),
            Some(("cancel", id, _)) => {
                if let Ok(id) = id.parse() {
                    // Nobody listens while nothing runs here.
                    let _ = self.cancelled.send(id);
                }
            }
            // A newer larder may say more; looking costs little.
            _ => self.announce(),
        }
        matches!(message, "drained" | "limits")
    }

    /// Looks into the pool and the inbox for that whose turn has come.
    fn take_turns(&self, told: &mut Told) {
        let now = Instant::now();
        let few = told.hosts <= FEW;
        told.turns.retain(|what, turn| {
            let waits = *turn > now;
            match what {
                _ if waits => {}
                None => self.inbox.notify_one(),
                Some(kind) => {
                    self.announce_kind(*kind);
                    // In a large fleet nobody counts again for every job of the pool.
                    if few {
                        self.changed.send_modify(|n| *n += 1);
                    }
                }
            }
            waits
        });
    }

    /// What this host says of itself at a heartbeat.
    fn about(&self) -> Option<String> {
        let mut record = self.shown().record.clone()?;
        record.running = self.held().jobs.keys().take(MAX_RUNNING).copied().collect();
        serde_json::to_string(&record).ok()
    }

    /// Tells what changed in this host's cache since this server was told last.
    async fn restock(&self, told: &mut Told) -> Result<()> {
        let known = match told.stock.take() {
            Some(known) => known,
            None => self.queue.stock(&self.host).await?,
        };
        let now = self.shown().stock.clone();
        let name = |model: &HeldModel| (model.repo.clone(), model.commit.clone());
        let there: BTreeSet<_> = now.iter().map(name).collect();
        let gone =
            known.iter().filter(|model| !there.contains(&name(model))).map(|model| (model.clone(), false));
        let old: BTreeMap<_, _> = known.iter().map(|model| (name(model), model)).collect();
        let new = now.iter().filter(|model| old.get(&name(model)).is_none_or(|old| old != model));
        let changes: Vec<_> = gone.chain(new.map(|model| (model.clone(), true))).collect();
        self.queue.restock(&self.host, &changes).await?;
        told.stock = Some(now);
        Ok(())
    }

    pub(super) async fn register(&self, instance: &str, told: &mut Told) -> Result<()> {
        let about = self.about();
        let described = about.is_some();
        let step = Step::new("attend").arg(&self.host).arg(instance).arg(BELIEVED.as_millis());
        let step = step.arg(self.held().jobs.len());
        let step = about.into_iter().fold(step, Step::arg);
        let reply = self.queue.connection().run(&step).await?;
        let Reply::Array(parts) = &reply else {
            return Err(Error::internal("a registration without an answer"));
        };
        let before = parts.get(1).and_then(reply_text).filter(|before| !before.is_empty());
        // Whoever is the first to come back finds it empty; the others find that it is another one.
        let born = parts.get(2).and_then(reply_text);
        let emptied = told.born.is_some() && told.born != born;
        told.born = born;
        if emptied {
            crate::metrics::queue_emptied();
            tracing::warn!(
                "the queue was emptied (FLUSHALL, or a Redis that started without its data): jobs that waited \
                 and limits of the fleet are lost and must be asked for again; running jobs go on and are put back, \
                 and a host that was drained stays so"
            );
            self.announce();
        }
        // At the first time it may be what this host was before a crash.
        if told.registered && !told.twin && before.as_deref().is_some_and(|before| before != instance) {
            told.twin = true;
            tracing::warn!(host = %self.host, "another larder has the same host.name; give each its own");
        }
        // Somebody else under this name may have written what it has.
        if told.registered && before.as_deref() != Some(instance) {
            told.stock = None;
        }
        told.registered = true;
        let hosts = parts.get(4).and_then(reply_text).and_then(|hosts| hosts.parse().ok());
        told.hosts = hosts.unwrap_or_default();
        self.shown().limited = matches!(parts.get(5), Some(Reply::Int(1)));
        // Whoever was told of a request may be gone.
        if matches!(parts.get(6), Some(Reply::Int(1))) {
            self.inbox.notify_one();
        }
        let mut drained = matches!(parts.get(3), Some(Reply::Int(1)));
        if emptied {
            told.stock = None;
            // Somebody took it out of service for a reason that an empty queue does not change.
            if told.drained && described {
                self.queue.drain(&self.host, Some("larder, as before the queue was emptied")).await?;
                drained = true;
            }
        }
        self.heed_drain(drained, told);
        if described { self.restock(told).await } else { Ok(()) }
    }

    fn heed_drain(&self, drained: bool, told: &mut Told) {
        self.shown().drained = drained;
        if drained && !told.drained {
            tracing::warn!(host = %self.host, "this host is drained: it takes no jobs until larder hosts undrain");
        } else if told.drained && !drained {
            tracing::info!(host = %self.host, "this host takes jobs again");
            self.announce();
        }
        told.drained = drained;
    }

    /// Says what about the server may hurt.
    fn assess(&self, server: Server, told: &mut Told) {
        if told.server.as_ref() == Some(&server) {
            return;
        }
        let place = &server.place;
        tracing::info!(redis = place, version = server.version, host = %self.host, "the queue is in Redis");
        if !server.append_only {
            tracing::warn!(
                redis = place,
                "Redis runs without an append-only file: a crash of it loses accepted jobs; set appendonly yes"
            );
        }
        if server.evicts {
            tracing::warn!(
                redis = place,
                "Redis throws keys away when its memory is full, also jobs; set maxmemory-policy noeviction"
            );
        }
        told.server = Some(server);
    }
}

/// How long a host of so many waits before it looks for a job of the pool: another time at every call, and none in a small
/// fleet.
fn own_moment(hosts: u32) -> Duration {
    if hosts <= FEW {
        return Duration::ZERO;
    }
    use std::hash::BuildHasher as _;
    // The standard library seeds each of these from the system's randomness.
    let random = std::hash::RandomState::new().hash_one(hosts);
    let within = MOMENT.saturating_mul(hosts).min(MOMENT_MAX);
    within.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, store};
    use super::*;
    use crate::queue::JobStore as _;
    use crate::queue::testing::config;
    use larder_jobs::client::Connection;

    #[tokio::test]
    async fn a_twin_is_told_once_and_a_restart_is_none() {
        let server = support::Redis::start();
        let store = store(Connection::new(address(&server)), config(), "gpu-1");
        let (mut before, mut here, mut twin) = (Told::default(), Told::default(), Told::default());
        store.register("before the crash", &mut before).await.expect("registers");
        store.register("here", &mut here).await.expect("registers");
        assert!(!here.twin, "it may be what this host was before a crash");
        store.register("here", &mut here).await.expect("registers");
        assert!(!here.twin);
        store.register("twin", &mut twin).await.expect("registers");
        store.register("here", &mut here).await.expect("registers");
        assert!(here.twin, "somebody else was there in between");
    }

    #[tokio::test]
    async fn who_cannot_listen_is_not_there() {
        let server = support::Redis::start();
        let rules = ["ACL", "SETUSER", "deaf", "on", ">x", "~*", "&*", "+@all", "-subscribe"];
        server.command(&rules);
        let deaf = address(&server).with_login("deaf", Some("x"));
        let store = std::sync::Arc::new(store(Connection::new(deaf), config(), "gpu-1"));
        let (stop, mut changed) = (CancellationToken::new(), store.changed());
        let attending = {
            let (store, stop) = (std::sync::Arc::clone(&store), stop.clone());
            tokio::spawn(async move { store.attend_until(&stop).await })
        };
        changed.changed().await.expect("it says so");
        let error = store.stats().await.expect_err("it is not registered");
        assert!(error.hint().contains("+subscribe"), "{error:?}");
        server.command(&["ACL", "SETUSER", "deaf", "+subscribe"]);
        while store.stats().await.is_err() {
            changed.changed().await.expect("it tries on");
        }
        stop.cancel();
        attending.await.expect("no panic");
    }
}
