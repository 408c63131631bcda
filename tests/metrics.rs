//! Metrics: the table of names, the paper, the dashboard and the alerts agree with each other and with the text that is
//! really produced; and a worker that has real connections counts them exactly.
//!
//! One worker runs in this process and gets its connections by hand; clients and server are bare sockets. What the whole
//! gateway counts is looked at on the wire (`wire/metrics.rs`).

// A test may read clocks and start threads.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use portcullis::config;
use portcullis::control::{Gauged, InUse, Metrics};
use portcullis::lifecycle::Lifecycle;
use portcullis::limits::Connections;
use portcullis::listener::{Arrival, ArrivedSocket, LoadGuard};
use portcullis::snapshot::Snapshot;
use portcullis::telemetry::LostLines;
use portcullis::telemetry::access::AccessLogHandle;
use portcullis::telemetry::metrics::names::{self, Kind, Unit};
use portcullis::types::Peer;
use portcullis::worker::{Message, NextConfiguration, Worker};
use regex::Regex;
use tokio::sync::mpsc;

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every name that a sample can have.
fn sample_names() -> BTreeSet<String> {
    names::ALL.iter().flat_map(|metric| metric.samples()).collect()
}

#[test]
fn the_paper_lists_every_metric() {
    const BEGIN: &str = "<!-- all metrics -->\n";
    const END: &str = "<!-- end -->";
    let mut table = String::from("\n| metric | kind | labels | |\n|---|---|---|---|\n");
    for metric in names::ALL {
        let name = match metric.kind {
            Kind::Histogram => metric.name.to_owned(),
            _ => metric.samples().remove(0),
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(table, "| `{name}` | {} | {} | {} |", metric.kind.as_str(), labels.join(", "), metric.help);
    }
    table.push('\n');
    let paper = file("docs/metrics.md");
    let (before, rest) = paper.split_once(BEGIN).expect("a place for the table");
    let (found, after) = rest.split_once(END).expect("an end of the table");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(root("docs/metrics.md"), [before, BEGIN, &table, END, after].concat()).expect("written");
    } else {
        assert!(found == table, "docs/metrics.md is not as `names.rs` says: BLESS=1 renews its table");
    }
    let told: BTreeSet<_> = before
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|label| label.trim_matches('`'))
        .collect();
    let labels: BTreeSet<_> = names::ALL.iter().flat_map(|metric| metric.labels).copied().collect();
    assert_eq!(told, labels, "what labels say");
}

/// What an expression asks for.
fn asked_for(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"portcullis_[a-z_]+").expect("a pattern");
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are_and_for_all_of_them() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("conf/grafana-dashboard.json")).expect("JSON");
    let known = sample_names();
    let (mut asked, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        let place = &panel["gridPos"];
        let at = |key: &str| place[key].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24 && at("h") > 0, "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let names = asked_for(expression);
            assert!(!names.is_empty() && names.is_subset(&known), "{expression}");
            assert!(expression.contains("instance=~\"$instance\""), "{expression}");
            assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
            asked.extend(names);
        }
    }
    let variables: BTreeSet<_> =
        dashboard["templating"]["list"].as_array().expect("variables").iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(variables, ["datasource", "instance", "route", "upstream"].map(Some).into());
    let missing: Vec<_> =
        names::ALL.iter().filter(|metric| metric.samples().iter().all(|name| !asked.contains(name))).collect();
    assert!(missing.is_empty(), "no panel shows these: {:?}", missing.iter().map(|one| one.name).collect::<Vec<_>>());
}

#[test]
fn the_alerts_ask_for_metrics_that_there_are() {
    let text = file("conf/alerts.yml");
    let rules: Vec<_> = text.split("\n      - alert: ").skip(1).collect();
    assert!(rules.len() >= 9, "{} rules", rules.len());
    let known = sample_names();
    for rule in rules {
        let names = asked_for(rule.split("annotations:").next().unwrap_or_default());
        assert!(!names.is_empty() && names.is_subset(&known), "{rule}");
        for key in ["expr: ", "for: ", "severity: ", "summary: ", "description: "] {
            assert!(rule.contains(key), "{key}is missing in {rule}");
        }
    }
}

