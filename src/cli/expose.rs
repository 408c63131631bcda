//! `portcullis expose`: the simple case without a file. It writes the TOML that it stands for and runs that.
//!
//! What is wrong with a value is found by the reader of that TOML, as in any file; each line names the option that it
//! comes from. Only what would make no sense in a file's words is answered here.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, complain, run, say};
use crate::config::model::{Config, ListenAddress};
use crate::config::report::Report;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis expose ws://127.0.0.1:9000 --listen :8443 \\\n    \
                        --cert c.pem --key k.pem --origin https://app.example.com")]
pub struct Args {
    /// ws|wss|http|https://HOST:PORT, unix:/PATH or ws+unix:/PATH
    #[arg(value_name = "BACKEND_URL")]
    backend: String,
    /// `:8443` is all of IPv4 [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443", hide_default_value = true)]
    listen: String,
    /// Certificate chain (PEM); without it: no TLS
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Pages that may connect [default: same-origin]
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// Names to answer to [default: see --print]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Subprotocols that may be offered [default: all]
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// Only this path and what is below it
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Print the file that this stands for, and stop
    #[arg(long)]
    print: bool,
}

pub fn expose(args: &Args) -> ExitCode {
    let backend = match backend(&args.backend) {
        Ok(backend) => backend,
        Err(why) => {
            complain(&format!("portcullis expose: {why}\n"));
            return Exit::Usage.into();
        }
    };
    if args.print {
        say(&configuration(args, &backend, false));
        return Exit::Stopped.into();
    }
    run::serve_text("(command line)", &configuration(args, &backend, true), warn_of_clear_text)
}

/// The server's URL, with the slash gone that browsers and shells like to put at the end.
fn backend(text: &str) -> Result<String, String> {
    if text.starts_with("unix:") || text.starts_with("ws+unix:") {
        return Ok(text.to_owned());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return match path {
            "" | "/" => Ok(format!("{scheme}://{server}")),
            path => Err(format!(
                "the server's URL cannot have a path, since the request's own goes there; write {scheme}://{server} --path {path}"
            )),
        };
    }
    if text.starts_with(['/', '.']) {
        return Err(format!(
            "`{text}` is not a URL; write ws+unix:{text} for a socket that speaks only WebSocket, unix:{text} for one that speaks HTTP"
        ));
    }
    let port = text.strip_prefix(':').unwrap_or(text);
    let server = if port.parse::<u16>().is_ok() { format!("127.0.0.1:{port}") } else { text.to_owned() };
    Err(format!(
        "`{text}` is not a URL; write ws://{server} for a server that speaks only WebSocket, http://{server} for one that speaks HTTP"
    ))
}

/// Where to listen, in the file's words.
fn listen(text: &str) -> String {
    match (text.strip_prefix(':'), text.strip_prefix("localhost:")) {
        (Some(port), _) => format!("0.0.0.0:{port}"),
        (None, Some(port)) => format!("127.0.0.1:{port}"),
        (None, None) => text.to_owned(),
    }
}

/// Without TLS and listed origins, `same-origin` alone would let in every page that has its own name point to us: on
/// this machine only the names of this machine count.
fn hosts(args: &Args, listen: &str) -> Vec<String> {
    let local = listen.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
    match local {
        Some(address) if args.hosts.is_empty() && args.origins.is_empty() && args.cert.is_none() => {
            let written = SocketAddr::new(address.ip(), 0).to_string();
            vec!["localhost".to_owned(), written.trim_end_matches(":0").to_owned()]
        }
        _ => args.hosts.clone(),
    }
}

/// `annotated`: every line says which option it comes from.
fn configuration(args: &Args, backend: &str, annotated: bool) -> String {
    let mut text = String::new();
    let mut line = |toml: String, option: &str| {
        text += &toml;
        if annotated && !option.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "  # {option}");
        }
        text.push('\n');
    };
    let listen = listen(&args.listen);
    line("[[listener]]".into(), "");
    line(format!("address = {}", quote(&listen)), "--listen");
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        let (cert, key) = (quote(&cert.to_string_lossy()), quote(&key.to_string_lossy()));
        line(format!("tls = {{ cert = {cert}, key = {key} }}"), "--cert, --key");
    }
    line("\n[[route]]".into(), "");
    let hosts = hosts(args, &listen);
    if !hosts.is_empty() {
        line(format!("hosts = {}", list(&hosts)), "--host");
    }
    if args.path != "/" {
        line(format!("path = {}", quote(&args.path)), "--path");
    }
    line(format!("upstream = {}", quote(backend)), "BACKEND_URL");
    line("\n[route.websocket]".into(), "");
    match args.origins.as_slice() {
        [] => line("origins = [\"same-origin\"]".into(), "--origin, or name --host"),
        origins => line(format!("origins = {}", list(origins)), "--origin"),
    }
    if !args.subprotocols.is_empty() {
        line(format!("subprotocols = {{ allow = {} }}", list(&args.subprotocols)), "--subprotocol");
    }
    text
}

fn warn_of_clear_text(config: &Config, report: &mut Report) {
    for listener in config.listeners.iter().filter(|listener| listener.tls.is_none()) {
        if matches!(&listener.address.value, ListenAddress::Tcp(address) if !address.ip().is_loopback()) {
            report
                .warning(
                    "clear-text",
                    &listener.address.spot,
                    "without TLS: whoever is on the way can read and change everything",
                )
                .help("give --cert and --key (`portcullis cert NAME` makes some to try), or listen on 127.0.0.1");
        }
    }
}

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_quoted_string_reads_back_as_it_was() {
        for text in ["plain", "a\"b\\c", "tab\tnewline\nescape\u{1b}", "ümläut \u{7f}"] {
            let document = format!("x = {}", quote(text));
            let table = toml::de::DeTable::parse(&document).expect("valid TOML");
            let value = table.get_ref().get("x").expect("the key").get_ref().as_str().expect("a string");
            assert_eq!(value, text);
        }
    }
}
