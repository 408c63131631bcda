//! What a client's TLS connection costs while it is silent, and how often one that speaks asks the allocator.
//!
//! A binary of its own for its own allocator, which counts Rust's memory and leaves the C library's to `mallinfo2`:
//! aws-lc keeps its keys there. The clients' part is no part of the figures: they give up all state but the socket.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
// A test may read clocks and start threads.
#![allow(clippy::disallowed_methods)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis::config::model::{CertificateFiles, ClientAuth, ListenerTls, Protocols, TlsPolicy, TlsVersion};
use portcullis::config::report::{Located, Report, Spot};
use portcullis::tls::{ServerPolicies, TlsStream, accept};
use portcullis::transport::Socket;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// One test at a time: all of them count the same memory.
static ALONE: Mutex<()> = Mutex::new(());

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `struct mallinfo2` of glibc 2.33.
#[repr(C)]
#[derive(Clone, Copy)]
struct Mallinfo {
    fields: [usize; 10],
}

unsafe extern "C" {
    safe fn mallinfo2() -> Mallinfo;
}

/// Bytes in use of the C library's heap, Rust's included, with the allocator's own headers.
fn process_heap() -> usize {
    let info = mallinfo2().fields;
    info[7] + info[4]
}

fn setup(protocols: Protocols) -> (ServerPolicies, Arc<ClientConfig>) {
    let folder = tempfile::tempdir().expect("a folder");
    let own = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writable");
        Located::new(path, Spot::default())
    };
    let files =
        CertificateFiles { cert: write("cert", own.cert.pem()), key: write("key", own.signing_key.serialize_pem()) };
    let policy = TlsPolicy {
        hosts: Vec::new(),
        certificates: vec![files],
        min_version: TlsVersion::Tls12,
        client_auth: ClientAuth::None,
        spot: Spot::default(),
    };
    let tls = ListenerTls { default: policy, policies: Vec::new() };
    let policies = ServerPolicies::build(&tls, protocols, None, &mut Report::default()).expect("good");

    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a good root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (policies, Arc::new(config))
}

/// A client that echoes are done with.
fn client(config: Arc<ClientConfig>, address: SocketAddr) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let connection = ClientConnection::new(config, "a.test".try_into().expect("a name")).expect("a client");
    StreamOwned::new(connection, std::net::TcpStream::connect(address).expect("connected"))
}

async fn greet(policies: &ServerPolicies, listener: &TcpListener) -> TlsStream {
    let socket = listener.accept().await.expect("accepted").0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    accept(policies, Socket::Tcp(socket), deadline).await.expect("a TLS handshake").stream
}

async fn echo(stream: &mut TlsStream, buffer: &mut [u8]) {
    stream.read_exact(buffer).await.expect("read");
    stream.write_all(buffer).await.expect("written");
    stream.flush().await.expect("flushed");
}

const MESSAGE: usize = 1024;

/// `count` connections after one echo each, with what is left of their clients: sockets.
async fn hold(count: usize) -> (Vec<TlsStream>, Vec<std::net::TcpStream>) {
    let (policies, config) = setup(Protocols { http1: true, http2: false });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut buffer = [0; MESSAGE];
    let (mut held, mut sockets) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let config = config.clone();
        let client = std::thread::spawn(move || {
            let mut client = client(config, address);
            client.write_all(&[7; MESSAGE]).expect("written");
            client.read_exact(&mut [0; MESSAGE]).expect("read");
            client.into_parts().1
        });
        let mut stream = greet(&policies, &listener).await;
        echo(&mut stream, &mut buffer).await;
        held.push(stream);
        sockets.push(client.join().expect("no panic"));
    }
    (held, sockets)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn a_silent_connection_holds_its_keys_and_no_buffers() {
    const COUNT: usize = 100;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    runtime().block_on(async {
        // What is made once per process and thread is made now.
        drop(hold(10).await);
        let before = (HELD.load(Relaxed), process_heap());
        let held = hold(COUNT).await;
        let after = (HELD.load(Relaxed), process_heap());
        // The socket's registration with the runtime, of which TLS knows nothing, is 256 bytes of it.
        let rust = (after.0 - before.0) / COUNT;
        let process = (after.1 - before.1) / COUNT;
        println!("per silent connection: {rust} bytes by Rust, {process} with the C library's");
        assert!(rust <= 2_900, "{rust}");
        assert!(process <= 4_600, "{process}");
        drop(held);
    });
}

/// rustls 0.23 makes a vector for each record that it decrypts and for each that it encrypts, and frees it at once; we
/// make none.
#[test]
fn a_message_costs_no_allocation_beyond_those_of_rustls() {
    const ECHOES: usize = 500;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (policies, config) = setup(Protocols { http1: true, http2: false });
    runtime().block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = std::thread::spawn(move || {
            let mut client = client(config, address);
            for _ in 0..ECHOES + 10 {
                client.write_all(&[7; MESSAGE]).expect("written");
                client.read_exact(&mut [0; MESSAGE]).expect("read");
            }
        });
        let mut stream = greet(&policies, &listener).await;
        let mut buffer = [0; MESSAGE];
        for _ in 0..10 {
            echo(&mut stream, &mut buffer).await;
        }
        let before = CALLS.get();
        for _ in 0..ECHOES {
            echo(&mut stream, &mut buffer).await;
        }
        let calls = CALLS.get() - before;
        println!("{calls} allocations for {ECHOES} echoes");
        assert!(calls <= 2 * ECHOES, "{calls}");
        client.join().expect("no panic");
    });
}
