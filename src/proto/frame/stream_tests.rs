//! Properties over whole streams, and two other implementations as judges of this one.

use std::io::Cursor;

use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
use tokio_websockets::proto::ProtocolError;
use tokio_websockets::{ClientBuilder, Error, Limits, ServerBuilder};

use super::header::Header;
use super::tests::{Outcome, Seen, drive, frame};
use super::*;

/// One frame to be drawn: what kind, how much payload, and what its first two bytes are spoilt with.
type Draw = (u8, usize, [u8; 2]);

pub(super) fn senders() -> impl Strategy<Value = Sender> {
    prop_oneof![Just(Sender::Client), Just(Sender::Server)]
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![30 => 0..40usize, 8 => 110..140usize, 1 => 65_500..65_600usize]
}

fn draws(spoil: impl Strategy<Value = [u8; 2]>) -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((0..26u8, sizes(), spoil), 0..12)
}

fn unspoilt() -> impl Strategy<Value = Vec<Draw>> {
    draws(Just([0, 0]))
}

/// Mostly whole; else one bit, or any bits, of the first two bytes turned.
fn spoilt() -> impl Strategy<Value = Vec<Draw>> {
    draws(prop_oneof![
        12 => Just([0, 0]),
        2 => (0..8u8).prop_map(|bit| [1 << bit, 0]),
        1 => (0..8u8).prop_map(|bit| [0, 1 << bit]),
        1 => any::<[u8; 2]>(),
    ])
}

pub(super) fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![2, 1]),
        prop::collection::vec(1..20usize, 1..8),
        prop::collection::vec(1..9000usize, 1..8)
    ]
}

/// The frames of a legal stream, apart from what they are spoilt with. Texts and reasons are ASCII.
fn frames(sender: Sender, draws: &[Draw]) -> Vec<Vec<u8>> {
    let mut in_message = false;
    let mut frames = Vec::new();
    for (at, (kind, size, spoil)) in draws.iter().enumerate() {
        let payload = vec![b'a' + at as u8; *size];
        let opcode = |first: u8| if in_message { first & 0x80 } else { first };
        let control = &payload[..payload.len().min(125)];
        let mut bytes = match kind {
            0..=4 => frame(sender, opcode(0x81), &payload),
            5..=9 => frame(sender, opcode(0x82), &payload),
            10..=14 => frame(sender, opcode(0x01), &payload),
            15..=16 => frame(sender, opcode(0x02), &payload),
            17..=20 => frame(sender, 0x89, control),
            21..=24 => frame(sender, 0x8A, control),
            _ => {
                let code = [1000u16, 1001, 3000, 4999, 999, 1005, 1006, 1015, 5000][size % 9];
                let payload = [&code.to_be_bytes()[..], &payload[..payload.len().min(123)]].concat();
                frame(sender, 0x88, if size % 2 == 0 { &payload } else { &[] })
            }
        };
        match kind {
            0..=9 => in_message = false,
            10..=16 => in_message = true,
            _ => {}
        }
        bytes[0] ^= spoil[0];
        bytes[1] ^= spoil[1];
        frames.push(bytes);
    }
    frames
}

fn rules() -> Rules {
    Rules { rsv: Rsv::None, max_frame_size: 1 << 20, max_message_size: 1 << 20 }
}

