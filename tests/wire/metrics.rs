//! MET: what is counted, read where an operator's Prometheus reads it; and that gauges come back down.

use std::collections::BTreeMap;

use crate::harness::{
    Api, Backend, Client, Fields, Frame, Handshake, Request, Setup, Stage, TlsOptions, Tunnel, Way, admin_table,
    patience,
};

fn setup() -> Setup {
    Setup::new().more(&admin_table(""))
}

/// One scrape: each sample with its value.
struct Scrape {
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(stage: &Stage) -> Self {
        let answer = Api::of(&stage.gateway).try_get("/metrics").await;
        let kind = answer.get("content-type");
        assert_eq!((answer.status, kind), (200, Some("application/openmetrics-text; version=1.0.0; charset=utf-8")));
        let text = answer.text();
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            (sample.trim_start_matches("portcullis_").to_owned(), value.parse().expect("a number"))
        };
        Self { samples: lines.map(pair).collect() }
    }

    fn get(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or_default()
    }

    /// Of all samples of this name.
    fn sum(&self, name: &str) -> f64 {
        let of = |sample: &str| sample.split('{').next() == Some(name);
        self.samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
    }

    #[track_caller]
    fn assert(&self, expected: &[(&str, f64)]) {
        let wrong: Vec<_> = expected
            .iter()
            .filter(|(sample, value)| self.get(sample).to_bits() != value.to_bits())
            .map(|(sample, value)| format!("{sample}: {} instead of {value}", self.get(sample)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{:#?}", self.samples);
    }

    /// Scrapes until it is as it should be.
    async fn eventually(stage: &Stage, what: &str, probe: impl Fn(&Self) -> bool) -> Self {
        let scraping = async {
            loop {
                let scrape = Self::of(stage).await;
                if probe(&scrape) {
                    return scrape;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(patience(), scraping).await {
            Ok(scrape) => scrape,
            Err(_) => panic!("never came true: {what}\n{:#?}", Self::of(stage).await.samples),
        }
    }
}

/// Of everything that comes and goes.
const GAUGES: [&str; 6] = [
    "connections_open",
    "tunnels_open",
    "server_requests_open",
    "server_tunnels_open",
    "upstream_queue_length",
    "worker_connections",
];

async fn all_gone(stage: &Stage) -> Scrape {
    let is_zero = |scrape: &Scrape| GAUGES.iter().all(|name| scrape.sum(name).abs() < f64::EPSILON);
    Scrape::eventually(stage, "everybody has left", is_zero).await
}

async fn say_goodbye(tunnel: &mut Tunnel) {
    tunnel.send(Frame::close(1000, "").masked().bytes()).await;
    tunnel.rest().await;
}

#[tokio::test]
async fn met_01_all_ways_in_are_counted_alike_and_exactly_while_tunnels_live_and_at_their_end() {
    for workers in [1, 2] {
        let stage = setup().server(&format!("workers = {workers}")).start();
        let (mut tunnels, mut bodies) = (Vec::new(), 0.0);
        for way in Way::ALL {
            for _ in 0..2 {
                let answer = way.ask(&stage, &Request::get("/n")).await;
                assert_eq!(answer.status, 200);
                bodies += answer.text().len() as f64;
            }
            let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
            for _ in 0..3 {
                tunnel.echo("hello").await;
            }
            tunnels.push(tunnel);
        }
        // A request is counted once its answer is delivered, which its client may see first.
        let is_counted = |scrape: &Scrape| scrape.sum("requests_ended_total") >= 6.0 && bodies > 0.0;
        let alive = Scrape::eventually(&stage, "six requests", is_counted).await;
        alive.assert(&[
            ("requests_total{route=\"n\",protocol=\"h1\",status=\"2xx\"}", 4.0),
            ("requests_total{route=\"n\",protocol=\"h2\",status=\"2xx\"}", 2.0),
            ("requests_total{route=\"ws\",protocol=\"h1\",status=\"1xx\"}", 2.0),
            ("requests_total{route=\"ws\",protocol=\"h2\",status=\"2xx\"}", 1.0),
            ("requests_ended_total{route=\"n\",reason=\"completed\"}", 6.0),
            ("request_duration_seconds_count{route=\"n\"}", 6.0),
            ("request_upstream_duration_seconds_count{route=\"n\"}", 6.0),
            ("request_upstream_duration_seconds_count{route=\"ws\"}", 3.0),
            ("request_body_bytes_total{route=\"n\",direction=\"out\"}", bodies),
            ("handshakes_total{route=\"ws\",result=\"opened\",reason=\"\"}", 3.0),
            ("tunnels_open{route=\"ws\"}", 3.0),
            ("tunnels_opened_total{route=\"ws\"}", 3.0),
            ("tunnel_messages_total{route=\"ws\",direction=\"in\"}", 9.0),
            ("tunnel_messages_total{route=\"ws\",direction=\"out\"}", 9.0),
            ("tunnel_message_size_bytes_sum{route=\"ws\",direction=\"in\"}", 45.0),
            ("tunnel_bytes_total{route=\"ws\",direction=\"in\"}", 99.0),
            ("tunnel_bytes_total{route=\"ws\",direction=\"out\"}", 63.0),
            ("connections_accepted_total{listener=\"clear\"}", 3.0),
            ("connections_accepted_total{listener=\"tls\"}", 6.0),
            ("tls_handshakes_total{listener=\"tls\",result=\"done\",version=\"TLSv1.3\",resumed=\"no\"}", 6.0),
            ("tls_handshake_duration_seconds_count{listener=\"tls\"}", 6.0),
            ("config_generation", 1.0),
        ]);
        assert!((alive.sum("server_requests_total") - 9.0).abs() < 0.5 && alive.sum("worker_connections") >= 3.0);
        let taken = alive.sum("server_connections_opened_total") + alive.sum("server_connections_reused_total");
        assert!((taken - 9.0).abs() < 0.5, "each on a connection that was opened for it or reused: {taken}");

        for tunnel in &mut tunnels {
            say_goodbye(tunnel).await;
        }
        drop(tunnels);
        let ended = all_gone(&stage).await;
        ended.assert(&[
            ("tunnels_ended_total{route=\"ws\",reason=\"closed-by-client\"}", 3.0),
            ("tunnel_close_codes_total{route=\"ws\",side=\"downstream\",code=\"1000\"}", 3.0),
            ("tunnel_duration_seconds_count{route=\"ws\"}", 3.0),
            ("connections_closed_total{listener=\"clear\",cause=\"tunnel\"}", 1.0),
            ("connections_closed_total{listener=\"tls\",cause=\"tunnel\"}", 1.0),
        ]);
        // What the log says of the same tunnels.
        let lines = stage.gateway.logged(9).await;
        let logged = |key: &str| -> u64 {
            let ends = lines.iter().filter(|line| line["event"] == "tunnel-close");
            ends.map(|line| line[key].as_u64().expect("a number")).sum()
        };
        ended.assert(&[
            ("tunnel_bytes_total{route=\"ws\",direction=\"in\"}", logged("bytes_in") as f64),
            ("tunnel_bytes_total{route=\"ws\",direction=\"out\"}", logged("bytes_out") as f64),
            ("tunnel_messages_total{route=\"ws\",direction=\"in\"}", logged("messages_in") as f64),
        ]);
    }
}

#[tokio::test]
async fn met_02_refusals_are_counted_by_their_reason_and_what_never_was_a_request_as_well() {
    let stage = setup().start();
    for way in Way::ALL {
        way.refused(&stage, &Handshake::to("/ws").origin("https://evil.test"), 403, "origin-not-allowed").await;
        way.refused(&stage, &Handshake::to("/n"), 403, "upgrade-not-allowed").await;
        way.ask(&stage, &Request::get("/nowhere")).await.assert_refused(404, "no-route");
    }
    let mut garbage = stage.clear().await;
    garbage.send(b"not HTTP at all\r\n\r\n").await;
    assert_eq!(garbage.statuses_until_end().await, [400]);
    let mut plain = Client::clear(stage.gateway.address("tls")).await;
    plain.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(plain.statuses_until_end().await, [400]);
    drop((garbage, plain));
    all_gone(&stage).await.assert(&[
        ("handshakes_total{route=\"ws\",result=\"refused\",reason=\"origin-not-allowed\"}", 3.0),
        ("handshakes_total{route=\"n\",result=\"refused\",reason=\"upgrade-not-allowed\"}", 3.0),
        ("requests_ended_total{route=\"\",reason=\"no-route\"}", 3.0),
        ("requests_ended_total{route=\"\",reason=\"malformed\"}", 1.0),
        ("requests_total{route=\"\",protocol=\"h1\",status=\"4xx\"}", 3.0),
        ("requests_total{route=\"\",protocol=\"h2\",status=\"4xx\"}", 1.0),
        ("tls_handshakes_total{listener=\"tls\",result=\"not-tls\",version=\"\",resumed=\"\"}", 1.0),
        ("connections_closed_total{listener=\"tls\",cause=\"tls\"}", 1.0),
        ("connections_closed_total{listener=\"clear\",cause=\"malformed\"}", 1.0),
        ("tunnels_opened_total{route=\"ws\"}", 0.0),
    ]);
}

#[tokio::test]
async fn met_02_a_server_that_cannot_be_reached_is_counted_and_shown_as_out() {
    let url = format!("http://127.0.0.1:{}", Backend::refusing_port());
    let stage = setup().upstream_url(&url).start();
    let of = |name: &str, more: &str| format!("{name}{{upstream=\"b1\",server=\"{url}\"{more}}}");
    Scrape::of(&stage)
        .await
        .assert(&[(&of("server_state", ",state=\"up\""), 1.0), (&of("server_state", ",state=\"ejected\""), 0.0)]);
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
        way.refused(&stage, &Handshake::to("/ws"), 502, "upstream-unreachable").await;
    }
    all_gone(&stage).await.assert(&[
        (&of("server_state", ",state=\"up\""), 0.0),
        (&of("server_state", ",state=\"ejected\""), 1.0),
        (&of("server_requests_total", ""), 6.0),
        (&of("server_failures_total", ",kind=\"connect\""), 6.0),
        (&of("server_ejections_total", ""), 1.0),
        (&of("server_connections_open", ""), 0.0),
        ("handshakes_total{route=\"ws\",result=\"failed\",reason=\"upstream-unreachable\"}", 3.0),
        ("requests_total{route=\"n\",protocol=\"h1\",status=\"5xx\"}", 2.0),
    ]);
}

#[tokio::test]
async fn met_03_counts_go_on_over_reloads_which_are_counted_themselves() {
    let stage = setup().start();
    let mut tunnel = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    tunnel.echo("one").await;
    stage.reload_with("body = \"denied\\n\"", "body = \"x\"").await;
    tunnel.echo("two").await;
    let mut second = Way::H2.tunnel(&stage, &Handshake::to("/ws")).await;
    second.echo("two").await;
    stage.gateway.reload_with("nonsense").await;
    let scrape = Scrape::of(&stage).await;
    scrape.assert(&[
        ("config_generation", 2.0),
        ("config_reloads_total{result=\"done\"}", 1.0),
        ("config_reloads_total{result=\"refused\"}", 1.0),
        ("tunnels_open{route=\"ws\"}", 2.0),
        ("tunnel_messages_total{route=\"ws\",direction=\"in\"}", 3.0),
        ("connections_open{listener=\"tls\"}", 2.0),
    ]);
    let expires: Vec<_> = scrape.samples.iter().filter(|(name, _)| name.starts_with("certificate_not_after")).collect();
    assert_eq!(expires.len(), 3, "{expires:?}");
    assert!(expires.iter().all(|(_, at)| **at > scrape.get("process_start_time_seconds")), "{expires:?}");
    assert!(scrape.get("process_open_fds") > 5.0 && scrape.get("process_resident_memory_bytes") > 1e6);
}

#[tokio::test]
async fn met_03_a_second_worker_that_is_busy_keeps_no_scrape_waiting() {
    // A scrape asks nobody: it is answered while the only worker reads and writes without a pause.
    let stage = setup().start();
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    let flood = Frame::binary(vec![7; 60_000]).masked().bytes();
    for _ in 0..20 {
        tunnel.send(&flood).await;
        assert!(Scrape::of(&stage).await.get("process_cpu_seconds_total") > 0.0);
        tunnel.frame().await;
    }
    Scrape::of(&stage).await.assert(&[("tunnel_messages_total{route=\"ws\",direction=\"out\"}", 20.0)]);
}

#[tokio::test]
async fn met_04_connections_that_find_no_room_are_counted() {
    let stage = setup().server("max_connections = 2").start();
    let held = [stage.clear().await, stage.clear().await];
    Scrape::eventually(&stage, "two are open", |scrape| scrape.sum("connections_open") > 1.5).await;
    let mut third = Client::clear(stage.gateway.address("clear")).await;
    third.expect_end().await;
    let refused = "connections_refused_total{listener=\"clear\",reason=\"max-connections\"}";
    Scrape::of(&stage).await.assert(&[(refused, 1.0), ("connections_limit", 2.0)]);
    drop(held);
    all_gone(&stage).await;
}

#[tokio::test]
async fn ops_16_metrics_are_told_at_the_admin_listener_alone() {
    let stage = setup().start();
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/metrics")).await.assert_refused(404, "no-route");
        let sly = Request::get("/metrics").field("X-Forwarded-For", "127.0.0.1");
        way.ask(&stage, &sly).await.assert_refused(404, "no-route");
    }
}

#[tokio::test]
async fn ops_21_every_gauge_comes_back_to_nothing_however_clients_leave() {
    let stage = setup().server("workers = 2").start();
    for way in Way::ALL {
        let mut polite = way.tunnel(&stage, &Handshake::to("/ws")).await;
        say_goodbye(&mut polite).await;
        way.tunnel(&stage, &Handshake::to("/ws")).await.reset();
        drop(way.tunnel(&stage, &Handshake::to("/ws")).await);
        way.ask(&stage, &Request::get("/n")).await;
    }
    for half in ["GET /n HTTP/1.1\r\nHo", "POST /n HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf"] {
        for way in Way::H1 {
            let mut client = way.client(&stage).await;
            client.send(half).await;
            client.reset();
        }
    }
    drop(Client::clear(stage.gateway.address("tls")).await);
    drop(Client::try_tls(stage.gateway.address("tls"), &TlsOptions::new("a.test").alpn(&["nonsense"])).await);
    let scrape = all_gone(&stage).await;
    let sum = |name| scrape.sum(name);
    assert!((sum("connections_accepted_total") - sum("connections_closed_total")).abs() < 0.5);
    assert!((sum("tunnels_opened_total") - 9.0).abs() < 0.5 && (sum("tunnels_ended_total") - 9.0).abs() < 0.5);
}

#[tokio::test]
async fn tun_22_a_gauge_is_down_after_many_short_tunnels() {
    let stage = setup().start();
    for round in 0..50 {
        let way = Way::ALL[round % 3];
        let mut tunnel = way.tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.echo("short").await;
        if round % 2 == 0 {
            say_goodbye(&mut tunnel).await;
        }
    }
    all_gone(&stage).await.assert(&[
        ("tunnels_opened_total{route=\"ws\"}", 50.0),
        ("tunnel_messages_total{route=\"ws\",direction=\"in\"}", 50.0),
    ]);
}
