//! TLS: which certificate, which protocol, which client, on both sides of the gateway (RFC 6066, RFC 7301, RFC 8446).

use crate::harness::{
    Backend, Client, ClientKind, End, Fields, Frame, Gateway, H2, Handshake, Outcome, Peer, RawH2, Request, ServerKind,
    Setup, Stage, TlsOptions, Way, pki,
};

#[tokio::test]
async fn tls_01_the_certificate_follows_the_name_and_the_first_one_is_the_default() {
    let stage = Stage::standard().await;
    for (name, leaf) in [("a.test", &pki().a), ("b.test", &pki().b), ("A.TEST", &pki().a)] {
        let client = stage.tls_as(&TlsOptions::new(name)).await;
        assert_eq!(client.certificate(), leaf.cert.to_vec(), "{name}");
    }
    let client = stage.tls_as(&TlsOptions::new("a.test").without_sni()).await;
    assert_eq!(client.certificate(), pki().a.cert.to_vec(), "no SNI");
    let options = TlsOptions::new("unknown.test");
    let error =
        Client::try_tls(stage.gateway.address("tls"), &options).await.err().expect("a name that does not match");
    assert!(error.to_string().contains("a.test") || format!("{error:?}").contains("a.test"), "{error:?}");
}

#[tokio::test]
async fn tls_01_without_a_name_requests_are_routed_by_their_host() {
    let stage = Stage::standard().await;
    let mut client = stage.tls_as(&TlsOptions::new("a.test").without_sni()).await;
    let request = Request::get("/n");
    assert_eq!(client.ask(&request).await.text(), request.nonce);
    assert_eq!(client.ask(&Request::get("/n").host("unknown.test")).await.status, 404);
    assert_eq!(client.ask(&Request::get("/n").host("mtls.test")).await.status, 421);
    stage.b3.assert_untouched();
}

#[tokio::test]
async fn tls_02_alpn_chooses_the_protocol_and_refuses_what_is_unknown() {
    let stage = Stage::standard().await;
    for (offer, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["http/1.1"][..], Some("http/1.1")),
        (&["foo", "http/1.1"][..], Some("http/1.1")),
        (&[][..], None),
    ] {
        let client = stage.tls_as(&TlsOptions::new("a.test").alpn(offer)).await;
        assert_eq!(client.alpn().as_deref(), chosen, "{offer:?}");
    }
    let mut client = stage.tls_as(&TlsOptions::new("a.test").alpn(&[])).await;
    assert_eq!(client.ask(&Request::get("/n")).await.status, 200, "HTTP/1.1 without ALPN");
    let options = TlsOptions::new("a.test").alpn(&["foo"]);
    let error = Client::try_tls(stage.gateway.address("tls"), &options).await.err().expect("an alert");
    assert!(format!("{error:?}").contains("NoApplicationProtocol"), "{error:?}");
    let only = Setup::new().listener("protocols = [\"http/1.1\"]").start();
    let client = only.tls_as(&TlsOptions::new("a.test").alpn(&["h2", "http/1.1"])).await;
    assert_eq!(client.alpn().as_deref(), Some("http/1.1"));
}

