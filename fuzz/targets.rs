//! Fuzz targets as plain functions: any bytes in, an assertion about what must hold whatever they are.
//!
//! `tests/fuzz_smoke.rs` runs each of them in ordinary builds, `fuzz_targets/` hands them to libFuzzer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use portcullis::limits::{NoTunnel, TunnelPermit, Tunnels};
use portcullis::proto::frame::{ControlFrame, End, Kind, Rsv, Rules, Sender, Tracker, Until, Verdict, Watch};
use portcullis::proto::{fields, forwarded, host, origin, proxy_protocol, request_id, target, via, websocket};
use portcullis::tunnel::Bucket;
use portcullis::types::Scheme;

/// An accepted origin is in one form only, and has no room for anything but scheme, host and port.
pub fn origin(data: &[u8]) {
    let Ok(parsed) = origin::parse(data) else { return };
    let text = parsed.to_string();
    assert_eq!(origin::parse(text.as_bytes()), Ok(parsed.clone()));
    if let origin::Origin::Tuple(tuple) = parsed {
        assert!(!tuple.host.is_empty() && !tuple.host.contains(['/', '@', '?', '#', ' ', '*', '%', '\\']));
        assert!(!data.iter().skip(tuple.scheme.len() + 3).any(|byte| b"/@?# ,*".contains(byte)));
    }
}

/// An accepted path has no dot segment and no control in any reading, and stripping leaves one leading slash.
pub fn target(data: &[u8]) {
    let Ok(raw) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = target::parse_target(raw) else { return };
    assert!(raw.starts_with(&*parsed.onward(None)), "the raw target goes on byte for byte");
    assert_eq!(target::normalise(&parsed.normalised), parsed.normalised, "normalising twice changes nothing");
    assert!(!parsed.normalised.contains("//") && parsed.normalised.is_ascii());
    for segment in parsed.normalised.split(['/', '\\']) {
        assert!(!matches!(segment.split(';').next(), Some("." | "..")));
    }
    for prefix in ["/", "/a", "/a/b"] {
        let onward = parsed.onward(Some(prefix));
        if target::strip_prefix(parsed.raw_path, prefix).is_some() {
            assert!(onward.starts_with('/') && !onward.starts_with("//"));
        }
        assert!(target::parse_target(&onward).is_ok());
    }
}

/// An accepted authority is in one form only.
pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = host::parse_authority(text) else { return };
    assert!(!parsed.host.is_empty() && !parsed.host.ends_with('.') && parsed.host.is_ascii());
    assert_eq!(host::parse_authority(&parsed.to_string()), Ok(parsed));
}

/// Whatever the fields, the scrub leaves nothing of this hop and is done after one pass.
pub fn request_fields(data: &[u8]) {
    let mut headers = headers_from(data);
    let _ = fields::settle_content_length(&mut headers);
    let _ = fields::transfer_encoding_is_exactly_chunked(&headers);
    let _ = fields::expectation(&headers);
    let mut trailers = headers.clone();
    fields::scrub_trailers(&mut trailers);
    assert!(
        !["host", "connection", "content-length", "x-forwarded-for"].iter().any(|name| trailers.contains_key(*name))
    );
    let mut answer = headers.clone();
    fields::scrub_answer(&mut answer);
    assert!(!["connection", "upgrade", "transfer-encoding"].iter().any(|name| answer.contains_key(*name)));
    fields::join_cookies(&mut headers);
    let before = headers.clone();
    match fields::scrub_hop_by_hop(&mut headers) {
        Err(_) => assert_eq!(headers, before),
        Ok(()) => {
            assert!(!["upgrade", "transfer-encoding", "keep-alive"].iter().any(|name| headers.contains_key(*name)));
            let once = headers.clone();
            assert!(fields::scrub_hop_by_hop(&mut headers).is_ok());
            assert_eq!(headers, once);
        }
    }
}

/// An untrusted peer cannot leave a trace of its own claims.
pub fn forwarded(data: &[u8]) {
    let mut headers = headers_from(data);
    let peer = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));
    assert_eq!(forwarded::client_address(&headers, Some(peer), |_| false), Some(peer));
    let _ = forwarded::client_address(&headers, Some(peer), |_| true);
    let _ = forwarded::effective(&headers, true, Scheme::Http, None);
    let mut trusted = headers.clone();
    let mut input = forwarded::ForwardedInput {
        peer: Some(peer),
        trusted: true,
        client: None,
        scheme: Scheme::Https,
        authority: None,
        port: Some(443),
        emit_forwarded: true,
    };
    forwarded::set_forwarded(&mut trusted, &input);
    input.trusted = false;
    forwarded::set_forwarded(&mut headers, &input);
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(lines, ["9.9.9.9"]);
    assert_eq!(headers["forwarded"], "for=9.9.9.9;proto=https");
    assert!(!headers.contains_key("x-forwarded-host"));
}

