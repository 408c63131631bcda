//! The event log: what the gateway has to say that belongs to no single request, through `tracing`.
//!
//! One event is one line on stderr: text on a terminal, JSON elsewhere. Control characters that slipped into a field
//! are escaped, whatever the formatter does, so that a peer cannot write lines or colours of its own. Lines go through
//! a writer thread; the [`EventLog`] that [`start`] returns must be held until the end, since it flushes on drop. Levels and
//! format may change meanwhile; what is said again and again is summed up (`repeats.rs`).

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer as FieldWriter, format};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

use super::journal;
use super::sink::Sink;
use super::text::Stamp;
use super::writer::{Lost, LostLines, Writer};
use crate::clock;
use crate::config::model::{Log, LogFormat};
use crate::lifecycle::{self, spawn};

pub use super::levels::{BadLevel, Levels};
pub use super::repeats::Repeats;

/// How long the end of the process waits for a stderr that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the event log alive; flushes it on drop.
#[derive(Debug)]
#[must_use = "dropping it flushes the log; hold it until the process ends"]
pub struct EventLog {
    lines: Lines,
    switches: Switches,
    repeats: Repeats,
}

impl EventLog {
    /// Lines that were dropped since the start of the process.
    pub fn lost(&self) -> LostLines {
        self.lines.writer.lost()
    }

    /// From now on with this level and format: what was changed meanwhile is gone.
    pub fn follow(&self, log: &Log) {
        self.switches.set(log);
    }

    /// For whoever may change the levels meanwhile.
    pub fn switches(&self) -> Switches {
        self.switches.clone()
    }

    /// Sums up what went unsaid, as long as somebody runs it.
    pub fn repeats(&self) -> Repeats {
        self.repeats.clone()
    }
}

/// Says on stdout that these addresses listen: a line for each, such as `listening on https://127.0.0.1:8443 (public)`.
/// `admin`: that of the admin listener, `http://127.0.0.1:9900`, where it has just been opened; its line begins with
/// another word, so that nobody takes it for one of the others.
/// Whoever reads that is not waited for for long; where too much is unread, it is left out.
pub fn announce(addresses: &[String], admin: Option<&str>) {
    let admin = admin.map(|address| format!("admin listening on {address}\n"));
    let lines = admin.into_iter().chain(addresses.iter().map(|address| format!("listening on {address}\n")));
    ANNOUNCER.say(lines.collect());
}

static ANNOUNCER: Announcer = Announcer { waiting: Mutex::new(None), written: Condvar::new() };

/// Text that is not read on stdout yet, which is kept for it up to this size in bytes.
const UNREAD: usize = 1 << 20;

/// How long it may take until all is said: who waits for the line then finds it before what follows.
const SAID: Duration = Duration::from_secs(1);

/// Writes to stdout on a thread of its own, for as long as there is something to write.
struct Announcer {
    /// `None`: there is no thread.
    waiting: Mutex<Option<String>>,
    /// The thread has ended.
    written: Condvar,
}

impl Announcer {
    fn say(&'static self, text: String) {
        let mut waiting = self.waiting();
        match &mut *waiting {
            Some(unread) if unread.len() + text.len() <= UNREAD => unread.push_str(&text),
            Some(_) => tracing::warn!("nobody reads stdout, which is not told where the gateway listens"),
            None => {
                *waiting = Some(text);
                drop(waiting);
                if let Err(error) = lifecycle::thread("announcer", || self.write()) {
                    self.waiting().take();
                    tracing::warn!(%error, "there is no thread that tells stdout where the gateway listens");
                }
                waiting = self.waiting();
            }
        }
        let _ = self.written.wait_timeout_while(waiting, SAID, |waiting| waiting.is_some());
    }

