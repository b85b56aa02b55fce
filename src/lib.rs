//! larder keeps GPU hosts stocked with models. The binary is a thin shell over this library.
//!
//! The rooms and the arrows between them are described in `docs/architecture.md` and held by the
//! architecture test: floors import downwards only, rooms of one floor never import each other.

pub mod api;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod disk;
pub mod error;
pub mod fit;
pub mod fleet;
pub mod gpu;
pub mod host;
pub mod hub;
pub mod keeper;
pub mod layout;
pub mod ledger;
pub mod metrics;
pub mod notify;
pub mod plan;
pub mod queue;
pub mod scout;
pub mod secret;
pub mod serve;
pub mod store;
pub mod warm;
pub mod web;
pub mod weights;
pub mod worker;
