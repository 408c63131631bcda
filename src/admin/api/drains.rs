//! `GET drains`, `POST drains`, `DELETE drains/{id}`: what takes no new work, or loses its tunnels, and on whose word.
//!
//! What drains is said by `what`; ids begin with the same word. Shapes are in `drain_rows.rs`.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use super::drain_rows::{Ended, List, Row, SERVER};
use super::tunnels::{close_order, filter, matches};
use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::config;
use crate::control::sweeps::{DEFAULT, Speed, Subject, Sweep, TooMany};
use crate::control::{NoDrain, ServerDrain};
use crate::types::Name;
use crate::upstream::ServerId;

/// The code of a Close where nobody says (RFC 6455 7.4.1): what clients hear of any drain.
const CODE: u16 = 1001;
const REASON: &str = "going away";

/// Tunnels in a second.
const RATES: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// The longest time to spread them over.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub fn list(plane: &Plane) -> Result<Reply, ApiError> {
    let sweeps = plane.sweeps.list();
    let mut drains: Vec<_> = sweeps.iter().filter(|sweep| !is_server(sweep)).map(Row::of_sweep).collect();
    drains.extend(plane.drains.list().iter().map(|drain| server_row(plane, drain)));
    Reply::json(&List { drains })
}

fn is_server(sweep: &Sweep) -> bool {
    matches!(sweep.subject, Subject::Server { .. })
}

/// A server, with how far its tunnels are where they have a pace of their own.
fn server_row(plane: &Plane, drain: &ServerDrain) -> Row {
    Row::of_server(drain, plane.sweeps.find(&subject(&drain.upstream, &drain.server)).as_ref())
}

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
enum DrainBody {
    /// The process, as SIGTERM has it.
    Process {
        over_ms: Option<u64>,
        rate: Option<u32>,
    },
    Listener {
        name: String,
        over_ms: Option<u64>,
        rate: Option<u32>,
    },
    Route {
        name: String,
        over_ms: Option<u64>,
        rate: Option<u32>,
    },
    Server {
        /// As logs name it.
        server: String,
        /// `None`: in every upstream that has it.
        upstream: Option<String>,
        over_ms: Option<u64>,
        rate: Option<u32>,
    },
    Tunnels {
        filter: String,
        over_ms: Option<u64>,
        rate: Option<u32>,
        code: Option<u16>,
        reason: Option<String>,
    },
}

pub fn drain(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let row = match ask.json()? {
        DrainBody::Process { over_ms, rate } => drain_process(plane, ask, speed(over_ms, rate)?),
        DrainBody::Listener { name, over_ms, rate } => drain_listener(plane, ask, &name, speed(over_ms, rate)?)?,
        DrainBody::Route { name, over_ms, rate } => drain_route(plane, ask, &name, speed(over_ms, rate)?)?,
        DrainBody::Tunnels { filter: text, over_ms, rate, code, reason } => {
            let speed = speed(over_ms, rate)?.unwrap_or(DEFAULT);
            let reason = reason.as_deref().or(code.is_none().then_some(REASON)).unwrap_or_default();
            let (filter, order) = (filter(&text)?, close_order(code.unwrap_or(CODE), reason)?);
            if filter.is_empty() {
                return Err(ApiError::bad_request("bad-filter", "no tunnels are named")
                    .help("give a `filter` such as `route=chat`"));
            }
            let sweep = plane.sweeps.close(&text, matches(filter), order, speed).map_err(too_many)?;
            tracing::info!(peer = ask.peer, filter = text, %speed, "an operator lets tunnels be closed");
            Row::of_sweep(&sweep)
        }
        DrainBody::Server { server, upstream, over_ms, rate } => {
            let ids = drain_server(plane, ask, &server, upstream.as_deref(), speed(over_ms, rate)?)?;
            let drains = plane.drains.list().into_iter().filter(|drain| ids.contains(&drain.id));
            return Reply::json(&List { drains: drains.map(|drain| server_row(plane, &drain)).collect() });
        }
    };
    Reply::json(&List { drains: vec![row] })
}

/// The pace that was asked for, if one was.
fn speed(over_ms: Option<u64>, rate: Option<u32>) -> Result<Option<Speed>, ApiError> {
    let bad = |message: &str, help: String| Err(ApiError::bad_request("bad-pace", message).help(help));
    match (over_ms.map(Duration::from_millis), rate) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            bad("`over_ms` and `rate` do not go together", "say how long, or how many in a second".to_owned())
        }
        (Some(time), None) if time <= LONGEST => Ok(Some(Speed::Over(time))),
        (Some(_), None) => bad("that is too long", format!("`over_ms` is {} at most", LONGEST.as_millis())),
        (None, Some(rate)) if RATES.contains(&rate) => Ok(Some(Speed::Rate(rate))),
        (None, Some(_)) => {
            bad("that is no rate", format!("`rate` is a number from {} to {}", RATES.start(), RATES.end()))
        }
    }
}

