//! `portcullis run`: from a file to a serving gateway; also the road that `expose` and `demo` take with their text.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Exit, complain};
use crate::config::model::Config;
use crate::config::report::{Report, Severity};
use crate::config::{Document, render};
use crate::gateway::{self, Launch, RunError};
use crate::handover::Entrance;
use crate::snapshot::Snapshot;

/// Where a configuration is looked for when nobody says.
pub(super) const DEFAULT_FILE: &str = "portcullis.toml";

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis run --config /etc/portcullis.toml\n\n\
                        SIGTERM or SIGINT drains and ends, a second one ends at once.\n\
                        SIGHUP reloads; SIGUSR2 starts the program anew and hands over to it.\n\
                        No file yet? `portcullis expose URL --print` writes a first one.")]
pub struct Args {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Write the number of the process there while it serves
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
}

/// The two ways to name the file.
#[derive(clap::Args)]
pub struct ConfigFile {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The same, without --config
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl ConfigFile {
    pub fn path(&self) -> &Path {
        self.file.as_ref().unwrap_or(&self.config)
    }
}

pub fn run(args: &Args) -> ExitCode {
    let path = args.file.path();
    let (config, report) = read(path);
    serve(Document::File(path.to_owned()), config, report, args.pid_file.clone())
}

/// Serves a configuration that stands in no file; `name` poses as its path in messages. `look` may add to the report.
pub fn serve_text(name: &str, text: &str, look: impl FnOnce(&Config, &mut Report)) -> ExitCode {
    let document = Document::Text { name: name.to_owned(), text: text.to_owned() };
    let (config, mut report) = document.read();
    if let Some(config) = &config {
        look(config, &mut report);
    }
    serve(document, config, report, None)
}

/// Serves a configuration that was written to a file by ourselves.
#[cfg(feature = "demo")]
pub fn serve_file(_text: &str, path: &Path) -> ExitCode {
    let (config, report) = crate::config::read(path);
    serve(Document::File(path.to_owned()), config, report, None)
}

/// Reads a file that the operator has named, or has not.
pub(super) fn read(path: &Path) -> (Option<Config>, Report) {
    let (config, mut report) = Document::File(path.to_owned()).read();
    let is_missing = std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if let Some(problem) = report.problems.first_mut().filter(|_| config.is_none() && is_missing) {
        problem.help(if path == Path::new(DEFAULT_FILE) {
            "name a file with --config, write a first one with `portcullis expose ws://127.0.0.1:9000 --print`, \
             or try `portcullis demo`"
        } else {
            "a relative path starts at the current folder"
        });
    }
    (config, report)
}

fn serve(document: Document, config: Option<Config>, mut report: Report, pid_file: Option<PathBuf>) -> ExitCode {
    let mut launch = match Entrance::open() {
        Ok(entrance) => Launch { entrance, pid_file },
        Err(error) => {
            complain(&format!("portcullis: {error}\n"));
            return Exit::Bind.into();
        }
    };
    let built = build(config, &mut report);
    print_report(&report);
    let Some((config, snapshot)) = built else {
        launch.entrance.refuse(&first_error(&report));
        return Exit::Usage.into();
    };
    // The text of the files is needed no more.
    drop(report);
    match gateway::run(document, config, snapshot, &mut launch) {
        Ok(()) => Exit::Stopped.into(),
        Err(error) => {
            launch.entrance.refuse(&error.to_string());
            complain(&format!("portcullis: {error}\n"));
            match error {
                RunError::Bind(_) | RunError::Inherited(_) => Exit::Bind.into(),
                RunError::System(..) => Exit::Failed.into(),
            }
        }
    }
}

/// In one line, for who cannot see the report.
fn first_error(report: &Report) -> String {
    let errors: Vec<_> = report.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    let Some(first) = errors.first() else { return "the configuration is wrong".to_owned() };
    let place = first.spot.as_ref().and_then(|spot| report.place(spot)).map(|place| format!("{place}: "));
    let more = if errors.len() > 1 { format!(" (and {} more)", errors.len() - 1) } else { String::new() };
    format!("{}{}{more}", place.unwrap_or_default(), first.message)
}

/// The snapshot, if nothing in the report forbids it.
pub(super) fn build(config: Option<Config>, report: &mut Report) -> Option<(Config, Snapshot)> {
    let config = config?;
    let snapshot = Snapshot::build(&config, None, report)?;
    (!report.has_errors()).then_some((config, snapshot))
}

/// To stderr; in colour where that is a terminal and nobody objects (no-color.org).
pub(super) fn print_report(report: &Report) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    complain(&render::render(report, color));
}
