//! LOG: what the logs say, and what they do when they cannot be written.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Client, Fields, H2Server, Handshake, Head, Request, Setup, Stage, Way, eventually};

/// The line of the last place where `text` stands in the stage's configuration.
fn line_of(stage: &Stage, text: &str) -> usize {
    let at = stage.toml.find(text).unwrap_or_else(|| panic!("{text} is not in\n{}", stage.toml));
    1 + stage.toml[..at].matches('\n').count()
}

/// The rule of the last line with this end reason.
fn rule(lines: &[Value], end: &str) -> String {
    let found = lines.iter().rfind(|line| line["end"] == end).unwrap_or_else(|| panic!("{end}: {lines:?}"));
    found["rule"].as_str().unwrap_or_default().to_owned()
}

/// `route.websocket.origins (portcullis.toml:9)`, however long the path of the folder is.
fn assert_rule(stage: &Stage, said: &str, key: &str, text: &str) {
    let place = format!("portcullis.toml:{})", line_of(stage, text));
    assert!(said.starts_with(&format!("{key} (")) && said.ends_with(&place), "{said}: {key} at {place}");
}

#[tokio::test]
async fn log_01_a_refused_handshake_names_the_rule_and_its_place_on_all_ways_in() {
    let stage = Setup::new()
        .websocket("allow_missing_origin = false\nsubprotocols = { require = true }\nmax_tunnels = 1")
        .start();
    let good = || Handshake::to("/ws").add("Sec-WebSocket-Protocol", "a");
    let mut lines = 0;
    for way in Way::ALL {
        let held = way.tunnel(&stage, &good()).await;
        for (handshake, status, end, key, text) in [
            (good().origin("https://evil.test"), 403, "origin-not-allowed", "route.websocket.origins", "origins = "),
            (
                good().without("Origin"),
                403,
                "origin-missing",
                "route.websocket.allow_missing_origin",
                "allow_missing_origin",
            ),
            (
                Handshake::to("/ws"),
                400,
                "subprotocol-required",
                "route.websocket.subprotocols.require",
                "subprotocols = {",
            ),
            (good(), 429, "too-many-tunnels", "route.websocket.max_tunnels", "max_tunnels"),
            (Handshake::to("/n"), 403, "upgrade-not-allowed", "route.websocket", "[[route]]\nname = \"n\""),
            (Handshake::to("/none"), 404, "no-route", "listener", "[[listener]]"),
        ] {
            way.refused(&stage, &handshake, status, end).await;
            lines += 1;
            let said = rule(&stage.gateway.logged(lines).await, end);
            if end == "no-route" && way != Way::Clear {
                assert!(said.starts_with("listener ("), "{said}");
            } else {
                assert_rule(&stage, &said, key, text);
            }
        }
        for (handshake, end, clause) in [
            (good().set("Sec-WebSocket-Version", "12"), "bad-websocket-version", "RFC 6455 4.4"),
            (good().origin("no origin"), "origin-malformed", "RFC 6454 7"),
            (good().set("Sec-WebSocket-Protocol", "a,,b b"), "bad-websocket-offer", "RFC 6455 4.3"),
        ] {
            way.open(&stage, &handshake).await;
            lines += 1;
            assert_eq!(rule(&stage.gateway.logged(lines).await, end), clause, "{way:?}");
        }
        held.reset();
        lines += 1;
        stage.gateway.logged(lines).await;
    }
}

