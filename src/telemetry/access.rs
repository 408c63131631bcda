//! The access log: one line per request, one when a tunnel opens, one when it closes.
//!
//! Each worker formats into a buffer of its own ([`AccessLog`]) and hands it over by size or after 100 ms; one thread
//! writes ([`AccessLogHandle`]). Credentials cannot be logged by mistake: a record has no field for `Authorization`,
//! `Cookie` or `Sec-WebSocket-Key`, and of the query only names are printed. Who calls [`AccessLog::record`] sees to it
//! that each request is recorded exactly once.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::journal::{self, Journal};
use super::line::Form;
use super::refusals::Refusals;
use super::sink::Sink;
use super::syslog::Syslog;
use super::text::Stamp;
use super::writer::{Lost, LostLines, Writer};
use crate::config::model::{AccessTarget, Log, LogFormat, Otlp};
use crate::config::report::Report;

/// A buffer of this size is handed over.
const CHUNK: usize = 64 * 1024;

/// A line that has waited this long is handed over.
const DELAY: Duration = Duration::from_millis(100);

/// How long a reopen may wait for room in the queue.
const REOPEN_PATIENCE: Duration = Duration::from_millis(100);

use super::end::EndReason;
pub use super::record::{AccessEvent, AccessRecord};

/// The log of the process: makes each worker's own, and reaches the thread that writes.
#[derive(Clone, Debug)]
pub struct AccessLogHandle {
    target: AccessTarget,
    format: LogFormat,
    otlp: Option<Otlp>,
    output: Output,
    lost: Lost,
}

#[derive(Clone, Debug)]
struct Output {
    /// `None`: off.
    writer: Option<Writer>,
    form: Form,
    /// stderr is the journal's.
    prefix: &'static str,
    /// Refusals that are logged in a second. `None`: all.
    most: Option<u32>,
    refusals: Arc<Refusals>,
    /// Where spans go, if anywhere.
    spans: Option<Writer>,
}

impl AccessLogHandle {
    /// Opens the target and starts its thread. [`LogFormat::Auto`] is text where stderr is a terminal and the target is
    /// stderr, else JSON; in the journal it is both. The sockets of syslog and journal are opened with the first line.
    ///
    /// # Errors
    /// A file cannot be opened, or there is no thread to be had.
    pub fn start(log: &Log) -> io::Result<Self> {
        Self::open(log, Arc::new(Refusals::new()), Lost::default())
    }

    /// One that writes nothing.
    pub fn off() -> Self {
        let (most, refusals) = (None, Arc::new(Refusals::new()));
        let output = Output { writer: None, form: Form::Json, prefix: "", most, refusals, spans: None };
        Self { target: AccessTarget::Off, format: LogFormat::Auto, otlp: None, output, lost: Lost::default() }
    }