/// What tokio-websockets makes of a stream, and its error if it finds one.
fn reference(sender: Sender, input: &[u8]) -> (Vec<Seen>, Option<Error>) {
    let stream = tokio::io::join(input, tokio::io::sink());
    let limits = Limits::default().max_payload_len(Some(1 << 20));
    let mut socket = match sender {
        Sender::Client => ServerBuilder::new().limits(limits).serve(stream),
        Sender::Server => ClientBuilder::new().limits(limits).take_over(stream),
    };
    let mut seen = Vec::new();
    loop {
        match socket.next().now_or_never().expect("bytes in memory never wait") {
            None | Some(Err(Error::Io(_))) => return (seen, None),
            Some(Err(error)) => return (seen, Some(error)),
            Some(Ok(message)) => {
                let bytes = message.as_payload().to_vec();
                let size = bytes.len() as u64;
                seen.push(if message.is_text() {
                    Seen::Message(Kind::Text, size)
                } else if message.is_binary() {
                    Seen::Message(Kind::Binary, size)
                } else if message.is_ping() {
                    Seen::Ping(bytes)
                } else if message.is_pong() {
                    Seen::Pong(bytes)
                } else if let [a, b, reason @ ..] = &bytes[..] {
                    Seen::Close(Some(u16::from_be_bytes([*a, *b])), reason.to_vec())
                } else {
                    Seen::Close(None, Vec::new())
                });
            }
        }
    }
}