#[tokio::test]
async fn log_01_a_refused_request_names_the_rule_and_its_place() {
    let stage = Setup::new()
        .listener_limits("target_size = \"1KiB\"\nfields = 20")
        .listener_timeouts("request_head = \"300ms\"")
        .plain_route("limits = { body_size = \"10B\" }")
        .start();
    let long = format!("/n?{}", "a".repeat(2_000));
    for (request, end, key, text) in [
        (Request::get(&long), "target-too-long", "listener.limits.target_size", "target_size"),
        (
            Request::new("POST", "/n").body("more than ten bytes"),
            "body-too-large",
            "route.limits.body_size",
            "limits = { body_size",
        ),
    ] {
        stage.clear().await.ask(&request).await;
        eventually(end, || stage.gateway.access_log().iter().any(|line| line["end"] == end)).await;
        assert_rule(&stage, &rule(&stage.gateway.access_log(), end), key, text);
    }
    let mut slow = stage.clear().await;
    slow.send("GET / HTTP/1.1\r\n").await;
    slow.expect_end().await;
    let mut broken = stage.clear().await;
    broken.send("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: x\r\n\r\n").await;
    broken.statuses_until_end().await;
    let is_there = |end: &str| stage.gateway.access_log().iter().any(|line| line["end"] == end);
    eventually("both lines", || is_there("client-timeout") && is_there("malformed")).await;
    let lines = stage.gateway.access_log();
    assert_rule(&stage, &rule(&lines, "client-timeout"), "listener.timeouts.request_head", "request_head");
    assert!(rule(&lines, "malformed").starts_with("RFC 9"), "{lines:?}");
}

#[tokio::test]
async fn log_01_a_server_that_is_too_slow_names_the_timeout() {
    let backend = crate::harness::Backend::scripted(async |mut peer: crate::harness::Peer| {
        peer.head().await?;
        peer.until_over().await
    });
    let stage = Setup::new().b1(backend).route_timeouts("response = \"300ms\"").start();
    Way::Clear.ask(&stage, &Request::get("/n")).await.assert_refused(504, "upstream-timeout");
    let said = rule(&stage.gateway.logged(1).await, "upstream-timeout");
    assert!(said.starts_with("route.timeouts.response ("), "{said}");
}

#[tokio::test]
async fn log_01_after_a_reload_a_rule_has_its_new_place() {
    let stage = Stage::standard().await;
    let evil = Handshake::to("/ws").origin("https://evil.test");
    Way::Clear.refused(&stage, &evil, 403, "origin-not-allowed").await;
    assert_rule(
        &stage,
        &rule(&stage.gateway.logged(1).await, "origin-not-allowed"),
        "route.websocket.origins",
        "origins",
    );
    stage.gateway.reload_with(&format!("# one line more\n\n{}", stage.toml)).await;
    Way::Clear.refused(&stage, &evil, 403, "origin-not-allowed").await;
    let said = rule(&stage.gateway.logged(2).await, "origin-not-allowed");
    let place = format!("portcullis.toml:{})", line_of(&stage, "origins") + 2);
    assert!(said.ends_with(&place), "{said}: {place}");
}

#[tokio::test]
async fn log_02_what_strangers_can_have_said_again_and_again_is_summed_up() {
    let mut stage = Setup::new().more("[log]\nlevel = \"debug\"\naccess = \"off\"").start();
    let knocks = 60;
    for _ in 0..knocks {
        let mut client = Client::clear(stage.gateway.address("tls")).await;
        // A record of TLS, and no handshake in it.
        client.send(b"\x16\x03\x01\x00\x05hello").await;
        client.rest().await;
    }
    stage.assert_serving().await;
    stage.gateway.terminate();
    stage.gateway.exit().await;
    let said = |text: &str| {
        let events = stage.gateway.events();
        events
            .into_iter()
            .filter(|event| event["message"].as_str().unwrap_or_default().contains(text))
            .collect::<Vec<_>>()
    };
    eventually("the sum", || said("more in 10 s").iter().any(|event| event["unsaid"].is_u64())).await;
    let unsaid: u64 = said("TLS handshake failed (and").iter().filter_map(|event| event["unsaid"].as_u64()).sum();
    let single = said("TLS handshake failed").len() - said("TLS handshake failed (and").len();
    assert_eq!(single as u64 + unsaid, knocks, "everything is counted once: {}", stage.gateway.stderr());
    assert!(single <= 20, "{single}");
}

