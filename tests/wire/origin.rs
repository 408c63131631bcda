//! ORG: which pages may open a tunnel (RFC 6454, RFC 6455 §10.2). A refused one never costs the backend a connection.

use crate::harness::{Fields, Handshake, Request, Setup, Stage, Way};

const NOT_ALLOWED: &str = "origin-not-allowed";

/// Opens a tunnel with each Origin by each way in.
async fn all_open(stage: &Stage, path: &str, origins: &[&str]) {
    for way in Way::ALL {
        for origin in origins {
            way.tunnel(stage, &Handshake::to(path).origin(origin)).await.echo(origin).await;
        }
    }
}

/// Fails unless each Origin is refused with 403 (or 400, where it is not an Origin at all) by each way in.
async fn all_refused(stage: &Stage, origins: &[&str]) {
    for way in Way::ALL {
        for origin in origins {
            let (answer, tunnel) = way.open(stage, &Handshake::to("/ws").origin(origin)).await;
            assert!(tunnel.is_none(), "{way:?} {origin}");
            let allowed = [(403, NOT_ALLOWED), (403, "origin-malformed"), (400, "origin-malformed")];
            assert!(allowed.contains(&(answer.status, answer.reason())), "{way:?} {origin}: {answer:?}");
        }
    }
    assert_eq!(stage.b1.connections(), 0);
}

#[tokio::test]
async fn org_01_a_listed_origin_opens_and_stays_as_it_was() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
        assert_eq!(stage.b1.request().get("origin"), Some("https://app.example"));
    }
}

#[tokio::test]
async fn org_02_a_foreign_origin_is_refused_before_the_backend_is_dialled() {
    for way in Way::ALL {
        let stage = Stage::standard().await;
        way.refused(&stage, &Handshake::to("/ws").origin("https://evil.test"), 403, NOT_ALLOWED).await;
        assert_eq!(stage.b1.connections(), 0);
    }
}

#[tokio::test]
async fn org_02_same_origin_means_scheme_host_and_port_of_the_request() {
    let stage = Setup::new().websocket("origins = [\"same-origin\"]").start();
    Way::Clear.tunnel(&stage, &Handshake::to("/ws").origin("http://a.test")).await.echo("x").await;
    Way::Tls.tunnel(&stage, &Handshake::to("/ws").origin("https://a.test")).await.echo("x").await;
    Way::H2.tunnel(&stage, &Handshake::to("/ws").origin("https://a.test:443")).await.echo("x").await;
    let ported = Handshake::to("/ws").host("a.test:8443");
    Way::Clear.tunnel(&stage, &ported.clone().origin("http://a.test:8443")).await.echo("x").await;
    Way::Clear.refused(&stage, &ported.origin("http://a.test"), 403, NOT_ALLOWED).await;
    for (way, origin) in [
        (Way::Clear, "https://a.test"),
        (Way::Tls, "http://a.test"),
        (Way::H2, "https://b.test"),
        (Way::Clear, "http://a.test:8080"),
        (Way::Tls, "https://app.example"),
    ] {
        way.refused(&stage, &Handshake::to("/ws").origin(origin), 403, NOT_ALLOWED).await;
    }
    let spoofed = Handshake::to("/ws").origin("https://evil.test").add("X-Forwarded-Host", "evil.test");
    Way::Tls.refused(&stage, &spoofed, 403, NOT_ALLOWED).await;
    assert_eq!(stage.b1.requests().len(), 4);
}

#[tokio::test]
async fn org_03_neither_a_prefix_nor_a_suffix_is_the_origin() {
    let stage = Stage::standard().await;
    let lookalikes = [
        "https://evilapp.example",
        "https://app.example.evil.test",
        "https://app.exampleevil.test",
        "https://app.exampl",
        "https://xapp.example",
        "https://app_example",
    ];
    all_refused(&stage, &lookalikes).await;
}

#[tokio::test]
async fn org_07_another_scheme_is_another_origin() {
    all_refused(&Stage::standard().await, &["http://app.example", "wss://app.example", "ftp://app.example"]).await;
}

#[tokio::test]
async fn org_09_the_default_port_spelled_out_is_the_same_origin() {
    let stage = Stage::standard().await;
    all_open(&stage, "/ws", &["https://app.example:443"]).await;
    assert_eq!(stage.b1.requests().len(), 3);
    let stage = Stage::standard().await;
    all_refused(&stage, &["https://app.example:8443", "https://app.example:80", "https://app.example:"]).await;
}

