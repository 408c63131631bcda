//! `portcullis expose`: the simple case without a file. It writes the TOML that it stands for and runs that.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Exit, run};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis expose ws://127.0.0.1:9000 --listen :8443 --cert c.pem --key k.pem \
                        --origin https://app.example.com")]
pub struct Args {
    /// Where the server is: ws://, wss://, http://, https://, unix:/path or ws+unix:/path
    #[arg(value_name = "BACKEND_URL")]
    backend: String,
    /// Where to listen; `:8443` means every IPv4 address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: String,
    /// Certificate chain (PEM); without it the listener is clear
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// An Origin that may open WebSockets; may be given more than once [default: same-origin]
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// A subprotocol that may be offered; may be given more than once [default: all]
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// Only requests whose path begins with this, by whole segments
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Print the configuration that this stands for, and stop
    #[arg(long)]
    print: bool,
}

pub fn expose(args: &Args) -> ExitCode {
    let text = configuration(args);
    if args.print {
        print!("{text}");
        return Exit::Stopped.into();
    }
    run::serve_text("(command line)", &text, Path::new("."))
}

fn configuration(args: &Args) -> String {
    let listen = match args.listen.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => args.listen.clone(),
    };
    let mut text = format!("[[listener]]\naddress = {}\n", quote(&listen));
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        let (cert, key) = (quote(&cert.to_string_lossy()), quote(&key.to_string_lossy()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "tls = {{ cert = {cert}, key = {key} }}");
    }
    let _ = writeln!(text, "\n[[route]]");
    if args.path != "/" {
        let _ = writeln!(text, "path = {}", quote(&args.path));
    }
    let _ = writeln!(text, "upstream = {}\n\n[route.websocket]", quote(&args.backend));
    if args.origins.is_empty() {
        let _ = writeln!(text, "origins = [\"same-origin\"]");
    } else {
        let _ = writeln!(text, "origins = {}", list(&args.origins));
    }
    if !args.subprotocols.is_empty() {
        let _ = writeln!(text, "subprotocols = {{ allow = {} }}", list(&args.subprotocols));
    }
    text
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
