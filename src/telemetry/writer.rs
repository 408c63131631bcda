//! A thread that writes lines, so that no worker ever waits for a disk or a pipe.
//!
//! Chunks of whole lines come over a bounded channel; when it is full they are dropped and counted, and the count is
//! reported once lines get through again. A file that cannot be written (a full disk) costs lines, never a worker.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::lifecycle::spawn;

/// Chunks that may wait. With chunks of 64 KiB about 8 MiB at worst.
const WAITING: usize = 128;

/// How often trouble is reported at most.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    File {
        path: PathBuf,
        file: File,
    },
    #[cfg(test)]
    Custom(Box<dyn WriteSend>),
}

#[cfg(test)]
pub(super) trait WriteSend: Write + Send + std::fmt::Debug {}

impl Sink {
    /// Appends; made with mode 0640.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), file: open(path)? })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Under one lock, since both logs may go there and a chunk must not be split by the other's line.
            Self::Stderr => io::stderr().lock().write_all(bytes).map(|()| bytes.len()),
            Self::File { file, .. } => file.write(bytes),
            #[cfg(test)]
            Self::Custom(custom) => custom.write(bytes),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[derive(Debug)]
enum Order {
    Write {
        lines: u64,
        chunk: Vec<u8>,
    },
    Reopen,
    /// Answered once everything before it has been tried.
    Flush(SyncSender<()>),
}

/// Reaches the thread. The last one to go ends it, after it has written what waits.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    orders: SyncSender<Order>,
    lost: Lost,
}

/// Lines that were dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    /// Since that was last reported.
    unsaid: Arc<AtomicU64>,
    pub all: LostLines,
}

/// How many lines of one log were dropped since the start of the process, whatever its target was. Clones are the same
/// count.
#[derive(Clone, Debug, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Lost {
    /// Those of the same log under another target count on.
    pub fn renewed(&self) -> Self {
        Self { unsaid: Arc::default(), all: self.all.clone() }
    }

    fn note(&self, lines: u64) {
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
        self.all.0.fetch_add(lines, Ordering::Relaxed);
    }
}

impl Writer {
    /// What it drops is counted in `lost`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(name: &str, sink: Sink, lost: Lost) -> io::Result<Self> {
        let (orders, receiver) = sync_channel(WAITING);
        let thread = Thread { sink, lost: lost.clone(), torn: false, reported: None };
        spawn::thread(name, move || thread.run(&receiver))?;
        Ok(Self { orders, lost })
    }

    /// Hands over `chunk`, which holds `lines` whole lines. Never waits.
    pub fn write(&self, lines: u64, chunk: Vec<u8>) {
        if self.orders.try_send(Order::Write { lines, chunk }).is_err() {
            self.lost.note(lines);
        }
    }

    /// Opens a file target again, in order with the lines.
    pub fn reopen(&self, patience: Duration) -> bool {
        self.order(Order::Reopen, clock::now() + patience)
    }

    /// Waits until what was handed over has been written. Blocks; for the end of the process. False: it took too long.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = clock::now() + patience;
        let (done, answer) = sync_channel(1);
        self.order(Order::Flush(done), deadline)
            && answer.recv_timeout(deadline.saturating_duration_since(clock::now())).is_ok()
    }

    /// A bounded channel has no sending with a deadline.
    fn order(&self, mut order: Order, deadline: Instant) -> bool {
        loop {
            match self.orders.try_send(order) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if clock::now() < deadline => order = back,
                Err(_) => return false,
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lines that were dropped, ever.
    pub fn lost(&self) -> LostLines {
        self.lost.all.clone()
    }
}

struct Thread {
    sink: Sink,
    lost: Lost,
    /// The last thing written was part of a line.
    torn: bool,
    reported: Option<Instant>,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Write { lines, chunk } => self.write(lines, &chunk),
                Order::Reopen => {
                    if let Err(error) = self.sink.reopen() {
                        tracing::error!(%error, "a log file cannot be opened again; the old one stays in use");
                    }
                }
                // Who asked may have stopped waiting.
                Order::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, lines: u64, chunk: &[u8]) {
        if let Err(error) = self.try_write(chunk) {
            self.lost.note(lines);
            self.report(Some(&error));
        } else if self.lost.unsaid.load(Ordering::Relaxed) > 0 {
            self.report(None);
        }
    }

    fn try_write(&mut self, mut chunk: &[u8]) -> io::Result<()> {
        if self.torn {
            // A torn line must not swallow the next one.
            self.write_some(b"\n")?;
            self.torn = false;
        }
        while !chunk.is_empty() {
            let written = self.write_some(chunk)?;
            self.torn = chunk[..written].last() != Some(&b'\n');
            chunk = &chunk[written..];
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.sink.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn report(&mut self, error: Option<&io::Error>) {
        let now = clock::now();
        if self.reported.is_some_and(|reported| now < reported + REPORT_EVERY) {
            return;
        }
        self.reported = Some(now);
        let lines = self.lost.unsaid.swap(0, Ordering::Relaxed);
        match error {
            Some(error) => tracing::error!(lines, %error, "log lines are lost: the target cannot be written"),
            None => tracing::warn!(lines, "log lines were lost: the target was too slow or could not be written"),
        }
    }
}
