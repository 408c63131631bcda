use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::model::*;
use crate::config::report::{Located, Report, Severity, Spot};
use crate::config::written::Written;
use crate::proto::host::parse_authority;
use crate::types::Name;

fn spot(at: usize) -> Spot {
    Spot { file: 0, range: at..at + 1 }
}

fn listener(name: &str, redirect_https: bool) -> Listener {
    let second = Duration::from_secs(1);
    Listener {
        name: name.into(),
        address: Located::new(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()), spot(0)),
        protocols: Protocols { http1: true, http2: false },
        websocket_over_h2: true,
        redirect_https,
        proxy_protocol: None,
        tls: None,
        timeouts: ListenerTimeouts { tls_handshake: second, request_head: second, keep_alive: second },
        limits: ListenerLimits { head_size: 1, fields: 1, target_size: 1 },
        spot: spot(0),
    }
}

/// `hosts` and `path` as in a file: `*.a.test`, `= /x`, `~ ^/x`.
fn route(at: usize, hosts: &[&str], path: &str, listeners: &[&str]) -> Route {
    let second = Duration::from_secs(1);
    let host = |text: &&str| match text.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
        None => HostPattern::Exact((*text).to_owned()),
    };
    let pattern = match path.split_once(' ') {
        Some(("=", path)) => PathPattern::Exact(path.to_owned()),
        Some((_, regex)) => PathPattern::Regex(regex::Regex::new(regex).unwrap()),
        None => PathPattern::Prefix(path.to_owned()),
    };
    Route {
        name: Name::new(format!("r{at}")),
        hosts: hosts.iter().map(|text| Located::new(host(text), spot(at))).collect(),
        path: Located::new(pattern, spot(at)),
        listeners: listeners.iter().map(|name| Located::new(Name::from(*name), spot(at))).collect(),
        client_certificate: Located::new(false, spot(at)),
        strip_prefix: None,
        target: Target::Respond { status: 200, body: String::new() },
        timeouts: RouteTimeouts {
            response: second,
            request_body_idle: second,
            response_body_idle: second,
            client_stall: second,
        },
        body_size: None,
        websocket: None,
        spot: spot(at),
    }
}

fn config(listeners: Vec<Listener>, routes: &[(&[&str], &str)]) -> Config {
    Config {
        admin: None,
        server: Server {
            workers: 1,
            drain_timeout: Duration::ZERO,
            drain_rate: None,
            upgrade_timeout: Duration::ZERO,
            upgrade_drain_timeout: None,
            max_connections: None,
            trusted_proxies: Peers::default(),
            name_servers: None,
            forwarded: false,
            watch: false,
            trace: crate::config::model::TraceMode::Pass,
        },
        log: Log {
            level: LogLevel::Info,
            access: AccessTarget::Off,
            access_spot: Spot::default(),
            format: LogFormat::Auto,
            refusals_per_second: None,
            otlp: None,
        },
        listeners,
        routes: routes.iter().enumerate().map(|(at, (hosts, path))| route(at, hosts, path, &[])).collect(),
        upstreams: vec![],
        written: Written::default(),
        places: std::sync::Arc::default(),
    }
}

