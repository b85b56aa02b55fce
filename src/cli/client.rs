//! How verbs reach a larder: the owner of the state folder through its socket, a larder elsewhere through
//! `api.url`, the larders of a fleet through their queue, or, with nobody there, the same API in this process.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use larder_jobs::client::{self as fleet, Want};
use larder_jobs::{Bandwidth, HostName, Job, JobId, JobView, ModelRef, Problem, Reason, Span, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;

use crate::config::Settings;
use crate::error::{Error, Result};
use crate::keeper::{PlanView, Verdict};
use crate::ledger::{ModelView, Repaired};
use crate::queue::Scope;
use crate::scout::{EvaluationView, FitView, HostView};
use crate::serve::House;
use crate::warm::{NightView, Report, Syntax};

/// The API answers from memory, so silence means trouble.
const TIMEOUT: Duration = Duration::from_secs(30);
/// These are answered when the hub has answered, for each model and file.
const ASKS_THE_HUB: Duration = Duration::from_secs(600);
/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// A way to the API.
#[derive(Debug, Clone)]
pub(super) struct Client {
    transport: Transport,
}

#[derive(Debug, Clone)]
enum Transport {
    Http { http: reqwest::Client, base: String, name: String },
    Here { router: Router, _house: std::sync::Arc<House> },
    Fleet(fleet::Client),
}

/// The answer to a request for a job.
#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) created: bool,
    #[serde(flatten)]
    pub(super) job: JobView,
}

/// The limits of a host and of the jobs that run there.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Limits {
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) jobs: Vec<JobLimit>,
}

/// The limit of a running job.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub(super) struct JobLimit {
    pub(super) id: JobId,
    pub(super) bandwidth: Option<Bandwidth>,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<JobView>,
}

#[derive(Deserialize)]
struct Models {
    models: Vec<ModelView>,
}

#[derive(Deserialize)]
struct Verdicts {
    models: Vec<Verdict>,
}

#[derive(Deserialize)]
struct Redriven {
    redriven: usize,
}

impl Client {
    /// The owner of the state folder, else `api.url`, else the fleet's queue; `None` if there is none of them.
    pub(super) async fn reach(settings: &Settings) -> Result<Option<Self>> {
        if let Some(client) = Self::larder(settings).await? {
            return Ok(Some(client));
        }
        Ok(settings.fleet.clone().map(|(address, host)| Self {
            transport: Transport::Fleet(fleet::Client::new(address).on_host(host)),
        }))
    }

    /// The owner of the state folder, else `api.url`; `None` if there is neither.
    pub(super) async fn larder(settings: &Settings) -> Result<Option<Self>> {
        if let Some(client) = Self::owner(&settings.socket()).await? {
            return Ok(Some(client));
        }
        let url = settings.config.api.url.trim_end_matches('/');
        if url.is_empty() {
            return Ok(None);
        }
        let http = elsewhere(&settings.config.api)?;
        Ok(Some(Self { transport: Transport::Http { http, base: url.to_owned(), name: url.to_owned() } }))
    }

    /// As [`Client::reach`], with the same API in this process when nobody is there.
    pub(super) async fn reach_or_here(settings: Settings) -> Result<Self> {
        match Self::reach(&settings).await? {
            Some(client) => Ok(client),
            None => Ok(Self::here(House::open(settings, Scope::Own).await?.into())),
        }
    }

    /// A larder that knows what is in a cache: the owner's, that of `api.url`, or this process.
    pub(super) async fn larder_or_here(settings: Settings) -> Result<Self> {
        match Self::larder(&settings).await? {
            Some(client) => Ok(client),
            None => Ok(Self::here(House::open(settings, Scope::Own).await?.into())),
        }
    }

    /// The API of a house in this process.
    pub(super) fn here(house: std::sync::Arc<House>) -> Self {
        Self { transport: Transport::Here { router: house.router(), _house: house } }
    }

