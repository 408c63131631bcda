//! `GET drains`, `POST drains`, `DELETE drains/{id}`: what takes no new work, and on whose word.
//!
//! What drains is said by `what`; ids begin with the same word.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::moment;
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::config;
use crate::control::{NoDrain, ServerDrain, WhyDrains};
use crate::upstream::ServerId;

/// Ids of servers begin with it.
const SERVER: &str = "server-";

#[derive(Serialize)]
struct List {
    drains: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    what: &'static str,
    upstream: String,
    server: String,
    /// `asked`: by an operator; `no-weight`: by the configuration; `gone`: its upstream does not have it any more.
    why: &'static str,
    since: Option<String>,
    requests: u32,
    tunnels: u32,
    /// Tunnels that have been closed for it.
    closed: usize,
    /// How many are closed in a second; `null`: none is.
    rate: Option<u32>,
}

impl From<ServerDrain> for Row {
    fn from(drain: ServerDrain) -> Self {
        Self {
            id: id_of(drain.id),
            what: "server",
            upstream: drain.upstream.to_string(),
            server: drain.server.to_string(),
            why: match drain.why {
                WhyDrains::Asked => "asked",
                WhyDrains::NoWeight => "no-weight",
                WhyDrains::Gone => "gone",
            },
            since: drain.since.and_then(moment),
            requests: drain.requests,
            tunnels: drain.tunnels,
            closed: drain.closed,
            rate: drain.rate,
        }
    }
}

pub fn list(plane: &Plane) -> Result<Reply, ApiError> {
    Reply::json(&List { drains: plane.drains.list().into_iter().map(Row::from).collect() })
}

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
enum DrainBody {
    Server {
        /// As logs name it.
        server: String,
        /// `None`: in every upstream that has it.
        upstream: Option<String>,
    },
}

pub fn drain(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    match ask.json()? {
        DrainBody::Server { server, upstream } => {
            let ids = drain_server(plane, ask, &server, upstream.as_deref())?;
            let drains = plane.drains.list().into_iter().filter(|drain| ids.contains(&drain.id)).map(Row::from);
            Reply::json(&List { drains: drains.collect() })
        }
    }
}

fn drain_server(plane: &Plane, ask: &Ask, server: &str, upstream: Option<&str>) -> Result<Vec<ServerId>, ApiError> {
    let found = plane.drains.find(upstream, server);
    if found.is_empty() {
        return Err(no_such_server(plane, server, upstream));
    }
    for (upstream, server) in &found {
        match plane.drains.drain(upstream.as_str(), server.url.as_str()) {
            Ok(tunnels) => {
                tracing::info!(peer = ask.peer, %upstream, server = %server.url, tunnels, "an operator lets a server drain");
            }
            // Gone in between.
            Err(NoDrain::NoSuchServer) => {
                return Err(no_such_server(plane, server.url.as_str(), Some(upstream.as_str())));
            }
            Err(NoDrain::TooMany) => {
                let message = "so many servers are asked to drain that one more is not remembered";
                return Err(ApiError::new(StatusCode::CONFLICT, "too-many-drains", message));
            }
        }
    }
    Ok(found.into_iter().map(|(_, server)| server.id).collect())
}

fn no_such_server(plane: &Plane, server: &str, upstream: Option<&str>) -> ApiError {
    let snapshot = plane.in_use.snapshot();
    let of = snapshot.upstreams.iter().filter(|known| upstream.is_none_or(|name| known.name.as_str() == name));
    let known: Vec<String> = of
        .flat_map(|upstream| upstream.roster.read().1.iter().map(|server| server.url.to_string()).collect::<Vec<_>>())
        .collect();
    let whose = upstream.map(|upstream| format!(" in the upstream `{upstream}`")).unwrap_or_default();
    let error = ApiError::new(StatusCode::NOT_FOUND, "no-such-server", format!("there is no server `{server}`{whose}"));
    match config::nearest(server, known.iter().map(String::as_str)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("`GET /api/v1/upstreams` lists servers as they are named here"),
    }
}

#[derive(Serialize)]
struct Ended {
    id: String,
    what: &'static str,
    upstream: String,
    server: String,
}

pub fn resume(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let id = ask.tail.strip_prefix(SERVER).filter(|digits| digits.len() == 16);
    let id = id.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(ServerId);
    let Some(asked) = id.and_then(|id| plane.drains.resume_by_id(id)) else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no-such-drain", "nobody has asked for a drain with this id")
            .help("`GET /api/v1/drains` lists drains; those that nobody has asked for end with their cause"));
    };
    let (upstream, server) = (asked.upstream.to_string(), asked.server.to_string());
    tracing::info!(peer = ask.peer, upstream, server, "an operator ends the drain of a server");
    Reply::json(&Ended { id: id_of(asked.id), what: "server", upstream, server })
}

fn id_of(id: ServerId) -> String {
    format!("{SERVER}{:016x}", id.0)
}