    /// Warns of a file whose folder is not there. It may still be made before the gateway starts, as service managers do.
    pub fn look(log: &Log, report: &mut Report) {
        let AccessTarget::File(path) = &log.access else { return };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let message = format!("the folder of the access log, {}, does not exist", folder.display());
            report
                .warning("no-log-folder", &log.access_spot, message)
                .help("make it, for the user that the gateway runs as: without it the gateway does not start");
        }
    }

    fn open(log: &Log, refusals: Arc<Refusals>, lost: Lost) -> io::Result<Self> {
        let Log { access: target, format, refusals_per_second: most, otlp, .. } = log.clone();
        let sink = match &target {
            AccessTarget::Off => None,
            AccessTarget::Stderr => Some(Sink::Stderr),
            AccessTarget::File(path) => Some(Sink::file(path)?),
            AccessTarget::Syslog(server) => Some(Sink::Syslog(Syslog::new(server.clone()))),
            AccessTarget::Journald => Some(Sink::Journal(Journal::new())),
        };
        let writer = sink.map(|sink| Writer::start("access-log", sink, lost.clone())).transpose()?;
        let form = match format {
            _ if target == AccessTarget::Journald => Form::Journal,
            LogFormat::Json => Form::Json,
            LogFormat::Text => Form::Text,
            LogFormat::Auto if target == AccessTarget::Stderr && io::IsTerminal::is_terminal(&io::stderr()) => {
                Form::Text
            }
            LogFormat::Auto => Form::Json,
        };
        let is_journal = target == AccessTarget::Stderr && journal::is_stderr();
        let prefix = if is_journal { journal::prefix(tracing::Level::INFO) } else { "" };
        let spans = otlp.clone().map(exporter).transpose()?;
        Ok(Self { target, format, otlp, output: Output { writer, form, prefix, most, refusals, spans }, lost })
    }

    /// The log for this target and format: the same one where it has them already, else one that has to be started. The
    /// old one writes what it has been given, and ends when nobody holds it any more.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn renewed(&self, log: &Log) -> io::Result<Self> {
        let is_same = self.target == log.access && self.format == log.format && self.otlp == log.otlp;
        if !is_same {
            return Self::open(log, self.output.refusals.clone(), self.lost.renewed());
        }
        let mut renewed = self.clone();
        renewed.output.most = log.refusals_per_second;
        Ok(renewed)
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

    /// Refusals that `log.refusals_per_second` has kept out of it, since the process started.
    pub fn unsaid_refusals(&self) -> u64 {
        self.output.refusals.unsaid()
    }

    /// Says how many refusals were not logged, every ten seconds in which there were any; for all logs that follow this
    /// one. Never completes.
    pub fn tell_refusals(&self) -> impl Future<Output = ()> + 'static {
        let refusals = self.output.refusals.clone();
        async move { refusals.tell().await }
    }

    /// Blocks until all that was handed over is written; false if that takes longer than `patience`. For the end of
    /// the process, after the workers have dropped their logs.
    pub fn flush(&self, patience: Duration) -> bool {
        let writers = [&self.output.writer, &self.output.spans];
        writers.into_iter().flatten().all(|writer| writer.flush(patience))
    }
}

#[cfg(feature = "otel")]
fn exporter(otlp: Otlp) -> io::Result<Writer> {
    Writer::start("spans", Sink::Collector(super::otlp::Collector::new(otlp)), Lost::default())
}

/// The reader refuses the key in this build.
#[cfg(not(feature = "otel"))]
fn exporter(_: Otlp) -> io::Result<Writer> {
    Err(io::ErrorKind::Unsupported.into())
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
    spans: Vec<u8>,
    span_count: u64,
    stamp: Stamp,
    flusher: Option<Waker>,
}

impl AccessLog {
    /// Whether there is any use in making a record.
    pub fn is_on(&self) -> bool {
        let output = self.output.borrow();
        output.writer.is_some() || output.spans.is_some()
    }

    /// From the next line on it goes where `log` says; those before go where they were meant to.
    pub fn follow(&self, log: &AccessLogHandle) {
        self.hand_over(&mut self.buffer.borrow_mut());
        self.output.replace(log.output.clone());
    }

    /// Notes one line. Never waits.
    pub fn record(&self, record: &AccessRecord<'_>) {
        let output = self.output.borrow();
        self.record_span(&output, record);
        if output.writer.is_none() {
            return;
        }
        let is_refused = record.end.is_some_and(EndReason::is_refusal);
        let is_said = !is_refused || output.most.is_none_or(|most| output.refusals.admit(most));
        if !is_said {
            return;
        }
        let buffer = &mut *self.buffer.borrow_mut();
        buffer.bytes.extend_from_slice(output.prefix.as_bytes());
        output.form.render(&mut buffer.bytes, &mut buffer.stamp, record);
        drop(output);
        buffer.lines += 1;
        self.noted(buffer);
    }

    #[cfg(feature = "otel")]
    fn record_span(&self, output: &Output, record: &AccessRecord<'_>) {
        if output.spans.is_none() {
            return;
        }
        let buffer = &mut *self.buffer.borrow_mut();
        if super::otlp::span(&mut buffer.spans, record) {
            buffer.span_count += 1;
            self.noted(buffer);
        }
    }

    #[cfg(not(feature = "otel"))]
    #[expect(clippy::unused_self, reason = "the same call in both builds")]
    fn record_span(&self, _: &Output, _: &AccessRecord<'_>) {}

    /// Something has been added.
    fn noted(&self, buffer: &mut Buffer) {
        if buffer.bytes.len() >= CHUNK || buffer.spans.len() >= CHUNK {
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
        if let Some(writer) = &self.output.borrow().spans
            && buffer.span_count > 0
        {
            writer.write(std::mem::take(&mut buffer.span_count), std::mem::take(&mut buffer.spans));
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
                if buffer.lines == 0 && buffer.span_count == 0 {
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
