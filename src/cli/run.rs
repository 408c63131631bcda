//! `portcullis run`: from a file to a serving gateway; also the road that `expose` and `demo` take with their text.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Exit;
use crate::config::model::Config;
use crate::config::report::Report;
use crate::config::{self, render};
use crate::gateway::{self, RunError};
use crate::snapshot::Snapshot;

#[derive(clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "portcullis.toml")]
    pub config: PathBuf,
}

pub fn run(args: &Args) -> ExitCode {
    let (config, report) = config::read(&args.config);
    serve(config, report)
}

/// Serves a configuration that stands in no file; `name` poses as its path in messages.
pub fn serve_text(name: &str, text: &str, base: &Path) -> ExitCode {
    let (config, report) = config::read_text(name, text, base);
    serve(config, report)
}

/// Serves a configuration that was written to a file by ourselves.
#[cfg(feature = "demo")]
pub fn serve_file(_text: &str, path: &Path) -> ExitCode {
    let (config, report) = config::read(path);
    serve(config, report)
}

fn serve(config: Option<Config>, mut report: Report) -> ExitCode {
    let built = build(config, &mut report);
    print_report(&report);
    let Some((config, snapshot)) = built else { return Exit::Usage.into() };
    match gateway::run(&config, snapshot) {
        Ok(()) => Exit::Stopped.into(),
        Err(RunError::Bind(error)) => {
            eprintln!("portcullis: {error}");
            Exit::Bind.into()
        }
        Err(RunError::System(what, error)) => {
            eprintln!("portcullis: cannot {what}: {error}");
            Exit::Failed.into()
        }
    }
}

/// The snapshot, if nothing in the report forbids it.
pub(super) fn build(config: Option<Config>, report: &mut Report) -> Option<(Config, Snapshot)> {
    let config = config?;
    let snapshot = Snapshot::build(&config, report)?;
    (!report.has_errors()).then_some((config, snapshot))
}

pub(super) fn print_report(report: &Report) {
    if !report.problems.is_empty() {
        eprint!("{}", render::render(report, std::io::stderr().is_terminal()));
    }
}
