//! Failures as problem documents (RFC 9457), with larder's reason and a hint.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::{Invalid, Problem, Reason};

use crate::error::Error;

/// The media type of every error answer.
const PROBLEM: &str = "application/problem+json";
/// Longest text of a layer that is read.
const MAX_TEXT: usize = 4 << 10;

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure(Problem);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.into())
    }
}

impl From<larder_jobs::client::Error> for Failure {
    fn from(error: larder_jobs::client::Error) -> Self {
        Self(Error::from(error).into())
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self(invalid.into())
    }
}

impl Failure {
    pub(super) fn new(reason: Reason, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(Problem::new(reason, detail, hint))
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status.as_u16();
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = self.0.reason;
        let mut response = (status, Json(self.0)).into_response();
        response.extensions_mut().insert(reason);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        response
    }
}

pub(super) async fn no_route(uri: Uri) -> Failure {
    Failure::new(Reason::NotFound, format!("there is no {}", uri.path()), "see docs/api.md for the paths")
}

pub(super) async fn no_method(uri: Uri) -> Failure {
    Failure::new(
        Reason::InvalidRequest,
        format!("{} does not take this method", uri.path()),
        "see docs/api.md for the methods",
    )
    .status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Errors of the layers around the handlers (an address that cannot be decoded, an answer that took too long) are plain texts; here they become problems too.
pub(super) async fn every_error(response: Response) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_TEXT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let failure = match status {
        StatusCode::SERVICE_UNAVAILABLE => Failure::new(
            Reason::Internal,
            format!("larder had no answer within {} s", super::TIMEOUT.as_secs()),
            "try again; if it stays like this, look at larder's log and at the disk of state.path",
        ),
        status if status.is_server_error() => Failure::new(
            Reason::Internal,
            format!("the request failed: {text}"),
            "this is a fault of larder; please report it with the log",
        ),
        _ => Failure::new(
            Reason::InvalidRequest,
            format!("the request cannot be read: {text}"),
            "see docs/api.md for paths and parameters",
        ),
    };
    failure.status(status).into_response()
}
