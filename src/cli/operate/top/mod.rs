//! `portcullis top`: the live numbers and tunnels of a gateway on a terminal, until somebody has seen enough.
//!
//! `asker` asks the gateway on a thread of its own, so that keys are heard while an answer is on its way; `state` is what
//! is known and meant (pure), `screen` draws it, `terminal` takes the terminal and gives it back, however this ends.

mod asker;
mod line;
mod screen;
mod shapes;
mod state;
mod terminal;

#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use super::{Failure, Where, finish, ps, whereabouts};
use crate::config;
use asker::{Asker, Wanted};
use state::{Action, SortBy, State};
use terminal::{Happening, Terminal};

/// How late an answer may be shown.
const TURN: Duration = Duration::from_millis(100);

/// Not more often, and not less.
const OFTEN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(3600);

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis top route=chat --sort bytes --every 2s\n\n\
                        `?` shows the keys, `q` ends it. Filters are those of `portcullis ps`.")]
pub struct Args {
    /// Terms, all of which have to hold
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// messages, bytes, age, idle or rtt
    #[arg(long, value_name = "KEY", default_value = "messages", value_parser = SortBy::parse)]
    sort: SortBy,
    /// How often the gateway is asked
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    every: Duration,
    #[command(flatten)]
    at: Where,
}

pub fn top(args: &Args) -> ExitCode {
    finish("top", run(args))
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = config::duration(text)?;
    if (OFTEN..=SELDOM).contains(&every) { Ok(every) } else { Err("from 200ms to 1h".to_owned()) }
}

fn run(args: &Args) -> Result<(), Failure> {
    let filter = ps::join(&args.filter);
    if !std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "stdout is no terminal\n  `portcullis ps` prints a list, with --json for programs".into(),
        ));
    }
    let target = whereabouts::find(&args.at)?;
    let mut state = State::new(target.to_string(), filter, args.sort);
    let mut asked = state.wanted();
    let asker = Asker::start(target, args.every, asked.clone()).map_err(failed)?;
    // Whether there is a gateway is said on a terminal as it was.
    state.note(asker.first()?);
    let mut terminal = Terminal::take().map_err(failed)?;
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut state)).map_err(failed)?;
        match terminal.next(TURN).map_err(failed)? {
            Happening::Ended => return Ok(()),
            Happening::Key(key) => match state.press(key) {
                Action::None => {}
                Action::Quit => return Ok(()),
                Action::Ask => asked = Wanted::default(),
                Action::Kill(order) => asker.kill(order),
            },
            Happening::Nothing => {}
        }
        while let Some(told) = asker.told()? {
            state.note(told);
        }
        if asked != state.wanted() {
            asked = state.wanted();
            asker.want(asked.clone());
        }
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure::Failed(format!("the terminal cannot be used: {error}"))
}
