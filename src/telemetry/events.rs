//! The event log: what the gateway has to say that belongs to no single request, through `tracing`.
//!
//! One event is one line on stderr: text on a terminal, JSON elsewhere. Control characters that slipped into a field
//! are escaped, whatever the formatter does, so that a peer cannot write lines or colours of its own. Lines go through
//! a writer thread; the [`EventLog`] that [`start`] returns must be held until the end, since it flushes on drop. Level and
//! format may change meanwhile.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer as FieldWriter, format};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

use super::text::Stamp;
use super::writer::{Lost, LostLines, Sink, Writer};
use crate::clock;
use crate::config::model::{Log, LogFormat, LogLevel};
use crate::lifecycle::spawn;

/// How long the end of the process waits for a stderr that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the event log alive; flushes it on drop.
#[derive(Debug)]
#[must_use = "dropping it flushes the log; hold it until the process ends"]
pub struct EventLog {
    lines: Lines,
    switches: Switches,
}

impl EventLog {
    /// Lines that were dropped since the start of the process.
    pub fn lost(&self) -> LostLines {
        self.lines.writer.lost()
    }

    /// From now on with this level and format.
    pub fn follow(&self, log: &Log) {
        self.switches.set(log);
    }

    /// For whoever may change the level meanwhile.
    pub fn switches(&self) -> Switches {
        self.switches.clone()
    }
}

/// Says on stdout that these addresses listen: a line for each, such as `listening on https://127.0.0.1:8443 (public)`.
/// `admin`: that of the admin listener, `http://127.0.0.1:9900`, where it has just been opened; its line begins with
/// another word, so that nobody takes it for one of the others.
pub fn announce(addresses: &[String], admin: Option<&str>) {
    let mut out = io::stdout().lock();
    if let Some(address) = admin {
        let _ = writeln!(out, "admin listening on {address}");
    }
    for address in addresses {
        // Whoever started us may not care for our output.
        let _ = writeln!(out, "listening on {address}");
    }
    let _ = out.flush();
}

/// What may change while the log is in use. Clones are the same switches.
#[derive(Clone, Debug)]
pub struct Switches {
    filter: reload::Handle<Targets, Registry>,
    levels: Arc<Mutex<Levels>>,
    json: Arc<AtomicBool>,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// At this moment.
    pub now: LogLevel,
    /// By the configuration.
    pub configured: LogLevel,
}

impl Switches {
    fn set(&self, log: &Log) {
        self.change(|levels| *levels = Levels { now: log.level, configured: log.level });
        self.json.store(is_json(log.format), Ordering::Relaxed);
    }

    /// Another level, until the next reload.
    pub fn set_level(&self, level: LogLevel) {
        self.change(|levels| levels.now = level);
    }

    pub fn levels(&self) -> Levels {
        *self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Levels)) {
        // Held meanwhile, so that what is said of the level is what it is.
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        // Fails only where the subscriber is gone.
        let _ = self.filter.reload(targets(level(levels.now)));
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.lines.writer.flush(PATIENCE);
    }
}

/// Sets the process's subscriber and a panic hook that logs. Call once.
///
/// # Errors
/// There is a subscriber already, or no thread to be had.
pub fn start(log: &Log) -> io::Result<EventLog> {
    let lines = Lines { writer: Writer::start("event-log", Sink::Stderr, Lost::default())? };
    let (subscriber, switches) = subscriber(log, lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let trace = std::backtrace::Backtrace::capture();
        let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| trace.to_string());
        tracing::error!(place, panic = spawn::message(panic.payload()), trace, "panicked");
    }));
    Ok(EventLog { lines, switches })
}

fn subscriber<W>(log: &Log, writer: W) -> (Box<dyn tracing::Subscriber + Send + Sync>, Switches)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (layer, filter) = reload::Layer::new(targets(level(log.level)));
    let levels = Arc::new(Mutex::new(Levels { now: log.level, configured: log.level }));
    let switches = Switches { filter, levels, json: Arc::new(AtomicBool::new(is_json(log.format))) };
    let shape = Shape {
        is_json: switches.json.clone(),
        text: format().with_ansi(false).with_timer(Clock).with_target(false),
        json: format()
            .with_ansi(false)
            .with_timer(Clock)
            .with_target(false)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false),
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).event_format(shape).with_writer(writer);
    (Box::new(tracing_subscriber::registry().with(layer).with(lines)), switches)
}

/// An event in the format of the moment.
struct Shape {
    is_json: Arc<AtomicBool>,
    text: Format<Full, Clock>,
    json: Format<Json, Clock>,
}

