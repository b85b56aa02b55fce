//! The HTTP API: plain handlers over queue, keeper and limits, on TCP and on the unix socket.

mod access;
mod body;
mod cache;
mod config;
mod connections;
mod events;
mod eviction;
mod guard;
mod health;
mod hosts;
mod jobs;
mod keep;
mod limits;
mod listen;
mod metrics;
mod models;
mod openapi;
mod page;
mod place;
mod problem;
mod report;
mod routes;
mod sample;
mod scout;
mod tls;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, map_response};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::compression::CompressionLayer;

use crate::fleet::Portrait;
use crate::hub::Limits;
use crate::keeper::Keeper;
use crate::notify::Notifier;
use crate::queue::JobStore;
use crate::scout::Scout;

pub use access::Role;
pub use config::{Config, TlsConfig, TokenConfig};
pub use events::Followed;
pub use guard::Door;
pub use hosts::{HostList, HostView as FleetHost};
pub use listen::{Listeners, serve};
pub use sample::{Sampled, Sampler};
pub use scout::Planner;
pub use warm::Warmer;

/// Longest answer; nothing here waits for a hub or a transfer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same for questions that the hub is asked, once for each model and file.
const SCOUT_TIMEOUT: Duration = Duration::from_secs(600);

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// The queue.
    pub queue: Arc<dyn JobStore>,
    /// The same queue, if it is that of several hosts, for questions about them.
    pub fleet: Option<larder_jobs::client::Queue>,
    /// What this host is.
    pub portrait: Portrait,
    /// The models and who keeps them.
    pub keeper: Keeper,
    /// How fast bytes may come.
    pub limits: Limits,
    /// Who is told when a job has ended.
    pub notifier: Notifier,
    /// What models need and what this host has.
    pub scout: Scout,
    /// What a download would do.
    pub planner: Planner,
    /// What a manifest would do.
    pub warmer: Warmer,
    /// What was sampled last, so that no scrape waits.
    pub sampler: Sampler,
    /// The event half of the metrics.
    pub metrics: PrometheusHandle,
    /// The jobs whose events somebody reads.
    pub followed: Followed,
    /// This host's name.
    pub host: Arc<str>,
    /// Models with a time series of their own.
    pub max_models: usize,
}

/// The routes, without a door: who is let in is the listener's to say.
pub fn router(api: Api) -> Router {
    routes::router()
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(from_fn(models::no_stray))
        .layer(from_fn(body::bounded))
        .layer(map_response(problem::every_error))
        .layer(CompressionLayer::new())
        .with_state(api)
}
