//! `portcullis drain`: takes something out of service, gently, or puts it back.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Failure, Where, finish, plain, ps};
use crate::cli::say;
use crate::config;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis drain server ws://10.0.0.5:9000 --over 5m\n  \
                        portcullis drain route chat --rate 50\n  \
                        portcullis drain route chat --undo\n  \
                        portcullis drain listener public --over 1m\n  \
                        portcullis drain tunnels client=10.0.0.0/8 'age>1h' --over 1m\n  \
                        portcullis drain process --over 20s")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A server: it gets nothing new, and its tunnels stay or go at a pace
    Server(ServerArgs),
    /// A route: it takes no new tunnels, and those that it has are closed
    Route(NamedArgs),
    /// A listener: it takes no new connections, and its tunnels are closed
    Listener(NamedArgs),
    /// The gateway, as SIGTERM has it, at a pace
    Process(ProcessArgs),
    /// The tunnels that a filter means now
    Tunnels(TunnelsArgs),
}

#[derive(clap::Args)]
struct Pace {
    /// The time that tunnels are spread over [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "rate")]
    over: Option<Duration>,
    /// How many are closed in a second, instead
    #[arg(long, value_name = "NUMBER", value_parser = rates())]
    rate: Option<u32>,
}

#[derive(clap::Args)]
#[command(after_help = "Without a pace its tunnels are closed at its upstream's drain_rate; without\n\
                        that they stay until they end.")]
struct ServerArgs {
    /// As logs and `GET upstreams` name it
    #[arg(value_name = "URL")]
    server: String,
    /// Only in this upstream [default: wherever it is]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Close its tunnels, spread over this time
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "rate")]
    over: Option<Duration>,
    /// Close so many in a second, instead
    #[arg(long, value_name = "NUMBER", value_parser = rates())]
    rate: Option<u32>,
    /// Let it take work again
    #[arg(long, conflicts_with_all = ["over", "rate"])]
    undo: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(clap::Args)]
struct NamedArgs {
    /// As logs name it
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    pace: Pace,
    /// Let it take again what it did
    #[arg(long, conflicts_with_all = ["over", "rate"])]
    undo: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(clap::Args)]
#[command(after_help = "Without a pace it goes by server.drain_rate; without that, over 30s.")]
struct ProcessArgs {
    /// The time that tunnels are spread over
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "rate")]
    over: Option<Duration>,
    /// How many are closed in a second, instead
    #[arg(long, value_name = "NUMBER", value_parser = rates())]
    rate: Option<u32>,
    #[command(flatten)]
    at: Where,
}

#[derive(clap::Args)]
struct TunnelsArgs {
    /// Terms, all of which have to hold: those of `portcullis ps`
    #[arg(value_name = "FILTER", required = true)]
    filter: Vec<String>,
    #[command(flatten)]
    pace: Pace,
    /// What clients are told
    #[arg(long, value_name = "CODE", default_value_t = 1001)]
    code: u16,
    /// The same in words
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    at: Where,
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
}

fn rates() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

pub fn drain(args: &Args) -> ExitCode {
    let outcome = match &args.what {
        What::Server(args) if args.undo => undo_server(args),
        What::Server(args) => server(args),
        What::Route(args) => named(args, "route", "tunnels"),
        What::Listener(args) => named(args, "listener", "connections"),
        What::Process(args) => process(args),
        What::Tunnels(args) => tunnels(args),
    };
    finish("drain", outcome)
}

