//! TLS across a reload: certificates, and what is asked of clients, on new connections and on those that are there.

use crate::harness::{
    Client, ClientKind, End, Fields, Gateway, H2, Handshake, Outcome, RawH2, Request, Setup, Stage, TlsOptions, Way,
    eventually, pki,
};

/// What stands for mtls.test in the standard configuration.
const MTLS: &str = "client_ca = \"clients.pem\"\nclient_auth = \"required\"\n";

fn mtls(kind: ClientKind) -> TlsOptions {
    TlsOptions::new("mtls.test").certificate(kind)
}

fn plain() -> Request {
    Request::get("/n").host("mtls.test")
}

#[tokio::test]
async fn tls_10_a_ca_that_cannot_be_read_refuses_the_reload_and_nobody_gets_in_without() {
    let stage = Stage::standard().await;
    let mut known = stage.tls_as(&mtls(ClientKind::Good)).await;
    let held = std::fs::read_to_string(stage.gateway.folder().join("clients.pem")).expect("a file");
    let cases: [(&str, &dyn Fn()); 4] = [
        ("empty", &|| stage.gateway.replace("clients.pem", "")),
        ("cut short", &|| stage.gateway.replace("clients.pem", &held[..held.len() / 2])),
        ("no PEM", &|| {
            stage.gateway.replace("clients.pem", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        }),
        ("gone", &|| std::fs::remove_file(stage.gateway.folder().join("clients.pem")).expect("a file")),
    ];
    for (number, (what, damage)) in cases.iter().enumerate() {
        damage();
        let event = stage.gateway.reload().await;
        assert_eq!(
            (event["refused"].as_u64(), event["generation"].as_u64()),
            (Some(number as u64 + 1), Some(1)),
            "{what}"
        );
        let mut stranger = match Client::try_tls(stage.gateway.address("tls"), &TlsOptions::new("mtls.test")).await {
            Ok(client) => client,
            Err(_) => continue,
        };
        let _ = stranger.try_send(plain().to_h1()).await;
        stranger.try_answer("GET").await.expect_err("no certificate, no answer");
        let mut good = stage.tls_as(&mtls(ClientKind::Good)).await;
        assert_eq!(good.ask(&plain()).await.status, 200, "{what}");
        assert_eq!(known.ask(&plain()).await.status, 200, "{what}");
    }
    stage.gateway.replace("clients.pem", &held);
    assert_eq!(stage.gateway.reload().await["generation"], 2);
    assert_eq!(known.ask(&plain()).await.status, 200, "the same CA as before");
}

#[tokio::test]
async fn tls_10_a_certificate_that_does_not_fit_its_key_refuses_the_reload() {
    let stage = Stage::standard().await;
    let renewed = pki().renewed("a.test");
    stage.gateway.replace("a.pem", &renewed.cert_pem);
    let event = stage.gateway.reload().await;
    assert_eq!(event["refused"], 1);
    assert!(stage.gateway.events().iter().any(|event| event["code"] == "key-mismatch"));
    let client = stage.tls().await;
    assert_eq!(client.certificate(), pki().a.cert.to_vec(), "the old pair serves on");
    stage.gateway.replace("a.key", &renewed.key_pem);
    assert_eq!(stage.gateway.reload().await["listeners"], "renewed tls");
    assert_eq!(stage.tls().await.certificate(), renewed.cert.to_vec());
}

#[tokio::test]
async fn tls_10_a_certificate_or_key_that_cannot_be_read_refuses_the_reload_and_the_old_pair_serves_on() {
    let stage = Stage::standard().await;
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    let path = |name: &str| stage.gateway.folder().join(name);
    let held = ["a.pem", "a.key"].map(|name| (name, std::fs::read_to_string(path(name)).expect("a file")));
    let mut refused = 0;
    for (name, text) in &held {
        let cases: [(&str, &dyn Fn()); 6] = [
            ("empty", &|| stage.gateway.replace(name, "")),
            ("cut short", &|| stage.gateway.replace(name, &text[..text.len() / 2])),
            ("no PEM", &|| stage.gateway.replace(name, "no PEM at all")),
            ("of the other kind", &|| stage.gateway.replace(name, &held[usize::from(*name == "a.pem")].1)),
            ("gone", &|| std::fs::remove_file(path(name)).expect("a file")),
            ("a folder", &|| std::fs::create_dir(path(name)).expect("nothing is there")),
        ];
        for (what, damage) in cases {
            damage();
            refused += 1;
            let event = stage.gateway.reload().await;
            assert_eq!(
                (event["refused"].as_u64(), event["generation"].as_u64()),
                (Some(refused), Some(1)),
                "{name} {what}"
            );
            let says = |event: &serde_json::Value| event["level"] == "ERROR" && event.to_string().contains(*name);
            assert!(stage.gateway.events().iter().any(says), "{name} {what}: {}", stage.gateway.stderr());
            assert_eq!(stage.tls().await.certificate(), pki().a.cert.to_vec(), "{name} {what}");
            tunnel.echo("still").await;
        }
        std::fs::remove_dir(path(name)).expect("a folder");
        stage.gateway.replace(name, text);
    }
    assert_eq!(stage.gateway.reload().await["generation"], 2);
    tunnel.echo("still").await;
}

#[tokio::test]
async fn tls_01_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let stage = Stage::standard().await;
    let mut old = stage.tls().await;
    assert_eq!(old.ask(&Request::get("/n")).await.status, 200);
    let mut h2 = H2::connect(&stage).await;
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    let renewed = pki().renewed("a.test");
    stage.gateway.replace_certificate("a", &renewed);
    assert_eq!(stage.gateway.reload().await["listeners"], "renewed tls");
    assert_eq!(stage.tls().await.certificate(), renewed.cert.to_vec());
    assert_eq!(old.ask(&Request::get("/n")).await.status, 200);
    assert_eq!(h2.ask(&Request::get("/n")).await.status, 200);
    tunnel.echo("still").await;
    assert_eq!(old.certificate(), pki().a.cert.to_vec());
}

