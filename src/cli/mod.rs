//! What the operator calls: argv → command → exit code.
//!
//! Exit codes: 0 stopped as asked, 1 failed while running, 2 bad usage or configuration, 3 could not bind.

pub mod cert;
mod check;
#[cfg(feature = "demo")]
pub mod demo;
mod explain;
mod expose;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything after `portcullis`.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    about = "The gateway that understands WebSockets: wss:// in front of servers that only know ws://",
    after_help = "Example:\n  portcullis expose ws://127.0.0.1:9000 --listen :8443 --cert c.pem --key k.pem --origin https://app.example.com\n\n\
                  Exit codes: 0 stopped as asked, 1 failed while running, 2 bad usage or configuration, 3 could not bind",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what the configuration says
    Run(run::Args),
    /// Find everything that is wrong with a configuration, without opening a port
    Check(check::Args),
    /// Say which route would take a request, and what the answer would be
    Explain(explain::Args),
    /// Put wss:// in front of one server, without a file
    Expose(expose::Args),
    /// Try it in a browser: backend, certificate, gateway and page in one process
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Make a local CA and a certificate, for development only
    Cert(cert::Args),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Stopped.into() };
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Expose(args) => expose::expose(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, run::serve_file),
        Command::Cert(args) => cert::run(&args),
    }
}

/// What the process says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Stopped,
    Failed,
    Usage,
    Bind,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Stopped => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Bind => 3,
        })
    }
}
