use std::io::ErrorKind;

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::transport::Transport;
use crate::types::HttpVersion;

fn rustls_error(error: &std::io::Error) -> &Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).expect("an error of rustls")
}

fn peer_der(client: &Client) -> &CertificateDer<'static> {
    &client.get_ref().1.peer_certificates().expect("a certificate")[0]
}

/// Reads raw bytes to the end; whether that was a FIN.
async fn drain(mut socket: TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let fin = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("an end in time").is_ok();
    (bytes, fin)
}

// TLS-01
#[tokio::test]
async fn the_certificate_is_chosen_by_sni_whatever_its_case() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let pairs = [ca.server(&["a.test"]), ca.server(&["b.test"]), ca.server(&["*.c.test"])];
    let certificates = pairs.iter().map(|pair| files.pair(pair)).collect();
    let policies = build(&ListenerTls { default: policy(certificates, ClientAuth::None), policies: Vec::new() });
    let config = Arc::new(ca.trusting_client(None, &[]));
    for (name, pair) in [("a.test", 0), ("b.test", 1), ("B.TEST", 1), ("x.c.test", 2)] {
        let (accepted, client) = meet(&policies, &config, name).await;
        let accepted = accepted.expect(name);
        assert_eq!(peer_der(&client.expect(name)), &pairs[pair].der, "{name}");
        assert_eq!(accepted.info.sni.as_deref(), Some(&*name.to_ascii_lowercase()));
    }
}

// TLS-01
#[tokio::test]
async fn without_sni_or_with_an_unknown_one_the_first_certificate_is_shown() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let first = ca.server(&["a.test", "127.0.0.1"]);
    let certificates = vec![files.pair(&first), files.pair(&ca.server(&["b.test"]))];
    let policies = build(&ListenerTls { default: policy(certificates, ClientAuth::None), policies: Vec::new() });
    let mut config = ca.trusting_client(None, &[]);
    let (accepted, client) = meet(&policies, &Arc::new(config.clone()), "127.0.0.1").await;
    assert_eq!(accepted.expect("no SNI").info.sni, None);
    assert_eq!(peer_der(&client.expect("no SNI")), &first.der);
    // The client verifies another name than it sends, as it would after having pinned the certificate.
    config.enable_sni = false;
    let (accepted, client) = meet(&policies, &Arc::new(config.clone()), "a.test").await;
    assert_eq!(accepted.expect("no SNI").info.sni, None);
    assert_eq!(peer_der(&client.expect("no SNI")), &first.der);
    config.enable_sni = true;
    let (accepted, client) = meet(&policies, &Arc::new(config), "unknown.test").await;
    let refused = client.expect_err("the first certificate does not name it");
    assert!(matches!(rustls_error(&refused), Error::InvalidCertificate(_)), "{refused}");
    assert!(matches!(accepted, Err(TlsError::OurCertificate(_))), "{accepted:?}");
}

// TLS-02
#[tokio::test]
async fn alpn_chooses_the_protocol_and_no_overlap_is_alert_120() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    for (offer, expected) in [
        (&["h2", "http/1.1"][..], HttpVersion::Http2),
        (&["http/1.1", "h2"], HttpVersion::Http2),
        (&["http/1.1"], HttpVersion::Http1),
        (&[], HttpVersion::Http1),
    ] {
        let (accepted, _) = meet(&policies, &Arc::new(ca.trusting_client(None, offer)), "a.test").await;
        assert_eq!(accepted.expect("agreed").info.alpn, expected, "{offer:?}");
    }
    let (accepted, client) = meet(&policies, &Arc::new(ca.trusting_client(None, &["foo"])), "a.test").await;
    assert!(matches!(accepted, Err(TlsError::NoCommonProtocol)), "{accepted:?}");
    let refused = client.expect_err("refused");
    assert_eq!(rustls_error(&refused), &Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn a_listener_for_h2_alone_closes_on_a_client_without_alpn() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let tls = ListenerTls {
        default: policy(vec![files.pair(&ca.server(&["a.test"]))], ClientAuth::None),
        policies: Vec::new(),
    };
    let protocols = Protocols { http1: false, http2: true };
    let policies = Arc::new(ServerPolicies::build(&tls, protocols, None, &mut Report::default()).expect("good"));
    let (accepted, client) = meet(&policies, &Arc::new(ca.trusting_client(None, &[])), "a.test").await;
    assert!(matches!(accepted, Err(TlsError::NoCommonProtocol)), "{accepted:?}");
    assert_eq!(client.expect("agreed").read(&mut [0]).await.expect("close_notify"), 0);
}

