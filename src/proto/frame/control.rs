//! Control frames that the gateway sends itself, in a small array.
//!
//! RFC 6455 5.3 (masking), 5.5 (control frames), 7.4 (close codes).

use std::fmt;
use std::ops::Deref;

use super::header::{CLOSE, FIN, MASK, PING, PONG};

/// RFC 6455 5.5.
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// What the code of a Close leaves of it.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// Two bytes, four of mask, and the payload.
pub const MAX_CONTROL_FRAME: usize = 6 + MAX_CONTROL_PAYLOAD;

/// One whole control frame, ready to be written; dereferences to its bytes.
///
/// Frames to a server take a mask, which nobody must be able to foresee (RFC 6455 5.3, 10.3); frames to a client none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlFrame {
    bytes: [u8; MAX_CONTROL_FRAME],
    size: u8,
}

impl ControlFrame {
    /// A Close with a code, and a reason that is cut at 123 bytes, between two characters.
    ///
    /// A code that must not be sent (see [`close_code_may_be_sent`]) becomes 1011.
    pub fn close(code: u16, reason: &str, mask: Option<u32>) -> Self {
        debug_assert!(close_code_may_be_sent(code), "{code} is not to be sent");
        let code = if close_code_may_be_sent(code) { code } else { 1011 };
        let mut payload = [0; MAX_CONTROL_PAYLOAD];
        let reason = &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON)];
        let size = 2 + reason.len();
        payload[..2].copy_from_slice(&code.to_be_bytes());
        payload[2..size].copy_from_slice(reason.as_bytes());
        Self::build(CLOSE, &payload[..size], mask)
    }

    /// A Ping; for our own keep [`super::Pings`] informed.
    pub fn ping(payload: &[u8], mask: Option<u32>) -> Result<Self, PayloadTooLong> {
        Self::checked(PING, payload, mask)
    }

    pub fn pong(payload: &[u8], mask: Option<u32>) -> Result<Self, PayloadTooLong> {
        Self::checked(PONG, payload, mask)
    }

    fn checked(opcode: u8, payload: &[u8], mask: Option<u32>) -> Result<Self, PayloadTooLong> {
        if payload.len() > MAX_CONTROL_PAYLOAD { Err(PayloadTooLong) } else { Ok(Self::build(opcode, payload, mask)) }
    }

    /// `payload` is at most [`MAX_CONTROL_PAYLOAD`] bytes.
    pub(super) fn build(opcode: u8, payload: &[u8], mask: Option<u32>) -> Self {
        let mut bytes = [0; MAX_CONTROL_FRAME];
        bytes[0] = FIN | opcode;
        bytes[1] = payload.len() as u8;
        let mut at = 2;
        if let Some(mask) = mask {
            bytes[1] |= MASK;
            bytes[2..6].copy_from_slice(&mask.to_be_bytes());
            at = 6;
        }
        let size = at + payload.len();
        bytes[at..size].copy_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(&mut bytes[at..size], mask.to_be_bytes());
        }
        Self { bytes, size: size as u8 }
    }
}

impl Deref for ControlFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.size)]
    }
}

impl fmt::Debug for ControlFrame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ControlFrame").field(&&**self).finish()
    }
}

/// More than 125 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadTooLong;

/// Whether an endpoint may put this code into a Close (RFC 6455 7.4 and the registry it founds): not below 1000, not
/// those that only stand for what happened locally (1005, 1006, 1015), not the unassigned ones up to 2999.
pub fn close_code_may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Whether a peer's code is one that nobody may ever send. Unassigned codes are not ours to refuse.
pub(super) fn close_code_is_forbidden(code: u16) -> bool {
    matches!(code, 0..=999 | 1005 | 1006 | 1015 | 5000..)
}

/// Masks or unmasks, which is the same (RFC 6455 5.3).
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}
