//! One side of a simulated tunnel: the peer, and the wire between it and the `socket` that the core holds.
//!
//! What the peer does is here; when it does so is decided by the `world`.

mod socket;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Waker;

use super::chance::Chance;
use super::traffic::{Tongue, Unit, What};
pub(super) use socket::Socket;

/// How a peer ends what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    /// TLS: TCP's end without close_notify.
    Eof,
    Reset(ErrorKind),
}

/// How the core has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Well,
    Broken,
}

/// What kind of socket and peer this is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Bytes per call at most; random below that.
    pub piece: usize,
    /// One call in so many waits for no reason; 0: none.
    pub waits: u64,
    /// What it takes reaches the peer only when flushed, like a TLS record.
    pub buffers: bool,
    /// Once this much has been taken, nothing more is.
    pub stalls_at: usize,
    /// At the end of its queue, or after so many bytes; `None`: says nothing more and stays.
    pub end: Option<End>,
    pub ends_at: usize,
    /// With its end the peer is gone altogether: writing finds this.
    pub gone: Option<ErrorKind>,
    /// Percent of pings.
    pub pongs: usize,
    /// Answers a Close with a Close, and hangs up behind the second one.
    pub closes: bool,
    pub hangs_up: bool,
}

/// A unit that the peer has begun to send.
#[derive(Debug)]
pub(super) struct Placed {
    pub start: usize,
    /// Of the whole unit, sent or not.
    pub length: usize,
    pub what: What,
}

/// Both ends of the wire between the core and one peer.
#[derive(Debug)]
pub(super) struct Side {
    pub tongue: Tongue,
    pub habits: Habits,
    pub chance: Chance,
    /// What the peer has still to say.
    pub queue: VecDeque<Unit>,
    /// Goes first, but between frames.
    pub answers: VecDeque<Unit>,
    sending: Option<(Vec<u8>, usize)>,
    pub units: Vec<Placed>,
    /// All that the peer has sent, and how much of it the core has read.
    pub sent: Vec<u8>,
    pub read: usize,
    pub end: Option<End>,
    pub found: Option<Found>,
    /// The number of the event at which it was found, and of that at which its other half was shut.
    pub found_at: u64,
    pub shut_at: u64,
    read_waker: Option<Waker>,
    /// What the core has handed over, and how much of it the peer has.
    pub got: Vec<u8>,
    pub flushed: usize,
    /// Bytes that are taken without waiting.
    pub room: usize,
    write_waker: Option<Waker>,
    flush_waker: Option<Waker>,
    /// What the next write finds.
    write_error: Option<ErrorKind>,
    /// What a write has found.
    pub lost: Option<ErrorKind>,
    /// It was found when nothing was written, but all was to be brought to its end.
    pub lost_at_end: bool,
    /// The last write had to wait.
    pub has_refused: bool,
    pub is_shutting: bool,
    pub is_shut: bool,
    pub is_aborted: bool,
    pub is_dropped: bool,
    /// Somebody waits for no reason and must be woken.
    pub owes_wake: bool,
    /// Counts ends and failures that the core has found or brought about.
    pub turns: u64,
    /// Counts wake-ups that lead to nothing.
    pub idle_wakes: u64,
    /// A Close or worse has been begun.
    has_said_all: bool,
    log: Log,
}

/// Where events are told, if anybody listens.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    is_on: bool,
    step: Rc<Cell<u64>>,
}

impl Log {
    pub fn new(is_on: bool) -> Self {
        Self { is_on, step: Rc::default() }
    }

    pub fn tell(&self, event: impl FnOnce() -> String) {
        self.step.set(self.step.get() + 1);
        if self.is_on {
            println!("{:6} {}", self.step.get(), event());
        }
    }

    /// The number of the last event.
    pub fn step(&self) -> u64 {
        self.step.get()
    }
}

