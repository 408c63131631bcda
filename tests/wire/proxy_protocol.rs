//! PRX: the PROXY protocol, from proxies in front and to servers behind.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    Backend, Client, End, Fields, Frame, H2, Handshake, Head, Request, ServerKind, Setup, Stage, TlsOptions, Way,
    eventually, pause, within,
};

const LOOPBACK: &str = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 8443\r\n";
const V1_V6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 8443\r\n";
/// The same as [`V1`].
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x15\xb3\x20\xfb";

/// A version 2 header with a block as it is.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("short").to_be_bytes();
    [&V2[..12], &[command, family], &length, block].concat()
}

/// A type, its length, its value.
fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

fn behind_a_proxy(introduction: &[u8]) -> Stage {
    introduced(Setup::new().listener(LOOPBACK), introduction)
}

fn introduced(setup: Setup, introduction: &[u8]) -> Stage {
    let mut stage = setup.start();
    stage.introduction = introduction.to_vec();
    stage
}

/// A plain request and a handshake by each way in; the heads that the backend saw.
async fn all_ways(stage: &Stage) -> Vec<Head> {
    for way in Way::ALL {
        assert_eq!(way.ask(stage, &Request::get("/n")).await.status, 200, "{way:?}");
        way.tunnel(stage, &Handshake::to("/ws")).await.echo("through").await;
    }
    let heads = stage.b1.requests();
    assert_eq!(heads.len(), 6);
    heads
}

#[tokio::test]
async fn prx_01_the_clients_address_goes_upstream_and_into_the_log_by_every_way_in() {
    let with_tlvs = [&V2[16..], &tlv(0x02, b"a.test"), &tlv(0x04, &[0; 900]), &tlv(0xEE, b"")].concat();
    let headers = [
        (V1.to_vec(), "192.0.2.7", "192.0.2.7:5555"),
        (V2.to_vec(), "192.0.2.7", "192.0.2.7:5555"),
        (v2(0x21, 0x11, &with_tlvs), "192.0.2.7", "192.0.2.7:5555"),
        (V1_V6.to_vec(), "2001:db8::7", "[2001:db8::7]:5555"),
    ];
    for (header, client, peer) in headers {
        let stage = behind_a_proxy(&header);
        for head in all_ways(&stage).await {
            assert_eq!(head.get("x-forwarded-for"), Some(client), "{head:?}");
            assert_eq!(head.get("x-real-ip"), Some(client), "{head:?}");
            assert_eq!(head.get("x-forwarded-port"), Some("8443"), "{head:?}");
        }
        // Three requests and three tunnels, with a line at their end.
        for line in stage.gateway.logged(6).await {
            assert_eq!((&line["client"], &line["peer"]), (&client.into(), &peer.into()), "{line}");
        }
    }
}

#[tokio::test]
async fn prx_01_the_header_counts_for_every_request_of_its_connection() {
    for introduction in [V1, V2] {
        let stage = behind_a_proxy(introduction);
        for way in Way::H1 {
            let mut client = way.client(&stage).await;
            for _ in 0..3 {
                assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
            }
        }
        assert!(stage.b1.requests().iter().all(|head| head.get("x-forwarded-for") == Some("192.0.2.7")));
    }
}

#[tokio::test]
async fn prx_01_h2_with_prior_knowledge_may_follow_a_header() {
    let listener = "[[listener]]\nname = \"h2c\"\naddress = \"127.0.0.1:0\"\nprotocols = [\"h2c\"]\n\
                    proxy_protocol = { from = [\"127.0.0.1\"] }\n";
    let stage = Setup::new().more(listener).start();
    let mut client = Client::clear(stage.gateway.address("h2c")).await;
    client.send(V2).await;
    let mut h2 = H2::over(client.into_stream().into_wire(), &Default::default()).await;
    let mut request = Request::get("/n").to_h2();
    *request.uri_mut() = "http://a.test/n".parse().expect("a URI");
    let (answer, _send) = h2.begin(request, true).await;
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
    assert_eq!(stage.b1.request().get("x-forwarded-for"), Some("192.0.2.7"));
}

