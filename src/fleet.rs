//! What this host says of itself to its fleet: its labels, health, GPUs, room, and the models in its cache; and its share
//! of what the fleet may take of the network.
//!
//! It is taken from memory and from one look at the disk; nothing here waits for a GPU, a hub or Redis. The queue sends
//! it with the next heartbeat (`queue/redis/attend.rs`), at once if something changed that others decide by.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::{
    Bandwidth, FleetLimits, HOST_RECORD_VERSION, HeldModel, HostGpu, HostHealth, HostName, HostRecord,
    Labels, SourceLimits, SourceName,
};
use tokio_util::sync::CancellationToken;

use crate::error::{Result, blocking};
use crate::gpu::Gpus;
use crate::hub::{Hub, Share, SourceShare};
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

/// How often a host that downloads says so and learns its share.
const SHARE: Duration = Duration::from_secs(2);
/// What a host may take until it has learnt its share, in bytes and requests per second: the others have the whole limit
/// until they hear of it.
const UNTIL_THEN: (f64, f64) = (65_536.0, 1.0);
/// How often it is looked whether the fleet has limits.
const LOOK_FOR_LIMITS: Duration = Duration::from_secs(1);
/// How often a host that downloads nothing asks for them, in looks.
const IDLE_LOOKS: u32 = 30;

/// Keeps this host to its share of what the fleet may take, until `stop`. Those that download share equally. While Redis
/// is away the last share holds.
pub async fn share_until(queue: Arc<Redis>, hub: Hub, stop: CancellationToken) {
    let (limits, mut sharing, mut idle) = (hub.limits().clone(), 0_u32, 0_u32);
    loop {
        let active = limits.is_busy();
        if !queue.is_limited() {
            hub.set_share(&Share::default());
            idle = 0;
        } else if active || sharing > 0 || idle.is_multiple_of(IDLE_LOOKS) {
            match queue.share(active).await {
                // The first answer comes before the others have heard; of who does not download they never hear.
                Ok((fleet, hosts)) => {
                    let is_known = sharing > 0 || active && hosts <= 1;
                    hub.set_share(&share(&fleet, hosts.max(1), is_known));
                    (sharing, idle) = if active { (sharing.saturating_add(1), 0) } else { (0, 1) };
                }
                Err(error) => tracing::debug!(%error, "this host's share of the fleet's limits is unknown"),
            }
        } else {
            idle = idle.wrapping_add(1);
        }
        let pause = if active { SHARE } else { LOOK_FOR_LIMITS };
        tokio::select! {
            () = stop.cancelled() => return,
            () = limits.began(), if !active => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What one of so many hosts may take; little while the others have not heard of it.
fn share(fleet: &FleetLimits, hosts: u32, is_known: bool) -> Share {
    let part = |all: f64, until_then: f64| {
        let part = all / f64::from(hosts);
        if is_known { part } else { part.min(until_then) }
    };
    // At least a byte: a speed of nothing would be waited for without end.
    let bytes = |all: Option<Bandwidth>| all.map(|all| part(all.bytes() as f64, UNTIL_THEN.0).max(1.0));
    let requests = |all: Option<NonZeroU32>| all.map(|all| part(all.get().into(), UNTIL_THEN.1));
    let source = |(name, limits): (&SourceName, &SourceLimits)| {
        let share =
            SourceShare { bytes: bytes(limits.bandwidth), requests: requests(limits.requests_per_second) };
        (name.to_string(), share)
    };
    Share {
        bytes: bytes(fleet.bandwidth),
        requests: requests(fleet.requests_per_second),
        sources: fleet.sources.iter().map(source).collect(),
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
        // What was free when the GPUs were read last may not be free now.
        memory_free: gpu.memory.free.filter(|_| !gpus.stale),
    });
    gpu.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_an_equal_part_and_little_until_the_others_know() {
        let mirror = SourceLimits { bandwidth: Bandwidth::new(4_000_000).ok(), requests_per_second: None };
        let fleet = FleetLimits {
            bandwidth: Bandwidth::new(8_000_000).ok(),
            requests_per_second: NonZeroU32::new(6),
            sources: [("http://mirror".parse().expect("a name"), mirror)].into(),
        };
        let bytes = |hosts, known| share(&fleet, hosts, known).bytes;
        assert_eq!([bytes(1, true), bytes(4, true)], [Some(8_000_000.0), Some(2_000_000.0)]);
        assert_eq!(bytes(4, false), Some(UNTIL_THEN.0));
        assert_eq!(bytes(100_000_000, true), Some(1.0), "never nothing");
        assert_eq!(
            [share(&fleet, 4, true), share(&fleet, 4, false)].map(|of| of.requests),
            [Some(1.5), Some(1.0)]
        );
        let own = share(&fleet, 2, true).sources["http://mirror"];
        assert_eq!((own.bytes, own.requests), (Some(2_000_000.0), None));
        assert_eq!(share(&FleetLimits::default(), 3, false), Share::default(), "no limit is no limit");
    }
}
