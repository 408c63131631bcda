//! What the ends of a simulated tunnel say: streams of frames, or of bytes that are none, with what is known of each.
//!
//! The generator writes its frames by hand and notes what they are, so that nobody has to ask the code under test.

use super::chance::Chance;
use crate::proto::frame::{Rsv, Rules, Violation};

/// A frame, or a piece of bytes.
#[derive(Debug)]
pub(super) struct Unit {
    pub bytes: Vec<u8>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Of a stream that nobody looks into.
    Bytes,
    /// Goes on from its header's last byte. `ends`: a message's last frame.
    Data {
        header: usize,
        ends: bool,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// Must not go on.
    Bad(Violation),
    /// Behind a Close or a violation: thrown away.
    Noise,
}

/// One end's way of speaking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tongue {
    /// Masks its frames.
    pub client: bool,
    /// `None`: speaks in bytes.
    pub rules: Option<Rules>,
}

impl Tongue {
    /// One frame, complete; `length` in its shortest form.
    pub fn frame(self, chance: &mut Chance, first: u8, payload: &[u8]) -> (usize, Vec<u8>) {
        let mut bytes = self.header(chance, first, payload.len() as u64);
        let header = bytes.len();
        bytes.extend_from_slice(payload);
        if self.client && first & 0x08 != 0 {
            // Only of control frames does anybody look at the payload; any bytes are the masked form of some data.
            let mask = [bytes[header - 4], bytes[header - 3], bytes[header - 2], bytes[header - 1]];
            bytes[header..].iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        (header, bytes)
    }

    fn header(self, chance: &mut Chance, first: u8, length: u64) -> Vec<u8> {
        let mask = if self.client { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        if self.client {
            bytes.extend((chance.next() as u32).to_be_bytes());
        }
        bytes
    }

    pub fn ping(self, chance: &mut Chance, payload: Vec<u8>) -> Unit {
        Unit { bytes: self.frame(chance, 0x89, &payload).1, what: What::Ping(payload) }
    }

    pub fn pong(self, chance: &mut Chance, payload: Vec<u8>) -> Unit {
        Unit { bytes: self.frame(chance, 0x8A, &payload).1, what: What::Pong(payload) }
    }

    pub fn close(self, chance: &mut Chance, code: Option<u16>) -> Unit {
        let mut payload = code.map_or(vec![], |code| code.to_be_bytes().to_vec());
        if code.is_some() && chance.one_in(2) {
            payload.extend(b"because".iter().cycle().take(chance.below(124)));
        }
        Unit { bytes: self.frame(chance, 0x88, &payload).1, what: What::Close(code) }
    }

    /// A frame that breaks one rule and no other.
    fn bad(self, chance: &mut Chance, rules: Rules, in_message: bool) -> Unit {
        let right = if self.client { 0x80 } else { 0 };
        let data = if in_message { 0x80 } else { 0x82 };
        loop {
            let (violation, mut bytes) = match chance.below(13) {
                0 => {
                    let opcode = chance.pick(&[3, 4, 5, 6, 7, 11, 12, 13, 14, 15]);
                    (Violation::ReservedOpcode(opcode), vec![0x80 | opcode, right | 1])
                }
                1 if rules.rsv != Rsv::Any => (Violation::ReservedBits, vec![data | 0x20, right | 1]),
                2 if rules.rsv == Rsv::Deflate => (Violation::ReservedBits, vec![0xC9, right]),
                3 => {
                    let violation = if self.client { Violation::Unmasked } else { Violation::Masked };
                    (violation, vec![data, 0x80 ^ right | 1])
                }
                4 => (Violation::ControlTooLong, vec![0x89, right | 126, 0, 200]),
                5 => (Violation::ControlFragmented, vec![0x0A, right]),
                6 if in_message => (Violation::MessageUnfinished, self.frame(chance, 0x81, b"x").1),
                6 => (Violation::StrayContinuation, self.frame(chance, 0x80, b"x").1),
                7 => (Violation::LengthTopBit, vec![data, right | 127, 0x80, 0, 0, 0, 0, 0, 0, 9]),
                8 => (Violation::LengthNotMinimal, vec![data, right | 126, 0, 125]),
                9 => (Violation::LengthNotMinimal, vec![data, right | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]),
                10 => (Violation::CloseTooShort, vec![0x88, right | 1]),
                11 => {
                    let code = chance.pick(&[0, 999, 1005, 1006, 1015, 5000, 65_535]);
                    (Violation::CloseCode(code), self.frame(chance, 0x88, &code.to_be_bytes()).1)
                }
                12 if rules.max_frame_size < u64::MAX => {
                    (Violation::FrameTooBig, self.header(chance, data, rules.max_frame_size + 1))
                }
                12 if rules.max_message_size < u64::MAX => {
                    (Violation::MessageTooBig, self.header(chance, data, rules.max_message_size + 1))
                }
                _ => continue,
            };
            let behind = chance.skewed(300);
            bytes.extend(chance.bytes(behind));
            return Unit { bytes, what: What::Bad(violation) };
        }
    }
}

/// A stream under construction.
struct Stream<'a> {
    chance: &'a mut Chance,
    tongue: Tongue,
    units: Vec<Unit>,
    /// Number of the unit that is a violation.
    bad_at: usize,
    in_message: bool,
    /// Nothing counts any more.
    is_over: bool,
}

/// What an end has to say by itself, answers apart.
pub(super) fn stream(chance: &mut Chance, tongue: Tongue) -> Vec<Unit> {
    let count = chance.skewed(16);
    let Some(rules) = tongue.rules else {
        return (0..count)
            .map(|_| {
                let size = if chance.one_in(30) { 200 * 1024 } else { 3_000 };
                let size = 1 + chance.skewed(size);
                Unit { bytes: chance.bytes(size), what: What::Bytes }
            })
            .collect();
    };
    let bad_at = if chance.one_in(5) { chance.skewed(24) } else { usize::MAX };
    let mut stream = Stream { chance, tongue, units: Vec::new(), bad_at, in_message: false, is_over: false };
    for _ in 0..count {
        match stream.chance.below(8) {
            0 => stream.control(),
            _ => stream.message(rules),
        }
    }
    if stream.chance.one_in(2) {
        let code = stream.chance.pick(&[None, Some(1000), Some(1001), Some(1011), Some(3000), Some(4999), Some(2999)]);
        let close = tongue.close(stream.chance, code);
        stream.push(close);
        if stream.chance.one_in(4) {
            let size = 1 + stream.chance.skewed(2_000);
            let noise = Unit { bytes: stream.chance.bytes(size), what: What::Noise };
            stream.push(noise);
        }
    }
    stream.units
}

impl Stream<'_> {
    fn push(&mut self, mut unit: Unit) {
        if self.is_over {
            unit.what = What::Noise;
        } else if let (true, Some(rules)) = (self.units.len() == self.bad_at, self.tongue.rules) {
            let bad = self.tongue.bad(self.chance, rules, self.in_message);
            self.units.push(bad);
            self.is_over = true;
            unit.what = What::Noise;
        }
        self.is_over |= matches!(unit.what, What::Close(_));
        self.units.push(unit);
    }

