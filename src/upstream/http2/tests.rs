//! One worker's HTTP/2 towards a server that does what it is told: the h2 crate's, on the other end of a pipe.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::transport::Transport;
use crate::upstream::failure::Failure;
use crate::upstream::request_body::RequestBody;

type Server = Connection<DuplexStream, Bytes>;

static HOST: HeaderValue = HeaderValue::from_static("a.test");

fn origin() -> Origin<'static> {
    Origin { secure: false, host: &HOST }
}

fn pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(16 * 1024)
}

/// A channel to a server that is built as `build` says and does what `serve` says.
async fn channel<F: Future<Output = ()> + 'static>(
    build: impl FnOnce(&mut Builder),
    serve: impl FnOnce(Server) -> F + 'static,
) -> Rc<Channel> {
    let (near, far) = pair();
    let mut builder = Builder::new();
    build(&mut builder);
    tokio::task::spawn_local(async move { serve(builder.handshake(far).await.expect("a preface")).await });
    Channel::open(near, None).await.expect("HTTP/2")
}

/// Answers each stream in a task of its own, until the connection ends.
async fn each<F: Future<Output = ()> + 'static>(
    mut server: Server,
    mut answer: impl FnMut(usize, Request<RecvStream>, SendResponse<Bytes>) -> F,
) {
    let mut number = 0;
    while let Some(Ok((request, respond))) = server.accept().await {
        tokio::task::spawn_local(answer(number, request, respond));
        number += 1;
    }
}

fn get(path: &'static str) -> request::Parts {
    Request::get(path).header("host", "a.test").body(()).expect("a request").into_parts().0
}

fn ok() -> Response<()> {
    Response::new(())
}

async fn ask(channel: &Rc<Channel>) -> Result<Response<Download>, Broken> {
    send(channel.take().expect("room"), get("/"), RequestBody::Empty, &origin()).await
}

/// The whole body and its trailers, or how it broke.
async fn collect(response: Response<Download>) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut download = response.into_body();
    let (mut all, mut trailers) = (Vec::new(), None);
    while let Some(frame) = download.frame().await {
        match frame?.into_data() {
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((all, trailers))
}

async fn read_all(mut body: RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        all.extend_from_slice(&chunk);
    }
    all
}

/// Sends as the windows allow.
async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => stream.send_data(bytes.split_to(room?.min(bytes.len())), false)?,
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}

