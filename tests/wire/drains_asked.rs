//! DRN: tunnels of a process, a listener, a route or a filter that are closed one after the other because somebody has asked for it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Api, Backend, Client, End, Fields, Frame, Handshake, Head, Outcome, RawH2, Request, Setup, Stage, Tunnel, Way,
    admin_table, eventually, refuses, within,
};

const COUNT: usize = 30;

async fn tunnels(stage: &Stage) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for number in 0..COUNT {
        tunnels.push(Way::ALL[number % 3].tunnel(stage, &Handshake::to("/ws")).await);
    }
    tunnels
}

/// Waits until all of them have heard this Close, and answers it; when the last one did, and that they did not all at once.
async fn all_hear(tunnels: &mut [Tunnel], code: u16, reason: &str) -> Duration {
    let start = Instant::now();
    let closes = tunnels.iter_mut().map(async |tunnel| {
        assert_eq!(tunnel.frame().await, Frame::close(code, reason));
        let at = start.elapsed();
        tunnel.send(Frame::close(code, "").masked().bytes()).await;
        at
    });
    let mut times = futures_util::future::join_all(closes).await;
    times.sort_unstable();
    for window in times.windows(times.len() / 2) {
        let took = window[window.len() - 1] - window[0];
        assert!(took > Duration::from_millis(200), "a burst: {window:?}");
    }
    times[times.len() - 1]
}

async fn all_end_as(stage: &Stage, end: &str) {
    let is_one = |line: &&Value| line["event"] == "tunnel-close" && line["end"] == end;
    let count = || stage.gateway.access_log().iter().filter(is_one).count();
    eventually("their lines in the log", || count() == COUNT).await;
}

fn has_told(stage: &Stage, text: &str) -> Option<Value> {
    stage.gateway.events().into_iter().find(|event| event["message"] == text)
}

fn setup() -> Setup {
    Setup::new().more(&admin_table("")).server("workers = 2\ndrain_timeout = \"20s\"")
}

#[tokio::test]
async fn drn_04_a_process_that_drains_closes_its_tunnels_evenly_at_its_rate_on_every_way_in() {
    let mut stage = Setup::new().server("workers = 2\ndrain_timeout = \"20s\"\ndrain_rate = 20").start();
    let mut tunnels = tunnels(&stage).await;
    stage.gateway.terminate();
    let took = all_hear(&mut tunnels, 1001, "going away").await;
    assert!((1_000..8_000).contains(&took.as_millis()), "{took:?}");
    all_end_as(&stage, "drained").await;
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
    let over = has_told(&stage, "the drain is over").expect("its end");
    assert_eq!((&over["tunnels_closed"], &over["tunnels_left"]), (&COUNT.into(), &0.into()), "{over}");
    assert!(has_told(&stage, "cut at the end of the drain").is_none());
}

