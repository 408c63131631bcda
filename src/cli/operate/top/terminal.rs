//! The terminal, taken and given back: at the end, after an error, after a panic, and when a signal ends the program.
//!
//! Whether it has gone is looked at before anything is read: crossterm would read the end of a terminal for ever.
//! Dropping [`Terminal`] gives it back. A panic's message is printed afterwards, where it can be read. A second handle of
//! the same terminal is not foreseen.

use std::fs::File;
use std::io::{self, IsTerminal, Stdout, stdin, stdout};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid, kill_process};

use crate::lifecycle;
use crate::lifecycle::signals::{Request, Signals};

/// How long whoever draws and reads may take to end once a signal asks for it.
const GRACE: Duration = Duration::from_secs(2);

/// What may happen at a terminal.
#[derive(Debug)]
pub enum Happening {
    Nothing,
    Key(KeyEvent),
    /// A signal ends the program.
    Ended,
}

pub struct Terminal {
    /// Where keys come from.
    input: OwnedFd,
    /// Never dropped: it would complain on stderr of a terminal that has gone, which has gone with it. All that its end does
    /// is to show the cursor.
    inner: ManuallyDrop<ratatui::Terminal<CrosstermBackend<Stdout>>>,
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
        let input = match stdin().is_terminal() {
            true => stdin().as_fd().try_clone_to_owned()?,
            false => File::open("/dev/tty")?.into(),
        };
        let is_ended = watch_signals()?;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode()?;
        let held = Held;
        execute!(stdout(), EnterAlternateScreen)?;
        let inner = ManuallyDrop::new(ratatui::Terminal::new(CrosstermBackend::new(stdout()))?);
        Ok(Self { input, inner, is_ended, _held: held })
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.inner.draw(draw).map(drop)
    }

    /// Waits for something to happen, for at most so long.
    pub fn next(&self, patience: Duration) -> io::Result<Happening> {
        // What was read before, and has not been heard yet, comes first.
        for patience in [Duration::ZERO, patience] {
            if self.has_gone(patience)? || self.is_ended.load(Ordering::Relaxed) {
                return Ok(Happening::Ended);
            }
            let heard = match event::poll(Duration::ZERO) {
                Ok(true) => event::read()?,
                Ok(false) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match heard {
                Event::Key(key) if key.kind != KeyEventKind::Release => return Ok(Happening::Key(key)),
                // Also another size: what is drawn next has it.
                _ => return Ok(Happening::Nothing),
            }
        }
        Ok(Happening::Nothing)
    }

    /// Waits until there is something to read, for at most so long; whether there never will be anything any more.
    fn has_gone(&self, patience: Duration) -> io::Result<bool> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut input = [PollFd::new(&self.input, PollFlags::IN)];
        match poll(&mut input, Some(&patience)) {
            Ok(_) => Ok(input[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
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
        let is_asked = runtime.block_on(async {
            let mut signals = match Signals::new() {
                Ok(signals) => signals,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return false;
                }
            };
            let _ = ready.send(Ok(()));
            while signals.next().await == Request::Reopen {}
            told.store(true, Ordering::Relaxed);
            tokio::time::sleep(GRACE).await;
            true
        });
        if is_asked {
            // Whoever should have ended hangs at the terminal itself, which takes or gives nothing.
            let _ = disable_raw_mode();
            let _ = kill_process(getpid(), Signal::KILL);
        }
    })?;
    when_ready.recv().map_err(|_| io::Error::other("the thread that hears signals has ended"))??;
    Ok(is_ended)
}