// TLS-07
#[tokio::test]
async fn a_required_client_certificate_must_be_there_and_verify() {
    let (ca, other, files) = (Ca::new("ca"), Ca::new("other"), Files::new());
    let client_ca = files.write(&ca.pem);
    let policies = build(&ListenerTls {
        default: policy(vec![files.pair(&ca.server(&["a.test"]))], ClientAuth::Required { ca: client_ca }),
        policies: Vec::new(),
    });
    let bad = [
        ("none", None),
        ("wrong CA", Some(other.client("x", |_| {}))),
        ("expired", Some(ca.client("x", |params| params.not_after = date_time_ymd(2020, 1, 1)))),
        ("not yet valid", Some(ca.client("x", |params| params.not_before = date_time_ymd(2200, 1, 1)))),
        (
            "wrong purpose",
            Some(ca.client("x", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ),
    ];
    for version in [&TLS13, &TLS12] {
        // Side by side, since each refusal waits a moment for the client to take it.
        futures_util::future::join_all(bad.iter().map(async |(what, identity)| {
            let config = Arc::new(ca.client_of_version(identity.as_ref(), &[], &[version]));
            let (accepted, client) = meet(&policies, &config, "a.test").await;
            assert!(matches!(accepted, Err(TlsError::ClientCertificate(_))), "{what}: {accepted:?}");
            // In TLS 1.3 the client learns it when it reads for the first time; in both cases by an alert.
            let refused = match client {
                Ok(mut client) => client.read(&mut [0]).await.expect_err(what),
                Err(refused) => refused,
            };
            assert!(matches!(rustls_error(&refused), Error::AlertReceived(_)), "{what}: {refused}");
        }))
        .await;
        let good = ca.client("Ada, \"the\" first", |_| {});
        let config = Arc::new(ca.client_of_version(Some(&good), &[], &[version]));
        let (accepted, client) = meet(&policies, &config, "a.test").await;
        let mut accepted = accepted.expect("good");
        talk(&mut accepted, &mut client.expect("good")).await;
        let shown = accepted.info.client_certificate.expect("verified");
        assert_eq!(&*shown.subject, r#"CN=Ada\, \"the\" first"#);
        let digest = aws_lc_rs_digest(&good.der);
        assert_eq!(&*shown.fingerprint, digest);
    }
}

fn aws_lc_rs_digest(der: &[u8]) -> String {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_missing_but_not_wrong() {
    let (ca, other, files) = (Ca::new("ca"), Ca::new("other"), Files::new());
    let client_auth = ClientAuth::Optional { ca: files.write(&ca.pem) };
    let policies = build(&ListenerTls {
        default: policy(vec![files.pair(&ca.server(&["a.test"]))], client_auth),
        policies: Vec::new(),
    });
    let (accepted, _) = meet(&policies, &Arc::new(ca.trusting_client(None, &[])), "a.test").await;
    assert_eq!(accepted.expect("none is fine").info.client_certificate, None);
    let wrong = other.client("x", |_| {});
    let (accepted, _) = meet(&policies, &Arc::new(ca.trusting_client(Some(&wrong), &[])), "a.test").await;
    assert!(matches!(accepted, Err(TlsError::ClientCertificate(_))), "{accepted:?}");
}

/// A default policy for a.test, and one with client certificates for mtls.test.
fn two_policies(ca: &Ca, files: &Files) -> Arc<ServerPolicies> {
    let client_auth = ClientAuth::Required { ca: files.write(&ca.pem) };
    let certificate = files.pair(&ca.server(&["a.test", "mtls.test", "*.mtls.test"]));
    build(&ListenerTls {
        default: policy(vec![certificate], ClientAuth::None),
        policies: vec![for_hosts(&["mtls.test", "*.mtls.test"], policy(Vec::new(), client_auth))],
    })
}

#[tokio::test]
async fn the_policy_is_chosen_by_sni_and_hosts_belong_to_the_same_one() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let policies = two_policies(&ca, &files);
    let mtls = policies.select(Some("mtls.test"));
    assert_eq!(policies.client_auth(mtls), ClientAuthMode::Required);
    assert_eq!(policies.client_auth(PolicyId::DEFAULT), ClientAuthMode::None);
    for host in ["mtls.test", "MTLS.test", "mtls.test.", "x.mtls.test", "x.y.mtls.test"] {
        assert_eq!(policies.policy_for_host(host), mtls, "{host}");
    }
    for host in ["a.test", "notmtls.test", "test", "", ".", "127.0.0.1", "[::1]"] {
        assert_eq!(policies.policy_for_host(host), PolicyId::DEFAULT, "{host}");
    }
    assert_eq!(policies.select(None), PolicyId::DEFAULT);

    let nobody = Arc::new(ca.trusting_client(None, &["http/1.1"]));
    let (accepted, _) = meet(&policies, &nobody, "x.mtls.test").await;
    assert!(matches!(accepted, Err(TlsError::ClientCertificate(_))), "{accepted:?}");
    let (accepted, client) = meet(&policies, &nobody, "a.test").await;
    let mut accepted = accepted.expect("no certificate needed");
    assert_eq!(accepted.info.anchors, None);
    talk(&mut accepted, &mut client.expect("connected")).await;
    let somebody = ca.client("x", |_| {});
    let (accepted, _) = meet(&policies, &Arc::new(ca.trusting_client(Some(&somebody), &[])), "mtls.test").await;
    assert_eq!(accepted.expect("verified").info.anchors, policies.anchors(mtls));
}

/// CVE-2025-23419: a ticket from the open policy must not get a client past the one that wants a certificate.
#[tokio::test]
async fn a_session_of_one_policy_is_never_resumed_under_another() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let client_ca = files.write(&ca.pem);
    let certificate = files.pair(&ca.server(&["a.test"]));
    let open =
        build(&ListenerTls { default: policy(vec![certificate.clone()], ClientAuth::None), policies: Vec::new() });
    // The client's store is keyed by name; therefore the same name under both, and the same certificate.
    let closed = build(&ListenerTls {
        default: policy(vec![certificate.clone()], ClientAuth::None),
        policies: vec![for_hosts(&["a.test"], policy(Vec::new(), ClientAuth::Optional { ca: client_ca }))],
    });
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(ca.client_of_version(None, &[], &[version]));
        let mut resumed = Vec::new();
        for policies in [&open, &open, &closed] {
            let (accepted, client) = meet(policies, &config, "a.test").await;
            let mut accepted = accepted.expect("agreed");
            talk(&mut accepted, &mut client.expect("agreed")).await;
            resumed.push(accepted.info.resumed);
        }
        assert_eq!(resumed, [false, true, false], "{version:?}");
    }
}

/// The same within one listener, where a client could ask for both names.
#[tokio::test]
async fn every_policy_of_a_listener_has_its_own_ticket_key_and_store() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let policies = two_policies(&ca, &files);
    let (open, closed) = (policies.config(PolicyId::DEFAULT), policies.config(policies.select(Some("mtls.test"))));
    let ticket = open.ticketer.encrypt(b"state").expect("a ticket");
    assert_eq!(open.ticketer.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
    assert_eq!(closed.ticketer.decrypt(&ticket), None);
    open.session_storage.put(b"id".to_vec(), b"state".to_vec());
    assert_eq!(closed.session_storage.get(b"id"), None);
    assert_eq!((open.max_early_data_size, closed.max_early_data_size), (0, 0));
}

#[tokio::test]
async fn the_post_quantum_group_comes_first_and_is_agreed_on() {
    assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let (accepted, _) = meet(&policies, &Arc::new(ca.trusting_client(None, &[])), "a.test").await;
    let info = accepted.expect("agreed").info;
    assert_eq!((info.key_exchange, info.version), ("X25519MLKEM768", "TLSv1.3"));
    assert!(info.cipher.starts_with("TLS13_"), "{}", info.cipher);
}

#[tokio::test]
async fn a_minimum_version_refuses_older_clients() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let mut strict = policy(vec![files.pair(&ca.server(&["a.test"]))], ClientAuth::None);
    strict.min_version = TlsVersion::Tls13;
    let policies = build(&ListenerTls { default: strict, policies: Vec::new() });
    let old = Arc::new(ca.client_of_version(None, &[], &[&TLS12]));
    let (accepted, client) = meet(&policies, &old, "a.test").await;
    assert!(matches!(accepted, Err(TlsError::Handshake(_))), "{accepted:?}");
    let refused = client.expect_err("refused");
    assert_eq!(rustls_error(&refused), &Error::AlertReceived(AlertDescription::ProtocolVersion));
}

