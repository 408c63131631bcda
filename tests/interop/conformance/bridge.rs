//! Carries a plain WebSocket connection into the gateway over TLS or over HTTP/2, for a client that speaks neither.
//!
//! It adds nothing and forgives nothing: bytes go on as they come, an end as an end, a break as a break. Over TLS the
//! whole connection is carried, handshake included, and an end without close_notify counts as a break. Over HTTP/2 the
//! handshake becomes an extended CONNECT (RFC 8441) on a connection of its own; END_STREAM is the end, RST_STREAM the
//! break. Nothing here looks at frames.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::harness::{NAME, certificates};

/// How the gateway is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    Tls,
    H2,
}

type Failure = Box<dyn std::error::Error>;

/// Starts a bridge to the gateway's TLS port, which ends with the test's process; its own port.
pub fn start(road: Road, gateway: u16) -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("the address of a bound socket").port();
    listener.set_nonblocking(true).expect("a socket option");
    let tls = tls(road);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((client, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = carry(road, client, gateway, tls).await {
                        eprintln!("the bridge over {road:?} could not open a tunnel: {error}");
                    }
                });
            }
        });
    });
    port
}

fn tls(road: Road) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates().ca_der.clone().into()).expect("the test CA is a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![match road {
        Road::Tls => b"http/1.1".to_vec(),
        Road::H2 => b"h2".to_vec(),
    }];
    Arc::new(config).into()
}

async fn carry(
    road: Road,
    mut client: TcpStream,
    gateway: u16,
    tls: tokio_rustls::TlsConnector,
) -> Result<(), Failure> {
    client.set_nodelay(true)?;
    let socket = TcpStream::connect(("127.0.0.1", gateway)).await?;
    socket.set_nodelay(true)?;
    let server = tls.connect(NAME.try_into()?, socket).await?;
    let broken = match road {
        Road::Tls => over_tls(&mut client, server).await,
        Road::H2 => over_h2(&mut client, server, gateway).await?,
    };
    if broken {
        abort(&client);
    }
    Ok(())
}

/// Its close is a reset.
fn abort(socket: &TcpStream) {
    // Gone already is as good.
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Says whether a side broke.
async fn over_tls(client: &mut TcpStream, server: TlsStream<TcpStream>) -> bool {
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut from_client, mut to_client) = client.split();
    let lost = Cell::new(false);
    let both = tokio::try_join!(
        relay(&mut from_client, &mut to_server, &lost),
        relay(&mut from_server, &mut to_client, &lost),
    );
    let broken = both.is_err() || lost.get();
    if broken {
        abort(from_server.unsplit(to_server).get_ref().0);
    }
    broken
}

/// To the source's end; its break is an error. `lost`: the sink has taken no more.
async fn relay(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    lost: &Cell<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut open = true;
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            lost.set(lost.get() || open && to.shutdown().await.is_err());
            return Ok(());
        }
        if open && (to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err()) {
            // What the sink sent before it broke is still to be read by the other direction, and this source too.
            open = false;
            lost.set(true);
        }
    }
}

/// Says whether a side broke.
async fn over_h2(client: &mut TcpStream, server: TlsStream<TcpStream>, gateway: u16) -> Result<bool, Failure> {
    let (head, early) = request_head(client).await?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let (sender, mut connection) = builder.handshake(server).await?;
    let request = extended_connect(&head, gateway)?;
    // Its task ends when the stream has and the sender is dropped.
    wait_for_settings(&mut connection, &sender).await?;
    tokio::task::spawn_local(connection);
    let mut sender = sender.ready().await?;
    let (response, mut send) = sender.send_request(request, false)?;
    let (answer, mut recv) = response.await?.into_parts();
    client.write_all(&answer_head(&answer, &head)).await?;
    if answer.status != 200 {
        return Ok(false);
    }
    let (mut from_client, mut to_client) = client.split();
    let lost = Cell::new(false);
    let up = async {
        offer(&mut send, early, &lost).await;
        let sent = upload(&mut from_client, &mut send, &lost).await;
        if sent.is_err() {
            send.send_reset(Reason::CANCEL);
        }
        sent
    };
    let both = tokio::try_join!(up, download(&mut recv, &mut to_client));
    let broken = both.is_err() || lost.get();
    if broken {
        send.send_reset(Reason::CANCEL);
    }
    Ok(broken)
}

