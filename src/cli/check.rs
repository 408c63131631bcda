//! `portcullis check`: everything that can be said of a configuration without opening a port.

use std::process::ExitCode;

use super::run::{self, ConfigFile};
use super::{Exit, say};
use crate::config::report::Report;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis check --config /etc/portcullis.toml\n\n\
                        Problems go to stderr. Exit codes: 0 good, perhaps with warnings; 2 not")]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
}

pub fn check(args: &Args) -> ExitCode {
    let path = args.file.path();
    let (config, mut report) = run::read(path);
    let built = run::build(config, &mut report);
    run::print_report(&report);
    let Some((config, _)) = built else { return Exit::Usage.into() };
    let counts = [
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.upstreams.len(), "upstream"),
    ];
    say(&format!("{} is good{}: {}\n", path.display(), aside(&report), counts.join(", ")));
    Exit::Stopped.into()
}

/// What else there is to know; without errors all problems are warnings.
fn aside(report: &Report) -> String {
    let mut said = match report.sources.len() {
        0 | 1 => String::new(),
        more => format!(", with {}", count(more - 1, "included file")),
    };
    if !report.problems.is_empty() {
        said += if said.is_empty() { ", with " } else { " and " };
        said += &count(report.problems.len(), "warning");
    }
    said
}

pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