    async fn owner(socket: &Path) -> Result<Option<Self>> {
        if !socket.exists() {
            return Ok(None);
        }
        let client = Self::on_socket(socket)?;
        // A socket file without an owner refuses the connection.
        match client.send(Method::GET, "/healthz", None).await {
            Ok((StatusCode::OK, _)) => Ok(Some(client)),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// The owner of the state folder, whether or not it is there.
    pub(super) fn on_socket(socket: &Path) -> Result<Self> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            // Nothing is encrypted there, and reading the system's certificates takes milliseconds.
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| no_client(&error))?;
        let name = socket.display().to_string();
        Ok(Self { transport: Transport::Http { http, base: "http://localhost".into(), name } })
    }

    /// Whether the larder is the owner of this host's state folder, whose place can be taken.
    pub(super) fn is_owner(&self) -> bool {
        matches!(&self.transport, Transport::Http { name, .. } if name.starts_with('/'))
    }

    /// Whether the larder is another process.
    pub(super) fn is_remote(&self) -> bool {
        !matches!(self.transport, Transport::Here { .. })
    }

    /// The fleet's queue, if that is where the requests go.
    pub(super) fn fleet(&self) -> Option<&fleet::Client> {
        match &self.transport {
            Transport::Fleet(client) => Some(client),
            _ => None,
        }
    }

    /// `want` is what is known of the job's size, where that chooses a host.
    pub(super) async fn enqueue(&self, job: &Job, want: Want) -> Result<Accepted> {
        if let Some(fleet) = self.fleet() {
            let accepted = fleet.enqueue_sized(job, want).await?;
            return Ok(Accepted { created: accepted.created, job: accepted.job });
        }
        let body = serde_json::to_vec(job).map_err(|error| Error::internal(error.to_string()))?;
        self.call(Method::POST, "/v1/jobs", Some(body)).await
    }

    pub(super) async fn job(&self, id: JobId) -> Result<JobView> {
        if let Some(fleet) = self.fleet() {
            return fleet.get(id).await?.ok_or_else(|| {
                let hint = "list them with larder jobs; ended jobs are forgotten after queue.retention";
                Error::new(Reason::NotFound, format!("there is no job {id}"), hint)
            });
        }
        self.call(Method::GET, &format!("/v1/jobs/{id}"), None).await
    }

