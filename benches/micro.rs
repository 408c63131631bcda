//! What is done for every frame or every request, in nanoseconds: `cargo bench --bench micro`.
//!
//! Budgets: a frame header within 60 ns, better 20. The frame figures are per element, which is one frame of 64 bytes
//! of payload; those of a request are per request.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use portcullis::config::model::Config;
use portcullis::config::read_text;
use portcullis::proto::frame::{Rules, Sender, Tracker, Until};
use portcullis::proto::host::parse_authority;
use portcullis::proto::{fields, origin};
use portcullis::route::{Lookup, RouteTable};
use portcullis::upgrade::allows;

const FRAMES: usize = 512;

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
}

/// A hundred routes on one listener, with the policies that people write.
fn config() -> Config {
    let mut text = String::from("[[listener]]\naddress = \"127.0.0.1:8080\"\n");
    for at in 0..100 {
        let (host, path) = (at % 20, at / 20);
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
    let config = config();
    let mut report = portcullis::config::report::Report::default();
    let routes = RouteTable::build(&config, &mut report);
    assert!(!report.has_errors());
    let authority = parse_authority("h7.example.com").expect("a host");
    assert!(matches!(routes.lookup(0, Some(&authority), "/p3/room"), Lookup::Found(67)));
    criterion.bench_function("route look-up among 100", |bencher| {
        bencher.iter(|| routes.lookup(0, black_box(Some(&authority)), black_box("/p3/room")));
    });

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
