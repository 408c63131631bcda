//! Every rule of the configuration after a reload: on connections that were there before it, and on those that come.
//! What tunnels keep, and what they count for.

use std::time::Duration;

use crate::harness::{
    Client, Fields, Frame, H2, Handshake, Outcome, RawH2, Request, Setup, Stage, Tunnel, Way, eventually, holds_within,
};

/// What is asked of the gateway before and after.
enum Probe {
    Plain(Request),
    Open(Handshake),
}

/// A status with its reason, where it is the gateway's own.
type Answered = (u16, String);

/// A piece of the configuration, another in its place, and what that changes.
struct Case {
    what: &'static str,
    old: &'static str,
    new: &'static str,
    probe: Probe,
    before: (u16, &'static str),
    after: (u16, &'static str),
    ways: &'static [Way],
}

const ALL: &[Way] = &Way::ALL;

fn plain(request: Request) -> Probe {
    Probe::Plain(request)
}

fn open(handshake: Handshake) -> Probe {
    Probe::Open(handshake)
}

fn cases() -> Vec<Case> {
    let case = |what, old, new, probe, before, after| Case { what, old, new, probe, before, after, ways: ALL };
    let ws = || Handshake::to("/ws");
    let (opened, passed) = ((101, ""), (200, ""));
    let origins = "origins = [\"https://app.example\"]\n\n\n[[route]]\nname = \"n\"";
    let n = "path = \"/n\"\nupstream = \"b1\"\n";
    vec![
        case(
            "an Origin that is no longer listed",
            origins,
            "origins = [\"https://other.example\"]\n\n\n[[route]]\nname = \"n\"",
            open(ws()),
            opened,
            (403, "origin-not-allowed"),
        ),
        case(
            "an Origin that is listed now",
            origins,
            "origins = [\"https://new.example\"]\n\n\n[[route]]\nname = \"n\"",
            open(ws().origin("https://new.example")),
            (403, "origin-not-allowed"),
            opened,
        ),
        case(
            "no Origin",
            origins,
            "origins = [\"https://app.example\"]\nallow_missing_origin = false\n[[route]]\nname = \"n\"",
            open(ws().without("Origin")),
            opened,
            (403, "origin-missing"),
        ),
        case(
            "subprotocols",
            origins,
            "origins = [\"https://app.example\"]\nsubprotocols = { allow = [\"v2\"], require = true }\n[[route]]\nname = \"n\"",
            open(ws()),
            opened,
            (400, "subprotocol-required"),
        ),
        case(
            "a route that no longer upgrades",
            "[route.websocket]\norigins = [\"https://app.example\"]\n",
            "",
            open(ws()),
            opened,
            (403, "upgrade-not-allowed"),
        ),
        case(
            "a route of another host",
            "name = \"n\"\nhosts = [\"a.test\"]",
            "name = \"n\"\nhosts = [\"b.test\"]",
            plain(Request::get("/n")),
            passed,
            (404, "no-route"),
        ),
        case(
            "a route of another path",
            "path = \"/n\"",
            "path = \"/m\"",
            plain(Request::get("/n")),
            passed,
            (404, "no-route"),
        ),
        case(
            "an exact path",
            "path = \"/n\"",
            "path = \"= /n\"",
            plain(Request::get("/n/x")),
            passed,
            (404, "no-route"),
        ),
        Case {
            what: "a route of other listeners",
            ways: &[Way::Clear],
            ..case(
                "",
                n,
                "path = \"/n\"\nlisteners = [\"tls\"]\nupstream = \"b1\"\n",
                plain(Request::get("/n")),
                passed,
                (404, "no-route"),
            )
        },
        case(
            "the gateway's own answer",
            n,
            "path = \"/n\"\nrespond = { status = 204 }\n#",
            plain(Request::get("/n")),
            passed,
            (204, ""),
        ),
        case(
            "a redirect",
            n,
            "path = \"/n\"\nredirect = { to = \"https://b.test/\", status = 307 }\n#",
            plain(Request::get("/n")),
            passed,
            (307, ""),
        ),
        case(
            "the size of bodies",
            n,
            "path = \"/n\"\nupstream = \"b1\"\nlimits = { body_size = \"10B\" }\n",
            plain(Request::new("POST", "/n").body(vec![b'x'; 100])),
            passed,
            (413, "body-too-large"),
        ),
        case(
            "an upstream that speaks only WebSocket",
            "servers = [\"http://",
            "servers = [\"ws://",
            plain(Request::get("/public")),
            passed,
            (426, "websocket-only"),
        ),
        Case {
            what: "a route that wants a client certificate",
            ways: &[Way::Tls, Way::H2],
            ..case(
                "",
                "name = \"public\"\nhosts = [\"a.test\"]",
                "name = \"public\"\nhosts = [\"a.test\"]\nlisteners = [\"tls\"]\nclient_certificate = true",
                plain(Request::get("/public")),
                passed,
                // The listener asks everybody now, and has not asked them.
                (421, "misdirected"),
            )
        },
        Case {
            what: "a listener that redirects",
            ways: &[Way::Clear],
            ..case(
                "",
                "name = \"clear\"\n",
                "name = \"clear\"\nredirect_https = true\n",
                plain(Request::get("/n")),
                passed,
                (308, ""),
            )
        },
        case(
            "the length of targets",
            "[listener.limits]\n",
            "[listener.limits]\ntarget_size = \"64B\"\n",
            plain(Request::get(&format!("/n/{}", "x".repeat(100)))),
            passed,
            (414, "target-too-long"),
        ),
        case(
            "the number of fields",
            "[listener.limits]\n",
            "[listener.limits]\nfields = 5\n",
            plain((0..8).fold(Request::get("/n"), |request, at| request.field(&format!("X-{at}"), "x"))),
            passed,
            (431, "head-too-large"),
        ),
    ]
}

/// Connections that have had an answer already, one of each way.
struct Kept(Vec<(Way, Conversation)>);

enum Conversation {
    H1(Client),
    H2(H2),
}

impl Kept {
    async fn open(stage: &Stage) -> Self {
        let mut all = Vec::new();
        for way in Way::ALL {
            let mut conversation = match way {
                Way::H2 => Conversation::H2(H2::connect(stage).await),
                h1 => Conversation::H1(h1.client(stage).await),
            };
            conversation.ask(&Probe::Plain(Request::get("/denied"))).await.expect("an answer");
            all.push((way, conversation));
        }
        Self(all)
    }
}

impl Conversation {
    /// `None`: the connection has ended instead, as one that is outdated may.
    async fn ask(&mut self, probe: &Probe) -> Option<Answered> {
        let answer = match (self, probe) {
            (Self::H1(client), Probe::Plain(request)) => {
                client.try_send(request.to_h1()).await.ok()?;
                client.try_answer(&request.method).await.ok()?
            }
            (Self::H1(client), Probe::Open(handshake)) => {
                client.try_send(handshake.to_h1()).await.ok()?;
                client.try_answer("GET").await.ok()?
            }
            (Self::H2(h2), Probe::Plain(request)) => h2.try_ask(request).await.ok()?,
            (Self::H2(h2), Probe::Open(handshake)) => h2.open(handshake).await.ok()?.0,
        };
        let reason = answer.get("x-portcullis-reason").unwrap_or_default().to_owned();
        Some((answer.status, reason))
    }
}

fn is(answered: &Answered, wanted: (u16, &str), way: Way, probe: &Probe) -> bool {
    let opened = matches!(probe, Probe::Open(_)) && wanted.0 == 101 && way == Way::H2;
    let status = if opened { 200 } else { wanted.0 };
    // A head that hyper refuses by itself has no reason.
    let reason = if status == 431 && answered.1.is_empty() { "" } else { wanted.1 };
    (answered.0, answered.1.as_str()) == (status, reason)
}

async fn judge(stage: &Stage, kept: Kept, case: &Case, wanted: (u16, &str), when: &str) {
    let Case { what, probe, .. } = case;
    for (way, mut conversation) in kept.0 {
        if !case.ways.contains(&way) {
            continue;
        }
        let answered = conversation.ask(probe).await;
        // A connection that its listener would not make today may end instead of an answer; it never gets another one.
        let fits = answered.as_ref().is_none_or(|answered| is(answered, wanted, way, probe));
        let must_answer = !["client_certificate", "fields ="].iter().any(|change| case.new.contains(change));
        assert!(
            fits && (answered.is_some() || !must_answer),
            "{what}, {way:?}, a kept connection, {when}: {answered:?}"
        );
        // Who comes anew is asked, and has none to show.
        let wanted = if wanted.0 == 421 { (403, "client-certificate-required") } else { wanted };
        let fresh = match probe {
            Probe::Plain(request) => way.ask(stage, request).await,
            Probe::Open(handshake) => way.open(stage, handshake).await.0,
        };
        let answered = (fresh.status, fresh.get("x-portcullis-reason").unwrap_or_default().to_owned());
        assert!(is(&answered, wanted, way, probe), "{what}, {way:?}, a fresh connection, {when}: {answered:?}");
    }
}

#[tokio::test]
async fn ops_06_every_rule_holds_after_a_reload_on_connections_of_before_and_after() {
    let stage = Stage::standard().await;
    let cases = cases();
    for case in &cases {
        assert!(stage.toml.contains(case.old), "{}: {:?} is not in\n{}", case.what, case.old, stage.toml);
        judge(&stage, Kept::open(&stage).await, case, case.before, "at first").await;
        let kept = Kept::open(&stage).await;
        let mut toml = stage.toml.replace(case.old, case.new);
        if case.new.contains("client_certificate") {
            toml = toml.replace(
                "[listener.tls]\n",
                "[listener.tls]\nclient_ca = \"clients.pem\"\nclient_auth = \"optional\"\n",
            );
        }
        let event = stage.gateway.reload_with(&toml).await;
        assert_eq!(event["message"], "reloaded", "{}: {event}\n{toml}", case.what);
        judge(&stage, kept, case, case.after, "afterwards").await;
        let kept = Kept::open(&stage).await;
        stage.gateway.reload_with(&stage.toml).await;
        judge(&stage, kept, case, case.before, "when it is as it was").await;
    }
}

#[tokio::test]
async fn h2w_01_a_websocket_is_refused_where_it_was_offered_before_the_reload() {
    let stage = Stage::standard().await;
    let fields = |path| {
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", path),
            ("origin", "https://app.example"),
            ("sec-websocket-version", "13"),
        ]
    };
    let mut raw = RawH2::connect(&stage).await;
    raw.headers(1, &fields("/ws"), false).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    let mark = "name = \"tls\"\naddress = \"127.0.0.1:0\"\n";
    stage.reload_with(mark, &format!("{mark}websocket_over_h2 = false\n")).await;
    let handshakes = stage.b1.requests().len();
    // The tunnel keeps the connection, which takes no new ones.
    raw.headers(3, &fields("/ws"), false).await;
    let outcome = raw.outcome(3).await;
    assert!(matches!(outcome, Outcome::Status(421) | Outcome::Reset(_)), "{outcome:?}");
    assert_eq!(stage.b1.requests().len(), handshakes);
}

#[tokio::test]
async fn lim_01_a_shorter_head_is_the_limit_of_every_connection_after_the_reload() {
    let stage = Stage::standard().await;
    let long = Request::get("/n").field("X-Long", &"x".repeat(6_000));
    let mut kept = Vec::new();
    for way in Way::H1 {
        let mut client = way.client(&stage).await;
        assert_eq!(client.ask(&long).await.status, 200);
        kept.push(client);
    }
    stage.reload_with("[listener.limits]\n", "[listener.limits]\nhead_size = \"4KiB\"\n").await;
    for mut client in kept {
        let _ = client.try_send(long.to_h1()).await;
        client.try_answer("GET").await.expect_err("it has ended");
    }
    for way in Way::H1 {
        assert_eq!(way.ask(&stage, &long).await.status, 431);
    }
}

#[tokio::test]
async fn fwd_02_who_is_trusted_follows_the_configuration_in_use() {
    let stage = Stage::standard().await;
    let mut client = stage.clear().await;
    let claim = || Request::get("/n").field("X-Forwarded-For", "203.0.113.9");
    client.ask(&claim()).await;
    stage.reload_with("[server]\n", "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\nforwarded = true\n").await;
    client.ask(&claim()).await;
    stage.reload_with("[upstream.b1]\n", "[upstream.b1]\nvia = false\nhost = \"upstream\"\n").await;
    client.ask(&claim()).await;
    let heads = stage.b1.requests();
    let field = |at: usize, name: &str| heads[at].get(name).unwrap_or_default().to_owned();
    assert_eq!(field(0, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(field(1, "x-forwarded-for"), "203.0.113.9, 127.0.0.1");
    assert!(!heads[0].has("forwarded") && heads[1].has("forwarded") && !heads[2].has("forwarded"));
    assert!(!field(0, "via").is_empty() && field(0, "via") == field(1, "via"), "the same gateway under the same name");
    assert!(!heads[2].has("via") && field(2, "host").starts_with("127.0.0.1:"));
    assert_eq!(field(2, "x-forwarded-for"), "127.0.0.1");
}

#[tokio::test]
async fn tun_06_a_tunnel_is_held_to_the_limits_that_it_was_opened_with() {
    let stage = Setup::new().websocket("max_message_size = \"1KiB\"").start();
    let message = Frame::binary(vec![7; 2_000]).masked().bytes();
    let mut old = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    stage.reload_with("max_message_size = \"1KiB\"", "max_message_size = \"1MiB\"").await;
    let mut new = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    new.send(&message).await;
    assert_eq!(new.frame().await.payload.len(), 2_000);
    stage.gateway.reload_with(&stage.toml).await;
    new.send(&message).await;
    assert_eq!(new.frame().await.payload.len(), 2_000, "also when they become narrower");
    old.send(&message).await;
    assert_eq!(old.frame().await.close_code(), Some(1009));
}

#[tokio::test]
async fn lim_20_tunnels_count_across_reloads_and_the_limit_is_the_new_one() {
    for workers in [1, 2] {
        let stage = Setup::new().server(&format!("workers = {workers}")).websocket("max_tunnels = 3").start();
        let limit = async |limit: &str| stage.reload_with("max_tunnels = 3", limit).await;
        let full = async |reason: &str| {
            for way in Way::ALL {
                way.refused(&stage, &Handshake::to("/ws"), 429, reason).await;
            }
        };
        let tunnel = async |way: Way| way.tunnel(&stage, &Handshake::to("/ws")).await;
        let mut held: Vec<Tunnel> = Vec::new();
        for way in Way::ALL {
            held.push(tunnel(way).await);
        }
        stage.reload_with("denied\\n", "x").await;
        full("too-many-tunnels").await;
        limit("max_tunnels = 4").await;
        held.push(tunnel(Way::H2).await);
        full("too-many-tunnels").await;
        limit("max_tunnels = 2").await;
        full("too-many-tunnels").await;
        // The route goes, and comes back while its tunnels are still there.
        let toml = stage.toml.replace("name = \"ws\"\nhosts = [\"a.test\"]", "name = \"ws2\"\nhosts = [\"c.test\"]");
        stage.gateway.reload_with(&toml).await;
        limit("max_tunnels = 4").await;
        full("too-many-tunnels").await;
        held.truncate(3);
        let room = async { while Way::Clear.open(&stage, &Handshake::to("/ws")).await.1.is_none() {} };
        tokio::time::timeout(Duration::from_secs(10), room).await.expect("a place that has come free");
        for tunnel in &mut held {
            tunnel.echo("all along").await;
        }
    }
}

#[tokio::test]
async fn lim_10_the_number_of_connections_and_the_time_to_drain_are_those_of_now() {
    let mut stage = Setup::new().server("max_connections = 100\ndrain_timeout = \"60s\"").start();
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut client = stage.clear().await;
        client.ask(&Request::get("/denied")).await;
        held.push(client);
    }
    let toml = stage
        .toml
        .replace("max_connections = 100\ndrain_timeout = \"60s\"", "max_connections = 5\ndrain_timeout = \"1s\"");
    assert_eq!(stage.gateway.reload_with(&toml).await["server"], true);
    let (rest, _) = stage.clear().await.rest().await;
    assert!(rest.is_empty(), "closed at once");
    for client in &mut held {
        assert_eq!(client.ask(&Request::get("/denied")).await.status, 403);
    }
    held.pop();
    let again = async {
        loop {
            let mut client = stage.clear().await;
            if client.try_send(Request::get("/denied").to_h1()).await.is_ok() && client.try_answer("GET").await.is_ok()
            {
                return client;
            }
        }
    };
    let client = tokio::time::timeout(Duration::from_secs(10), again).await.expect("room for one");
    drop(client);
    let mut tunnel = held.pop().expect("a client");
    tunnel.open(&Handshake::to("/ws")).await;
    let start = std::time::Instant::now();
    stage.gateway.terminate();
    let (rest, _) = tunnel.rest().await;
    assert_eq!(rest, Frame::close(1001, "going away").bytes());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}

#[tokio::test]
async fn ops_06_what_needs_a_restart_is_named_and_the_rest_is_in_use() {
    let stage = Setup::new().server("workers = 1").start();
    let toml = stage.toml.replace("workers = 1", "workers = 2").replace("denied\\n", "changed\\n");
    assert_eq!(stage.gateway.reload_with(&toml).await["server"], true);
    let warned = || stage.gateway.events().iter().any(|event| event["wanted"] == 2 && event["workers"] == 1);
    eventually("a warning", warned).await;
    assert_eq!(Way::Clear.ask(&stage, &Request::get("/denied")).await.text(), "changed\n");
}

#[tokio::test]
async fn ops_13_both_logs_follow_the_configuration() {
    let stage = Stage::standard().await;
    let ask = async || assert_eq!(Way::Clear.ask(&stage, &Request::get("/denied")).await.status, 403);
    ask().await;
    stage.gateway.logged(1).await;
    let with = async |log: &str| stage.gateway.reload_with(&format!("[log]\n{log}\n{}", stage.toml)).await;
    assert_eq!(with("access = \"./access.log\"\nformat = \"json\"").await["log"], true);
    ask().await;
    let file = stage.gateway.folder().join("access.log");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    eventually("a line in the file", || lines() == 1).await;
    assert_eq!(stage.gateway.access_log().len(), 1, "and none elsewhere");
    assert_eq!(with("access = \"off\"").await["log"], true);
    ask().await;
    with("access = \"no/such/folder/access.log\"").await;
    let refused = || stage.gateway.events().iter().any(|event| event["code"] == "access-log");
    eventually("a refusal", refused).await;
    with("access = \"./access.log\"\nlevel = \"debug\"").await;
    ask().await;
    eventually("a second line", || lines() == 2).await;
    let is_freed = |event: &serde_json::Value| event["message"] == "nothing uses this configuration any more";
    with("access = \"stderr\"\nlevel = \"debug\"").await;
    let freed = || stage.gateway.events().iter().any(is_freed);
    eventually("a word at level debug", freed).await;
    ask().await;
    eventually("a line on stderr again", || stage.gateway.access_log().len() == 2).await;
    assert_eq!(lines(), 2);
    // From here on not even the reload itself is told.
    let reloads = stage.gateway.reloads().len();
    stage.gateway.replace("portcullis.toml", &format!("[log]\nlevel = \"error\"\naccess = \"off\"\n{}", stage.toml));
    stage.gateway.hang_up();
    let silent = async {
        loop {
            let before = stage.gateway.access_log().len();
            ask().await;
            if !holds_within(Duration::from_millis(300), || stage.gateway.access_log().len() > before).await {
                return;
            }
        }
    };
    crate::harness::within("silence", silent).await;
    assert_eq!(stage.gateway.reloads().len(), reloads);
}

/// Who has been believed to speak for others is believed no longer than the configuration says.
#[tokio::test]
async fn prx_02_an_introduction_that_would_not_be_believed_today_is_not_believed() {
    let believed = "proxy_protocol = { from = [\"127.0.0.0/8\"] }";
    let mut stage = Setup::new().listener(believed).start();
    stage.introduction = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 8443\r\n".to_vec();
    let mut h2 = H2::connect(&stage).await;
    assert_eq!(h2.ask(&Request::get("/n")).await.status, 200);
    let mut idle = stage.clear().await;
    assert_eq!(idle.ask(&Request::get("/n")).await.status, 200);
    // Introduced, and has not asked for anything yet.
    let mut fresh = stage.clear().await;
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    stage.reload_with(believed, "proxy_protocol = { from = [\"10.0.0.0/8\"] }").await;
    let seen = stage.b1.requests().len();
    assert!(stage.b1.requests().iter().all(|head| head.get("x-forwarded-for") == Some("192.0.2.7")));
    let (rest, _) = idle.rest().await;
    assert!(rest.is_empty());
    fresh.ask(&Request::get("/n")).await.assert_refused(421, "misdirected");
    let outcome = h2.try_ask(&Request::get("/n")).await.map(|answer| answer.status);
    assert!(outcome.as_ref().is_err() || matches!(outcome, Ok(421)), "{outcome:?}");
    assert_eq!(stage.b1.requests().len(), seen, "nothing has come through");
    tunnel.echo("tunnels stay").await;
    stage.introduction.clear();
    assert_eq!(Way::Clear.ask(&stage, &Request::get("/n")).await.status, 200);
    assert_eq!(stage.b1.requests().last().expect("one more").get("x-forwarded-for"), Some("127.0.0.1"));
}
