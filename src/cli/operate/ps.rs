//! `portcullis ps`: the live tunnels, as a table or as JSON.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::table::{self, Table};
use super::{Failure, Where, encode, finish, print_json};
use crate::cli::{complain, say};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis ps route=chat 'age>1h' --sort bytes\n\n\
                        Terms: route upstream server listener client subprotocol protocol state\n\
                        id connection worker age idle messages bytes rtt; = != < <= > >=\n\
                        Sorted: measures from the most, all else from the front; KEY:asc, KEY:desc")]
pub struct Args {
    /// Terms, all of which have to hold
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// age, idle, bytes, messages, rtt, route, …
    #[arg(long, value_name = "KEY")]
    sort: Option<String>,
    /// Tunnels to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// As the API gives it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

pub fn ps(args: &Args) -> ExitCode {
    finish("ps", run(args))
}

fn run(args: &Args) -> Result<(), Failure> {
    let mut path = format!("/api/v1/tunnels?limit={}&filter={}", args.limit, encode(&join(&args.filter)));
    if let Some(sort) = &args.sort {
        path += &format!("&sort={}", encode(sort));
    }
    let list = args.at.ask(Method::GET, &path, None)?;
    if args.json {
        return print_json(&list);
    }
    say(&show(&list).render(table::width()));
    let (shown, matched) = (list["tunnels"].as_array().map_or(0, Vec::len) as u64, number(&list["matched"]));
    if matched > shown {
        complain(&format!("{shown} of {matched}; --limit shows more\n"));
    }
    let silent = number(&list["silent_workers"]);
    if silent > 0 {
        complain(&format!("{silent} workers have not answered: their tunnels are missing\n"));
    }
    Ok(())
}

/// One filter of several arguments: each is a term, or several, and may hold spaces within quotes of its own.
pub fn join(arguments: &[String]) -> String {
    arguments.join(" ")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn show(list: &Value) -> Table {
    let mut table =
        Table::new(&["#ID", "CLIENT", "ROUTE", "SERVER", "STATE", "#AGE", "#IDLE", "#IN", "#OUT", "#MSGS", "#RTT"]);
    for row in list["tunnels"].as_array().into_iter().flatten() {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let messages = row["messages_in"].as_u64().zip(row["messages_out"].as_u64());
        let rtt = row["rtt_us"].as_u64();
        table.row(vec![
            number(&row["id"]).to_string(),
            text("client"),
            text("route"),
            text("server"),
            text("state"),
            table::duration(number(&row["age_ms"])),
            table::duration(number(&row["idle_ms"])),
            table::bytes(number(&row["bytes_in"])),
            table::bytes(number(&row["bytes_out"])),
            messages.map_or_else(|| "-".to_owned(), |(up, down)| up.saturating_add(down).to_string()),
            rtt.map_or_else(|| "-".to_owned(), |micros| format!("{:.1}ms", micros as f64 / 1000.0)),
        ]);
    }
    table
}
