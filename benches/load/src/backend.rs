//! The server behind every proxy of a comparison: one thread, one small task per connection, one read buffer for all.
//! It listens on as many addresses as there are proxies, so that none of them runs out of ports because of another.
//!
//! `/1k` and `/1m` answer GET, `/tunnels` with how many there are; an upgrade on `/echo` echoes, on `/sink` reads and forgets, on `/pump?SIZE` sends frames
//! of that size as fast as they are taken, on `/fanout` gets each message that an upgrade on `/fanout/source` sends.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::args::{Args, Problem};
use crate::ws::{self, Frames, Seen};

const SCRATCH: usize = 64 * 1024;
/// Messages that may wait for one subscriber; what comes on top is dropped for it.
const QUEUE: usize = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

#[derive(Default)]
struct Hub {
    subscribers: RefCell<Vec<mpsc::Sender<Rc<[u8]>>>>,
    tunnels: Cell<usize>,
}

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let addresses: Vec<SocketAddr> = args.list("listen")?;
    args.done()?;
    if addresses.is_empty() {
        return Err("--listen is needed".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let set = tokio::task::LocalSet::new();
    set.block_on(&runtime, async {
        let (hub, mut all) = (Rc::default(), tokio::task::JoinSet::new());
        for address in addresses {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(4096)?;
            println!("listening {}", listener.local_addr()?);
            all.spawn_local(accept(listener, Rc::clone(&hub)));
        }
        all.join_all().await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, hub: Rc<Hub>) {
    let bodies: Rc<[Vec<u8>; 2]> = Rc::new([answer(1024), answer(1024 * 1024)]);
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // Fails only where the connection has gone already, which reading will tell.
                let _ = socket.set_nodelay(true);
                let (hub, bodies) = (Rc::clone(&hub), Rc::clone(&bodies));
                // A peer that goes away ends its connection and nothing else.
                tokio::task::spawn_local(async move { drop(serve(socket, &hub, &bodies).await) });
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

fn answer(size: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n");
    let mut whole = head.into_bytes();
    whole.resize(whole.len() + size, b'x');
    whole
}

/// One read into the shared buffer, handed to `use_it` before anybody else can touch it. 0 at the end.
async fn read_with(socket: &mut TcpStream, mut use_it: impl FnMut(&mut [u8])) -> io::Result<usize> {
    poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            Pin::new(&mut *socket).poll_read(cx, &mut buffer).map_ok(|()| {
                use_it(buffer.filled_mut());
                buffer.filled().len()
            })
        })
    })
    .await
}

async fn serve(mut socket: TcpStream, hub: &Hub, bodies: &[Vec<u8>; 2]) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if read_with(&mut socket, |bytes| input.extend_from_slice(bytes)).await? == 0 || input.len() > 64 * 1024 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        input.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or_default();
        match (key(&head), path) {
            (Some(key), path) => {
                let accept = ws::accept(key);
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                let path = path.to_owned();
                // The head is no longer needed, and a tunnel may stay for long.
                drop((head, std::mem::take(&mut input)));
                socket.write_all(answer.as_bytes()).await?;
                hub.tunnels.set(hub.tunnels.get() + 1);
                let end = tunnel(&mut socket, &path, hub).await;
                hub.tunnels.set(hub.tunnels.get() - 1);
                return end;
            }
            (None, "/1k") => socket.write_all(&bodies[0]).await?,
            (None, "/1m") => socket.write_all(&bodies[1]).await?,
            (None, "/tunnels") => {
                let count = hub.tunnels.get().to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", count.len());
                socket.write_all((head + &count).as_bytes()).await?;
            }
            (None, _) => socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?,
        }
    }
}

/// The key of a WebSocket handshake.
fn key(head: &str) -> Option<&str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    })
}

async fn tunnel(socket: &mut TcpStream, path: &str, hub: &Hub) -> io::Result<()> {
    match path.split_once('?').unwrap_or((path, "")) {
        ("/echo", _) => Box::pin(echo(socket)).await,
        ("/sink", _) => while_open(socket).await,
        ("/pump", size) => pump(socket, size.parse().unwrap_or(16 * 1024)).await,
        ("/fanout", _) => Box::pin(subscribe(socket, hub)).await,
        ("/fanout/source", _) => Box::pin(publish(socket, hub)).await,
        _ => Ok(()),
    }
}

async fn echo(socket: &mut TcpStream) -> io::Result<()> {
    let (mut frames, mut out, mut closed) = (Frames::default(), Vec::new(), false);
    while !closed {
        out.clear();
        if read_with(socket, |bytes| closed = ws::echo(&mut frames, bytes, &mut out)).await? == 0 {
            break;
        }
        socket.write_all(&out).await?;
    }
    socket.shutdown().await?;
    while_open(socket).await
}

async fn while_open(socket: &mut TcpStream) -> io::Result<()> {
    while read_with(socket, |_| ()).await? > 0 {}
    Ok(())
}

async fn pump(socket: &mut TcpStream, size: usize) -> io::Result<()> {
    let frame = ws::unmasked(ws::BINARY, &vec![b'x'; size]);
    loop {
        socket.write_all(&frame).await?;
    }
}

async fn subscribe(socket: &mut TcpStream, hub: &Hub) -> io::Result<()> {
    let (send, mut receive) = mpsc::channel(QUEUE);
    hub.subscribers.borrow_mut().push(send);
    loop {
        tokio::select! {
            message = receive.recv() => match message {
                Some(message) => socket.write_all(&message).await?,
                None => return Ok(()),
            },
            read = read_with(socket, |_| ()) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn publish(socket: &mut TcpStream, hub: &Hub) -> io::Result<()> {
    let (mut frames, mut message) = (Frames::default(), Vec::new());
    let mut whole: Vec<Rc<[u8]>> = Vec::new();
    loop {
        let read = read_with(socket, |bytes| {
            frames.feed(bytes, |seen| match seen {
                Seen::Header(..) => message.clear(),
                Seen::Payload(piece) => message.extend_from_slice(piece),
                Seen::End(_) => whole.push(ws::unmasked(ws::BINARY, &message).into()),
            });
        });
        if read.await? == 0 {
            return Ok(());
        }
        for message in whole.drain(..) {
            let keep = |to: &mpsc::Sender<Rc<[u8]>>| {
                !matches!(to.try_send(Rc::clone(&message)), Err(mpsc::error::TrySendError::Closed(_)))
            };
            hub.subscribers.borrow_mut().retain(keep);
        }
    }
}