#[tokio::test]
async fn prx_02_where_a_header_has_no_client_the_sockets_own_address_holds() {
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:ffff:ffff:ffff::1 ::1 65535 65535\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &V2[16..]),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x31, &[b'/'; 216]),
    ];
    for header in headers {
        let stage = behind_a_proxy(&header);
        for head in all_ways(&stage).await {
            assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"), "{}: {head:?}", header.escape_ascii());
            assert_ne!(head.get("x-forwarded-port"), Some("8443"));
        }
        for line in stage.gateway.logged(6).await {
            assert_eq!(line["client"], "127.0.0.1");
        }
    }
}

#[tokio::test]
async fn prx_03_a_header_may_come_byte_by_byte() {
    let stage = Setup::new().listener(LOOPBACK).start();
    for header in [V1.to_vec(), v2(0x21, 0x11, &[&V2[16..], &tlv(0x04, b"padding")].concat())] {
        let mut client = stage.clear().await;
        for byte in [header.clone(), Request::get("/n").to_h1()].concat() {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.answer().await.status, 200);
        // The last byte in one segment with TLS' first ones.
        let (last, first) = header.split_last().expect("a header");
        let mut socket = TcpStream::connect(stage.gateway.address("tls")).await.expect("a listener");
        socket.set_nodelay(true).expect("an option");
        for byte in first {
            socket.write_all(&[*byte]).await.expect("taken");
        }
        let options = TlsOptions { introduction: vec![*last], ..TlsOptions::new("a.test") };
        let mut client = Client::tls_over(socket, &options).await.expect("a TLS handshake");
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    }
    assert!(stage.b1.requests().iter().all(|head| head.get("x-forwarded-for") == Some("192.0.2.7")));
    assert_eq!(stage.b1.requests().len(), 4);
}

#[tokio::test]
async fn prx_03_what_follows_in_the_same_segment_is_not_lost() {
    let stage = Setup::new().listener(LOOPBACK).start();
    for header in [V1, V2] {
        let mut client = stage.clear().await;
        let first = Request::get("/n");
        let second = Request::get("/n");
        client.send([header, &first.to_h1(), &second.to_h1()].concat()).await;
        assert_eq!(client.answer().await.text(), first.nonce);
        assert_eq!(client.answer().await.text(), second.nonce);
        let mut client = stage.clear().await;
        let frame = Frame::text("early").masked();
        client.send([header, &Handshake::to("/ws").to_h1(), &frame.bytes()].concat()).await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.frame().await, Frame::text("early"));
    }
}