/// The code of the GOAWAY that comes, or the end.
async fn told_to_go(raw: &mut RawH2) {
    while let Some(frame) = raw.next().await {
        if frame.kind == crate::harness::GOAWAY {
            return;
        }
    }
}

fn fields<'a>(host: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
}

/// Whatever a connection has proved before: after the reload it has to have proved what is asked for now.
#[tokio::test]
async fn tls_07_a_connection_that_was_let_in_before_cannot_ask_for_what_needs_a_certificate_now() {
    let open = "client_auth = \"none\"\n";
    let stage = Setup::new().start();
    // mtls.test is open to everybody at first.
    let toml = stage.toml.replace(MTLS, open).replace("client_certificate = true\n", "");
    assert_eq!(stage.gateway.reload_with(&toml).await["message"], "reloaded");
    let options = TlsOptions::new("mtls.test");
    let mut idle = stage.tls_as(&options).await;
    assert_eq!(idle.ask(&plain()).await.status, 200);
    // Rests without HTTP on it after a second.
    let mut resting = stage.tls_as(&options).await;
    assert_eq!(resting.ask(&plain()).await.status, 200);
    crate::harness::pause(1_300).await;
    let mut fresh = stage.tls_as(&options).await;
    let mut raw = RawH2::connect_as(&stage, "mtls.test").await;
    raw.headers(1, &fields("mtls.test", "/n"), true).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    let mut unaffected = stage.tls().await;
    assert_eq!(unaffected.ask(&Request::get("/n")).await.status, 200);
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws").host("mtls.test")).await;
    let before = stage.b3.requests().len();

    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
    assert_eq!(idle.expect_end().await, End::Fin);
    assert_eq!(resting.expect_end().await, End::Fin);
    let answer = fresh.ask(&plain()).await;
    answer.assert_refused(421, "misdirected");
    assert!(answer.lists("connection", "close"), "{answer:?}");
    assert_eq!(fresh.expect_end().await, End::Fin);
    told_to_go(&mut raw).await;
    raw.headers(3, &fields("mtls.test", "/n"), true).await;
    let outcome = raw.outcome(3).await;
    assert!(matches!(outcome, Outcome::Status(421) | Outcome::Closed | Outcome::Reset(_)), "{outcome:?}");
    assert_eq!(unaffected.ask(&Request::get("/n")).await.status, 200, "another policy, the same connection");
    tunnel.echo("tunnels stay").await;
    assert_eq!(stage.b3.requests().len(), before, "nothing has come through");
    let mut good = stage.tls_as(&mtls(ClientKind::Good)).await;
    assert_eq!(good.ask(&plain()).await.status, 200);
}

