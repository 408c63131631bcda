//! SYN and PTH: what a request says about host, method and path has one meaning, the same for matching and forwarding.

use crate::harness::{Client, End, Fields, Handshake, RawH2, Request, Setup, Stage, TlsOptions, Way};

/// Sends bytes on both kinds of HTTP/1.1 connection; the statuses up to the end.
async fn statuses(stage: &Stage, bytes: &str) -> Vec<Vec<u16>> {
    let mut all = Vec::new();
    for way in Way::H1 {
        let mut client = way.client(stage).await;
        client.send(bytes).await;
        client.finish().await;
        all.push(client.statuses_until_end().await);
    }
    all
}

#[tokio::test]
async fn syn_01_a_request_without_host_is_400() {
    let stage = Stage::standard().await;
    for bytes in [
        "GET /n HTTP/1.1\r\n\r\n",
        "GET /n HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ] {
        for statuses in statuses(&stage, bytes).await {
            assert_eq!(statuses, [400], "{bytes:?}");
        }
    }
    stage.b1.assert_untouched();
    for statuses in statuses(&stage, "GET /n HTTP/1.0\r\n\r\n").await {
        assert_eq!(statuses, [404], "HTTP/1.0 without Host reaches only routes without hosts");
    }
}

#[tokio::test]
async fn syn_02_two_hosts_are_400() {
    let stage = Stage::standard().await;
    for hosts in [
        "Host: a.test\r\nHost: a.test",
        "Host: a.test\r\nHost: b.test",
        "Host: a.test, b.test",
        "Host: a.test b.test",
        "Host: a.test/x",
        "Host: user@a.test",
        "Host: a.test:port",
        "Host: a.test:99999",
        "Host: a..test",
        "Host: [::1",
    ] {
        for statuses in statuses(&stage, &format!("GET /n HTTP/1.1\r\n{hosts}\r\n\r\n")).await {
            assert_eq!(statuses, [400], "{hosts:?}");
        }
    }
    stage.b1.assert_untouched();
    stage.b2.assert_untouched();
}

#[tokio::test]
async fn syn_02_case_port_and_one_trailing_dot_do_not_change_the_host() {
    let stage = Stage::standard().await;
    for host in ["A.TEST", "a.test:8080", "a.test."] {
        let request = Request::get("/n").host(host);
        let mut client = stage.clear().await;
        assert_eq!(client.ask(&request).await.text(), request.nonce, "{host}");
    }
}

#[tokio::test]
async fn syn_05_an_unknown_host_reaches_no_backend() {
    let stage = Stage::standard().await;
    for host in ["unknown.test", "xa.test", "a.test.evil.test", "127.0.0.1", "localhost"] {
        let request = Request::get("/n").host(host);
        stage.clear().await.ask(&request).await.assert_refused(404, "no-route");
        stage.tls().await.ask(&request).await.assert_refused(421, "misdirected");
        stage.h2().await.ask(&request).await.assert_refused(421, "misdirected");
        Way::Clear.refused(&stage, &Handshake::to("/ws").host(host), 404, "no-route").await;
    }
    stage.b1.assert_untouched();
    stage.b2.assert_untouched();
}

