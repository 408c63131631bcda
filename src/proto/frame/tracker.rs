//! The judge of one direction: says of each piece of input how much of it may go on.
//!
//! Bytes come in any split. A data frame's header, or a whole control frame, goes on only when it is complete and
//! judged; until then it is withheld here and returns to the front of the next buffer, so that what goes on is always
//! one piece of that buffer. Hence the invariants that the tunnel lives by: what has gone on ends inside a frame only
//! if payload of data is due ([`Tracker::payload_left`]); when a violation or a Close is reported it ends between
//! frames. Payload of data is counted, never looked at.
//!
//! An idle direction costs 64 bytes. Nothing is allocated, except for a control frame that comes in pieces and whose
//! first piece is longer than a header; that box goes when the rest is there.

use super::control::{MAX_CONTROL_FRAME, MAX_CONTROL_PAYLOAD, apply_mask, close_code_is_forbidden};
use super::flags::Flags;
use super::header::{BINARY, CLOSE, CONTINUATION, Header, MAX_HEADER, MIN_CLIENT_FRAME, PING};
use super::{Kind, Rules, Sender, Violation};

/// A fragment that is not its message's last and carries less than this counts like a message (see [`Watch::admit`]):
/// fragments must be no way around a limit of messages, nor a large message in pieces be many.
pub const SMALL_FRAGMENT: u64 = 1024;

/// Follows the frames of one direction.
#[derive(Debug)]
pub struct Tracker {
    /// Payload of the present data frame that has not come yet.
    payload_left: u64,
    /// Payload of the present message, of all its frames whose headers have gone on.
    message_size: u64,
    frames: u64,
    texts: u64,
    binaries: u64,
    /// What is withheld, if it does not fit into `short`.
    long: Option<Box<[u8; MAX_CONTROL_FRAME]>>,
    short: [u8; MAX_HEADER - 1],
    /// Bytes withheld.
    withheld: u8,
    flags: Flags,
}

/// What the tunnel wants to hear of while a buffer is judged. `()` hears nothing and lets every pong pass.
pub trait Watch {
    /// A frame that counts is about to go on: a message's first, a small fragment, a Ping, a Pong. False: it is one too
    /// many. A Close never counts, nor does what is swallowed or thrown away.
    fn admit(&mut self) -> bool {
        true
    }

    /// The last frame of a message has gone on, with the payload of all of them as on the wire.
    fn message(&mut self, kind: Kind, size: u64) {
        _ = (kind, size);
    }

    /// A Ping goes on; its payload unmasked, at most 125 bytes.
    fn ping(&mut self, payload: &[u8]) {
        _ = payload;
    }

    /// A Pong is complete; its payload unmasked.
    fn pong(&mut self, payload: &[u8]) -> Verdict {
        _ = payload;
        Verdict::Pass
    }

    /// The Close goes on, nothing after it does; its reason unmasked and not necessarily UTF-8. Behind an injected
    /// Close: the sender has answered, and this goes nowhere.
    fn close(&mut self, code: Option<u16>, reason: &[u8]) {
        _ = (code, reason);
    }
}

impl Watch for () {}

/// What becomes of a withheld control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It stays here, as if it had never been sent.
    Swallow,
}

/// How far to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the end of the buffer.
    Input,
    /// To the next place between two frames, for somebody who waits to inject one. At once, if it is here.
    Boundary,
}

/// What to do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes at the buffer's front that go on now.
    pub forward: usize,
    /// Bytes that are dealt with, one way or another; the next step starts after them.
    pub consumed: usize,
    /// Why it stopped there, unless only a swallowed frame or the buffer's end was the reason.
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// [`Until::Boundary`] is reached.
    Boundary,
    /// What goes on ends with the Close. All input from here on is thrown away.
    Close,
    /// The frame after what goes on is refused. All input from here on is thrown away; where only a rate was broken, as
    /// soon as [`Tracker::inject_close`] says so, which has to be next.
    Violation(Violation),
}

