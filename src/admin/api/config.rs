//! `GET config`: the configuration in use as it is written, file by file. Secrets stand in files of their own, of which
//! only the names are told.

use serde::Serialize;

use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};

#[derive(Serialize)]
struct Config<'a> {
    generation: u64,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    path: String,
    tables: &'a serde_json::Value,
}

pub fn config(plane: &Plane) -> Result<Reply, ApiError> {
    let snapshot = plane.in_use.snapshot();
    let files = snapshot.written().files().iter();
    let files = files.map(|file| File { path: file.path.display().to_string(), tables: &file.tables });
    Reply::json(&Config { generation: snapshot.number, files: files.collect() })
}
