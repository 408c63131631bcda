//! `POST reload`: another configuration, and what has come of it.

use http::StatusCode;
use serde::Serialize;

use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::config::report::Severity;
use crate::config::written::{Changes, Difference};
use crate::control::{NoReload, Outcome, Told};
use crate::types::Name;

#[derive(Serialize)]
struct Answer<'a> {
    /// Only where nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Words>,
    reloaded: bool,
    /// The one in use afterwards.
    generation: u64,
    changes: Option<Changed>,
    problems: Vec<Problem<'a>>,
    /// Problems beyond those.
    unsaid: usize,
    /// All of it as `portcullis check` shows it.
    report: &'a str,
}

#[derive(Serialize)]
struct Words {
    code: &'static str,
    message: &'static str,
    help: &'static str,
}

#[derive(Serialize)]
struct Changed {
    server: bool,
    log: bool,
    admin: bool,
    listeners: Names,
    routes: Names,
    upstreams: Names,
}

#[derive(Serialize)]
struct Names {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    /// The same words, but files that they name hold something else.
    renewed: Vec<String>,
}

#[derive(Serialize)]
struct Problem<'a> {
    severity: &'static str,
    code: &'static str,
    place: Option<&'a str>,
    message: &'a str,
    help: Option<&'a str>,
    also: Option<&'a str>,
}

impl From<&Changes> for Changed {
    fn from(changes: &Changes) -> Self {
        let Changes { server, log, admin, listeners, routes, upstreams } = changes;
        Self {
            server: *server,
            log: *log,
            admin: *admin,
            listeners: Names::from(listeners),
            routes: Names::from(routes),
            upstreams: Names::from(upstreams),
        }
    }
}

impl From<&Difference> for Names {
    fn from(difference: &Difference) -> Self {
        let names = |names: &[Name]| names.iter().map(ToString::to_string).collect();
        let Difference { added, removed, changed, renewed } = difference;
        Self { added: names(added), removed: names(removed), changed: names(changed), renewed: names(renewed) }
    }
}

impl<'a> From<&'a Told> for Problem<'a> {
    fn from(told: &'a Told) -> Self {
        Self {
            severity: match told.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            code: told.code,
            place: told.place.as_deref(),
            message: &told.message,
            help: told.help.as_deref(),
            also: told.also.as_deref(),
        }
    }
}

pub async fn reload(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    ask.json::<Nothing>()?;
    tracing::info!(peer = ask.peer, "an operator asks for a reload");
    let outcome = plane.reloads.ask_and_wait().await.map_err(|why| match why {
        NoReload::Stopping => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "no reload: the gateway stops")
        }
        NoReload::Busy => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many wait for a reload already"),
    })?;
    let Outcome { generation, changes, problems, unsaid, report } = &*outcome;
    let error = changes.is_none().then_some(Words {
        code: "not-reloaded",
        message: "no reload: the configuration in use stays",
        help: "`problems` has what is wrong",
    });
    let status = if changes.is_some() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Reply::json_as(
        status,
        &Answer {
            error,
            reloaded: changes.is_some(),
            generation: *generation,
            changes: changes.as_ref().map(Changed::from),
            problems: problems.iter().map(Problem::from).collect(),
            unsaid: *unsaid,
            report,
        },
    )
}

/// There is nothing to say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}
