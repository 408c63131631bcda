//! `portcullis kill`: closes tunnels, and asks first where it is more than one and somebody is there to answer.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::{Failure, Where, encode, finish, ps};
use crate::cli::{complain, say};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis kill route=chat client=10.0.0.0/8 --code 1001 --reason bye\n\n\
                        Filters are those of `portcullis ps`.")]
pub struct Args {
    /// Terms, all of which have to hold
    #[arg(value_name = "FILTER", required_unless_present = "all")]
    filter: Vec<String>,
    /// Every tunnel there is
    #[arg(long, conflicts_with = "filter")]
    all: bool,
    /// What clients are told
    #[arg(long, value_name = "CODE", default_value_t = 1008)]
    code: u16,
    /// The same in words
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask, however many there are
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    at: Where,
}

pub fn kill(args: &Args) -> ExitCode {
    finish("kill", run(args))
}

fn run(args: &Args) -> Result<(), Failure> {
    let filter = ps::join(&args.filter);
    if !args.yes && std::io::stdin().is_terminal() && !agreed(args, &filter)? {
        return Err(Failure::Failed("nothing is closed".into()));
    }
    let mut body = json!({ "code": args.code, "reason": args.reason });
    body[if args.all { "all" } else { "filter" }] = if args.all { true.into() } else { filter.into() };
    let closed = args.at.ask(Method::POST, "/api/v1/tunnels/close", Some(&body))?;
    match closed["closed"].as_u64() {
        Some(0) => say("no tunnel is meant: nothing is closed\n"),
        _ => say(&format!("{} closed\n", count(&closed["closed"]))),
    }
    let silent = closed["silent_workers"].as_u64().unwrap_or_default();
    if silent > 0 {
        return Err(Failure::Failed(format!("{silent} workers have not answered: some tunnels may be open")));
    }
    Ok(())
}

/// Of one tunnel there is nothing to ask.
fn agreed(args: &Args, filter: &str) -> Result<bool, Failure> {
    let path = format!("/api/v1/tunnels?limit=0&filter={}", encode(filter));
    let list = args.at.ask(Method::GET, &path, None)?;
    if list["matched"].as_u64().unwrap_or_default() <= 1 {
        return Ok(true);
    }
    complain(&format!("close {}? [y/N] ", count(&list["matched"])));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn count(value: &Value) -> String {
    match value.as_u64().unwrap_or_default() {
        1 => "1 tunnel".to_owned(),
        number => format!("{number} tunnels"),
    }
}