/// Codes that are not assigned pass here and not there.
fn is_unassigned(seen: Option<&Seen>) -> bool {
    matches!(seen, Some(Seen::Close(Some(1004 | 1016..=2999), _)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_legal_stream_goes_on_bit_for_bit_and_any_split_tells_the_same(
        sender in senders(),
        draws in unspoilt(),
        pieces in pieces(),
    ) {
        let frames = frames(sender, &draws);
        let input = frames.concat();
        let whole = drive(sender, &rules(), &input, &[usize::MAX], None);
        prop_assert_eq!(&drive(sender, &rules(), &input, &pieces, None), &whole);
        if whole.end.is_none() {
            prop_assert_eq!((whole.withheld, whole.payload_left, whole.frames), (0, 0, frames.len() as u64));
            prop_assert_eq!(&whole.forwarded, &input);
        }
    }

    #[test]
    fn a_spoilt_stream_is_refused_at_the_same_byte_in_any_split(
        sender in senders(),
        draws in spoilt(),
        pieces in pieces(),
        cut in 0..200usize,
    ) {
        let mut input = frames(sender, &draws).concat();
        input.truncate(input.len().saturating_sub(cut));
        let whole = drive(sender, &rules(), &input, &[usize::MAX], None);
        prop_assert_eq!(&drive(sender, &rules(), &input, &pieces, None), &whole);
        prop_assert!(input.starts_with(&whole.forwarded));
        // What has gone on is by itself in order.
        let again = drive(sender, &rules(), &whole.forwarded, &pieces, None);
        prop_assert!(!matches!(again.end, Some(End::Violation(_))));
        prop_assert_eq!((&again.forwarded, again.withheld), (&whole.forwarded, 0));
        prop_assert_eq!(again.seen, whole.seen);
    }

    #[test]
    fn swallowed_pongs_vanish_and_nothing_else_does(
        sender in senders(),
        draws in unspoilt(),
        pieces in pieces(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut draws = draws;
        if draws.is_empty() {
            return Ok(());
        }
        let at = at.index(draws.len());
        let (kind, size, _) = &mut draws[at];
        (*kind, *size) = (21, *size % 126);
        let payload = vec![b'a' + at as u8; *size];
        let pong = frame(sender, 0x8A, &payload);
        let frames = frames(sender, &draws);
        let judged = drive(sender, &rules(), &frames.concat(), &[usize::MAX], None);
        let outcome = drive(sender, &rules(), &frames.concat(), &pieces, Some(&payload));
        let last = judged.frames as usize;
        let expected: Vec<_> = frames[..last].iter().filter(|frame| **frame != pong).flatten().copied().collect();
        prop_assert_eq!(outcome.forwarded, expected);
        prop_assert_eq!((outcome.seen, outcome.end), (judged.seen, judged.end));
    }

    /// tokio-websockets checks UTF-8 as well; where it finds fault with a text, only what came before is compared.
    #[test]
    fn tokio_websockets_sees_the_same_and_refuses_the_same(
        sender in senders(),
        draws in spoilt(),
        pieces in pieces(),
    ) {
        let input = frames(sender, &draws).concat();
        let Outcome { seen, end, .. } = drive(sender, &rules(), &input, &pieces, None);
        let (expected, error) = reference(sender, &input);
        if matches!(error, Some(Error::Protocol(ProtocolError::InvalidUtf8))) {
            prop_assert!(seen.starts_with(&expected));
            return Ok(());
        }
        if error.is_some() && is_unassigned(seen.last()) {
            prop_assert_eq!(&seen[..seen.len() - 1], &expected[..]);
            return Ok(());
        }
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(matches!(end, Some(End::Violation(_))), error.is_some(), "{:?} {:?}", end, error);
    }

    /// tungstenite takes a header apart and judges only its opcode; the rest is worked out here from what it says.
    #[test]
    fn tungstenite_takes_a_header_apart_in_the_same_way(
        sender in senders(),
        rsv in prop_oneof![Just(Rsv::None), Just(Rsv::Deflate), Just(Rsv::Any)],
        first in prop_oneof![
            any::<u8>(),
            prop::sample::select(&[0x00, 0x01, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1][..]),
        ],
        second in prop_oneof![any::<u8>(), 0x7C..=0x7Fu8, 0xFC..=0xFFu8],
        rest in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..14),
            (any::<[u8; 6]>(), 0..9usize).prop_map(|(low, zeros)| [vec![0; zeros], low.to_vec()].concat()),
        ],
    ) {
        let bytes = [&[first, second][..], &rest].concat();
        let mut cursor = Cursor::new(&bytes);
        let ours = Header::read(&bytes, sender, rsv);
        match FrameHeader::parse(&mut cursor) {
            Err(_) => prop_assert!(
                matches!(ours, Ok(None) | Err(Violation::ReservedOpcode(_))),
                "it stops at a reserved opcode: {:?}", ours
            ),
            Ok(None) => prop_assert!(!matches!(ours, Ok(Some(_))), "{:?}", ours),
            Ok(Some((header, payload))) => {
                let opcode = u8::from(header.opcode);
                let expected = expected_violation(&header, payload, sender, rsv, cursor.position());
                match ours {
                    Ok(Some(ours)) => {
                        prop_assert!(expected.is_empty(), "{:?} was not found", expected);
                        let size = cursor.position() as usize;
                        prop_assert_eq!(ours, Header { opcode, fin: header.is_final, size, payload });
                    }
                    Ok(None) => prop_assert!(false, "complete for tungstenite"),
                    Err(violation) => {
                        prop_assert!(expected.contains(&violation), "{:?} is none of {:?}", violation, expected);
                    }
                }
            }
        }
    }
}

/// Everything that is wrong with a header, from tungstenite's reading of it.
pub(super) fn expected_violation(
    header: &FrameHeader,
    payload: u64,
    sender: Sender,
    rsv: Rsv,
    size: u64,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let control = matches!(header.opcode, OpCode::Control(_));
    let opcode = u8::from(header.opcode);
    let may = |bit| rsv == Rsv::Any || rsv == Rsv::Deflate && bit == 1 && (opcode == 1 || opcode == 2);
    if [(1, header.rsv1), (2, header.rsv2), (3, header.rsv3)].into_iter().any(|(bit, set)| set && !may(bit)) {
        found.push(Violation::ReservedBits);
    }
    match (sender, header.mask) {
        (Sender::Client, None) => found.push(Violation::Unmasked),
        (Sender::Server, Some(_)) => found.push(Violation::Masked),
        _ => {}
    }
    let mask = if header.mask.is_some() { 4 } else { 0 };
    if control && !header.is_final {
        found.push(Violation::ControlFragmented);
    }
    if control && size > 2 + mask {
        found.push(Violation::ControlTooLong);
    }
    if opcode == 8 && payload == 1 && size == 2 + mask {
        found.push(Violation::CloseTooShort);
    }
    if payload >> 63 == 1 {
        found.push(Violation::LengthTopBit);
    } else if header.len(payload) as u64 != size {
        found.push(Violation::LengthNotMinimal);
    }
    found
}
