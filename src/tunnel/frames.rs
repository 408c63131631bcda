//! What a tunnel knows of its frames: a tracker for each way, which Close frames wait for their place, who said what.
//!
//! A [`Lane`] is one way's share of it, lent to that way's `Direction` for a turn: every byte that is read passes
//! [`Lane::pass`], and frames of the gateway's own come from here. One box per tunnel, none where frames are opaque.
//! When a Close is due is decided by the splice (see `closing`). RFC 6455 5.4, 5.5.1, 7.1.

use std::sync::Arc;

use super::closing::{Closing, STEP};
use super::pace::Ahead;
use super::probes::Probes;
use super::random::random;
use super::{CloseOrder, FrameRecord, Way};
use crate::clock;
use crate::proto::frame::{
    ControlFrame, End, Kind, MAX_CONTROL_FRAME, NoInjection, Pong, Rules, Sender, Tracker, Until, Verdict, Violation,
    Watch,
};
use crate::telemetry::end::Side;
use crate::telemetry::metrics::TunnelCells;

/// Both ways' frames.
#[derive(Debug)]
pub(super) struct Frames {
    rules: Rules,
    up: Watched,
    down: Watched,
    notes: Notes,
    /// How far the gateway itself is with ending the tunnel.
    pub closing: Closing,
    /// Only where the route pings.
    pub probes: Option<Box<Probes>>,
}

/// One way's.
#[derive(Debug)]
struct Watched {
    tracker: Tracker,
    /// The code of a Close of ours that waits for a place between two frames.
    wanted: Option<u16>,
    /// The sender's own Close has come.
    close_came: bool,
    /// A ping of ours goes out next, if this is a place for it.
    ping: bool,
}

/// What is told at the end.
#[derive(Debug, Default)]
struct Notes {
    /// The first Close: its code, and the way that it went.
    close: Option<(Option<u16>, Closer)>,
    violation: Option<(Violation, Way)>,
    /// Whose words a Close of ours has, if not the gateway's own.
    order: Option<Arc<CloseOrder>>,
}

/// Who said the first Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closer {
    Peer(Way),
    Gateway,
}

impl Frames {
    pub fn new(rules: Rules) -> Box<Self> {
        let watched = |sender| Watched { tracker: Tracker::new(sender), wanted: None, close_came: false, ping: false };
        Box::new(Self {
            rules,
            up: watched(Sender::Client),
            down: watched(Sender::Server),
            notes: Notes::default(),
            closing: Closing::Open,
            probes: None,
        })
    }

    /// `sink_listens`: the other end has not ended its own side. `cells`: where messages and round trips are counted.
    pub fn lane<'a>(&'a mut self, way: Way, sink_listens: bool, cells: &'a TunnelCells) -> Lane<'a> {
        let watched = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let probes = self.probes.as_deref_mut();
        let (allowed, counted) = (u64::MAX, 0);
        Lane { way, rules: &self.rules, watched, notes: &mut self.notes, probes, cells, sink_listens, allowed, counted }
    }

