//! The tracker against a follower of whole streams that is built on tungstenite's header parser: any opcode, any
//! encoding of a length, reserved bits with and without an extension, both senders, any split.

use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::stream_tests::{expected_violation, pieces, senders};
use super::tests::drive;
use super::*;

/// A frame to be drawn.
#[derive(Clone, Debug)]
struct Draw {
    opcode: u8,
    /// A data frame becomes the opcode that may stand here.
    in_order: bool,
    fin: bool,
    rsv: u8,
    size: usize,
    /// Bytes of the extended length, if more than the shortest form has.
    length_size: usize,
    /// The mask that this sender must not leave out, or must not have.
    wrong_mask: bool,
    close_code: u16,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        prop_oneof![12 => 0..3u8, 6 => 8..11u8, 1 => 0..16u8],
        prop::bool::weighted(0.97),
        prop::bool::weighted(0.7),
        prop_oneof![12 => Just(0u8), 4 => Just(4u8), 1 => 0..8u8],
        prop_oneof![30 => 0..40usize, 8 => 110..140usize, 1 => 65_500..65_600usize],
        prop_oneof![60 => Just(0usize), 1 => Just(2), 1 => Just(8), 1 => Just(9)],
        prop::bool::weighted(0.01),
        prop_oneof![2 => Just(1000u16), 1 => 0..5100u16],
    );
    let draw = draw.prop_map(|(opcode, in_order, fin, rsv, size, length_size, wrong_mask, close_code)| Draw {
        opcode,
        in_order,
        fin,
        rsv,
        size,
        length_size,
        wrong_mask,
        close_code,
    });
    prop::collection::vec(draw, 0..14)
}

/// The stream of these frames; a Close is drawn only as the last one, so that streams go on for a while.
fn stream(sender: Sender, draws: &[Draw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut in_message = false;
    for (at, draw) in draws.iter().enumerate() {
        let last = at + 1 == draws.len();
        let opcode = match draw.opcode {
            0..=2 if draw.in_order && in_message => 0,
            0 if draw.in_order => 1,
            8 if !last => 9,
            other => other,
        };
        let is_control = opcode >= 8;
        if !is_control {
            in_message = !draw.fin;
        }
        let fin = draw.fin || is_control && draw.in_order;
        let size = if is_control && draw.in_order { draw.size.min(125) } else { draw.size };
        let mut payload = vec![b'a' + at as u8; size];
        if let (8, [first, second, ..]) = (opcode, &mut payload[..]) {
            [*first, *second] = draw.close_code.to_be_bytes();
        }
        bytes.push(u8::from(fin) << 7 | (if is_control { 0 } else { draw.rsv << 4 }) | opcode);
        let masked = (sender == Sender::Client) != draw.wrong_mask;
        push_length(&mut bytes, size, draw.length_size, masked);
        let mask = if masked { [7, 0, 255, 9] } else { [0; 4] };
        if masked {
            bytes.extend(mask);
        }
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
    bytes
}

/// In its shortest form, or in `more` bytes if that is longer; 9 stands for eight with the top bit set.
fn push_length(bytes: &mut Vec<u8>, size: usize, more: usize, masked: bool) {
    let shortest = [125, 0xFFFF].iter().filter(|most| size > **most).count();
    let mask = u8::from(masked) << 7;
    match (shortest, more) {
        (0, 0) => bytes.push(mask | size as u8),
        (0 | 1, 0 | 2) => {
            bytes.push(mask | 126);
            bytes.extend((size as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            let top = if more == 9 { 1 << 63 } else { 0 };
            bytes.extend((size as u64 | top).to_be_bytes());
        }
    }
}

/// What must become of a stream.
#[derive(Debug)]
struct Expected {
    /// Bytes that go on.
    forwarded: usize,
    frames: u64,
    end: Ends,
}

#[derive(Debug)]
enum Ends {
    /// Nothing is wrong, as far as it goes.
    Open,
    Close,
    /// Any of these.
    Violation(Vec<Violation>),
    /// Only a part of the last header has come; what is wrong with it may be known already.
    Unknown,
}

/// Follows a stream frame by frame.
fn follow(sender: Sender, rsv: Rsv, input: &[u8]) -> Expected {
    let (mut at, mut frames, mut in_message) = (0, 0, false);
    let end = loop {
        let rest = &input[at..];
        let mut cursor = Cursor::new(rest);
        let (header, payload) = match FrameHeader::parse(&mut cursor) {
            _ if rest.is_empty() => break Ends::Open,
            Err(_) => break Ends::Violation(vec![Violation::ReservedOpcode(rest[0] & 0x0F)]),
            Ok(None) => break Ends::Unknown,
            Ok(Some(parsed)) => parsed,
        };
        let size = cursor.position();
        let opcode = u8::from(header.opcode);
        let mut wrong = expected_violation(&header, payload, sender, rsv, size);
        match (opcode, in_message) {
            (0, false) => wrong.push(Violation::StrayContinuation),
            (1 | 2, true) => wrong.push(Violation::MessageUnfinished),
            _ => {}
        }
        if !wrong.is_empty() {
            break Ends::Violation(wrong);
        }
        let body = &rest[size as usize..];
        if opcode >= 8 {
            let Some(body) = body.get(..payload as usize) else { break Ends::Open };
            let code = forbidden_code(opcode, body, header.mask);
            if let Some(code) = code {
                break Ends::Violation(vec![Violation::CloseCode(code)]);
            }
        } else {
            in_message = !header.is_final;
        }
        frames += 1;
        at += size as usize + body.len().min(payload as usize);
        if opcode == 8 {
            break Ends::Close;
        }
    };
    Expected { forwarded: at, frames, end }
}

/// A Close's code that tungstenite does not allow; those that nobody has assigned yet pass here.
fn forbidden_code(opcode: u8, body: &[u8], mask: Option<[u8; 4]>) -> Option<u16> {
    let (8, [first, second, ..]) = (opcode, body) else { return None };
    let mask = mask.unwrap_or_default();
    let code = u16::from_be_bytes([first ^ mask[0], second ^ mask[1]]);
    (!CloseCode::from(code).is_allowed() && !matches!(code, 1004 | 1016..=2999)).then_some(code)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn tungstenite_follows_the_same_frames_in_any_split(
        sender in senders(),
        rsv in prop_oneof![Just(Rsv::None), Just(Rsv::Deflate), Just(Rsv::Any)],
        draws in draws(),
        pieces in pieces(),
        cut in prop_oneof![Just(0usize), 0..200usize],
    ) {
        let mut input = stream(sender, &draws);
        input.truncate(input.len().saturating_sub(cut));
        let expected = follow(sender, rsv, &input);
        let outcome = drive(sender, &Rules { rsv, ..Rules::default() }, &input, &pieces, None);
        prop_assert_eq!(&outcome.forwarded[..], &input[..expected.forwarded], "{:?}", expected);
        prop_assert_eq!(outcome.frames, expected.frames, "{:?}", expected);
        let same = match (&expected.end, outcome.end) {
            (Ends::Open, None) | (Ends::Close, Some(End::Close)) => true,
            (Ends::Unknown, end) => matches!(end, None | Some(End::Violation(_))),
            (Ends::Violation(known), Some(End::Violation(found))) => known.contains(&found),
            _ => false,
        };
        prop_assert!(same, "{:?} {:?}", expected, outcome.end);
    }
}
