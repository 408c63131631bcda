//! What connections cost while they wait: silent ones, HTTP connections between two requests, tunnels.
//!
//! A binary of its own for its own allocator, which counts Rust's memory by jemalloc's size classes; what AWS-LC keeps
//! for TLS is counted in `tls_memory.rs`. One worker runs in this process and gets its connections by hand. Clients and
//! server are bare sockets here, which own no memory.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
// A global allocator cannot be written without it; a test may read clocks and start threads.
#![allow(unsafe_code, clippy::disallowed_methods)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use portcullis::config;
use portcullis::lifecycle::Lifecycle;
use portcullis::limits::Connections;
use portcullis::listener::{Arrival, ArrivedSocket, LoadGuard};
use portcullis::snapshot::Snapshot;
use portcullis::telemetry::access::AccessLogHandle;
use portcullis::telemetry::metrics::ListenerBook;
use portcullis::types::{Name, Peer};
use portcullis::worker::Worker;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Blocks by their size in words.
static BLOCKS: [AtomicUsize; 4096] = [const { AtomicUsize::new(0) }; 4096];

fn blocks(size: usize) -> &'static AtomicUsize {
    &BLOCKS[size.div_ceil(8).min(BLOCKS.len() - 1)]
}

/// What jemalloc takes for a block: steps of 16 up to 128, then four classes for each doubling.
const fn class(size: usize) -> usize {
    if size <= 128 {
        return (size + 15) & !15;
    }
    let step = size.next_power_of_two() / 8;
    size.div_ceil(step) * step
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(class(layout.size()), Relaxed);
        blocks(layout.size()).fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(class(layout.size()), Relaxed);
        blocks(layout.size()).fetch_sub(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: all of them count the same memory.
static ALONE: Mutex<()> = Mutex::new(());

/// A worker with one clear listener and one that speaks TLS, and a server behind it.
struct Bench {
    worker: Option<Worker>,
    lifecycle: Lifecycle,
    permits: Connections,
    doors: TcpListener,
    tls: Arc<ClientConfig>,
    book: Arc<ListenerBook>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let own = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
        std::fs::write(folder.path().join("a.pem"), own.cert.pem()).expect("writable");
        std::fs::write(folder.path().join("a.key"), own.signing_key.serialize_pem()).expect("writable");
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:1\"\n\
             [[listener]]\naddress = \"127.0.0.1:2\"\ntls = {{ cert = \"a.pem\", key = \"a.key\" }}\n\
             [[route]]\nupstream = \"http://{}\"\nwebsocket = {{ origins = [\"https://a.test\"] }}\n",
            server.local_addr().expect("an address")
        );
        std::thread::spawn(move || serve(&server));
        let (config, mut report) = config::read_text("test.toml", &text, folder.path());
        let config = config.unwrap_or_else(|| panic!("{report:?}"));
        let snapshot = Arc::new(Snapshot::build(&config, None, &mut report).expect("good"));
        let access = AccessLogHandle::off();
        let lifecycle = Lifecycle::new();
        let worker = Worker::start((0, 1), snapshot, lifecycle.clone(), access).expect("a worker");

        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).expect("a good root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.resumption = rustls::client::Resumption::disabled();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let book = Arc::new(ListenerBook::from(Name::from("test")));
        let doors = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { worker: Some(worker), lifecycle, permits: Connections::new(usize::MAX), doors, tls: Arc::new(tls), book }
    }

    /// A client's end of a connection that the worker has been given.
    fn connect(&self, listener: usize) -> TcpStream {
        let client = TcpStream::connect(self.doors.local_addr().expect("an address")).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let (socket, peer) = self.doors.accept().expect("accepted");
        socket.set_nonblocking(true).expect("set");
        let port = &self.worker.as_ref().expect("it runs").port;
        let arrival = Arrival {
            listener,
            socket: ArrivedSocket::Tcp(socket),
            peer: Peer::Tcp(peer),
            local: None,
            permit: self.permits.try_acquire().expect("room"),
            load: LoadGuard::new(&port.load, &self.book),
        };
        assert!(port.inbox.send(arrival.into()).is_ok(), "the worker runs");
        client
    }

    fn connect_tls(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let socket = self.connect(1);
        let connection =
            ClientConnection::new(self.tls.clone(), "a.test".try_into().expect("a name")).expect("a client");
        let mut stream = StreamOwned::new(connection, socket);
        stream.conn.complete_io(&mut stream.sock).expect("a TLS handshake");
        stream
    }

    /// Opens many, and says what each costs once `bound` holds or ten seconds have gone.
    fn cost(&self, bound: usize, open: impl Fn(&Self) -> TcpStream) -> usize {
        const COUNT: usize = 200;
        // What is made once is made now; tables that grow have room for those that follow.
        let mut held: Vec<_> = (0..COUNT).map(|_| open(self)).collect();
        held.reserve_exact(COUNT);
        self.settle(0);
        let before = HELD.load(Relaxed);
        let blocks_before: Vec<_> = BLOCKS.iter().map(|count| count.load(Relaxed)).collect();
        held.extend((0..COUNT).map(|_| open(self)));
        self.settle(before + bound * COUNT);
        for (words, (now, before)) in BLOCKS.iter().zip(blocks_before).enumerate() {
            let more = now.load(Relaxed).saturating_sub(before);
            if more >= COUNT / 2 {
                println!("    {:.2} blocks of {} bytes", more as f64 / COUNT as f64, words * 8);
            }
        }
        HELD.load(Relaxed).saturating_sub(before) / COUNT
    }

    /// Waits until no more than `bound` is held and nothing changes any more.
    fn settle(&self, bound: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < deadline {
            let now = HELD.load(Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            // HTTP is taken off an idle connection after a second.
            if since.elapsed() > Duration::from_millis(if bound == 0 || now > bound { 1_800 } else { 100 }) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
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

/// A server: agrees to every handshake and holds its connection; answers other requests.
fn serve(listener: &TcpListener) {
    let tunnels = Arc::new(Mutex::new(Vec::with_capacity(4096)));
    for stream in listener.incoming() {
        let (mut stream, tunnels) = (stream.expect("accepted"), tunnels.clone());
        std::thread::spawn(move || {
            while let Some(head) = read_head(&mut stream) {
                let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
                let Some(key) = key else {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("taken");
                    continue;
                };
                let words = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
                let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, words.as_bytes());
                let accept = base64::engine::general_purpose::STANDARD.encode(hash);
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
                write!(stream, "{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").expect("taken");
                tunnels.lock().expect("no panic").push(stream);
                return;
            }
        });
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

const HANDSHAKE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://a.test\r\n\r\n";

fn ask(stream: &mut (impl Read + Write)) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("taken");
    assert!(read_head(stream).expect("an answer").starts_with("HTTP/1.1 200"));
    stream.read_exact(&mut [0; 2]).expect("a body");
}

fn upgrade(stream: &mut (impl Read + Write)) {
    stream.write_all(HANDSHAKE).expect("taken");
    assert!(read_head(stream).expect("an answer").starts_with("HTTP/1.1 101"));
}

/// The socket of a TLS client that is done; everything else of it goes.
fn socket_of(stream: StreamOwned<ClientConnection, TcpStream>) -> TcpStream {
    stream.into_parts().1
}

#[track_caller]
fn assert_cost(what: &str, bound: usize, open: impl Fn(&Bench) -> TcpStream) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let each = Bench::new().cost(bound, open);
    println!("{what}: {each} bytes");
    assert!(each <= bound, "{what}: {each} bytes, more than {bound}");
    assert!(each > 256, "{what}: {each} bytes cannot be");
}

#[test]
fn a_connection_that_says_nothing_has_no_http() {
    assert_cost("silent", 1_200, |bench| bench.connect(0));
}

#[test]
fn a_connection_that_says_nothing_after_its_tls_handshake_has_no_http() {
    assert_cost("silent, TLS", 4_200, |bench| socket_of(bench.connect_tls()));
}

#[test]
fn a_connection_that_rests_between_two_requests_has_no_http() {
    assert_cost("resting", 1_600, |bench| {
        let mut client = bench.connect(0);
        ask(&mut client);
        client
    });
    assert_cost("resting, TLS", 4_600, |bench| {
        let mut client = bench.connect_tls();
        ask(&mut client);
        socket_of(client)
    });
}

#[test]
fn an_idle_tunnel_holds_one_task_and_its_sockets() {
    // A task of more than 512 bytes would show here.
    assert_cost("tunnel", 1_400, |bench| {
        let mut client = bench.connect(0);
        upgrade(&mut client);
        client
    });
    assert_cost("tunnel, TLS", 4_400, |bench| {
        let mut client = bench.connect_tls();
        upgrade(&mut client);
        socket_of(client)
    });
}

#[test]
fn a_connection_that_has_rested_answers_again_and_becomes_a_tunnel() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    let mut client = bench.connect(0);
    ask(&mut client);
    ask(&mut client);
    bench.settle(0);
    ask(&mut client);
    bench.settle(0);
    upgrade(&mut client);
}