#[tokio::test]
async fn prx_04_without_a_good_header_the_connection_is_closed_without_a_word() {
    let stage = Setup::new().listener(LOOPBACK).start();
    let request = Request::get("/n").to_h1();
    let bad: Vec<Vec<u8>> = vec![
        request.clone(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5555\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 8443\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 198.51.100.1 5555 8443\r\n".to_vec(),
        b"PROXY UNKNOWN ".iter().copied().chain([b'x'; 200]).collect(),
        v2(0x22, 0x11, &V2[16..]),
        v2(0x21, 0x13, &V2[16..]),
        v2(0x21, 0x21, &V2[16..]),
        v2(0x21, 0x11, &[&V2[16..], b"\x04\xff\xff"].concat()),
        // A length that is garbage: nothing of it is waited for.
        [&V2[..14], b"\xff\xff"].concat(),
        // The checksum is that of another header.
        v2(0x21, 0x11, &[&V2[16..], &tlv(0x03, &[1, 2, 3, 4])].concat()),
        // A second header is not expected.
        [V1, V1].concat(),
    ];
    let last = bad.len() - 1;
    for (index, bytes) in bad.iter().enumerate() {
        for name in ["clear", "tls"] {
            let mut client = Client::clear(stage.gateway.address(name)).await;
            client.send([&bytes[..], &request].concat()).await;
            let statuses = client.statuses_until_end().await;
            // What follows a good header is ordinary bytes, and refused as such.
            assert!(statuses.is_empty() || index == last, "{name} {}: {statuses:?}", bytes.escape_ascii());
            assert!(statuses.iter().all(|status| *status == 400), "{statuses:?}");
        }
    }
    stage.b1.assert_untouched();
    // All but those of the last, which had a good header: HTTP says no to it, TLS is no request.
    let lines = stage.gateway.logged(2 * last + 1).await;
    let refused: Vec<_> = lines.iter().filter(|line| line["end"] == "bad-proxy-header").collect();
    assert_eq!(refused.len(), 2 * last, "{lines:?}");
    for line in refused {
        assert_eq!((&line["side"], &line["client"]), (&"downstream".into(), &"127.0.0.1".into()), "{line}");
        assert!(line.get("status").is_none() && line.get("protocol").is_none(), "{line}");
        assert!(
            line["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("PROXY header") || detail.contains("PROXY line"))
        );
    }
}

#[tokio::test]
async fn prx_05_a_header_that_trickles_or_never_comes_is_cut_at_its_deadline() {
    for (name, timeouts) in [("clear", "request_head = \"1s\""), ("tls", "tls_handshake = \"1s\"")] {
        let stage = Setup::new().listener(LOOPBACK).listener_timeouts(timeouts).start();
        let header = v2(0x21, 0x11, &[&V2[16..], &tlv(0x04, &[0; 900])].concat());
        let mut lines = 0;
        for dribble in [true, false] {
            let start = Instant::now();
            let mut stream = Client::clear(stage.gateway.address(name)).await.into_stream();
            let mut bytes = header.iter();
            while stream.silent_for(50).await {
                assert!(start.elapsed() < Duration::from_secs(5), "each byte bought more time");
                let byte = bytes.next().expect("not so many bytes in that time");
                if dribble && stream.write(&[*byte]).await.is_err() {
                    break;
                }
            }
            assert!(start.elapsed() > Duration::from_millis(800), "{:?}", start.elapsed());
            lines += 1;
            let log = stage.gateway.logged(lines).await;
            let line = &log[lines - 1];
            assert_eq!((&line["end"], &line["side"]), (&"client-timeout".into(), &"downstream".into()), "{line}");
            assert_eq!(line["detail"], "the PROXY header did not arrive in time");
        }
        stage.b1.assert_untouched();
    }
}

#[tokio::test]
async fn prx_05_on_tls_the_header_and_the_handshake_share_one_deadline() {
    let stage = Setup::new().listener(LOOPBACK).listener_timeouts("tls_handshake = \"1s\"").start();
    let mut client = Client::clear(stage.gateway.address("tls")).await;
    let start = Instant::now();
    pause(600).await;
    client.send(V1).await;
    client.expect_end().await;
    assert!(start.elapsed() < Duration::from_millis(1500), "the header bought more time: {:?}", start.elapsed());
}

#[tokio::test]
async fn prx_05_a_peer_that_leaves_within_its_header_is_let_go_and_one_that_only_looks_leaves_no_line() {
    let stage = Setup::new().listener(LOOPBACK).start();
    let mut open = Vec::new();
    for round in 1..=3 {
        for name in ["clear", "tls"] {
            for begun in [&b""[..], &V1[..20], &V2[..5], &V2[..20]] {
                let mut client = Client::clear(stage.gateway.address(name)).await;
                client.send(begun).await;
                client.finish().await;
                assert_eq!(client.expect_end().await, End::Fin);
            }
        }
        let lines = stage.gateway.logged(6 * round).await;
        assert!(lines.len() == 6 * round && lines.iter().all(|line| line["end"] == "client-closed"), "{lines:?}");
        open.push(stage.gateway.descriptors());
    }
    assert_eq!(open[1], open[2], "descriptors stay open");
    let cpu = stage.gateway.cpu();
    pause(300).await;
    assert!(stage.gateway.cpu() - cpu < Duration::from_millis(150), "nothing spins");
}

#[tokio::test]
async fn prx_06_a_header_of_a_peer_that_is_not_among_them_is_ordinary_bytes() {
    let stage = Setup::new().listener("proxy_protocol = { from = [\"10.0.0.0/8\", \"192.0.2.0/24\"] }").start();
    for header in [V1, V2] {
        let mut client = stage.clear().await;
        client.send([header, &Request::get("/n").to_h1()].concat()).await;
        let statuses = client.statuses_until_end().await;
        assert!(statuses.iter().all(|status| *status == 400), "{statuses:?}");
        let options = TlsOptions { introduction: header.to_vec(), ..TlsOptions::new("a.test") };
        assert!(Client::try_tls(stage.gateway.address("tls"), &options).await.is_err());
    }
    stage.b1.assert_untouched();
    for line in stage.gateway.logged(2).await {
        assert_eq!((&line["end"], &line["client"]), (&"malformed".into(), &"127.0.0.1".into()), "{line}");
    }
    // Whoever sends none is served, under its own address.
    for head in all_ways(&stage).await {
        assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn prx_06_a_unix_socket_is_believed_where_it_is_named() {
    let listener =
        |name: &str, more: &str| format!("[[listener]]\nname = \"{name}\"\naddress = \"unix:{name}.sock\"\n{more}\n");
    let more = listener("told", "proxy_protocol = { from = [\"unix\"] }") + &listener("plain", "");
    let stage = Setup::new().more(&more).start();
    for (name, header, expected) in [("told", V2, Some("192.0.2.7")), ("plain", b"", None)] {
        let url = stage.gateway.url(name);
        let path = url.rsplit_once("unix:").expect("a unix socket").1;
        let mut client = within("a connection", tokio::net::UnixStream::connect(path)).await.expect("a listener");
        let request = Request::get("/n").field("Connection", "close");
        client.write_all(&[header, &request.to_h1()].concat()).await.expect("taken");
        let mut answer = Vec::new();
        within("an answer", client.read_to_end(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        assert_eq!(stage.b1.requests().pop().expect("a request").get("x-forwarded-for"), expected);
    }
}

#[tokio::test]
async fn prx_07_proxies_are_trusted_by_the_address_that_the_header_gives_them() {
    let asked = Request::get("/n").field("X-Forwarded-For", "203.0.113.5").field("X-Forwarded-Proto", "https");
    for (trusted, client) in [("192.0.2.0/24", "203.0.113.5"), ("127.0.0.0/8", "192.0.2.7")] {
        let setup = Setup::new().listener(LOOPBACK).server(&format!("trusted_proxies = [\"{trusted}\"]"));
        let stage = introduced(setup, V1);
        for way in Way::ALL {
            assert_eq!(way.ask(&stage, &asked).await.status, 200);
        }
        for head in stage.b1.requests() {
            assert_eq!(head.get("x-real-ip"), Some(client), "{head:?}");
        }
        for line in stage.gateway.logged(3).await {
            assert_eq!((&line["client"], &line["peer"]), (&client.into(), &"192.0.2.7:5555".into()), "{line}");
        }
    }
}

#[tokio::test]
async fn prx_07_places_for_tunnels_are_counted_by_the_address_in_the_header() {
    for way in Way::ALL {
        let setup = Setup::new().listener(LOOPBACK).websocket("max_tunnels_per_address = 1\nmax_tunnels = 100");
        let mut stage = introduced(setup, V1);
        let _first = way.tunnel(&stage, &Handshake::to("/ws")).await;
        way.refused(&stage, &Handshake::to("/ws"), 429, "too-many-tunnels-from-address").await;
        stage.introduction = V1_V6.to_vec();
        let _second = way.tunnel(&stage, &Handshake::to("/ws")).await;
    }
}

/// The client and what it reached, as a header for a server says it.
fn told(header: &[u8]) -> (SocketAddr, SocketAddr) {
    if let Some(line) = header.strip_prefix(b"PROXY TCP4 ") {
        let words: Vec<_> = std::str::from_utf8(line).expect("text").trim_end().split(' ').collect();
        let address = |ip: usize, port: usize| format!("{}:{}", words[ip], words[port]).parse().expect("an address");
        return (address(0, 2), address(1, 3));
    }
    assert!(header.starts_with(&v2(0x21, 0x11, &[0; 12])[..16]), "{}", header.escape_ascii());
    let ip = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).expect("four bytes");
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    ((ip(16), port(24)).into(), (ip(20), port(26)).into())
}

#[tokio::test]
async fn prx_08_each_connection_to_a_server_begins_with_the_clients_addresses_before_tls() {
    for version in ["v1", "v2"] {
        for kind in [None, Some(ServerKind::Good)] {
            let upstream = format!("proxy_protocol = \"{version}\"\n");
            let (url, ca) =
                if kind.is_some() { ("https://localhost:{P1}", "ca = \"ca.pem\"") } else { ("http://{B1}", "") };
            let setup = Setup::new().b1(Backend::introduced(kind)).upstream_url(url).upstream(&(upstream + ca));
            let stage = setup.start();
            assert_eq!(all_ways(&stage).await.len(), 6);
            let headers = stage.b1.introductions();
            assert_eq!(headers.len(), 6, "one for each");
            let log = stage.gateway.logged(6).await;
            for header in headers {
                let (client, reached) = told(&header);
                let line = log.iter().find(|line| line["peer"] == client.to_string());
                let listener = line.expect("a client of ours")["listener"].as_str().expect("a name").to_owned();
                assert_eq!(reached, stage.gateway.address(&listener));
            }
        }
    }
}

#[tokio::test]
async fn prx_08_what_came_in_a_header_goes_on_in_a_header() {
    for introduction in [V1, V2, V1_V6] {
        for (version, expected) in [("v1", V1), ("v2", V2)] {
            let setup = Setup::new()
                .listener(LOOPBACK)
                .server("trusted_proxies = [\"192.0.2.0/24\"]")
                .b1(Backend::introduced(None))
                .upstream(&format!("proxy_protocol = \"{version}\""));
            let stage = introduced(setup, introduction);
            for way in Way::ALL {
                // What fields say of a client is for those who read fields.
                let request = Request::get("/n").field("X-Forwarded-For", "203.0.113.5");
                assert_eq!(way.ask(&stage, &request).await.status, 200);
            }
            let v6 = "20010db8000000000000000000000007";
            for header in stage.b1.introductions() {
                match (introduction == V1_V6, version) {
                    (false, _) => assert_eq!(header, expected),
                    (true, "v1") => assert_eq!(header, V1_V6),
                    (true, _) => {
                        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
                        let source: String = header[16..32].iter().map(|byte| format!("{byte:02x}")).collect();
                        assert_eq!((source.as_str(), &header[48..]), (v6, &b"\x15\xb3\x20\xfb"[..]));
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn prx_08_a_client_without_an_address_is_said_to_be_unknown() {
    for (version, expected) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0x21, 0x00, b""))] {
        let listener = "[[listener]]\nname = \"socket\"\naddress = \"unix:gate.sock\"\n";
        let upstream = format!("proxy_protocol = \"{version}\"");
        let stage = Setup::new().b1(Backend::introduced(None)).upstream(&upstream).more(listener).start();
        let url = stage.gateway.url("socket");
        let path = url.rsplit_once("unix:").expect("a unix socket").1;
        let mut client = within("a connection", tokio::net::UnixStream::connect(path)).await.expect("a listener");
        let request = Request::get("/n").field("Connection", "close");
        client.write_all(&request.to_h1()).await.expect("taken");
        let mut answer = Vec::new();
        within("an answer", client.read_to_end(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        assert_eq!(stage.b1.introductions(), [expected]);
    }
}

#[tokio::test]
async fn prx_09_no_connection_serves_a_second_request_or_client() {
    let upstream = "proxy_protocol = \"v2\"";
    let stage = Setup::new().b1(Backend::introduced(None)).upstream(upstream).start();
    let (mut one, mut two) = (stage.clear().await, stage.tls().await);
    let mut h2 = stage.h2().await;
    for _ in 0..3 {
        for client in [&mut one, &mut two] {
            assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
        }
        assert_eq!(h2.ask(&Request::get("/n")).await.status, 200);
    }
    let clients: BTreeSet<_> = stage.b1.introductions().iter().map(|header| told(header).0).collect();
    assert_eq!((clients.len(), stage.b1.connections()), (3, 9));
    let records = stage.b1.records();
    assert!(records.iter().all(|record| record.heads().len() == 1));
    eventually("nothing is kept for later", || records.iter().all(|record| record.is_over())).await;
}

#[tokio::test]
async fn prx_09_the_next_server_is_told_as_well() {
    for way in Way::ALL {
        let url = format!("http://127.0.0.1:{}\", \"http://{{B1}}", Backend::refusing_port());
        let upstream = "proxy_protocol = \"v1\"\nretries = 1";
        let stage = Setup::new().b1(Backend::introduced(None)).upstream_url(&url).upstream(upstream).start();
        for _ in 0..2 {
            assert_eq!(way.ask(&stage, &Request::get("/n")).await.status, 200);
        }
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("through").await;
        let headers = stage.b1.introductions();
        assert!(headers.len() == 3 && headers.iter().all(|header| told(header).0.ip().is_loopback()), "{headers:?}");
    }
}
