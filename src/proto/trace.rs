//! `traceparent` and `tracestate` (W3C Trace Context): reading them, and what of them goes on.
//!
//! What arrives is believed only in its form, which is checked to the letter: a trace id goes into logs. Where the gateway
//! has no part in a trace it does not touch it either; where it has, what is not well formed ends there: `tracestate` means
//! nothing without a good `traceparent` (3.3), and is dropped alone where it does not follow its grammar.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::fields::members;
use crate::types::TraceContext;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Version, trace id, parent id, flags, and three dashes (3.2).
const LENGTH: usize = 55;

/// Members of a `tracestate` (3.3.1.1).
const MEMBERS: usize = 32;

/// Of the flags, those that version 00 knows at the second level: sampled, and a trace id that is random.
const KNOWN_FLAGS: u8 = 0b11;

const SAMPLED: u8 = 0b01;

/// Whose trace a request belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// To none, and no server hears of one.
    #[default]
    None,
    /// To the client's, in which the gateway has no part: its words go on as they are. `None`: they are not well formed.
    Passed(Option<TraceContext>),
    /// The gateway has a span of its own in it.
    Joined(TraceContext),
}

impl Trace {
    /// The client's trace goes on as it is.
    pub fn pass(headers: &HeaderMap) -> Self {
        Self::Passed(parent(headers))
    }

    /// A span in the client's trace where that is believed, else in a new one. `random`: a trace id and a span id.
    pub fn join(headers: &HeaderMap, is_believed: bool, random: [u8; 24]) -> Self {
        let [trace @ .., _, _, _, _, _, _, _, _] = random;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, span @ ..] = random;
        if trace == [0; 16] || span == [0; 8] {
            // No randomness to be had: rather no trace than the same one for all.
            return Self::None;
        }
        Self::Joined(match parent(headers).filter(|_| is_believed) {
            Some(TraceContext { trace, span: parent, flags, .. }) => {
                TraceContext { trace, span, parent: Some(parent), flags: flags & KNOWN_FLAGS, is_own: true }
            }
            // Servers that go by what they are told would otherwise record nothing.
            None => TraceContext { trace, span, parent: None, flags: SAMPLED, is_own: true },
        })
    }

    pub fn context(&self) -> Option<&TraceContext> {
        match self {
            Self::None => None,
            Self::Passed(context) => context.as_ref(),
            Self::Joined(context) => Some(context),
        }
    }

    /// Leaves in a request's fields what its server is to hear.
    pub fn settle(&self, headers: &mut HeaderMap) {
        match self {
            Self::None => {
                headers.remove(&TRACEPARENT);
            }
            Self::Passed(_) => return,
            Self::Joined(context) => {
                if context.parent.is_none() {
                    headers.remove(&TRACESTATE);
                }
                headers.insert(TRACEPARENT.clone(), written(context));
            }
        }
        if !headers.contains_key(&TRACEPARENT) || !is_state(headers) {
            headers.remove(&TRACESTATE);
        }
    }
}

/// What the only `traceparent` says.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut lines = headers.get_all(&TRACEPARENT).into_iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse(line.as_bytes()),
        _ => None,
    }
}

/// One `traceparent`. A later version may have more behind what this one has, set off by a dash (3.2.4).
pub fn parse(text: &[u8]) -> Option<TraceContext> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let dashes = [known[2], known[35], known[52]];
    let ([version], [flags]) = (hex(&known[..2])?, hex(&known[53..])?);
    let (trace, span) = (hex(&known[3..35])?, hex(&known[36..52])?);
    let is_whole = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
    let is_good = version != 0xff && is_whole && dashes == [b'-'; 3] && trace != [0; 16] && span != [0; 8];
    is_good.then_some(TraceContext { trace, span, parent: None, flags, is_own: false })
}

/// Lower case only (3.2.1).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn written(context: &TraceContext) -> HeaderValue {
    let TraceContext { trace, span, flags, .. } = context;
    let (trace, span) = (u128::from_be_bytes(*trace), u64::from_be_bytes(*span));
    HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-{flags:02x}")).expect("hex digits make a header value")
}

/// Whether the lines of `tracestate` are one list as it has to be (3.3.1). Members may be empty.
fn is_state(headers: &HeaderMap) -> bool {
    let mut keys: Vec<&[u8]> = Vec::new();
    for member in headers.get_all(&TRACESTATE).into_iter().flat_map(|line| members(line.as_bytes())) {
        if member.is_empty() {
            continue;
        }
        let Some(equals) = memchr::memchr(b'=', member) else { return false };
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if keys.len() == MEMBERS || keys.contains(&key) || !is_key(key) || !is_value(value) {
            return false;
        }
        keys.push(key);
    }
    !keys.is_empty()
}

/// 3.3.1.3.1; what follows an `@` is checked like what stands before it, which the second level allows.
fn is_key(key: &[u8]) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_other = |byte: &u8| is_first(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=256).contains(&key.len()) && key.first().is_some_and(is_first) && key.iter().all(is_other)
}

