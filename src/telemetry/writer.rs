//! A thread that writes lines, so that no worker ever waits for a disk or a pipe.
//!
//! Chunks of whole lines come over a bounded channel; when it is full they are dropped and counted. A target that cannot
//! be written (a full disk, a socket that is gone) costs lines, never a worker. That is said at once, then once a minute
//! for as long as it lasts, and with its last lines when it is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::sink::Sink;
use crate::clock::{self, Instant};
use crate::lifecycle::spawn;

/// Chunks that may wait. With chunks of 64 KiB about 8 MiB at worst.
const WAITING: usize = 128;

/// How often trouble that lasts is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// How long it has to be quiet before lines are told that were lost in a queue that was full: they are seldom the last.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How often they are told where it is never quiet.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
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
        let thread =
            Thread { name: name.to_owned(), sink, lost: lost.clone(), told_at: None, torn: false, trouble: None };
        spawn::thread(name, move || thread.run(&receiver))?;
        Ok(Self { orders, lost })
    }

    /// Hands over `chunk`, which holds `lines` whole lines. Never waits.
    pub fn write(&self, lines: u64, chunk: Vec<u8>) {
        if self.orders.try_send(Order::Write(chunk)).is_err() {
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
    name: String,
    sink: Sink,
    lost: Lost,
    /// When lost lines were reported.
    told_at: Option<Instant>,
    /// The last thing written was part of a line.
    torn: bool,
    /// The target could not be written when it was last tried; when that was reported.
    trouble: Option<Instant>,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = if self.unsaid() > 0 {
                match orders.recv_timeout(TELL_AFTER) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.tell(None);
                        // What goes on being lost in trouble is told once a minute, with the line that is lost then.
                        orders.recv().ok()
                    }
                    order => order.ok(),
                }
            } else {
                orders.recv().ok()
            };
            match order {
                Some(Order::Write(chunk)) => self.write(&chunk),
                Some(Order::Reopen) => {
                    if let Err(error) = self.sink.reopen() {
                        tracing::error!(log = self.name, %error, "a log file cannot be opened again; the old one stays in use");
                    }
                }
                // Who asked may have stopped waiting.
                Some(Order::Flush(done)) => drop(done.try_send(())),
                None => break,
            }
        }
        if self.unsaid() > 0 {
            self.say_lost();
        }
    }

    fn write(&mut self, chunk: &[u8]) {
        match self.try_write(chunk) {
            Ok(()) if self.trouble.take().is_some() => {
                let lines = self.take_unsaid();
                tracing::warn!(
                    log = self.name,
                    lines,
                    "log lines are written again; so many were lost since the last count"
                );
            }
            Ok(()) => {
                if self.unsaid() > 0 && self.told_at.is_none_or(|told| clock::now() >= told + TELL_EVERY) {
                    self.say_lost();
                }
            }
            Err((lines, error)) => {
                self.lost.note(lines);
                self.tell(Some(&error));
            }
        }
    }

    /// An error comes with how many lines are lost by it.
    fn try_write(&mut self, chunk: &[u8]) -> Result<(), (u64, io::Error)> {
        let mut rest = chunk;
        if self.torn {
            // A torn line must not swallow the next one.
            self.write_some(b"\n").map_err(|error| (self.sink.lines(rest), error))?;
            self.torn = false;
        }
        while !rest.is_empty() {
            let written = self.write_some(rest).map_err(|error| (self.sink.lines(rest), error))?;
            self.torn = self.sink.is_stream() && rest[..written].last() != Some(&b'\n');
            rest = &rest[written..];
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

    /// Reports lost lines, unless that has been done lately.
    fn tell(&mut self, error: Option<&io::Error>) {
        let now = clock::now();
        match error {
            None if self.trouble.is_none() => self.say_lost(),
            Some(error) if self.trouble.is_none_or(|told| now >= told + REPORT_EVERY) => {
                self.trouble = Some(now);
                let lines = self.take_unsaid();
                tracing::error!(log = self.name, lines, %error, "log lines are lost: their target cannot be written");
            }
            None | Some(_) => {}
        }
    }

    fn say_lost(&mut self) {
        let lines = self.take_unsaid();
        tracing::warn!(log = self.name, lines, "log lines were lost: their target is too slow");
    }

    fn unsaid(&self) -> u64 {
        self.lost.unsaid.load(Ordering::Relaxed)
    }

    fn take_unsaid(&mut self) -> u64 {
        self.told_at = Some(clock::now());
        self.lost.unsaid.swap(0, Ordering::Relaxed)
    }
}
