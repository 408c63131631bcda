//! Rule by rule, with the section that says so.

use std::time::Duration;

use super::*;

const CLIENT_MASK: [u8; 4] = [1, 2, 3, 4];

/// A frame with its length in shortest form.
pub(super) fn frame(sender: Sender, first: u8, payload: &[u8]) -> Vec<u8> {
    let size = payload.len();
    let mut bytes = vec![first, 0];
    match size {
        0..=125 => bytes[1] = size as u8,
        126..=0xFFFF => {
            bytes[1] = 126;
            bytes.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            bytes[1] = 127;
            bytes.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    match sender {
        Sender::Server => bytes.extend_from_slice(payload),
        Sender::Client => {
            bytes[1] |= 0x80;
            bytes.extend_from_slice(&CLIENT_MASK);
            bytes.extend(payload.iter().zip(CLIENT_MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    bytes
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Message(Kind, u64),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub seen: Vec<Seen>,
    pub swallow: Option<Vec<u8>>,
}

impl Watch for Recorder {
    fn message(&mut self, kind: Kind, size: u64) {
        self.seen.push(Seen::Message(kind, size));
    }

    fn ping(&mut self, payload: &[u8]) {
        self.seen.push(Seen::Ping(payload.to_vec()));
    }

    fn pong(&mut self, payload: &[u8]) -> Verdict {
        self.seen.push(Seen::Pong(payload.to_vec()));
        if self.swallow.as_deref() == Some(payload) { Verdict::Swallow } else { Verdict::Pass }
    }

    fn close(&mut self, code: Option<u16>, reason: &[u8]) {
        self.seen.push(Seen::Close(code, reason.to_vec()));
    }
}

/// What became of a whole input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub forwarded: Vec<u8>,
    pub seen: Vec<Seen>,
    pub end: Option<End>,
    pub frames: u64,
    pub withheld: usize,
    pub payload_left: u64,
}

/// Feeds `input` in pieces of the given sizes, over and over.
pub(super) fn drive(
    sender: Sender,
    rules: &Rules,
    mut input: &[u8],
    pieces: &[usize],
    swallow: Option<&[u8]>,
) -> Outcome {
    let mut tracker = Tracker::new(sender);
    let mut watch = Recorder { seen: Vec::new(), swallow: swallow.map(<[u8]>::to_vec) };
    let (mut forwarded, mut end) = (Vec::new(), None);
    let mut sizes = pieces.iter().cycle();
    while !input.is_empty() {
        let (piece, later) = input.split_at(input.len().min(*sizes.next().expect("sizes")));
        input = later;
        let mut buffer = [vec![0xEE; tracker.withheld()], piece.to_vec()].concat();
        let mut at = 0;
        while at < buffer.len() {
            let step = tracker.feed(rules, &mut buffer[at..], Until::Input, &mut watch);
            assert!(step.consumed > 0 && step.forward <= step.consumed);
            forwarded.extend_from_slice(&buffer[at..][..step.forward]);
            at += step.consumed;
            if let Some(found) = step.end {
                assert!(tracker.at_boundary() && tracker.is_closed(), "{found:?} leaves room for a Close");
                assert_eq!(end.replace(found), None, "said once");
            }
        }
    }
    let messages = watch.seen.iter().filter(|seen| matches!(seen, Seen::Message(..))).count() as u64;
    assert_eq!(tracker.messages(Kind::Text) + tracker.messages(Kind::Binary), messages);
    let (frames, withheld, payload_left) = (tracker.frames(), tracker.withheld(), tracker.payload_left());
    Outcome { forwarded, seen: watch.seen, end, frames, withheld, payload_left }
}

fn judge(sender: Sender, rules: &Rules, input: &[u8]) -> Outcome {
    drive(sender, rules, input, &[usize::MAX], None)
}

fn violation(sender: Sender, rules: &Rules, input: &[u8]) -> Option<Violation> {
    let outcome = judge(sender, rules, input);
    match outcome.end {
        Some(End::Violation(violation)) => Some(violation),
        _ => None,
    }
}

#[test]
fn every_rule_of_rfc_6455_is_held_and_the_offending_frame_stays_here() {
    use Sender::{Client, Server};
    use Violation as V;
    let long = [&[0x89, 126, 0, 126][..], &[0; 126]].concat();
    let huge_control = [&[0x8A, 127][..], &[0; 8]].concat();
    let top_bit = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
    #[rustfmt::skip]
    let table: &[(&str, Sender, &[u8], Violation)] = &[
        ("5.2 opcode 3", Server, &[0x83, 0], V::ReservedOpcode(3)),
        ("5.2 opcode 7", Server, &[0x87, 0], V::ReservedOpcode(7)),
        ("5.2 opcode 11", Server, &[0x8B, 0], V::ReservedOpcode(11)),
        ("5.2 opcode 15", Client, &[0x8F, 0x80], V::ReservedOpcode(15)),
        ("5.2 RSV1", Server, &[0xC2, 0], V::ReservedBits),
        ("5.2 RSV2", Server, &[0xA2, 0], V::ReservedBits),
        ("5.2 RSV3", Server, &[0x92, 0], V::ReservedBits),
        ("5.2 RSV1 on a ping", Server, &[0xC9, 0], V::ReservedBits),
        ("5.1 no mask", Client, &[0x82, 0], V::Unmasked),
        ("5.1 no mask on a close", Client, &[0x88, 0], V::Unmasked),
        ("5.1 mask", Server, &[0x82, 0x80], V::Masked),
        ("5.5 ping of 126 bytes", Server, &long, V::ControlTooLong),
        ("5.5 pong with a 64-bit length", Server, &huge_control, V::ControlTooLong),
        ("5.5 fragmented close", Server, &[0x08, 0], V::ControlFragmented),
        ("5.5 fragmented ping", Client, &[0x09, 0x80], V::ControlFragmented),
        ("5.4 continuation of nothing", Server, &[0x80, 0], V::StrayContinuation),
        ("5.4 first fragment as continuation", Server, &[0x00, 0], V::StrayContinuation),
        ("5.2 top bit", Server, &top_bit, V::LengthTopBit),
        ("5.2 16 bits for 125", Server, &[0x82, 126, 0, 125], V::LengthNotMinimal),
        ("5.2 64 bits for 65535", Server, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], V::LengthNotMinimal),
        ("5.5.1 half a code", Server, &[0x88, 1, 3], V::CloseTooShort),
        ("7.4.2 code 0", Server, &[0x88, 2, 0, 0], V::CloseCode(0)),
        ("7.4.2 code 999", Server, &[0x88, 2, 3, 0xE7], V::CloseCode(999)),
        ("7.4.1 code 1005", Server, &[0x88, 2, 3, 0xED], V::CloseCode(1005)),
        ("7.4.1 code 1006", Server, &[0x88, 2, 3, 0xEE], V::CloseCode(1006)),
        ("7.4.1 code 1015", Server, &[0x88, 2, 3, 0xF7], V::CloseCode(1015)),
        ("7.4.2 code 5000", Server, &[0x88, 2, 0x13, 0x88], V::CloseCode(5000)),
    ];
    for (name, sender, bytes, expected) in table {
        let good = frame(*sender, 0x82, b"good");
        let input = [&good[..], bytes, &good].concat();
        let outcome = judge(*sender, &Rules::default(), &input);
        assert_eq!(outcome.end, Some(End::Violation(*expected)), "{name}");
        assert_eq!(outcome.forwarded, good, "{name}");
    }
}

#[test]
fn a_message_may_not_begin_inside_another_rfc_6455_5_4() {
    let input = [frame(Sender::Server, 0x01, b"a"), frame(Sender::Server, 0x82, b"b")].concat();
    assert_eq!(violation(Sender::Server, &Rules::default(), &input), Some(Violation::MessageUnfinished));
}

#[test]
fn what_two_bytes_give_away_is_refused_without_the_rest_of_the_header() {
    assert_eq!(violation(Sender::Client, &Rules::default(), &[0x82, 126]), Some(Violation::Unmasked));
    assert_eq!(violation(Sender::Server, &Rules::default(), &[0xC2, 127]), Some(Violation::ReservedBits));
}

#[test]
fn lengths_pass_in_shortest_form_at_every_edge() {
    for size in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000] {
        for sender in [Sender::Client, Sender::Server] {
            let input = frame(sender, 0x82, &vec![7; size]);
            let outcome = judge(sender, &Rules::default(), &input);
            assert_eq!((outcome.end, &outcome.forwarded), (None, &input), "{size}");
            assert_eq!(outcome.seen, [Seen::Message(Kind::Binary, size as u64)]);
        }
    }
}

#[test]
fn a_length_of_63_bits_is_a_length() {
    let header = [0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    let outcome = judge(Sender::Server, &Rules::default(), &header);
    assert_eq!((outcome.end, outcome.payload_left), (None, i64::MAX as u64));
}

#[test]
fn reserved_bits_pass_only_where_and_as_agreed_rfc_7692_6() {
    // First byte, and whether it passes for: nobody, permessage-deflate, any other extension. Fragments come second.
    let table: &[(&[u8], [bool; 3])] = &[
        (&[0xC1], [false, true, true]),
        (&[0xC2], [false, true, true]),
        (&[0x41, 0x80], [false, true, true]),
        (&[0x41, 0xC0], [false, false, true]),
        (&[0xC9], [false, false, true]),
        (&[0xA2], [false, false, true]),
        (&[0xD2], [false, false, true]),
    ];
    for (firsts, expected) in table {
        let input: Vec<u8> = firsts.iter().flat_map(|first| [*first, 0]).collect();
        let passes = [Rsv::None, Rsv::Deflate, Rsv::Any]
            .map(|rsv| violation(Sender::Server, &Rules { rsv, ..Rules::default() }, &input).is_none());
        assert_eq!(passes, *expected, "{firsts:02x?}");
    }
}

#[test]
fn extensions_decide_which_reserved_bits_may_be_set() {
    let agreed = |names: &[&'static str]| Rsv::agreed(names.iter().copied());
    assert_eq!(agreed(&[]), Rsv::None);
    assert_eq!(agreed(&["permessage-deflate"]), Rsv::Deflate);
    assert_eq!(agreed(&["x-mux"]), Rsv::Any);
    assert_eq!(agreed(&["permessage-deflate", "x-mux"]), Rsv::Any);
    assert_eq!(agreed(&["x-mux", "permessage-deflate"]), Rsv::Any);
}

#[test]
fn limits_count_payload_as_on_the_wire_and_stop_before_the_frame_that_breaks_them() {
    let rules = Rules { max_frame_size: 10, max_message_size: 15, ..Rules::default() };
    let s = Sender::Server;
    let whole = [frame(s, 0x82, &[0; 10]), frame(s, 0x02, &[0; 10]), frame(s, 0x80, &[0; 5])].concat();
    assert_eq!(violation(s, &rules, &whole), None);
    assert_eq!(violation(s, &rules, &frame(s, 0x82, &[0; 11])), Some(Violation::FrameTooBig));
    let begun = frame(s, 0x02, &[0; 10]);
    let outcome = judge(s, &rules, &[begun.clone(), frame(s, 0x89, &[0; 100]), frame(s, 0x80, &[0; 6])].concat());
    assert_eq!(outcome.end, Some(End::Violation(Violation::MessageTooBig)));
    assert_eq!(outcome.forwarded.len(), begun.len() + 102, "a ping's payload counts for no message");
    // Lengths that would overflow a sum.
    let huge = Rules { max_message_size: u64::MAX - 1, ..Rules::default() };
    let mut tracker = Tracker::new(s);
    let mut header = [0x02, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    for expected in [None, None, Some(End::Violation(Violation::MessageTooBig))] {
        assert_eq!(tracker.feed(&huge, &mut header, Until::Input, &mut ()).end, expected);
        tracker.carry(u64::MAX, &mut ());
        header[0] = 0;
    }
}

#[test]
fn violations_close_with_1002_and_limits_with_1009() {
    assert_eq!(Violation::Unmasked.close_code(), 1002);
    assert_eq!(Violation::CloseCode(7).close_code(), 1002);
    assert_eq!((Violation::FrameTooBig.close_code(), Violation::MessageTooBig.close_code()), (1009, 1009));
}

#[test]
fn control_frames_stand_between_fragments_and_are_read_unmasked_rfc_6455_5_4() {
    let c = Sender::Client;
    let input = [
        frame(c, 0x01, b"Hel"),
        frame(c, 0x89, b"ping"),
        frame(c, 0x8A, b""),
        frame(c, 0x80, b"lo"),
        frame(c, 0x88, &[&[0x03, 0xE8][..], "geh\u{fc}t".as_bytes()].concat()),
    ]
    .concat();
    let outcome = judge(c, &Rules::default(), &input);
    assert_eq!(outcome.forwarded, input);
    assert_eq!((outcome.end, outcome.frames), (Some(End::Close), 5));
    let expected = [
        Seen::Ping(b"ping".to_vec()),
        Seen::Pong(Vec::new()),
        Seen::Message(Kind::Text, 5),
        Seen::Close(Some(1000), "geh\u{fc}t".as_bytes().to_vec()),
    ];
    assert_eq!(outcome.seen, expected);
}

#[test]
fn a_close_may_be_empty_or_have_an_unassigned_code() {
    for (payload, code) in
        [(&[][..], None), (&[0x03, 0xEC], Some(1004)), (&[0x0B, 0xB7], Some(2999)), (&[0x13, 0x87], Some(4999))]
    {
        let outcome = judge(Sender::Server, &Rules::default(), &frame(Sender::Server, 0x88, payload));
        assert_eq!((outcome.end, outcome.seen), (Some(End::Close), vec![Seen::Close(code, Vec::new())]));
    }
}

#[test]
fn nothing_follows_a_close_rfc_6455_5_5_1() {
    let close = frame(Sender::Server, 0x88, &[]);
    let input = [close.clone(), frame(Sender::Server, 0x82, b"late"), vec![0xFF; 200]].concat();
    for pieces in [&[usize::MAX][..], &[1]] {
        let outcome = drive(Sender::Server, &Rules::default(), &input, pieces, None);
        assert_eq!((outcome.forwarded, outcome.end), (close.clone(), Some(End::Close)));
    }
}

#[test]
fn a_header_goes_on_only_when_it_is_complete() {
    let input = frame(Sender::Client, 0x82, &[7; 70_000]);
    let mut tracker = Tracker::new(Sender::Client);
    for come in 1..14 {
        let mut buffer = [vec![0; tracker.withheld()], vec![input[come - 1]]].concat();
        let step = tracker.feed(&Rules::default(), &mut buffer, Until::Input, &mut ());
        assert_eq!(step, Step { forward: 0, consumed: come, end: None });
        assert_eq!(tracker.withheld(), come);
        assert_eq!(tracker.may_inject(), Ok(()), "nothing of it has gone on");
    }
    let mut buffer = [vec![0; 13], input[13..20].to_vec()].concat();
    let step = tracker.feed(&Rules::default(), &mut buffer, Until::Input, &mut ());
    assert_eq!((step.forward, &buffer[..]), (20, &input[..20]));
    assert_eq!(tracker.payload_left(), 70_000 - 6);
    assert_eq!(tracker.may_inject(), Err(NoInjection::MidFrame));
}

#[test]
fn payload_may_go_on_unseen() {
    let mut tracker = Tracker::new(Sender::Server);
    let mut watch = Recorder::default();
    let mut input = frame(Sender::Server, 0x82, &[7; 1000]);
    input.truncate(104);
    tracker.feed(&Rules::default(), &mut input, Until::Input, &mut watch);
    assert_eq!(tracker.carry(400, &mut watch), 400);
    assert_eq!((tracker.payload_left(), watch.seen.len()), (500, 0));
    assert_eq!(tracker.carry(u64::MAX, &mut watch), 500);
    assert_eq!(watch.seen, [Seen::Message(Kind::Binary, 1000)]);
    assert_eq!(tracker.carry(9, &mut watch), 0);
    assert_eq!((watch.seen.len(), tracker.may_inject()), (1, Ok(())));
}

#[test]
fn judging_stops_between_two_frames_for_somebody_who_waits_to_inject() {
    let mut tracker = Tracker::new(Sender::Server);
    let rules = Rules::default();
    let one = frame(Sender::Server, 0x01, b"one");
    let mut buffer = [&one[..], &one, &[0x80]].concat();
    assert_eq!(tracker.feed(&rules, &mut buffer[..3], Until::Input, &mut ()).forward, 3);
    let step = tracker.feed(&rules, &mut buffer[3..], Until::Boundary, &mut ());
    assert_eq!(step, Step { forward: 2, consumed: 2, end: Some(End::Boundary) });
    assert!(tracker.in_message(), "the message goes on, but a Close may interrupt it");
    let step = tracker.feed(&rules, &mut buffer[5..], Until::Boundary, &mut ());
    assert_eq!(step, Step { forward: 0, consumed: 0, end: Some(End::Boundary) });
    // What is withheld stays withheld.
    let mut tracker = Tracker::new(Sender::Server);
    tracker.feed(&rules, &mut [0x82], Until::Input, &mut ());
    assert_eq!(tracker.feed(&rules, &mut [0, 1, 7], Until::Boundary, &mut ()).consumed, 0);
    assert_eq!(tracker.feed(&rules, &mut [0, 1, 7], Until::Input, &mut ()).forward, 3);
}

#[test]
fn a_close_is_injected_once_between_frames_and_ends_the_direction() {
    let mut tracker = Tracker::new(Sender::Client);
    let mut input = frame(Sender::Client, 0x82, b"data");
    let rules = Rules::default();
    tracker.feed(&rules, &mut input[..8], Until::Input, &mut ());
    assert_eq!(tracker.inject_close(), Err(NoInjection::MidFrame));
    tracker.feed(&rules, &mut input[8..], Until::Input, &mut ());
    assert_eq!(tracker.inject_close(), Ok(()));
    assert_eq!(tracker.inject_close(), Err(NoInjection::Closed));
    assert_eq!(tracker.may_inject(), Err(NoInjection::Closed));
    let step = tracker.feed(&rules, &mut input, Until::Input, &mut ());
    assert_eq!(step, Step { forward: 0, consumed: 10, end: None });
}

#[test]
fn behind_an_injected_close_nothing_goes_on_or_counts_and_the_answer_is_heard() {
    #[derive(Default)]
    struct Answer(Option<u16>, usize);
    impl Watch for Answer {
        fn message(&mut self, _: Kind, _: u64) {
            self.1 += 1;
        }

        fn close(&mut self, code: Option<u16>, _: &[u8]) {
            self.0 = code;
        }
    }
    let (rules, mut watch) = (Rules::default(), Answer::default());
    let mut tracker = Tracker::new(Sender::Client);
    let input = [frame(Sender::Client, 0x82, b"data"), frame(Sender::Client, 0x88, &[3, 0xE9])].concat();
    // What was withheld before the injection begins the next frame all the same.
    tracker.feed(&rules, &mut input[..3].to_vec(), Until::Input, &mut watch);
    assert_eq!((tracker.withheld(), tracker.inject_close()), (3, Ok(())));
    for cut in 4..=input.len() {
        let mut buffer = [vec![0; tracker.withheld()], input[cut - 1..cut].to_vec()].concat();
        let step = tracker.feed(&rules, &mut buffer, Until::Input, &mut watch);
        assert_eq!((step.forward, step.end), (0, None));
    }
    assert_eq!((watch.0, watch.1, tracker.frames(), tracker.messages(Kind::Binary)), (Some(1001), 0, 0, 0));
}

#[test]
fn a_violation_leaves_room_for_one_close_and_a_close_for_none() {
    let mut tracker = Tracker::new(Sender::Server);
    tracker.feed(&Rules::default(), &mut [0xFF, 0xFF], Until::Input, &mut ());
    assert!(tracker.is_closed() && !tracker.close_passed());
    assert_eq!((tracker.inject_close(), tracker.inject_close()), (Ok(()), Err(NoInjection::Closed)));
    let mut tracker = Tracker::new(Sender::Server);
    tracker.feed(&Rules::default(), &mut [0x88, 0], Until::Input, &mut ());
    assert_eq!(tracker.inject_close(), Err(NoInjection::Closed));
}

#[test]
fn a_forbidden_close_code_lets_a_better_close_take_its_place() {
    let mut tracker = Tracker::new(Sender::Server);
    let step = tracker.feed(&Rules::default(), &mut [0x88, 2, 3, 0xED], Until::Input, &mut ());
    assert_eq!(step.end, Some(End::Violation(Violation::CloseCode(1005))));
    assert_eq!(tracker.inject_close(), Ok(()));
}

#[test]
fn an_idle_direction_is_64_bytes_small() {
    assert!(size_of::<Tracker>() <= 64, "{}", size_of::<Tracker>());
}

#[test]
fn frames_of_ours_pass_our_own_judge() {
    for (sender, mask) in [(Sender::Server, None), (Sender::Client, Some(0xA1B2_C3D4))] {
        let frames = [
            ControlFrame::ping(b"12345678", mask).expect("short"),
            ControlFrame::pong(&[9; 125], mask).expect("short"),
            ControlFrame::close(1001, "going away", mask),
        ];
        let outcome =
            judge(sender, &Rules::default(), &frames.iter().flat_map(|frame| frame.to_vec()).collect::<Vec<_>>());
        let expected = [
            Seen::Ping(b"12345678".to_vec()),
            Seen::Pong(vec![9; 125]),
            Seen::Close(Some(1001), b"going away".to_vec()),
        ];
        assert_eq!((outcome.end, &outcome.seen[..]), (Some(End::Close), &expected[..]));
    }
    assert_eq!(ControlFrame::ping(&[0; 126], None), Err(PayloadTooLong));
    assert_eq!(*ControlFrame::close(1001, "", Some(0)), [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9]);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = format!("{}\u{fc}\u{fc}", "a".repeat(122));
    let close = ControlFrame::close(1011, &reason, None);
    assert_eq!((close.len(), close[1]), (2 + 2 + 122, 124));
    assert_eq!(ControlFrame::close(1011, &"a".repeat(500), None).len(), 2 + 125);
}

#[test]
fn close_codes_that_may_be_sent_are_those_of_the_registry_rfc_6455_7_4() {
    let refused = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX];
    assert!(refused.into_iter().all(|code| !close_code_may_be_sent(code)));
    let sent = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999];
    assert!(sent.into_iter().all(close_code_may_be_sent));
}

const fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_pong_for_our_ping_stays_here_and_gives_the_round_trip() {
    let mut pings = Pings::default();
    assert_eq!(pings.answered(b"unasked", second(0)), Pong::Foreign);
    pings.send(*b"ourping1", second(1));
    assert_eq!(pings.unanswered_since(), Some(second(1)));
    assert_eq!(pings.answered(b"ourpingX", second(2)), Pong::Foreign);
    assert_eq!(pings.answered(b"ourping1", second(3)), Pong::Ours(Some(second(2))));
    assert_eq!(pings.unanswered_since(), None);
    assert_eq!(pings.answered(b"ourping1", second(4)), Pong::Ours(None), "an echo of ours is nobody else's business");
}

#[test]
fn a_pong_that_comes_after_the_next_ping_of_ours_stays_here_as_well_and_the_next_one_can_still_be_answered() {
    let mut pings = Pings::default();
    let first = pings.send(*b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", second(1));
    let latest = pings.send(*b"whatever", second(2));
    assert_ne!(first, latest);
    assert_eq!(pings.answered(&first, second(3)), Pong::Ours(None));
    assert_eq!(pings.unanswered_since(), Some(second(2)));
    assert_eq!(pings.answered(&latest, second(4)), Pong::Ours(Some(second(2))));
    assert_eq!(pings.answered(b"whatever", second(4)), Pong::Foreign);
    assert_eq!(pings.answered(&[0, 0, 0, 0, 0, 0, 0, 1], second(4)), Pong::Foreign, "not asked yet");
}

#[test]
fn no_ping_of_ours_goes_out_while_one_of_the_other_end_waits_rfc_6455_5_5_3() {
    let mut pings = Pings::default();
    pings.passed(b"first", second(1));
    assert!(!pings.may_send());
    pings.passed(b"second", second(2));
    assert_eq!(pings.answered(b"first", second(3)), Pong::Foreign);
    assert!(!pings.may_send(), "the latest is still open");
    assert_eq!(pings.unanswered_since(), Some(second(1)));
    assert_eq!(pings.answered(b"second", second(4)), Pong::Foreign);
    assert!(pings.may_send());
}

#[test]
fn a_pong_for_a_later_ping_of_the_other_end_answers_ours_as_well() {
    let mut pings = Pings::default();
    pings.send(*b"ourping1", second(1));
    pings.passed(b"theirs", second(2));
    assert!(!pings.may_send());
    assert_eq!(pings.answered(b"theirs", second(3)), Pong::Foreign);
    assert_eq!((pings.may_send(), pings.unanswered_since()), (true, None));
}
