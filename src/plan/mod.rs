//! Decisions: facts and policy in, a plan with reasons out. No I/O, no clock, no async.

mod download;
mod evict;
mod hours;
mod level;
mod reason;
mod select;
mod warm;

pub use download::{DownloadPlan, Evictable, Facts, FileFact, KeepFree, PlannedFile, plan_download};
pub use evict::{
    Allowed, Candidate, Chosen, EvictionPlan, Goal, HALF_LIFE, Kept, Name, Order, Policy, Stock, Use,
    Watermarks, heat, plan_eviction,
};
pub use hours::{Flow, Hours};
pub use level::{Level, LevelOf};
pub use reason::{Evict, Keep};
pub use select::{Selection, Skip, Weights, describe, gguf_sets, select};
pub use warm::{
    DropReason, Dropped, Entry, Fetching, Finish, HostNight, Need, NightAsk, NightHost, NightOrder,
    NightPlan, Piece, Present, Rate, Route, Victim, plan_night,
};
