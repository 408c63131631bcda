//! `portcullis reload`: another configuration in use, or why not, in the words of `check`.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::{Failure, Where, finish, plain, print_json, refusal};
use crate::cli::{complain, say};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis reload --config /etc/portcullis.toml\n\n\
                        Exit codes: 0 in use, 1 refused (nothing has changed), 2 bad usage")]
pub struct Args {
    /// As the API gives it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

pub fn reload(args: &Args) -> ExitCode {
    finish("reload", run(args))
}

fn run(args: &Args) -> Result<(), Failure> {
    let answer = args.at.ask_for_any(Method::POST, "/api/v1/reload", None)?;
    let Some(reloaded) = answer.json["reloaded"].as_bool() else { return Err(refusal(&answer)) };
    if args.json {
        print_json(&answer.json)?;
    } else {
        let report = answer.json["report"].as_str().unwrap_or_default();
        complain(&report.lines().map(|line| plain(line) + "\n").collect::<String>());
    }
    if !reloaded {
        return Err(Failure::Failed("refused: the configuration in use stays".into()));
    }
    if !args.json {
        let (generation, changes) = (&answer.json["generation"], &answer.json["changes"]);
        say(&format!("configuration {generation} is in use: {}\n", told(changes)));
    }
    Ok(())
}

fn told(changes: &Value) -> String {
    let mut parts = Vec::new();
    for table in ["server", "log", "admin"] {
        if changes[table] == true {
            parts.push(format!("[{table}] changed"));
        }
    }
    for kind in ["listeners", "routes", "upstreams"] {
        for how in ["added", "removed", "changed", "renewed"] {
            let names: Vec<_> = changes[kind][how].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if !names.is_empty() {
                parts.push(format!("{kind} {how}: {}", plain(&names.join(", "))));
            }
        }
    }
    if parts.is_empty() { "nothing has changed".to_owned() } else { parts.join("; ") }
}