#[tokio::test]
async fn tls_07_a_certificate_of_a_ca_that_is_no_longer_trusted_is_none() {
    let stage = Stage::standard().await;
    let mut idle = stage.tls_as(&mtls(ClientKind::Good)).await;
    assert_eq!(idle.ask(&plain()).await.status, 200);
    let mut fresh = stage.tls_as(&mtls(ClientKind::Good)).await;
    stage.gateway.replace("clients.pem", &pki().other_clients());
    let event = stage.gateway.reload().await;
    assert_eq!(event["listeners"], "renewed tls", "{event}");
    assert_eq!(idle.expect_end().await, End::Fin);
    fresh.ask(&plain()).await.assert_refused(421, "misdirected");
    let refused = async |kind| {
        let Ok(mut client) = Client::try_tls(stage.gateway.address("tls"), &mtls(kind)).await else { return };
        let _ = client.try_send(plain().to_h1()).await;
        client.try_answer("GET").await.expect_err("not trusted");
    };
    refused(ClientKind::Good).await;
    let mut other = stage.tls_as(&mtls(ClientKind::OtherCa)).await;
    assert_eq!(other.ask(&plain()).await.status, 200);
    assert_eq!(stage.b3.requests().len(), 2);
}

#[tokio::test]
async fn tls_09_a_host_that_moves_to_another_policy_is_misdirected_on_connections_of_the_old_one() {
    let stage = Stage::standard().await;
    let mut clients = Vec::new();
    for name in ["a.test", "b.test"] {
        let mut client = stage.tls_as(&TlsOptions::new(name)).await;
        assert_eq!(client.ask(&Request::get("/n").host("b.test")).await.status, 200, "{name}");
        clients.push(client);
    }
    stage.reload_with("hosts = [\"mtls.test\"]\nclient_ca", "hosts = [\"mtls.test\", \"b.test\"]\ncertificates = [ { cert = \"mtls.pem\", key = \"mtls.key\" }, { cert = \"b.pem\", key = \"b.key\" } ]\nclient_ca").await;
    let before = stage.b2.requests().len();
    clients[0].ask(&Request::get("/n").host("b.test")).await.assert_refused(421, "misdirected");
    assert_eq!(clients[0].ask(&Request::get("/n")).await.status, 200, "its own host goes on");
    assert_eq!(clients[1].expect_end().await, End::Fin);
    assert_eq!(stage.b2.requests().len(), before);
}

#[tokio::test]
async fn tls_01_an_older_version_that_is_no_longer_spoken_ends() {
    let stage = Stage::standard().await;
    let mut modern = stage.tls().await;
    assert_eq!(modern.ask(&Request::get("/n")).await.status, 200);
    let mut old = stage.tls_as(&TlsOptions::new("a.test").tls12()).await;
    assert_eq!(old.ask(&Request::get("/n")).await.status, 200);
    stage.reload_with("[listener.tls]\n", "[listener.tls]\nmin_version = \"1.3\"\n").await;
    assert_eq!(old.expect_end().await, End::Fin);
    assert_eq!(modern.ask(&Request::get("/n")).await.status, 200);
}

#[tokio::test]
async fn tls_16_a_ca_for_servers_and_our_own_certificate_are_read_anew() {
    use crate::harness::{Backend, Peer, ServerKind};
    let backend = Backend::tls(ServerKind::Good, async |mut peer: Peer| peer.serve().await);
    let url = format!("https://127.0.0.1:{}", backend.address.port());
    let toml = format!(
        "[[listener]]\nname = \"clear\"\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"it\"\n\
         [upstream.it]\nservers = [\"{url}\"]\nca = \"ca.pem\"\n"
    );
    let gateway = Gateway::start_with(&toml, None);
    let mut client = Client::clear(gateway.address("clear")).await;
    assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    assert_eq!(gateway.reload().await["upstreams"], "the same");
    assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    assert_eq!(backend.connections(), 1, "nothing has changed");
    let ca = std::fs::read_to_string(gateway.folder().join("ca.pem")).expect("a file");
    gateway.replace("ca.pem", &pki().other_clients());
    assert_eq!(gateway.reload().await["upstreams"], "renewed it");
    let answer = client.ask(&Request::get("/n")).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    gateway.replace("ca.pem", &ca);
    assert_eq!(gateway.reload().await["upstreams"], "renewed it");
    eventually("another connection", || backend.connections() >= 2).await;
    assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
}
