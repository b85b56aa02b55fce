//! The disk at one glance: what the cache holds by what may happen to it, and where the watermarks stand.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State as Shared;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::Api;
use crate::ledger::Used;
use crate::plan::{Allowed, Level, Order};

/// The answer; `null` is unknown.
#[derive(Serialize, JsonSchema)]
pub(super) struct CacheView {
    /// The hub cache.
    root: PathBuf,
    /// Its filesystem, as it was sampled last.
    disk: Option<DiskView>,
    /// Bytes in the cache by what may happen to them.
    used_bytes: Used,
    /// Free bytes of the disk that were promised to running downloads.
    reserved_bytes: u64,
    /// Bytes of the disk that stay free.
    keep_free_bytes: Option<u64>,
    /// How full it is.
    watermarks: Option<Watermarks>,
    /// `cache.evict`.
    evict: Allowed,
    /// `cache.order`.
    order: Order,
    /// Set for a while after the store was lost: nothing is deleted automatically until then.
    eviction_off_until: Option<Timestamp>,
}

#[derive(Serialize, JsonSchema)]
struct DiskView {
    /// Where it is mounted.
    mountpoint: Option<PathBuf>,
    /// All of it.
    total_bytes: u64,
    /// What of it this user may take.
    free_bytes: u64,
    /// Inodes, where the filesystem does not make them as needed.
    inodes: Option<u64>,
    /// Those of them that are free.
    inodes_free: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Watermarks {
    /// `cache.high_watermark`.
    high_percent: u8,
    /// `cache.low_watermark`.
    low_percent: u8,
    #[serde(flatten)]
    level: Level,
}

pub(super) async fn show(Shared(api): Shared<Api>) -> Json<CacheView> {
    let sampled = api.sampler.latest();
    let usage = sampled.disk.as_ref().and_then(|collected| collected.value);
    let (keeper, shelf) = (&api.keeper, api.keeper.ledger().shelf());
    let (policy, promised) = (keeper.policy(), keeper.reservations().promised());
    Json(CacheView {
        root: keeper.root().to_owned(),
        disk: usage.map(|usage| DiskView {
            mountpoint: sampled.mountpoint.clone(),
            total_bytes: usage.total,
            free_bytes: usage.free,
            inodes: usage.inodes.map(|(total, _)| total),
            inodes_free: usage.inodes.map(|(_, free)| free),
        }),
        used_bytes: shelf.used(Timestamp::now()),
        reserved_bytes: promised,
        keep_free_bytes: usage.map(|usage| policy.keep_free.of(usage.total)),
        watermarks: usage.map(|usage| Watermarks {
            high_percent: policy.watermarks.high,
            low_percent: policy.watermarks.low,
            level: policy.level(shelf.bytes(), usage.total, usage.free.saturating_sub(promised)),
        }),
        evict: policy.allowed,
        order: policy.order,
        eviction_off_until: shelf.eviction_off_until,
    })
}
