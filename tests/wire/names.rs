//! NAM: servers that have names; what becomes of requests and tunnels while what the names stand for changes.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::{
    Answer, Backend, Fields, H2Server, Handshake, NameServer, Request, Says, Setup, Stage, Way, eventually, patience,
};

/// A stage whose B1 is called chat.test.
fn setup(dns: &NameServer) -> Setup {
    Setup::new().server(&dns.toml()).upstream_url("http://chat.test:{P1}")
}

async fn ask(stage: &Stage) -> Answer {
    Way::Clear.ask(stage, &Request::get("/n")).await
}

/// Asks until an answer is as it should be.
async fn ask_until(stage: &Stage, what: &str, mut is_good: impl FnMut(&Answer) -> bool) {
    let end = Instant::now() + patience();
    loop {
        let answer = ask(stage).await;
        if is_good(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{what}: still {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lines of the event log that contain a text.
fn events(stage: &Stage, text: &str) -> usize {
    stage.gateway.stderr().lines().filter(|line| line.contains(text)).count()
}

/// Somebody who listens at an address and takes no connection: their SYNs are dropped.
struct Blackhole {
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

impl Blackhole {
    fn at(address: SocketAddr) -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).expect("a free port");
        listener.listen(0).expect("listens");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        Self { _listener: listener, _waiting: waiting }
    }
}

#[tokio::test]
async fn nam_01_a_server_is_found_by_its_name_on_every_way() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
    let stage = setup(&dns).start();
    for way in Way::ALL {
        let request = Request::get("/n");
        assert_eq!(way.ask(&stage, &request).await.text(), request.nonce, "{way:?}");
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("hello").await;
    }
    assert_eq!(dns.asked("chat.test", RecordType::A), 1, "workers do not ask");
}

#[tokio::test]
async fn nam_01_an_alias_and_an_answer_that_fits_no_datagram_are_followed() {
    let dns = NameServer::start().await;
    let many: Vec<_> = (0..200).map(|last| format!("127.0.1.{last}")).collect();
    let mut addresses: Vec<_> = many.iter().map(String::as_str).collect();
    addresses.insert(0, "127.0.0.1");
    dns.say("chat.test", Says::Alias(300, "other.test".into()));
    dns.say("other.test", Says::addresses(300, &addresses));
    let stage = setup(&dns).start();
    assert_eq!(ask(&stage).await.status, 200);
    assert!(dns.over_tcp() >= 1);
}

#[tokio::test]
async fn nam_02_an_address_that_moves_is_followed_and_open_tunnels_stay() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    let stage = setup(&dns).start();
    let mut tunnels = Vec::new();
    for way in Way::ALL {
        tunnels.push(way.tunnel(&stage, &Handshake::to("/ws")).await);
    }
    // Leaves a connection in the pool.
    assert_eq!(ask(&stage).await.status, 200);
    let moved = stage.b1.beside("127.0.0.2");
    dns.say("chat.test", Says::addresses(1, &["127.0.0.2"]));
    // Not from the pool: a handshake has a connection of its own.
    let end = Instant::now() + patience();
    while moved.connections() == 0 {
        assert!(Instant::now() < end, "nobody came to the new address");
        Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    }
    let before = stage.b1.connections();
    Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    let asked = stage.b1.requests().len();
    assert_eq!(ask(&stage).await.status, 200);
    assert_eq!(stage.b1.connections(), before, "nobody comes to the old one any more");
    assert_eq!(stage.b1.requests().len(), asked, "not even on a connection that was kept");
    for mut tunnel in tunnels {
        tunnel.echo("still here").await;
    }
    assert_eq!(events(&stage, "has changed its meaning"), 1);
}

#[tokio::test]
async fn nam_02_shared_connections_to_an_address_that_has_moved_give_out_no_more_streams() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    let server = H2Server::new();
    let stage = setup(&dns).b1(server.standard()).upstream("protocols = [\"h2c\"]\nretries = 0").start();
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    assert_eq!(ask(&stage).await.status, 200);
    // Nobody listens there.
    dns.say("chat.test", Says::addresses(1, &["127.0.0.9"]));
    ask_until(&stage, "it is elsewhere now", |answer| answer.status == 502).await;
    let asked = server.heads().len();
    ask(&stage).await.assert_refused(502, "upstream-unreachable");
    assert_eq!(server.heads().len(), asked);
    tunnel.echo("still here").await;
}

