//! A terminal: a pseudo-terminal with a program in it, and what that has drawn so far.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{self, Termios, Winsize};

use super::eventually;

/// Stands behind everything that a program has written.
const END: &str = "(the end)";

/// A program at a terminal of its own, which controls it.
pub struct Screen {
    pub child: Child,
    master: Option<File>,
    /// The program's side, kept open so that it can be looked at when the program has gone.
    slave: Option<OwnedFd>,
    before: Termios,
    raw: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    is_hung_up: Arc<AtomicBool>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Screen {
    pub fn start(program: &str, args: &[&str], columns: u16, rows: u16) -> Self {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("its other side");
        termios::tcsetwinsize(&master, size(columns, rows)).expect("a size");
        let before = termios::tcgetattr(&slave).expect("its settings");
        let side = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", program]).args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid runs");
        let master = File::from(master);
        let raw = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (master.try_clone().expect("a descriptor"), raw.clone());
        let is_hung_up = Arc::new(AtomicBool::new(false));
        let told = is_hung_up.clone();
        let reader = std::thread::spawn(move || {
            let (mut bytes, turn) = ([0; 4096], Timespec { tv_sec: 0, tv_nsec: 20_000_000 });
            while !told.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(&reader, PollFlags::IN)];
                match poll(&mut fds, Some(&turn)) {
                    Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(_) => return,
                }
                let Ok(count @ 1..) = reader.read(&mut bytes) else { return };
                seen.lock().expect("nobody panics with it").extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, master: Some(master), slave: Some(slave), before, raw, reader: Some(reader), is_hung_up }
    }

    /// The window is closed, or the line is cut.
    pub fn hang_up(&mut self) {
        self.is_hung_up.store(true, Ordering::Relaxed);
        self.reader.take().expect("once").join().expect("it reads and nothing else");
        (self.master, self.slave) = (None, None);
    }

    /// Nothing that is written gets any further, and whoever writes waits.
    pub fn stop(&self) {
        termios::tcflow(self.slave.as_ref().expect("a terminal"), termios::Action::OOff).expect("stopped");
    }

    /// Waits for the program's end and nothing else.
    pub async fn is_over(&mut self) -> std::process::ExitStatus {
        eventually("the end of the program", || matches!(self.child.try_wait(), Ok(Some(_)))).await;
        self.child.wait().expect("it has ended")
    }

    pub fn keys(&mut self, keys: &str) {
        let mut master = self.master.as_ref().expect("a terminal");
        master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        termios::tcsetwinsize(self.master.as_ref().expect("a terminal"), size(columns, rows)).expect("another size");
    }

    /// Everything that came, as it came.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().expect("nobody panics with it")).into_owned()
    }

    /// The lines that are seen.
    pub fn lines(&self) -> Vec<String> {
        drawn(&self.raw())
    }

    pub async fn shows(&self, what: &str) {
        eventually(&format!("`{what}` on the screen"), || self.lines().iter().any(|line| line.contains(what))).await;
    }

    pub async fn shows_no_more(&self, what: &str) {
        eventually(&format!("no `{what}` on the screen"), || !self.lines().iter().any(|line| line.contains(what)))
            .await;
    }

    /// Waits for the program's end; its exit code. The terminal has to be as it was.
    pub async fn ends(&mut self) -> Option<i32> {
        let status = self.is_over().await;
        let slave = self.slave.as_ref().expect("a terminal");
        // What is written comes in order: with this, all that the program has written has come.
        rustix::io::write(slave, END.as_bytes()).expect("written");
        eventually("all of its output", || self.raw().ends_with(END)).await;
        let after = termios::tcgetattr(slave).expect("its settings");
        let modes = |termios: &Termios| (termios.local_modes, termios.input_modes, termios.output_modes);
        assert_eq!(modes(&after), modes(&self.before), "the terminal is not as it was");
        let raw = self.raw();
        let (taken, given) = (raw.matches("\u{1b}[?1049h").count(), raw.matches("\u{1b}[?1049l").count());
        assert!(taken <= given, "the other screen is left: {raw:?}");
        let (hidden, shown) = (raw.rfind("\u{1b}[?25l"), raw.rfind("\u{1b}[?25h"));
        assert!(hidden <= shown, "the cursor is hidden: {raw:?}");
        status.code()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the screen:\n{}", self.lines().join("\n"));
        }
    }
}

/// What stands where after all of it: letters, places, and clearing, which is what a screen of ratatui's is made of.
fn drawn(raw: &str) -> Vec<String> {
    let mut cells = BTreeMap::<(usize, usize), char>::new();
    let (mut row, mut column) = (0, 0);
    let mut letters = raw.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                if letters.next() != Some('[') {
                    continue;
                }
                let mut words = String::new();
                let end = letters.by_ref().find(|letter| {
                    let is_end = letter.is_ascii_alphabetic();
                    words.extend((!is_end).then_some(*letter));
                    is_end
                });
                let number = |at: usize| words.split(';').nth(at).and_then(|word| word.parse().ok()).unwrap_or(1_usize);
                match end {
                    Some('H') => (row, column) = (number(0) - 1, number(1) - 1),
                    Some('J') => cells.clear(),
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            letter => {
                cells.insert((row, column), letter);
                column += 1;
            }
        }
    }
    let rows = cells.keys().map(|(row, _)| row + 1).max().unwrap_or(0);
    let line = |row: usize| {
        let width = cells.range((row, 0)..(row + 1, 0)).map(|((_, column), _)| column + 1).max().unwrap_or(0);
        (0..width).map(|column| cells.get(&(row, column)).copied().unwrap_or(' ')).collect()
    };
    (0..rows).map(line).collect()
}
