//! Decisions: facts and policy in, a plan with reasons out. No I/O, no clock, no async.

mod download;
mod evict;
mod select;

pub use download::{DownloadPlan, Evictable, Facts, FileFact, KeepFree, PlannedFile, plan_download};
pub use evict::{
    Allowed, Candidate, Chosen, Evict, EvictionPlan, Goal, HALF_LIFE, Keep, Kept, Name, Order, Policy, Stock,
    Use, Watermarks, heat, plan_eviction,
};
pub use select::{Selection, Skip, Weights, describe, select};