#[tokio::test]
async fn nam_03_a_name_that_does_not_exist_at_the_start_is_an_error_until_it_does() {
    let dns = NameServer::start().await;
    let stage = setup(&dns).start();
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
        way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-unreachable").await;
    }
    assert!(stage.gateway.logged(1).await[0]["detail"].as_str().is_some_and(|text| text.contains("chat.test")));
    dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
    ask_until(&stage, "the name exists", |answer| answer.status == 200).await;
    assert_eq!(events(&stage, "it is asked for again and again"), 1, "once, not at every attempt");
}

#[tokio::test]
async fn nam_04_requests_wait_for_a_first_answer_as_long_as_for_a_connection() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::Silence);
    let stage = setup(&dns).upstream("connect_timeout = \"400ms\"\nretries = 0").start();
    let start = Instant::now();
    ask(&stage).await.assert_refused(502, "upstream-unreachable");
    assert!((350..2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

    let stage = setup(&dns).upstream("connect_timeout = \"10s\"").start();
    let (answer, ()) = tokio::join!(ask(&stage), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
    });
    assert_eq!(answer.status, 200, "the question is repeated, and who waits is served");
}

#[tokio::test]
async fn nam_05_the_last_good_answer_holds_while_the_name_servers_fail() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    let stage = setup(&dns).start();
    assert_eq!(ask(&stage).await.status, 200);
    for (says, times) in [(Says::Failure, 2), (Says::Silence, 1), (Says::Denied, 1)] {
        dns.say("chat.test", says.clone());
        let asked = dns.asked("chat.test", RecordType::A);
        let end = Instant::now() + patience();
        // A handshake needs a connection of its own each time, and with it the address.
        while dns.asked("chat.test", RecordType::A) < asked + times {
            assert!(Instant::now() < end, "{says:?}: nobody asks any more");
            Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(events(&stage, "its last answer holds"), 1, "once for all failures in a row");
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    eventually("a good answer again", || events(&stage, "resolved again, as before") == 1).await;
}

/// What is known of a name is known of it under the next configuration as well, whoever may not be asked just now.
#[tokio::test]
async fn nam_05_a_reload_while_the_name_servers_fail_forgets_no_answer() {
    for (resolve, name) in [("one", "chat.test"), ("each", "chat.test"), ("srv", "_ws._tcp.chat.test")] {
        for says in [Says::Failure, Says::Denied] {
            let dns = NameServer::start().await;
            dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
            let b1 = Backend::standard();
            dns.say("_ws._tcp.chat.test", Says::services(300, &[(10, 1, b1.address.port(), "chat.test")]));
            let port = if resolve == "srv" { "" } else { ":{P1}" };
            let server = format!("{{ url = \"http://{name}{port}\", resolve = \"{resolve}\" }}");
            let stage = Setup::new().server(&dns.toml()).b1(b1).upstream_servers(&server).start();
            let serves = async || Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
            serves().await;
            dns.say("chat.test", says.clone());
            dns.say("_ws._tcp.chat.test", says.clone());
            let asked = || dns.asked(name, RecordType::A) + dns.asked(name, RecordType::SRV);
            let before = asked();
            stage.reload_with("denied\\n", "x").await;
            serves().await;
            assert_eq!(asked(), before, "{resolve} {says:?}: an upstream that is the same asks nothing anew");
            stage.reload_with("[upstream.b1]\n", "[upstream.b1]\nretries = 0\n").await;
            // The first question has been answered when there is a second one.
            eventually("questions that fail", || asked() >= before + 2).await;
            serves().await;
            dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
            let port = stage.b1.address.port();
            dns.say("_ws._tcp.chat.test", Says::services(300, &[(10, 1, port, "chat.test")]));
            let before = asked();
            eventually("a good answer again", || asked() > before).await;
            serves().await;
        }
    }
}

#[tokio::test]
async fn nam_06_with_each_every_address_is_a_server_of_its_own() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1"]));
    let stage = Setup::new()
        .server(&dns.toml())
        .upstream_servers("{ url = \"http://chat.test:{P1}\", resolve = \"each\" }")
        .start();
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    let second = stage.b1.beside("127.0.0.2");
    dns.say("chat.test", Says::addresses(1, &["127.0.0.1", "127.0.0.2"]));
    ask_until(&stage, "the second server gets work", |_| !second.requests().is_empty()).await;
    let (one, other) = (stage.b1.requests().len(), second.requests().len());
    for _ in 0..10 {
        assert_eq!(ask(&stage).await.status, 200);
    }
    assert_eq!((stage.b1.requests().len() - one, second.requests().len() - other), (5, 5), "by turns");
    let server = format!("\"server\":\"http://127.0.0.2:{}\"", second.address.port());
    eventually("its address in the log", || events(&stage, &server) > 0).await;
    // One is taken away: it gets nothing new, and what it has stays.
    dns.say("chat.test", Says::addresses(1, &["127.0.0.2"]));
    let mut gone_since = stage.b1.requests().len();
    let mut quiet = 0;
    ask_until(&stage, "the first server gets no more work", |_| {
        let now = stage.b1.requests().len();
        quiet = if now == gone_since { quiet + 1 } else { 0 };
        gone_since = now;
        quiet > 10
    })
    .await;
    tunnel.echo("still here").await;
}

