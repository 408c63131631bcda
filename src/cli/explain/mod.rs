//! `portcullis explain`: one request, asked of the same decision that serves requests, with its reasons.
//!
//! Nothing is decided here: `exchange::plan` answers, and what it answered from is looked up again to be told. Exit code
//! 0 says that there is an answer, whatever it is; `question` reads the request, `story` tells what becomes of it, `server` which server gets it.

mod question;
mod server;
mod story;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;

use self::question::Question;
use self::story::Story;
use super::run::{self, DEFAULT_FILE};
use super::{Exit, complain, say};
use crate::config::model::{Config, ListenAddress, Listener};
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::types::Scheme;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis explain wss://chat.example.com/ws --origin https://evil.example\n\n\
                        It knows the file, not what a running gateway has drained or found down.\n\
                        Exit codes: 0 there is an answer, whatever it is; 2 bad usage or configuration")]
pub struct Args {
    /// wss:// and ws:// ask with a handshake, https:// and http:// without
    #[arg(value_name = "URL")]
    url: String,
    /// The Origin that the page would have
    #[arg(long)]
    origin: Option<String>,
    /// A subprotocol to offer; more than once for more
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// The method of a plain request [default: GET]
    #[arg(long)]
    method: Option<Method>,
    /// A field of the request; more than once for more
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address that the client would have
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// As if a verified client certificate were shown
    #[arg(long)]
    client_certificate: bool,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

pub fn explain(args: &Args) -> ExitCode {
    let question = match Question::read(args) {
        Ok(question) => question,
        Err(why) => {
            complain(&format!("portcullis explain: {why}\n"));
            return Exit::Usage.into();
        }
    };
    let (config, mut report) = run::read(&args.config);
    let Some((config, snapshot)) = run::build(config, &mut report) else {
        run::print_report(&report);
        return Exit::Usage.into();
    };
    let (asked, note) = listeners(&question, &config, &snapshot);
    let mut out = format!("{question}\n");
    if let Some(note) = note {
        let _ = writeln!(out, "{note}");
    }
    for listener in asked {
        out.push('\n');
        Story { question: &question, config: &config, snapshot: &snapshot, report: &report, out: &mut out }
            .tell(listener);
    }
    say(&out);
    Exit::Stopped.into()
}

/// Those that serve the scheme: at the URL's port if any listens there, else all of them, since ports may be mapped.
fn listeners<'s>(
    question: &Question,
    config: &Config,
    snapshot: &'s Snapshot,
) -> (Vec<&'s ListenerPlan>, Option<String>) {
    let scheme = question.scheme;
    let all: Vec<_> =
        snapshot.listeners.iter().map(|plan| &**plan).filter(|listener| listener.scheme() == scheme).collect();
    if all.is_empty() {
        let (what, other) = match scheme {
            Scheme::Https => ("has TLS", question.with_scheme("ws", "http")),
            Scheme::Http => ("is without TLS", question.with_scheme("wss", "https")),
        };
        return (all, Some(format!("no listener {what}, so that nobody would answer; ask for {other}")));
    }
    let port = question.authority.effective_port(scheme);
    let is_there = |plan: &&ListenerPlan| matches!(config.listeners[plan.index].address.value, ListenAddress::Tcp(address) if address.port() == port);
    let there: Vec<_> = all.iter().copied().filter(is_there).collect();
    if !there.is_empty() {
        return (there, None);
    }
    let note = format!("no {} listener has port {port}: the answer if something maps it", scheme.as_str());
    (all, Some(note))
}

/// An address with its scheme, as it is announced.
fn address(listener: &Listener) -> String {
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    match &listener.address.value {
        ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
        address @ (ListenAddress::Unix(_) | ListenAddress::Inherited(_)) => address.to_string(),
    }
}