    pub(super) async fn jobs(
        &self,
        state: Option<State>,
        host: Option<&HostName>,
        limit: u16,
    ) -> Result<Vec<JobView>> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.list(state, host, limit.into()).await?);
        }
        let state = state.map(|state| format!("&state={state}")).unwrap_or_default();
        let host = host.map(|host| format!("&host={host}")).unwrap_or_default();
        let jobs: Jobs =
            self.call(Method::GET, &format!("/v1/jobs?limit={limit}{state}{host}"), None).await?;
        Ok(jobs.jobs)
    }

    pub(super) async fn cancel(&self, id: JobId, requested_by: Option<&str>) -> Result<JobView> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.cancel(id, requested_by).await?.1);
        }
        let by = requested_by.map(|name| {
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            format!("?requested_by={name}")
        });
        self.call(Method::DELETE, &format!("/v1/jobs/{id}{}", by.unwrap_or_default()), None).await
    }

    pub(super) async fn retry(&self, id: JobId) -> Result<JobView> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.retry(id).await?);
        }
        self.call(Method::POST, &format!("/v1/jobs/{id}/retry"), None).await
    }

    pub(super) async fn redrive(&self) -> Result<usize> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.redrive().await?);
        }
        let redriven: Redriven = self.call(Method::POST, "/v1/jobs/redrive", None).await?;
        Ok(redriven.redriven)
    }

    pub(super) async fn models(&self) -> Result<Vec<ModelView>> {
        let models: Models = self.call(Method::GET, "/v1/models", None).await?;
        Ok(models.models)
    }

    /// Why the revisions that a name means are kept or would go.
    pub(super) async fn why(&self, model: &ModelRef) -> Result<Vec<Verdict>> {
        let verdicts: Verdicts = self.call(Method::GET, &place(model, "", &[]), None).await?;
        Ok(verdicts.models)
    }

    /// What an eviction would do; `query` is that of `GET /v1/eviction-plan`.
    pub(super) async fn eviction_plan(&self, query: &[(&str, String)]) -> Result<PlanView> {
        self.call(Method::GET, &format!("/v1/eviction-plan{}", queried(query)), None).await
    }

    pub(super) async fn set_pin(&self, model: &ModelRef, pinned: bool) -> Result<Vec<ModelView>> {
        let method = if pinned { Method::PUT } else { Method::DELETE };
        let models: Models = self.call(method, &place(model, "/pin", &[]), None).await?;
        Ok(models.models)
    }

    pub(super) async fn restore(&self, model: &ModelRef) -> Result<Vec<ModelView>> {
        let models: Models = self.call(Method::POST, &place(model, "/restore", &[]), None).await?;
        Ok(models.models)
    }

    pub(super) async fn reconcile(&self) -> Result<Repaired> {
        self.call(Method::POST, "/v1/reconcile", None).await
    }

    pub(super) async fn lease(&self, model: &ModelRef, holder: &str, ttl: Span) -> Result<Vec<ModelView>> {
        let body = serde_json::json!({"holder": holder, "ttl": ttl, "revision": model.revision()});
        let path = format!("/v1/models/{}/lease", model.repo());
        let models: Models = self.call(Method::PUT, &path, Some(body.to_string().into_bytes())).await?;
        Ok(models.models)
    }

    pub(super) async fn release(&self, model: &ModelRef, holder: Option<&str>) -> Result<Vec<ModelView>> {
        let holder: Vec<_> = holder.map(|name| ("holder", name.to_owned())).into_iter().collect();
        let models: Models = self.call(Method::DELETE, &place(model, "/lease", &holder), None).await?;
        Ok(models.models)
    }

    /// Whether a model fits; the body is that of `POST /v1/fit`.
    pub(super) async fn fit(&self, body: &serde_json::Value) -> Result<FitView> {
        self.call(Method::POST, "/v1/fit", Some(body.to_string().into_bytes())).await
    }

    /// What it takes to evaluate several models; the body is that of `POST /v1/plan`.
    pub(super) async fn evaluate(&self, body: &serde_json::Value) -> Result<EvaluationView> {
        self.call(Method::POST, "/v1/plan", Some(body.to_string().into_bytes())).await
    }

    /// What the downloads of the last hours did.
    pub(super) async fn report(&self, since: Option<Span>, by: Option<&str>) -> Result<Report> {
        let mut query = Vec::new();
        query.extend(since.map(|since| ("since", since.to_string().replace(' ', ""))));
        query.extend(by.map(|by| ("requested_by", by.to_owned())));
        self.call(Method::GET, &format!("/v1/report{}", queried(&query)), None).await
    }

    /// What a manifest would do.
    pub(super) async fn warm(&self, text: &str, syntax: Syntax) -> Result<NightView> {
        let body = serde_json::json!({"manifest": text, "syntax": syntax});
        self.call(Method::POST, "/v1/warm", Some(body.to_string().into_bytes())).await
    }

    pub(super) async fn host(&self) -> Result<HostView> {
        self.call(Method::GET, "/v1/host", None).await
    }

    pub(super) async fn limits(&self) -> Result<Limits> {
        self.call(Method::GET, "/v1/limits", None).await
    }

    pub(super) async fn set_limit(&self, bandwidth: Option<Bandwidth>) -> Result<Limits> {
        self.call(Method::PUT, "/v1/limits", Some(limit(bandwidth))).await
    }

    pub(super) async fn set_job_limit(&self, id: JobId, bandwidth: Option<Bandwidth>) -> Result<JobLimit> {
        self.call(Method::PUT, &format!("/v1/jobs/{id}/bandwidth"), Some(limit(bandwidth))).await
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T> {
        let (status, bytes) = self.send(method, path, body).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.not_larder(&error.to_string()));
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(self.not_larder(&format!("HTTP status {status}"))),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<(StatusCode, Vec<u8>)> {
        match &self.transport {
            Transport::Http { http, base, name } => {
                let unreachable = |error: reqwest::Error| {
                    Error::new(
                        Reason::QueueUnavailable,
                        format!("the larder at {name} does not answer: {}", cause(error)),
                        "see whether it runs (larder serve), and for https:// whether api.ca_file names who signed its certificate",
                    )
                };
                let mut request = http.request(method, format!("{base}{path}"));
                if ["/v1/fit", "/v1/plan", "/v1/warm", "/v1/warm/jobs"].contains(&path) {
                    request = request.timeout(ASKS_THE_HUB);
                }
                if let Some(body) = body {
                    request = request.header(header::CONTENT_TYPE, "application/json").body(body);
                }
                let response = request.send().await.map_err(unreachable)?;
                let status = response.status();
                Ok((status, response.bytes().await.map_err(unreachable)?.to_vec()))
            }
            Transport::Fleet(_) => {
                Err(Error::internal(format!("{path} is asked of a queue, which has no such thing")))
            }
            Transport::Here { router, .. } => {
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .body(body.map_or_else(Body::empty, Body::from))
                    .map_err(|error| Error::internal(error.to_string()))?;
                let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
                let status = response.status();
                let bytes = axum::body::to_bytes(response.into_body(), MAX_ANSWER)
                    .await
                    .map_err(|error| Error::internal(error.to_string()))?;
                Ok((status, bytes.to_vec()))
            }
        }
    }

    fn not_larder(&self, why: &str) -> Error {
        let name = match &self.transport {
            Transport::Http { name, .. } => name.as_str(),
            Transport::Here { .. } | Transport::Fleet(_) => "this process",
        };
        Error::new(
            Reason::QueueUnavailable,
            format!("{name} does not answer like a larder: {why}"),
            "correct api.url, or upgrade so that both sides have the same version",
        )
    }
}

