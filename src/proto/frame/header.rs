//! One frame header: taken apart, and held against what does not depend on the frames before it.
//!
//! RFC 6455 5.1, 5.2, 5.5.

use super::{Rsv, Sender, Violation};

/// Bytes of the longest header: two, eight of length, four of mask.
pub const MAX_HEADER: usize = 14;

/// Bytes of the shortest frame of a client's: two, and four of mask.
pub const MIN_CLIENT_FRAME: usize = 6;

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

pub(super) const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const RSV1: u8 = 0x40;
pub(super) const MASK: u8 = 0x80;

/// A complete header that breaks no rule by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub opcode: u8,
    pub fin: bool,
    /// Bytes of the header itself.
    pub size: usize,
    /// Bytes of payload.
    pub payload: u64,
}

impl Header {
    pub fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// Bytes of the whole that a header and, of a control frame, its payload have, by the header's first two bytes.
    pub fn unit_size(first: u8, second: u8) -> usize {
        let mask = if second & MASK != 0 { 4 } else { 0 };
        let length = match second & !MASK {
            126 => 2,
            127 => 8,
            short if first & 0x0F >= CLOSE => usize::from(short),
            _ => 0,
        };
        2 + length + mask
    }

    /// `None`: not complete yet. What the first two bytes give away is refused without waiting for the rest.
    #[inline]
    pub fn read(bytes: &[u8], sender: Sender, rsv: Rsv) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = first & 0x0F;
        check_start(*first, *second, sender, rsv)?;
        let (length, length_size) = match second & !MASK {
            126 => match rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 2),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        check_length(length, length_size)?;
        let size = 2 + length_size + if sender == Sender::Client { 4 } else { 0 };
        if bytes.len() < size {
            return Ok(None);
        }
        Ok(Some(Self { opcode, fin: first & FIN != 0, size, payload: length }))
    }
}

#[inline]
fn check_start(first: u8, second: u8, sender: Sender, rsv: Rsv) -> Result<(), Violation> {
    let opcode = first & 0x0F;
    if !matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG) {
        return Err(Violation::ReservedOpcode(opcode));
    }
    let allowed = match rsv {
        Rsv::Deflate if matches!(opcode, TEXT | BINARY) => RSV1,
        Rsv::None | Rsv::Deflate => 0,
        Rsv::Any => RSV,
    };
    if first & RSV & !allowed != 0 {
        return Err(Violation::ReservedBits);
    }
    match (sender, second & MASK != 0) {
        (Sender::Client, false) => return Err(Violation::Unmasked),
        (Sender::Server, true) => return Err(Violation::Masked),
        _ => {}
    }
    if opcode >= CLOSE {
        if first & FIN == 0 {
            return Err(Violation::ControlFragmented);
        }
        match second & !MASK {
            126 | 127 => return Err(Violation::ControlTooLong),
            1 if opcode == CLOSE => return Err(Violation::CloseTooShort),
            _ => {}
        }
    }
    Ok(())
}

#[inline]
fn check_length(length: u64, length_size: usize) -> Result<(), Violation> {
    if length > i64::MAX as u64 {
        return Err(Violation::LengthTopBit);
    }
    let least = match length_size {
        0 => 0,
        2 => 126,
        _ => 1 << 16,
    };
    if length < least { Err(Violation::LengthNotMinimal) } else { Ok(()) }
}