#[tokio::test]
async fn nam_06_with_each_requests_wait_for_the_first_answer_and_are_told_why_there_is_none() {
    let dns = NameServer::start().await;
    let stage = Setup::new()
        .server(&dns.toml())
        .upstream_servers("{ url = \"http://chat.test:{P1}\", resolve = \"each\" }")
        .start();
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
        way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-unreachable").await;
    }
    dns.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
    ask_until(&stage, "the name exists", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn nam_07_a_service_says_which_servers_it_has_on_which_ports_and_whom_to_ask_first() {
    let dns = NameServer::start().await;
    let (second, backup) = (Backend::standard(), Backend::standard());
    let first = Backend::standard();
    let ports = [&first, &second, &backup].map(|backend| backend.address.port());
    for name in ["a.chat.test", "b.chat.test", "c.chat.test"] {
        dns.say(name, Says::addresses(300, &["127.0.0.1"]));
    }
    let records =
        [(10, 1, ports[0], "a.chat.test"), (10, 3, ports[1], "b.chat.test"), (20, 1, ports[2], "c.chat.test")];
    dns.say("_ws._tcp.chat.test", Says::services(1, &records));
    let stage = Setup::new()
        .server(&dns.toml())
        .b1(first)
        .upstream("host = \"upstream\"")
        .upstream_servers("{ url = \"http://_ws._tcp.chat.test\", resolve = \"srv\" }")
        .start();
    for _ in 0..8 {
        assert_eq!(ask(&stage).await.status, 200);
    }
    assert_eq!([&stage.b1, &second, &backup].map(|backend| backend.requests().len()), [2, 6, 0]);
    assert_eq!(second.requests()[0].get("host"), Some("chat.test"));
    let mut tunnel = Way::H2.tunnel(&stage, &Handshake::to("/ws")).await;
    // Only the one that was for emergencies is left.
    dns.say("_ws._tcp.chat.test", Says::services(1, &records[2..]));
    ask_until(&stage, "the backup is the service now", |_| !backup.requests().is_empty()).await;
    tunnel.echo("still here").await;
    // A target that moves is followed by itself.
    assert_eq!(dns.asked("c.chat.test", RecordType::A), 1);
}

#[tokio::test]
async fn nam_08_a_name_is_asked_for_as_often_as_its_ttl_says() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(2, &["127.0.0.1"]));
    dns.say("long.test", Says::addresses(86_400, &["127.0.0.1"]));
    let more = "[[route]]\nhosts = [\"long.test\"]\nupstream = \"http://long.test:{P1}\"\n";
    let stage = setup(&dns).more(more).start();
    assert_eq!(ask(&stage).await.status, 200);
    let start = Instant::now();
    let first = dns.asked("chat.test", RecordType::A);
    tokio::time::sleep(Duration::from_millis(6_500)).await;
    let asked = dns.asked("chat.test", RecordType::A) - first;
    let most = usize::try_from(start.elapsed().as_millis() / 2_000).expect("few") + 1;
    assert!((2..=most).contains(&asked), "{asked} times in {:?}", start.elapsed());
    assert_eq!(dns.asked("long.test", RecordType::A), 1);
}

#[tokio::test]
async fn nam_09_more_addresses_than_anybody_can_use_are_cut_and_serve() {
    let dns = NameServer::start().await;
    let mut addresses = vec!["127.0.0.1".to_owned()];
    addresses.extend((0..2_400).map(|n| format!("127.1.{}.{}", n / 250, n % 250)));
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    dns.say("chat.test", Says::addresses(300, &addresses));
    let stage = Setup::new()
        .server(&dns.toml())
        .upstream("retries = 10")
        .upstream_servers("{ url = \"http://chat.test:{P1}\", resolve = \"each\" }")
        .start();
    ask_until(&stage, "the one that listens is found among the first", |answer| answer.status == 200).await;
    eventually("the log's word about that", || events(&stage, "\"used\":256") == 1).await;
    let stage = setup(&dns).start();
    assert_eq!(ask(&stage).await.status, 200, "as one server with many addresses");
}

