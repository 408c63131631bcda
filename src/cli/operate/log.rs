//! `portcullis log`: how much the event log says.

use std::process::ExitCode;

use http::Method;
use serde_json::json;

use super::{Failure, Where, finish};
use crate::cli::say;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  portcullis log debug\n  portcullis log upstream=debug,tls=trace\n\nIt holds until the next reload; without LEVEL it is only told."
)]
pub struct Args {
    /// error, warn, info, debug or trace; AREA=LEVEL for one part
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    at: Where,
}

pub fn log(args: &Args) -> ExitCode {
    finish("log", run(args))
}

fn run(args: &Args) -> Result<(), Failure> {
    let answer = match &args.level {
        Some(level) => args.at.ask(Method::PUT, "/api/v1/log", Some(&json!({ "level": level })))?,
        None => args.at.ask(Method::GET, "/api/v1/log", None)?,
    };
    let text = |name: &str| super::plain(answer[name].as_str().unwrap_or_default());
    let (level, configured) = (text("level"), text("configured"));
    let aside = if level == configured { String::new() } else { format!(" ({configured} in the configuration)") };
    say(&format!("{level}{aside}\n"));
    Ok(())
}
