//! OPS: another configuration while the gateway serves: under load, refused, and in every order.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Backend, Client, Fields, Frame, Gateway, H2, Handshake, Peer, Request, Setup, Stage, Tunnel, Way, eventually,
    holds_within, pki,
};

/// A piece of the standard configuration that reloads of these tests exchange.
const DENIED: &str = "body = \"denied\\n\"";

/// `/ws` echoes frames, everything else echoes bodies.
fn mirror() -> Backend {
    Backend::scripted(async |mut peer: Peer| {
        loop {
            let head = peer.head().await?;
            if head.is_websocket() {
                peer.agree(&head, "").await?;
                return peer.echo().await;
            }
            let (body, _) = peer.request_body(&head).await?;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            peer.write(&[answer.as_bytes(), &body].concat()).await?;
        }
    })
}

/// Bytes that differ from call to call, of lengths that cross every buffer.
struct Payloads(u64);

impl Payloads {
    fn next(&mut self) -> Vec<u8> {
        let mut number = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        };
        let length = [10, 3_000, 70_000, 200_000][number() as usize % 4] + number() as usize % 100;
        (0..length).map(|_| number() as u8).collect()
    }
}

fn upload(body: Vec<u8>) -> Request {
    Request::new("POST", "/n").body(body)
}

/// Requests one after the other, each on a connection of its own.
async fn fresh_requests(stage: &Stage, way: Way, payloads: &mut Payloads) {
    let body = payloads.next();
    let answer = way.ask(stage, &upload(body.clone())).await;
    assert_eq!((answer.status, answer.body == body), (200, true), "{way:?}: {answer:?}");
}

async fn echo(tunnel: &mut Tunnel, payloads: &mut Payloads) {
    let payload = payloads.next();
    let frame = Frame::binary(payload.clone()).masked().bytes();
    // Sent and read side by side would need two halves; the windows take what is on its way.
    tunnel.send(&frame).await;
    let back = tunnel.frame().await;
    assert!(back.payload == payload, "{} bytes came back as {}", payload.len(), back.payload.len());
}

async fn short_tunnels(stage: &Stage, way: Way, payloads: &mut Payloads) {
    let mut tunnel = way.tunnel(stage, &Handshake::to("/ws")).await;
    echo(&mut tunnel, payloads).await;
    tunnel.send(Frame::close(1000, "").masked().bytes()).await;
    assert_eq!(tunnel.frame().await.close_code(), Some(1000));
}

/// The n-th of a row of configurations that differ where open connections do not mind.
fn variant(stage: &Stage, number: usize) -> String {
    let toml = stage.toml.replace(DENIED, &format!("body = \"denied {number}\\n\""));
    let toml = if number % 3 == 1 { toml.replace("servers = [\"http", "retries = 2\nservers = [\"http") } else { toml };
    let extra = format!("[[route]]\npath = \"/extra-{number}\"\nrespond = {{ status = 204 }}\n");
    if number % 2 == 1 { toml + &extra } else { toml }
}