#[tokio::test]
async fn nam_09_aliases_in_a_circle_and_forged_answers_lead_nowhere() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::Alias(300, "round.test".into()));
    dns.say("round.test", Says::Alias(300, "chat.test".into()));
    let stage = setup(&dns).start();
    ask(&stage).await.assert_refused(502, "upstream-unreachable");
    assert!(dns.asked("chat.test", RecordType::A) < 50, "{}", dns.asked("chat.test", RecordType::A));

    let right = Says::addresses(300, &["127.0.0.1"]);
    dns.say("chat.test", Says::AfterForgeries(Box::new(right)));
    let stage = setup(&dns).start();
    assert_eq!(ask(&stage).await.status, 200);
    assert_eq!(stage.gateway.stderr().matches("127.66.66.66").count(), 0);
    assert_eq!(events(&stage, "hickory") + events(&stage, "ignoring"), 0, "{}", stage.gateway.stderr());
}

#[tokio::test]
async fn nam_10_an_address_that_says_nothing_costs_a_quarter_of_a_second_and_only_once() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(300, &["127.0.0.3", "127.0.0.1"]));
    let stage = setup(&dns).start();
    let hole = SocketAddr::new([127, 0, 0, 3].into(), stage.b1.address.port());
    let hole = tokio::task::spawn_blocking(move || Blackhole::at(hole)).await.expect("no panic");
    let start = Instant::now();
    Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    assert!((250..2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let before = stage.gateway.descriptors();
    let start = Instant::now();
    for _ in 0..5 {
        Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    }
    assert!(start.elapsed().as_millis() < 1_000, "the quick one is remembered: {:?}", start.elapsed());
    assert!(stage.gateway.descriptors() <= before + 10, "attempts that lost are closed");
    drop(hole);
}

#[tokio::test]
async fn nam_10_ipv6_is_first_and_one_that_refuses_holds_up_nobody() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(300, &["127.0.0.1", "::1", "127.0.0.4"]));
    let stage = setup(&dns).start();
    let start = Instant::now();
    // Nobody listens at ::1.
    assert_eq!(ask(&stage).await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(2));

    // Nobody listens anywhere.
    let port = Backend::closed_port();
    let stage = Setup::new().server(&dns.toml()).upstream_url(&format!("http://chat.test:{port}")).start();
    ask(&stage).await.assert_refused(502, "upstream-unreachable");
    let lines = stage.gateway.logged(1).await;
    let detail = lines[0]["detail"].as_str().expect("a detail");
    for address in ["[::1]", "127.0.0.1", "127.0.0.4"] {
        assert!(detail.contains(&format!("{address}:{port}: ")), "{detail}");
    }
}

#[tokio::test]
async fn nam_11_a_server_that_cannot_be_reached_is_asked_for_before_its_ttl_is_over() {
    let dns = NameServer::start().await;
    dns.say("chat.test", Says::addresses(86_400, &["127.0.0.5"]));
    let stage = setup(&dns).upstream("retries = 0").start();
    ask(&stage).await.assert_refused(502, "upstream-unreachable");
    dns.say("chat.test", Says::addresses(86_400, &["127.0.0.1"]));
    ask_until(&stage, "it has moved", |answer| answer.status == 200).await;
    let asked = dns.asked("chat.test", RecordType::A);
    assert!(asked < 20, "not with every request: {asked}");
}

#[tokio::test]
async fn nam_12_localhost_needs_no_name_server() {
    let nobody = Backend::refusing_port();
    let stage = Setup::new()
        .server(&format!("nameservers = [\"127.0.0.1:{nobody}\"]"))
        .upstream_url("http://localhost:{P1}")
        .start();
    let start = Instant::now();
    assert_eq!(ask(&stage).await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn nam_13_the_next_name_server_is_asked_when_one_fails_or_is_silent() {
    let (broken, silent, good) = (NameServer::start().await, NameServer::start().await, NameServer::start().await);
    broken.say("chat.test", Says::Failure);
    silent.say("chat.test", Says::Silence);
    good.say("chat.test", Says::addresses(300, &["127.0.0.1"]));
    let list = [&broken, &silent, &good].map(|dns| format!("\"{}\"", dns.address)).join(", ");
    let stage = Setup::new().server(&format!("nameservers = [{list}]")).upstream_url("http://chat.test:{P1}").start();
    assert_eq!(ask(&stage).await.status, 200);
    assert!(broken.asked("chat.test", RecordType::A) >= 1);
}