#[tokio::test]
async fn drn_04_the_hard_end_stays_what_it_is_however_slow_the_rate() {
    let mut stage = Setup::new().server("drain_timeout = \"2s\"\ndrain_rate = 1").start();
    let mut tunnels = tunnels(&stage).await;
    let start = Instant::now();
    stage.gateway.terminate();
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.frame().await, Frame::close(1001, "going away"));
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    all_end_as(&stage, "drained").await;
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn drn_04_an_operator_lets_the_process_drain_at_a_pace_and_changes_it_meanwhile() {
    let mut stage = setup().start();
    let mut tunnels = tunnels(&stage).await;
    let (code, out, errors) = stage.gateway.operate(&["drain", "process", "--rate", "1"]).await;
    assert!(code == Some(0) && out.contains("the gateway drains"), "{out}{errors}");
    eventually("the beginning of the drain", || has_told(&stage, "tunnels are closed one after the other").is_some())
        .await;
    let api = Api::of(&stage.gateway);
    let drains = api.get("/api/v1/drains").await;
    assert_eq!(
        (&drains["drains"][0]["what"], &drains["drains"][0]["rate"]),
        (&"process".into(), &1.into()),
        "{drains}"
    );
    assert_eq!(drains["drains"][0]["total"], COUNT, "{drains}");
    api.try_send("DELETE", "/api/v1/drains/process", &json!({})).await.assert_api_error(409, "no-way-back");
    let (code, ..) = stage.gateway.operate(&["drain", "process", "--over", "2s"]).await;
    assert_eq!(code, Some(0));
    let took = all_hear(&mut tunnels, 1001, "going away").await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn drn_05_a_route_that_drains_refuses_handshakes_on_every_way_in_until_that_is_undone() {
    let stage = setup().start();
    let api = Api::of(&stage.gateway);
    let mut tunnels = tunnels(&stage).await;
    let list = api.get("/api/v1/tunnels?limit=1").await;
    let route = list["tunnels"][0]["route"].as_str().expect("a route").to_owned();
    let answer = api.send("POST", "/api/v1/drains", &json!({ "what": "route", "name": route, "over_ms": 1500 })).await;
    let drain = &answer["drains"][0];
    assert_eq!((&drain["name"], &drain["over_ms"]), (&json!(route), &1500.into()), "{drain}");
    for way in Way::ALL {
        let answer = way.refused(&stage, &Handshake::to("/ws"), 503, "route-drained").await;
        assert_eq!(answer.get("retry-after"), Some("30"), "{way:?}");
    }
    assert_eq!(stage.clear().await.ask(&Request::get("/n")).await.status, 200);
    all_hear(&mut tunnels, 1001, "going away").await;
    all_end_as(&stage, "route-drained").await;
    // A reload changes nothing about it.
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
    Way::Tls.refused(&stage, &Handshake::to("/ws"), 503, "route-drained").await;
    let drains = api.get("/api/v1/drains").await;
    assert_eq!((&drains["drains"][0]["closed"], &drains["drains"][0]["left"]), (&COUNT.into(), &0.into()), "{drains}");
    let (code, out, errors) = stage.gateway.operate(&["drain", "route", &route, "--undo"]).await;
    assert!(code == Some(0) && out.contains("takes tunnels again"), "{out}{errors}");
    for way in Way::ALL {
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("open again").await;
    }
    let (code, _, errors) = stage.gateway.operate(&["drain", "route", &route, "--undo"]).await;
    assert!(code == Some(1) && errors.contains("nobody has asked"), "{errors}");
    let (code, _, errors) = stage.gateway.operate(&["drain", "route", "nowhere-at-all"]).await;
    assert!(code == Some(1) && errors.contains("there is no route"), "{errors}");
}

#[tokio::test]
async fn drn_05_the_tunnels_that_a_filter_means_are_closed_one_after_the_other_and_no_later_ones() {
    let stage = setup().start();
    let mut tunnels = tunnels(&stage).await;
    let (code, out, errors) =
        stage.gateway.operate(&["drain", "tunnels", "route=*", "--over", "1500ms", "--code", "4001"]).await;
    assert!(code == Some(0) && out.contains("closed over 1.5s"), "{out}{errors}");
    eventually("the beginning", || has_told(&stage, "tunnels are closed one after the other").is_some()).await;
    let mut later = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    all_hear(&mut tunnels, 4001, "").await;
    eventually("the end", || has_told(&stage, "tunnels have been closed").is_some()).await;
    later.echo("still here").await;
    let drains = Api::of(&stage.gateway).get("/api/v1/drains").await;
    let drain = &drains["drains"][0];
    assert_eq!((&drain["what"], &drain["closed"], &drain["done"]), (&"tunnels".into(), &COUNT.into(), &true.into()));
}

/// A client, as soon as somebody listens.
async fn opens(address: SocketAddr) -> Client {
    let open = async { while tokio::net::TcpStream::connect(address).await.is_err() {} };
    within("an address that listens", open).await;
    Client::clear(address).await
}

#[tokio::test]
async fn drn_06_a_listener_that_drains_refuses_clients_and_what_came_in_by_it_finishes_until_that_is_undone() {
    let (backend, go) = Backend::slow_until_told();
    let stage = setup().b1(backend).start();
    let address = stage.gateway.address("tls");
    let mut idle = stage.tls().await;
    assert_eq!(idle.ask(&Request::get("/n")).await.status, 200);
    let (mut asking, slow) = (stage.tls().await, Request::get("/n/slow"));
    asking.send(slow.to_h1()).await;
    let mut raw = RawH2::connect(&stage).await;
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/n/slow")];
    raw.headers(1, &fields, true).await;
    let is_slow = |head: &&Head| head.target().starts_with("/n/slow");
    eventually("both upstream", || stage.b1.requests().iter().filter(is_slow).count() == 2).await;
    let (mut going, mut staying) = (Vec::new(), Vec::new());
    for number in 0..2 * COUNT {
        let way = [Way::Tls, Way::H2][number % 2];
        going.push(way.tunnel(&stage, &Handshake::to("/ws")).await);
    }
    for _ in 0..3 {
        staying.push(Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await);
    }

    let (code, out, errors) = stage.gateway.operate(&["drain", "listener", "tls", "--over", "2s"]).await;
    assert!(
        code == Some(0) && out.contains("takes no new connections") && out.contains("closed over 2s"),
        "{out}{errors}"
    );
    refuses(address).await;
    assert_eq!(idle.expect_end().await, End::Fin);
    all_hear(&mut going, 1001, "going away").await;
    let count = |stage: &Stage| {
        let lines = stage.gateway.access_log();
        lines.iter().filter(|line| line["event"] == "tunnel-close" && line["end"] == "listener-drained").count()
    };
    eventually("their lines", || count(&stage) == 2 * COUNT).await;
    go.send(true).expect("a waiting backend");
    let answer = asking.answer().await;
    assert_eq!((answer.status, answer.lists("connection", "close")), (200, true));
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    while raw.next().await.is_some() {}

    // A reload changes nothing about it; what came in elsewhere has nothing to do with it.
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
    refuses(address).await;
    for tunnel in &mut staying {
        tunnel.echo("still here").await;
    }
    let api = Api::of(&stage.gateway);
    let drains = async || {
        let listeners = api.get("/api/v1/listeners").await;
        let listeners = listeners["listeners"].as_array().expect("a list").clone();
        listeners.into_iter().map(|row| (row["name"].clone(), row["draining"].clone())).collect::<Vec<_>>()
    };
    let draining = drains().await;
    assert!(draining.contains(&("tls".into(), true.into())), "{draining:?}");
    assert!(draining.contains(&("clear".into(), false.into())), "{draining:?}");
    let rows = api.get("/api/v1/drains").await;
    let row = &rows["drains"][0];
    assert_eq!((&row["what"], &row["name"], &row["closed"]), (&"listener".into(), &"tls".into(), &(2 * COUNT).into()));

    let (code, out, errors) = stage.gateway.operate(&["drain", "listener", "tls", "--undo"]).await;
    assert!(code == Some(0) && out.contains("takes connections again"), "{out}{errors}");
    opens(address).await;
    stage.assert_serving().await;
    for way in Way::ALL {
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("open again").await;
    }
    assert!(drains().await.iter().all(|(_, draining)| *draining == false));
    let (code, _, errors) = stage.gateway.operate(&["drain", "listener", "tsl"]).await;
    assert!(
        code == Some(1) && errors.contains("no listener `tsl`") && errors.contains("did you mean `tls`"),
        "{errors}"
    );
}

#[tokio::test]
async fn drn_06_a_listener_that_drains_is_found_by_its_name_whatever_a_reload_does_to_it() {
    let stage = setup().start();
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let with = |name: &str| format!("{}\n[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n", stage.toml);
    assert_eq!(stage.gateway.reload_with(&with("third")).await["listeners"], "added third");
    let (code, _, errors) = stage.gateway.operate(&["drain", "listener", "third"]).await;
    assert_eq!(code, Some(0), "{errors}");
    refuses(address).await;
    // Under another name it is another one; taken away and put back it is the same.
    assert_eq!(stage.gateway.reload_with(&with("other")).await["message"], "reloaded");
    assert_eq!(opens(address).await.ask(&Request::get("/n")).await.status, 200);
    assert_eq!(stage.gateway.reload_with(&with("third")).await["message"], "reloaded");
    refuses(address).await;
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["listeners"], "removed third");
    assert_eq!(stage.gateway.reload_with(&with("third")).await["listeners"], "added third");
    refuses(address).await;
    let (code, _, errors) = stage.gateway.operate(&["drain", "listener", "third", "--undo"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(opens(address).await.ask(&Request::get("/n")).await.status, 200);
    stage.assert_serving().await;
}

#[tokio::test]
async fn drn_05_paces_that_are_none_and_filters_that_mean_nothing_are_bad_usage() {
    let stage = setup().start();
    let api = Api::of(&stage.gateway);
    for (body, code) in [
        (json!({ "what": "process", "rate": 0 }), "bad-pace"),
        (json!({ "what": "process", "rate": 1, "over_ms": 1 }), "bad-pace"),
        (json!({ "what": "process", "over_ms": u64::MAX }), "bad-pace"),
        (json!({ "what": "tunnels", "filter": "" }), "bad-filter"),
        (json!({ "what": "tunnels", "filter": "route" }), "bad-filter"),
        (json!({ "what": "tunnels", "filter": "route=x", "code": 1005 }), "bad-close"),
        (json!({ "what": "world" }), "bad-body"),
    ] {
        api.try_send("POST", "/api/v1/drains", &body).await.assert_api_error(400, code);
    }
    let (code, ..) = stage.gateway.operate(&["drain", "process", "--rate", "1", "--over", "1s"]).await;
    assert_eq!(code, Some(2));
    stage.assert_serving().await;
}
