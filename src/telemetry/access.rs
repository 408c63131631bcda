//! The access log: one line per request, one when a tunnel opens, one when it closes.
//!
//! Each worker formats into a buffer of its own ([`AccessLog`]) and hands it over by size or after 100 ms; one thread
//! writes ([`AccessLogHandle`]). Credentials cannot be logged by mistake: a record has no field for `Authorization`,
//! `Cookie` or `Sec-WebSocket-Key`, and of the query only names are printed. Who calls [`AccessLog::record`] sees to it
//! that each request is recorded exactly once.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::line;
use super::text::Stamp;
use super::writer::{Lost, LostLines, Sink, Writer};
use crate::config::model::{AccessTarget, LogFormat};

/// A buffer of this size is handed over.
const CHUNK: usize = 64 * 1024;

/// A line that has waited this long is handed over.
const DELAY: Duration = Duration::from_millis(100);

/// How long a reopen may wait for room in the queue.
const REOPEN_PATIENCE: Duration = Duration::from_millis(100);

pub use super::record::{AccessEvent, AccessRecord};

/// The log of the process: makes each worker's own, and reaches the thread that writes.
#[derive(Clone, Debug)]
pub struct AccessLogHandle {
    target: AccessTarget,
    format: LogFormat,
    output: Output,
    lost: Lost,
}

#[derive(Clone, Debug)]
struct Output {
    /// `None`: off.
    writer: Option<Writer>,
    json: bool,
}

impl AccessLogHandle {
    /// Opens `target` and starts its thread. [`LogFormat::Auto`] is text where stderr is a terminal and the target is
    /// stderr, else JSON.
    ///
    /// # Errors
    /// A file cannot be opened, or there is no thread to be had.
    pub fn start(target: &AccessTarget, format: LogFormat) -> io::Result<Self> {
        Self::open(target, format, Lost::default())
    }

    fn open(target: &AccessTarget, format: LogFormat, lost: Lost) -> io::Result<Self> {
        let sink = match target {
            AccessTarget::Off => {
                let output = Output { writer: None, json: false };
                return Ok(Self { target: AccessTarget::Off, format, output, lost });
            }
            AccessTarget::Stderr => Sink::Stderr,
            AccessTarget::File(path) => Sink::file(path)?,
        };
        let json = match format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => *target != AccessTarget::Stderr || !io::IsTerminal::is_terminal(&io::stderr()),
        };
        let output = Output { writer: Some(Writer::start("access-log", sink, lost.clone())?), json };
        Ok(Self { target: target.clone(), format, output, lost })
    }

    /// The log for this target and format: the same one where it has them already, else one that has to be started. The
    /// old one writes what it has been given, and ends when nobody holds it any more.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn renewed(&self, target: &AccessTarget, format: LogFormat) -> io::Result<Self> {
        if self.target == *target && self.format == format {
            return Ok(self.clone());
        }
        Self::open(target, format, self.lost.renewed())
    }

    /// A worker's log, and the future that hands its lines over in time, which the worker spawns once.
    pub fn worker(&self) -> (Rc<AccessLog>, Flusher) {
        let (output, buffer) = (RefCell::new(self.output.clone()), RefCell::new(Buffer::default()));
        let log = Rc::new(AccessLog { output, buffer });
        (log.clone(), Flusher { log, sleep: None })
    }

    /// Lines that were dropped since the start of the process, under earlier targets as well.
    pub fn lost(&self) -> LostLines {
        self.lost.all.clone()
    }

    /// Opens the file again, after a rotation. Lines that were handed over before go to the old one.
    pub fn reopen(&self) {
        if let Some(writer) = &self.output.writer
            && !writer.reopen(REOPEN_PATIENCE)
        {
            tracing::error!("the access log is too busy to be opened again");
        }
    }

    /// Blocks until all that was handed over is written; false if that takes longer than `patience`. For the end of
    /// the process, after the workers have dropped their logs.
    pub fn flush(&self, patience: Duration) -> bool {
        self.output.writer.as_ref().is_none_or(|writer| writer.flush(patience))
    }
}

/// The log of one worker. What it holds is handed over when it is dropped.
#[derive(Debug)]
pub struct AccessLog {
    output: RefCell<Output>,
    buffer: RefCell<Buffer>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
    stamp: Stamp,
    flusher: Option<Waker>,
}

impl AccessLog {
    /// Whether there is any use in making a record.
    pub fn is_on(&self) -> bool {
        self.output.borrow().writer.is_some()
    }

    /// From the next line on it goes where `log` says; those before go where they were meant to.
    pub fn follow(&self, log: &AccessLogHandle) {
        self.hand_over(&mut self.buffer.borrow_mut());
        self.output.replace(log.output.clone());
    }

    /// Notes one line. Never waits.
    pub fn record(&self, record: &AccessRecord<'_>) {
        if !self.is_on() {
            return;
        }
        let buffer = &mut *self.buffer.borrow_mut();
        let render = if self.output.borrow().json { line::json } else { line::readable };
        render(&mut buffer.bytes, &mut buffer.stamp, record);
        buffer.lines += 1;
        if buffer.bytes.len() >= CHUNK {
            self.hand_over(buffer);
        } else if let Some(flusher) = buffer.flusher.take() {
            flusher.wake();
        }
    }

    fn hand_over(&self, buffer: &mut Buffer) {
        if let Some(writer) = &self.output.borrow().writer
            && buffer.lines > 0
        {
            let chunk = std::mem::take(&mut buffer.bytes);
            // A worker that is as busy again needs as much room again.
            buffer.bytes.reserve(chunk.len().min(CHUNK));
            writer.write(std::mem::take(&mut buffer.lines), chunk);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let mut buffer = self.buffer.take();
        self.hand_over(&mut buffer);
    }
}

/// Hands a worker's lines over 100 ms after the first. Sleeps without a timer while there are none. Never completes.
#[derive(Debug)]
#[must_use = "without it the lines of a quiet worker stay in its buffer"]
pub struct Flusher {
    log: Rc<AccessLog>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for Flusher {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let buffer = &mut *this.log.buffer.borrow_mut();
            let Some(sleep) = &mut this.sleep else {
                if buffer.lines == 0 {
                    buffer.flusher = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                this.sleep = Some(Box::pin(tokio::time::sleep(DELAY)));
                continue;
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.sleep = None;
            this.log.hand_over(buffer);
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
