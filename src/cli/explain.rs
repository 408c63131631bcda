//! `portcullis explain`: one request, asked of the same decision that serves requests, with its reasons.

use std::path::PathBuf;
use std::process::ExitCode;

use http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Uri, request};

use super::{Exit, run};
use crate::config::model::Config;
use crate::config::{self, model};
use crate::exchange::plan::{self, Asked, Found, Plan};
use crate::fault::Fault;
use crate::proto::host::parse_authority;
use crate::proto::target::parse_target;
use crate::proto::websocket;
use crate::route::{Outcome, RouteTable};
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::tls::TlsInfo;
use crate::types::{HttpVersion, Scheme};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis explain wss://chat.example.com/ws --origin https://evil.example")]
pub struct Args {
    /// wss:// or ws:// asks with a WebSocket handshake, https:// or http:// with a plain request
    #[arg(value_name = "URL")]
    url: String,
    /// The Origin field
    #[arg(long)]
    origin: Option<String>,
    /// A subprotocol to offer; may be given more than once
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// The method of a plain request
    #[arg(long, default_value = "GET")]
    method: Method,
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "portcullis.toml")]
    config: PathBuf,
}

pub fn explain(args: &Args) -> ExitCode {
    let question = match Question::read(args) {
        Ok(question) => question,
        Err(why) => {
            eprintln!("portcullis: {why}");
            return Exit::Usage.into();
        }
    };
    let (config, mut report) = config::read(&args.config);
    let Some((config, snapshot)) = run::build(config, &mut report) else {
        run::print_report(&report);
        return Exit::Usage.into();
    };
    println!("{question}");
    let mut asked_somewhere = false;
    for listener in snapshot.listeners.iter().filter(|listener| listener.scheme() == question.scheme) {
        asked_somewhere = true;
        question.ask(&config, &snapshot, listener);
    }
    if !asked_somewhere {
        println!("  no listener serves {}", question.scheme.as_str());
    }
    Exit::Stopped.into()
}

/// The request to ask about.
struct Question {
    scheme: Scheme,
    is_handshake: bool,
    origin: Option<String>,
    head: request::Parts,
}

impl Question {
    fn read(args: &Args) -> Result<Self, String> {
        let (scheme, rest) = args.url.split_once("://").ok_or_else(|| format!("`{}` is not a URL", args.url))?;
        let (scheme, is_handshake) = match scheme {
            "wss" => (Scheme::Https, true),
            "https" => (Scheme::Https, false),
            "ws" => (Scheme::Http, true),
            "http" => (Scheme::Http, false),
            other => return Err(format!("`{other}` is not a scheme to ask with; use wss, ws, https or http")),
        };
        let (host, target) = match rest.find(['/', '?']) {
            Some(end) => (&rest[..end], &rest[end..]),
            None => (rest, "/"),
        };
        parse_authority(host).map_err(|why| format!("`{host}`: {why}"))?;
        let target = if target.starts_with('?') { format!("/{target}") } else { target.to_owned() };
        let uri: Uri = target.parse().map_err(|why| format!("`{target}`: {why}"))?;
        let method = if is_handshake { Method::GET } else { args.method.clone() };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, host);
        if is_handshake {
            request = request
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, websocket::new_key());
        }
        if let Some(origin) = &args.origin {
            request = request.header(ORIGIN, value("--origin", origin)?);
        }
        if !args.subprotocols.is_empty() {
            let offer = args.subprotocols.join(", ");
            request = request.header(SEC_WEBSOCKET_PROTOCOL, value("--subprotocol", &offer)?);
        }
        let (head, ()) = request.body(()).map_err(|why| why.to_string())?.into_parts();
        Ok(Self { scheme, is_handshake, origin: args.origin.clone(), head })
    }

    fn ask(&self, config: &Config, snapshot: &Snapshot, listener: &ListenerPlan) {
        println!("\nlistener {}", listener.name);
        let host = self.head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let authority = parse_authority(host).ok();
        let tls = listener.tls.as_ref().map(|policies| {
            let host = authority.as_ref().map_or("", |authority| authority.host.as_str());
            TlsInfo::assumed(host, policies)
        });
        let asked = Asked {
            listener,
            peer: None,
            tls: tls.as_ref(),
            version: HttpVersion::Http1,
            protocol: None,
            head: &self.head,
        };
        let mut found = Found::default();
        let planned = plan::plan(snapshot, &asked, &mut found);
        if let Ok(target) = parse_target(self.head.uri.path_and_query().map_or("/", |target| target.as_str())) {
            for candidate in RouteTable::explain(config, listener.index, authority.as_ref(), &target.normalised) {
                let mark = match candidate.outcome {
                    Outcome::Wins => "takes it",
                    Outcome::Loses => "would take it, if nothing more specific did",
                    Outcome::NoMatch => "no",
                };
                println!("  route {}: {mark} ({})", config.routes[candidate.route].name, candidate.reason);
            }
        }
        match planned {
            Ok(plan) => describe(&plan, config, snapshot),
            Err(fault) => describe_refusal(&fault, config, &found),
        }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let scheme = match (self.is_handshake, self.scheme) {
            (true, Scheme::Https) => "wss",
            (true, Scheme::Http) => "ws",
            (false, scheme) => scheme.as_str(),
        };
        write!(out, "{} {scheme}://{host}{}", self.head.method, self.head.uri)?;
        match (&self.origin, self.is_handshake) {
            (Some(origin), _) => write!(out, ", Origin {origin}"),
            (None, true) => out.write_str(", no Origin"),
            (None, false) => Ok(()),
        }
    }
}

fn value(flag: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{flag}: `{}` cannot stand in a header", text.escape_debug()))
}

fn describe(plan: &Plan, config: &Config, snapshot: &Snapshot) {
    match plan {
        Plan::Options => println!("  answer: 200, by the gateway itself"),
        Plan::Redirect { to, status } => println!("  answer: {status}, Location: {to}"),
        Plan::Respond { status, .. } => println!("  answer: {status}, by the gateway itself"),
        Plan::Forward { upstream, onward, .. } => {
            println!("  upstream {}: {onward}", servers(config, *upstream));
            println!("  answer: the upstream's");
        }
        Plan::Handshake { upstream, onward, .. } => {
            println!("  upstream {}: {onward}", servers(config, *upstream));
            println!("  answer: 101, if the upstream agrees");
        }
    }
    debug_assert_eq!(config.upstreams.len(), snapshot.upstreams.len());
}

fn servers(config: &Config, upstream: usize) -> String {
    let model::Upstream { name, servers, .. } = &config.upstreams[upstream];
    match servers.as_slice() {
        [only] if only.url == *name => name.to_string(),
        servers => {
            let urls: Vec<_> = servers.iter().map(|server| server.url.as_str()).collect();
            format!("{name} ({})", urls.join(", "))
        }
    }
}

fn describe_refusal(fault: &Fault, config: &Config, found: &Found) {
    let (status, code) = (fault.status(), fault.end().code());
    println!("  answer: {status}, X-Portcullis-Reason: {code}");
    println!("  because {fault}");
    if let Some(policy) = found.route.and_then(|route| config.routes[route].websocket.as_ref())
        && matches!(fault, Fault::Handshake(_))
    {
        let origins: Vec<_> = policy.origins.iter().map(|rule| rule.to_string()).collect();
        println!("  the route allows {}", origins.join(", "));
    }
}
