//! `portcullis drain`: takes something out of service, gently, or puts it back.

use std::process::ExitCode;

use http::Method;
use serde_json::json;

use super::{Failure, Where, finish, plain};
use crate::cli::say;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis drain server ws://10.0.0.5:9000\n  \
                        portcullis drain server ws://10.0.0.5:9000 --undo")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A server: it gets nothing new, and its tunnels go at `drain_rate`
    Server(ServerArgs),
}

#[derive(clap::Args)]
struct ServerArgs {
    /// As logs and `GET upstreams` name it
    #[arg(value_name = "URL")]
    server: String,
    /// Only in this upstream [default: wherever it is]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Let it take work again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    at: Where,
}

pub fn drain(args: &Args) -> ExitCode {
    let What::Server(args) = &args.what;
    finish("drain", if args.undo { undo(args) } else { server(args) })
}

fn server(args: &ServerArgs) -> Result<(), Failure> {
    let body = json!({ "what": "server", "server": args.server, "upstream": args.upstream });
    let answer = args.at.ask(Method::POST, "/api/v1/drains", Some(&body))?;
    for drain in answer["drains"].as_array().into_iter().flatten() {
        let text = |name: &str| plain(drain[name].as_str().unwrap_or_default());
        let tunnels = drain["tunnels"].as_u64().unwrap_or_default();
        let rate = match drain["rate"].as_u64() {
            Some(rate) => format!("{rate} closed in a second"),
            None => "they stay until they end".to_owned(),
        };
        let (server, upstream) = (text("server"), text("upstream"));
        say(&format!("{server} of {upstream} gets nothing new; it has {tunnels} tunnels ({rate})\n"));
    }
    Ok(())
}

fn undo(args: &ServerArgs) -> Result<(), Failure> {
    let list = args.at.ask(Method::GET, "/api/v1/drains", None)?;
    let mut undone = 0;
    for drain in list["drains"].as_array().into_iter().flatten() {
        let is = |name: &str, value: &str| drain[name].as_str() == Some(value);
        let is_meant = is("what", "server")
            && is("why", "asked")
            && is("server", &args.server)
            && args.upstream.as_ref().is_none_or(|upstream| is("upstream", upstream));
        let Some(id) = drain["id"].as_str().filter(|_| is_meant) else { continue };
        let ended = args.at.ask(Method::DELETE, &format!("/api/v1/drains/{}", super::encode(id)), None)?;
        let text = |name: &str| plain(ended[name].as_str().unwrap_or_default());
        say(&format!("{} of {} takes work again\n", text("server"), text("upstream")));
        undone += 1;
    }
    if undone == 0 {
        return Err(Failure::Failed(format!("nobody has asked `{}` to drain", plain(&args.server))));
    }
    Ok(())
}