#[tokio::test]
async fn org_10_scheme_and_host_are_compared_without_case() {
    all_open(&Stage::standard().await, "/ws", &["HTTPS://APP.EXAMPLE", "https://App.Example"]).await;
    // Letters that only Unicode would fold to the listed name.
    all_refused(&Stage::standard().await, &["https://app.ex\u{e1}mple", "https://\u{b5}pp.example"]).await;
}

#[tokio::test]
async fn org_12_null_is_refused_unless_listed() {
    all_refused(&Stage::standard().await, &["null", "NULL", "Null"]).await;
    let stage = Setup::new().websocket("origins = [\"null\", \"https://app.example\"]").start();
    all_open(&stage, "/ws", &["null", "https://app.example"]).await;
}

#[tokio::test]
async fn org_13_a_missing_origin_passes_unless_that_is_switched_off() {
    let missing = Handshake::to("/ws").without("Origin");
    for way in Way::ALL {
        way.tunnel(&Stage::standard().await, &missing).await.echo("x").await;
        let strict = Setup::new().websocket("allow_missing_origin = false").start();
        way.refused(&strict, &missing, 403, "origin-missing").await;
        assert_eq!(strict.b1.connections(), 0);
        way.tunnel(&strict, &Handshake::to("/ws")).await.echo("x").await;
    }
}

#[tokio::test]
async fn org_16_a_list_of_origins_is_none() {
    let stage = Stage::standard().await;
    let lists = [
        "https://app.example https://evil.test",
        "https://evil.test https://app.example",
        "https://app.example, https://evil.test",
        "https://app.example,https://app.example",
        "",
    ];
    all_refused(&stage, &lists).await;
    for second in ["https://evil.test", "https://app.example"] {
        for way in Way::ALL {
            let (answer, tunnel) = way.open(&stage, &Handshake::to("/ws").add("Origin", second)).await;
            assert!(tunnel.is_none() && [400, 403].contains(&answer.status), "{way:?}: {answer:?}");
        }
    }
    assert_eq!(stage.b1.connections(), 0);
}

#[tokio::test]
async fn org_18_only_a_serialised_origin_counts() {
    let not_serialised = [
        "https://app.example/",
        "https://app.example/x",
        "https://app.example?x",
        "https://app.example#x",
        "https://user@app.example",
        "https://app.example@evil.test",
        "https://app.example.",
        "app.example",
        "//app.example",
        "https:app.example",
        "https://",
    ];
    all_refused(&Stage::standard().await, &not_serialised).await;
}

#[tokio::test]
async fn org_23_a_wildcard_stands_for_one_or_more_labels_and_not_for_the_apex() {
    let websocket = "origins = [\"https://*.app.example\"]";
    let stage = Setup::new().websocket(websocket).start();
    all_open(&stage, "/ws", &["https://x.app.example", "https://a.b.app.example", "https://X.APP.example:443"]).await;
    let stage = Setup::new().websocket(websocket).start();
    let refused = [
        "https://app.example",
        "https://evil-app.example",
        "https://x.app.example.evil.test",
        "https://*.app.example",
        "https://.app.example",
        "https://x..app.example",
        "http://x.app.example",
        "https://x.app.example:444",
    ];
    all_refused(&stage, &refused).await;
}

#[tokio::test]
async fn org_24_ipv6_is_compared_in_its_canonical_form_only() {
    let websocket = "origins = [\"https://[::1]:8443\"]";
    all_open(&Setup::new().websocket(websocket).start(), "/ws", &["https://[::1]:8443"]).await;
    let refused =
        ["https://[0:0:0:0:0:0:0:1]:8443", "https://[::1", "https://[::1]", "https://::1:8443", "https://[::2]:8443"];
    all_refused(&Setup::new().websocket(websocket).start(), &refused).await;
}

#[tokio::test]
async fn org_31_plain_requests_are_not_gated_by_origin() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        for path in ["/n", "/ws"] {
            let request = Request::get(path).field("Origin", "https://evil.test");
            let answer = way.ask(&stage, &request).await;
            assert_eq!((answer.status, answer.text()), (200, request.nonce));
        }
    }
}
