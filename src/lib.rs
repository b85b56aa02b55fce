//! larder keeps GPU hosts stocked with models. The binary is a thin shell over this library.
//!
//! The rooms and the arrows between them are described in `docs/architecture.md` and held by the
//! architecture test: floors import downwards only, rooms of one floor never import each other.

pub mod error;
pub mod hub;
pub mod layout;
pub mod metrics;
pub mod store;