fn drain_process(plane: &Plane, ask: &Ask, speed: Option<Speed>) -> Row {
    tracing::info!(peer = ask.peer, pace = speed.map(tracing::field::display), "an operator lets the process drain");
    plane.sweeps.stop_process(speed);
    // It begins a moment later, and what it finds then can be asked for.
    Row::of_process(speed)
}

fn drain_route(plane: &Plane, ask: &Ask, name: &str, speed: Option<Speed>) -> Result<Row, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let route = known("route", name, snapshot.routes.iter().map(|route| &route.name))?;
    let speed = speed.unwrap_or(DEFAULT);
    let sweep = plane.sweeps.drain_route(route, speed).map_err(too_many)?;
    tracing::info!(peer = ask.peer, route = name, %speed, "an operator lets a route drain");
    Ok(Row::of_sweep(&sweep))
}

fn drain_listener(plane: &Plane, ask: &Ask, name: &str, speed: Option<Speed>) -> Result<Row, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let listener = known("listener", name, snapshot.listeners.iter().map(|plan| &plan.name))?;
    let speed = speed.unwrap_or(DEFAULT);
    let sweep = plane.sweeps.drain_listener(listener, speed).map_err(too_many)?;
    tracing::info!(peer = ask.peer, listener = name, %speed, "an operator lets a listener drain");
    Ok(Row::of_sweep(&sweep))
}

/// The one of them that is called so.
fn known<'a>(what: &str, name: &str, all: impl Iterator<Item = &'a Name> + Clone) -> Result<&'a Name, ApiError> {
    if let Some(known) = all.clone().find(|known| known.as_str() == name) {
        return Ok(known);
    }
    let code = if what == "route" { "no-such-route" } else { "no-such-listener" };
    let error = ApiError::new(StatusCode::NOT_FOUND, code, format!("there is no {what} `{name}`"));
    Err(match config::nearest(name, all.map(Name::as_str)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("`GET /api/v1/{what}s` lists {what}s as they are named here")),
    })
}

fn too_many(_: TooMany) -> ApiError {
    let message = "so much drains already that one more is not remembered";
    ApiError::new(StatusCode::CONFLICT, "too-many-drains", message).help("`GET /api/v1/drains` lists what drains")
}

fn drain_server(
    plane: &Plane,
    ask: &Ask,
    server: &str,
    upstream: Option<&str>,
    speed: Option<Speed>,
) -> Result<Vec<ServerId>, ApiError> {
    let found = plane.drains.find(upstream, server);
    if found.is_empty() {
        return Err(no_such_server(plane, server, upstream));
    }
    for (upstream, server) in &found {
        match plane.drains.drain(upstream.as_str(), server.url.as_str(), speed.is_some()) {
            Ok(tunnels) => {
                match speed {
                    Some(speed) => _ = plane.sweeps.drain_server(upstream, &server.url, speed),
                    None => _ = plane.sweeps.undo(&subject(upstream, &server.url)),
                }
                tracing::info!(peer = ask.peer, %upstream, server = %server.url, tunnels, "an operator lets a server drain");
            }
            // Gone in between.
            Err(NoDrain::NoSuchServer) => {
                return Err(no_such_server(plane, server.url.as_str(), Some(upstream.as_str())));
            }
            Err(NoDrain::TooMany) => return Err(too_many(TooMany)),
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

fn subject(upstream: &Name, server: &Name) -> Subject {
    Subject::Server { upstream: upstream.clone(), server: server.clone() }
}

pub fn resume(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    if ask.tail == Subject::Process.what() && plane.lifecycle.phase().is_stopping() {
        return Err(ApiError::new(StatusCode::CONFLICT, "no-way-back", "a process that drains goes on to its end")
            .help("start another one"));
    }
    let ended = match ask.tail.strip_prefix(SERVER) {
        Some(digits) => resume_server(plane, digits),
        None => {
            let number = ask.tail.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
            let found = number.and_then(|number| plane.sweeps.list().into_iter().find(|sweep| sweep.number == number));
            // Servers have ids of their own.
            let found = found.filter(|sweep| !is_server(sweep) && Row::id_of(sweep) == ask.tail);
            found.and_then(|sweep| plane.sweeps.undo_by_number(sweep.number)).map(|sweep| Ended::of_sweep(&sweep))
        }
    };
    let Some(ended) = ended else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no-such-drain", "nobody has asked for a drain with this id")
            .help("`GET /api/v1/drains` lists drains; those that nobody has asked for end with their cause"));
    };
    tracing::info!(peer = ask.peer, id = ended.id, "an operator ends a drain");
    Reply::json(&ended)
}

fn resume_server(plane: &Plane, digits: &str) -> Option<Ended> {
    let id = Some(digits).filter(|digits| digits.len() == 16)?;
    let asked = plane.drains.resume_by_id(ServerId(u64::from_str_radix(id, 16).ok()?))?;
    plane.sweeps.undo(&subject(&asked.upstream, &asked.server));
    Some(Ended::of_server(asked.id, &asked.upstream, &asked.server))
}
