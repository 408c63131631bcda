//! OPS: listeners that a reload adds, takes away and changes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, End, Fields, Frame, GOAWAY, Gateway, H2, Handshake, Outcome, RawH2, Request, Setup, Stage,
    TlsOptions, Tunnel, Way, eventually, holds_within, refuses,
};

/// A third listener of the standard topology.
fn third(more: &str) -> String {
    format!("\n[[listener]]\nname = \"third\"\naddress = \"127.0.0.1:0\"\n{more}\n")
}

fn fields(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path)]
}

/// The code of the GOAWAY that comes.
async fn goaway(raw: &mut RawH2) -> u32 {
    while let Some(frame) = raw.next().await {
        if frame.kind == GOAWAY {
            return u32::from_be_bytes(frame.payload[4..8].try_into().expect("a code"));
        }
    }
    panic!("the end without GOAWAY");
}

/// A request, and its answer, on a connection that is there.
async fn ask(client: &mut Client, path: &str) -> u16 {
    client.ask(&Request::get(path)).await.status
}

#[tokio::test]
async fn ops_06_a_listener_that_is_added_serves_and_one_that_is_taken_away_drains() {
    let stage = Setup::new().server("workers = 2").start();
    let event = stage.gateway.reload_with(&(stage.toml.clone() + &third(""))).await;
    assert_eq!(event["listeners"], "added third");
    let address = stage.gateway.announced("third").await;
    let mut idle = Client::clear(address).await;
    assert_eq!(ask(&mut idle, "/n").await, 200);
    let mut tunnel = Client::clear(address).await;
    tunnel.open(&Handshake::to("/ws")).await;
    tunnel.echo("before").await;
    let mut elsewhere = stage.clear().await;
    assert_eq!(ask(&mut elsewhere, "/n").await, 200);

    assert_eq!(stage.gateway.reload_with(&stage.toml).await["listeners"], "removed third");
    assert_eq!(idle.expect_end().await, End::Fin);
    refuses(address).await;
    assert_eq!(ask(&mut elsewhere, "/n").await, 200, "the others notice nothing");
    tunnel.echo("after").await;
    tunnel.send(Frame::close(1000, "").masked().bytes()).await;
    assert_eq!(tunnel.frame().await.close_code(), Some(1000));
    stage.assert_serving().await;
}

#[tokio::test]
async fn ops_06_a_listener_that_is_taken_away_says_goaway_finishes_answers_and_keeps_tunnels() {
    let (backend, go) = Backend::slow_until_told();
    let stage = Setup::new().b1(backend).start();
    let slow = Request::get("/n/slow");
    let mut asking = stage.tls().await;
    asking.send(slow.to_h1()).await;
    let mut raw = RawH2::connect(&stage).await;
    raw.headers(1, &fields("/n"), true).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    raw.headers(3, &fields("/n/slow"), true).await;
    let mut h2 = H2::connect(&stage).await;
    let mut tunnel = h2.tunnel(&Handshake::to("/ws")).await;
    eventually("both slow requests upstream", || {
        stage.b1.requests().iter().filter(|head| head.target() == "/n/slow").count() == 2
    })
    .await;

    // Without its name in a route, the listener can go.
    let toml = stage.toml.replace("listeners = [\"tls\"]\n", "").replace("client_certificate = true\n", "");
    let start = toml.find("[[listener]]\nname = \"tls\"").expect("it");
    let end = toml.find("[[route]]").expect("routes");
    let event = stage.gateway.reload_with(&format!("{}{}", &toml[..start], &toml[end..])).await;
    assert_eq!(event["listeners"], "removed tls", "{event}");
    assert_eq!(goaway(&mut raw).await, 0);
    go.send(true).expect("a waiting backend");
    assert_eq!(raw.outcome(3).await, Outcome::Status(200));
    let answer = asking.answer().await;
    assert_eq!((answer.status, answer.text(), answer.lists("connection", "close")), (200, slow.nonce, true));
    assert_eq!(asking.expect_end().await, End::Fin);
    while raw.next().await.is_some() {}
    tunnel.echo("after").await;
    refuses(stage.gateway.address("tls")).await;
    tunnel.echo("later").await;
}

