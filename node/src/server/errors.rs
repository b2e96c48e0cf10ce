//! Errors as HTTP clients see them: an OpenAI error object with the fix in it.
//!
//! Before the first token it is the answer, with a status; after it, an event in
//! the stream that stock clients raise.

use crate::control::{ErrorBody, ErrorDetail, kind};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::refusal::Refusal;

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The error object.
    pub body: ErrorBody,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error of this server's own.
    pub fn new(status: u16, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let (message, fix) = (message.into(), fix.into());
        let detail = ErrorDetail {
            message: format!("{message} ({fix})"),
            kind: kind(status).to_owned(),
            code: None,
            param: None,
            fix: Some(fix),
        };
        ApiError {
            status,
            body: ErrorBody { error: detail },
            retry_after_ms: None,
        }
    }

    /// A bad request that names the parameter.
    pub fn parameter(param: &str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut error = ApiError::new(400, message, fix);
        error.body.error.param = Some(param.to_owned());
        error
    }

    /// The event that ends a stream after its first token.
    pub fn event(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        ApiError {
            status: refusal.code.http_status(),
            retry_after_ms: refusal.retry_after_ms,
            body: ErrorBody::of(&refusal),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let fix = match rejection.status().as_u16() {
            413 => "send less, or raise gateway.max_body_bytes",
            415 => "send JSON with the header Content-Type: application/json",
            _ => "correct the request body",
        };
        // A field of the wrong type is a bad request to every client of this API.
        let status = match rejection.status().as_u16() {
            422 => 400,
            status => status,
        };
        ApiError::new(status, rejection.body_text(), fix)
    }
}

impl From<actors::node::NodeError> for ApiError {
    fn from(error: actors::node::NodeError) -> Self {
        ApiError::new(503, error.to_string(), "look at the node's log")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body)).into_response();
        if let Some(ms) = self.retry_after_ms {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::refusal::Code;

    #[test]
    fn a_used_up_budget_is_402_with_the_fix_and_never_503() {
        let error = ApiError::from(Refusal::new(
            Code::BudgetExhausted,
            "today's 10.000 sat are spent",
        ));
        assert_eq!(error.status, 402);
        let detail = &error.body.error;
        assert_eq!(detail.code.as_deref(), Some("budget_exhausted"));
        assert_eq!(detail.kind, "insufficient_quota");
        assert!(
            detail
                .fix
                .as_deref()
                .is_some_and(|fix| fix.contains("[budget]"))
        );
        assert!(
            detail.message.contains("[budget]"),
            "clients show the message alone"
        );
    }

    #[test]
    fn an_error_event_is_an_object_that_stock_clients_raise() {
        let error = ApiError::from(Refusal::new(Code::Disconnected, "the host went away"));
        let event: serde_json::Value = serde_json::from_str(&error.event()).unwrap();
        assert_eq!(event["error"]["code"], "disconnected");
        assert!(event["error"]["message"].is_string());
    }
}