fn build(config: &Config) -> (RouteTable, Vec<(Severity, &'static str, usize, usize)>) {
    let mut report = Report::default();
    let table = RouteTable::build(config, &mut report);
    let problems = report.problems.into_iter().map(|problem| {
        let at = |spot: Option<Spot>| spot.map_or(usize::MAX, |spot| spot.range.start);
        (problem.severity, problem.code, at(problem.spot), at(problem.also.map(|(spot, _)| spot)))
    });
    (table, problems.collect())
}

fn find(config: &Config, host: &str, path: &str) -> Lookup {
    let (table, _) = build(config);
    table.lookup(0, parse_authority(host).ok().as_ref(), path)
}

fn one(routes: &[(&[&str], &str)]) -> Config {
    config(vec![listener("main", false)], routes)
}

#[test]
fn a_prefix_matches_whole_segments() {
    let config = one(&[(&[], "/ws")]);
    for path in ["/ws", "/ws/", "/ws/x", "/ws/x/y"] {
        assert_eq!(find(&config, "a.test", path), Lookup::Found(0), "{path}");
    }
    for path in ["/", "/wsx", "/ws%2Fx", "/WS", "/w", "/x/ws", "/ws;a"] {
        assert_eq!(find(&config, "a.test", path), Lookup::NoPath, "{path}");
    }
    let config = one(&[(&[], "/")]);
    assert_eq!(find(&config, "a.test", "/"), Lookup::Found(0));
    assert_eq!(find(&config, "a.test", "/x"), Lookup::Found(0));
}

#[test]
fn the_longest_literal_beginning_wins() {
    let config = one(&[
        (&[], "/"),
        (&[], "/api"),
        (&[], "/api/v1"),
        (&[], "= /api/v1"),
        (&[], "~ ^/api/v[0-9]+/ws$"),
        (&[], r"~ \.png$"),
        (&[], "~ ^/api"),
        (&[], "/admin"),
        (&[], "~ ^/(x|y)$"),
        (&[], "~ ^/[xy]$"),
    ]);
    for (path, route) in [
        ("/other", 0),
        ("/a.png", 5),
        ("/admin/a.png", 7),
        ("/api/v1", 3),
        ("/api/v1/x", 2),
        ("/api/v2/ws", 4),
        ("/api/v1/ws", 2),
        ("/api/x", 6),
        ("/x", 8),
    ] {
        assert_eq!(find(&config, "a.test", path), Lookup::Found(route), "{path}");
    }
}

#[test]
fn the_more_specific_host_is_asked_first_and_the_next_one_where_it_has_no_path() {
    let config = one(&[
        (&["a.b.test"], "/exact"),
        (&["*.b.test"], "/wild"),
        (&["*.test"], "/wider"),
        (&[], "/any"),
        (&["a.b.test", "*.b.test", "*.test"], "/all"),
        (&[], "/all"),
        (&[], "/wild/deeper"),
    ]);
    for (host, path, found) in [
        ("a.b.test", "/exact", Lookup::Found(0)),
        ("a.b.test:8443", "/wild", Lookup::Found(1)),
        ("a.b.test", "/wider", Lookup::Found(2)),
        ("a.b.test", "/any", Lookup::Found(3)),
        ("a.b.test", "/wild/deeper", Lookup::Found(1)),
        ("a.b.test", "/all", Lookup::Found(4)),
        ("x.y.b.test", "/wild", Lookup::Found(1)),
        ("b.test", "/wild", Lookup::NoPath),
        ("b.test", "/wider", Lookup::Found(2)),
        ("xb.test", "/wild", Lookup::NoPath),
        ("test", "/all", Lookup::Found(5)),
        ("other.example", "/all", Lookup::Found(5)),
        ("other.example", "/exact", Lookup::NoPath),
    ] {
        assert_eq!(find(&config, host, path), found, "{host} {path}");
    }
}

#[test]
fn an_unknown_host_is_told_from_an_unknown_path() {
    let config = one(&[(&["a.test"], "/x")]);
    assert_eq!(find(&config, "a.test", "/y"), Lookup::NoPath);
    assert_eq!(find(&config, "b.test", "/x"), Lookup::NoHost);
    let (table, _) = build(&config);
    assert_eq!(table.lookup(7, None, "/x"), Lookup::NoHost);
}

#[test]
fn a_request_without_host_reaches_only_routes_without_hosts() {
    let (table, _) = build(&one(&[(&["a.test"], "/"), (&["*.test"], "/"), (&[], "/any")]));
    assert_eq!(table.lookup(0, None, "/any"), Lookup::Found(2));
    assert_eq!(table.lookup(0, None, "/x"), Lookup::NoPath);
}

#[test]
fn a_route_serves_its_listeners_only() {
    let mut config = config(vec![listener("one", false), listener("two", false), listener("clear", true)], &[]);
    config.routes = vec![route(0, &[], "/x", &["one"]), route(1, &[], "/x", &["two"]), route(2, &[], "/y", &[])];
    let (table, problems) = build(&config);
    assert_eq!(problems, []);
    assert_eq!(table.lookup(0, None, "/x"), Lookup::Found(0));
    assert_eq!(table.lookup(1, None, "/x"), Lookup::Found(1));
    assert_eq!(table.lookup(1, None, "/y"), Lookup::Found(2));
    assert_eq!(table.lookup(2, None, "/y"), Lookup::NoHost);
}

#[test]
fn routes_that_tie_are_an_error_with_both_places() {
    let error = |at, also| (Severity::Error, "duplicate-route", at, also);
    let problems = |routes: &[(&[&str], &str)]| build(&one(routes)).1;
    assert_eq!(problems(&[(&[], "/x"), (&[], "/x")]), [error(1, 0)]);
    assert_eq!(problems(&[(&[], "/x"), (&[], "/%78/")]), [error(1, 0)]);
    assert_eq!(problems(&[(&["a.test", "b.test"], "= /x"), (&["b.test", "a.test"], "= /x")]), [error(1, 0)]);
    assert_eq!(problems(&[(&["*.test"], "~ x"), (&["*.test"], "~ x")]), [error(1, 0)]);
    assert_eq!(problems(&[(&[], "/x"), (&[], "= /x"), (&["a.test"], "/x"), (&["*.test"], "/x"), (&[], "~ ^/x$")]), []);
    assert_eq!(problems(&[(&["a.test", "a.test"], "/x")]), []);
}

#[test]
fn a_route_that_can_never_win_is_warned_about() {
    let warning = |at, also| (Severity::Warning, "unreachable-route", at, also);
    let problems = |routes: &[(&[&str], &str)]| build(&one(routes)).1;
    assert_eq!(problems(&[(&[], "/x"), (&[], "~ ^/x")]), [warning(0, 1)]);
    assert_eq!(problems(&[(&[], "~ .*"), (&[], "/"), (&[], "~ y$")]), [warning(1, 0), warning(2, 0)]);
    assert_eq!(problems(&[(&[], "~ ^/x"), (&[], "~ ^/x[0-9]")]), [warning(1, 0)]);
    // Before the open one, narrower, or on another host as well, it can still win.
    assert_eq!(problems(&[(&[], "~ ^/x[0-9]"), (&[], "~ ^/x")]), []);
    assert_eq!(problems(&[(&[], "/x/y"), (&[], "~ ^/x"), (&[], "= /x")]), []);
    assert_eq!(problems(&[(&["a.test", "b.test"], "/x"), (&["a.test"], "~ ^/x")]), []);
    let everything_redirects = config(vec![listener("clear", true)], &[(&[], "/")]);
    assert_eq!(build(&everything_redirects).1, [warning(0, usize::MAX)]);
}

#[test]
fn a_websocket_route_without_hosts_beside_a_hosts_own_catch_all_is_warned_about() {
    let with_websocket = |routes: &[(&[&str], &str)], which: usize| {
        let mut config = one(routes);
        for route in &mut config.routes {
            route.target = Target::Upstream(0);
        }
        config.routes[which].websocket = Some(WebSocketPolicy {
            origins: vec![Located::new(OriginRule::SameOrigin, spot(9))],
            allow_missing_origin: true,
            subprotocols: Subprotocols::default(),
            pass_extensions: true,
            idle_timeout: Duration::from_secs(1),
            max_lifetime: None,
            ping_interval: None,
            ping_upstream: false,
            checked_frames: true,
            max_frame_size: None,
            max_message_size: None,
            rates: None,
            tunnels: crate::config::model::TunnelCounts::default(),
            close_removed: false,
            spot: spot(9),
        });
        config
    };
    let warning = (Severity::Warning, "overtaken-route", 0, 1);
    assert_eq!(build(&with_websocket(&[(&[], "/ws"), (&["a.test"], "/")], 0)).1, [warning]);
    assert_eq!(build(&with_websocket(&[(&[], "= /ws"), (&["*.a.test"], "/")], 0)).1, [warning]);
    // The routes without hosts are a site of their own; the host has its own sockets; another path; no sockets at all.
    assert_eq!(build(&with_websocket(&[(&[], "/ws"), (&["a.test"], "/"), (&[], "/")], 0)).1, []);
    assert_eq!(build(&with_websocket(&[(&[], "/ws"), (&["a.test"], "/ws/x")], 0)).1, []);
    assert_eq!(build(&with_websocket(&[(&[], "/x"), (&["a.test"], "/")], 1)).1, []);
    // A host that is only sent elsewhere has no sockets to lose.
    let mut moved = with_websocket(&[(&[], "/ws"), (&["a.test"], "/")], 0);
    moved.routes[1].target = Target::Redirect { to: "/".into(), status: 308 };
    assert_eq!(build(&moved).1, []);
}

#[test]
fn explain_names_winner_losers_and_the_rest() {
    let config =
        one(&[(&[], "/"), (&["a.test"], "/ws"), (&["*.test"], "~ ^/ws"), (&["b.test"], "/ws"), (&["a.test"], "/x")]);
    let candidates = RouteTable::explain(&config, 0, parse_authority("a.test").ok().as_ref(), "/ws");
    let told: Vec<_> =
        candidates.iter().map(|candidate| (candidate.route, candidate.outcome, &*candidate.reason)).collect();
    assert_eq!(
        told,
        [
            (1, Outcome::Wins, "the host `a.test` by name; the prefix `/ws`, 3 literal characters"),
            (2, Outcome::Loses, "the host by `*.test`; the regex `^/ws`, 3 literal characters"),
            (0, Outcome::Loses, "any host; the prefix `/`, 1 literal character"),
            (3, Outcome::NoMatch, "not for the host `a.test`"),
            (4, Outcome::NoMatch, "the prefix `/x` does not match `/ws`"),
        ]
    );
}

#[test]
fn a_route_names_an_authority_by_its_hosts() {
    let authority = parse_authority("a.b.test:8443").unwrap();
    assert!(names(&route(0, &[], "/", &[]), &authority));
    assert!(names(&route(0, &["x.test", "*.b.test"], "/", &[]), &authority));
    assert!(!names(&route(0, &["b.test", "*.a.b.test"], "/", &[]), &authority));
}

proptest! {
    /// The table, arranged for speed, against the judge that looks at every route.
    #[test]
    fn lookup_and_explain_agree(
        routes in prop::collection::vec((0..8usize, 0..14usize), 1..12),
        host in prop::sample::select(vec!["a.test", "b.test", "x.a.test", "x.y.a.test", "other.example", ""]),
        path in "/([ab]{1,2}(/|%2F)?){0,4}",
    ) {
        const HOSTS: [&[&str]; 8] = [
            &[], &["a.test"], &["*.a.test"], &["*.test"], &["a.test", "*.test"], &["*.y.a.test"], &["b.test"], &["x.a.test", "b.test"],
        ];
        const PATHS: [&str; 14] = [
            "/", "/a", "/a/b", "/ab", "/a/", "= /a", "= /", "~ ^/a", "~ ^/a/[ab]", "~ b$", "~ ^/a[b/]", "~ .*", "~ ^/(a|b)", "= /a/b",
        ];
        let routes: Vec<_> = routes.iter().map(|(host, path)| (HOSTS[*host], PATHS[*path])).collect();
        let config = one(&routes);
        let authority = parse_authority(host).ok();
        let (table, problems) = build(&config);
        let found = table.lookup(0, authority.as_ref(), &path);
        let first = RouteTable::explain(&config, 0, authority.as_ref(), &path).swap_remove(0);
        match found {
            Lookup::Found(route) => {
                prop_assert_eq!(first.outcome, Outcome::Wins);
                prop_assert_eq!(first.route, route);
                let warned = problems.iter().any(|(severity, _, at, _)| *severity == Severity::Warning && *at == route);
                prop_assert!(!warned, "a route that was called unreachable has won");
            }
            _ => prop_assert_eq!(first.outcome, Outcome::NoMatch),
        }
    }
}
