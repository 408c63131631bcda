//! The list of live tunnels, asked of a worker that has real ones.
//!
//! One worker runs in this process and gets its connections by hand; clients and server are bare sockets.

// A test may read clocks and start threads.
#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use portcullis::config;
use portcullis::exchange::live::{CloseOrder, Matches, TunnelRow, TunnelState, Which};
use portcullis::lifecycle::Lifecycle;
use portcullis::limits::Connections;
use portcullis::listener::{Arrival, ArrivedSocket, LoadGuard};
use portcullis::snapshot::Snapshot;
use portcullis::telemetry::access::AccessLogHandle;
use portcullis::telemetry::end::EndReason;
use portcullis::telemetry::metrics::ListenerBook;
use portcullis::types::{HttpVersion, Name, Peer};
use portcullis::worker::{Command, Worker};
use tokio::sync::oneshot;

struct Bench {
    worker: Option<Worker>,
    lifecycle: Lifecycle,
    permits: Connections,
    doors: TcpListener,
    server: String,
    /// The server's ends, in the order in which tunnels were opened.
    servers: Arc<Mutex<Vec<TcpStream>>>,
}

impl Bench {
    fn new(websocket: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        let text = format!(
            "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n\
             [[route]]\nname = \"chat\"\nupstream = \"u\"\n[route.websocket]\norigins = [\"*\"]\n{websocket}\n\
             [upstream.u]\nservers = [\"{server}\"]\n"
        );
        let servers = Arc::<Mutex<Vec<_>>>::default();
        let ends = servers.clone();
        std::thread::spawn(move || serve(&listener, &ends));
        let (config, mut report) = config::read_text("test.toml", &text, std::path::Path::new("."));
        let config = config.unwrap_or_else(|| panic!("{report:?}"));
        let snapshot = Arc::new(Snapshot::build(&config, None, &mut report).expect("good"));
        let access = AccessLogHandle::off();
        let lifecycle = Lifecycle::new();
        // The second one of two.
        let worker = Some(Worker::start((1, 2), snapshot, lifecycle.clone(), access).expect("a worker"));
        let doors = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { worker, lifecycle, permits: Connections::new(usize::MAX), doors, server, servers }
    }

    fn worker(&self) -> &Worker {
        self.worker.as_ref().expect("it runs")
    }

    /// A client's end of a tunnel.
    fn open(&self, fields: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.doors.local_addr().expect("an address")).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let (socket, peer) = self.doors.accept().expect("accepted");
        socket.set_nonblocking(true).expect("set");
        let port = &self.worker().port;
        let arrival = Arrival {
            listener: 0,
            socket: ArrivedSocket::Tcp(socket),
            peer: Peer::Tcp(peer),
            local: None,
            permit: self.permits.try_acquire().expect("room"),
            load: LoadGuard::new(&port.load, &Arc::new(ListenerBook::from(Name::from("test")))),
        };
        assert!(port.inbox.send(arrival.into()).is_ok(), "the worker runs");
        let head = "GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        client.write_all(format!("{head}{fields}\r\n").as_bytes()).expect("taken");
        assert!(read_head(&mut client).expect("an answer").starts_with("HTTP/1.1 101"));
        client
    }

    fn list(&self, matches: &Matches) -> Vec<TunnelRow> {
        let (mut from, mut rows) = (Some(0), Vec::new());
        while let Some(place) = from {
            let (reply, answer) = oneshot::channel();
            let command = Command::List { from: place, matches: matches.clone(), reply };
            assert!(self.worker().commands.blocking_send(command).is_ok());
            let page = answer.blocking_recv().expect("an answer");
            rows.extend(page.rows);
            from = page.next;
        }
        rows
    }

    /// Waits until the list is as it should be.
    fn eventually(&self, what: &str, mut probe: impl FnMut(&[TunnelRow]) -> bool) -> Vec<TunnelRow> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let rows = self.list(&all());
            if probe(&rows) {
                return rows;
            }
            assert!(Instant::now() < deadline, "{what}: {rows:#?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn close(&self, which: Which, code: u16, reason: &str) -> usize {
        let order = Arc::new(CloseOrder::new(code, reason, EndReason::ClosedByOperator).expect("a good order"));
        let (reply, answer) = oneshot::channel();
        assert!(self.worker().commands.blocking_send(Command::Close { which, order, reply }).is_ok());
        answer.blocking_recv().expect("an answer")
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

fn all() -> Matches {
    Arc::new(|_, _| true)
}

/// Agrees to every handshake, and to the first subprotocol that is offered.
fn serve(listener: &TcpListener, ends: &Mutex<Vec<TcpStream>>) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("accepted");
        let Some(head) = read_head(&mut stream) else { continue };
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let key = field("Sec-WebSocket-Key: ").expect("a handshake");
        let words = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, words.as_bytes());
        let accept = base64::engine::general_purpose::STANDARD.encode(hash);
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        let chosen = field("Sec-WebSocket-Protocol: ").and_then(|offer| offer.split(',').next());
        let chosen = chosen.map(|name| format!("\r\nSec-WebSocket-Protocol: {name}")).unwrap_or_default();
        // Kept first: whoever has the answer may look for it.
        ends.lock().expect("no panic").push(stream.try_clone().expect("a descriptor"));
        write!(stream, "{head}\r\nSec-WebSocket-Accept: {accept}{chosen}\r\n\r\n").expect("taken");
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

