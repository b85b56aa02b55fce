//! Jobs over HTTP: ask, look, cancel, try again.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, RawQuery, State as Shared};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::client::Submitted;
use larder_jobs::{Common, Cursor, Invalid, Job, JobId, JobView, Kind, Reason, Work};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::access::Caller;
use super::guard::{Subject, forbidden};
use super::models::parameters;
use super::page;
use super::problem::Failure;
use super::routes::role_of;
use super::{Api, place};
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
    let (kind, model) = (job.work.kind(), job.work.model().0.map(ToString::to_string));
    let subject = Subject { kind: Some(kind.word()), model, ..Subject::default() };
    if let Some(answer) = refused(caller, kind) {
        return Ok(about(subject, answer));
    }
    match accept(&api, job).await {
        Ok(answer) => {
            let subject = Subject { job: Some(answer.job.id.to_string()), ..subject };
            let place = format!("/v1/jobs/{}", answer.job.id);
            let answer = (StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response();
            Ok(about(subject, answer))
        }
        Err(failure) => Ok(about(subject, failure.into_response())),
    }
}

/// The answer to somebody who may not ask for jobs of that kind. Whoever calls within this process is no stranger.
fn refused(caller: Option<Extension<Caller>>, kind: Kind) -> Option<Response> {
    let Extension(caller) = caller.filter(|caller| caller.role < role_of(kind))?;
    Some(forbidden(&caller, role_of(kind)))
}

/// An answer of which the audit log says what it was about.
pub(super) fn about(subject: Subject, mut answer: Response) -> Response {
    answer.extensions_mut().insert(subject);
    answer
}

async fn accept(api: &Api, job: Job) -> Result<Accepted, Failure> {
    place::is_for_us(api, &job.common.hosts)?;
    place::has_token(api, &job)?;
    if let Some(url) = &job.common.notify {
        api.notifier.check(url)?;
    }
    let (work, want) = (job.work.clone(), api.scout.size(&job).await);
    let submitted = api.queue.submit(job, want).await?;
    // A job that was joined may run here already, with the limit of those who asked before.
    if let (Submitted::One { created: false, record }, Work::Download(download)) = (&submitted, &work) {
        api.limits.widen_job(&record.id, download.bandwidth);
    }
    Ok(Accepted { created: submitted.created(), job: submitted.view(Some(&api.host)) })
}

/// Puts the key of the header where the body has it.
fn take_key(headers: &HeaderMap, body: &mut Value) -> Result<(), Invalid> {
    let Value::Object(fields) = body else { return Ok(()) };
    let own = fields.get("idempotency_key").map(|key| key.as_str().unwrap_or_default().to_owned());
    if let Some(key) = key_of(headers, own)? {
        // What is no text is told with the rest of the body.
        fields.entry("idempotency_key").or_insert_with(|| key.into());
    }
    Ok(())
}

/// The idempotency key of a request: that of the header, with or without quotes around it, or the body's own.
pub(super) fn key_of(headers: &HeaderMap, own: Option<String>) -> Result<Option<String>, Invalid> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(own) };
    let hint = "send one key of at most 128 printable characters, in the header or in the body";
    let text = key.to_str().map_err(|_| Invalid::new("Idempotency-Key is not printable ASCII", hint))?;
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if keys.next().is_some() || own.is_some_and(|own| own != key) {
        return Err(Invalid::new("there is more than one idempotency key", hint));
    }
    Ok(Some(key.to_owned()))
}

fn filter(query: Option<&str>) -> Result<Filter, Invalid> {
    let [state, kind, host, limit, cursor] = parameters(query, ["state", "kind", "host", "limit", "cursor"])?;
    let usual = Filter::default();
    Ok(Filter {
        state: state.map(|word| word.parse()).transpose()?,
        kind: kind.map(|word| word.parse()).transpose()?,
        host: host.map(|name| name.parse()).transpose()?,
        after: cursor.map(|text| text.parse()).transpose()?,
        limit: page::limit(limit.as_deref())?.unwrap_or(usual.limit),
    })
}

pub(super) async fn list(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<JobList>, Failure> {
    let filter = filter(query.as_deref())?;
    let limit = filter.limit;
    // Without a fleet every job is this host's.
    if api.fleet.is_none() && filter.host.as_ref().is_some_and(|host| *host != api.portrait.name) {
        return Ok(Json(JobList { jobs: Vec::new(), next: None }));
    }
    // One more, to know whether there is one more.
    let mut records = api.queue.list(Filter { limit: limit + 1, ..filter }).await?;
    let next = page::cut(&mut records, limit, |record| Cursor::behind(record).to_string());
    Ok(Json(JobList { jobs: records.iter().map(|record| record.view(Some(&api.host))).collect(), next }))
}

pub(super) async fn show(Shared(api): Shared<Api>, Path(id): Path<String>) -> Result<Json<JobView>, Failure> {
    let id: JobId = id.parse()?;
    Ok(Json(find(&api, id).await?.ok_or_else(|| unknown(id))?))
}

/// A job, or several that were asked for together, as they stand.
pub(super) async fn find(api: &Api, id: JobId) -> Result<Option<JobView>, Failure> {
    match api.queue.get(id).await? {
        Some(record) => match &api.fleet {
            Some(fleet) => Ok(Some(fleet.view(&record, Some(&api.host)).await?)),
            None => Ok(Some(record.view(Some(&api.host)))),
        },
        None => Ok(place::batch(api, id).await?),
    }
}

/// The parameter `requested_by`; nobody named means everybody, so neither a typo nor an empty name may pass.
pub(super) fn requester(query: Option<&str>) -> Result<Option<String>, Invalid> {
    let [requested_by] = parameters(query, ["requested_by"])?;
    let common = Common { requested_by, ..Common::default() };
    common.validate()?;
    Ok(common.requested_by)
}

pub(super) async fn cancel(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    let (id, by) = (id.parse()?, requester(query.as_deref())?);
    let by = by.as_deref();
    let view = match api.queue.cancel(id, by).await {
        Ok(cancelled) => cancelled.record.view(Some(&api.host)),
        Err(error) if error.reason() == Reason::NotFound => place::cancel(&api, id, by, error).await?,
        Err(error) => return Err(error.into()),
    };
    Ok((StatusCode::ACCEPTED, Json(view)))
}

pub(super) async fn retry(
    Shared(api): Shared<Api>,
    caller: Option<Extension<Caller>>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let id = id.parse()?;
    let before = find(&api, id).await?.ok_or_else(|| unknown(id))?;
    let kind = before.kind;
    let model = before.repo.as_ref().map(ToString::to_string);
    let subject = Subject { job: Some(id.to_string()), kind: Some(kind.word()), model, ..Subject::default() };
    if let Some(answer) = refused(caller, kind) {
        return Ok(about(subject, answer));
    }
    let view = match api.queue.retry(id).await {
        Ok(record) => record.view(Some(&api.host)),
        Err(error) if error.reason() == Reason::NotFound => place::retry(&api, id, error).await?,
        Err(error) => return Ok(about(subject, Failure::from(error).into_response())),
    };
    Ok(about(subject, (StatusCode::ACCEPTED, Json(view)).into_response()))
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
