//! Commands for a gateway that runs: asked and told over its admin listener.
//!
//! `whereabouts` finds the listener and the token, `client` asks, each command has a file of its own. Exit codes: 0 done,
//! 1 the gateway cannot be reached or has said no, 2 bad usage. What comes from a gateway may hold words of a stranger's:
//! none of them gets to the terminal as it is.

mod client;
pub mod drain;
pub mod kill;
pub mod log;
pub mod ps;
pub mod reload;
pub mod status;
mod table;
pub mod top;
mod whereabouts;

use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::run::DEFAULT_FILE;
use super::{Exit, complain};
use client::Answer;

/// Where the gateway is asked.
#[derive(clap::Args)]
pub struct Where {
    /// HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The file with `[admin]`
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Its token [default: the file's token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who vouches for its certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Why a command has not done what it was told to.
#[derive(Debug)]
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

impl Where {
    /// Asks, and takes nothing but success for an answer.
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.ask_for_any(method, path, body)?;
        if answer.is_success() { Ok(answer.json) } else { Err(refusal(&answer)) }
    }

    /// Asks, and takes what there is to be had.
    fn ask_for_any(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let target = whereabouts::find(self)?;
        client::ask(&target, method, path, body)
    }
}

/// What the gateway says where it does not do as it is told.
fn refusal(answer: &Answer) -> Failure {
    let error = &answer.json["error"];
    let text = |name: &str| error[name].as_str().map(plain);
    let Some(message) = text("message") else {
        return Failure::Failed(format!(
            "whoever listens there has answered with {}, and is no gateway",
            answer.status
        ));
    };
    let help = text("help").map(|help| format!("\n  {help}")).unwrap_or_default();
    // What was asked is wrong, as against what has become of it.
    let is_usage = answer.status == 400 && !matches!(error["code"].as_str(), Some("bad-host" | "bad-target"));
    if is_usage { Failure::Usage(message + &help) } else { Failure::Failed(message + &help) }
}

fn finish(command: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => Exit::Stopped.into(),
        Err(Failure::Usage(why)) => {
            complain(&format!("portcullis {command}: {why}\n"));
            Exit::Usage.into()
        }
        Err(Failure::Failed(why)) => {
            complain(&format!("portcullis {command}: {why}\n"));
            Exit::Failed.into()
        }
    }
}

/// Words on one line of a terminal, whoever has chosen them.
fn plain(text: &str) -> String {
    let is_odd = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|letter| if is_odd(letter) { '\u{fffd}' } else { letter }).collect()
}

/// For a path's query.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// As it comes.
fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    super::say(&(text + "\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_stranger_has_chosen_moves_the_cursor() {
        assert_eq!(plain("a\u{1b}[31m\r\nb\u{202e}c\u{9b}é"), "a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}é");
        assert_eq!(encode("age>1h route=é"), "age%3E1h%20route%3D%C3%A9");
    }

    #[test]
    fn what_was_asked_wrongly_is_bad_usage_and_all_else_has_failed() {
        let answer = |status, code: &str| Answer {
            status,
            json: serde_json::json!({ "error": { "code": code, "message": "no", "help": "do\u{7}" } }),
        };
        assert!(matches!(refusal(&answer(400, "bad-filter")), Failure::Usage(why) if why == "no\n  do\u{fffd}"));
        assert!(matches!(refusal(&answer(401, "no-token")), Failure::Failed(_)));
        let odd = Answer { status: 200, json: Value::Null };
        assert!(matches!(refusal(&odd), Failure::Failed(why) if why.contains("no gateway")));
    }
}