impl Side {
    pub fn new(chance: Chance, tongue: Tongue, habits: Habits, queue: Vec<Unit>, log: Log) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            tongue,
            habits,
            chance,
            queue: queue.into(),
            answers: VecDeque::new(),
            sending: None,
            units: Vec::new(),
            sent: Vec::new(),
            read: 0,
            end: None,
            found: None,
            found_at: 0,
            shut_at: 0,
            read_waker: None,
            got: Vec::new(),
            flushed: 0,
            room: 0,
            write_waker: None,
            flush_waker: None,
            write_error: None,
            lost: None,
            lost_at_end: false,
            has_refused: false,
            is_shutting: false,
            is_shut: false,
            is_aborted: false,
            is_dropped: false,
            owes_wake: false,
            turns: 0,
            idle_wakes: 0,
            has_said_all: false,
            log,
        }))
    }

    pub fn name(&self) -> &'static str {
        if self.tongue.client { "client" } else { "server" }
    }

    fn tell(&self, event: impl FnOnce() -> String) {
        self.log.tell(|| format!("{} {}", self.name(), event()));
    }

    pub fn unread(&self) -> usize {
        self.sent.len() - self.read
    }

    /// Input or an end that the core has not seen.
    pub fn has_news(&self) -> bool {
        self.found.is_none() && (self.unread() > 0 || self.end.is_some())
    }

    pub fn is_read_awaited(&self) -> bool {
        self.read_waker.is_some()
    }

    pub fn is_write_awaited(&self) -> bool {
        self.write_waker.is_some() || self.flush_waker.is_some()
    }

    /// Nothing has been found that keeps the core from handing over bytes.
    pub fn is_healthy(&self) -> bool {
        self.lost.is_none() && self.found != Some(Found::Broken) && self.room > 0
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.read_waker.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        for waker in [self.write_waker.take(), self.flush_waker.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Whether the peer has something to say, or to end.
    pub fn may_send(&self) -> bool {
        let more = self.sending.is_some() || !self.queue.is_empty() || !self.answers.is_empty();
        self.end.is_none() && (more || self.habits.end.is_some())
    }

    /// Sends up to `most` bytes, or its end where it has nothing more to say.
    pub fn send(&mut self, most: usize) {
        let most = most.min(self.habits.ends_at.saturating_sub(self.sent.len()));
        let before = self.sent.len();
        while self.sent.len() - before < most {
            let (bytes, at) = match self.sending.take() {
                Some(sending) => sending,
                None => match self.answers.pop_front().or_else(|| self.queue.pop_front()) {
                    Some(unit) => {
                        let what = if self.has_said_all { What::Noise } else { unit.what };
                        self.has_said_all |= matches!(what, What::Close(_) | What::Bad(_));
                        self.units.push(Placed { start: self.sent.len(), length: unit.bytes.len(), what });
                        (unit.bytes, 0)
                    }
                    None => break,
                },
            };
            let until = bytes.len().min(at + most - (self.sent.len() - before));
            self.sent.extend_from_slice(&bytes[at..until]);
            if until < bytes.len() {
                self.sending = Some((bytes, until));
            }
        }
        let sent = self.sent.len() - before;
        if sent > 0 {
            self.tell(|| format!("sends {sent} bytes: {}", self.sent.len()));
        } else if let (Some(end), None) = (self.habits.end, self.end) {
            self.tell(|| format!("ends: {end:?}, writes find {:?}", self.habits.gone));
            self.end = Some(end);
            self.queue.clear();
            self.write_error = match end {
                End::Reset(kind) => Some(self.habits.gone.unwrap_or(kind)),
                _ => self.habits.gone,
            };
            self.wake_writer();
        }
        self.wake_reader();
    }

    /// Sends bytes that come before the tunnel is there.
    pub fn send_early(&mut self, most: usize) -> Vec<u8> {
        if most > 0 && !self.queue.is_empty() && self.habits.ends_at > 0 {
            self.send(most);
        }
        self.read = self.sent.len();
        self.sent.clone()
    }

    /// The peer hears a ping.
    pub fn hear_ping(&mut self, payload: &[u8]) {
        if self.chance.below(100) >= self.habits.pongs {
            return;
        }
        if self.chance.one_in(3) {
            // It may answer the latest only.
            self.answers.retain(|unit| !matches!(unit.what, What::Pong(_)));
        }
        let pong = self.tongue.pong(&mut self.chance, payload.to_vec());
        self.answers.push_back(pong);
    }

    /// The peer hears a Close: it answers, now or when it has said the rest, and leaves, or does not.
    pub fn hear_close(&mut self, code: Option<u16>) {
        if self.habits.closes && !self.has_said_all {
            let close = self.tongue.close(&mut self.chance, code);
            if self.chance.one_in(3) {
                self.queue.push_back(close);
            } else {
                self.queue.clear();
                self.answers.push_back(close);
            }
        }
        if self.habits.hangs_up && self.habits.end.is_none() {
            self.habits.end = Some(End::Fin);
        }
    }

    /// Takes more bytes.
    pub fn drain(&mut self, bytes: usize) {
        self.room = self.room.saturating_add(bytes).min(self.habits.stalls_at.saturating_sub(self.got.len()));
        if self.room > 0 {
            self.tell(|| format!("has room for {}", self.room));
            self.wake_writer();
        }
    }

    pub fn nudge(&mut self) {
        self.tell(|| "may go on".into());
        self.owes_wake = false;
        self.wake_reader();
        self.wake_writer();
    }
}

/// An error of writing that says no more than that nobody listens.
pub(super) fn is_mere_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}
