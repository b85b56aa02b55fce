//! Failures as problem documents (RFC 9457), with larder's reason and a hint.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::{Invalid, Problem, Reason};

use crate::error::Error;

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure(Problem);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.into())
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

    fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status.as_u16();
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
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
