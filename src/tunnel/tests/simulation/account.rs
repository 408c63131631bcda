//! The account of one way: what the sink has got, frame by frame, against what the source has said.
//!
//! Shares nothing with the code under test: what the source has said is known from its generator, and headers that it
//! has not said are read by tungstenite.

use std::collections::VecDeque;
use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};

use super::plan::{ORDER_CODE, ORDER_REASON};
use super::side::Side;
use super::traffic::What;

/// Who said the Close that went this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    Theirs,
    Ours(u16),
}

/// What the sink's peer hears that it may have to answer.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    Ping(Vec<u8>),
    Close(Option<u16>),
}

#[derive(Debug, Default)]
pub(super) struct Account {
    /// Of what the sink has got, this much is accounted for: whole units, and frames of the gateway's.
    at: usize,
    /// The unit of the source's that comes next, and how much of it has come.
    unit: usize,
    within: usize,
    /// How far the sink's own units have been looked at.
    judged: usize,
    /// How many Closes have been read from the sink: each may change what rules the silence.
    pub closes_read: u64,
    pub closed: Option<Closed>,
    /// Payloads of the gateway's pings to the sink.
    pub pings: Vec<Vec<u8>>,
    pub ping_bytes: usize,
    /// The latest ping of the source's that the sink has got and not answered.
    open_ping: Option<Vec<u8>>,
    /// Messages that the sink has got whole.
    pub messages: u64,
    /// With the place in what it gets behind which the sink's peer has heard it.
    pub heard: VecDeque<(usize, Heard)>,
}

impl Account {
    /// What the sink itself has said since: answers to the pings that went this way.
    pub fn answers(&mut self, sink: &Side) {
        while let Some(unit) = sink.units.get(self.judged)
            && unit.start + unit.length <= sink.read
        {
            if let (What::Pong(payload), Some(open)) = (&unit.what, &self.open_ping)
                && payload == open
            {
                self.open_ping = None;
            }
            self.closes_read += u64::from(matches!(unit.what, What::Close(_)));
            self.judged += 1;
        }
    }

    /// Follows what the sink has got since. `pings`: of the gateway's to the source.
    pub fn follow(&mut self, source: &Side, sink: &Side, pings: &[Vec<u8>]) {
        if source.tongue.rules.is_none() {
            let until = sink.got.len();
            assert!(until <= source.read, "{}: got more than was read", sink.name());
            assert!(sink.got[self.at..] == source.sent[self.at..until], "{}: got other bytes", sink.name());
            self.at = until;
            return;
        }
        while self.at < sink.got.len() {
            assert!(self.closed.is_none(), "{}: got bytes behind a Close", sink.name());
            self.skip_answers(source, pings);
            if self.follow_source(source, sink) {
                continue;
            }
            if self.within > 0 || !self.follow_own(sink) {
                return;
            }
        }
    }

    /// Answers to the gateway's own pings do not go on.
    fn skip_answers(&mut self, source: &Side, pings: &[Vec<u8>]) {
        while let Some(What::Pong(payload)) = source.units.get(self.unit).map(|unit| &unit.what)
            && pings.contains(payload)
        {
            self.unit += 1;
        }
    }

    /// Whether the next unit is there, whole. If `within` is not zero afterwards, a part of it is.
    fn follow_source(&mut self, source: &Side, sink: &Side) -> bool {
        let rest = &sink.got[self.at..];
        let within = std::mem::take(&mut self.within);
        let Some(unit) = source.units.get(self.unit) else { return false };
        if matches!(unit.what, What::Bad(_) | What::Noise) || unit.start > source.read {
            return false;
        }
        let come = unit.length.min(source.read - unit.start);
        let both = rest.len().min(come);
        if rest[within..both] != source.sent[unit.start + within..unit.start + both] {
            return false;
        }
        if both < unit.length {
            // If there is more, it has not come from there.
            self.within = if rest.len() == both { both } else { 0 };
            return false;
        }
        self.at += unit.length;
        self.unit += 1;
        match &unit.what {
            What::Data { ends, .. } => self.messages += u64::from(*ends),
            What::Ping(payload) => {
                self.open_ping = Some(payload.clone());
                self.heard.push_back((self.at, Heard::Ping(payload.clone())));
            }
            What::Close(code) => {
                self.closed = Some(Closed::Theirs);
                self.heard.push_back((self.at, Heard::Close(*code)));
            }
            _ => {}
        }
        true
    }

