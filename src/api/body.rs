//! The body of a request: read here, whole and within bounds, before any handler sees it.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use larder_jobs::Reason;

use super::problem::Failure;

/// Largest request body, in bytes; a job has a few hundred.
const MAX_BODY: usize = 64 << 10;
/// The same for a manifest, which JSON makes longer.
const MAX_MANIFEST: usize = 2 * crate::warm::MAX_BYTES;
/// How long all of it may take.
const TIME: Duration = Duration::from_secs(10);

pub(super) async fn bounded(request: Request, next: Next) -> Response {
    let most = if request.uri().path().starts_with("/v1/warm") { MAX_MANIFEST } else { MAX_BODY };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
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
            .status(StatusCode::BAD_REQUEST),
        ),
        Err(_) => closing(
            Failure::new(
                Reason::InvalidRequest,
                format!("the body was not there within {} s", TIME.as_secs()),
                "send it at once; a job has a few hundred bytes",
            )
            .status(StatusCode::REQUEST_TIMEOUT),
        ),
    }
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
    closing(
        Failure::new(
            Reason::InvalidRequest,
            format!("the body is larger than {} KiB", most >> 10),
            "send one job at a time; a job has a few hundred bytes",
        )
        .status(StatusCode::PAYLOAD_TOO_LARGE),
    )
}

/// What is left of the body is not read, so the connection is of no further use.
fn closing(failure: Failure) -> Response {
    let mut response = failure.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