/// What has connected before the reload is served, whether the gateway has got round to accepting it or not.
#[tokio::test]
async fn ops_06_what_waits_in_the_queue_of_a_listener_that_goes_is_served() {
    let stage = Setup::new().server("workers = 2").start();
    let toml = stage.toml.clone() + &third("tls = { cert = \"a.pem\", key = \"a.key\" }");
    stage.gateway.reload_with(&(toml + &third("").replace("third", "fourth"))).await;
    let (tls, clear) = (stage.gateway.announced("third").await, stage.gateway.announced("fourth").await);
    stage.gateway.signal(Signal::STOP);
    let mut queued = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(clear).expect("the kernel answers");
        // Answered by the gateway itself, since nobody else runs while this test waits.
        client.write_all(&Request::get("/denied").to_h1()).expect("room");
        queued.push(client);
    }
    let silent = TcpStream::connect(clear).expect("the kernel answers");
    // Their TLS handshakes come after the reload, and their requests after that.
    let shaking: Vec<_> =
        (0..10).map(|_| tokio::spawn(async move { Client::try_tls(tls, &TlsOptions::new("a.test")).await })).collect();
    // The kernel has to have them.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.gateway.replace("portcullis.toml", &stage.toml);
    stage.gateway.hang_up();
    stage.gateway.signal(Signal::CONT);
    eventually("the reload", || stage.gateway.reloads().len() == 2).await;
    for mut client in queued {
        client.set_read_timeout(Some(crate::harness::patience())).expect("set");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer and the end");
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
    }
    for client in shaking {
        let mut client = client.await.expect("no panic").expect("a TLS handshake");
        let answer = client.ask(&Request::get("/n")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(client.expect_end().await, End::Fin);
    }
    drop(silent);
}

#[tokio::test]
async fn ops_06_a_silent_connection_of_a_listener_that_goes_is_not_waited_for_long() {
    let stage = Stage::standard().await;
    stage.gateway.reload_with(&(stage.toml.clone() + &third(""))).await;
    let address = stage.gateway.announced("third").await;
    let mut silent = Client::clear(address).await;
    stage.assert_serving().await;
    let start = Instant::now();
    stage.gateway.reload_with(&stage.toml).await;
    assert_eq!(silent.expect_end().await, End::Fin);
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn ops_06_an_address_that_is_taken_refuses_the_whole_reload() {
    let stage = Stage::standard().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("an address");
    // A worker that has followed a reload has all that it opens when it begins.
    assert_eq!(stage.gateway.reload().await["generation"], 2);
    let descriptors = stage.gateway.descriptors();
    let bad = format!("\n[[listener]]\naddress = \"{address}\"\n");
    let toml = stage.toml.replace("denied\\n", "changed\\n") + &third("") + &bad;
    let event = stage.gateway.reload_with(&toml).await;
    assert_eq!((&event["refused"], &event["generation"]), (&1.into(), &2.into()), "{event}");
    let events = stage.gateway.events();
    let problem = events.iter().find(|event| event["code"] == "cannot-listen").expect("a problem");
    assert!(problem["message"].as_str().is_some_and(|text| text.contains(&address.to_string())), "{problem}");
    let line = toml.lines().position(|line| line.contains(&address.to_string())).expect("it") + 1;
    assert!(problem["place"].as_str().is_some_and(|place| place.contains(&format!("toml:{line}:"))), "{problem}");
    assert_eq!(Way::Clear.ask(&stage, &Request::get("/denied")).await.text(), "denied\n");
    assert!(holds_within(Duration::from_secs(5), || stage.gateway.descriptors() <= descriptors + 1).await);
    drop(taken);
    assert_eq!(stage.gateway.reload().await["message"], "reloaded");
    stage.gateway.announced("third").await;
}

/// The address of a wildcard that a narrower listener of our own holds.
#[tokio::test]
async fn ops_06_an_address_in_the_way_of_our_own_is_explained() {
    let port = Backend::closed_port();
    let toml = |address: &str| {
        format!(
            "[[listener]]\nname = \"it\"\naddress = \"{address}:{port}\"\n[[route]]\nrespond = {{ status = 204 }}\n"
        )
    };
    let gateway = Gateway::start_with(&toml("127.0.0.1"), None);
    assert_eq!(gateway.reload_with(&toml("0.0.0.0")).await["refused"], 1);
    let events = gateway.events();
    let problem = events.iter().find(|event| event["code"] == "cannot-listen").expect("a problem");
    assert!(problem["help"].as_str().is_some_and(|help| help.contains("`it` listens there")), "{problem}");
    let mut client = Client::clear(gateway.address("it")).await;
    assert_eq!(ask(&mut client, "/").await, 204);
}

#[tokio::test]
async fn ops_06_a_listener_that_changes_keeps_its_socket() {
    let stage = Stage::standard().await;
    let clear = stage.gateway.address("clear");
    let mut idle = stage.clear().await;
    assert_eq!(ask(&mut idle, "/n").await, 200);
    // It becomes one for TLS: what was made in the clear must not go on, and nobody is refused in between.
    let stop = std::cell::Cell::new(false);
    let knock = async {
        while !stop.get() {
            drop(Client::clear(clear).await);
        }
    };
    let change = async {
        let tls = "tls = { cert = \"a.pem\", key = \"a.key\" }\n";
        let mark = "name = \"clear\"\naddress = \"127.0.0.1:0\"\n";
        let event = stage.reload_with(mark, &format!("{mark}{tls}")).await;
        assert_eq!(event["listeners"], "changed clear");
        stop.set(true);
    };
    futures_util::future::join(knock, change).await;
    assert_eq!(idle.expect_end().await, End::Fin);
    let mut client = Client::tls(clear, &TlsOptions::new("a.test")).await;
    assert_eq!(ask(&mut client, "/n").await, 200);
    let mut wrong = Client::clear(clear).await;
    assert_eq!(wrong.ask(&Request::get("/n")).await.status, 400, "plain HTTP on a TLS port");
    // And back.
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["listeners"], "changed clear");
    assert_eq!(client.expect_end().await, End::Fin);
    stage.assert_serving().await;
    let renamed = stage
        .toml
        .replace("name = \"clear\"\naddress = \"127.0.0.1:0\"", &format!("name = \"x\"\naddress = \"{clear}\""));
    // Port 0 is another address than the one that came of it.
    assert_eq!(stage.gateway.reload_with(&renamed).await["refused"], 1);
}