impl Pace {
    /// The body of a request, with the pace that was asked for.
    fn with(&self, mut body: Value) -> Value {
        if let Some(over) = self.over {
            body["over_ms"] = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(rate) = self.rate {
            body["rate"] = rate.into();
        }
        body
    }
}

/// Asks for a drain; what drains then.
fn begin(at: &Where, body: &Value) -> Result<Vec<Value>, Failure> {
    let mut answer = at.ask(Method::POST, "/api/v1/drains", Some(body))?;
    match answer["drains"].take() {
        Value::Array(drains) => Ok(drains),
        _ => Ok(Vec::new()),
    }
}

/// How fast tunnels are closed, in words.
fn speed(drain: &Value) -> Option<String> {
    match (drain["rate"].as_u64(), drain["over_ms"].as_u64()) {
        (Some(rate), _) => Some(format!("closed, {rate} in a second")),
        (None, Some(over)) => Some(format!("closed over {}", config::show_duration(Duration::from_millis(over)))),
        (None, None) => None,
    }
}

/// `taken`: what it takes none of.
fn named(args: &NamedArgs, what: &str, taken: &str) -> Result<(), Failure> {
    let name = plain(&args.name);
    if args.undo {
        let is_it = |drain: &Value| drain["what"] == what && drain["name"] == args.name.as_str();
        if undo(&args.at, is_it)?.is_empty() {
            return Err(Failure::Failed(format!("nobody has asked `{name}` to drain")));
        }
        say(&format!("{name} takes {taken} again\n"));
        return Ok(());
    }
    for drain in begin(&args.at, &args.pace.with(json!({ "what": what, "name": args.name })))? {
        let speed = speed(&drain).unwrap_or_default();
        say(&format!("{name} takes no new {taken}; the tunnels that it has are {speed}\n"));
    }
    Ok(())
}

fn process(args: &ProcessArgs) -> Result<(), Failure> {
    let pace = Pace { over: args.over, rate: args.rate };
    begin(&args.at, &pace.with(json!({ "what": "process" })))?;
    say("the gateway drains; what is left after its drain_timeout is cut\n");
    Ok(())
}

fn tunnels(args: &TunnelsArgs) -> Result<(), Failure> {
    let body = json!({
        "what": "tunnels", "filter": ps::join(&args.filter), "code": args.code, "reason": args.reason,
    });
    for drain in begin(&args.at, &args.pace.with(body))? {
        let id = plain(drain["id"].as_str().unwrap_or_default());
        say(&format!("the tunnels that are meant are {} ({id})\n", speed(&drain).unwrap_or_default()));
    }
    Ok(())
}

fn server(args: &ServerArgs) -> Result<(), Failure> {
    let body = json!({ "what": "server", "server": args.server, "upstream": args.upstream });
    let pace = Pace { over: args.over, rate: args.rate };
    for drain in begin(&args.at, &pace.with(body))? {
        let text = |name: &str| plain(drain[name].as_str().unwrap_or_default());
        let tunnels = drain["tunnels"].as_u64().unwrap_or_default();
        let speed =
            speed(&drain).map_or_else(|| "they stay until they end".to_owned(), |speed| format!("they are {speed}"));
        let (server, upstream) = (text("server"), text("upstream"));
        say(&format!("{server} of {upstream} gets nothing new; its tunnels: {tunnels} ({speed})\n"));
    }
    Ok(())
}

fn undo_server(args: &ServerArgs) -> Result<(), Failure> {
    let ended = undo(&args.at, |drain| {
        let is = |name: &str, value: &str| drain[name].as_str() == Some(value);
        is("what", "server")
            && is("why", "asked")
            && is("server", &args.server)
            && args.upstream.as_ref().is_none_or(|upstream| is("upstream", upstream))
    })?;
    if ended.is_empty() {
        return Err(Failure::Failed(format!("nobody has asked `{}` to drain", plain(&args.server))));
    }
    for ended in ended {
        let text = |name: &str| plain(ended[name].as_str().unwrap_or_default());
        say(&format!("{} of {} takes work again\n", text("server"), text("upstream")));
    }
    Ok(())
}

/// Ends those drains that are meant; what the gateway says of each.
fn undo(at: &Where, is_meant: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Failure> {
    let list = at.ask(Method::GET, "/api/v1/drains", None)?;
    let drains = list["drains"].as_array().map_or(&[][..], Vec::as_slice);
    let ids = drains.iter().filter(|drain| is_meant(drain)).filter_map(|drain| drain["id"].as_str());
    ids.map(|id| at.ask(Method::DELETE, &format!("/api/v1/drains/{}", super::encode(id)), None)).collect()
}
