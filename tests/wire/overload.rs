//! LIM: how much one server may have at a time, and what becomes of those for whom there is no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::Semaphore;

use crate::harness::{
    Answer, Backend, Client, Fields, Frame, H2, H2Stream, Handshake, OpCode, Peer, Request, Setup, Stage, Way,
    eventually, whole, within,
};

/// A server that answers when it is told to, and counts what it has.
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
    answers: Semaphore,
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicUsize::new(0), most: AtomicUsize::new(0), answers: Semaphore::new(0) })
    }

    fn backend(self: &Arc<Self>) -> Backend {
        let held = self.clone();
        Backend::scripted(move |peer| held.clone().serve(peer))
    }

    /// One more answer.
    fn answer(&self) {
        self.answers.add_permits(1);
    }

    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    async fn serve(self: Arc<Self>, mut peer: Peer) -> std::io::Result<()> {
        loop {
            let head = peer.head().await?;
            self.enter();
            if !head.is_websocket() {
                let _ = peer.request_body(&head).await?;
                self.answers.acquire().await.expect("never closed").forget();
                // Before the answer, with whose end its place is free.
                self.leave();
                peer.nonce(&head).await?;
                continue;
            }
            peer.agree(&head, "").await?;
            loop {
                let frame = peer.frame().await?.unmasked();
                let is_close = frame.opcode == OpCode::CLOSE;
                if is_close {
                    self.leave();
                }
                peer.write(&frame.bytes()).await?;
                if is_close {
                    peer.finish().await?;
                    return peer.until_over().await;
                }
            }
        }
    }
}

/// A request or handshake that has been sent and not answered.
enum Pending {
    H1(Client),
    H2(h2::client::ResponseFuture, SendStream<Bytes>, H2),
}

impl Pending {
    async fn request(way: Way, stage: &Stage, request: &Request) -> Self {
        if way == Way::H2 {
            let mut h2 = h2(stage).await;
            let (answer, send) = h2.begin(request.to_h2(), request.body.is_none()).await;
            return Self::H2(answer, send, h2);
        }
        let mut client = way.client(stage).await;
        client.send(request.to_h1()).await;
        Self::H1(client)
    }

    async fn handshake(way: Way, stage: &Stage, handshake: &Handshake) -> Self {
        if way == Way::H2 {
            let mut h2 = h2(stage).await;
            let (answer, send) = h2.begin(handshake.to_h2(), false).await;
            return Self::H2(answer, send, h2);
        }
        let mut client = way.client(stage).await;
        client.send(handshake.to_h1()).await;
        Self::H1(client)
    }

    async fn answer(self) -> Answer {
        match self {
            Self::H1(mut client) => client.answer().await,
            Self::H2(answer, ..) => {
                whole(within("an answer", answer).await.expect("an answer")).await.expect("a whole answer")
            }
        }
    }

    async fn tunnel(self) -> Open {
        match self {
            Self::H1(mut client) => {
                assert_eq!(client.head().await.status(), 101);
                Open::H1(client)
            }
            Self::H2(answer, send, h2) => {
                let answer = within("an answer", answer).await.expect("an answer");
                assert_eq!(answer.status(), 200);
                Open::H2(h2.stream_of(send, answer.into_body()))
            }
        }
    }

    /// The client closes its socket, or resets it; on h2 its stream in either case.
    fn leave(self, by_reset: bool) {
        match self {
            Self::H1(client) if by_reset => client.reset(),
            Self::H1(client) => drop(client),
            Self::H2(_, mut send, _) => send.send_reset(h2::Reason::CANCEL),
        }
    }
}

/// A tunnel that the client ends as one should.
enum Open {
    H1(Client),
    H2(H2Stream),
}

impl Open {
    async fn close(self) {
        let close = Frame::close(1000, "");
        match self {
            Self::H1(mut client) => {
                client.send(close.clone().masked().bytes()).await;
                assert_eq!(client.frame().await, close);
                client.finish().await;
                client.rest().await;
            }
            Self::H2(mut stream) => {
                stream.write(close.clone().masked().bytes()).await;
                assert_eq!(stream.frame().await, close);
                stream.finish().await;
                stream.rest().await;
            }
        }
    }
}

