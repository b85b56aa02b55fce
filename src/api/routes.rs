//! The table of routes: what there is, which role it needs, whether it changes something, and who answers it. The
//! router, the door, and the audit log all read this one table.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::{MethodRouter, delete, get, post, put};
use larder_jobs::Kind;
use tower_http::timeout::TimeoutLayer;

use super::access::Role;
use super::{
    Api, SCOUT_TIMEOUT, TIMEOUT, cache, events, eviction, health, hosts, jobs, keep, limits, metrics, models,
    openapi, report, scout, warm,
};

/// One way to ask.
pub(super) struct Route {
    pub(super) method: Method,
    /// As axum writes it.
    pub(super) path: &'static str,
    /// The name in the audit log.
    pub(super) name: &'static str,
    /// Who may.
    pub(super) role: Role,
    /// Whether it is written into the audit log.
    pub(super) changes: bool,
    /// Whether `api.public_metrics` opens it.
    pub(super) is_probe: bool,
    /// Whether the hub is asked, once for each model and file.
    asks_the_hub: bool,
    handler: fn() -> MethodRouter<Api>,
}

impl Route {
    const fn new(
        method: Method,
        path: &'static str,
        name: &'static str,
        role: Role,
        handler: fn() -> MethodRouter<Api>,
    ) -> Self {
        let (changes, is_probe, asks_the_hub) = (false, false, false);
        Self { method, path, name, role, changes, is_probe, asks_the_hub, handler }
    }

    /// Something to look at.
    const fn look(path: &'static str, name: &'static str, handler: fn() -> MethodRouter<Api>) -> Self {
        Self::new(Method::GET, path, name, Role::Read, handler)
    }

    /// Something that is seen from outside without a token if the operator likes.
    const fn probe(path: &'static str, name: &'static str, handler: fn() -> MethodRouter<Api>) -> Self {
        let mut route = Self::look(path, name, handler);
        route.is_probe = true;
        route
    }

    /// A question to the hub, in a body.
    const fn question(path: &'static str, name: &'static str, handler: fn() -> MethodRouter<Api>) -> Self {
        let mut route = Self::new(Method::POST, path, name, Role::Read, handler);
        route.asks_the_hub = true;
        route
    }

    /// Jobs that are asked for when the hub has been asked what they come to.
    const fn order(path: &'static str, name: &'static str, handler: fn() -> MethodRouter<Api>) -> Self {
        let mut route = Self::change(Method::POST, path, name, Role::Enqueue, handler);
        route.asks_the_hub = true;
        route
    }

    /// Something that changes.
    const fn change(
        method: Method,
        path: &'static str,
        name: &'static str,
        role: Role,
        handler: fn() -> MethodRouter<Api>,
    ) -> Self {
        let mut route = Self::new(method, path, name, role, handler);
        route.changes = true;
        route
    }
}