#[tokio::test]
async fn ops_06_a_renamed_listener_is_the_same_and_its_name_counts_at_once() {
    let port = Backend::closed_port();
    let toml = |name: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n\
             [[route]]\nlisteners = [\"{name}\"]\nrespond = {{ status = 200, body = \"{name}\" }}\n"
        )
    };
    let gateway = Gateway::start_with(&toml("one"), None);
    let mut client = Client::clear(gateway.address("one")).await;
    assert_eq!(client.ask(&Request::get("/")).await.text(), "one");
    assert_eq!(gateway.reload_with(&toml("two")).await["listeners"], "changed two");
    assert_eq!(client.ask(&Request::get("/")).await.text(), "two", "on the same connection");
    gateway.logged(2).await;
    let names: Vec<_> = gateway.access_log().iter().map(|line| line["listener"].clone()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[tokio::test]
async fn ops_06_unix_sockets_come_and_go_with_their_files() {
    let stage = Stage::standard().await;
    let path = stage.gateway.folder().join("gateway.sock");
    let unix = "\n[[listener]]\nname = \"unix\"\naddress = \"unix:gateway.sock\"\n";
    assert_eq!(stage.gateway.reload_with(&(stage.toml.clone() + unix)).await["listeners"], "added unix");
    let ask = || {
        let mut client = UnixStream::connect(&path).expect("it listens");
        client.set_read_timeout(Some(crate::harness::patience())).expect("set");
        client.write_all(b"GET /denied HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").expect("room");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    };
    ask();
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).expect("the socket"));
    let before = inode();
    let changed = unix.to_owned() + "timeouts = { keep_alive = \"5s\" }\n";
    assert_eq!(stage.gateway.reload_with(&(stage.toml.clone() + &changed)).await["listeners"], "changed unix");
    assert_eq!(inode(), before, "the same socket");
    ask();
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["listeners"], "removed unix");
    assert!(!path.exists());
}

#[tokio::test]
async fn ops_06_a_protocol_that_is_no_longer_offered_ends_with_the_answers_under_way() {
    let stage = Stage::standard().await;
    let mut raw = RawH2::connect(&stage).await;
    raw.headers(1, &fields("/n"), true).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    let mut tunnel: Tunnel = Way::H2.tunnel(&stage, &Handshake::to("/ws")).await;
    let mut h1 = stage.tls().await;
    assert_eq!(ask(&mut h1, "/n").await, 200);
    let mark = "name = \"tls\"\naddress = \"127.0.0.1:0\"\n";
    stage.reload_with(mark, &format!("{mark}protocols = [\"http/1.1\"]\n")).await;
    let client = stage.tls_as(&TlsOptions::new("a.test").alpn(&["h2", "http/1.1"])).await;
    assert_eq!(client.alpn().as_deref(), Some("http/1.1"));
    assert_eq!(ask(&mut h1, "/n").await, 200, "what is still offered goes on");
    assert_eq!(goaway(&mut raw).await, 0);
    tunnel.echo("still").await;
}
