//! The body of a request: read here, whole and within bounds, before any handler sees it.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use larder_jobs::Reason;
use serde::de::DeserializeOwned;

use super::problem::Failure;

/// Largest request body, in bytes; a job has a few hundred.
const MAX_BODY: usize = 64 << 10;
/// The same for a manifest, which JSON makes longer.
const MAX_MANIFEST: usize = 2 * crate::warm::MAX_BYTES;
/// How long all of it may take.
const TIME: Duration = Duration::from_secs(10);

pub(super) async fn bounded(request: Request, next: Next) -> Response {
    let most = if request.uri().path().starts_with("/v1/warm") { MAX_MANIFEST } else { MAX_BODY };
    if declared(&request).is_some_and(|length| length > most as u64) {
        return too_large(most);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(TIME, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(error)) if is_too_large(&error) => too_large(most),
        Ok(Err(error)) => closing(
            Failure::new(
                Reason::InvalidRequest,
                format!("the body broke off: {error}"),
                "send as many bytes as Content-Length says",
            )
            .status(StatusCode::BAD_REQUEST)
            .into_response(),
        ),
        Err(_) => closing(
            Failure::new(
                Reason::InvalidRequest,
                format!("the body was not there within {} s", TIME.as_secs()),
                "send it at once; a job has a few hundred bytes",
            )
            .status(StatusCode::REQUEST_TIMEOUT)
            .into_response(),
        ),
    }
}

/// The answer to a request whose body nobody wants. It is read all the same as far as it is within bounds: a connection
/// with bytes left on it is of no use for the next request.
pub(super) async fn unread(request: Request, answer: Response) -> Response {
    let is_long = declared(&request).is_some_and(|length| length > MAX_BODY as u64);
    let is_read = async {
        matches!(tokio::time::timeout(TIME, to_bytes(request.into_body(), MAX_BODY)).await, Ok(Ok(_)))
    };
    if !is_long && is_read.await { answer } else { closing(answer) }
}

/// The length that a request says its body has.
fn declared(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut source = Some(error as &dyn std::error::Error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn too_large(most: usize) -> Response {
    let hint = if most == MAX_BODY {
        "a job has a few hundred bytes; send one at a time"
    } else {
        "a manifest has at most 1 MiB, however JSON writes it; split it"
    };
    let what = format!("the body is larger than {} KiB", most >> 10);
    let failure = Failure::new(Reason::InvalidRequest, what, hint).status(StatusCode::PAYLOAD_TOO_LARGE);
    closing(failure.into_response())
}

/// What is left of the body is not read, so the connection is of no further use.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The fields of a body that is one JSON object: a list would be read as one, too.
///
/// # Errors
/// What is wrong with it.
pub(super) fn object<T: DeserializeOwned>(bytes: &Bytes) -> serde_json::Result<T> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)?;
    serde_json::from_value(fields.into())
}
