//! The GPUs of this host: what they are, what they have free, how they fare.
//!
//! NVIDIA's are read through NVML, others through sysinfo. An NVML call has no deadline and may never return, so
//! nothing here is called from where somebody waits: [`start`] reads on a thread of its own and [`Handle::latest`]
//! hands out what was read last, marked as stale once the thread is late; [`once`] gives up after its deadline. A GPU
//! is never needed: without one the snapshot says why there is none, and staging goes on.
//!
//! - [`snapshot`]: what is known, as it is printed, stored and sent;
//! - `nvml`: the only place that names the wrapper crate;
//! - `other`: AMD and Apple;
//! - `poll`: the threads;
//! - `history`: how they fared over the last hours;
//! - `hardware`: what of that changes seldom;
//! - [`capability`], [`xid`], [`health`]: pure; what a GPU can do, what NVIDIA says of an Xid, whether the host is fit.

pub mod capability;
mod config;
mod hardware;
pub mod health;
mod history;
mod nvml;
mod other;
mod poll;
pub mod snapshot;
pub mod xid;

pub use config::{Config, Unhealthy};
pub use hardware::{HardwareGpu, HardwareState};
pub use health::{Health, Reason, State};
pub use history::{History, MAX_GPUS, MINUTES, Minute, Moment};
pub use poll::{Handle, once, start};
pub use snapshot::{DeviceKind, Gpu, Gpus, Source};