/// 3.3.1.3.2
fn is_value(value: &[u8]) -> bool {
    let is_in = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(is_in) && value.last() != Some(&b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(parents: &[&str], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = |text: &&str| HeaderValue::from_bytes(text.as_bytes()).expect("a value");
        headers.extend(parents.iter().map(value).map(|line| (TRACEPARENT.clone(), line)));
        headers.extend(states.iter().map(value).map(|line| (TRACESTATE.clone(), line)));
        headers
    }

    fn shown(headers: &HeaderMap) -> (Vec<&str>, Vec<&str>) {
        let lines = |name| headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).collect();
        (lines(&TRACEPARENT), lines(&TRACESTATE))
    }

    #[test]
    fn a_parent_is_read_to_the_letter() {
        let context = parse(GOOD.as_bytes()).expect("a parent");
        assert_eq!((context.trace[0], context.span[7], context.flags), (0x0a, 0x31, 1));
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        for bad in [
            "",
            zero_trace,
            zero_span,
            &GOOD.replace("00-0af", "ff-0af"),
            &GOOD.replace("af7", "AF7"),
            &GOOD.replace("af7", "ag7"),
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &GOOD.replace('-', "_"),
            &GOOD.replace("00-0af", "01-0af").replace("-01", "-01more"),
            &format!(" {GOOD}"),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        let later = format!("{}-more", GOOD.replace("00-0af", "cc-0af"));
        assert_eq!(parse(later.as_bytes()).map(|context| context.trace), Some(context.trace));
    }

    #[test]
    fn what_is_passed_goes_on_as_it_is_whatever_it_is() {
        let states = [&[][..], &["a=1"], &["a=1", "A=1"], &["no pair"]];
        for (parents, is_understood) in
            [(&[][..], false), (&[GOOD], true), (&[GOOD, GOOD], false), (&["00-ab-cd-01"], false)]
        {
            for states in states {
                let before = fields(parents, states);
                let (trace, mut headers) = (Trace::pass(&before), before.clone());
                trace.settle(&mut headers);
                assert_eq!((shown(&headers), trace.context().is_some()), (shown(&before), is_understood));
            }
        }
    }

    #[test]
    fn what_is_joined_is_well_formed_and_its_state_goes_on_as_it_is_or_not_at_all() {
        const NEW: &str = "00-07070707070707070707070707070707-0707070707070707-01";
        const IN_IT: &str = "00-0af7651916cd43dd8448eb211c80319c-0707070707070707-01";
        let join = |headers: &mut HeaderMap| Trace::join(headers, true, [7; 24]).settle(headers);
        let state = "a=1, b@c=x/y";
        for (parents, states, joined) in [
            (&[GOOD][..], &[state][..], (vec![IN_IT], vec![state])),
            (&[GOOD], &[], (vec![IN_IT], vec![])),
            (&[GOOD], &["a=1", "b=2"], (vec![IN_IT], vec!["a=1", "b=2"])),
            (&[GOOD], &["a=1,a=2"], (vec![IN_IT], vec![])),
            (&[GOOD], &["A=1"], (vec![IN_IT], vec![])),
            (&[GOOD], &["no pair"], (vec![IN_IT], vec![])),
            (&[GOOD, GOOD], &[state], (vec![NEW], vec![])),
            (&["junk"], &[state], (vec![NEW], vec![])),
            (&[], &[state], (vec![NEW], vec![])),
        ] {
            let mut headers = fields(parents, states);
            join(&mut headers);
            assert_eq!(shown(&headers), joined, "{parents:?} {states:?}");
        }
        let many: Vec<_> = (0..33).map(|number| format!("k{number}=v")).collect();
        for (count, is_kept) in [(32, true), (33, false)] {
            let mut headers = fields(&[GOOD], &[&many[..count].join(",")]);
            join(&mut headers);
            assert_eq!(headers.contains_key(&TRACESTATE), is_kept, "{count}");
        }
        let mut headers = fields(&[GOOD], &["a=1"]);
        Trace::None.settle(&mut headers);
        assert_eq!(shown(&headers), (vec![], vec![]));
    }

    #[test]
    fn a_span_of_our_own_is_in_the_trace_of_those_who_are_believed_and_else_in_a_new_one() {
        let random = std::array::from_fn(|at| at as u8 + 1);
        let mut headers = fields(&[GOOD], &["a=1"]);
        Trace::join(&headers, true, random).settle(&mut headers);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-1112131415161718-01";
        assert_eq!(shown(&headers), (vec![parent], vec!["a=1"]));
        let mut headers = fields(&[GOOD], &["a=1"]);
        let trace = Trace::join(&headers, false, random);
        trace.settle(&mut headers);
        let parent = "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01";
        assert_eq!(shown(&headers), (vec![parent], vec![]));
        assert_eq!(trace.context().and_then(|context| context.parent), None);
        assert_eq!(Trace::join(&fields(&[], &[]), true, [0; 24]), Trace::None);
    }

    proptest! {
        #[test]
        fn what_is_joined_is_always_good(parent in "[0-9a-f-]{50,60}|\\PC{0,60}", state in "[a-z0-9=,@ ]{0,60}|\\PC{0,60}") {
            let (Ok(parent), Ok(state)) = (HeaderValue::from_bytes(parent.as_bytes()), HeaderValue::from_bytes(state.as_bytes()))
            else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT.clone(), parent);
            headers.insert(TRACESTATE.clone(), state);
            Trace::join(&headers, true, [7; 24]).settle(&mut headers);
            prop_assert!(headers.get(&TRACEPARENT).is_some_and(|parent| parse(parent.as_bytes()).is_some()));
            prop_assert!(!headers.contains_key(&TRACESTATE) || is_state(&headers));
        }
    }
}