/// The samples of a text, which is held to the rules of OpenMetrics and to the table of names.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(text: String) -> Self {
        let mut samples = BTreeMap::new();
        let mut families = Vec::new();
        let sample =
            Regex::new(r#"^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+)\})? (\S+)$"#).expect("a pattern");
        let label = Regex::new(r#"([a-z_]+)="(?:[^"\\]|\\.)*""#).expect("a pattern");
        for line in text.lines().take_while(|line| *line != "# EOF") {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                families.push(family.to_owned());
            } else if !line.starts_with("# ") {
                let parts = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
                let (name, labels) = (&parts[1], parts.get(2).map_or("", |labels| labels.as_str()));
                let metric = names::ALL[families.len() - 1];
                assert!(metric.samples().iter().any(|known| known == name), "{line} stands with {}", metric.name);
                let found: Vec<_> = label.captures_iter(labels).map(|label| label[1].to_owned()).collect();
                let found: Vec<_> = found.iter().filter(|label| *label != "le").map(String::as_str).collect();
                assert_eq!(found, metric.labels, "{line}");
                let value = parts[3].parse().expect("a number");
                assert!(samples.insert(format!("{name}{{{labels}}}"), value).is_none(), "twice: {line}");
            }
        }
        let expected = names::ALL.iter().map(|metric| format!("{} {}", metric.name, metric.kind.as_str()));
        assert_eq!(families, expected.collect::<Vec<_>>());
        for metric in names::ALL {
            let unit = match metric.unit {
                Unit::None => None,
                Unit::Seconds => Some("seconds"),
                Unit::Bytes => Some("bytes"),
            };
            let line = unit.map(|unit| format!("# UNIT {} {unit}\n", metric.name));
            assert!(line.is_none_or(|line| text.contains(&line)), "{}", metric.name);
        }
        assert!(text.ends_with("# EOF\n"));
        Self { text, samples }
    }

    /// `None`: there is no such sample.
    fn get(&self, sample: &str) -> Option<f64> {
        let full =
            if sample.contains('{') { format!("portcullis_{sample}") } else { format!("portcullis_{sample}{{}}") };
        self.samples.get(&full).copied()
    }

    #[track_caller]
    fn assert(&self, expected: &[(&str, f64)]) {
        for (sample, value) in expected {
            assert_eq!(self.get(sample), Some(*value), "{sample}\n{}", self.text);
        }
    }
}

struct Bench {
    worker: Option<Worker>,
    lifecycle: Lifecycle,
    permits: Connections,
    doors: TcpListener,
    server: String,
    access: AccessLogHandle,
    snapshot: Arc<Snapshot>,
    metrics: Metrics,
}

/// A configuration; `routes` come before the one for everything else.
fn build(server: &str, routes: &str, previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n{routes}\
         [[route]]\nname = \"rest\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{server}\"]\n"
    );
    let (config, mut report) = config::read_text("test.toml", &text, Path::new("."));
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    Arc::new(Snapshot::build(&config, previous, &mut report).expect("good"))
}

const CHAT: &str = "[[route]]\nname = \"chat\"\npath = \"/chat\"\nupstream = \"u\"\n\
    [route.websocket]\norigins = [\"https://a.test\"]\nping_interval = \"1s\"\n";

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || serve(&listener));
        let snapshot = build(&server, CHAT, None);
        let access = AccessLogHandle::off();
        let (lifecycle, permits) = (Lifecycle::new(), Connections::new(1_000));
        let worker = Worker::start((0, 1), snapshot.clone(), lifecycle.clone(), access.clone()).expect("a worker");
        let gauged = Gauged {
            in_use: InUse::new(snapshot.clone()),
            workers: vec![worker.view()],
            connections: permits.clone(),
            lifecycle: lifecycle.clone(),
            access_log: access.lost(),
            event_log: LostLines::default(),
        };
        let metrics = Metrics::new(gauged);
        let doors = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { worker: Some(worker), lifecycle, permits, doors, server, access, snapshot, metrics }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.doors.local_addr().expect("an address")).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let (socket, peer) = self.doors.accept().expect("accepted");
        socket.set_nonblocking(true).expect("set");
        let port = &self.worker.as_ref().expect("it runs").port;
        let arrival = Arrival {
            listener: 0,
            socket: ArrivedSocket::Tcp(socket),
            peer: Peer::Tcp(peer),
            local: None,
            permit: self.permits.try_acquire().expect("room"),
            load: LoadGuard::new(&port.load, &self.snapshot.listeners[0].book),
        };
        assert!(port.inbox.send(arrival.into()).is_ok(), "the worker runs");
        client
    }

    /// A request on a connection of its own; the head of its answer.
    fn ask(&self, path: &str, fields: &str) -> (TcpStream, String) {
        let mut client = self.connect();
        write!(client, "GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n").expect("taken");
        let head = read_head(&mut client).expect("an answer");
        (client, head)
    }

    fn open(&self, origin: &str) -> (TcpStream, String) {
        let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        self.ask("/chat", &format!("{fields}Origin: {origin}\r\n"))
    }

    fn scrape(&self) -> Scrape {
        let rendered = self.metrics.render().expect("written");
        assert_eq!(rendered.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Scrape::of(rendered.body)
    }

    /// Scrapes until a sample is as it should be.
    fn eventually(&self, sample: &str, value: f64) -> Scrape {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let scrape = self.scrape();
            if scrape.get(sample) == Some(value) {
                return scrape;
            }
            assert!(Instant::now() < deadline, "{sample} is not {value}\n{}", scrape.text);
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn reload(&mut self, routes: &str) {
        let snapshot = build(&self.server, routes, Some(&self.snapshot));
        let (done, mut served) = mpsc::channel::<Infallible>(1);
        let next = NextConfiguration { snapshot: snapshot.clone(), access: self.access.clone(), done };
        let inbox = &self.worker.as_ref().expect("it runs").port.inbox;
        assert!(inbox.send(Message::Configuration(next)).is_ok());
        assert!(served.blocking_recv().is_none());
        self.metrics.follow(&snapshot);
        self.snapshot = snapshot;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.lifecycle.end();
        if let Some(worker) = self.worker.take() {
            worker.join();
        }
    }
}

/// Agrees to every handshake and echoes what comes as a server's; answers other requests.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("accepted");
        std::thread::spawn(move || {
            while let Some(head) = read_head(&mut stream) {
                let Some(key) = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")) else {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").expect("taken");
                    continue;
                };
                let words = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
                let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, words.as_bytes());
                let accept = base64::engine::general_purpose::STANDARD.encode(hash);
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
                write!(stream, "{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").expect("taken");
                return echo(&mut stream);
            }
        });
    }
}

