//! Jobs over HTTP: ask, look, cancel, try again.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, RawQuery, State as Shared};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::{Cursor, Hosts, Invalid, Job, JobId, JobView, Kind, Reason, Work};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Api;
use super::access::Caller;
use super::guard::{Subject, forbidden};
use super::models::parameters;
use super::page;
use super::problem::Failure;
use super::routes::role_of;
use crate::queue::Filter;

/// Means the same as the field `idempotency_key`.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The answer to a request for a job.
#[derive(Serialize, JsonSchema)]
pub(super) struct Accepted {
    /// Whether the job is a new one; `false` means that an equal want was there.
    created: bool,
    #[serde(flatten)]
    job: JobView,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct JobList {
    jobs: Vec<JobView>,
    /// The `cursor` of the next page; `null` on the last one.
    next: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Redriven {
    redriven: usize,
}

pub(super) async fn enqueue(
    Shared(api): Shared<Api>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let mut value = serde_json::from_slice(&body).map_err(|error| {
        Invalid::new(
            format!("the body is not JSON: {error}"),
            r#"send {"kind": "download", "repo": "owner/name"}"#,
        )
    })?;
    take_key(&headers, &mut value)?;
    let job = Job::from_json(value)?;
    if let Hosts::Named(name) = &job.common.hosts
        && !api.fleet
        && name.as_str() != &*api.host
    {
        return Err(Failure::new(
            Reason::InvalidRequest,
            format!("the job is for {name}, and this larder ({}) has a queue of its own", api.host),
            "leave `hosts` out, or set queue.url to the Redis that both hosts share",
        ));
    }
    let (kind, model) = (job.work.kind(), job.work.model().0.map(ToString::to_string));
    // Whoever calls within this process is no stranger.
    if let Some(Extension(caller)) = caller.filter(|caller| caller.role < role_of(kind)) {
        return Ok(forbidden(&caller, role_of(kind)));
    }
    if let Some(url) = &job.common.notify {
        api.notifier.check(url)?;
    }
    let work = job.work.clone();
    let accepted = api.queue.enqueue(job).await?;
    // A job that was joined may run here already, with the limit of those who asked before. What an idempotency
    // key answers may be another want.
    if let Work::Download(download) = &work
        && !accepted.created
        && accepted.record.want == work.want_hash()
    {
        api.limits.widen_job(&accepted.record.id, download.bandwidth);
    }
    let place = format!("/v1/jobs/{}", accepted.record.id);
    let answer = Accepted { created: accepted.created, job: accepted.record.view(Some(&api.host)) };
    let subject = Subject { job: Some(accepted.record.id.to_string()), kind: Some(kind.word()), model };
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response();
    response.extensions_mut().insert(subject);
    Ok(response)
}

/// Puts the key of the header, with or without quotes around it, where the body has it.
fn take_key(headers: &HeaderMap, body: &mut Value) -> Result<(), Invalid> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(()) };
    let hint = "send one key of at most 128 printable characters, in the header or in the body";
    let text = key.to_str().map_err(|_| Invalid::new("Idempotency-Key is not printable ASCII", hint))?;
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let Value::Object(fields) = body else { return Ok(()) };
    let other = fields.insert("idempotency_key".into(), key.into());
    if keys.next().is_some() || other.is_some_and(|other| other != key) {
        return Err(Invalid::new("there is more than one idempotency key", hint));
    }
    Ok(())
}

fn filter(query: Option<&str>) -> Result<Filter, Invalid> {
    let [state, kind, limit, cursor] = parameters(query, ["state", "kind", "limit", "cursor"])?;
    let usual = Filter::default();
    Ok(Filter {
        state: state.map(|word| word.parse()).transpose()?,
        kind: kind.map(|word| word.parse()).transpose()?,
        after: cursor.map(|text| text.parse()).transpose()?,
        limit: page::limit(limit.as_deref())?.unwrap_or(usual.limit),
    })
}

pub(super) async fn list(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<JobList>, Failure> {
    let filter = filter(query.as_deref())?;
    // One more, to know whether there is one more.
    let mut records = api.queue.list(Filter { limit: filter.limit + 1, ..filter }).await?;
    let next = page::cut(&mut records, filter.limit, |record| Cursor::behind(record).to_string());
    Ok(Json(JobList { jobs: records.iter().map(|record| record.view(Some(&api.host))).collect(), next }))
}

pub(super) async fn show(Shared(api): Shared<Api>, Path(id): Path<String>) -> Result<Json<JobView>, Failure> {
    let id: JobId = id.parse()?;
    let record = api.queue.get(id).await?.ok_or_else(|| unknown(id))?;
    Ok(Json(record.view(Some(&api.host))))
}

/// Who takes the wish back; nobody named means everybody's, so a typo in the name must not pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    requested_by: Option<String>,
}

pub(super) async fn cancel(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    axum::extract::Query(by): axum::extract::Query<By>,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    if by.requested_by.as_ref().is_some_and(String::is_empty) {
        let hint = "name who takes the wish back, or leave it out for everybody's";
        return Err(Invalid::new("`requested_by` is empty", hint).into());
    }
    let cancelled = api.queue.cancel(id.parse()?, by.requested_by.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(cancelled.record.view(Some(&api.host)))))
}

pub(super) async fn retry(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    let record = api.queue.retry(id.parse()?).await?;
    Ok((StatusCode::ACCEPTED, Json(record.view(Some(&api.host)))))
}

pub(super) async fn redrive(Shared(api): Shared<Api>) -> Result<(StatusCode, Json<Redriven>), Failure> {
    let mut redriven = 0;
    for kind in Kind::ALL {
        redriven += api.queue.redrive(*kind).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(Redriven { redriven })))
}

pub(super) fn unknown(id: JobId) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!("there is no job {id}"),
        "list them with larder jobs or GET /v1/jobs; ended jobs are forgotten after queue.retention",
    )
}