/// The status of a request for mtls.test, or none where TLS refused.
async fn with_certificate(stage: &Stage, kind: Option<ClientKind>) -> Option<u16> {
    let mut options = TlsOptions::new("mtls.test");
    options.certificate = kind;
    // In TLS 1.3 a client learns of the refusal only when it reads.
    let mut client = Client::try_tls(stage.gateway.address("tls"), &options).await.ok()?;
    client.try_send(Request::get("/n").host("mtls.test").to_h1()).await.ok()?;
    client.try_answer("GET").await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn tls_07_only_a_good_client_certificate_gets_in() {
    let stage = Stage::standard().await;
    assert_eq!(with_certificate(&stage, None).await, None);
    for kind in [ClientKind::OtherCa, ClientKind::Expired, ClientKind::NotYetValid, ClientKind::WrongUsage] {
        assert_eq!(with_certificate(&stage, Some(kind)).await, None, "{kind:?}");
    }
    stage.b3.assert_untouched();
    assert_eq!(with_certificate(&stage, Some(ClientKind::Good)).await, Some(200));
    let mut client = stage.tls_as(&TlsOptions::new("mtls.test").certificate(ClientKind::Good)).await;
    client.open(&Handshake::to("/ws").host("mtls.test")).await;
    client.echo("x").await;
    let mut h2 =
        H2::connect_as(&stage, &TlsOptions::new("mtls.test").certificate(ClientKind::Good), &Default::default()).await;
    h2.tunnel(&Handshake::to("/ws").host("mtls.test")).await.echo("x").await;
}

#[tokio::test]
async fn tls_07_a_route_that_wants_a_certificate_refuses_every_way_in_without_one() {
    let stage = Setup::new().optional_certificates().start();
    let (request, handshake) = (Request::get("/n").host("mtls.test"), Handshake::to("/ws").host("mtls.test"));
    let bare = TlsOptions::new("mtls.test");
    stage.tls_as(&bare).await.ask(&request).await.assert_refused(403, "client-certificate-required");
    let mut client = stage.tls_as(&bare).await;
    client.send(handshake.to_h1()).await;
    client.answer().await.assert_refused(403, "client-certificate-required");
    let mut h2 = H2::connect_as(&stage, &bare, &Default::default()).await;
    h2.ask(&request).await.assert_refused(403, "client-certificate-required");
    let (answer, tunnel) = h2.open(&handshake).await.expect("an answer");
    assert!(tunnel.is_none());
    answer.assert_refused(403, "client-certificate-required");
    stage.b3.assert_untouched();
    let mut client = stage.tls_as(&TlsOptions::new("mtls.test").certificate(ClientKind::Good)).await;
    assert_eq!(client.ask(&request).await.status, 200);
}

#[tokio::test]
async fn tls_09_another_policys_host_is_misdirected_by_every_way_in() {
    let stage = Stage::standard().await;
    let (request, handshake) = (Request::get("/n").host("mtls.test"), Handshake::to("/ws").host("mtls.test"));
    stage.tls().await.ask(&request).await.assert_refused(421, "misdirected");
    stage.h2().await.ask(&request).await.assert_refused(421, "misdirected");
    let mut client = stage.tls().await;
    client.send(handshake.to_h1()).await;
    client.answer().await.assert_refused(421, "misdirected");
    let (answer, tunnel) = stage.h2().await.open(&handshake).await.expect("an answer");
    assert!(tunnel.is_none());
    answer.assert_refused(421, "misdirected");
    // Other spellings of the host, and the absolute form.
    for host in ["MTLS.TEST", "mtls.test.", "mtls.test:443"] {
        stage.tls().await.ask(&Request::get("/n").host(host)).await.assert_refused(421, "misdirected");
    }
    let absolute = Request::get("https://mtls.test/n");
    stage.tls().await.ask(&absolute).await.assert_refused(421, "misdirected");
    // And on the clear listener, where there is no such route.
    stage.clear().await.ask(&request).await.assert_refused(404, "no-route");
    // The other way round: a client certificate is no pass for what another policy serves.
    let mut client = stage.tls_as(&TlsOptions::new("mtls.test").certificate(ClientKind::Good)).await;
    client.ask(&Request::get("/n")).await.assert_refused(421, "misdirected");
    stage.b3.assert_untouched();
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn tls_09_hosts_of_one_policy_share_a_connection() {
    let stage = Stage::standard().await;
    let mut h2 = stage.h2().await;
    for host in ["a.test", "b.test"] {
        let request = Request::get("/n").host(host);
        assert_eq!(h2.ask(&request).await.text(), request.nonce);
    }
    assert_eq!(stage.b2.requests().len(), 1);
}

#[tokio::test]
async fn tls_10_a_client_ca_that_cannot_be_read_keeps_the_gateway_from_starting() {
    let toml = |ca: &str| {
        format!(
            "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
             certificates = [{{ cert = \"a.pem\", key = \"a.key\" }}]\nclient_ca = \"{ca}\"\nclient_auth = \"required\"\n\
             [[route]]\nupstream = \"http://127.0.0.1:1\"\n"
        )
    };
    for (ca, content) in [("missing.pem", None), ("empty.pem", Some("")), ("garbage.pem", Some("no certificate\n"))] {
        let (code, said) = Gateway::refused(&toml(ca), |folder| {
            if let Some(text) = content {
                std::fs::write(folder.join(ca), text).expect("a writable folder");
            }
        });
        assert_eq!(code, Some(2), "{ca}: {said}");
        assert!(said.contains(ca), "{said}");
    }
}

#[tokio::test]
async fn tls_13_clear_http_on_the_tls_port_and_tls_on_the_clear_port_end_quickly() {
    let stage = Stage::standard().await;
    let mut client = Client::clear(stage.gateway.address("tls")).await;
    client.send(Request::get("/n").to_h1()).await;
    let (rest, end) = client.rest().await;
    assert_ne!(end, End::Open);
    assert!(rest.is_empty() || rest[0] == 21 || rest.starts_with(b"HTTP/1.1 400"), "{rest:?}");
    let error = Client::try_tls(stage.gateway.address("clear"), &TlsOptions::new("a.test")).await;
    assert!(error.is_err());
    stage.b1.assert_untouched();
    stage.assert_serving().await;
}

#[tokio::test]
async fn tls_15_close_notify_stands_before_every_fin_of_ours() {
    let stage = Setup::new().listener_timeouts("keep_alive = \"500ms\"").start();
    let mut client = stage.tls().await;
    client.ask(&Request::get("/n").field("Connection", "close")).await;
    assert_eq!(client.expect_end().await, End::Fin, "after Connection: close");
    let mut client = stage.tls().await;
    client.ask(&Request::get("/n")).await;
    assert_eq!(client.expect_end().await, End::Fin, "after the keep-alive time");
    let mut client = stage.tls().await;
    client.send("nonsense\r\n\r\n").await;
    assert_eq!(client.rest().await.1, End::Fin, "after a malformed request");
    let mut client = stage.tls().await;
    client.ask(&Request::get("/denied").field("Upgrade", "h2c").field("Connection", "Upgrade, close")).await;
    assert_eq!(client.expect_end().await, End::Fin, "after an upgrade that was not made");
    let mut client = stage.tls().await;
    client.open(&Handshake::to("/ws")).await;
    client.send(Frame::close(1000, "").masked().bytes()).await;
    assert_eq!(client.frame().await, Frame::close(1000, ""));
    assert_eq!(client.expect_end().await, End::Fin, "after a tunnel");
}

#[tokio::test]
async fn tls_15_a_client_that_cuts_a_tunnel_without_close_notify_is_gone_for_the_backend() {
    let stage = Stage::standard().await;
    let mut client = stage.tls().await;
    client.open(&Handshake::to("/ws")).await;
    client.echo("x").await;
    drop(client);
    let record = stage.b1.records().remove(0);
    crate::harness::eventually("the backend's end", || record.is_over()).await;
}

fn tls_backend(kind: ServerKind) -> Setup {
    let backend = Backend::tls(kind, async |mut peer: Peer| peer.serve().await);
    Setup::new().b1(backend).upstream_url("https://127.0.0.1:{P1}").upstream("ca = \"ca.pem\"")
}

#[tokio::test]
async fn tls_16_an_upstream_that_cannot_be_verified_gets_no_byte_of_a_request() {
    for kind in [ServerKind::SelfSigned, ServerKind::WrongName, ServerKind::Expired] {
        let stage = tls_backend(kind).start();
        for way in Way::ALL {
            way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-tls");
            way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-tls").await;
        }
        stage.b1.assert_untouched();
        assert!(stage.b1.failed_tls() > 0);
    }
}

#[tokio::test]
async fn tls_16_a_verified_upstream_serves_requests_and_tunnels() {
    let stage = tls_backend(ServerKind::Good).start();
    for way in Way::ALL {
        let request = Request::get("/n");
        assert_eq!(way.ask(&stage, &request).await.text(), request.nonce);
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    }
    assert_eq!(stage.b1.requests()[0].get("x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn tls_16_the_systems_roots_do_not_know_the_test_authority() {
    let stage = tls_backend(ServerKind::Good).upstream("").start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-tls");
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn tls_09_a_raw_authority_of_another_policy_is_misdirected() {
    let stage = Stage::standard().await;
    let mut raw = RawH2::connect(&stage).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "mtls.test"), (":path", "/n")];
    raw.headers(1, &fields, true).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(421));
    stage.b3.assert_untouched();
}