async fn arrived(stage: &Stage, count: usize) {
    eventually("requests at the server", || stage.b1.requests().len() >= count).await;
    assert_eq!(stage.b1.requests().len(), count);
}

/// A connection on which what is begun leaves at once.
async fn h2(stage: &Stage) -> H2 {
    let mut h2 = stage.h2().await;
    assert_eq!(h2.ask(&Request::get("/denied")).await.status, 403);
    h2
}

/// The access log without what is asked for the order's sake, once it has so many lines.
async fn logged(stage: &Stage, count: usize) -> Vec<serde_json::Value> {
    let lines = || {
        let lines = stage.gateway.access_log().into_iter();
        lines.filter(|line| line["path"] != "/denied").collect::<Vec<_>>()
    };
    eventually(&format!("{count} lines of access log"), || lines().len() >= count).await;
    lines()
}

/// Waits until those who came before have their places in the queue, and nobody else has room there. One line of log.
async fn queue_is_full(stage: &Stage) {
    let mut client = stage.clear().await;
    // Whatever had arrived before this one has been taken care of when it is answered.
    assert_eq!(client.ask(&Request::get("/denied")).await.status, 403);
    client.ask(&Request::get("/n/refused")).await.assert_refused(503, "upstream-overloaded");
}

/// A gateway before one server that has room for one, which somebody has.
async fn full(more: &str) -> (Arc<Held>, Stage, Pending) {
    let held = Held::new();
    let upstream = format!("max_connections = 1\n{more}");
    let stage =
        Setup::new().b1(held.backend()).upstream(&upstream).route_timeouts("request_body_idle = \"1s\"").start();
    let inside = Pending::request(Way::Clear, &stage, &Request::get("/n/inside")).await;
    arrived(&stage, 1).await;
    (held, stage, inside)
}

