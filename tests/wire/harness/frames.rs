//! WebSocket frames written and read by hand, so that masks, reserved bits and order are the test's own.

use std::io;

use super::Stream;

/// The opcodes that tests use by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpCode(pub u8);

impl OpCode {
    pub const CONTINUATION: Self = Self(0);
    pub const TEXT: Self = Self(1);
    pub const BINARY: Self = Self(2);
    pub const CLOSE: Self = Self(8);
    pub const PING: Self = Self(9);
}

/// One frame (RFC 6455 §5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// RSV1 to RSV3 as the bits `0b111`.
    pub rsv: u8,
    pub opcode: OpCode,
    pub mask: Option<[u8; 4]>,
    /// Without mask.
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: OpCode, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, mask: None, payload: payload.into() }
    }

    pub fn text(payload: &str) -> Self {
        Self::new(OpCode::TEXT, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(OpCode::BINARY, payload)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(OpCode::CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// Not the last fragment.
    pub fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn rsv(mut self, bits: u8) -> Self {
        self.rsv = bits;
        self
    }

    /// As a client sends it, with a mask that differs from byte to byte.
    pub fn masked(mut self) -> Self {
        self.mask = Some([0x37, 0xfa, 0x21, 0x3d]);
        self
    }

    pub fn unmasked(mut self) -> Self {
        self.mask = None;
        self
    }

    /// The close code, where this is a Close frame that has one.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.get(..2).filter(|_| self.opcode == OpCode::CLOSE)?;
        Some(u16::from_be_bytes([code[0], code[1]]))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode.0];
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            length @ 0..=125 => out.push(masked | length as u8),
            length @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        match self.mask {
            Some(mask) => {
                out.extend(mask);
                out.extend(apply(mask, &self.payload));
            }
            None => out.extend(&self.payload),
        }
        out
    }
}

fn apply(mask: [u8; 4], bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key)
}

/// Where frames are read from.
pub(super) trait Source {
    async fn take(&mut self, count: usize) -> io::Result<Vec<u8>>;
}

impl Source for Stream {
    async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.exact(count).await
    }
}

pub(super) async fn read_frame(source: &mut impl Source) -> io::Result<Frame> {
    let start = source.take(2).await?;
    let length = match start[1] & 0x7f {
        126 => {
            let bytes = source.take(2).await?;
            u64::from(u16::from_be_bytes([bytes[0], bytes[1]]))
        }
        127 => u64::from_be_bytes(source.take(8).await?.try_into().expect("eight bytes")),
        short => u64::from(short),
    };
    let mask = match start[1] & 0x80 {
        0 => None,
        _ => Some(<[u8; 4]>::try_from(source.take(4).await?).expect("four bytes")),
    };
    let mut payload = source.take(usize::try_from(length).map_err(io::Error::other)?).await?;
    if let Some(mask) = mask {
        payload = apply(mask, &payload).collect();
    }
    Ok(Frame { fin: start[0] & 0x80 != 0, rsv: start[0] >> 4 & 7, opcode: OpCode(start[0] & 15), mask, payload })
}