    /// Whether a frame of the gateway's own is there, whole.
    fn follow_own(&mut self, sink: &Side) -> bool {
        let rest = &sink.got[self.at..];
        let mut cursor = Cursor::new(rest);
        let (header, length) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => {
                assert!(matches!(rest[0], 0x88 | 0x89), "{}: got what nobody said: {rest:02x?}", sink.name());
                return false;
            }
            Err(error) => panic!("{}: got what is no frame: {error}", sink.name()),
        };
        let is_sound = header.is_final && !header.rsv1 && !header.rsv2 && !header.rsv3 && length <= 125;
        let is_control = matches!(header.opcode, OpCode::Control(Control::Ping | Control::Close));
        assert!(is_sound && is_control, "{}: got what nobody said: {header:?}, {length} bytes", sink.name());
        assert_eq!(header.mask.is_some(), !sink.tongue.client, "{}: got the wrong mask", sink.name());
        let start = cursor.position() as usize;
        let Some(payload) = rest.get(start..start + length as usize) else { return false };
        let mask = header.mask.unwrap_or_default();
        let payload: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let size = start + payload.len();
        self.at += size;
        if header.opcode == OpCode::Control(Control::Ping) {
            assert_eq!(payload.len(), 8, "{}: got a ping of nobody's", sink.name());
            assert!(self.open_ping.is_none(), "{}: got a ping while another one is open", sink.name());
            self.pings.push(payload.clone());
            self.ping_bytes += size;
            self.heard.push_back((self.at, Heard::Ping(payload)));
        } else {
            let [a, b, reason @ ..] = &payload[..] else { panic!("{}: got a Close without code", sink.name()) };
            let code = u16::from_be_bytes([*a, *b]);
            assert!(std::str::from_utf8(reason).is_ok(), "{}: got a reason that is no text", sink.name());
            let is_ordered = code == ORDER_CODE && reason == ORDER_REASON.as_bytes();
            let allowed = matches!(code, 1001 | 1002 | 1009) || (code == 1011 || is_ordered) && sink.tongue.client;
            assert!(allowed, "{}: got {code} from the gateway", sink.name());
            self.closed = Some(Closed::Ours(code));
            self.heard.push_back((self.at, Heard::Close(Some(code))));
        }
        true
    }

    /// Whether what the sink has got ends between two frames; of bytes, always.
    pub fn is_whole(&self, sink: &Side) -> bool {
        self.at == sink.got.len()
    }

    /// Whether the sink has the frame in part that the source has said in part, and all of that.
    pub fn is_all_of_a_part(&self, source: &Side) -> bool {
        source.units.get(self.unit).is_some_and(|unit| unit.start + self.within == source.read && self.within > 0)
    }

    /// What should have gone on and has not.
    pub fn missing(&mut self, source: &Side, sink: &Side, pings: &[Vec<u8>]) -> Option<String> {
        if source.tongue.rules.is_none() {
            return (sink.got.len() < source.sent.len())
                .then(|| format!("{} of {} bytes", sink.got.len(), source.sent.len()));
        }
        if self.closed.is_some() {
            return None;
        }
        self.skip_answers(source, pings);
        let unit = source.units.get(self.unit)?;
        let come = source.sent.len() - unit.start;
        let due = match &unit.what {
            _ if matches!(unit.what, What::Bad(_)) && come >= unit.length => {
                return Some(format!("an answer to {:?}", unit.what));
            }
            What::Bad(_) => 0,
            What::Data { header, .. } if come >= *header => come.min(unit.length),
            _ if come >= unit.length => unit.length,
            _ => 0,
        };
        let there = sink.got.len() - self.at;
        (there != due).then(|| format!("{there} instead of {due} bytes of {:?}", unit.what))
    }
}