#[tokio::test]
async fn lim_30_over_all_workers_no_server_ever_has_more_than_it_may() {
    let servers = [Held::new(), Held::new()];
    let other = servers[1].backend();
    let stage = Setup::new()
        .b1(servers[0].backend())
        .server("workers = 2")
        .upstream_servers(&format!("\"http://{{B1}}\", {{ url = \"http://{}\", max_connections = 2 }}", other.address))
        .upstream("max_connections = 3\nqueue = { size = 1000, timeout = \"1m\" }");
    let stage = Arc::new(stage.start());
    servers.iter().for_each(|server| server.answers.add_permits(1000));
    let clients = (0..8_usize).flat_map(|_| Way::ALL).map(|way| {
        let stage = stage.clone();
        tokio::spawn(async move {
            for round in 0..10 {
                if round % 2 == 0 {
                    let request = Request::get("/n");
                    assert_eq!(way.ask(&stage, &request).await.text(), request.nonce);
                } else {
                    Pending::handshake(way, &stage, &Handshake::to("/ws")).await.tunnel().await.close().await;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    let most = servers.each_ref().map(|server| server.most.load(Ordering::SeqCst));
    assert_eq!(most, [3, 2], "at most, and at some time as many");
    assert_eq!(stage.b1.requests().len() + other.requests().len(), 240);
    let lines = logged(&stage, 240).await;
    assert!(lines.iter().any(|line| line["queued_us"].as_u64().is_some_and(|queued| queued > 0)));
}

#[tokio::test]
async fn lim_30_a_server_that_was_taken_out_and_is_put_in_again_still_has_what_it_has() {
    const LIMITED: &str = "max_connections = 2\nqueue = { size = 0 }";
    let upstream = |servers: &str| {
        format!(
            "[[route]]\nname = \"t\"\nhosts = [\"a.test\"]\npath = \"/t\"\nstrip_prefix = \"/t\"\nupstream = \"t\"\n\
             [route.websocket]\norigins = [\"https://app.example\"]\n[upstream.t]\nservers = [{servers}]\n{LIMITED}\n"
        )
    };
    let stage = Setup::new().server("workers = 2").more(&upstream("\"http://{B1}\"")).start();
    let (b1, b2) = (stage.b1.address.to_string(), stage.b2.address.to_string());
    let with = upstream(&format!("\"http://{b1}\""));
    assert!(stage.toml.contains(&with), "{}", stage.toml);
    let mut held = Vec::new();
    for way in [Way::Clear, Way::H2] {
        held.push(way.tunnel(&stage, &Handshake::to("/t/ws")).await);
    }
    // Another server instead; no upstream of that name at all.
    for without in [upstream(&format!("\"http://{b2}\"")), String::new()] {
        stage.reload_with(&with, &without).await;
        assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
        for way in Way::ALL {
            way.refused(&stage, &Handshake::to("/t/ws"), 503, "upstream-overloaded").await;
        }
    }
    for tunnel in &mut held {
        tunnel.echo("still open").await;
    }
    held.truncate(1);
    let room = async {
        while Way::Clear.open(&stage, &Handshake::to("/t/ws")).await.1.is_none() {
            tokio::task::yield_now().await;
        }
    };
    within("its place is free again", room).await;
}

#[tokio::test]
async fn lim_31_those_who_wait_are_served_in_their_order_requests_and_handshakes_alike() {
    for way in Way::ALL {
        let (held, stage, inside) = full("queue = { size = 4, timeout = \"1m\" }").await;
        let mut waiting = Vec::new();
        for number in 0..3 {
            let path = format!("/n/{number}");
            waiting.push(Pending::request(way, &stage, &Request::get(&path)).await);
            // Over whatever way the others come, and whoever has a tunnel.
            if number == 1 {
                waiting.push(Pending::handshake(way, &stage, &Handshake::to("/ws")).await);
            }
        }
        queue_is_full(&stage).await;
        held.answer();
        assert_eq!(inside.answer().await.status, 200);
        let mut waiting = waiting.into_iter();
        for count in 2..=3 {
            arrived(&stage, count).await;
            held.answer();
            assert_eq!(waiting.next().expect("one").answer().await.status, 200);
        }
        // A tunnel has its place to its end.
        let tunnel = waiting.next().expect("one").tunnel().await;
        arrived(&stage, 4).await;
        tunnel.close().await;
        arrived(&stage, 5).await;
        held.answer();
        assert_eq!(waiting.next().expect("one").answer().await.status, 200);
        let order: Vec<_> = stage.b1.requests().iter().map(|head| head.target().to_owned()).collect();
        assert_eq!(order, ["/n/inside", "/n/0", "/n/1", "/ws", "/n/2"], "{way:?}");
        assert_eq!(held.most.load(Ordering::SeqCst), 1);
        let lines = logged(&stage, 6).await;
        let queued = |path: &str, event: &str| {
            let line = lines.iter().find(|line| line["path"] == path && line["event"] == event).expect("a line");
            line.get("queued_us").and_then(serde_json::Value::as_u64)
        };
        assert_eq!(queued("/n/inside", "request"), None);
        assert!(queued("/n/2", "request") > Some(0), "{lines:?}");
    }
}

#[tokio::test]
async fn lim_31_a_handshake_waits_for_the_end_of_a_tunnel() {
    for way in Way::ALL {
        let stage = Setup::new().upstream("max_connections = 1").start();
        for held in Way::ALL {
            let mut tunnel = held.tunnel(&stage, &Handshake::to("/ws")).await;
            let waiting = Pending::handshake(way, &stage, &Handshake::to("/ws")).await;
            tunnel.echo("the place is mine").await;
            let connections = stage.b1.connections();
            drop(tunnel);
            waiting.tunnel().await.close().await;
            assert_eq!(stage.b1.connections(), connections + 1, "{way:?} after {held:?}");
        }
    }
}

#[tokio::test]
async fn lim_32_whoever_finds_the_queue_full_is_503_at_once_and_reaches_no_server() {
    for (size, way) in [0, 2].into_iter().flat_map(|size| Way::ALL.map(|way| (size, way))) {
        let timeout = if size == 0 { "" } else { ", timeout = \"1m\"" };
        let (held, stage, inside) = full(&format!("queue = {{ size = {size}{timeout} }}")).await;
        let mut waiting = Vec::new();
        for _ in 0..size {
            waiting.push(Pending::request(way, &stage, &Request::get("/n")).await);
        }
        queue_is_full(&stage).await;
        let start = Instant::now();
        for _ in 0..3 {
            let answer = way.ask(&stage, &Request::new("POST", "/n").body("hello")).await;
            answer.assert_refused(503, "upstream-overloaded");
            assert_eq!(answer.get("retry-after"), Some("5"), "{way:?}");
            let answer = way.refused(&stage, &Handshake::to("/ws"), 503, "upstream-overloaded").await;
            assert!(answer.has("retry-after"), "{way:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        arrived(&stage, 1).await;
        // A refusal leaves the connection usable.
        if way != Way::H2 {
            let mut client = way.client(&stage).await;
            assert_eq!(client.ask(&Request::get("/n")).await.status, 503);
            assert_eq!(client.ask(&Request::get("/denied")).await.status, 403);
        }
        (0..=size).for_each(|_| held.answer());
        for pending in std::iter::once(inside).chain(waiting) {
            assert_eq!(pending.answer().await.status, 200);
        }
        held.answer();
        assert_eq!(way.ask(&stage, &Request::get("/n")).await.status, 200, "there is room again");
    }
}

#[tokio::test]
async fn lim_33_whoever_waits_too_long_is_503() {
    for way in Way::ALL {
        let (held, stage, inside) = full("queue = { timeout = \"1s\" }").await;
        let start = Instant::now();
        let request = Pending::request(way, &stage, &Request::get("/n/late")).await;
        let handshake = Pending::handshake(way, &stage, &Handshake::to("/ws")).await;
        for pending in [request, handshake] {
            let answer = pending.answer().await;
            answer.assert_refused(503, "upstream-queue-timeout");
            assert_eq!(answer.get("retry-after"), Some("5"), "{way:?}");
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(990) && took < Duration::from_secs(5), "{way:?}: {took:?}");
        arrived(&stage, 1).await;
        for line in logged(&stage, 2).await {
            assert_eq!((&line["end"], &line["status"]), (&"upstream-queue-timeout".into(), &503.into()), "{line}");
            assert!(line["queued_us"].as_u64() >= Some(990_000) && line.get("server").is_none(), "{line}");
        }
        held.answer();
        assert_eq!(inside.answer().await.status, 200);
    }
}

#[tokio::test]
async fn lim_34_the_body_of_a_request_that_waits_is_neither_asked_for_nor_missed() {
    for way in Way::H1 {
        let (held, stage, inside) = full("queue = { timeout = \"1m\" }").await;
        let mut stream = way.client(&stage).await.into_stream();
        let head =
            "POST /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        stream.write(head.as_bytes()).await.expect("an open connection");
        // Longer than a body may be silent.
        assert!(stream.silent_for(1500).await, "{way:?}: something was said to a request that waits");
        arrived(&stage, 1).await;
        held.answer();
        assert_eq!(inside.answer().await.status, 200);
        arrived(&stage, 2).await;
        held.answer();
        stream.write(b"hello").await.expect("an open connection");
        let mut head = within("an answer", stream.head()).await.expect("an answer");
        if head.status() == 100 {
            head = within("an answer", stream.head()).await.expect("an answer");
        }
        assert_eq!(head.status(), 200, "{way:?}: {head:?}");
    }
}

#[tokio::test]
async fn lim_35_a_client_that_leaves_ends_its_wait() {
    for (way, by_reset) in Way::ALL.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let (held, stage, inside) = full("queue = { size = 1, timeout = \"1m\" }").await;
        let request = Pending::request(way, &stage, &Request::get("/n/gone")).await;
        let mut count = 0;
        let mut leave = async |pending: Pending| {
            queue_is_full(&stage).await;
            pending.leave(by_reset);
            count += 2;
            let lines = logged(&stage, count).await;
            let line = lines[count - 2..].iter().find(|line| line["status"] != 503).expect("a line");
            assert_eq!(line["end"], "client-closed", "{way:?} {by_reset}: {line}");
            assert!(line["queued_us"].as_u64() > Some(0) && line.get("status").is_none(), "{line}");
        };
        leave(request).await;
        leave(Pending::handshake(way, &stage, &Handshake::to("/ws/gone")).await).await;
        // Its body is still to come, so that nobody reads.
        let upload = Request::new("POST", "/n/gone").body(vec![b'x'; 100]);
        let upload = match way {
            Way::H2 => Pending::request(way, &stage, &upload).await,
            _ => {
                let mut client = way.client(&stage).await;
                let bytes = upload.to_h1();
                client.send(&bytes[..bytes.len() - 50]).await;
                Pending::H1(client)
            }
        };
        leave(upload).await;
        let waiting = Pending::request(way, &stage, &Request::get("/n/stays")).await;
        queue_is_full(&stage).await;
        held.answer();
        assert_eq!(inside.answer().await.status, 200);
        arrived(&stage, 2).await;
        held.answer();
        assert_eq!(waiting.answer().await.status, 200, "{way:?} {by_reset}");
        assert_eq!(stage.b1.requests()[1].target(), "/n/stays");
    }
}

#[tokio::test]
async fn lim_36_a_server_that_dies_while_the_other_is_full_costs_nobody_an_answer() {
    for way in Way::ALL {
        let dying = Arc::new(Semaphore::new(0));
        let death = dying.clone();
        let other = Backend::scripted(move |mut peer: Peer| {
            let death = death.clone();
            async move {
                peer.head().await?;
                death.acquire().await.expect("never closed").forget();
                peer.reset();
                Ok(())
            }
        });
        let held = Held::new();
        let stage = Setup::new()
            .b1(held.backend())
            .upstream_servers(&format!("\"http://{{B1}}\", \"http://{}\"", other.address))
            .upstream("max_connections = 1\nqueue = { size = 2, timeout = \"1m\" }")
            .start();
        let mut inside = Vec::new();
        for _ in 0..2 {
            inside.push(Pending::request(Way::Clear, &stage, &Request::get("/n/inside")).await);
        }
        eventually("both are full", || stage.b1.requests().len() + other.requests().len() == 2).await;
        let first = Pending::request(way, &stage, &Request::get("/n/first")).await;
        let second = Pending::handshake(way, &stage, &Handshake::to("/ws/second")).await;
        queue_is_full(&stage).await;
        // Nobody listens there any more, and then its connection breaks.
        drop(other);
        dying.add_permits(1);
        let lines = logged(&stage, 2).await;
        assert_eq!(lines[1]["end"], "upstream-closed", "{lines:?}");
        // The first was handed the place there, and waits for the other server now, behind the second.
        held.answer();
        let tunnel = second.tunnel().await;
        arrived(&stage, 2).await;
        tunnel.close().await;
        arrived(&stage, 3).await;
        held.answer();
        assert_eq!(first.answer().await.status, 200, "{way:?}");
        let lines = logged(&stage, 5).await;
        let line = lines.iter().find(|line| line["path"] == "/n/first").expect("a line");
        assert_eq!((&line["retries"], &line["status"]), (&1.into(), &200.into()), "{line}");
        assert!(line["queued_us"].as_u64() > Some(0), "{line}");
        drop(inside);
    }
}

#[tokio::test]
async fn lim_37_what_is_over_the_retry_budget_is_not_retried() {
    for way in Way::ALL {
        let ports = [Backend::refusing_port(), Backend::refusing_port()];
        let stage = Setup::new()
            .upstream_servers(&ports.map(|port| format!("\"http://127.0.0.1:{port}\"")).join(", "))
            .upstream("retries = 1\nretry_budget = { percent = 10, min_per_second = 2 }")
            .start();
        let start = Instant::now();
        for _ in 0..20 {
            way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
            way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-unreachable").await;
        }
        let seconds = start.elapsed().as_secs() + 2;
        let lines = logged(&stage, 40).await;
        let retries: u64 = lines.iter().filter_map(|line| line["retries"].as_u64()).sum();
        // Two in a second, or four of forty requests; both servers are out, so that each could have had one.
        assert!((2..=4.max(2 * seconds)).contains(&retries), "{way:?}: {retries} in {seconds} s");
        let told = stage.gateway.stderr().lines().filter(|line| line.contains("retry_budget is spent")).count();
        assert!((1..=1 + seconds / 10).contains(&(told as u64)), "{way:?}: {told}");
    }
}