    fn watched(&self, way: Way) -> &Watched {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// Asks for a Close that way, as soon as a place between two frames is there.
    pub fn want_close(&mut self, way: Way, code: u16) {
        let watched = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        if !watched.tracker.close_passed() {
            watched.wanted = Some(code);
        }
    }

    /// A Close with this order's code has its reason.
    pub fn take_words(&mut self, order: &Arc<CloseOrder>) {
        self.notes.order = Some(order.clone());
    }

    pub fn want_ping(&mut self, way: Way) {
        match way {
            Way::Up => self.up.ping = true,
            Way::Down => self.down.ping = true,
        }
    }

    pub fn wants_close(&self, way: Way) -> bool {
        self.watched(way).wanted.is_some()
    }

    /// Whether the sender of that way has said Close.
    pub fn close_came(&self, way: Way) -> bool {
        self.watched(way).close_came
    }

    /// Whether a Close has gone on that way, the sender's or ours.
    pub fn close_passed(&self, way: Way) -> bool {
        self.watched(way).tracker.close_passed()
    }

    /// Whether what has gone on that way ends between two frames; behind a Close nothing does go on.
    pub fn is_whole(&self, way: Way) -> bool {
        let tracker = &self.watched(way).tracker;
        tracker.close_passed() || tracker.at_boundary()
    }

    /// Begins to end the tunnel for a violation that has been found, unless an end has begun.
    pub fn refuse(&mut self) -> Option<(Violation, Way)> {
        let (violation, offender) = self.notes.violation.filter(|_| self.closing == Closing::Open)?;
        let (code, until) = (violation.close_code(), clock::now() + STEP);
        self.closing = Closing::Violated { offender, code, until };
        if violation.is_rate() {
            // The other side has nothing to say to it.
            self.want_close(offender.other(), code);
            self.closing = Closing::Parting { answers: true, until };
        }
        Some((violation, offender))
    }

    pub fn first_close(&self) -> Option<(Option<u16>, Closer)> {
        self.notes.close
    }

    pub fn record(&self) -> FrameRecord {
        FrameRecord {
            messages_up: self.messages(Way::Up),
            messages_down: self.messages(Way::Down),
            closed_by: self.notes.close.map(|(_, closer)| match closer {
                Closer::Peer(Way::Up) => Side::Downstream,
                Closer::Peer(Way::Down) => Side::Upstream,
                Closer::Gateway => Side::Gateway,
            }),
            close_code: self.close_code(),
            violation: self.notes.violation.map(|(violation, _)| violation),
            round_trip: self.probes.as_ref().and_then(|probes| probes.round_trip),
        }
    }

    /// Of the first Close; of an order's, what the client is told.
    fn close_code(&self) -> Option<u16> {
        match (self.notes.close?, &self.notes.order) {
            ((_, Closer::Gateway), Some(order)) => Some(order.code),
            ((code, _), _) => code,
        }
    }

    /// Messages that have gone on whole.
    fn messages(&self, way: Way) -> u64 {
        let tracker = &self.watched(way).tracker;
        tracker.messages(Kind::Text) + tracker.messages(Kind::Binary)
    }
}

/// One way's share of [`Frames`].
#[derive(Debug)]
pub(super) struct Lane<'a> {
    way: Way,
    rules: &'a Rules,
    watched: &'a mut Watched,
    notes: &'a mut Notes,
    probes: Option<&'a mut Probes>,
    cells: &'a TunnelCells,
    sink_listens: bool,
    /// Frames that may still count before one is too many.
    pub allowed: u64,
    /// Those that have.
    pub counted: u64,
}

