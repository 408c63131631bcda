//! What the operator calls: argv → command → exit code.
//!
//! Exit codes: 0 stopped as asked, 1 failed while running, 2 bad usage or configuration, 3 could not bind.
//! Every `--help` fits on a screen of 80 columns and 24 lines; nothing here cares whether somebody reads the output.

pub mod cert;
mod check;
#[cfg(feature = "demo")]
pub mod demo;
mod explain;
mod expose;
mod operate;
mod papers;
mod run;
mod upgrade;
mod version;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

/// Everything after `portcullis`.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    long_version = version::LONG.as_str(),
    about = "Upgrade gateway and reverse proxy: wss:// in front of ws:// servers",
    after_help = "A gateway that runs: reload, upgrade, status, ps, top, kill, drain, log\n\n\
                  Example:\n  portcullis expose ws://127.0.0.1:9000 --listen :8443 --cert c.pem --key k.pem\n\n\
                  Exit codes: 0 as asked, 1 failed, 2 bad usage or configuration, 3 cannot bind",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what a configuration file says
    Run(run::Args),
    /// Find everything that is wrong with a file, without opening a port
    Check(check::Args),
    /// Say which route would take a request, and what the answer would be
    Explain(explain::Args),
    /// Put wss:// in front of one server, without a file
    Expose(expose::Args),
    /// Try it in a browser: server, certificate, gateway and page in one
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Put the program as it is on disk now in place of the running one
    #[command(hide = true)]
    Upgrade(upgrade::Args),
    /// Make a local CA and a certificate, for development only
    Cert(cert::Args),
    /// Have a running gateway read its configuration again
    #[command(hide = true)]
    Reload(operate::reload::Args),
    /// Say how a running gateway is
    #[command(hide = true)]
    Status(operate::status::Args),
    /// List its live tunnels
    #[command(hide = true)]
    Ps(operate::ps::Args),
    /// Watch its numbers and tunnels on a screen
    #[command(hide = true)]
    Top(operate::top::Args),
    /// Close live tunnels
    #[command(hide = true)]
    Kill(operate::kill::Args),
    /// Take something out of service, gently, or put it back
    #[command(hide = true)]
    Drain(operate::drain::Args),
    /// Say or set how much its event log says
    #[command(hide = true)]
    Log(operate::log::Args),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(papers::Completions),
    /// Write the manual pages
    #[command(hide = true)]
    Man(papers::Man),
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
    let code = obey(cli.command);
    if UNSAID.load(Ordering::Relaxed) { Exit::Failed.into() } else { code }
}

fn obey(command: Command) -> ExitCode {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Expose(args) => expose::expose(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, run::serve_file),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Cert(args) => cert::run(&args),
        Command::Reload(args) => operate::reload::reload(&args),
        Command::Status(args) => operate::status::status(&args),
        Command::Ps(args) => operate::ps::ps(&args),
        Command::Top(args) => operate::top::top(&args),
        Command::Kill(args) => operate::kill::kill(&args),
        Command::Drain(args) => operate::drain::drain(&args),
        Command::Log(args) => operate::log::log(&args),
        Command::Completions(args) => papers::completions(&args).into(),
        Command::Man(args) => papers::man(&args).into(),
    }
}

/// Something could not be written to stdout.
static UNSAID: AtomicBool = AtomicBool::new(false);

/// Writes to stdout. A reader that has gone (`| head -1`) is no failure of ours; a disk that is full is one.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        UNSAID.store(true, Ordering::Relaxed);
        complain(&format!("portcullis: cannot write to stdout: {error}\n"));
    }
}

/// Writes to stderr, with the same indifference.
fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_help_fits_on_one_screen_and_all_but_the_plainest_show_an_example() {
        let mut root = super::Cli::command();
        root.build();
        let names: Vec<_> = root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let mut helps = vec![("portcullis".to_owned(), root.render_help().to_string())];
        for name in names.into_iter().filter(|name| name != "help") {
            let help = root.find_subcommand_mut(&name).expect("it was listed").render_help().to_string();
            helps.push((name, help));
        }
        for (name, help) in helps {
            // One line is the prompt's.
            assert!(help.lines().count() <= 23, "{name} has {} lines", help.lines().count());
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            assert!(help.contains("Example:"), "{name}");
        }
    }
}
