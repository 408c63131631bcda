//! The PROXY protocol, versions 1 and 2: a header in front of a connection that says for whom it was made.
//!
//! Reading takes what has come so far and says whether that is a header, may become one, or never will; so it can be
//! asked again after each byte. Writing is for connections to servers. Whose header is believed is not decided here.
//!
//! A header whose addresses are not the client's (LOCAL, UNKNOWN, a unix socket at the sender) has none, and the
//! socket's own hold, as the specification wants it (2.1, 2.2). TLVs are skipped, except for CRC32C, which is verified
//! (2.2.3). A line ends with CRLF within its 107 bytes; a version 2 header has at most [`MAX_BLOCK`] bytes behind its
//! first 16, where the length field would allow 64 KiB.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, CRLF included.
const MAX_LINE: usize = 107;

/// Bytes behind the first 16 of a version 2 header: addresses (at most 216) and TLVs. A client certificate passed on in
/// a TLV fits.
pub const MAX_BLOCK: usize = 4096;

/// The longest header that is read.
pub const MAX_HEADER: usize = FIXED + MAX_BLOCK;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

const TLV_CRC32C: u8 = 0x03;

/// Of the two, the one to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// A connection's two ends, as they were where the client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What the bytes at a connection's start are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header so far, and every byte of it: nothing behind it has come yet.
    Partial,
    Header {
        /// Bytes of the header; the connection proper begins behind them.
        length: usize,
        /// `None`: the socket's own.
        addresses: Option<Addresses>,
    },
}

/// Why bytes are no header, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Something else: HTTP, TLS, anything.
    Absent,
    /// A line that does not follow the grammar of version 1, or does not end.
    Line,
    /// A version, command, family or transport that version 2 does not have.
    Kind,
    /// The length has no room for the addresses.
    TooShort,
    /// More than [`MAX_BLOCK`].
    TooLong,
    /// TLVs that do not fill their room exactly, or a checksum of another size, or two.
    Tlv,
    /// The CRC32C is not that of the header.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Absent => "the connection does not begin with a PROXY header",
            Self::Line => "a PROXY line that is malformed",
            Self::Kind => "a PROXY header of an unknown version, command or family",
            Self::TooShort => "a PROXY header without room for its addresses",
            Self::TooLong => "a PROXY header that is too long",
            Self::Tlv => "a PROXY header with malformed TLVs",
            Self::Checksum => "a PROXY header with a wrong checksum",
        })
    }
}

impl std::error::Error for Malformed {}

/// Judges what has come of a connection so far. Takes constant time until a version 2 header is whole, and time linear
/// in a header's length otherwise.
///
/// # Errors
/// No header begins like this. Whatever followed would not change it.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins(bytes, LINE_START) {
        return line(bytes);
    }
    if begins(bytes, SIGNATURE) {
        return binary(bytes);
    }
    Err(Malformed::Absent)
}

/// Whether one of the two is the other's beginning.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

/// 2.1. A lone CR or LF ends no line, and nothing is decoded before the CRLF is there.
fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let head = &bytes[..bytes.len().min(MAX_LINE)];
    let room_for = |length: usize| if length <= MAX_LINE { Ok(Parsed::Partial) } else { Err(Malformed::Line) };
    let Some(end) = memchr::memchr2(b'\r', b'\n', head) else { return room_for(bytes.len() + 2) };
    match head.get(end..end + 2) {
        Some(b"\r\n") => {
            let addresses = words(&head[LINE_START.len()..end]).ok_or(Malformed::Line)?;
            Ok(Parsed::Header { length: end + 2, addresses })
        }
        None if head[end] == b'\r' => room_for(end + 2),
        _ => Err(Malformed::Line),
    }
}

/// What stands between `PROXY ` and CRLF. The outer `None`: nothing that may stand there.
fn words(line: &[u8]) -> Option<Option<Addresses>> {
    // Whatever stands behind UNKNOWN is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |text| Some(IpAddr::V4(text.parse().ok()?)),
        "TCP6" => |text| Some(IpAddr::V6(text.parse().ok()?)),
        _ => return None,
    };
    let (source, destination) = (address(words.next()?)?, address(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let addresses = Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) };
    Some(Some(addresses))
}

/// Decimal without sign or leading zero.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// 2.2. What is wrong with the first bytes is said as soon as they are there.
fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((&kind, rest)) = bytes.get(SIGNATURE.len()..).and_then(<[u8]>::split_first) else {
        return Ok(Parsed::Partial);
    };
    let is_local = match kind {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Kind),
    };
    let [family, high, low, ..] = *rest else { return Ok(Parsed::Partial) };
    let layout = Layout::of(family);
    // The family of LOCAL is ignored, whatever it is.
    if layout.is_none() && !is_local {
        return Err(Malformed::Kind);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BLOCK {
        return Err(Malformed::TooLong);
    }
    let layout = layout.filter(|layout| length >= layout.length);
    if layout.is_none() && !is_local {
        return Err(Malformed::TooShort);
    }
    let Some(header) = bytes.get(..FIXED + length) else { return Ok(Parsed::Partial) };
    let believed = layout.filter(|layout| !is_local && layout.is_internet);
    match checksum(header, FIXED + layout.map_or(0, |layout| layout.length)) {
        Err(Malformed::Tlv) if believed.is_none() => {}
        checked => checked?,
    }
    let addresses = believed.and_then(|layout| decode(&header[FIXED..FIXED + layout.length]));
    Ok(Parsed::Header { length: header.len(), addresses })
}