/// Nothing in a handshake's fields panics, and a 101 passes only with the right accept.
pub fn handshake(data: &[u8]) {
    let headers = headers_from(data);
    let _ = websocket::is_handshake_h1(&Method::GET, Version::HTTP_11, &headers);
    let subprotocols = websocket::subprotocols(&headers).unwrap_or_default();
    let extensions = websocket::extension_names(&headers).unwrap_or_default();
    let asked = websocket::Asked { accept: "right", subprotocols: &subprotocols, extensions: &extensions };
    let status = http::StatusCode::SWITCHING_PROTOCOLS;
    if websocket::check_101(&asked, status, Version::HTTP_11, &headers).is_ok() {
        assert_eq!(headers["sec-websocket-accept"], "right");
    }
    let _ = websocket::is_key(data);
    if let Ok(via) = via::Via::new("portcullis-0") {
        let _ = via.is_in(&headers);
    }
    let id = request_id::RequestIds::new(1).settle(&mut headers.clone());
    assert!(request_id::is_valid(id.as_bytes()));
}

/// Whatever a direction brings: any split is judged the same, what goes on is the input without the swallowed frames,
/// in order by itself, and ends where a Close may stand unless payload is due.
pub fn frames(data: &[u8]) {
    let [choice, size, input @ ..] = data else { return };
    let sender = if choice & 1 == 0 { Sender::Client } else { Sender::Server };
    let rsv = [Rsv::None, Rsv::Deflate, Rsv::Any, Rsv::None][usize::from(choice >> 1 & 3)];
    let limit = if choice & 8 == 0 { u64::MAX } else { 100 };
    let rules = Rules { rsv, max_frame_size: limit, max_message_size: limit.saturating_mul(2) };
    let swallow = choice & 16 != 0;
    let whole = judged(sender, &rules, input, usize::MAX, swallow);
    assert_eq!(judged(sender, &rules, input, usize::from(*size) + 1, swallow), whole);
    assert_eq!(judged(sender, &rules, input, 1, swallow), whole);
    let (forwarded, told, end) = whole;
    if !told.pongs_swallowed {
        assert!(input.starts_with(&forwarded));
    }
    let (again, told_again, end_again) = judged(sender, &rules, &forwarded, usize::MAX, false);
    assert_eq!(again, forwarded);
    assert_eq!((told_again.messages, told_again.controls), (told.messages, told.controls));
    assert_eq!(matches!(end_again, Some(End::Close)), matches!(end, Some(End::Close)));
}

/// Whatever is spent and whenever: a bucket gives no more than its rate and one burst, and once it has been waited for,
/// what it promised.
pub fn rates(data: &[u8]) {
    let [shift, rate, steps @ ..] = data else { return };
    let rate = u64::from(*rate).max(1) << (shift % 40);
    let start = portcullis::clock::now();
    let mut bucket = Bucket::new(rate, start);
    let (mut now, mut spent) = (start, 0_u128);
    for step in steps.chunks(2) {
        let (kind, size) = (step[0], u64::from(step.get(1).copied().unwrap_or(0)));
        match kind % 4 {
            0 => now += Duration::from_micros(size * 5_003),
            1 => now += Duration::from_nanos(size * size),
            2 => {
                let wanted = (size * rate / 100).clamp(1, rate.max(2));
                let at = bucket.ready_at(wanted);
                now = now.max(at);
                assert!(bucket.available(now) >= wanted, "{wanted} of {rate}");
            }
            _ => {
                let share = bucket.available(now).min(size * rate / 64);
                bucket.spend(share);
                spent += u128::from(share);
            }
        }
        let elapsed = now.duration_since(start).as_nanos();
        let most = u128::from(rate.max(2)) * 1_000_000_000 + elapsed * u128::from(rate);
        assert!(spent * 1_000_000_000 <= most);
        assert!((spent + u128::from(bucket.available(now))) * 1_000_000_000 <= most);
    }
}

/// However handshakes come and tunnels go: a place is given exactly where both limits leave one.
pub fn places(data: &[u8]) {
    let [max, per_address, steps @ ..] = data else { return };
    let max = (max % 8 > 0).then(|| u32::from(max % 8));
    let per_address = (per_address % 4 > 0).then(|| u32::from(per_address % 4));
    let Some(tunnels) = Tunnels::new(max, per_address) else { return };
    let mut held: Vec<(u8, TunnelPermit)> = Vec::new();
    let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
    for step in steps {
        let client = step >> 1 & 3;
        if step & 1 == 0 && !held.is_empty() {
            let (client, permit) = held.swap_remove(usize::from(*step) % held.len());
            *counts.entry(client).or_default() -= 1;
            drop(permit);
            continue;
        }
        let address: Option<IpAddr> = match client {
            0 => None,
            1 => Some(Ipv4Addr::new(10, 0, 0, 1).into()),
            2 => Some(Ipv6Addr::from(u128::from(*step)).into()),
            _ => Some(Ipv6Addr::from(1 << 64 | u128::from(*step)).into()),
        };
        let (total, count) = (held.len() as u32, counts.entry(client).or_default());
        let expected = match (max, per_address) {
            (Some(max), _) if total >= max => Err(NoTunnel::Route),
            (_, Some(most)) if *count >= most => Err(NoTunnel::Address),
            _ => Ok(()),
        };
        match tunnels.try_acquire(address) {
            Ok(permit) => {
                assert_eq!(expected, Ok(()));
                *count += 1;
                held.push((client, permit));
            }
            Err(reason) => assert_eq!(expected, Err(reason)),
        }
        assert_eq!(tunnels.open(), held.len());
    }
    drop(held);
    assert_eq!(tunnels.open(), 0);
}