#[tokio::test]
async fn syn_09_connect_opens_nothing() {
    let stage = Stage::standard().await;
    for way in Way::H1 {
        for target in ["evil.test:443", "a.test:443"] {
            let mut client = way.client(&stage).await;
            client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
            let answer = client.answer().await;
            answer.assert_refused(405, "method-not-allowed");
            assert!(answer.has("allow"));
        }
    }
    for fields in [
        vec![(":method", "CONNECT"), (":authority", "evil.test:443")],
        vec![(":method", "CONNECT"), (":authority", "a.test:443")],
    ] {
        let mut raw = RawH2::connect(&stage).await;
        raw.headers(1, &fields, false).await;
        assert_eq!(raw.outcome(1).await, crate::harness::Outcome::Status(405));
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn syn_10_trace_is_405() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::new("TRACE", "/n").field("Cookie", "secret=1")).await;
        answer.assert_refused(405, "method-not-allowed");
        assert!(answer.has("allow") && !answer.text().contains("secret"), "{answer:?}");
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn syn_10_options_for_the_server_is_answered_by_the_gateway() {
    let stage = Stage::standard().await;
    for way in Way::H1 {
        let mut client = way.client(&stage).await;
        client.send("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(answer.status < 300, "{answer:?}");
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn syn_11_a_fragment_is_cut_before_matching_and_what_was_matched_goes_on() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    client.send("GET /public#/../admin HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(stage.b1.request().target(), "/public");
    let mut client = stage.clear().await;
    client.send("GET /admin#x HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (403, "admin\n".to_owned()));
    assert!(!stage.b1.saw("#"));
}

/// Fails unless these paths get this status and reason by every way in, as request and as handshake.
async fn assert_paths(stage: &Stage, paths: &[&str], status: u16, reason: &str) {
    for way in Way::ALL {
        for path in paths {
            let answer = way.ask(stage, &Request::get(path)).await;
            assert_eq!((answer.status, answer.reason()), (status, reason), "{way:?} {path}: {answer:?}");
            let (answer, _) = way.open(stage, &Handshake::to(path)).await;
            assert_eq!((answer.status, answer.reason()), (status, reason), "{way:?} ws {path}: {answer:?}");
        }
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn pth_02_dot_segments_are_400_however_they_are_written() {
    let paths = [
        "/public/%2e%2e/admin/x",
        "/public/.%2E/admin/x",
        "/public/../admin/x",
        "/public/./x",
        "/ws/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/public%2f..%2fadmin",
        "/..",
    ];
    assert_paths(&Stage::standard().await, &paths, 400, "bad-target").await;
}

#[tokio::test]
async fn pth_02_broken_escapes_and_control_characters_are_400() {
    let paths = ["/public/%", "/public/%2", "/public/%zz", "/public/%00", "/public/%0d%0a", "/public/%7f"];
    assert_paths(&Stage::standard().await, &paths, 400, "bad-target").await;
}

#[tokio::test]
async fn pth_02_percent_encoded_letters_do_not_hide_a_path() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::get("/%61dmin/x")).await;
        assert_eq!((answer.status, answer.text()), (403, "admin\n".to_owned()));
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn pth_05_dots_with_parameters_are_400_and_other_parameters_are_part_of_their_segment() {
    let stage = Stage::standard().await;
    assert_paths(&stage, &["/public/..;/admin/x", "/public/..;a=b/admin", "/public/.;/x"], 400, "bad-target").await;
    assert_paths(&stage, &["/admin;x/y"], 404, "no-route").await;
    let request = Request::get("/public/a;b=c/d");
    Way::Clear.ask(&stage, &request).await;
    assert_eq!(stage.b1.request().target(), "/public/a;b=c/d");
}

#[tokio::test]
async fn pth_08_doubled_slashes_do_not_hide_a_path() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        for path in ["//admin/x", "///admin", "/admin//", "//admin"] {
            let answer = way.ask(&stage, &Request::get(path)).await;
            assert_eq!((answer.status, answer.text()), (403, "admin\n".to_owned()), "{way:?} {path}");
        }
    }
    assert_paths(&stage, &["/public//../admin"], 400, "bad-target").await;
    let request = Request::get("/public//a///b");
    Way::Clear.ask(&stage, &request).await;
    assert_eq!(stage.b1.request().target(), "/public//a///b", "forwarded as it came");
}

#[tokio::test]
async fn pth_11_a_prefix_ends_at_a_segment() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        for path in ["/ws", "/ws/", "/ws?x", "/ws/deeper/still"] {
            way.tunnel(&stage, &Handshake::to(path)).await.echo(path).await;
            assert_eq!(stage.b1.requests().pop().expect("a request").target(), path);
        }
    }
    assert_paths(&Stage::standard().await, &["/wsx", "/ws%2Fx", "/WS", "/w"], 404, "no-route").await;
}

#[tokio::test]
async fn pth_13_an_encoded_path_arrives_byte_by_byte() {
    let stage = Stage::standard().await;
    for path in ["/ws/http%3A%2F%2Ftest%20x", "/ws/%E2%82%AC%c3%a4?q=%zz&a=%2F%2e", "/ws/a%7eb!$&'()*+,;=:@c"] {
        for way in Way::ALL {
            way.tunnel(&stage, &Handshake::to(path)).await.echo("x").await;
            assert_eq!(stage.b1.requests().pop().expect("a request").target(), path, "{way:?}");
        }
    }
}

#[tokio::test]
async fn pth_14_a_stripped_path_always_begins_with_one_slash() {
    let more = "[[route]]\nname = \"api\"\nhosts = [\"a.test\"]\npath = \"/api\"\nstrip_prefix = \"/api\"\nupstream = \"b1\"\n\
                websocket = { origins = [\"https://app.example\"] }\n";
    let stage = Setup::new().more(more).start();
    for way in Way::ALL {
        for (path, forwarded) in [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api?x=/y", "/?x=/y"),
            ("/api/x%2Fy//z", "/x%2Fy//z"),
            ("/api//evil.test/x", "/evil.test/x"),
            ("/api///evil.test", "/evil.test"),
            ("//api/x", "/x"),
            ("/%61pi/x", "/x"),
        ] {
            assert_eq!(way.ask(&stage, &Request::get(path)).await.status, 200, "{way:?} {path}");
            let head = stage.b1.requests().pop().expect("a request");
            assert_eq!((head.target(), head.get("host")), (forwarded, Some("a.test")), "{way:?} {path}");
        }
    }
    Way::H2.open(&stage, &Handshake::to("/api/ws/x")).await;
    assert_eq!(stage.b1.requests().pop().expect("a handshake").target(), "/ws/x");
    let stage = Setup::new().more(more).start();
    for path in ["/apix", "/api@evil.test/x", "/ap"] {
        Way::Clear.ask(&stage, &Request::get(path)).await.assert_refused(404, "no-route");
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn syn_01_garbage_is_answered_400_or_hung_up_on() {
    let stage = Stage::standard().await;
    for bytes in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET  /n  HTTP/1.1\r\n\r\n",
        "/n HTTP/1.1\r\n\r\n",
        "GET /n HTTP/1.1\r\nHost a.test\r\n\r\n",
        "GET n HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        for statuses in statuses(&stage, bytes).await {
            assert!(matches!(statuses[..], [] | [400]), "{bytes:?}: {statuses:?}");
        }
    }
    let mut client = Client::tls(stage.gateway.address("tls"), &TlsOptions::new("a.test")).await;
    client.finish().await;
    assert_eq!(client.expect_end().await, End::Fin, "a client that says nothing");
    stage.b1.assert_untouched();
}
