//! `portcullis status`: whether a gateway is well, at a glance.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::table::{self, Table};
use super::{Failure, Where, finish, plain, print_json};
use crate::cli::say;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis status --admin 127.0.0.1:9900")]
pub struct Args {
    /// As the API gives it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

pub fn status(args: &Args) -> ExitCode {
    finish("status", run(args))
}

fn run(args: &Args) -> Result<(), Failure> {
    let status = args.at.ask(Method::GET, "/api/v1/status", None)?;
    if args.json {
        return print_json(&status);
    }
    let text = |value: &Value| plain(value.as_str().unwrap_or("-"));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut out = format!(
        "portcullis {}, {} (process {}, up for {})\n",
        text(&status["version"]),
        text(&status["phase"]),
        status["pid"],
        table::duration(number(&status["uptime_ms"]))
    );
    if let Some(left) = status["drain_left_ms"].as_u64() {
        out += &format!("drain: {} left\n", table::duration(left));
    }
    let (configuration, connections) = (&status["configuration"], &status["connections"]);
    out += &format!(
        "configuration {} since {}, {} reloads refused\n{} of {} connections, {} tunnels\n",
        configuration["generation"],
        text(&configuration["since"]),
        configuration["refused"],
        connections["open"],
        connections["max"],
        status["tunnels"]
    );
    let mut workers = Table::new(&["#WORKER", "#CONNECTIONS", "#LOAD", "#TUNNELS"]);
    for worker in status["workers"].as_array().into_iter().flatten() {
        let cell = |name: &str| worker[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        workers.row(["worker", "connections", "load", "tunnels"].map(cell).to_vec());
    }
    say(&(out + &workers.render(table::width())));
    Ok(())
}