impl<S, N> FormatEvent<S, N> for Shape
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        out: FieldWriter<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        if self.is_json.load(Ordering::Relaxed) {
            self.json.format_event(context, out, event)
        } else {
            self.text.format_event(context, out, event)
        }
    }
}

fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    }
}

/// The resolver has a line for every datagram that it does not believe, so that whoever sends some would write our log;
/// what matters of its work is logged by those who ask it. It is heard where somebody looks into it.
fn targets(level: LevelFilter) -> Targets {
    let resolver = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    let targets = ["hickory_net", "hickory_proto", "hickory_resolver"].map(|target| (target, resolver));
    Targets::new().with_default(level).with_targets(targets)
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, out: &mut FieldWriter<'_>) -> fmt::Result {
        let mut stamp = Vec::with_capacity(24);
        Stamp::default().append(&mut stamp, clock::wall());
        out.write_str(str::from_utf8(&stamp).map_err(|_| fmt::Error)?)
    }
}

#[derive(Clone, Debug)]
struct Lines {
    writer: Writer,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The formatter writes each event with one call.
impl Write for &Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.writer.write(1, one_line(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Exactly one line, whatever stands in the event. In JSON a control character can only stand inside a string, where
/// `\u00xx` is its escape, so one form serves both formats.
fn one_line(event: &[u8]) -> Vec<u8> {
    let event = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = Vec::with_capacity(event.len() + 1);
    for character in String::from_utf8_lossy(event).chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
        } else {
            line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl Write for Collected {
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(one_line(event));
            Ok(event.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(level: LogLevel, json: bool) -> Log {
        let format = if json { LogFormat::Json } else { LogFormat::Text };
        Log { level, format, access: crate::config::model::AccessTarget::Off }
    }

    #[test]
    fn level_and_format_change_while_the_log_is_in_use() {
        let collected = Collected::default();
        let sink = collected.clone();
        let (subscriber, switches) = subscriber(&log(LogLevel::Warn, false), move || sink.clone());
        tracing::subscriber::with_default(subscriber, || {
            let say = |word: &str| tracing::info!("{word}");
            say("first");
            switches.set(&log(LogLevel::Info, true));
            say("second");
            switches.set(&log(LogLevel::Error, true));
            say("third");
            switches.set_level(LogLevel::Error);
            say("not heard");
            assert_eq!(switches.levels(), Levels { now: LogLevel::Error, configured: LogLevel::Error });
            switches.set(&log(LogLevel::Trace, false));
            switches.set_level(LogLevel::Info);
            assert_eq!(switches.levels(), Levels { now: LogLevel::Info, configured: LogLevel::Trace });
            say("fourth");
        });
        let text = String::from_utf8(collected.0.lock().expect("no panic").clone()).expect("UTF-8");
        let lines: Vec<_> = text.lines().collect();
        let [json, plain] = lines.as_slice() else { panic!("{text}") };
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(json["message"], "second");
        assert!(plain.ends_with("fourth") && serde_json::from_str::<serde_json::Value>(plain).is_err(), "{plain}");
    }

    #[test]
    fn what_the_resolver_says_of_every_datagram_is_heard_only_by_those_who_look_into_it() {
        for (level, heard) in [(LogLevel::Info, false), (LogLevel::Debug, true)] {
            let collected = Collected::default();
            let sink = collected.clone();
            let (subscriber, _switches) = subscriber(&log(level, true), move || sink.clone());
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "hickory_net::udp::udp_client_stream", "ignoring response");
                tracing::warn!("ours");
            });
            let text = String::from_utf8(collected.0.lock().expect("no panic").clone()).expect("UTF-8");
            assert_eq!((text.contains("ignoring response"), text.contains("ours")), (heard, true), "{text}");
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_a_peer_put_into_it() {
        for json in [true, false] {
            let collected = Collected::default();
            let sink = collected.clone();
            let (subscriber, _switches) = subscriber(&log(LogLevel::Info, json), move || sink.clone());
            tracing::subscriber::with_default(subscriber, || {
                let nasty = "a\r\nFAKE \u{1b}[31m \u{9b}2J \u{2028} \" \\ \u{7f}";
                tracing::info!(nasty, shown = %nasty, "said {nasty}");
                tracing::debug!("below the level");
            });
            let text = String::from_utf8(collected.0.lock().expect("no panic").clone()).expect("UTF-8");
            let line = text.strip_suffix('\n').expect("a line end");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.contains("FAKE") && line.contains("20"), "{line}");
            if json {
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(value["level"], "INFO");
                assert!(value["timestamp"].as_str().is_some_and(|stamp| stamp.ends_with('Z') && stamp.len() == 24));
            }
        }
    }
}
