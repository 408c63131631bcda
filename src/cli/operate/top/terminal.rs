//! The terminal, taken and given back: at the end, after an error, after a panic, and when a signal ends the program.
//!
//! Dropping [`Terminal`] gives it back. A panic's message is printed afterwards, where it can be read. A second handle of
//! the same terminal is not foreseen.

use std::io::{self, Stdout, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crossterm::cursor::Show;
use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;

use crate::lifecycle;
use crate::lifecycle::signals::{Request, Signals};

/// What may happen at a terminal.
#[derive(Debug)]
pub enum Happening {
    Nothing,
    Key(KeyEvent),
    /// A signal ends the program.
    Ended,
}

pub struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
    is_ended: Arc<AtomicBool>,
    _held: Held,
}

/// Gives the terminal back when dropped.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        give_back();
    }
}

/// Where that fails there is no terminal any more.
fn give_back() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

impl Terminal {
    /// # Errors
    /// There is no terminal, or it does not do as it is told; then it is as it was.
    pub fn take() -> io::Result<Self> {
        let is_ended = watch_signals()?;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode()?;
        let held = Held;
        execute!(stdout(), EnterAlternateScreen)?;
        let inner = ratatui::Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Self { inner, is_ended, _held: held })
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.inner.draw(draw).map(drop)
    }

    /// Waits for something to happen, for at most so long.
    pub fn next(&self, patience: Duration) -> io::Result<Happening> {
        let heard = match event::poll(patience) {
            Ok(true) => event::read().map(Some),
            Ok(false) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        };
        if self.is_ended.load(Ordering::Relaxed) {
            return Ok(Happening::Ended);
        }
        match heard? {
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => Ok(Happening::Key(key)),
            // Also another size: what is drawn next has it.
            _ => Ok(Happening::Nothing),
        }
    }
}

/// True once a signal has asked for the end; SIGHUP says that the terminal has gone. From here on none of them ends the
/// program by itself, with the terminal in its hands.
fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let is_ended = Arc::new(AtomicBool::new(false));
    let told = is_ended.clone();
    let (ready, when_ready) = sync_channel(1);
    lifecycle::thread("signals", move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let mut signals = match Signals::new() {
                Ok(signals) => signals,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            while signals.next().await == Request::Reopen {}
            told.store(true, Ordering::Relaxed);
        });
    })?;
    when_ready.recv().map_err(|_| io::Error::other("the thread that hears signals has ended"))??;
    Ok(is_ended)
}
