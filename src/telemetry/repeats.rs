//! Keeps the event log from being flooded by peers and by servers that fail: what is said again and again is counted, and
//! the count is said.
//!
//! Events of one place in the code about one thing (a server, a client, a listener) are alike. Of those that are alike
//! [`FEW`] are logged in [`INTERVAL`], and of one place in the code, whatever they are about, [`MANY`]. The rest is summed
//! up in one line when the interval ends. What is kept has a bound: where there is too much to tell apart, the place in
//! the code is all that is told. What was asked for by the operator (a reload's
//! problems, an upgrade, `trace`) passes as it is.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::{self, Instant};

/// How long what is alike is counted together.
const INTERVAL: Duration = Duration::from_secs(10);

/// Events in that time that are alike and are said one by one.
const FEW: u64 = 10;

/// The same, of one place in the code, whatever they are about.
const MANY: u64 = 100;

/// Kinds of events that are told apart at once.
const KINDS: usize = 1024;

/// Bytes of a message that its sum repeats.
const LONGEST: usize = 200;

/// Fields that say what an event is about.
const ABOUT: &[&str] =
    &["upstream", "server", "listener", "client", "peer", "name", "route", "thread", "task", "worker", "log"];

/// Modules whose events are said as they come: an operator has asked for something, and waits for each of them.
/// What a snapshot says belongs to a reload.
const OPERATOR: &[&str] = &["reload", "snapshot", "gateway", "handover", "admin::api"];

/// Sums are said from here.
const OURS: &str = module_path!();

fn is_operators(target: &str) -> bool {
    let module = target.strip_prefix(concat!(env!("CARGO_CRATE_NAME"), "::")).unwrap_or_default();
    OPERATOR.iter().any(|of| module.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

/// What has been said lately. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A lock for a moment, per event that is about to be written.
    said: Mutex<Said>,
    has_unsaid: Notify,
}

#[derive(Debug, Default)]
struct Said {
    kinds: HashMap<Kind, Count>,
    hasher: RandomState,
}

/// What makes events alike; `about` is 0 for all of one place in the code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    about: u64,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    said: u64,
    unsaid: u64,
    /// Of the first that was not said.
    level: Level,
    message: String,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { since: now, said: 0, unsaid: 0, level: Level::INFO, message: String::new() }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.since + INTERVAL
    }
}

/// What is to be said of events that were not.
#[derive(Debug, PartialEq, Eq)]
struct Sum {
    level: Level,
    message: String,
    unsaid: u64,
}

impl Repeats {
    /// Says the sums, whenever an interval has ended in which something went unsaid. Never completes.
    pub async fn run(self) {
        loop {
            self.shared.has_unsaid.notified().await;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if !self.say_sums(false) {
                    break;
                }
            }
        }
    }

    /// Says the sums of intervals that are over, or of all. Whether anything is still unsaid.
    pub(super) fn say_sums(&self, all: bool) -> bool {
        let (sums, is_waiting) =
            self.shared.said.lock().unwrap_or_else(PoisonError::into_inner).sums(clock::now(), all);
        for Sum { level, message, unsaid } in sums {
            let seconds = INTERVAL.as_secs();
            match level {
                Level::ERROR => tracing::error!(unsaid, "{message} (and {unsaid} more in {seconds} s)"),
                Level::WARN => tracing::warn!(unsaid, "{message} (and {unsaid} more in {seconds} s)"),
                _ => tracing::info!(unsaid, "{message} (and {unsaid} more in {seconds} s)"),
            }
        }
        is_waiting
    }

    /// Whether this one is said.
    fn admit(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let target = metadata.target();
        if *metadata.level() == Level::TRACE || is_operators(target) || target == OURS {
            return true;
        }
        let said = &mut *self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut about = About(said.hasher.build_hasher());
        event.record(&mut about);
        let kind = Kind { place: metadata.callsite(), about: about.0.finish().max(1) };
        let is_said = said.admit(kind, clock::now(), || {
            let mut message = Message::default();
            event.record(&mut message);
            (*metadata.level(), message.0)
        });
        if !is_said {
            self.shared.has_unsaid.notify_one();
        }
        is_said
    }
}

impl Said {
    fn admit(&mut self, kind: Kind, now: Instant, tell: impl Fn() -> (Level, String)) -> bool {
        let place = Kind { place: kind.place.clone(), about: 0 };
        // Whoever is already beyond its own measure does not use up the others'.
        self.count(kind, now, FEW, &tell).unwrap_or(true) && self.count(place, now, MANY, &tell).unwrap_or(false)
    }

    /// Whether one more of this kind is within `most`; `None` where there is no room to count it.
    fn count(&mut self, kind: Kind, now: Instant, most: u64, tell: impl Fn() -> (Level, String)) -> Option<bool> {
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS {
            self.kinds.retain(|_, count| !count.is_over(now) || count.unsaid > 0);
            if self.kinds.len() >= KINDS && kind.about != 0 {
                return None;
            }
        }
        // Places in the code are few: those fit in any case.
        let count = self.kinds.entry(kind).or_insert_with(|| Count::new(now));
        if count.is_over(now) && count.unsaid == 0 {
            *count = Count::new(now);
        }
        if count.said < most {
            count.said += 1;
            return Some(true);
        }
        if count.unsaid == 0 {
            (count.level, count.message) = tell();
        }
        count.unsaid += 1;
        Some(false)
    }

    fn sums(&mut self, now: Instant, all: bool) -> (Vec<Sum>, bool) {
        let mut sums = Vec::new();
        self.kinds.retain(|_, count| {
            let is_over = all || count.is_over(now);
            if is_over && count.unsaid > 0 {
                let message = std::mem::take(&mut count.message);
                sums.push(Sum { level: count.level, message, unsaid: count.unsaid });
            }
            !is_over
        });
        (sums, self.kinds.values().any(|count| count.unsaid > 0))
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admit(event)
    }
}

/// What an event is about, as a number.
struct About<H>(H);

impl<H: Hasher> About<H> {
    fn note(&mut self, field: &Field, value: &str) {
        if ABOUT.contains(&field.name()) {
            self.0.write(field.name().as_bytes());
            self.0.write(value.as_bytes());
            self.0.write_u8(0xff);
        }
    }
}

impl<H: Hasher> Visit for About<H> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if ABOUT.contains(&field.name()) {
            self.note(field, &format!("{value:?}"));
        }
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
            self.0.truncate(self.0.floor_char_boundary(LONGEST));
        }
    }
}

#[cfg(test)]
#[path = "repeats_tests.rs"]
mod tests;
