//! What is answered, and with which HTTP status.
//!
//! There are two kinds of answers. What came out of resolving, the document or the error the
//! specification names, is a DID Resolution result, and its status follows from the table of the DID
//! Resolution specification's HTTP(S) binding. What keeps this server from resolving is not about the
//! DID: it is a problem report (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::negotiate::{Content, RESOLUTION_RESULT, Representation};
use crate::chain::ChainError;
use crate::did::ErrorCode;
use crate::lookup::LookupError;
use crate::resolver::{Failure, Resolution};

/// Seconds after which a client that was turned away may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// An error that the DID Resolution specification names for what is asked of a server, beside those that
/// did:btcr2 names for what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsupported {
    /// A DID of another method.
    Method,
    /// A DID URL, or a network that is not served.
    Feature,
    /// No media type that can be produced.
    Representation,
}

impl Unsupported {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "METHOD_NOT_SUPPORTED",
            Self::Feature => "FEATURE_NOT_SUPPORTED",
            Self::Representation => "REPRESENTATION_NOT_SUPPORTED",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Method | Self::Feature => StatusCode::NOT_IMPLEMENTED,
            Self::Representation => StatusCode::NOT_ACCEPTABLE,
        }
    }
}

/// Why there is no document.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An error of did:btcr2.
    Failure(Failure),
    /// Something this server does not do, and one sentence.
    Unsupported(Unsupported, String),
    /// This server can not say: status and one sentence.
    Problem(StatusCode, &'static str),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<LookupError> for Refusal {
    /// The details are for the operator's log: they name servers that are nobody else's business.
    fn from(error: LookupError) -> Self {
        tracing::warn!(%error, "a DID could not be looked up");
        match error {
            LookupError::Deadline { .. } => Self::Problem(
                StatusCode::GATEWAY_TIMEOUT,
                "the chain was not read in the time a request may take; try again later",
            ),
            LookupError::Chain(ChainError::TooLong { .. })
            | LookupError::TooManyObjects { .. }
            | LookupError::Stuck => Self::Problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the DID needs more than this server looks up",
            ),
            LookupError::Cas { .. } => Self::Problem(
                StatusCode::BAD_GATEWAY,
                "content-addressed storage could not be asked; try again later, or send the sidecar",
            ),
            _ => Self::Problem(
                StatusCode::BAD_GATEWAY,
                "the chain could not be asked; try again later",
            ),
        }
    }
}

impl Refusal {
    /// No place for this request now.
    pub(super) const fn busy() -> Self {
        Self::Problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "as many resolutions are under way as this server does at once; try again later",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Failure(failure) => no_document(status_of(failure.code), failure.to_metadata()),
            Self::Unsupported(error, message) => no_document(
                error.status(),
                json!({ "error": error.as_str(), "errorMessage": message }),
            ),
            Self::Problem(status, detail) => problem(status, detail),
        }
    }
}

/// The status of an error (DID Resolution, HTTP(S) binding): what it does not name is 500.
const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidDid | ErrorCode::InvalidOptions => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::InvalidDidDocument
        | ErrorCode::InvalidDidUpdate
        | ErrorCode::InvalidSignalData
        | ErrorCode::LatePublishing
        | ErrorCode::MissingUpdateData
        | ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What came out of a resolution, in the form that was asked for.
pub(super) fn resolved(resolution: Resolution, form: Representation) -> Response {
    match &resolution.outcome {
        Err(failure) => Refusal::Failure(failure.clone()).into_response(),
        Ok(resolved) => {
            let status = if resolved.metadata.deactivated {
                StatusCode::GONE
            } else {
                StatusCode::OK
            };
            let body = match form.content {
                Content::Result => resolution.to_value(),
                Content::Document => json!(resolved.document),
            };
            body_of(status, form.media_type, &body)
        }
    }
}

fn no_document(status: StatusCode, metadata: Value) -> Response {
    let body = json!({
        "didDocument": null,
        "didDocumentMetadata": {},
        "didResolutionMetadata": metadata,
    });
    body_of(status, RESOLUTION_RESULT.media_type, &body)
}

/// A problem report (RFC 9457).
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = body_of(status, "application/problem+json", &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// A JSON answer.
pub(super) fn body_of(status: StatusCode, media_type: &'static str, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, media_type)],
        body.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_binding() {
        for (code, status) in [
            (ErrorCode::InvalidDid, 400),
            (ErrorCode::InvalidOptions, 400),
            (ErrorCode::NotFound, 404),
            (ErrorCode::InvalidDidDocument, 500),
            (ErrorCode::InvalidDidUpdate, 500),
            (ErrorCode::InvalidSignalData, 500),
            (ErrorCode::LatePublishing, 500),
            (ErrorCode::MissingUpdateData, 500),
            (ErrorCode::InternalError, 500),
        ] {
            let response = Refusal::from(Failure::new(code, "why")).into_response();
            assert_eq!(response.status(), status, "{code}");
            let content_type = &response.headers()[header::CONTENT_TYPE];
            assert_eq!(content_type, "application/did-resolution", "{code}");
        }
        for (error, status) in [
            (Unsupported::Method, 501),
            (Unsupported::Feature, 501),
            (Unsupported::Representation, 406),
        ] {
            let response = Refusal::Unsupported(error, String::new()).into_response();
            assert_eq!(response.status(), status, "{error:?}");
        }
    }

    #[test]
    fn what_stops_this_server_is_told_without_naming_its_servers() {
        let unreachable = ChainError::Unreachable {
            host: "bitcoin.internal:3002".to_owned(),
            detail: "connection refused".to_owned(),
        };
        let deadline = std::time::Duration::from_secs(1);
        for (error, expected) in [
            (LookupError::Chain(unreachable), 502),
            (LookupError::Deadline { deadline }, 504),
            (LookupError::TooManyObjects { limit: 1 }, 500),
        ] {
            let Refusal::Problem(status, detail) = Refusal::from(error) else {
                panic!("{expected}");
            };
            assert_eq!(status, expected);
            assert!(!detail.contains("internal"), "{detail}");
        }
        let response = Refusal::busy().into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