// TLS-13
#[tokio::test]
async fn plain_http_on_a_tls_port_gets_a_400_and_garbage_an_alert() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let (_files, single) = simple(&ca);
    for policies in [single, two_policies(&ca, &files)] {
        let (mut client, server) = sockets().await;
        // More than we look at, so that a careless close would reset.
        client
            .write_all(format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(5000)).as_bytes())
            .await
            .expect("sent");
        let (accepted, (bytes, fin)) =
            tokio::join!(accept(&policies, server, Instant::now() + PATIENCE), drain(client));
        assert!(matches!(accepted, Err(TlsError::NotTls { http: true })), "{accepted:?}");
        let text = String::from_utf8(bytes).expect("text");
        assert!(fin && text.starts_with("HTTP/1.1 400 ") && text.ends_with("\r\n\r\nThis port speaks HTTPS, not HTTP"));

        for garbage in [
            &b"\x00\x01\x02\x03\x04\x05\x06"[..],
            b"\x16\xff\xff\xff\xff\xff\xff",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        ] {
            let (mut client, server) = sockets().await;
            client.write_all(garbage).await.expect("sent");
            client.shutdown().await.expect("shut");
            let (accepted, (bytes, fin)) =
                tokio::join!(accept(&policies, server, Instant::now() + PATIENCE), drain(client));
            accepted.expect_err("not TLS");
            assert_eq!((bytes.first(), bytes.len(), fin), (Some(&21), 7, true), "{garbage:?}: an alert, then FIN");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_or_stays_silent_is_told_apart() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let (client, server) = sockets().await;
    drop(client);
    let left = accept(&policies, server, Instant::now() + PATIENCE).await;
    assert!(matches!(left, Err(TlsError::Closed)), "{left:?}");

    let (mut client, server) = sockets().await;
    client.write_all(&[HANDSHAKE, 3, 1, 2, 0, 1]).await.expect("sent");
    client.shutdown().await.expect("shut");
    let cut = accept(&policies, server, Instant::now() + PATIENCE).await;
    assert!(matches!(cut, Err(TlsError::Closed)), "{cut:?}");

    for beginning in [&[][..], &[HANDSHAKE, 3, 1, 2, 0, 1]] {
        let (mut client, server) = sockets().await;
        client.write_all(beginning).await.expect("sent");
        let silent = accept(&policies, server, Instant::now() + Duration::from_millis(30)).await;
        assert!(matches!(silent, Err(TlsError::Timeout)), "{silent:?}");
        drain(client).await;
    }
}

