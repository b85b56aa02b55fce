//! Test ground of larder: the outside world, small enough to fit in a test and able to misbehave on demand.
//!
//! [`hub`] is a Hugging Face hub over HTTP with fault switches, [`models`] makes small models with true headers, [`repos`]
//! and [`gguf`] true headers of large ones,
//! [`mod@redis`] is a private Redis that can be stopped, killed and frozen, [`proxy`] a network in front of it that
//! fails on demand, [`front`] TLS before the hub, [`forward`] the proxy through which a company lets its hosts out,
//! [`mod@prometheus`] is a private Prometheus, [`cas`] the store behind Xet, [`impostor`] what listens in Redis's place and is none, [`mod@larder`] and [`daemon`]
//! run the binary in isolation and fail a test that leaves a mess behind, [`cache`] reads the hub cache independently
//! of larder's own code, [`python`] runs the field's own readers, [`browser`] a real browser, [`fs`] provides filesystems that fill up, lose power
//! or fail.
//!
//! Nothing here imports larder: a bug there cannot hide itself here.

pub mod browser;
pub mod cache;
pub mod cas;
mod certificates;
pub mod daemon;
pub mod dice;
pub mod forward;
pub mod front;
pub mod fs;
pub mod gguf;
pub mod http;
pub mod hub;
pub mod impostor;
pub mod larder;
mod listener;
pub mod models;
mod port;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod repos;

pub use browser::Browser;
pub use cas::Cas;
pub use certificates::Certificates;
pub use daemon::{Daemon, DaemonOptions, Tripwire};
pub use dice::Dice;
pub use forward::ForwardProxy;
pub use front::{Front, Speaks};
pub use hub::{Content, Fault, FaultKind, Host, Hub, Model, Request};
pub use impostor::Impostor;
pub use larder::Larder;
pub use process::Output;
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use redis::{Frozen, Redis, RedisOptions, Reply};