/// A short frame of a server's, or of a client's with a mask of zeros.
fn frame(client: bool, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask: (u8, &[u8]) = if client { (0x80, &[0; 4]) } else { (0, &[]) };
    [&[first, mask.0 | payload.len() as u8], mask.1, payload].concat()
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("it comes");
    bytes
}

#[test]
fn a_row_says_who_where_for_how_long_and_how_much() {
    let bench = Bench::new("ping_interval = \"1s\"");
    let mut first = bench.open("Sec-WebSocket-Protocol: chat.v2, chat.v1\r\nX-Forwarded-For: 2001:db8::7\r\n");
    let mut second = bench.open("");
    first.write_all(&frame(true, 0x81, b"hello")).expect("taken");
    first.write_all(&frame(true, 0x01, b"half a")).expect("taken");
    let mut server = bench.servers.lock().expect("no panic")[0].try_clone().expect("a descriptor");
    server.write_all(&frame(false, 0x82, b"welcome").repeat(3)).expect("taken");
    assert_eq!(read(&mut first, 27), frame(false, 0x82, b"welcome").repeat(3));
    // The gateway's own ping, answered.
    let ping = read(&mut first, 10);
    assert_eq!(ping[..2], [0x89, 8]);
    first.write_all(&frame(true, 0x8a, &ping[2..])).expect("taken");

    let rows = bench.eventually("the answer to a ping", |rows| {
        rows.iter().any(|row| row.progress.frames.is_some_and(|frames| frames.round_trip.is_some()))
    });
    let row = rows.iter().find(|row| row.tunnel.number == 2).expect("the second worker counts from 2");
    let way = &row.way;
    assert_eq!((way.listener.as_str(), way.version, way.tls), ("public", HttpVersion::Http1, None));
    let names =
        [&way.route, &way.upstream, &way.server, &way.subprotocol].map(|name| name.as_ref().map(|name| name.as_str()));
    assert_eq!(names, [Some("chat"), Some("u"), Some(bench.server.as_str()), Some("chat.v2")]);
    assert_eq!(row.client, "2001:db8::7".parse::<IpAddr>().ok());
    assert_eq!(row.peer.to_string(), first.local_addr().expect("an address").to_string());
    assert_eq!((row.tunnel.worker(), row.connection), (1, 2));
    let progress = &row.progress;
    let frames = progress.frames.expect("checked");
    assert_eq!((progress.state, frames.closed_by), (TunnelState::Open, None));
    assert_eq!((frames.messages_up, frames.messages_down), (1, 3));
    assert_eq!((progress.bytes_up, progress.bytes_down), (23, 37));
    assert!(row.age >= progress.age && progress.age >= Duration::from_secs(1) && progress.idle <= progress.age);
    assert!(frames.round_trip.expect("answered") < Duration::from_secs(10));

    let other = rows.iter().find(|row| row.tunnel.number == 4).expect("the second tunnel");
    assert_eq!((other.client, &other.way.subprotocol), (Some(IpAddr::from([127, 0, 0, 1])), &None));
    second.write_all(&frame(true, 0x88, &1000_u16.to_be_bytes())).expect("taken");
    let rows = bench.eventually("the Close of the second", |rows| {
        rows.iter().any(|row| row.progress.state == TunnelState::Closing)
    });
    let closing: Vec<_> = rows.iter().filter(|row| row.progress.state == TunnelState::Closing).collect();
    assert_eq!((closing.len(), closing[0].tunnel.number), (1, 4));
    assert_eq!(closing[0].progress.frames.expect("checked").close_code, Some(1000));
}