const HANDSHAKE: u8 = 22;

// TLS-15
#[tokio::test]
async fn a_shutdown_is_close_notify_and_then_fin() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let (accepted, client) = meet(&policies, &Arc::new(ca.trusting_client(None, &[])), "a.test").await;
    let (mut accepted, mut client) = (accepted.expect("agreed"), client.expect("agreed"));
    accepted.stream.write_all(b"last words").await.expect("written");
    accepted.stream.shutdown().await.expect("shut");
    let mut text = Vec::new();
    // rustls makes an error of a FIN without close_notify.
    client.read_to_end(&mut text).await.expect("close_notify");
    assert_eq!(text, b"last words");
    assert_eq!(client.get_mut().0.read(&mut [0]).await.expect("FIN"), 0);
    // Half-close: the client may still speak.
    client.write_all(b"and mine").await.expect("written");
    client.shutdown().await.expect("shut");
    let mut text = Vec::new();
    accepted.stream.read_to_end(&mut text).await.expect("close_notify");
    assert_eq!(text, b"and mine");
}

#[tokio::test]
async fn a_fin_without_close_notify_is_an_error_and_an_abort_is_a_reset() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let config = Arc::new(ca.trusting_client(None, &[]));
    let (accepted, client) = meet(&policies, &config, "a.test").await;
    let (mut accepted, mut client) = (accepted.expect("agreed"), client.expect("agreed"));
    client.get_mut().0.shutdown().await.expect("FIN");
    let cut = accepted.stream.read(&mut [0; 16]).await.expect_err("truncated");
    assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);

    let (accepted, client) = meet(&policies, &config, "a.test").await;
    let (mut accepted, mut client) = (accepted.expect("agreed"), client.expect("agreed"));
    talk(&mut accepted, &mut client).await;
    accepted.stream.abort();
    drop(accepted);
    let reset = client.read(&mut [0; 16]).await.expect_err("reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn vectored_writes_arrive_in_order() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let (accepted, client) = meet(&policies, &Arc::new(ca.trusting_client(None, &[])), "a.test").await;
    let (mut accepted, mut client) = (accepted.expect("agreed"), client.expect("agreed"));
    assert!(tokio::io::AsyncWrite::is_write_vectored(&accepted.stream));
    let written = accepted.stream.write_vectored(&[std::io::IoSlice::new(b"ab"), std::io::IoSlice::new(b"cd")]).await;
    assert_eq!(written.expect("written"), 4);
    accepted.stream.shutdown().await.expect("shut");
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.expect("read");
    assert_eq!(text, b"abcd");
}
