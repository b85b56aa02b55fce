//! Decisions: facts and policy in, a plan with reasons out. No I/O, no clock, no async.

mod download;
mod select;

pub use download::{DownloadPlan, Facts, FileFact, KeepFree, PlannedFile, plan_download};
pub use select::{Selection, Skip, Weights, describe, select};
