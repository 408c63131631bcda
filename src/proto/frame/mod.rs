//! WebSocket frames as a gateway between two ends sees them: judged, counted, and added to at legal places only.
//!
//! [`Tracker`] follows one direction of a tunnel: it reads frame headers and whole control frames, never the payload of
//! data. [`ControlFrame`] builds what the gateway says itself; [`Pings`] keeps our pings apart from those of the ends.
//! Nothing here does IO or reads a clock; the tunnel hands in bytes and times.
//!
//! Choices where RFC 6455 leaves room, or where its rule is often broken:
//! - A length that is not in its shortest form (5.2, "MUST") is a violation: browsers refuse it as well.
//! - Reserved opcodes are violations even where an extension was agreed; no registered extension defines one.
//! - Close codes that must never be sent (7.4: below 1000, 1005, 1006, 1015, 5000 and above) are violations; unassigned
//!   ones pass, since they may be registered tomorrow.
//! - Whatever follows a Close is thrown away, as its receiver would have done (1.4, 5.5.1).
//! - UTF-8 is the ends' business, in messages and in Close reasons.
//!
//! RFC 6455 5 and 7, RFC 7692 6.

mod control;
mod flags;
mod header;
mod pings;
mod tracker;

use std::fmt;

pub use control::{
    ControlFrame, MAX_CLOSE_REASON, MAX_CONTROL_FRAME, MAX_CONTROL_PAYLOAD, PayloadTooLong, close_code_may_be_sent,
};
pub use header::{MAX_HEADER, MIN_CLIENT_FRAME};
pub use pings::{PING_PAYLOAD, Pings, Pong};
pub use tracker::{End, NoInjection, SMALL_FRAGMENT, Step, Tracker, Until, Verdict, Watch};

/// Which end sends the frames of a direction; decides whether they must be masked (RFC 6455 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Every frame masked.
    Client,
    /// No frame masked.
    Server,
}

/// What kind of message (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// Which of the reserved bits may be set (RFC 6455 5.2: none, unless an extension gives them a meaning).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rsv {
    #[default]
    None,
    /// `permessage-deflate` alone: RSV1, on the first frame of a data message only (RFC 7692 6).
    Deflate,
    /// Some extension that we know nothing about: all of them, on every frame.
    Any,
}

impl Rsv {
    /// By the names of the extensions that the 101 agrees to.
    pub fn agreed<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().fold(Self::None, |rsv, name| match rsv {
            Self::None | Self::Deflate if name.eq_ignore_ascii_case("permessage-deflate") => Self::Deflate,
            _ => Self::Any,
        })
    }
}

/// What a tunnel's frames are held to, the same in both directions and for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Default none.
    pub rsv: Rsv,
    /// Payload bytes of one data frame, as on the wire. Default `u64::MAX`, which is no limit.
    pub max_frame_size: u64,
    /// Payload bytes of one message over all its frames, as on the wire (compressed, if it is).
    /// Default `u64::MAX`, which is no limit.
    pub max_message_size: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { rsv: Rsv::None, max_frame_size: u64::MAX, max_message_size: u64::MAX }
    }
}

/// Why a direction is refused. It is always found before any byte of the frame in question has gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// RFC 6455 5.2: opcodes 3 to 7 and 11 to 15.
    ReservedOpcode(u8),
    /// RFC 6455 5.2, RFC 7692 6: a reserved bit that nobody agreed to, or not on this frame.
    ReservedBits,
    /// RFC 6455 5.1: a frame of the client without mask.
    Unmasked,
    /// RFC 6455 5.1: a frame of the server with a mask.
    Masked,
    /// RFC 6455 5.5: a control frame of more than 125 bytes.
    ControlTooLong,
    /// RFC 6455 5.5: a control frame without FIN.
    ControlFragmented,
    /// RFC 6455 5.4: a continuation of nothing.
    StrayContinuation,
    /// RFC 6455 5.4: a new message before the last one's end.
    MessageUnfinished,
    /// RFC 6455 5.2: a 64-bit length with its top bit set.
    LengthTopBit,
    /// RFC 6455 5.2: a length in more bytes than it needs.
    LengthNotMinimal,
    /// RFC 6455 5.5.1: a Close with one byte of payload.
    CloseTooShort,
    /// RFC 6455 7.4: a close code that must not be sent.
    CloseCode(u16),
    /// Over [`Rules::max_frame_size`].
    FrameTooBig,
    /// Over [`Rules::max_message_size`].
    MessageTooBig,
    /// [`Watch::admit`] said no.
    TooManyMessages,
    /// More bytes in a time than the tunnel allows; never found here, since payload is not looked at.
    TooManyBytes,
}

impl Violation {
    /// What its sender is told (RFC 6455 7.4.1): 1009 for what is too big, 1008 for what is too much, else 1002.
    pub fn close_code(self) -> u16 {
        match self {
            _ if self.is_size() => 1009,
            _ if self.is_rate() => 1008,
            _ => 1002,
        }
    }

    /// What the other side is told: the same, but for a rate, which is a matter between the sender and us: 1001.
    pub fn onward_code(self) -> u16 {
        if self.is_rate() { 1001 } else { self.close_code() }
    }

    /// Whether the frame was sound and merely larger than the route allows.
    pub fn is_size(self) -> bool {
        matches!(self, Self::FrameTooBig | Self::MessageTooBig)
    }

    /// Whether the frame was sound and merely came too soon.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::TooManyMessages | Self::TooManyBytes)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::ReservedOpcode(opcode) => return write!(out, "reserved opcode {opcode}"),
            Self::CloseCode(code) => return write!(out, "close code {code} must not be sent"),
            Self::ReservedBits => "a reserved bit is set",
            Self::Unmasked => "a client's frame is not masked",
            Self::Masked => "a server's frame is masked",
            Self::ControlTooLong => "a control frame of more than 125 bytes",
            Self::ControlFragmented => "a fragmented control frame",
            Self::StrayContinuation => "a continuation of no message",
            Self::MessageUnfinished => "a new message before the end of the last one",
            Self::LengthTopBit => "a length with its top bit set",
            Self::LengthNotMinimal => "a length that is not in its shortest form",
            Self::CloseTooShort => "a Close with half a code",
            Self::FrameTooBig => "a frame over the limit",
            Self::MessageTooBig => "a message over the limit",
            Self::TooManyMessages => "more messages than messages_per_second",
            Self::TooManyBytes => "more bytes than bytes_per_second",
        })
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