/// Why no frame may be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoInjection {
    /// In the middle of a data frame.
    MidFrame,
    /// A Close has passed this way.
    Closed,
}

impl Tracker {
    pub fn new(sender: Sender) -> Self {
        let mut flags = Flags(0);
        flags.set(Flags::CLIENT, sender == Sender::Client);
        Self {
            payload_left: 0,
            message_size: 0,
            frames: 0,
            texts: 0,
            binaries: 0,
            long: None,
            short: [0; MAX_HEADER - 1],
            withheld: 0,
            flags,
        }
    }

    /// Judges a buffer: room for [`Self::withheld`] bytes, which are put there, and behind it what has come since.
    ///
    /// Call it again with the rest until everything is consumed; `rules` are the same every time. After
    /// [`End::Boundary`] the rest is still to be judged, possibly after an injection.
    ///
    /// # Panics
    /// If the buffer has no such room.
    pub fn feed(&mut self, rules: &Rules, buffer: &mut [u8], until: Until, watch: &mut impl Watch) -> Step {
        if self.flags.has(Flags::CLOSED) {
            return Step { forward: 0, consumed: buffer.len(), end: None };
        }
        let step = self.follow(rules, buffer, until, watch);
        if self.flags.has(Flags::MUTED) {
            // Nothing goes on behind an injected Close; only the sender's own is still listened for.
            return Step { forward: 0, end: step.end.filter(|end| *end == End::Boundary), ..step };
        }
        step
    }

    fn follow(&mut self, rules: &Rules, buffer: &mut [u8], until: Until, watch: &mut impl Watch) -> Step {
        let mut at = 0;
        if self.payload_left > 0 {
            at = self.carry(buffer.len() as u64, watch) as usize;
        } else if until == Until::Input {
            self.put_back(buffer);
        }
        loop {
            if self.payload_left > 0 {
                return Step { forward: at, consumed: at, end: None };
            }
            if until == Until::Boundary {
                return Step { forward: at, consumed: at, end: Some(End::Boundary) };
            }
            let rest = &buffer[at..];
            let unit = match self.judge(rules, rest, watch) {
                Ok(Some(unit)) => unit,
                Ok(None) => {
                    self.withhold(rest);
                    return Step { forward: at, consumed: buffer.len(), end: None };
                }
                // It is no flaw of the stream, which is followed to the sender's Close; what is left is to be judged again,
                // behind a Close of ours.
                Err(violation) if violation.is_rate() => {
                    return Step { forward: at, consumed: at, end: Some(End::Violation(violation)) };
                }
                Err(violation) => return self.end_with(at, buffer.len(), End::Violation(violation)),
            };
            match unit {
                Unit::Data { size, in_buffer } => at += size + in_buffer,
                Unit::Control(size) => at += size,
                Unit::Close(size) => return self.end_with(at + size, buffer.len(), End::Close),
                Unit::Swallowed(size) => return Step { forward: at, consumed: at + size, end: None },
            }
        }
    }

    /// Bytes that wait here for the rest of their header or control frame; fewer than 131.
    pub fn withheld(&self) -> usize {
        usize::from(self.withheld)
    }

    /// Payload of data that is due before the next header; what a splice(2) may take unseen.
    pub fn payload_left(&self) -> u64 {
        self.payload_left
    }

    /// Accounts for payload of data that has gone on unseen. Returns how much of it there was: at most
    /// [`Self::payload_left`].
    pub fn carry(&mut self, bytes: u64, watch: &mut impl Watch) -> u64 {
        let taken = bytes.min(self.payload_left);
        self.payload_left -= taken;
        if taken > 0 && self.payload_left == 0 {
            self.end_data_frame(watch);
        }
        taken
    }

    /// Bytes without which the next frame, or a whole control frame, cannot be complete: behind the payload that is
    /// left, and at least one.
    pub fn next_needs(&self) -> usize {
        let least = if self.sender() == Sender::Client { MIN_CLIENT_FRAME } else { 2 };
        let withheld = match &self.long {
            Some(long) => &long[..],
            None => &self.short[..],
        };
        match self.withheld() {
            0 => least,
            1 => least - 1,
            size => Header::unit_size(withheld[0], withheld[1]).saturating_sub(size).max(1),
        }
    }