fn body_of(chunks: Vec<Bytes>) -> RequestBody {
    let frames = chunks.into_iter().map(|chunk| Ok::<_, io::Error>(http_body::Frame::data(chunk)));
    RequestBody::stream(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test(flavor = "local")]
async fn bodies_and_trailers_go_both_ways() {
    let channel = channel(
        |_| {},
        |server| {
            each(server, async |_, request, mut respond| {
                assert_eq!(request.uri(), "http://a.test/up");
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(Ok(chunk)) = body.data().await {
                    let _ = body.flow_control().release_capacity(chunk.len());
                    all.extend_from_slice(&chunk);
                }
                let trailers = body.trailers().await.expect("trailers").expect("trailers");
                let mut stream = respond.send_response(ok(), false).expect("open");
                send_all(&mut stream, all.into()).await.expect("open");
                stream.send_trailers(trailers).expect("open");
            })
        },
    )
    .await;
    let large = Bytes::from(vec![7; 300_000]);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = body_of(vec![large.clone()]).boxed_local_with(trailers.clone());
    let mut head = get("/up");
    head.method = http::Method::POST;
    let response = send(channel.take().expect("room"), head, body, &origin()).await.map_err(|broken| broken.failure);
    let (all, came) = collect(response.expect("an answer")).await.expect("whole");
    assert!(all == large && came == Some(trailers));
}

trait WithTrailers {
    fn boxed_local_with(self, trailers: HeaderMap) -> RequestBody;
}

impl WithTrailers for RequestBody {
    fn boxed_local_with(self, trailers: HeaderMap) -> RequestBody {
        RequestBody::stream(self.with_trailers(async move { Some(Ok(trailers)) }).map_err(|error| error))
    }
}

#[tokio::test(flavor = "local")]
async fn a_reset_before_the_end_is_never_a_clean_end_and_one_behind_it_is_nothing() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        for is_whole in [false, true] {
            let channel = channel(
                |_| {},
                move |server| {
                    each(server, move |_, _, mut respond| async move {
                        let mut stream = respond.send_response(ok(), false).expect("open");
                        stream.send_data(Bytes::from_static(b"part"), is_whole).expect("open");
                        // Until it has been written.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        stream.send_reset(reason);
                    })
                },
            )
            .await;
            let slot = channel.take().expect("room");
            let (keep, body) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
            let never = futures_util::stream::unfold(body, async |mut body| {
                body.recv().await.map(|chunk| (Ok::<_, io::Error>(http_body::Frame::data(chunk)), body))
            });
            let body = RequestBody::stream(StreamBody::new(never));
            let response = send(slot, get("/"), body, &origin()).await.map_err(|broken| broken.failure);
            let response = response.expect("an answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(collect(response).await.is_ok(), is_whole, "{reason:?}");
            drop(keep);
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_refused_request_comes_back_whole_and_one_that_was_lost_does_not() {
    for (reason, is_unprocessed) in [(Reason::REFUSED_STREAM, true), (Reason::INTERNAL_ERROR, false)] {
        let channel = channel(
            |_| {},
            move |server| {
                each(server, move |_, request, mut respond| async move {
                    let mut body = request.into_body();
                    let _ = body.data().await;
                    respond.send_reset(reason);
                })
            },
        )
        .await;
        let slot = channel.take().expect("room");
        let chunks = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let Err(broken) = send(slot, get("/"), body_of(chunks), &origin()).await else { panic!("an answer") };
        assert!(matches!(broken.failure, Failure::Closed(_)));
        let body = match broken.unprocessed {
            Some(body) => Some(body.collect().await.expect("whole").to_bytes()),
            None => None,
        };
        assert_eq!(body, is_unprocessed.then(|| Bytes::from_static(b"onetwo")));
        // More than is kept cannot be had again.
        let chunks = vec![Bytes::from(vec![0; 48 * 1024]); 2];
        let slot = channel.take().expect("room");
        let Err(broken) = send(slot, get("/"), body_of(chunks), &origin()).await else { panic!("an answer") };
        assert!(broken.unprocessed.is_none());
    }
}

#[tokio::test(flavor = "local")]
async fn after_a_goaway_old_streams_finish_and_new_ones_go_elsewhere() {
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let channel = channel(
        |_| {},
        |mut server| async move {
            let (_, mut respond) = server.accept().await.expect("a stream").expect("a stream");
            server.graceful_shutdown();
            tokio::task::spawn_local(async move {
                gone.await.expect("told");
                let mut stream = respond.send_response(ok(), false).expect("open");
                stream.send_data(Bytes::from_static(b"late"), true).expect("open");
            });
            assert!(server.accept().await.is_none());
        },
    )
    .await;
    let slot = channel.take().expect("room");
    let first = tokio::task::spawn_local(async move {
        let response = send(slot, get("/"), RequestBody::Empty, &origin()).await.map_err(|broken| broken.failure);
        collect(response.expect("an answer")).await.expect("whole").0
    });
    while channel.is_usable() {
        tokio::task::yield_now().await;
    }
    assert!(channel.take().is_none());
    go.send(()).expect("waited for");
    assert_eq!(first.await.expect("no panic"), b"late");
}

/// Type, flags and stream of the next frame; its payload is dropped.
async fn frame(far: &mut DuplexStream) -> (u8, u8, u32) {
    let mut head = [0; 9];
    far.read_exact(&mut head).await.expect("a frame");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    far.read_exact(&mut payload).await.expect("a frame");
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

#[tokio::test(flavor = "local")]
async fn a_stream_that_a_goaway_leaves_out_has_not_been_processed() {
    let (near, mut far) = pair();
    tokio::task::spawn_local(async move {
        far.read_exact(&mut [0; 24]).await.expect("a preface");
        far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.expect("taken");
        let mut seen = 0;
        while seen < 3 {
            match frame(&mut far).await {
                (6, 0, 0) => {
                    // The library's own payload.
                    far.write_all(b"\0\0\x08\x06\x01\0\0\0\0\x3b\x7c\xdb\x7a\x0b\x87\x16\xb4").await.expect("taken");
                    seen += 1;
                }
                (1, _, _) => seen += 1,
                _ => {}
            }
        }
        far.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0").await.expect("taken");
        while frame(&mut far).await != (7, 0, 0) {}
    });
    let channel = Channel::open(near, None).await.expect("HTTP/2");
    let asking = tokio::time::timeout(Duration::from_millis(200), ask(&channel));
    let (first, second) = tokio::join!(asking, ask(&channel));
    assert!(first.is_err(), "the first one is still waited for");
    assert!(second.err().expect("no answer").unprocessed.is_some());
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_stalls_before_very_many_small_frames_harms_nobody_else() {
    let sent = Rc::new(Cell::new(0_usize));
    let counter = sent.clone();
    let channel = channel(
        |_| {},
        |server| {
            each(server, move |_, request, mut respond| {
                let counter = counter.clone();
                async move {
                    let mut stream = respond.send_response(ok(), false).expect("open");
                    if request.uri().path() == "/small" {
                        for number in 0..60_000_u32 {
                            if send_all(&mut stream, Bytes::copy_from_slice(&number.to_be_bytes()[2..])).await.is_err()
                            {
                                return;
                            }
                            counter.set(counter.get() + 1);
                        }
                    }
                    send_all(&mut stream, Bytes::from(vec![1; 1_000_000])).await.expect("open");
                    let _ = stream.send_data(Bytes::new(), true);
                }
            })
        },
    )
    .await;
    // In a task, as those are who ask: each has its turn between two laps.
    let asking = tokio::task::spawn_local(async move {
        let slot = channel.take().expect("room");
        let small = send(slot, get("/small"), RequestBody::Empty, &origin()).await.map_err(|broken| broken.failure);
        for _ in 0..5 {
            let other = ask(&channel).await.map_err(|broken| broken.failure).expect("an answer");
            assert_eq!(collect(other).await.expect("whole").0.len(), 1_000_000);
        }
        small.expect("an answer")
    });
    let small = asking.await.expect("no panic");
    while sent.get() < 60_000 {
        tokio::task::yield_now().await;
    }
    let (all, _) = collect(small).await.expect("whole");
    let numbers: Vec<u8> = (0..60_000_u32).flat_map(|number| number.to_be_bytes()[2..].to_vec()).collect();
    assert!(all[..120_000] == numbers && all.len() == 1_120_000, "{} bytes", all.len());
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_stalls_stops_its_server_and_only_that_stream() {
    let sent = Rc::new(Cell::new(0_usize));
    let counter = sent.clone();
    let channel = channel(
        |_| {},
        |server| {
            each(server, move |_, _, mut respond| {
                let counter = counter.clone();
                async move {
                    let mut stream = respond.send_response(ok(), false).expect("open");
                    for _ in 0..64 {
                        if send_all(&mut stream, Bytes::from(vec![0; 16 * 1024])).await.is_err() {
                            return;
                        }
                        counter.set(counter.get() + 16 * 1024);
                    }
                    let _ = stream.send_data(Bytes::new(), true);
                }
            })
        },
    )
    .await;
    let stalled = ask(&channel).await.map_err(|broken| broken.failure).expect("an answer");
    let mut last = usize::MAX;
    while sent.get() != last {
        last = sent.get();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(last <= channel::STREAM_WINDOW as usize, "{last} bytes");
    let other = ask(&channel).await.map_err(|broken| broken.failure).expect("an answer");
    assert_eq!(collect(other).await.expect("whole").0.len(), 1024 * 1024);
    assert_eq!(collect(stalled).await.expect("whole").0.len(), 1024 * 1024);
}

#[tokio::test(flavor = "local")]
async fn who_leaves_resets_his_stream_and_gives_back_its_room() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let channel = channel(
        |builder| _ = builder.max_concurrent_streams(1),
        |server| {
            each(server, move |_, _, mut respond| {
                let tell = tell.clone();
                async move {
                    let reason = poll_fn(|cx| respond.poll_reset(cx)).await.expect("a reset");
                    tell.send(reason).expect("listened to");
                }
            })
        },
    )
    .await;
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(20), ask(&channel)).await.is_err(), "an answer");
        assert_eq!(told.recv().await, Some(Reason::CANCEL));
    }
}

/// A handshake that opens.
async fn open(channel: &Rc<Channel>) -> StreamTransport {
    let slot = channel.take().expect("room");
    match connect(slot, get("/ws"), &origin()).await.map_err(|broken| broken.failure).expect("an answer") {
        Connected::Open(head, stream) => {
            assert_eq!(head.status, StatusCode::OK);
            stream
        }
        Connected::Other(response) => panic!("{}", response.status()),
    }
}

/// A server that opens tunnels and does with each of them what it is told.
async fn tunnels<F: Future<Output = ()> + 'static>(
    serve: impl Fn(SendStream<Bytes>, RecvStream) -> F + 'static,
) -> Rc<Channel> {
    let serve = Rc::new(serve);
    channel(
        |builder| _ = builder.enable_connect_protocol(),
        |server| {
            each(server, move |_, request, mut respond| {
                assert_eq!(request.method(), http::Method::CONNECT);
                let stream = respond.send_response(ok(), false).expect("open");
                let serve = serve.clone();
                async move { serve(stream, request.into_body()).await }
            })
        },
    )
    .await
}

#[tokio::test(flavor = "local")]
async fn a_tunnel_carries_bytes_and_ends_each_way_by_itself() {
    let channel = tunnels(|mut stream, body| async move {
        let all = read_all(body).await;
        send_all(&mut stream, all.into()).await.expect("open");
        stream.send_data(Bytes::from_static(b"farewell"), true).expect("open");
    })
    .await;
    assert!(channel.opens_tunnels());
    let mut tunnel = open(&channel).await;
    let large = vec![9; 400_000];
    tunnel.write_all(&large).await.expect("taken");
    tunnel.shutdown().await.expect("ended");
    let mut back = Vec::new();
    tunnel.read_to_end(&mut back).await.expect("a good end");
    assert_eq!((back.len(), &back[400_000..]), (400_008, &b"farewell"[..]));
    drop(tunnel);
    assert_eq!((channel.streams(), channel.tunnels()), (0, 0));
}

#[tokio::test(flavor = "local")]
async fn resets_and_a_lost_connection_are_no_good_ends_of_a_tunnel() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let channel = tunnels(move |mut stream, mut body| {
        let tell = tell.clone();
        async move {
            match body.data().await.and_then(Result::ok).as_deref() {
                Some(b"reset") => stream.send_reset(Reason::CANCEL),
                _ => tell.send(poll_fn(|cx| stream.poll_reset(cx)).await.ok()).expect("listened to"),
            }
        }
    })
    .await;
    let mut ours = open(&channel).await;
    let mut theirs = open(&channel).await;
    theirs.write_all(b"reset").await.expect("taken");
    let error = theirs.read(&mut [0; 8]).await.expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(theirs.write(b"x").await.is_err());
    poll_fn(|cx| theirs.poll_reset(cx)).await;

    ours.write_all(b"x").await.expect("taken");
    ours.abort();
    drop(ours);
    assert_eq!(told.recv().await.expect("told"), Some(Reason::CANCEL));

    let (near, far) = pair();
    let held = Rc::new(RefCell::new(None));
    let keep = held.clone();
    let serving = tokio::task::spawn_local(async move {
        let mut builder = Builder::new();
        builder.enable_connect_protocol();
        let mut server: Server = builder.handshake(far).await.expect("a preface");
        while let Some(Ok((request, mut respond))) = server.accept().await {
            *keep.borrow_mut() = Some((request, respond.send_response(ok(), false).expect("open")));
        }
    });
    let channel = Channel::open(near, None).await.expect("HTTP/2");
    let mut tunnel = open(&channel).await;
    serving.abort();
    let error = tunnel.read(&mut [0; 8]).await.expect_err("a lost connection");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(channel.take().is_none());
}

#[tokio::test(flavor = "local")]
async fn what_is_no_http2_server_is_found_out_before_a_request_is_sent() {
    let (near, mut far) = pair();
    let writing = async {
        far.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.expect("taken");
        far
    };
    let (opened, _far) = tokio::join!(Channel::open(near, None), writing);
    assert!(matches!(opened.err(), Some(Failure::Protocol(_))));
    let (near, far) = pair();
    drop(far);
    assert!(matches!(Channel::open(near, None).await.err(), Some(Failure::Connect(_))));
}

/// Like [`Channels::obtain`] with connections to servers that allow so many streams; counts the connections.
fn opening(opened: &Rc<Cell<usize>>, streams: u32) -> impl Fn() -> Opening + use<> {
    let opened = opened.clone();
    move || {
        opened.set(opened.get() + 1);
        Box::pin(async move {
            let channel = channel(
                |builder| _ = builder.max_concurrent_streams(streams),
                |server| each(server, async |_, _, mut respond| _ = respond.send_response(ok(), true)),
            );
            Ok(Opened::Http2(channel.await))
        })
    }
}

async fn obtain(channels: &Rc<Channels>, open: impl Fn() -> Opening) -> Result<Slot, Failure> {
    match channels.obtain(Duration::from_secs(5), open).await? {
        Obtained::Stream(slot) => Ok(slot),
        _ => panic!("HTTP/1.1"),
    }
}

#[tokio::test(flavor = "local")]
async fn many_share_a_connection_and_beyond_its_room_there_is_another() {
    for (streams, connections) in [(100, 1), (10, 3), (1, 30)] {
        let (channels, opened) = (Rc::new(Channels::default()), Rc::new(Cell::new(0)));
        let all: Vec<_> = (0..30).map(|_| obtain(&channels, opening(&opened, streams))).collect();
        let slots = futures_util::future::join_all(all).await;
        let slots: Vec<_> = slots.into_iter().map(|slot| slot.expect("a stream")).collect();
        assert_eq!((slots.len(), opened.get()), (30, connections));
        drop(slots);
        let slot = obtain(&channels, opening(&opened, streams)).await.expect("a stream");
        assert_eq!(opened.get(), connections, "one that is open has room");
        assert!(send(slot, get("/"), RequestBody::Empty, &origin()).await.is_ok());
    }
    let (channels, opened) = (Rc::new(Channels::default()), Rc::new(Cell::new(0)));
    let failed = obtain(&channels, opening(&opened, 0)).await.err();
    assert!(matches!(failed, Some(Failure::Protocol(_))), "{failed:?}");
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_cannot_be_opened_fails_all_who_wait_for_it_and_is_not_tried_for_each() {
    let (channels, tried) = (Rc::new(Channels::default()), Rc::new(Cell::new(0)));
    let open = || -> Opening {
        let tried = tried.clone();
        Box::pin(async move {
            tried.set(tried.get() + 1);
            tokio::task::yield_now().await;
            Err(Failure::Connect(io::ErrorKind::ConnectionRefused.into()))
        })
    };
    let all = futures_util::future::join_all((0..30).map(|_| obtain(&channels, open))).await;
    assert!(all.iter().all(|one| matches!(one, Err(Failure::Connect(_)))));
    assert_eq!(tried.get(), 1);
}

#[tokio::test(flavor = "local")]
async fn who_asked_for_a_connection_may_leave_and_the_others_still_get_it() {
    let (channels, opened) = (Rc::new(Channels::default()), Rc::new(Cell::new(0)));
    let open = opening(&opened, 100);
    let mut first = Box::pin(obtain(&channels, &open));
    assert!(poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await.is_pending());
    let second = obtain(&channels, &open);
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(opened.get(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_server_that_is_silent_is_asked_and_then_given_up() {
    let (near, far) = pair();
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let held = Rc::new(RefCell::new(Vec::new()));
    let keep = held.clone();
    tokio::task::spawn_local(async move {
        let mut server: Server = builder.handshake(far).await.expect("a preface");
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                accepted = server.accept() => {
                    let (request, mut respond) = accepted.expect("a stream").expect("a stream");
                    keep.borrow_mut().push((request, respond.send_response(ok(), false).expect("open")));
                }
            }
        }
        // Neither reads nor hangs up.
        std::future::pending::<()>().await;
        drop(server);
    });
    let channel = Channel::open(near, None).await.expect("HTTP/2");
    let mut tunnel = open(&channel).await;
    let mut buffer = [0; 8];
    let quiet = tokio::time::timeout(Duration::from_secs(300), tunnel.read(&mut buffer)).await;
    assert!(quiet.is_err(), "it answers, and the tunnel stays");
    stop.send(true).expect("listened to");
    let begun = tokio::time::Instant::now();
    let error = tunnel.read(&mut buffer).await.expect_err("given up");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() <= Duration::from_secs(41), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_without_streams_is_closed_after_a_while() {
    let (over, ended) = tokio::sync::oneshot::channel();
    let channel = channel(
        |_| {},
        |server| async move {
            each(server, async |_, _, mut respond| _ = respond.send_response(ok(), true)).await;
            over.send(tokio::time::Instant::now()).expect("waited for");
        },
    )
    .await;
    assert!(ask(&channel).await.is_ok());
    let begun = tokio::time::Instant::now();
    let lasted = ended.await.expect("an end") - begun;
    assert!(lasted >= Duration::from_secs(30) && lasted < Duration::from_secs(36), "{lasted:?}");
    assert!(channel.take().is_none());
}
