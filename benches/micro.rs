//! What is done for every frame or every request, in nanoseconds: `cargo bench --bench micro`.
//!
//! Budgets: a frame header within 60 ns, better 20. The frame figures are per element, which is one frame; those of a
//! request are per request.

use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use portcullis::config::model::Config;
use portcullis::config::read_text;
use portcullis::proto::forwarded::{self, ForwardedInput};
use portcullis::proto::frame::{Rules, Sender, Tracker, Until};
use portcullis::proto::host::parse_authority;
use portcullis::proto::{fields, origin};
use portcullis::route::{Lookup, RouteTable};
use portcullis::types::Scheme;
use portcullis::upgrade::allows;

const FRAMES: usize = 512;
/// A frame of 64 KiB arrives in reads of this size.
const READ: usize = 16 * 1024;

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame tracker");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let unmasked = [&[0x82, 64][..], &[7; 64]].concat();
    let masked = [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat();
    for (name, sender, frame) in [("unmasked", Sender::Server, unmasked), ("masked", Sender::Client, masked)] {
        let rules = Rules { max_message_size: 1 << 20, ..Rules::default() };
        let size = frame.len();
        let stream = frame.repeat(FRAMES);
        let mut buffer = stream.clone();
        group.bench_function(format!("{name}, many in a buffer"), |bencher| {
            let mut tracker = Tracker::new(sender);
            bencher.iter(|| tracker.feed(&rules, black_box(&mut buffer), Until::Input, &mut ()));
        });
        group.bench_function(format!("{name}, one in a buffer"), |bencher| {
            let mut tracker = Tracker::new(sender);
            bencher.iter(|| {
                for frame in buffer.chunks_mut(size) {
                    black_box(tracker.feed(&rules, black_box(frame), Until::Input, &mut ()));
                }
            });
        });
        // Every header comes in two pieces.
        let mut rotated = stream;
        rotated.rotate_left(1);
        group.bench_function(format!("{name}, split in the header"), |bencher| {
            let mut tracker = Tracker::new(sender);
            tracker.feed(&rules, &mut [frame[0]], Until::Input, &mut ());
            let mut room = vec![0; 1 + size];
            bencher.iter(|| {
                for piece in rotated.chunks(size) {
                    room[1..].copy_from_slice(piece);
                    black_box(tracker.feed(&rules, black_box(&mut room), Until::Input, &mut ()));
                }
            });
            assert!(!tracker.is_closed());
        });
    }
    group.finish();
    large_frames(criterion);
}

/// Frames of 64 KiB in reads of 16 KiB: payload is stepped over and not looked at.
fn large_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame tracker, 64 KiB");
    group.throughput(Throughput::Elements(1));
    let length = 65_536u64.to_be_bytes();
    let unmasked = [&[0x82, 127][..], &length].concat();
    let masked = [&[0x82, 0x80 | 127][..], &length, &[1, 2, 3, 4]].concat();
    for (name, sender, mut frame) in [("unmasked", Sender::Server, unmasked), ("masked", Sender::Client, masked)] {
        frame.resize(frame.len() + 65_536, 7);
        let rules = Rules { max_message_size: 1 << 20, ..Rules::default() };
        group.bench_function(format!("{name}, in reads of 16 KiB"), |bencher| {
            let mut tracker = Tracker::new(sender);
            bencher.iter(|| {
                for piece in frame.chunks_mut(READ) {
                    black_box(tracker.feed(&rules, black_box(piece), Until::Input, &mut ()));
                }
            });
            assert!(!tracker.is_closed());
        });
    }
    group.finish();
}

/// So many routes on one listener, up to five for a host, with the policies that people write.
fn config(routes: usize) -> Config {
    let mut text = String::from("[[listener]]\naddress = \"127.0.0.1:8080\"\n");
    for at in 0..routes {
        let (host, path) = (at / 5, at % 5);
        text += &format!(
            "[[route]]\nhosts = [\"h{host}.example.com\"]\npath = \"/p{path}\"\nupstream = \"http://127.0.0.1:9000\"\n\
             [route.websocket]\norigins = [\"https://a.example\", \"https://*.example.org\", \"https://h.example\"]\n"
        );
    }
    let (config, report) = read_text("bench.toml", &text, Path::new("."));
    assert!(!report.has_errors(), "{report:?}");
    config.expect("a configuration without errors")
}

fn requests(criterion: &mut Criterion) {
    for count in [1, 20, 1000] {
        let mut report = portcullis::config::report::Report::default();
        let routes = RouteTable::build(&config(count), &mut report);
        assert!(!report.has_errors());
        // The last route.
        let (host, path) = ((count - 1) / 5, (count - 1) % 5);
        let authority = parse_authority(&format!("h{host}.example.com")).expect("a host");
        let path = format!("/p{path}/room");
        assert!(matches!(routes.lookup(0, Some(&authority), &path), Lookup::Found(found) if found == count - 1));
        criterion.bench_function(&format!("route look-up among {count}"), |bencher| {
            bencher.iter(|| routes.lookup(0, black_box(Some(&authority)), black_box(&path)));
        });
    }

    let config = config(1);
    let policy = config.routes[0].websocket.as_ref().expect("every route has one");
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, HeaderValue::from_static("https://h.example"));
    criterion.bench_function("Origin check", |bencher| {
        bencher.iter(|| {
            let origin = origin::origin_of(black_box(&headers)).ok().flatten();
            assert!(allows(&policy.origins, &origin.expect("an origin"), None));
        });
    });

    let headers = request_headers();
    criterion.bench_function("header scrubbing", |bencher| {
        bencher.iter_batched_ref(|| headers.clone(), fields::scrub_hop_by_hop, BatchSize::SmallInput);
    });
    forwarding(criterion, &headers);
}

/// `X-Forwarded-*`, `X-Real-IP` and, where it is asked for, `Forwarded`: from a stranger, and behind a trusted proxy.
fn forwarding(criterion: &mut Criterion, headers: &HeaderMap) {
    let mut group = criterion.benchmark_group("forwarded fields");
    let authority = headers.get(HOST).and_then(|host| parse_authority(host.to_str().ok()?).ok());
    let mut claimed = headers.clone();
    claimed.insert(&forwarded::X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.9, 198.51.100.7"));
    claimed.insert(&forwarded::X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    let peer = IpAddr::from([192, 0, 2, 1]);
    for (name, headers, trusted, emit_forwarded) in [
        ("from a stranger", headers, false, false),
        ("from a stranger who claims", &claimed, false, false),
        ("from a trusted proxy", &claimed, true, false),
        ("from a trusted proxy, with Forwarded", &claimed, true, true),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || headers.clone(),
                |headers| {
                    let client = forwarded::client_address(headers, Some(peer), |_| trusted);
                    let input = ForwardedInput {
                        peer: Some(peer),
                        trusted,
                        client,
                        scheme: Scheme::Https,
                        authority: authority.as_ref(),
                        port: Some(443),
                        emit_forwarded,
                    };
                    forwarded::set_forwarded(headers, black_box(&input));
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// What a browser sends, with something to scrub.
fn request_headers() -> HeaderMap {
    let lines = [
        ("host", "h7.example.com"),
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "timeout=5"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36"),
        ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
        ("sec-fetch-mode", "navigate"),
        ("referer", "https://h7.example.com/p3"),
    ];
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

criterion_group!(benches, frames, requests);
criterion_main!(benches);