async fn reload_fifty_times_under_load(workers: usize) {
    const RELOADS: usize = 50;
    let stage = Setup::new().b1(mirror()).server(&format!("workers = {workers}")).start();
    let stop = Cell::new(false);
    let busy = Cell::new(0);
    let seeds = Cell::new(0x2545_f491_4f6c_dd1d);
    let payloads = || {
        seeds.set(seeds.get() + 0x9e37_79b9);
        Payloads(seeds.get())
    };
    let fresh = Way::ALL.map(async |way| {
        let mut payloads = payloads();
        while !stop.get() {
            fresh_requests(&stage, way, &mut payloads).await;
            busy.set(busy.get() + 1);
        }
    });
    // Idle for as long as the others take: each has to find its connection as it left it.
    let kept = Way::H1.map(async |way| {
        let mut payloads = payloads();
        let mut client = way.client(&stage).await;
        while !stop.get() {
            let body = payloads.next();
            let answer = client.ask(&upload(body.clone())).await;
            assert_eq!((answer.status, answer.body == body), (200, true), "{way:?}: {answer:?}");
            assert!(!answer.lists("connection", "close"), "{way:?}: {answer:?}");
            busy.set(busy.get() + 1);
        }
    });
    let kept_h2 = async {
        let mut payloads = payloads();
        let mut h2 = H2::connect(&stage).await;
        while !stop.get() {
            let body = payloads.next();
            let answer = h2.ask(&upload(body.clone())).await;
            assert_eq!((answer.status, answer.body == body), (200, true), "{answer:?}");
            busy.set(busy.get() + 1);
        }
    };
    let long = Way::ALL.map(async |way| {
        let mut payloads = payloads();
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        while !stop.get() {
            echo(&mut tunnel, &mut payloads).await;
            busy.set(busy.get() + 1);
        }
        tunnel.send(Frame::close(1000, "").masked().bytes()).await;
        assert_eq!(tunnel.frame().await.close_code(), Some(1000), "{way:?}");
    });
    let short = Way::ALL.map(async |way| {
        let mut payloads = payloads();
        while !stop.get() {
            short_tunnels(&stage, way, &mut payloads).await;
            busy.set(busy.get() + 1);
        }
    });
    let reloads = async {
        for number in 1..=RELOADS {
            if number % 5 == 0 {
                stage.gateway.replace_certificate("a", &pki().renewed("a.test"));
            }
            let before = busy.get();
            let event = stage.gateway.reload_with(&variant(&stage, number)).await;
            assert_eq!(
                (&event["message"], &event["generation"]),
                (&"reloaded".into(), &(number + 1).into()),
                "{event}"
            );
            // Some of the work of every moment is done under each of them.
            eventually("work under this configuration", || busy.get() > before + 5).await;
        }
        stop.set(true);
    };
    use futures_util::future::{join, join_all};
    let load = join(join(join_all(fresh), join_all(kept)), join(kept_h2, join(join_all(long), join_all(short))));
    join(load, reloads).await;
    let refused: Vec<_> = stage.gateway.access_log().into_iter().filter(|line| line["status"] == 421).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn ops_06_fifty_reloads_under_load_lose_no_byte_and_refuse_nobody() {
    reload_fifty_times_under_load(2).await;
}

#[tokio::test]
async fn ops_06_the_same_with_one_worker_that_accepts_beside_its_connections() {
    reload_fifty_times_under_load(1).await;
}

/// What `check` says of the file as it is now.
fn check(gateway: &Gateway) -> String {
    let file = gateway.folder().join("portcullis.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("check").arg(file).output().expect("the binary");
    String::from_utf8(output.stderr).expect("text")
}

/// The events since the first `before` ones that tell of a problem of the configuration.
fn problems(gateway: &Gateway, before: usize) -> Vec<serde_json::Value> {
    gateway.events().into_iter().skip(before).filter(|event| event.get("code").is_some()).collect()
}

#[tokio::test]
async fn ops_07_a_broken_file_is_refused_in_the_words_of_check_and_nothing_changes() {
    let stage = Stage::standard().await;
    let denied = async |words: &str| {
        for way in Way::ALL {
            assert_eq!(way.ask(&stage, &Request::get("/denied")).await.text(), words, "{way:?}");
        }
    };
    // All but the mistake is good, and would be seen if any of it were put in use.
    let changed = stage.toml.replace(DENIED, "body = \"changed\\n\"");
    let cases = [
        ("syntax", format!("{changed}[[listener]\n")),
        ("an unknown key", changed.replace("path = \"/n\"", "path = \"/n\"\norgins = []")),
        ("several mistakes", changed.replace("upstream = \"b1\"", "upstream = \"b0\"")),
        ("no such certificate", changed.replace("a.pem", "missing.pem")),
        ("a key of another certificate", changed.replace("a.key", "b.key")),
        ("a CA without a certificate", changed.replace("clients.pem", "a.key")),
        ("a CA that is not there", changed.replace("clients.pem", "missing.pem")),
        (
            "clashing routes",
            changed.clone() + "[[route]]\nname = \"x\"\nhosts = [\"b.test\"]\nrespond = { status = 204 }\n",
        ),
        ("nothing at all", String::new()),
        ("half of it", changed[..changed.len() / 2].to_owned()),
    ];
    for (number, (what, toml)) in cases.iter().enumerate() {
        let before = stage.gateway.events().len();
        let event = stage.gateway.reload_with(toml).await;
        assert!(event["message"].as_str().is_some_and(|text| text.starts_with("no reload")), "{what}: {event}");
        assert_eq!(
            (event["generation"].as_u64(), event["refused"].as_u64()),
            (Some(1), Some(number as u64 + 1)),
            "{what}"
        );
        let (said, problems) = (check(&stage.gateway), problems(&stage.gateway, before));
        assert!(problems.iter().any(|problem| problem["level"] == "ERROR"), "{what}: {problems:?}");
        for problem in &problems {
            let text = |key: &str| problem[key].as_str().unwrap_or_default();
            for part in [text("message"), text("code"), text("help"), text("place")] {
                assert!(said.contains(part), "{what}: {part:?} is not in\n{said}");
            }
            assert!(!text("place").is_empty() || toml.is_empty(), "{what}: {problem}");
        }
        assert_eq!(
            problems.len(),
            said.matches("\nerror[").count() + said.matches("\nwarning[").count() + 1,
            "{what}: {said}"
        );
        denied("denied\n").await;
    }
    stage.gateway.replace("portcullis.toml", "");
    std::fs::remove_file(stage.gateway.folder().join("portcullis.toml")).expect("a file");
    let event = stage.gateway.reload().await;
    assert_eq!(event["refused"], cases.len() as u64 + 1, "no file");
    let event = stage.gateway.reload_with(&changed).await;
    assert_eq!((&event["message"], &event["generation"]), (&"reloaded".into(), &2.into()), "{event}");
    denied("changed\n").await;
}

#[tokio::test]
async fn ops_07_what_has_changed_is_said_in_short() {
    let stage = Stage::standard().await;
    let event = stage.gateway.reload().await;
    for key in ["listeners", "routes", "upstreams"] {
        assert_eq!(event[key], "the same", "{event}");
    }
    let toml = stage.toml.replace(DENIED, "body = \"x\"").replace("name = \"public\"", "name = \"private\"");
    let more = "[[listener]]\nname = \"third\"\naddress = \"127.0.0.1:0\"\n[upstream.spare]\nservers = [\"ws://127.0.0.1:1\"]\n";
    let event = stage.gateway.reload_with(&(toml.clone() + more)).await;
    assert_eq!(event["listeners"], "added third");
    assert_eq!(event["routes"], "added private; removed public; changed denied");
    assert_eq!(event["upstreams"], "added spare");
    assert_eq!(event["server"], false);
    assert!(stage.gateway.events().iter().any(|event| event["code"] == "unused-upstream" && event["level"] == "WARN"));
    stage.gateway.replace_certificate("b", &pki().renewed("b.test"));
    let event = stage.gateway.reload_with(&toml.replace("[server]", "[server]\nforwarded = true")).await;
    assert_eq!(event["listeners"], "removed third; renewed tls");
    assert_eq!((&event["upstreams"], &event["server"]), (&"removed spare".into(), &true.into()));
}

#[tokio::test]
async fn ops_09_a_route_that_is_taken_away_leaves_its_tunnels_alone() {
    let stage = Stage::standard().await;
    let mut tunnels = Vec::new();
    for way in Way::ALL {
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.echo("before").await;
        tunnels.push(tunnel);
    }
    let start = stage.toml.find("[[route]]\nname = \"ws\"").expect("the route");
    let end = stage.toml.find("[[route]]\nname = \"n\"").expect("the next one");
    let toml = format!("{}{}", &stage.toml[..start], &stage.toml[end..]);
    let event = stage.gateway.reload_with(&toml).await;
    assert_eq!(event["routes"], "removed ws", "{event}");
    for way in Way::ALL {
        way.refused(&stage, &Handshake::to("/ws"), 404, "no-route").await;
    }
    // Its upstream goes as well.
    let toml = toml.replace("upstream = \"b1\"", "respond = { status = 204 }").replace("[route.timeouts]", "");
    let toml = format!("{}{}", &toml[..toml.find("[upstream.b1]").expect("it")], "");
    assert_eq!(stage.gateway.reload_with(&toml).await["upstreams"], "removed b1");
    for tunnel in &mut tunnels {
        tunnel.echo("after").await;
        tunnel.send(Frame::close(1000, "bye").masked().bytes()).await;
        assert_eq!(tunnel.frame().await, Frame::close(1000, "bye"));
    }
    let closed = || {
        let lines = stage.gateway.access_log();
        lines.iter().filter(|line| line["event"] == "tunnel-close" && line["route"] == "ws").count()
    };
    eventually("three closing lines", || closed() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ops_07_a_file_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one() {
    let stage = Stage::standard().await;
    let padding = "# A comment that makes the file long enough to be read in pieces.\n".repeat(5_000);
    let file =
        |number: usize| padding.clone() + &stage.toml.replace(DENIED, &format!("body = \"{number}\\n\"")) + &padding;
    stage.gateway.replace("portcullis.toml", &file(0));
    std::thread::scope(|scope| {
        // Dropped however the test ends.
        let (going_on, stopped) = std::sync::mpsc::channel::<()>();
        let (stage, file) = (&stage, &file);
        scope.spawn(move || {
            let mut number = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                stage.gateway.replace("portcullis.toml", &file(number));
                number += 1;
            }
        });
        let reloads = async {
            for _ in 0..30 {
                let event = stage.gateway.reload().await;
                assert_eq!(event["message"], "reloaded", "{event}");
                let text = Way::Clear.ask(stage, &Request::get("/denied")).await.text();
                text.trim().parse::<usize>().expect("a number");
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(reloads));
        drop(going_on);
    });
}

#[tokio::test]
async fn ops_07_included_files_come_and_go_with_a_reload() {
    let stage = Setup::new().server("include = [\"conf.d/*.toml\"]").start();
    let folder = stage.gateway.folder().join("conf.d");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |name: &str, path: &str| {
        let toml = format!(
            "[[route]]\nhosts = [\"a.test\"]\npath = \"{path}\"\nrespond = {{ status = 200, body = \"{name}\" }}\n"
        );
        stage.gateway.replace(&format!("conf.d/{name}"), &toml);
    };
    let status = async |path: &str| Way::H2.ask(&stage, &Request::get(path)).await.status;
    assert_eq!(status("/one").await, 404);
    write("one.toml", "/one");
    write("two.toml", "/two");
    assert_eq!(stage.gateway.reload().await["routes"], "added a.test/one, a.test/two");
    assert_eq!((status("/one").await, status("/two").await), (200, 200));
    std::fs::remove_file(folder.join("one.toml")).expect("a file");
    assert_eq!(stage.gateway.reload().await["routes"], "removed a.test/one");
    assert_eq!((status("/one").await, status("/two").await), (404, 200));
    std::fs::write(folder.join("three.toml"), "[[route]\n").expect("a file");
    let before = stage.gateway.events().len();
    assert_eq!(stage.gateway.reload().await["refused"], 1);
    let place = problems(&stage.gateway, before)[0]["place"].as_str().unwrap_or_default().to_owned();
    assert!(place.contains("conf.d/three.toml:1:"), "{place}");
    assert_eq!(status("/two").await, 200);
}

#[tokio::test]
async fn ops_06_a_storm_of_signals_is_few_reloads_and_the_last_file_counts() {
    let stage = Stage::standard().await;
    for number in 0..2_000 {
        if number % 100 == 0 {
            stage.gateway.replace("portcullis.toml", &stage.toml.replace(DENIED, &format!("body = \"{number}\\n\"")));
        }
        stage.gateway.hang_up();
    }
    stage.gateway.replace("portcullis.toml", &stage.toml.replace(DENIED, "body = \"last\\n\""));
    stage.gateway.hang_up();
    let mut text = String::new();
    let end = tokio::time::Instant::now() + crate::harness::patience();
    while text != "last\n" {
        assert!(tokio::time::Instant::now() < end, "still {text:?}");
        text = Way::Clear.ask(&stage, &Request::get("/denied")).await.text();
    }
    let reloads = stage.gateway.reloads();
    assert!(reloads.iter().all(|event| event["message"] == "reloaded"), "{reloads:?}");
    assert!(reloads.len() < 1_000, "{} reloads for 2,001 signals", reloads.len());
    let generations: Vec<_> = reloads.iter().map(|event| event["generation"].as_u64().unwrap_or(0)).collect();
    assert!(generations.iter().copied().eq(2..2 + reloads.len() as u64), "{generations:?}");
}

#[tokio::test]
async fn ops_10_a_signal_to_reload_during_a_drain_changes_nothing() {
    let mut stage = Setup::new().server("drain_timeout = \"30s\"").start();
    let mut tunnel = Way::H2.tunnel(&stage, &Handshake::to("/ws")).await;
    stage.gateway.terminate();
    let refused = async { while tokio::net::TcpStream::connect(stage.gateway.address("clear")).await.is_ok() {} };
    crate::harness::within("the drain", refused).await;
    let event = stage.gateway.reload_with(&(stage.toml.clone() + "[[listener]]\naddress = \"127.0.0.1:0\"\n")).await;
    assert_eq!(event["message"], "no reload: the gateway stops");
    tunnel.echo("still").await;
    tunnel.send(Frame::close(1000, "").masked().bytes()).await;
    tunnel.rest().await;
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn ops_06_an_idle_connection_to_a_server_outlives_a_reload_that_leaves_its_upstream_alone() {
    let stage = Stage::standard().await;
    stage.assert_serving().await;
    stage.reload_with(DENIED, "body = \"x\"").await;
    stage.assert_serving().await;
    assert_eq!(stage.b1.connections(), 1);
    stage.reload_with("[upstream.b1]\n", "[upstream.b1]\nretries = 0\n").await;
    stage.assert_serving().await;
    assert_eq!(stage.b1.connections(), 2, "another definition, another pool");
}

#[tokio::test]
async fn ops_06_requests_under_way_end_as_they_began() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let backend = Backend::scripted(move |mut peer: Peer| {
        let mut wait = wait.clone();
        async move {
            let head = peer.head().await?;
            peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await?;
            let _ = wait.wait_for(|go| *go).await;
            let _ = head;
            peer.write(b"6\r\nsecond\r\n0\r\n\r\n").await
        }
    });
    let stage = Setup::new().b1(backend).start();
    let mut asking = Vec::new();
    for way in Way::H1 {
        let mut client = way.client(&stage).await;
        client.send(Request::get("/n").to_h1()).await;
        client.head().await;
        asking.push(client);
    }
    // The route and its upstream are gone when the answers end.
    let toml = stage.toml.replace("upstream = \"b1\"", "respond = { status = 204 }").replace("[route.timeouts]", "");
    let toml = toml.replace("[route.websocket]\norigins = [\"https://app.example\"]", "");
    let toml = &toml[..toml.find("[upstream.b1]").expect("it")];
    assert_eq!(stage.gateway.reload_with(toml).await["upstreams"], "removed b1");
    go.send(true).expect("a waiting backend");
    for mut client in asking {
        let rest = client.exact(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n".len()).await;
        assert!(rest.ends_with(b"second\r\n0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
        assert_eq!(client.ask(&Request::get("/n")).await.status, 204, "the next one is served by what is in use now");
    }
}

/// The generations of which the gateway has said that nothing uses them any more.
fn freed(gateway: &Gateway) -> BTreeSet<u64> {
    let events = gateway.events();
    let is_freed = |event: &&serde_json::Value| event["message"] == "nothing uses this configuration any more";
    events.iter().filter(is_freed).filter_map(|event| event["generation"].as_u64()).collect()
}

#[tokio::test]
async fn tun_22_fifty_reloads_under_open_tunnels_leave_no_old_configuration_behind() {
    let large =
        (0..2_000).map(|number| format!("[[route]]\npath = \"= /large/{number}\"\nrespond = {{ status = 204 }}\n"));
    let stage = Setup::new().server("workers = 2").more(&large.collect::<String>()).start();
    let base = format!("[log]\nlevel = \"debug\"\n{}", stage.toml);
    let with_more = |number: usize| {
        let text = base.replace(DENIED, &format!("body = \"{number}\\n\""));
        let listener = "\n[[listener]]\nname = \"third\"\naddress = \"127.0.0.1:0\"\n";
        if number.is_multiple_of(2) { text + listener } else { text }
    };
    stage.gateway.reload_with(&with_more(0)).await;
    let mut tunnels = Vec::new();
    let third = stage.gateway.announced("third").await;
    let mut removed = Client::clear(third).await;
    removed.open(&Handshake::to("/ws")).await;
    for _ in 0..10 {
        for way in Way::ALL {
            tunnels.push(way.tunnel(&stage, &Handshake::to("/ws")).await);
        }
    }
    let mut idle = stage.tls().await;
    assert_eq!(idle.ask(&Request::get("/n")).await.status, 200);
    for number in 1..=10 {
        stage.gateway.reload_with(&with_more(number)).await;
    }
    eventually("the first ones gone", || freed(&stage.gateway).len() >= 10).await;
    let (descriptors, memory) = (stage.gateway.descriptors(), stage.gateway.rss());
    for number in 11..=50 {
        if number % 10 == 0 {
            stage.gateway.replace_certificate("a", &pki().renewed("a.test"));
        }
        let event = stage.gateway.reload_with(&with_more(number)).await;
        assert_eq!(event["generation"].as_u64(), Some(number as u64 + 2), "{event}");
    }
    // The first one went before the level of the second was in use.
    let left = || (2..=51).filter(|generation| !freed(&stage.gateway).contains(generation)).collect::<Vec<_>>();
    assert!(holds_within(Duration::from_secs(10), || left().is_empty()).await, "{:?}", left());
    assert!(!freed(&stage.gateway).contains(&52), "the one in use");
    let is_flat = || stage.gateway.descriptors() <= descriptors;
    assert!(holds_within(Duration::from_secs(5), is_flat).await, "{descriptors}, {}", stage.gateway.descriptors());
    let grown = stage.gateway.rss().saturating_sub(memory);
    assert!(grown < 12 * 1024, "{grown} KiB on top of {memory}");
    assert_eq!(idle.ask(&Request::get("/n")).await.status, 200);
    removed.echo("still").await;
    for tunnel in &mut tunnels {
        tunnel.echo("still").await;
    }
}

/// A request that goes on holds the configuration that it began with, and lets go of it at its end.
#[tokio::test]
async fn tun_22_a_handshake_under_way_holds_its_configuration_and_its_tunnel_does_not() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let backend = Backend::scripted(move |mut peer: Peer| {
        let mut wait = wait.clone();
        async move {
            let head = peer.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            peer.serve_from(head).await
        }
    });
    let stage = Setup::new().b1(backend).more("[log]\nlevel = \"debug\"\n").start();
    let mut client = stage.clear().await;
    client.send(Handshake::to("/ws").to_h1()).await;
    eventually("the handshake upstream", || stage.b1.saw("/ws")).await;
    stage.reload_with(DENIED, "body = \"x\"").await;
    stage.reload_with(DENIED, "body = \"y\"").await;
    eventually("the second one gone", || freed(&stage.gateway).contains(&2)).await;
    assert!(!freed(&stage.gateway).contains(&1));
    go.send(true).expect("a waiting backend");
    assert_eq!(client.head().await.status(), 101);
    client.echo("open").await;
    eventually("the first one gone", || freed(&stage.gateway).contains(&1)).await;
}