/// Every route. A job needs its kind's role on top, see [`role_of`].
pub(super) static ROUTES: &[Route] = &[
    Route::look("/v1/jobs", "list_jobs", || get(jobs::list)),
    Route::change(Method::POST, "/v1/jobs", "enqueue", Role::Enqueue, || post(jobs::enqueue)),
    Route::change(Method::POST, "/v1/jobs/redrive", "redrive", Role::Admin, || post(jobs::redrive)),
    Route::look("/v1/jobs/{id}", "show_job", || get(jobs::show)),
    Route::look("/v1/jobs/{id}/events", "follow_job", || get(events::follow)),
    Route::change(Method::DELETE, "/v1/jobs/{id}", "cancel", Role::Enqueue, || delete(jobs::cancel)),
    Route::change(Method::POST, "/v1/jobs/{id}/retry", "retry", Role::Enqueue, || post(jobs::retry)),
    Route::change(Method::PUT, "/v1/jobs/{id}/bandwidth", "limit_job", Role::Admin, || {
        put(limits::change_job)
    }),
    Route::look("/v1/limits", "show_limits", || get(limits::show)),
    Route::change(Method::PUT, "/v1/limits", "limit_host", Role::Admin, || put(limits::change)),
    Route::look("/v1/models", "list_models", || get(models::list)),
    Route::look("/v1/models/{owner}/{name}", "show_model", || get(models::show)),
    Route::change(Method::PUT, "/v1/models/{owner}/{name}/pin", "pin", Role::Enqueue, || put(keep::pin)),
    Route::change(Method::DELETE, "/v1/models/{owner}/{name}/pin", "unpin", Role::Enqueue, || {
        delete(keep::unpin)
    }),
    Route::change(Method::PUT, "/v1/models/{owner}/{name}/lease", "lease", Role::Enqueue, || {
        put(keep::lease)
    }),
    Route::change(Method::DELETE, "/v1/models/{owner}/{name}/lease", "release", Role::Enqueue, || {
        delete(keep::release)
    }),
    Route::change(Method::POST, "/v1/models/{owner}/{name}/restore", "restore", Role::Admin, || {
        post(keep::restore)
    }),
    Route::change(Method::POST, "/v1/reconcile", "reconcile", Role::Admin, || post(models::reconcile)),
    Route::look("/v1/cache", "show_cache", || get(cache::show)),
    Route::look("/v1/eviction-plan", "plan_eviction", || get(eviction::plan)),
    Route::question("/v1/fit", "fit", || post(scout::fit)),
    Route::question("/v1/plan", "plan", || post(scout::plan)),
    Route::question("/v1/warm", "plan_night", || {
        post(warm::plan).layer(axum::extract::DefaultBodyLimit::disable())
    }),
    Route::order("/v1/warm/jobs", "warm", || {
        post(warm::ask).layer(axum::extract::DefaultBodyLimit::disable())
    }),
    Route::look("/v1/report", "report", || get(report::show)),
    Route::look("/v1/registry", "list_registry", || get(scout::registry)),
    Route::look("/v1/hosts", "list_hosts", || get(hosts::list)),
    Route::look("/v1/hosts/{host}", "show_host_of_fleet", || get(hosts::show)),
    Route::change(Method::PUT, "/v1/hosts/{host}/drain", "drain", Role::Admin, || put(hosts::drain)),
    Route::change(Method::DELETE, "/v1/hosts/{host}/drain", "undrain", Role::Admin, || {
        delete(hosts::undrain)
    }),
    Route::look("/v1/fleet/limits", "show_fleet_limits", || get(limits::show_fleet)),
    Route::change(Method::PUT, "/v1/fleet/limits", "limit_fleet", Role::Admin, || put(limits::change_fleet)),
    Route::look("/v1/host/vram", "show_vram", || get(scout::vram)),
    Route::look("/v1/host", "show_host", || get(scout::host)),
    Route::look("/v1/host/history", "show_host_history", || get(scout::history)),
    Route::look("/openapi.json", "describe", || get(openapi::show)),
    Route::probe("/metrics", "scrape", || get(metrics::scrape)),
    Route::probe("/healthz", "live", || get(health::healthz)),
    Route::probe("/readyz", "ready", || get(health::readyz)),
];

/// Who may ask for a job of this kind: an eviction takes away what others rely on.
pub(super) const fn role_of(kind: Kind) -> Role {
    match kind {
        Kind::Evict => Role::Admin,
        _ => Role::Enqueue,
    }
}

/// The route that a request has met.
pub(super) fn find(method: &Method, path: &str) -> Option<&'static Route> {
    // axum answers HEAD by the handler of GET.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|route| route.method == *method && route.path == path)
}

/// The routes, each within its time.
pub(super) fn router() -> Router<Api> {
    let within = |asks_the_hub: bool, time| {
        let routes = ROUTES.iter().filter(|route| route.asks_the_hub == asks_the_hub);
        let router = routes.fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
        router.layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, time))
    };
    within(false, TIMEOUT).merge(within(true, SCOUT_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_needs_more_than_looking_and_leaves_a_trace() {
        for route in ROUTES {
            let is_question = ["fit", "plan", "plan_night"].contains(&route.name);
            let looks = route.method == Method::GET || is_question;
            assert_eq!(looks, !route.changes, "{}", route.name);
            assert_eq!(looks, route.role == Role::Read, "{}", route.name);
            let same = ROUTES.iter().filter(|other| other.name == route.name);
            assert_eq!(same.count(), 1, "{} is one name", route.name);
        }
        assert_eq!(find(&Method::HEAD, "/v1/jobs").map(|route| route.name), Some("list_jobs"));
        assert!(find(&Method::PATCH, "/v1/jobs").is_none());
    }
}
