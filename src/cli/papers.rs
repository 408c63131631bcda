//! What a package ships of the commands: completions for shells, and manual pages. Both are made from the description
//! that parses the command line, so neither can say anything else than the program does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, complain, say};

/// What the program's own page says besides its commands.
const MANUAL: &str = include_str!("manual.roff");

/// `portcullis completions`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis completions bash > /etc/bash_completion.d/portcullis")]
pub(super) struct Completions {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", value_parser = shell)]
    shell: Shell,
}

/// `portcullis man`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Where to write the pages, one for each command
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

fn shell(word: &str) -> Result<Shell, String> {
    match word {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("there are completions for bash, zsh and fish".to_owned()),
    }
}

/// Prints a script that completes commands and options.
pub(super) fn completions(args: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut commands(), "portcullis", &mut script);
    say(&String::from_utf8_lossy(&script));
    Exit::Stopped
}

/// Writes the manual pages.
pub(super) fn man(args: &Man) -> Exit {
    match write_pages(&args.dir) {
        Ok(()) => Exit::Stopped,
        Err(error) => {
            complain(&format!("error: cannot write manual pages to {}: {error}\n", args.dir.display()));
            Exit::Failed
        }
    }
}

fn write_pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // What `--version` prints fills a screen, not a line.
    clap_mangen::generate_to(commands().long_version(None), dir)?;
    let first = dir.join("portcullis.1");
    File::options().append(true).open(first)?.write_all(MANUAL.as_bytes())
}

/// All that somebody may want to call. `--help` has no room for those that ask a gateway that runs.
fn commands() -> clap::Command {
    let mut root = Cli::command();
    let names: Vec<_> = root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names.into_iter().filter(|name| name != "completions" && name != "man") {
        root = root.mut_subcommand(name, |command| command.hide(false));
    }
    root
}
