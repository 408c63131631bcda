use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use tokio::io::AsyncReadExt;

use super::*;
use crate::config::model::{
    Balance, HostHeader, Protocols, Queue, Resolve, RetryBudget, ServerAddress, Upstream, UpstreamServer,
};
use crate::types::Name;

fn upstream(ca: Option<Located<PathBuf>>, client_certificate: Option<CertificateFiles>, tls_name: &str) -> Upstream {
    Upstream {
        name: Name::from("backend"),
        servers: vec![UpstreamServer {
            address: ServerAddress::Ip(([127, 0, 0, 1], 9).into()),
            resolve: Resolve::One,
            tls_name: Some(located(tls_name.into())),
            url: Name::from("https://127.0.0.1:9"),
            weight: 1,
            ca,
            client_certificate,
            backup: false,
            max_connections: None,
            spot: Spot::default(),
        }],
        balance: Balance::RoundRobin,
        slow_start: None,
        drain_rate: None,
        sticky: None,
        health: None,
        ejection: None,
        panic: crate::config::model::Panic::All,
        websocket_only: false,
        protocols: Protocols { http1: true, http2: false },
        websocket_over_h2: located(true),
        host: HostHeader::Preserve,
        via: true,
        retries: 1,
        retry_budget: RetryBudget { percent: 20, min_per_second: 10 },
        queue: Queue { size: 100, timeout: PATIENCE },
        connect_timeout: PATIENCE,
        sources: vec![],
        proxy_protocol: None,
        spot: Spot::default(),
    }
}

fn build_client(upstream: &Upstream) -> ClientTls {
    let mut report = Report::default();
    let built = ClientTls::build(upstream, &mut SystemRoots::default(), &mut report);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    built.expect("no problems").remove(0).expect("TLS")
}

/// A server with this certificate, met by `client` under `name`; and how many bytes of data a server that was refused saw.
async fn meet_server(
    client: &ClientTls,
    pair: &Pair,
    name: &str,
) -> (Result<ClientTlsStream, UpstreamTlsError>, usize) {
    let files = Files::new();
    let tls = ListenerTls { default: policy(vec![files.pair(pair)], ClientAuth::None), policies: Vec::new() };
    let policies = ServerPolicies::build(&tls, BOTH, None, &mut Report::default()).expect("built");
    let (ours, theirs) = sockets().await;
    let (accepted, connected) = tokio::join!(
        accept(&policies, theirs, Instant::now() + PATIENCE),
        client.connect(name, Offer::Protocols, Socket::Tcp(ours))
    );
    let seen = match (accepted, &connected) {
        (_, Ok(stream)) => {
            assert_eq!(stream.alpn(), Some(&b"http/1.1"[..]));
            0
        }
        // The client has closed, so that this ends at once.
        (Ok(mut accepted), Err(_)) => accepted.stream.read(&mut [0; 16]).await.unwrap_or(0),
        (Err(_), Err(_)) => 0,
    };
    (connected, seen)
}

