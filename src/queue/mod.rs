//! The queue: jobs that were accepted and are not lost, each run by one worker at a time.
//!
//! A [`JobStore`] keeps the jobs. [`Embedded`] is the one for a single machine; every store applies the
//! same pure transitions ([`rules`]) to the same [`Record`] and passes the same conformance suite. A worker
//! takes jobs from a [`Source`], which claims one job per free slot and starts a [`Lease`] for it: a task of
//! its own that renews the claim, reports progress and notices a cancel. The worker ends each attempt
//! with one [`Verdict`].
//!
//! What holds for every store:
//! - A job whose `enqueue` was answered survives a power loss.
//! - A claim has a fencing token. After the claim was given up, whoever still holds the old token changes
//!   nothing.
//! - An attempt is counted when it begins, so a crash counts; a release in good order gives it back.
//! - The number of jobs, the size of a record and the life of a finished job are bounded.

mod backend;
mod bounds;
mod config;
mod embedded;
mod lease;
mod observe;
mod reaper;
mod redis;
pub mod rules;
mod store;
mod verdict;
mod window;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod worker_tests;

pub use backend::{Assignment, Source};
pub use config::{Concurrency, Config, Url};
pub use embedded::{Clock, Embedded, Scope};
pub use larder_jobs::client::Outcome;
pub use larder_jobs::{RECORD_VERSION as VERSION, Record};
pub use lease::{Lease, RELEASE, Stop};
pub use observe::Tell;
pub use reaper::reap_until;
pub use redis::{Redis, Sizer};
pub use store::{Cancelled, Claim, Claimed, Enqueued, Filter, JobStore, Reaped, Renewal, Settled, Stats};
pub use verdict::{Done, Settlement, Verdict};