/// Judged byte by byte as they come: first not yet, then one verdict for good, which bytes behind it do not change; and
/// what a header says can be said again in both versions.
pub fn proxy_header(data: &[u8]) {
    use proxy_protocol::{MAX_HEADER, Parsed, Sender, Version, header, parse};
    let whole = parse(data);
    let mut verdict = Ok(Parsed::Partial);
    for end in 0..=data.len().min(400) {
        let next = parse(&data[..end]);
        assert!(verdict == Ok(Parsed::Partial) || next == verdict);
        verdict = next;
    }
    assert!(data.len() > 400 || verdict == whole);
    match whole {
        Ok(Parsed::Partial) => assert!(data.len() < MAX_HEADER),
        Ok(Parsed::Header { length, addresses }) => {
            assert!(length <= data.len() && length <= MAX_HEADER);
            assert!(parse(&data[..length]) == whole && parse(&data[..length - 1]) == Ok(Parsed::Partial));
            for version in [Version::V1, Version::V2] {
                let again = header(version, Sender::Client(addresses));
                assert!(matches!(parse(&again), Ok(Parsed::Header { length, .. }) if length == again.len()));
            }
        }
        Err(_) => {}
    }
}

/// What a tracker has told while it judged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    messages: Vec<(bool, u64)>,
    /// Those that went on.
    controls: Vec<Vec<u8>>,
    swallow_empty_pongs: bool,
    pongs_swallowed: bool,
}

impl Watch for Told {
    fn message(&mut self, kind: Kind, size: u64) {
        self.messages.push((kind == Kind::Text, size));
    }

    fn ping(&mut self, payload: &[u8]) {
        assert!(ControlFrame::pong(payload, Some(7)).is_ok(), "every ping can be answered");
        self.controls.push(payload.to_vec());
    }

    fn pong(&mut self, payload: &[u8]) -> Verdict {
        if self.swallow_empty_pongs && payload.is_empty() {
            self.pongs_swallowed = true;
            return Verdict::Swallow;
        }
        self.controls.push(payload.to_vec());
        Verdict::Pass
    }

    fn close(&mut self, code: Option<u16>, reason: &[u8]) {
        assert!(reason.len() <= 123 && (code.is_some() || reason.is_empty()));
        self.controls.push(reason.to_vec());
    }
}

fn judged(
    sender: Sender,
    rules: &Rules,
    input: &[u8],
    piece: usize,
    swallow_empty_pongs: bool,
) -> (Vec<u8>, Told, Option<End>) {
    let mut tracker = Tracker::new(sender);
    let mut told = Told { swallow_empty_pongs, ..Told::default() };
    let (mut forwarded, mut end) = (Vec::new(), None);
    for piece in input.chunks(piece) {
        let mut buffer = [vec![0; tracker.withheld()], piece.to_vec()].concat();
        let mut rest = &mut buffer[..];
        while !rest.is_empty() {
            let step = tracker.feed(rules, rest, Until::Input, &mut told);
            assert!(step.consumed > 0, "every step gets on");
            forwarded.extend_from_slice(&rest[..step.forward]);
            end = end.or(step.end);
            assert!(step.end.is_none() || tracker.at_boundary());
            rest = &mut rest[step.consumed..];
        }
        assert!(tracker.withheld() < 131);
    }
    told.swallow_empty_pongs = false;
    (forwarded, told, end)
}

/// Lines of `name: value`; a digit at the front stands for a name that matters here.
fn headers_from(data: &[u8]) -> HeaderMap {
    const NAMES: [&str; 10] = [
        "connection",
        "upgrade",
        "transfer-encoding",
        "content-length",
        "x-forwarded-for",
        "x_forwarded_for",
        "forwarded",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "sec-websocket-accept",
    ];
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let (name, value) = match line.split_first() {
            Some((digit, value)) if digit.is_ascii_digit() => (NAMES[usize::from(digit - b'0')].as_bytes(), value),
            _ => match line.iter().position(|byte| *byte == b':') {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => continue,
            },
        };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}
