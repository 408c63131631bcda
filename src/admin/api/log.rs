//! `GET log`, `PUT log`: how much the event log says. What is set here holds until the next reload.

use serde::{Deserialize, Serialize};

use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::config::model::LogLevel;

#[derive(Serialize)]
struct Levels {
    level: &'static str,
    /// What a reload goes back to.
    configured: &'static str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    level: String,
}

pub fn log(plane: &Plane) -> Result<Reply, ApiError> {
    let levels = plane.log.levels();
    Reply::json(&Levels { level: levels.now.as_str(), configured: levels.configured.as_str() })
}

pub fn set(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let SetBody { level } = ask.json()?;
    let Some(level) = LogLevel::ALL.into_iter().find(|known| known.as_str() == level) else {
        let known = LogLevel::ALL.map(LogLevel::as_str).join(", ");
        return Err(
            ApiError::bad_request("bad-level", format!("`{level}` is no level")).help(format!("it is one of {known}"))
        );
    };
    let before = plane.log.levels().now;
    tracing::info!(
        peer = ask.peer,
        level = level.as_str(),
        before = before.as_str(),
        "an operator sets the log's level"
    );
    plane.log.set_level(level);
    log(plane)
}
