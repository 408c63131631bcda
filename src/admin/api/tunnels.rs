//! `GET tunnels`, `POST tunnels/close`: the live tunnels, listed and closed.
//!
//! Of a list only what is shown is kept while it comes from the workers, page by page.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{micros, millis};
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::control::filter::{BadFilter, Filter};
use crate::control::ranking::{Sort, Top};
use crate::exchange::live::{BadClose, CloseOrder, Matches, TunnelRow};
use crate::telemetry::end::EndReason;
use crate::types::Name;

/// Rows of a list where nobody says.
const LIMIT: usize = 100;
const MOST: usize = 10_000;

/// The code of a Close where nobody says (RFC 6455 7.4.1): a policy, which is what an operator is.
const CODE: u16 = 1008;

#[derive(Serialize)]
struct List {
    /// How many the filter means, shown or not.
    matched: usize,
    /// Workers that have not answered: their tunnels are missing.
    silent_workers: usize,
    tunnels: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: u64,
    state: &'static str,
    listener: String,
    protocol: &'static str,
    tls: Option<&'static str>,
    route: Option<String>,
    upstream: Option<String>,
    server: Option<String>,
    subprotocol: Option<String>,
    client: Option<String>,
    peer: String,
    connection: u64,
    worker: usize,
    age_ms: u64,
    idle_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
    messages_in: Option<u64>,
    messages_out: Option<u64>,
    rtt_us: Option<u64>,
    closed_by: Option<&'static str>,
    close_code: Option<u16>,
}

impl From<TunnelRow> for Row {
    fn from(row: TunnelRow) -> Self {
        let name = |name: &Option<Name>| name.as_ref().map(ToString::to_string);
        let (way, progress) = (&row.way, &row.progress);
        let frames = progress.frames;
        Self {
            id: row.tunnel.number,
            state: progress.state.as_str(),
            listener: way.listener.to_string(),
            protocol: way.version.as_str(),
            tls: way.tls,
            route: name(&way.route),
            upstream: name(&way.upstream),
            server: name(&way.server),
            subprotocol: name(&way.subprotocol),
            client: row.client.map(|client| client.to_canonical().to_string()),
            peer: row.peer.to_string(),
            connection: row.connection,
            worker: row.tunnel.worker(),
            age_ms: millis(row.age),
            idle_ms: millis(progress.idle),
            bytes_in: progress.bytes_up,
            bytes_out: progress.bytes_down,
            messages_in: frames.map(|frames| frames.messages_up),
            messages_out: frames.map(|frames| frames.messages_down),
            rtt_us: frames.and_then(|frames| frames.round_trip).map(micros),
            closed_by: frames.and_then(|frames| frames.closed_by).map(|side| side.as_str()),
            close_code: frames.and_then(|frames| frames.close_code),
        }
    }
}

pub async fn list(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let filter = filter(ask.query("filter").unwrap_or_default())?;
    let sort = ask.query("sort").map(Sort::parse).transpose();
    let sort = sort.map_err(|help| ApiError::bad_request("bad-sort", "tunnels are not sorted by that").help(help))?;
    let limit = ask.number("limit", 0..=MOST)?.unwrap_or(LIMIT);
    let offset = ask.number("offset", 0..=MOST)?.unwrap_or(0);
    let mut listing = plane.tunnels.list(matches(filter));
    let mut top = Top::new(sort.unwrap_or_default(), offset + limit);
    while let Some(rows) = listing.next().await {
        rows.into_iter().for_each(|row| top.add(row));
    }
    let matched = top.seen();
    let tunnels = top.into_rows().into_iter().skip(offset).map(Row::from).collect();
    Reply::json(&List { matched, silent_workers: listing.silent, tunnels })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseBody {
    filter: Option<String>,
    /// Said on purpose: every tunnel is meant.
    #[serde(default)]
    all: bool,
    code: Option<u16>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Closed {
    /// Tunnels that were open and are about to close.
    closed: usize,
    /// Workers that have not answered. They may do as they were told nonetheless.
    silent_workers: usize,
}

pub async fn close(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let CloseBody { filter: text, all, code, reason } = ask.json()?;
    let text = text.unwrap_or_default();
    let filter = filter(&text)?;
    if filter.is_empty() != all {
        let message = if all { "`all` and a filter do not go together" } else { "no tunnels are named" };
        return Err(ApiError::bad_request("bad-filter", message)
            .help("give a `filter` such as `route=chat`, or `\"all\": true` and no filter"));
    }
    let (code, reason) = (code.unwrap_or(CODE), reason.unwrap_or_default());
    let order = close_order(code, &reason)?;
    let closed = plane.tunnels.close(&matches(filter), &Arc::new(order)).await;
    tracing::info!(peer = ask.peer, filter = text, all, code, tunnels = closed.tunnels, "an operator closes tunnels");
    Reply::json(&Closed { closed: closed.tunnels, silent_workers: closed.silent })
}

/// What an operator has tunnels closed with.
pub(super) fn close_order(code: u16, reason: &str) -> Result<CloseOrder, ApiError> {
    CloseOrder::new(code, reason, EndReason::ClosedByOperator).map_err(|bad| {
        let help = match bad {
            BadClose::Code(_) => "1000, 1001, 1008, 1012, 1013, or a number from 3000 to 4999",
            BadClose::Reason(_) => "say it shorter",
        };
        ApiError::bad_request("bad-close", bad.to_string()).help(help)
    })
}

pub(super) fn filter(text: &str) -> Result<Filter, ApiError> {
    Filter::parse(text)
        .map_err(|BadFilter { message, help, .. }| ApiError::bad_request("bad-filter", message).help(help))
}

pub(super) fn matches(filter: Filter) -> Matches {
    Arc::new(move |row, _| filter.matches(row))
}
