//! As much WebSocket as a load needs (RFC 6455): the opening request and its answer, frame headers, and the translation
//! of masked frames into unmasked ones as they stream by.
//!
//! Payload is never gathered: a frame of 1 MiB goes through in the pieces in which it was read.

use aws_lc_rs::digest;
use base64::prelude::{BASE64_STANDARD, Engine};

pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
/// Control frames, which a counter of messages leaves out.
pub const CONTROL: u8 = 8;

/// A client's key; a load has no use for a new one each time.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The opening request.
pub fn opening(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// The answer's `Sec-WebSocket-Accept`.
pub fn accept(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(context.finish())
}

/// Appends a frame header.
fn header(opcode: u8, length: u64, masked: bool, out: &mut Vec<u8>) {
    let mask_bit = if masked { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(mask_bit | length as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend(length.to_be_bytes());
        }
    }
}

/// A whole frame as a client sends it.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    header(opcode, payload.len() as u64, true, &mut out);
    out.extend(MASK);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at & 3]));
    out
}

/// A whole frame as a server sends it.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    header(opcode, payload.len() as u64, false, &mut out);
    out.extend(payload);
    out
}

/// What a reader of frames is told.
pub enum Seen<'a> {
    /// A header is complete: opcode with the FIN bit as it came, and the payload's length.
    Header(u8, u64),
    /// A piece of payload, unmasked in place.
    Payload(&'a mut [u8]),
    /// The frame is over.
    End(u8),
}

/// Follows one direction of frames.
#[derive(Default)]
pub struct Frames {
    head: [u8; 14],
    have: usize,
    /// Payload still to come, and how much of it has gone by.
    left: u64,
    gone: u64,
    inside: bool,
}

impl Frames {
    pub fn feed(&mut self, mut bytes: &mut [u8], mut seen: impl FnMut(Seen<'_>)) {
        while !bytes.is_empty() {
            if !self.inside {
                self.head[self.have] = bytes[0];
                self.have += 1;
                bytes = &mut bytes[1..];
                let Some(length) = self.length() else { continue };
                (self.inside, self.left, self.gone) = (true, length, 0);
                seen(Seen::Header(self.head[0], length));
            }
            let take = self.left.min(bytes.len() as u64) as usize;
            if take > 0 {
                let (piece, rest) = bytes.split_at_mut(take);
                if self.head[1] & 0x80 != 0 {
                    self.unmask(piece);
                }
                self.left -= take as u64;
                self.gone += take as u64;
                seen(Seen::Payload(piece));
                bytes = rest;
            }
            if self.left == 0 {
                (self.inside, self.have) = (false, 0);
                seen(Seen::End(self.head[0] & 0x0f));
            }
        }
    }

    fn unmask(&self, piece: &mut [u8]) {
        let mut key: [u8; 4] = [0; 4];
        key.copy_from_slice(&self.head[self.have - 4..self.have]);
        key.rotate_left((self.gone & 3) as usize);
        let mut words = piece.chunks_exact_mut(4);
        for word in &mut words {
            for (byte, key) in word.iter_mut().zip(key) {
                *byte ^= key;
            }
        }
        for (byte, key) in words.into_remainder().iter_mut().zip(key) {
            *byte ^= key;
        }
    }

    /// The payload's length, as soon as the header is complete.
    fn length(&self) -> Option<u64> {
        if self.have < 2 {
            return None;
        }
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        let (extended, length) = match self.head[1] & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([self.head[2], self.head[3]]))),
            127 => (8, self.head[2..10].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            short => (0, u64::from(short)),
        };
        (self.have == 2 + extended + mask).then_some(length)
    }
}

/// What an echo writes: the same frames without a mask. Returns whether a Close frame has gone by.
pub fn echo(frames: &mut Frames, bytes: &mut [u8], out: &mut Vec<u8>) -> bool {
    let mut closed = false;
    frames.feed(bytes, |seen| match seen {
        Seen::Header(first, length) => {
            let start = out.len();
            header(first & 0x0f, length, false, out);
            out[start] = first;
        }
        Seen::Payload(piece) => out.extend_from_slice(piece),
        Seen::End(opcode) => closed |= opcode == CLOSE,
    });
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_masked_comes_back_in_clear_however_it_was_cut() {
        for size in [0, 1, 64, 125, 126, 1000, 65_535, 65_536, 70_001] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for cut in [1, 3, 64, 4096, 1 << 20] {
                let (mut frames, mut out) = (Frames::default(), Vec::new());
                let mut wire = masked(BINARY, &payload);
                for piece in wire.chunks_mut(cut) {
                    assert!(!echo(&mut frames, piece, &mut out));
                }
                assert_eq!(out, unmasked(BINARY, &payload), "{size} bytes in pieces of {cut}");
            }
        }
    }

    #[test]
    fn a_close_frame_is_noticed() {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        assert!(echo(&mut frames, &mut masked(CLOSE, &1000u16.to_be_bytes()), &mut out));
        assert_eq!(out, unmasked(CLOSE, &1000u16.to_be_bytes()));
    }

    #[test]
    fn the_accept_value_is_the_one_of_the_rfc() {
        assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