/// Asks so often that something has to be written.
async fn ask(stage: &Stage, times: usize) {
    let mut client = stage.clear().await;
    for _ in 0..times {
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    }
}

fn lines_of(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn log_03_a_pipe_that_nobody_reads_is_refused_as_a_log_and_holds_nobody_up() {
    let mut stage = Setup::new().more("[log]\naccess = \"access.log\"").start();
    let pipe = stage.gateway.folder().join("pipe.log");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, rustix::fs::Mode::RWXU, 0).expect("a pipe");
    let other = stage.toml.replace("access.log", "pipe.log");
    assert_eq!(stage.gateway.reload_with(&other).await["refused"], 1);
    assert!(stage.gateway.stderr().contains("a pipe that nobody reads"), "{}", stage.gateway.stderr());
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
    // The same where it takes the log's place, and the log is opened again.
    let log = stage.gateway.folder().join("access.log");
    std::fs::rename(&pipe, &log).expect("moved");
    stage.gateway.signal(Signal::USR1);
    eventually("a word about it", || stage.gateway.stderr().matches("a pipe that nobody reads").count() == 2).await;
    std::fs::remove_file(&log).expect("a pipe");
    stage.gateway.signal(Signal::USR1);
    eventually("a new file", || log.exists()).await;
    stage.assert_serving().await;
    stage.gateway.terminate();
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn log_03_a_full_disk_costs_counted_lines_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let mut stage = Setup::new().more(&format!("[log]\naccess = {path:?}")).start();
    let start = Instant::now();
    for _ in 0..4 {
        ask(&stage, 50).await;
        // Longer than lines wait in a worker's buffer.
        crate::harness::pause(120).await;
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let told = |stage: &Stage, text: &str| {
        let events = stage.gateway.events().into_iter();
        events.filter(|event| event["message"].as_str().is_some_and(|said| said.contains(text))).collect::<Vec<_>>()
    };
    eventually("the word about it", || !told(&stage, "lines are lost").is_empty()).await;
    assert_eq!(told(&stage, "lines are lost").len(), 1, "said once: {}", stage.gateway.stderr());

    std::fs::remove_file(&path).expect("a link");
    stage.gateway.signal(Signal::USR1);
    eventually("the new file", || path.exists()).await;
    ask(&stage, 50).await;
    eventually("the end of it", || !told(&stage, "written again").is_empty()).await;
    eventually("all lines", || lines_of(&path) >= 50).await;
    stage.gateway.terminate();
    stage.gateway.exit().await;
    let lost: u64 = told(&stage, "lines are ").iter().filter_map(|event| event["lines"].as_u64()).sum();
    assert_eq!(lines_of(&path) as u64 + lost, 250, "every line is written or counted: {}", stage.gateway.stderr());
}

fn syslog_server(path: &Path) -> UnixDatagram {
    let server = UnixDatagram::bind(path).expect("a socket");
    server.set_nonblocking(true).expect("a socket");
    server
}

/// Messages that have come so far.
fn messages(server: &UnixDatagram) -> Vec<String> {
    let mut buffer = vec![0; 65_536];
    std::iter::from_fn(|| {
        server.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
    .collect()
}

#[tokio::test]
async fn log_04_syslog_gets_a_message_for_each_line_and_is_found_again_when_it_was_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let stage = Setup::new().more(&format!("[log]\naccess = \"syslog:unix:{}\"", path.display())).start();
    ask(&stage, 5).await;
    let lost = || {
        let events = stage.gateway.events().into_iter();
        events.filter(|event| event["message"].as_str().is_some_and(|said| said.contains("lines are lost"))).count()
    };
    eventually("the word about the server that is not there", || lost() == 1).await;

    for _ in 0..2 {
        let _ = std::fs::remove_file(&path);
        let server = syslog_server(&path);
        let mut received = Vec::new();
        let deadline = Instant::now() + crate::harness::patience();
        while received.is_empty() {
            ask(&stage, 2).await;
            crate::harness::pause(150).await;
            received.extend(messages(&server));
            assert!(Instant::now() < deadline, "no message: {}", stage.gateway.stderr());
        }
        for message in &received {
            let words: Vec<_> = message.splitn(8, ' ').collect();
            assert_eq!((words[0], words[3], words[6]), ("<30>1", "portcullis", "-"), "{message}");
            let line: Value = serde_json::from_str(words[7]).expect("JSON");
            assert_eq!((&line["event"], &line["status"]), (&"request".into(), &200.into()));
        }
    }
}

#[tokio::test]
async fn log_05_whoever_is_refused_all_the_time_does_not_fill_the_log_and_is_counted() {
    let stage = Setup::new().more("[log]\nrefusals_per_second = 5").start();
    let mut client = stage.clear().await;
    let refused = 200;
    for _ in 0..refused {
        assert_eq!(client.ask(&Request::get("/none")).await.status, 404);
    }
    ask(&stage, 10).await;
    let is_served = |line: &&Value| line["end"] == "completed";
    eventually("what was served", || stage.gateway.access_log().iter().filter(is_served).count() == 10).await;
    let said = stage.gateway.access_log().len() - 10;
    assert!((5..refused).contains(&said), "{said}");
    let unsaid = || {
        let events = stage.gateway.events().into_iter();
        events
            .filter(|event| event["message"].as_str().is_some_and(|said| said.contains("refusals_per_second")))
            .filter_map(|event| event["lines"].as_u64())
            .sum::<u64>()
    };
    eventually("the count", || unsaid() > 0).await;
    assert_eq!(said as u64 + unsaid(), refused as u64);
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What the server heard of a request and of a handshake, both made this way with these fields.
async fn heard(stage: &Stage, way: Way, fields: &[(&str, &str)]) -> Vec<(Vec<String>, Vec<String>)> {
    let (mut request, mut handshake) = (Request::get("/n"), Handshake::to("/ws"));
    for (name, value) in fields {
        request = request.field(name, value);
        handshake = handshake.add(name, value);
    }
    let before = stage.b1.requests().len();
    assert_eq!(way.ask(stage, &request).await.status, 200);
    way.tunnel(stage, &handshake).await.echo("x").await;
    let heads = stage.b1.requests().split_off(before);
    assert_eq!(heads.len(), 2);
    let lines = |head: &Head, name| head.all(name).into_iter().map(str::to_owned).collect();
    heads.iter().map(|head| (lines(head, "traceparent"), lines(head, "tracestate"))).collect()
}

#[tokio::test]
async fn log_06_a_trace_is_passed_on_all_ways_as_it_came_and_a_bad_one_is_not_logged() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        let both = heard(&stage, way, &[("traceparent", PARENT), ("tracestate", "a=1")]).await;
        assert!(both.iter().all(|heard| *heard == (vec![PARENT.to_owned()], vec!["a=1".to_owned()])), "{both:?}");
        for bad in bad_parents() {
            let same = heard(&stage, way, &[("traceparent", &bad), ("tracestate", "a=1")]).await;
            assert!(same.iter().all(|heard| *heard == (vec![bad.clone()], vec!["a=1".to_owned()])), "{bad}: {same:?}");
        }
        let twice = heard(&stage, way, &[("traceparent", PARENT), ("traceparent", PARENT)]).await;
        assert!(twice.iter().all(|(parents, _)| *parents == [PARENT, PARENT]), "{twice:?}");
    }
    let opened = |line: &&Value| line["trace_id"] == TRACE;
    eventually("the closing lines", || stage.gateway.access_log().iter().filter(opened).count() == 6).await;
    // Also where the request does not get that far.
    let evil = Handshake::to("/ws").origin("https://evil.test").add("traceparent", PARENT);
    Way::H2.refused(&stage, &evil, 403, "origin-not-allowed").await;
    eventually("a refusal's line", || stage.gateway.access_log().iter().filter(opened).count() == 7).await;
    let other =
        stage.gateway.access_log().into_iter().find(|line| !line["trace_id"].is_null() && line["trace_id"] != TRACE);
    assert_eq!(other, None);
}

/// What is no `traceparent`: too short, in upper case, with a trace of zeros.
fn bad_parents() -> [String; 3] {
    let zeros = PARENT.replace("0af", "000").replace("7651916cd43dd8448eb211c80319c", &"0".repeat(29));
    ["00-0".to_owned(), PARENT.to_uppercase(), zeros]
}

#[tokio::test]
async fn log_06_a_bad_trace_is_not_joined_even_where_its_sender_is_trusted() {
    let stage = Setup::new().server("trusted_proxies = [\"127.0.0.1\"]\ntrace = \"start\"").start();
    for way in Way::ALL {
        let twice = [("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")];
        let mut all = heard(&stage, way, &twice).await;
        for bad in bad_parents() {
            all.extend(heard(&stage, way, &[("traceparent", &bad), ("tracestate", "a=1")]).await);
        }
        assert_eq!(all.len(), 8);
        for (parents, states) in all {
            let [parent] = parents.as_slice() else { panic!("{parents:?}") };
            let trace = parent.split('-').nth(1).expect("a trace");
            assert!(trace != TRACE && trace != "0".repeat(32) && trace.len() == 32, "{parent}");
            assert_eq!(states, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn log_06_a_trace_is_begun_and_that_of_a_stranger_is_not_continued() {
    for (trusted, continued) in [("", false), ("trusted_proxies = [\"127.0.0.1\"]\n", true)] {
        let stage = Setup::new().server(&format!("{trusted}trace = \"start\"")).start();
        let mut spans = std::collections::BTreeSet::new();
        for way in Way::ALL {
            let fields: [&[(&str, &str)]; 2] = [&[], &[("traceparent", PARENT), ("tracestate", "a=1")]];
            for sent in fields {
                for (parents, states) in heard(&stage, way, sent).await {
                    let [parent] = parents.as_slice() else { panic!("{parents:?}") };
                    let parts: Vec<_> = parent.split('-').collect();
                    let is_continued = continued && !sent.is_empty();
                    assert_eq!((parts[0], parts[1] == TRACE, parts[3]), ("00", is_continued, "01"), "{parent}");
                    assert_eq!(!states.is_empty(), is_continued);
                    assert!(parts[2] != "b7ad6b7169203331" && spans.insert(parts[2].to_owned()), "a span of its own");
                    let is_logged = || stage.gateway.stderr().contains(parts[1]);
                    eventually("the trace in the log", is_logged).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn log_06_a_trace_reaches_servers_over_http2_and_through_tunnels_there() {
    let server = H2Server::new().settings(|builder| {
        builder.enable_connect_protocol();
    });
    let stage = Setup::new().b1(server.standard()).upstream("protocols = [\"h2c\"]").start();
    for way in Way::ALL {
        let fields = |head: &http::request::Parts| {
            let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            (field("traceparent"), field("tracestate"))
        };
        let request = Request::get("/n").field("traceparent", PARENT).field("tracestate", "a=1");
        assert_eq!(way.ask(&stage, &request).await.status, 200);
        let handshake = Handshake::to("/ws").add("traceparent", PARENT).add("tracestate", "a=1");
        way.tunnel(&stage, &handshake).await.echo("x").await;
        let heads = server.heads();
        assert!(heads.len() >= 2 && heads.iter().any(|head| head.method == "CONNECT"), "{heads:?}");
        for head in &heads {
            assert_eq!(fields(head), (Some(PARENT.to_owned()), Some("a=1".to_owned())), "{way:?} {head:?}");
        }
    }
}