/// The client for `api.url`, with its token and the certificates to trust. It follows no redirect, which would take
/// the token elsewhere.
fn elsewhere(config: &crate::api::Config) -> Result<reqwest::Client> {
    let mut http = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if !config.ca_file.is_empty() {
        let file = Path::new(&config.ca_file);
        let bad = |error: &dyn std::fmt::Display| {
            let what = format!("api.ca_file, {}, is of no use: {error}", file.display());
            Error::new(Reason::InvalidRequest, what, "name a file with certificates in PEM")
        };
        let text = std::fs::read(file).map_err(|error| bad(&error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&text).map_err(|error| bad(&error))?;
        http = http.tls_certs_only(certificates);
    }
    if !config.token_file.is_empty() {
        let secrets = crate::secret::read(Path::new(&config.token_file), "api.token_file")?;
        // The first line, where a file has several.
        let value = secrets.first().map(|secret| format!("Bearer {}", secret.reveal())).unwrap_or_default();
        let mut value = HeaderValue::from_str(&value).map_err(|error| Error::internal(error.to_string()))?;
        value.set_sensitive(true);
        http = http.default_headers(HeaderMap::from_iter([(header::AUTHORIZATION, value)]));
    }
    http.build().map_err(|error| no_client(&error))
}

/// The path of a model in the API.
fn place(model: &ModelRef, below: &str, query: &[(&str, String)]) -> String {
    let mut all: Vec<(&str, String)> = query.to_vec();
    all.extend(model.revision().map(|revision| ("revision", revision.to_string())));
    format!("/v1/models/{}{below}{}", model.repo(), queried(&all))
}

pub(super) fn queried(query: &[(&str, String)]) -> String {
    if query.is_empty() {
        return String::new();
    }
    format!("?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish())
}

fn limit(bandwidth: Option<Bandwidth>) -> Vec<u8> {
    serde_json::json!({"bandwidth": bandwidth}).to_string().into_bytes()
}

/// The innermost cause, which says more than "error sending request".
fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("nothing came within {} s", TIMEOUT.as_secs());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn no_client(error: &reqwest::Error) -> Error {
    Error::internal(format!("cannot make an HTTP client: {error}"))
}