impl Lane<'_> {
    /// What is ahead of the source, for whoever reads no more than he must; `None`: it is thrown away.
    pub fn ahead(&self) -> Option<Ahead> {
        let tracker = &self.watched.tracker;
        let first = Some(tracker.next_needs());
        (!tracker.is_closed()).then(|| Ahead { payload: tracker.payload_left(), first })
    }

    /// The sender has been too fast: what it has begun goes on, then the sink is told.
    pub fn exceed(&mut self) {
        if self.notes.violation.is_none() && !self.watched.tracker.is_closed() {
            self.notes.violation = Some((Violation::TooManyBytes, self.way));
            self.watched.wanted.get_or_insert(Violation::TooManyBytes.onward_code());
        }
    }

    /// Bytes that belong in front of the next ones.
    pub fn withheld(&self) -> usize {
        self.watched.tracker.withheld()
    }

    /// Judges `buffer[..filled]`, whose first [`Self::withheld`] bytes are filled in here. What goes on, with a Close of
    /// ours that found its place, is then `buffer[..n]`; returns `n`.
    ///
    /// # Panics
    /// If the buffer has no room for a control frame behind `filled`.
    pub fn pass(&mut self, buffer: &mut [u8], filled: usize) -> usize {
        assert!(filled + MAX_CONTROL_FRAME <= buffer.len(), "room for a control frame");
        if let Some(probes) = &mut self.probes {
            probes.heard(self.way);
        }
        let (mut at, mut kept, mut close) = (0, 0, None);
        while at < filled {
            let until = if self.watched.wanted.is_some() { Until::Boundary } else { Until::Input };
            let rules = self.rules;
            let (tracker, mut ear) = self.listen();
            let step = tracker.feed(rules, &mut buffer[at..filled], until, &mut ear);
            if at != kept {
                // Something was swallowed in between.
                buffer.copy_within(at..at + step.forward, kept);
            }
            kept += step.forward;
            at += step.consumed;
            match step.end {
                Some(End::Violation(violation)) => {
                    self.notes.violation.get_or_insert((violation, self.way));
                    self.watched.wanted = Some(violation.onward_code());
                }
                // From here on nothing goes on, so the Close can be put behind what has.
                Some(End::Boundary) => close = self.take_close(),
                Some(End::Close) | None => {}
            }
        }
        if let Some(close) = close {
            buffer[kept..kept + close.len()].copy_from_slice(&close);
            kept += close.len();
        }
        kept
    }

    /// Payload that is due before the next header, and may go on without anybody looking at it.
    pub fn unseen(&self) -> u64 {
        if self.watched.tracker.is_closed() { 0 } else { self.watched.tracker.payload_left() }
    }

    /// That much of [`Self::unseen`] has gone on.
    pub fn carry(&mut self, bytes: u64) {
        if let Some(probes) = &mut self.probes {
            probes.heard(self.way);
        }
        let (tracker, mut ear) = self.listen();
        tracker.carry(bytes, &mut ear);
    }

    /// The tracker, and who hears what it finds.
    fn listen(&mut self) -> (&mut Tracker, Ear<'_>) {
        let Watched { tracker, close_came, .. } = &mut *self.watched;
        let ear = Ear {
            way: self.way,
            close_came,
            notes: self.notes,
            probes: self.probes.as_deref_mut(),
            cells: self.cells,
            allowed: self.allowed,
            counted: &mut self.counted,
        };
        (tracker, ear)
    }

    /// The Close that is wanted, if this is a place for it.
    pub fn take_close(&mut self) -> Option<ControlFrame> {
        let code = self.watched.wanted?;
        match self.watched.tracker.inject_close() {
            Ok(()) => {
                self.watched.wanted = None;
                self.notes.close.get_or_insert((Some(code), Closer::Gateway));
                let order = self.notes.order.as_ref().filter(|order| order.code == code);
                let reason = order.map_or_else(|| usual_reason(code), |order| &order.reason);
                Some(ControlFrame::close(code, reason, mask(self.way)))
            }
            Err(NoInjection::MidFrame) => None,
            Err(NoInjection::Closed) => {
                self.watched.wanted = None;
                None
            }
        }
    }

    /// The ping that is wanted, if this is a place for it; else it is forgotten.
    pub fn take_ping(&mut self) -> Option<ControlFrame> {
        if !std::mem::take(&mut self.watched.ping) || self.watched.tracker.may_inject().is_err() {
            return None;
        }
        let payload = self.probes.as_mut()?.ask(self.way);
        ControlFrame::ping(&payload, mask(self.way)).ok()
    }

    /// The source is gone: what the sink is told that has heard no Close. That is what it was about to hear, or what it
    /// has done wrong; a client that could still answer hears `code`; a server hears nothing, the end says it.
    pub fn source_gone(&mut self, code: u16) -> Option<ControlFrame> {
        let fault = self.notes.violation.map(|(violation, offender)| match offender == self.way {
            true => violation.onward_code(),
            false => violation.close_code(),
        });
        let gone = (self.way == Way::Down && self.sink_listens).then_some(code);
        self.watched.wanted = self.watched.wanted.or(fault).or(gone);
        self.take_close()
    }
}

/// Listens to one way.
struct Ear<'a> {
    way: Way,
    close_came: &'a mut bool,
    notes: &'a mut Notes,
    probes: Option<&'a mut Probes>,
    cells: &'a TunnelCells,
    allowed: u64,
    counted: &'a mut u64,
}

impl Watch for Ear<'_> {
    fn admit(&mut self) -> bool {
        if *self.counted >= self.allowed {
            return false;
        }
        *self.counted += 1;
        true
    }

    fn message(&mut self, _: Kind, size: u64) {
        self.cells.note_message(self.way.counted(), size);
    }

    fn ping(&mut self, payload: &[u8]) {
        if let Some(probes) = &mut self.probes {
            probes.passed(self.way, payload);
        }
    }

    fn pong(&mut self, payload: &[u8]) -> Verdict {
        match self.probes.as_mut().map(|probes| probes.answered(self.way, payload)) {
            Some(Pong::Ours(took)) => {
                took.into_iter().for_each(|took| self.cells.note_round_trip(self.way.counted(), took));
                Verdict::Swallow
            }
            Some(Pong::Foreign) | None => Verdict::Pass,
        }
    }

    fn close(&mut self, code: Option<u16>, _: &[u8]) {
        *self.close_came = true;
        self.notes.close.get_or_insert((code, Closer::Peer(self.way)));
    }
}

fn usual_reason(code: u16) -> &'static str {
    match code {
        1001 => "going away",
        1002 => "protocol error",
        1008 => "rate exceeded",
        1009 => "too big",
        1011 => "upstream gone",
        _ => "",
    }
}

/// Frames to a server have a mask that nobody can foresee (RFC 6455 10.3).
fn mask(way: Way) -> Option<u32> {
    (way == Way::Up).then(|| u32::from_ne_bytes(random()))
}
