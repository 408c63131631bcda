//! A forwarder between the gateway and a backend: it hands every byte on and keeps what each connection begins with.
//! What it has not seen, the backend has not seen.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::eventually;

/// A forwarder in front of a backend that keeps what the gateway opens each connection with.
pub struct Tap {
    pub port: u16,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A head is kept up to here.
const HEAD: usize = 32 * 1024;

impl Tap {
    pub fn before(backend: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("the address of a bound socket").port();
        let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = heads.clone();
        // Ends with the test's process; every stream in it ends when either side hangs up.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, backend))) else { continue };
                let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
                let index = {
                    let mut heads = kept.lock().expect("no forwarder panics");
                    heads.push(Vec::new());
                    heads.len() - 1
                };
                let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
                let kept = kept.clone();
                if let (Ok(from), Ok(to)) = up {
                    thread::spawn(move || forward(from, to, |bytes| keep(&kept, index, bytes)));
                }
                thread::spawn(move || forward(down.0, down.1, |_| ()));
            }
        });
        Self { port, heads }
    }

    /// Every request head that the backend was sent, as text.
    pub fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().expect("no forwarder panics");
        heads.iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
    }

    /// The head of the request whose target holds `marker`, waited for; its first line is the request line.
    pub fn head(&self, marker: &str) -> String {
        eventually(&format!("a request with `{marker}` at the backend"), || {
            self.heads().iter().flat_map(|kept| kept.split("\r\n\r\n")).find_map(|head| {
                // A body of the request before may stand in front of it.
                let line = head.lines().find(|line| line.ends_with(" HTTP/1.1") && line.contains(marker))?;
                head.find(line).map(|start| head[start..].to_owned())
            })
        })
    }

    /// Fails if any byte of a request with `marker` has reached the backend.
    pub fn never_saw(&self, marker: &str) {
        let seen: Vec<_> = self.heads().into_iter().filter(|head| head.contains(marker)).collect();
        assert!(seen.is_empty(), "the backend was sent a request that the gateway had to refuse:\n{}", seen.join("\n"));
    }
}

fn keep(heads: &Mutex<Vec<Vec<u8>>>, index: usize, bytes: &[u8]) {
    let head = &mut heads.lock().expect("no forwarder panics")[index];
    let room = HEAD.saturating_sub(head.len());
    head.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                seen(&buffer[..read]);
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // The other direction goes on: a half-close stays one.
    let _ = to.shutdown(Shutdown::Write);
}
