//! How full the cache is against its watermarks.

use schemars::JsonSchema;
use serde::Serialize;

use super::Policy;

/// What the watermarks are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LevelOf {
    /// `cache.capacity`, of which the cache's own bytes count.
    Capacity,
    /// The whole disk, of which everything counts that is not free.
    Disk,
}

/// How full that is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Level {
    /// What the watermarks are about.
    pub of: LevelOf,
    /// How large it is.
    pub capacity_bytes: u64,
    /// What counts of it.
    pub used_bytes: u64,
    /// Above this, room is made.
    pub high_bytes: u64,
    /// So much is made that this is reached.
    pub low_bytes: u64,
}

impl Policy {
    /// The level of a cache of so many bytes, on a disk of which `disk_free` are neither taken nor promised.
    pub fn level(&self, cache_bytes: u64, disk_total: u64, disk_free: u64) -> Level {
        let (of, capacity, used) = match self.capacity {
            Some(capacity) => (LevelOf::Capacity, capacity, cache_bytes),
            None => (LevelOf::Disk, disk_total, disk_total.saturating_sub(disk_free)),
        };
        let (high_bytes, low_bytes) = self.watermarks.of(capacity);
        Level { of, capacity_bytes: capacity, used_bytes: used, high_bytes, low_bytes }
    }
}

impl Level {
    /// Bytes above the low watermark, once the high one is passed.
    pub const fn over(&self) -> u64 {
        if self.used_bytes > self.high_bytes { self.used_bytes.saturating_sub(self.low_bytes) } else { 0 }
    }
}