    /// Whether what has gone on ends between two frames.
    pub fn at_boundary(&self) -> bool {
        self.payload_left == 0
    }

    /// Whether a message has begun and not ended. Control frames may stand in the middle of it (RFC 6455 5.4).
    pub fn in_message(&self) -> bool {
        self.flags.has(Flags::MESSAGE)
    }

    /// Whether nothing goes on any more: a Close has passed or was injected, or a violation was found.
    pub fn is_closed(&self) -> bool {
        self.flags.has(Flags::CLOSED) || self.flags.has(Flags::MUTED)
    }

    /// Whether a Close has gone on to the sink, the sender's or an injected one.
    pub fn close_passed(&self) -> bool {
        self.flags.has(Flags::CLOSE_PASSED)
    }

    /// Whether a control frame may be injected into this direction now (RFC 6455 5.4, 5.5.1).
    pub fn may_inject(&self) -> Result<(), NoInjection> {
        if self.close_passed() {
            return Err(NoInjection::Closed);
        }
        if self.at_boundary() { Ok(()) } else { Err(NoInjection::MidFrame) }
    }

    /// Allows one Close to be injected now, and throws away whatever the sender says from here on, although its own
    /// Close is still told to [`Watch::close`]. On an error the direction can only be cut, or has been closed already.
    pub fn inject_close(&mut self) -> Result<(), NoInjection> {
        self.may_inject()?;
        self.flags.set(Flags::CLOSE_PASSED, true);
        self.flags.set(Flags::MUTED, true);
        Ok(())
    }

