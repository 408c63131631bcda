//! `portcullis check`: everything that can be said of a configuration without opening a port.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, run};
use crate::config;

#[derive(clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "portcullis.toml")]
    config: PathBuf,
}

pub fn check(args: &Args) -> ExitCode {
    let (config, mut report) = config::read(&args.config);
    let built = run::build(config, &mut report);
    run::print_report(&report);
    match built {
        Some((config, snapshot)) => {
            println!(
                "{}: good ({} listeners, {} routes, {} upstreams)",
                args.config.display(),
                config.listeners.len(),
                snapshot.routes.len(),
                snapshot.upstreams.len(),
            );
            Exit::Stopped.into()
        }
        None => Exit::Usage.into(),
    }
}