    fn write(&self) {
        loop {
            let mut waiting = self.waiting();
            let text = match &mut *waiting {
                Some(text) if !text.is_empty() => std::mem::take(text),
                _ => {
                    *waiting = None;
                    return self.written.notify_all();
                }
            };
            drop(waiting);
            let mut out = io::stdout().lock();
            // Whoever started us may not care for our output.
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may change while the log is in use. Clones are the same switches.
#[derive(Clone, Debug)]
pub struct Switches {
    filter: reload::Handle<Targets, Registry>,
    levels: Arc<Mutex<Chosen>>,
    json: Arc<AtomicBool>,
}

/// How much is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// At this moment.
    pub now: Levels,
    /// By the configuration.
    pub configured: Levels,
}

impl Switches {
    /// Other levels, until the next reload.
    pub fn put(&self, levels: Levels) {
        self.change(|chosen| chosen.now = levels);
    }

    pub fn levels(&self) -> Chosen {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, log: &Log) {
        let levels = Levels::all(log.level);
        self.change(|chosen| *chosen = Chosen { now: levels.clone(), configured: levels });
        self.json.store(is_json(log.format), Ordering::Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Chosen)) {
        // Held meanwhile, so that what is said of the levels is what they are.
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        // Fails only where the subscriber is gone.
        let _ = self.filter.reload(levels.now.targets());
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.repeats.say_sums(true);
        self.lines.writer.flush(PATIENCE);
    }
}

/// Sets the process's subscriber and a panic hook that logs. Call once.
///
/// # Errors
/// There is a subscriber already, or no thread to be had.
pub fn start(log: &Log) -> io::Result<EventLog> {
    let lines =
        Lines { writer: Writer::start("event-log", Sink::Stderr, Lost::default())?, is_journal: journal::is_stderr() };
    let (subscriber, switches, repeats) = subscriber(log, lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let trace = std::backtrace::Backtrace::capture();
        let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| trace.to_string());
        tracing::error!(place, panic = spawn::message(panic.payload()), trace, "panicked");
    }));
    Ok(EventLog { lines, switches, repeats })
}

fn subscriber<W>(log: &Log, writer: W) -> (Box<dyn tracing::Subscriber + Send + Sync>, Switches, Repeats)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let levels = Levels::all(log.level);
    let (layer, filter) = reload::Layer::new(levels.targets());
    let levels = Arc::new(Mutex::new(Chosen { now: levels.clone(), configured: levels }));
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
    let repeats = Repeats::default();
    (Box::new(tracing_subscriber::registry().with(layer).with(repeats.clone()).with(lines)), switches, repeats)
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
    /// stderr is the journal's, which takes an event's priority from the front of its line.
    is_journal: bool,
}

/// Takes one event.
struct Line<'a> {
    lines: &'a Lines,
    level: Level,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { lines: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Line { lines: self, level: *event.level() }
    }
}

/// The formatter writes each event with one call.
impl Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(if self.lines.is_journal { journal::prefix(self.level) } else { "" }, event);
        self.lines.writer.write(1, line);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Exactly one line, whatever stands in the event. In JSON a control character can only stand inside a string, where
/// `\u00xx` is its escape, so one form serves both formats.
fn one_line(prefix: &str, event: &[u8]) -> Vec<u8> {
    let event = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = Vec::with_capacity(prefix.len() + event.len() + 1);
    line.extend_from_slice(prefix.as_bytes());
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
    use super::*;
    use crate::config::model::LogLevel;
    use crate::config::report::Spot;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl Write for Collected {
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(one_line("", event));
            Ok(event.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(level: LogLevel, json: bool) -> Log {
        let format = if json { LogFormat::Json } else { LogFormat::Text };
        Log {
            level,
            format,
            access: crate::config::model::AccessTarget::Off,
            access_spot: Spot::default(),
            refusals_per_second: None,
            otlp: None,
        }
    }

    #[test]
    fn level_and_format_change_while_the_log_is_in_use() {
        let collected = Collected::default();
        let sink = collected.clone();
        let (subscriber, switches, _repeats) = subscriber(&log(LogLevel::Warn, false), move || sink.clone());
        tracing::subscriber::with_default(subscriber, || {
            let say = |word: &str| tracing::info!("{word}");
            say("first");
            switches.set(&log(LogLevel::Info, true));
            say("second");
            switches.set(&log(LogLevel::Error, true));
            say("third");
            let change = |text: &str| switches.put(switches.levels().now.changed(text).expect("a level"));
            change("upstream=info");
            assert_eq!(switches.levels().now.to_string(), "error,upstream=info");
            say("not heard");
            switches.set(&log(LogLevel::Error, false));
            assert_eq!(switches.levels().now, switches.levels().configured);
            say("not after a reload");
            change("telemetry=info");
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
            let (subscriber, _switches, _repeats) = subscriber(&log(level, true), move || sink.clone());
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
            let (subscriber, _switches, _repeats) = subscriber(&log(LogLevel::Info, json), move || sink.clone());
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