// TLS-16
#[tokio::test]
async fn only_a_server_with_a_valid_certificate_for_the_name_is_connected() {
    let (ca, other, files) = (Ca::new("ca"), Ca::new("other"), Files::new());
    let client = build_client(&upstream(Some(files.write(&ca.pem)), None, "backend.test"));
    let bad = [
        ("self-signed", other.server(&["backend.test"])),
        ("wrong name", ca.server(&["other.test"])),
        ("expired", ca.issue(&["backend.test"], |params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet valid", ca.issue(&["backend.test"], |params| params.not_before = date_time_ymd(2200, 1, 1))),
        (
            "wrong purpose",
            ca.issue(&["backend.test"], |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ];
    for (what, pair) in &bad {
        let (connected, seen) = meet_server(&client, pair, "backend.test").await;
        assert!(matches!(connected, Err(UpstreamTlsError::Certificate(_))), "{what}: {connected:?}");
        assert_eq!(seen, 0, "{what}");
    }
    let (connected, _) = meet_server(&client, &ca.server(&["backend.test"]), "backend.test").await;
    let stream = connected.expect("good");
    let group = stream.common().negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn an_address_is_verified_against_the_addresses_in_the_certificate() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let client = build_client(&upstream(Some(files.write(&ca.pem)), None, "[::1]"));
    let pair = ca.server(&["127.0.0.1", "::1"]);
    for (name, good) in [("127.0.0.1", true), ("[::1]", true), ("::1", true), ("127.0.0.2", false)] {
        let (connected, _) = meet_server(&client, &pair, name).await;
        assert_eq!(connected.is_ok(), good, "{name}: {connected:?}");
    }
    // A DNS name that looks like the address is not the address.
    let (connected, _) = meet_server(&client, &ca.server(&["backend.test"]), "127.0.0.1").await;
    assert!(matches!(connected, Err(UpstreamTlsError::Certificate(_))), "{connected:?}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_servers_that_ask() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let identity = ca.client("gateway", |_| {});
    let client = build_client(&upstream(Some(files.write(&ca.pem)), Some(files.pair(&identity)), "backend.test"));
    let client_auth = ClientAuth::Required { ca: files.write(&ca.pem) };
    let policies = build(&ListenerTls {
        default: policy(vec![files.pair(&ca.server(&["backend.test"]))], client_auth),
        policies: Vec::new(),
    });
    let (ours, theirs) = sockets().await;
    let (accepted, connected) = tokio::join!(
        accept(&policies, theirs, Instant::now() + PATIENCE),
        client.connect("backend.test", Offer::Protocols, Socket::Tcp(ours))
    );
    connected.expect("connected");
    let shown = accepted.expect("accepted").info.client_certificate.expect("verified");
    assert_eq!(&*shown.subject, "CN=gateway");
}

#[tokio::test]
async fn a_server_that_leaves_or_speaks_plain_http_is_a_named_error() {
    use tokio::io::AsyncWriteExt;
    let (ca, files) = (Ca::new("ca"), Files::new());
    let client = build_client(&upstream(Some(files.write(&ca.pem)), None, "backend.test"));
    let (ours, theirs) = sockets().await;
    drop(theirs);
    let left = client.connect("backend.test", Offer::Protocols, Socket::Tcp(ours)).await;
    assert!(matches!(left, Err(UpstreamTlsError::Closed(_))), "{left:?}");
    let (ours, mut theirs) = sockets().await;
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("sent");
    let plain = client.connect("backend.test", Offer::Protocols, Socket::Tcp(ours)).await;
    assert!(matches!(plain, Err(UpstreamTlsError::Handshake(_))), "{plain:?}");
    let (ours, _theirs) = sockets().await;
    let bad = client.connect("not a name", Offer::Protocols, Socket::Tcp(ours)).await;
    assert!(matches!(bad, Err(UpstreamTlsError::BadName)), "{bad:?}");
}

#[test]
fn a_missing_or_empty_ca_never_means_that_anything_goes() {
    let files = Files::new();
    for (ca, code) in [(files.missing(), "missing-file"), (files.write(""), "no-certificate")] {
        let mut report = Report::default();
        assert!(
            ClientTls::build(&upstream(Some(ca), None, "backend.test"), &mut SystemRoots::default(), &mut report)
                .is_none()
        );
        assert_eq!(report.problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), [code]);
    }
}

#[test]
fn an_upstream_without_tls_needs_no_roots() {
    let mut plain = upstream(None, None, "backend.test");
    plain.servers[0].tls_name = None;
    let mut report = Report::default();
    let built = ClientTls::build(&plain, &mut SystemRoots::default(), &mut report).expect("no problems");
    assert!(matches!(built[..], [None]) && report.problems.is_empty());
}

#[tokio::test]
async fn each_server_is_held_to_its_own_ca_and_shown_its_own_certificate() {
    let (one, other, files) = (Ca::new("one"), Ca::new("other"), Files::new());
    let mut both = upstream(Some(files.write(&one.pem)), None, "backend.test");
    let mut second = both.servers[0].clone();
    second.ca = Some(files.write(&other.pem));
    both.servers.extend([second.clone(), second]);
    let mut report = Report::default();
    let built = ClientTls::build(&both, &mut SystemRoots::default(), &mut report).expect("no problems");
    let [Some(first), Some(second), Some(third)] = &built[..] else { panic!("all use TLS") };
    for (client, ca, good) in
        [(first, &one, true), (first, &other, false), (second, &other, true), (second, &one, false)]
    {
        let (connected, _) = meet_server(client, &ca.server(&["backend.test"]), "backend.test").await;
        assert_eq!(connected.is_ok(), good, "{connected:?}");
    }
    assert!(Arc::ptr_eq(&second.config, &third.config), "the same files, the same sessions");
}

#[tokio::test]
async fn what_is_offered_is_what_the_upstream_may_speak_or_http_1_alone() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let pair = ca.server(&["backend.test"]);
    let tls = ListenerTls { default: policy(vec![files.pair(&pair)], ClientAuth::None), policies: Vec::new() };
    let mut described = upstream(Some(files.write(&ca.pem)), None, "backend.test");
    for (http1, http2, chosen) in [(true, false, "http/1.1"), (true, true, "h2"), (false, true, "h2")] {
        described.protocols = Protocols { http1, http2 };
        let client = build_client(&described);
        for (offer, chosen) in [(Offer::Protocols, chosen), (Offer::Http1, "http/1.1")] {
            let policies = ServerPolicies::build(&tls, BOTH, None, &mut Report::default()).expect("built");
            let (ours, theirs) = sockets().await;
            let accepting = accept(&policies, theirs, Instant::now() + PATIENCE);
            let (_accepted, connected) =
                tokio::join!(accepting, client.connect("backend.test", offer, Socket::Tcp(ours)));
            assert_eq!(connected.expect("good").alpn(), Some(chosen.as_bytes()), "{http1} {http2} {offer:?}");
        }
        // One without HTTP/1.1 is not talked into it.
        let only_http1 = Protocols { http1: true, http2: false };
        let policies = ServerPolicies::build(&tls, only_http1, None, &mut Report::default()).expect("built");
        let (ours, theirs) = sockets().await;
        let accepting = accept(&policies, theirs, Instant::now() + PATIENCE);
        let connecting = client.connect("backend.test", Offer::Protocols, Socket::Tcp(ours));
        let (_accepted, connected) = tokio::join!(accepting, connecting);
        assert_eq!(connected.is_ok(), http1, "{http1} {http2}");
    }
}