/// Short frames with a mask of zeros.
fn echo(stream: &mut TcpStream) {
    let mut head = [0; 6];
    while stream.read_exact(&mut head).is_ok() {
        let length = head[1] & 0x7f;
        let mut payload = vec![0; length.into()];
        stream.read_exact(&mut payload).expect("whole frames");
        let frame = [&[head[0], length][..], &payload].concat();
        if stream.write_all(&frame).is_err() {
            return;
        }
    }
}

fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return None,
        }
    }
    String::from_utf8(head).ok()
}

/// A short frame of a client's with a mask of zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("it comes");
    bytes
}

#[test]
fn requests_handshakes_and_tunnels_are_counted_exactly_and_while_a_tunnel_lives() {
    let bench = Bench::new();
    let blank = bench.scrape();
    blank.assert(&[
        ("tunnels_open{route=\"chat\"}", 0.0),
        ("tunnel_bytes_total{route=\"chat\",direction=\"in\"}", 0.0),
        ("connections_open{listener=\"public\"}", 0.0),
        ("config_generation", 1.0),
    ]);
    assert_eq!(blank.get("tunnels_open{route=\"rest\"}"), None, "it opens no tunnels");

    let (mut client, head) = bench.ask("/", "");
    assert!(head.starts_with("HTTP/1.1 200"));
    assert_eq!(read(&mut client, 5), b"hello");
    let (_refused, head) = bench.open("https://evil.test");
    assert!(head.starts_with("HTTP/1.1 403"));
    let (mut tunnel, head) = bench.open("https://a.test");
    assert!(head.starts_with("HTTP/1.1 101"));
    for _ in 0..3 {
        tunnel.write_all(&masked(0x81, b"hello")).expect("taken");
        assert_eq!(read(&mut tunnel, 7), b"\x81\x05hello");
    }
    // The gateway's own ping, answered.
    let ping = read(&mut tunnel, 10);
    assert_eq!(ping[..2], [0x89, 8]);
    tunnel.write_all(&masked(0x8a, &ping[2..])).expect("taken");

    let alive = bench.eventually("tunnel_ping_round_trip_seconds_count{route=\"chat\",side=\"downstream\"}", 1.0);
    let server = |name: &str| format!("{name}{{upstream=\"u\",server=\"{}\"}}", bench.server);
    alive.assert(&[
        ("requests_total{route=\"rest\",protocol=\"h1\",status=\"2xx\"}", 1.0),
        ("requests_total{route=\"chat\",protocol=\"h1\",status=\"4xx\"}", 1.0),
        ("requests_total{route=\"chat\",protocol=\"h1\",status=\"1xx\"}", 1.0),
        ("requests_ended_total{route=\"rest\",reason=\"completed\"}", 1.0),
        ("request_duration_seconds_count{route=\"chat\"}", 2.0),
        ("request_upstream_duration_seconds_count{route=\"chat\"}", 1.0),
        ("request_body_bytes_total{route=\"rest\",direction=\"out\"}", 5.0),
        ("handshakes_total{route=\"chat\",result=\"opened\",reason=\"\"}", 1.0),
        ("handshakes_total{route=\"chat\",result=\"refused\",reason=\"origin-not-allowed\"}", 1.0),
        ("tunnels_open{route=\"chat\"}", 1.0),
        ("tunnels_opened_total{route=\"chat\"}", 1.0),
        ("tunnel_messages_total{route=\"chat\",direction=\"in\"}", 3.0),
        ("tunnel_messages_total{route=\"chat\",direction=\"out\"}", 3.0),
        ("tunnel_bytes_total{route=\"chat\",direction=\"in\"}", 33.0),
        ("tunnel_bytes_total{route=\"chat\",direction=\"out\"}", 31.0),
        ("tunnel_message_size_bytes_bucket{le=\"16.0\",route=\"chat\",direction=\"in\"}", 3.0),
        ("tunnel_message_size_bytes_sum{route=\"chat\",direction=\"in\"}", 15.0),
        ("connections_accepted_total{listener=\"public\"}", 3.0),
        ("connections_open{listener=\"public\"}", 3.0),
        ("worker_connections{worker=\"0\"}", 3.0),
        ("worker_inbox_length{worker=\"0\",inbox=\"connections\"}", 0.0),
        (&server("server_requests_total"), 2.0),
        (&server("server_tunnels_open"), 1.0),
        (&server("server_connections_open"), 2.0),
        (&server("server_connections_idle"), 1.0),
        (&server("server_connections_opened_total"), 2.0),
        (&server("server_connections_reused_total"), 0.0),
    ]);
    assert_eq!(alive.get("tunnel_duration_seconds_count{route=\"chat\"}"), None, "none has ended");

    tunnel.write_all(&masked(0x88, &1000_u16.to_be_bytes())).expect("taken");
    assert_eq!(read(&mut tunnel, 4), b"\x88\x02\x03\xe8");
    drop((tunnel, client));
    let ended = bench.eventually("tunnels_open{route=\"chat\"}", 0.0);
    ended.assert(&[
        ("tunnels_ended_total{route=\"chat\",reason=\"closed-by-client\"}", 1.0),
        ("tunnel_close_codes_total{route=\"chat\",side=\"downstream\",code=\"1000\"}", 1.0),
        ("tunnel_duration_seconds_count{route=\"chat\"}", 1.0),
    ]);
    let closed = bench.eventually("connections_open{listener=\"public\"}", 1.0);
    closed.assert(&[
        ("connections_closed_total{listener=\"public\",cause=\"tunnel\"}", 1.0),
        ("connections_closed_total{listener=\"public\",cause=\"finished\"}", 1.0),
    ]);
}

