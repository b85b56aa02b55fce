//! What this host says of itself to its fleet: its labels, health, GPUs, room, and the models in its cache.
//!
//! It is taken from memory and from one look at the disk; nothing here waits for a GPU, a hub or Redis. The queue sends
//! it with the next heartbeat (`queue/redis/attend.rs`), at once if something changed that others decide by.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{HOST_RECORD_VERSION, HeldModel, HostGpu, HostHealth, HostName, HostRecord, Labels};
use tokio_util::sync::CancellationToken;

use crate::error::{Result, blocking};
use crate::gpu::Gpus;
use crate::keeper::Keeper;
use crate::queue::Redis;
use crate::scout::{HostView, Scout};

/// How often this host is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Changes that follow each other are told together.
const CALM: Duration = Duration::from_millis(500);
/// Last uses are told to the hour, so that a model in use is not told at every look.
const HOUR: i64 = 3_600;
/// Most models that are told; of more the most recently used.
const MAX_MODELS: usize = 5_000;

/// Whoever can say what this host is.
#[derive(Debug, Clone)]
pub struct Portrait {
    /// This host's name.
    pub name: HostName,
    /// `host.labels`.
    pub labels: Labels,
    /// Its hardware and health.
    pub scout: Scout,
    /// Its cache.
    pub keeper: Keeper,
}

impl Portrait {
    /// This host as it is now, without what runs on it.
    ///
    /// # Errors
    /// `internal` if the look died.
    pub async fn record(&self) -> Result<HostRecord> {
        let view = self.scout.host(self.name.as_str()).await?;
        let keeper = self.keeper.clone();
        let room = blocking(move || Ok(keeper.room(Timestamp::now()).ok())).await?;
        let models = self.keeper.ledger().shelf().len();
        Ok(HostRecord {
            v: HOST_RECORD_VERSION,
            labels: self.labels.clone(),
            device: view.device.word().to_owned(),
            health: health(&view),
            gpus: gpus(&view.gpus),
            disk: room.unwrap_or_default(),
            models: models.try_into().unwrap_or(u64::MAX),
            fetched_bytes_per_second: view.fetched_bytes_per_second,
            running: Vec::new(),
            version: view.version,
        })
    }

    /// The models in its cache.
    pub fn stock(&self) -> Vec<HeldModel> {
        let shelf = self.keeper.ledger().shelf();
        let hour = |at: Timestamp| Timestamp::from_second(at.as_second() / HOUR * HOUR).ok();
        let mut models: Vec<_> = shelf
            .entries()
            .map(|entry| HeldModel {
                host: self.name.clone(),
                repo: entry.repo.clone(),
                commit: entry.commit.clone(),
                bytes: entry.bytes,
                last_used_at: entry.last_used_at.and_then(hour),
            })
            .collect();
        if models.len() > MAX_MODELS {
            models.sort_by_key(|model| std::cmp::Reverse(model.last_used_at));
            models.truncate(MAX_MODELS);
        }
        models
    }

    /// Tells the queue what this host is until `stop`.
    pub async fn show_until(self, queue: Arc<Redis>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        let mut changed = self.keeper.ledger().changed();
        loop {
            match self.record().await {
                Ok(record) => queue.describe(record, self.stock()),
                Err(error) => tracing::debug!(%error, "this host cannot be looked at"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                // A model that came or went is told soon.
                Ok(()) = changed.changed() => tokio::time::sleep(CALM).await,
            }
        }
    }
}

fn health(view: &HostView) -> HostHealth {
    let mut reasons: Vec<_> =
        view.health.reasons.iter().map(|reason| reason.word.word().to_owned()).collect();
    reasons.sort();
    reasons.dedup();
    HostHealth { state: view.health.state.word().to_owned(), reasons }
}

fn gpus(gpus: &Gpus) -> Vec<HostGpu> {
    let there = gpus.devices.iter().filter(|gpu| !gpu.lost);
    let gpu = there.map(|gpu| HostGpu {
        name: gpu.name.clone().unwrap_or_default(),
        memory_total: gpu.memory.total,
        memory_free: gpu.memory.free,
    });
    gpu.collect()
}
