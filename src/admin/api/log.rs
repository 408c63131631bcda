//! `GET log`, `PUT log`: how much the event log says. What is set here holds until the next reload.

use serde::{Deserialize, Serialize};

use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};
use crate::admin::ask::Ask;
use crate::telemetry::events::BadLevel;

#[derive(Serialize)]
struct Levels {
    /// `info`, or with those of single areas `info,upstream=debug`.
    level: String,
    /// What a reload goes back to.
    configured: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    level: String,
}

pub fn log(plane: &Plane) -> Result<Reply, ApiError> {
    let levels = plane.log.levels();
    Reply::json(&Levels { level: levels.now.to_string(), configured: levels.configured.to_string() })
}

pub fn set(plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    let SetBody { level } = ask.json()?;
    let before = plane.log.levels().now;
    let level = before.changed(&level).map_err(|BadLevel { word, help }| {
        ApiError::bad_request("bad-level", format!("`{word}` is no level")).help(help)
    })?;
    // Before it holds: it may silence this line.
    tracing::info!(peer = ask.peer, %level, %before, "an operator sets the log's level");
    plane.log.put(level);
    log(plane)
}