/// Extended CONNECT may be sent only after the gateway's SETTINGS have offered it (RFC 8441 3).
async fn wait_for_settings<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<T>,
    sender: &SendRequest<Bytes>,
) -> Result<(), Failure> {
    poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut *connection).poll(cx);
        match (sender.is_extended_connect_protocol_enabled(), polled) {
            (true, _) => std::task::Poll::Ready(Ok(())),
            (false, std::task::Poll::Pending) => std::task::Poll::Pending,
            (false, std::task::Poll::Ready(end)) => {
                std::task::Poll::Ready(Err(format!("no extended CONNECT was offered: {end:?}").into()))
            }
        }
    })
    .await
}

/// The client's head with its fields, and what came behind it.
async fn request_head(client: &mut TcpStream) -> Result<(Vec<(String, String)>, Bytes), Failure> {
    let mut read = Vec::new();
    loop {
        if client.read_buf(&mut read).await? == 0 {
            return Err("the client left before its head was whole".into());
        }
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let mut lines = std::str::from_utf8(&read[..end])?.split("\r\n");
            let target = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no target")?;
            let mut head = vec![(":path".to_owned(), target.to_owned())];
            for line in lines {
                let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
                head.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            return Ok((head, Bytes::copy_from_slice(&read[end + 4..])));
        }
    }
}

/// RFC 8441 5: the fields stay, but for those that are HTTP/1.1's own.
fn extended_connect(head: &[(String, String)], gateway: u16) -> Result<http::Request<()>, Failure> {
    let mut request = http::Request::builder().method("CONNECT").version(http::Version::HTTP_2);
    for (name, value) in head {
        request = match name.as_str() {
            ":path" => request.uri(format!("https://{NAME}:{gateway}{value}")),
            "host" | "connection" | "upgrade" | "sec-websocket-key" => request,
            _ => request.header(name, value),
        };
    }
    Ok(request.extension(Protocol::from_static("websocket")).body(())?)
}

/// The answer as the client expects it.
fn answer_head(answer: &http::response::Parts, asked: &[(String, String)]) -> Vec<u8> {
    if answer.status != 200 {
        let status = answer.status.as_u16();
        return format!("HTTP/1.1 {status} refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").into_bytes();
    }
    let key = asked.iter().find(|(name, _)| name == "sec-websocket-key").map_or("", |(_, key)| key);
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".to_vec();
    head.extend(format!("Sec-WebSocket-Accept: {accept}\r\n").into_bytes());
    for name in ["sec-websocket-extensions", "sec-websocket-protocol"] {
        for value in answer.headers.get_all(name) {
            head.extend([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    head.extend(b"\r\n");
    head
}

/// The client's bytes into the stream, to the client's end; its break is an error.
async fn upload(from: &mut (impl AsyncRead + Unpin), to: &mut SendStream<Bytes>, lost: &Cell<bool>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            // A stream that the gateway has ended already needs no end of ours.
            let _ = to.send_data(Bytes::new(), true);
            return Ok(());
        }
        offer(to, Bytes::copy_from_slice(&buffer[..read]), lost).await;
    }
}

/// Sends as the window allows. What the gateway takes no more is lost.
async fn offer(to: &mut SendStream<Bytes>, mut bytes: Bytes, lost: &Cell<bool>) {
    while !bytes.is_empty() && !lost.get() {
        to.reserve_capacity(bytes.len());
        let sent = match poll_fn(|cx| to.poll_capacity(cx)).await {
            Some(Ok(room)) => to.send_data(bytes.split_to(room.min(bytes.len())), false).is_ok(),
            _ => false,
        };
        lost.set(!sent);
    }
}

/// The stream's bytes to the client, to END_STREAM; a reset is an error.
async fn download(from: &mut RecvStream, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    while let Some(part) = from.data().await {
        let part = part.map_err(io::Error::other)?;
        to.write_all(&part).await?;
        let _ = from.flow_control().release_capacity(part.len());
    }
    // A client that has left already needs no end.
    let _ = to.shutdown().await;
    Ok(())
}