    /// No two payloads are equal, so that it is clear which pong answers which ping.
    fn control(&mut self) {
        let number = self.units.len() as u16;
        let size = if self.chance.one_in(3) { 8 } else { self.chance.between(3, 125) };
        let mut payload = self.chance.bytes(size);
        payload[1..3].copy_from_slice(&number.to_be_bytes());
        let unit = if self.chance.one_in(3) {
            payload[0] = b'q';
            self.tongue.pong(self.chance, payload)
        } else {
            payload[0] = b'p';
            self.tongue.ping(self.chance, payload)
        };
        self.push(unit);
    }

    fn message(&mut self, rules: Rules) {
        let most = match self.chance.below(40) {
            0 => 200 * 1024,
            1..10 => 5_000,
            _ => 300,
        };
        let mut left = match self.chance.below(12) {
            0 => self.chance.pick(&[125, 126, 127, 65_535, 65_536]),
            _ => self.chance.skewed(most),
        };
        left = left.min(usize::try_from(rules.max_message_size).unwrap_or(usize::MAX));
        let frames = if self.chance.one_in(3) { self.chance.between(2, 5) } else { 1 };
        let mut opcode = self.chance.pick(&[1, 2]);
        for frame in 1..=frames {
            let ends = frame == frames;
            let size = if ends { left } else { self.chance.skewed(left) };
            let size = size.min(usize::try_from(rules.max_frame_size).unwrap_or(usize::MAX));
            left -= size;
            let rsv = match rules.rsv {
                Rsv::Any => (self.chance.below(8) as u8) << 4,
                Rsv::Deflate if opcode != 0 && self.chance.one_in(2) => 0x40,
                _ => 0,
            };
            let first = if ends { 0x80 } else { 0 } | rsv | opcode;
            let payload = self.chance.bytes(size);
            let (header, bytes) = self.tongue.frame(self.chance, first, &payload);
            self.push(Unit { bytes, what: What::Data { header, ends } });
            self.in_message = !ends;
            opcode = 0;
            if !ends && self.chance.one_in(4) {
                self.control();
            }
        }
    }
}