/// What a family and a transport say about the block behind them.
#[derive(Clone, Copy)]
struct Layout {
    /// Bytes that the addresses take.
    length: usize,
    /// They are a client's, with ports.
    is_internet: bool,
}

impl Layout {
    /// `None`: a combination that the specification does not have.
    fn of(family: u8) -> Option<Self> {
        let (family, transport) = (family >> 4, family & 15);
        // A client that came over QUIC is a client as well; of an unspecified transport, addresses are to be ignored.
        let has_ports = match transport {
            0 => false,
            1 | 2 => true,
            _ => return None,
        };
        match family {
            0 => Some(Self { length: 0, is_internet: false }),
            1 => Some(Self { length: 12, is_internet: has_ports }),
            2 => Some(Self { length: 36, is_internet: has_ports }),
            3 => Some(Self { length: 216, is_internet: false }),
            _ => None,
        }
    }
}

/// Both addresses, then both ports.
fn decode(block: &[u8]) -> Option<Addresses> {
    let (addresses, ports) = block.split_at_checked(block.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let ip = |octets: &[u8]| match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        _ => <[u8; 16]>::try_from(octets).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
    };
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    Some(Addresses {
        source: SocketAddr::new(ip(source)?, port(0)?),
        destination: SocketAddr::new(ip(destination)?, port(2)?),
    })
}

/// Walks the TLVs from `start` to the header's end, and verifies a checksum that stands among them.
fn checksum(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut sum = None;
    let mut at = start;
    while at < header.len() {
        let [kind, high, low, ..] = header[at..] else { return Err(Malformed::Tlv) };
        let (value, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        at = value + length;
        if at > header.len() || kind == TLV_CRC32C && (length != 4 || sum.is_some()) {
            return Err(Malformed::Tlv);
        }
        if kind == TLV_CRC32C {
            sum = Some(value..at);
        }
    }
    let Some(sum) = sum else { return Ok(()) };
    let mut crc = !0;
    crc = crc32c(crc, &header[..sum.start]);
    crc = crc32c(crc, &[0; 4]);
    crc = !crc32c(crc, &header[sum.end..]);
    if crc.to_be_bytes() == header[sum] { Ok(()) } else { Err(Malformed::Checksum) }
}

/// RFC 4960 Appendix B, bit by bit: there are a few dozen bytes once in a connection.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
        }
    }
    crc
}

/// For whom a connection to a server is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// For a client; `None`: one whose addresses cannot be told (a unix socket).
    Client(Option<Addresses>),
    /// For ourselves: a health check. The receiver takes the socket's addresses.
    Local,
}

/// The header to send before anything else.
///
/// Where the two ends are of different families, version 1 has no words for them (UNKNOWN), and version 2 writes the IPv4
/// one as an IPv4-mapped IPv6 address.
pub fn header(version: Version, sender: Sender) -> Vec<u8> {
    match version {
        Version::V1 => text(sender),
        Version::V2 => block(sender),
    }
}

fn text(sender: Sender) -> Vec<u8> {
    let mut line = String::from("PROXY ");
    let family = match sender {
        Sender::Client(Some(addresses)) => match canonical(addresses) {
            (source, destination) if source.is_ipv4() && destination.is_ipv4() => "TCP4",
            (source, destination) if source.is_ipv6() && destination.is_ipv6() => "TCP6",
            _ => "UNKNOWN",
        },
        _ => "UNKNOWN",
    };
    line.push_str(family);
    if let Sender::Client(Some(addresses)) = sender
        && family != "UNKNOWN"
    {
        let (source, destination) = canonical(addresses);
        let (from, to) = (addresses.source.port(), addresses.destination.port());
        // Writing to a String does not fail.
        let _ = write!(line, " {source} {destination} {from} {to}");
    }
    line.push_str("\r\n");
    line.into_bytes()
}

fn block(sender: Sender) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED + 36);
    header.extend_from_slice(SIGNATURE);
    let addresses = match sender {
        Sender::Local => {
            header.extend_from_slice(&[0x20, 0x00, 0, 0]);
            return header;
        }
        Sender::Client(None) => {
            header.extend_from_slice(&[0x21, 0x00, 0, 0]);
            return header;
        }
        Sender::Client(Some(addresses)) => addresses,
    };
    match canonical(addresses) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend_from_slice(&[0x21, 0x11, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            header.extend_from_slice(&[0x21, 0x21, 0, 36]);
            header.extend_from_slice(&mapped(source).octets());
            header.extend_from_slice(&mapped(destination).octets());
        }
    }
    header.extend_from_slice(&addresses.source.port().to_be_bytes());
    header.extend_from_slice(&addresses.destination.port().to_be_bytes());
    header
}

/// An IPv4 client of a dual-stack socket is an IPv4 client.
fn canonical(addresses: Addresses) -> (IpAddr, IpAddr) {
    (addresses.source.ip().to_canonical(), addresses.destination.ip().to_canonical())
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