    /// Frames that have gone on or were swallowed, of every kind; a data frame counts from its header.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Messages of a kind that have gone on whole.
    pub fn messages(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Text => self.texts,
            Kind::Binary => self.binaries,
        }
    }

    /// The next header or control frame in `bytes`, with a data frame's payload as far as it is there. `None`: more
    /// bytes are needed.
    #[inline]
    fn judge(&mut self, rules: &Rules, bytes: &[u8], watch: &mut impl Watch) -> Result<Option<Unit>, Violation> {
        let Some(header) = Header::read(bytes, self.sender(), rules.rsv)? else { return Ok(None) };
        let body = &bytes[header.size..];
        if header.is_control() {
            // At most 125 bytes, or the header had been refused.
            let Some(body) = body.get(..header.payload as usize) else { return Ok(None) };
            return self.judge_control(&header, &bytes[..header.size], body, watch).map(Some);
        }
        self.begin_data_frame(&header, rules, watch)?;
        let in_buffer = header.payload.min(body.len() as u64);
        self.payload_left = header.payload - in_buffer;
        if self.payload_left == 0 {
            self.end_data_frame(watch);
        }
        Ok(Some(Unit::Data { size: header.size, in_buffer: in_buffer as usize }))
    }

    #[inline]
    fn begin_data_frame(&mut self, header: &Header, rules: &Rules, watch: &mut impl Watch) -> Result<(), Violation> {
        match (header.opcode == CONTINUATION, self.in_message()) {
            (true, false) => return Err(Violation::StrayContinuation),
            (false, true) => return Err(Violation::MessageUnfinished),
            _ => {}
        }
        if header.payload > rules.max_frame_size {
            return Err(Violation::FrameTooBig);
        }
        let message_size = self.message_size.saturating_add(header.payload);
        if message_size > rules.max_message_size {
            return Err(Violation::MessageTooBig);
        }
        if header.opcode != CONTINUATION || !header.fin && header.payload < SMALL_FRAGMENT {
            self.admit(watch)?;
        }
        self.message_size = message_size;
        if header.opcode != CONTINUATION {
            self.flags.set(Flags::BINARY, header.opcode == BINARY);
            self.flags.set(Flags::MESSAGE, true);
        }
        self.flags.set(Flags::FIN, header.fin);
        self.count_frame();
        Ok(())
    }

    #[inline]
    fn end_data_frame(&mut self, watch: &mut impl Watch) {
        if !self.flags.has(Flags::FIN) {
            return;
        }
        self.flags.set(Flags::MESSAGE, false);
        let size = std::mem::take(&mut self.message_size);
        if self.flags.has(Flags::MUTED) {
            return;
        }
        let kind = if self.flags.has(Flags::BINARY) { Kind::Binary } else { Kind::Text };
        match kind {
            Kind::Text => self.texts += 1,
            Kind::Binary => self.binaries += 1,
        }
        watch.message(kind, size);
    }

    /// A whole control frame: `head` and as much `body` as it announces.
    fn judge_control(
        &mut self,
        header: &Header,
        head: &[u8],
        body: &[u8],
        watch: &mut impl Watch,
    ) -> Result<Unit, Violation> {
        let mut payload = [0; MAX_CONTROL_PAYLOAD];
        let payload = &mut payload[..body.len()];
        payload.copy_from_slice(body);
        if let (Sender::Client, Some(mask)) = (self.sender(), head.last_chunk()) {
            apply_mask(payload, *mask);
        }
        let size = head.len() + body.len();
        let unit = match header.opcode {
            CLOSE => {
                let (code, reason) = match &*payload {
                    [a, b, reason @ ..] => (Some(u16::from_be_bytes([*a, *b])), reason),
                    _ => (None, &[][..]),
                };
                if let Some(code) = code.filter(|code| close_code_is_forbidden(*code)) {
                    return Err(Violation::CloseCode(code));
                }
                self.flags.set(Flags::CLOSE_PASSED, true);
                watch.close(code, reason);
                Unit::Close(size)
            }
            PING => {
                self.admit(watch)?;
                watch.ping(payload);
                Unit::Control(size)
            }
            _ => match watch.pong(payload) {
                Verdict::Pass => {
                    self.admit(watch)?;
                    Unit::Control(size)
                }
                Verdict::Swallow => Unit::Swallowed(size),
            },
        };
        self.count_frame();
        Ok(unit)
    }

    #[inline]
    fn admit(&self, watch: &mut impl Watch) -> Result<(), Violation> {
        if self.flags.has(Flags::MUTED) || watch.admit() { Ok(()) } else { Err(Violation::TooManyMessages) }
    }

    /// What is thrown away does not count.
    #[inline]
    fn count_frame(&mut self) {
        self.frames += u64::from(!self.flags.has(Flags::MUTED));
    }

    fn end_with(&mut self, forward: usize, consumed: usize, end: End) -> Step {
        self.shut();
        Step { forward, consumed, end: Some(end) }
    }

    fn shut(&mut self) {
        self.flags.set(Flags::CLOSED, true);
        self.withheld = 0;
        self.long = None;
    }

    fn put_back(&mut self, buffer: &mut [u8]) {
        if self.withheld == 0 {
            return;
        }
        let size = usize::from(std::mem::take(&mut self.withheld));
        match self.long.take() {
            Some(long) => buffer[..size].copy_from_slice(&long[..size]),
            None => buffer[..size].copy_from_slice(&self.short[..size]),
        }
    }

    /// `bytes` are an incomplete header of data, or an incomplete control frame.
    fn withhold(&mut self, bytes: &[u8]) {
        let size = bytes.len();
        match self.short.get_mut(..size) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                let mut long = Box::new([0; MAX_CONTROL_FRAME]);
                long[..size].copy_from_slice(bytes);
                self.long = Some(long);
            }
        }
        self.withheld = size as u8;
    }

    fn sender(&self) -> Sender {
        if self.flags.has(Flags::CLIENT) { Sender::Client } else { Sender::Server }
    }
}

/// What [`Tracker::judge`] found, with its size in the buffer.
enum Unit {
    Data { size: usize, in_buffer: usize },
    Control(usize),
    Close(usize),
    Swallowed(usize),
}
