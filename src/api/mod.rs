//! The HTTP API: plain handlers over queue, keeper and limits, on TCP (loopback only) and on the unix socket.

mod eviction;
mod health;
mod jobs;
mod keep;
mod limits;
mod listen;
mod metrics;
mod models;
mod problem;
mod report;
mod sample;
mod scout;
mod warm;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::routing::{get, post, put};
use larder_jobs::Reason;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::error::{Error, Result};
use crate::hub::Limits;
use crate::keeper::Keeper;
use crate::queue::JobStore;
use crate::scout::Scout;

pub use listen::{Listeners, serve};
pub use sample::{Sampled, Sampler};
pub use scout::Planner;
pub use warm::Warmer;

/// Largest request body, in bytes; a job has a few hundred.
const MAX_BODY: usize = 64 << 10;
/// The same for a manifest, which JSON makes longer.
const MAX_MANIFEST: usize = 2 * crate::warm::MAX_BYTES;
/// Longest answer; nothing here waits for a hub or a transfer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same for questions that the hub is asked, once for each model and file.
const SCOUT_TIMEOUT: Duration = Duration::from_secs(600);

/// The section `[api]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The TCP address; empty turns TCP off.
    pub listen: String,
    /// The API of a larder elsewhere that commands should talk to; empty means this host.
    pub url: String,
}

impl Config {
    /// The address to listen on, if TCP is on.
    ///
    /// # Errors
    /// `invalid_request` if it is no address, or not a loopback one.
    pub fn address(&self) -> Result<Option<SocketAddr>> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = self.listen.parse().map_err(|_| {
            Error::new(
                Reason::InvalidRequest,
                format!("api.listen = \"{}\" is not an address", self.listen),
                "write ip:port, for example 127.0.0.1:7717, or leave it empty for the unix socket only",
            )
        })?;
        if address.ip().is_loopback() {
            return Ok(Some(address));
        }
        Err(Error::new(
            Reason::InvalidRequest,
            format!("api.listen = \"{address}\" is open to the network, and this larder knows no tokens yet"),
            "listen on 127.0.0.1 or [::1]; from elsewhere, use an SSH tunnel",
        ))
    }

    /// Refuses nonsense, naming the key.
    ///
    /// # Errors
    /// As [`Config::address`], or `api.url` that is no HTTP address.
    pub fn validate(&self) -> Result<()> {
        self.address()?;
        let good = self.url.is_empty() || self.url.starts_with("http://") || self.url.starts_with("https://");
        if good && (self.url.is_empty() || url::Url::parse(&self.url).is_ok()) {
            return Ok(());
        }
        Err(Error::new(
            Reason::InvalidRequest,
            format!("api.url = \"{}\" is not an HTTP address", self.url),
            "write http://host:7717, or leave it empty for this host",
        ))
    }
}

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// The queue.
    pub queue: Arc<dyn JobStore>,
    /// Whether it is the queue of several hosts.
    pub fleet: bool,
    /// The models and who keeps them.
    pub keeper: Keeper,
    /// How fast bytes may come.
    pub limits: Limits,
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
    /// This host's name.
    pub host: Arc<str>,
    /// Models with a time series of their own.
    pub max_models: usize,
}

/// The routes.
pub fn router(api: Api) -> Router {
    let jobs = Router::new()
        .route("/v1/jobs", get(jobs::list).post(jobs::enqueue))
        .route("/v1/jobs/redrive", post(jobs::redrive))
        .route("/v1/jobs/{id}", get(jobs::show).delete(jobs::cancel))
        .route("/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/v1/jobs/{id}/bandwidth", put(limits::change_job));
    let asks_the_hub = Router::new()
        .route("/v1/fit", post(scout::fit))
        .route("/v1/plan", post(scout::plan))
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, SCOUT_TIMEOUT));
    let reads_a_manifest = Router::new()
        .route("/v1/warm", post(warm::plan))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(MAX_MANIFEST))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, SCOUT_TIMEOUT));
    let answers_at_once = Router::new()
        .merge(jobs)
        .route("/v1/limits", get(limits::show).put(limits::change))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{owner}/{name}", get(models::show))
        .route("/v1/models/{owner}/{name}/pin", put(keep::pin).delete(keep::unpin))
        .route("/v1/models/{owner}/{name}/lease", put(keep::lease).delete(keep::release))
        .route("/v1/models/{owner}/{name}/restore", post(keep::restore))
        .route("/v1/reconcile", post(models::reconcile))
        .route("/v1/eviction-plan", get(eviction::plan))
        .route("/v1/report", get(report::show))
        .route("/v1/registry", get(scout::registry))
        .route("/v1/host", get(scout::host))
        .route("/v1/host/history", get(scout::history))
        .route("/metrics", get(metrics::scrape))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT));
    Router::new()
        .merge(answers_at_once)
        .merge(asks_the_hub)
        .merge(reads_a_manifest)
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(map_response(problem::every_error))
        .layer(CompressionLayer::new())
        .with_state(api)
}