#[test]
fn counts_outlive_reloads_and_a_route_that_is_gone_leaves_with_the_next_but_one_or_its_last_tunnel() {
    let mut bench = Bench::new();
    let (tunnel, _) = bench.open("https://a.test");
    bench.reload(CHAT);
    let (second, _) = bench.open("https://a.test");
    let both = [("tunnels_opened_total{route=\"chat\"}", 2.0), ("tunnels_open{route=\"chat\"}", 2.0)];
    bench.scrape().assert(&both);
    bench.scrape().assert(&[("config_generation", 2.0), ("config_reloads_total{result=\"done\"}", 1.0)]);

    // Twice without it: its tunnels are open, and end when they like.
    bench.reload("");
    bench.reload("");
    bench.scrape().assert(&both);
    drop(tunnel);
    bench.eventually("tunnels_open{route=\"chat\"}", 1.0);
    bench.reload(CHAT);
    bench.scrape().assert(&[("tunnels_opened_total{route=\"chat\"}", 2.0), ("tunnels_open{route=\"chat\"}", 1.0)]);
    let (third, _) = bench.open("https://a.test");
    bench.scrape().assert(&[("tunnels_opened_total{route=\"chat\"}", 3.0), ("tunnels_open{route=\"chat\"}", 2.0)]);

    drop((second, third));
    bench.eventually("tunnels_open{route=\"chat\"}", 0.0);
    bench.reload("");
    bench.scrape().assert(&[("tunnels_opened_total{route=\"chat\"}", 3.0)]);
    bench.reload("");
    assert_eq!(bench.scrape().get("tunnels_opened_total{route=\"chat\"}"), None);
    bench.scrape().assert(&[("connections_accepted_total{listener=\"public\"}", 3.0)]);
}