#[test]
fn one_tunnel_is_closed_by_its_number_and_some_by_what_they_have_in_common() {
    let bench = Bench::new("");
    let mut clients: Vec<_> = (1..=6).map(|last| bench.open(&format!("X-Forwarded-For: 192.0.2.{last}\r\n"))).collect();
    let rows = bench.eventually("six tunnels", |rows| rows.len() == 6);
    let one = rows.iter().find(|row| row.tunnel.number == 4).expect("the second").tunnel;
    assert_eq!(bench.close(Which::These(vec![one]), 4001, "you alone"), 1);
    assert_eq!(read(&mut clients[1], 13), frame(false, 0x88, b"\x0f\xa1you alone"));
    let some: Matches = Arc::new(|row, _| row.client > Some(IpAddr::from([192, 0, 2, 4])));
    assert_eq!(bench.close(Which::All(some), 4002, ""), 2);
    for client in &mut clients[4..] {
        assert_eq!(read(client, 4), frame(false, 0x88, b"\x0f\xa2"));
    }
    bench.eventually("three tunnels", |rows| rows.len() == 3);
    assert_eq!(bench.close(Which::These(vec![one]), 4001, ""), 0);
    clients[0].write_all(&frame(true, 0x81, b"still here")).expect("taken");
    let mut server = bench.servers.lock().expect("no panic")[0].try_clone().expect("a descriptor");
    assert_eq!(read(&mut server, 16).len(), 16);
}

#[test]
fn a_list_of_many_holds_nobody_up() {
    const COUNT: usize = 1_500;
    let bench = Bench::new("");
    let mut clients: Vec<_> = (0..COUNT).map(|_| bench.open("")).collect();
    let start = Instant::now();
    let rows = bench.list(&all());
    println!("{} tunnels listed in {:?}", rows.len(), start.elapsed());
    let mut numbers: Vec<_> = rows.iter().map(|row| row.tunnel.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), COUNT);
    // While lists are asked for without a pause, messages go through.
    let (stop, bench) = (std::sync::atomic::AtomicBool::new(false), &bench);
    let mut server = bench.servers.lock().expect("no panic")[0].try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| {
            let mut lists = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(bench.list(&all()).len(), COUNT);
                lists += 1;
            }
            lists
        });
        let mut worst = Duration::ZERO;
        for _ in 0..200 {
            let sent = Instant::now();
            clients[0].write_all(&frame(true, 0x82, b"ping")).expect("taken");
            assert_eq!(read(&mut server, 10).len(), 10);
            worst = worst.max(sent.elapsed());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("{} lists meanwhile; the slowest message took {worst:?}", listing.join().expect("no panic"));
        assert!(worst < Duration::from_secs(1), "{worst:?}");
    });
    assert_eq!(bench.close(Which::All(all()), 1001, "going away"), COUNT);
    bench.eventually("none", <[_]>::is_empty);
}
