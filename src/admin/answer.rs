//! What is answered: JSON, or a text with its type, or what is wrong, in a form that people and programs can read.
//!
//! Every answer forbids browsers what they need not do with it.

use std::fmt;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::http::AnswerBody;

pub const JSON: &str = "application/json";

/// Nothing that is answered here loads, runs or embeds anything, unless its own answer says so.
const CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What comes of a request that was understood.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
    /// In place of the one that forbids everything.
    pub content_policy: Option<&'static str>,
}

impl Reply {
    pub fn json(value: &impl Serialize) -> Result<Self, ApiError> {
        Self::json_as(StatusCode::OK, value)
    }

    pub fn json_as(status: StatusCode, value: &impl Serialize) -> Result<Self, ApiError> {
        let mut body = serde_json::to_vec(value).map_err(|_| ApiError::internal("the answer cannot be written"))?;
        body.push(b'\n');
        Ok(Self { status, content_type: JSON, body: body.into(), content_policy: None })
    }

    pub fn text(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into(), content_policy: None }
    }
}

/// What is wrong with a request, or keeps it from being done.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    /// Stable, kebab-case.
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    /// Methods that would be answered.
    pub allow: Option<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), help: None, allow: None }
    }

    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn internal(message: &'static str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", message)
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorWords<'a>,
}

#[derive(Serialize)]
struct ErrorWords<'a> {
    code: &'a str,
    message: &'a str,
    help: Option<&'a str>,
}

/// The answer as it goes out. `is_head`: without its body.
pub fn response(outcome: Result<Reply, ApiError>, is_head: bool) -> Response<AnswerBody> {
    let (reply, allow, is_unauthorized) = match outcome {
        Ok(reply) => (reply, None, false),
        Err(ApiError { status, code, message, help, allow }) => {
            let words = ErrorWords { code, message: &message, help: help.as_deref() };
            // Strings and nothing else: that can be written.
            let mut body = serde_json::to_vec(&ErrorBody { error: words }).unwrap_or_default();
            body.push(b'\n');
            let reply = Reply { status, content_type: JSON, body: body.into(), content_policy: None };
            (reply, allow, status == StatusCode::UNAUTHORIZED)
        }
    };
    let length = reply.body.len();
    let body = if is_head || length == 0 { AnswerBody::Empty } else { AnswerBody::Full(reply.body) };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    let fields = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 7] = [
        (CONTENT_TYPE, reply.content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CONTENT_SECURITY_POLICY, reply.content_policy.unwrap_or(CONTENT_POLICY)),
    ];
    for (name, value) in fixed {
        fields.insert(name, HeaderValue::from_static(value));
    }
    if is_head {
        fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(allow) = allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
        fields.insert(ALLOW, allow);
    }
    if is_unauthorized {
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis\""));
    }
    response
}
