//! `GET refusals`: what was last refused, to whom and why, over all workers.

use serde::Serialize;

use super::time;
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::exchange::refusals::{KEPT, Refused};
use crate::types::HttpVersion;

/// Rows where nobody says.
const LIMIT: usize = 50;

#[derive(Serialize)]
struct List {
    /// The newest first.
    refusals: Vec<Row>,
    /// Workers that have not answered.
    silent_workers: usize,
}

#[derive(Serialize)]
struct Row {
    time: Option<String>,
    /// An end reason.
    reason: &'static str,
    side: &'static str,
    status: Option<u16>,
    /// `route.websocket.origins (portcullis.toml:9)`
    rule: Option<Box<str>>,
    detail: Option<Box<str>>,
    client: Option<String>,
    listener: Box<str>,
    protocol: Option<&'static str>,
    connection: u64,
    /// Empty where it did not get as far as a request.
    method: Box<str>,
    host: Option<Box<str>>,
    path: Box<str>,
    route: Option<Box<str>>,
    upstream: Option<Box<str>>,
    server: Option<Box<str>>,
    origin: Option<Box<str>>,
    user_agent: Option<Box<str>>,
}

impl From<Refused> for Row {
    fn from(refused: Refused) -> Self {
        Self {
            time: time(refused.time),
            reason: refused.reason.code(),
            side: refused.reason.side().as_str(),
            status: refused.status,
            rule: refused.rule,
            detail: refused.detail,
            client: refused.client.map(|client| client.to_canonical().to_string()),
            listener: refused.listener,
            protocol: refused.protocol.map(HttpVersion::as_str),
            connection: refused.connection,
            method: refused.method,
            host: refused.host,
            path: refused.path,
            route: refused.route,
            upstream: refused.upstream,
            server: refused.server,
            origin: refused.origin,
            user_agent: refused.user_agent,
        }
    }
}

pub async fn refusals(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let limit = ask.number("limit", 0..=KEPT)?.unwrap_or(LIMIT);
    let (refusals, silent_workers) = plane.tunnels.refusals(limit).await;
    Reply::json(&List { refusals: refusals.into_iter().map(Row::from).collect(), silent_workers })
}
