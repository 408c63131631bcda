use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::exchange::Way;
use crate::exchange::live::{Progress, TunnelRef, TunnelState};
use crate::tunnel::FrameRecord;
use crate::types::{HttpVersion, Peer};

fn row() -> TunnelRow {
    let frames = FrameRecord {
        messages_up: 600,
        messages_down: 401,
        closed_by: None,
        close_code: None,
        violation: None,
        round_trip: Some(Duration::from_millis(250)),
    };
    TunnelRow {
        tunnel: TunnelRef { number: 123, worker: 1, place: 7 },
        connection: 45,
        way: Arc::new(Way {
            listener: "public".into(),
            version: HttpVersion::Http1,
            tls: Some("TLSv1.3"),
            route: Some("my chat".into()),
            upstream: Some("chat".into()),
            server: Some("ws://10.0.0.5:9000".into()),
            subprotocol: None,
        }),
        peer: Peer::Unix,
        client: Some([10, 1, 2, 3].into()),
        age: Duration::from_secs(3600),
        progress: Progress {
            state: TunnelState::Open,
            bytes_up: 1 << 20,
            bytes_down: 1,
            age: Duration::from_secs(3599),
            idle: Duration::from_secs(60),
            frames: Some(frames),
        },
    }
}

fn holds(filter: &str) -> bool {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error:?}")).matches(&row())
}

fn wrong(filter: &str) -> BadFilter {
    Filter::parse(filter).expect_err(filter)
}

#[test]
fn a_tunnel_is_meant_where_every_term_holds() {
    for filter in [
        "",
        "   ",
        "route=\"my chat\"",
        "\"route=my chat\"",
        "route=my*",
        "route=*chat",
        "route=*y*c*t",
        "route=*",
        "route!=other",
        "upstream=chat server=ws://10.0.0.5:* listener=public",
        "client=10.0.0.0/8",
        "client=10.1.2.3 client!=10.1.2.4",
        "client!=unix",
        "subprotocol=",
        "subprotocol!=chat",
        "id=123 connection=45 worker=1",
        "age>=1h age>59m age<2h age<=60m age=3600s",
        "idle>=10s idle!=1s idle>0",
        "messages>1000 messages=1001",
        "bytes>1MiB bytes=1048577 bytes<2MiB",
        "rtt>200ms rtt<1s",
        "state=open protocol=h1",
    ] {
        assert!(holds(filter), "{filter}");
    }
    for filter in [
        "route=my",
        "route=chat",
        "route=m*z",
        "upstream=chat server=other",
        "client=192.168.0.0/16",
        "client=unix",
        "client=::/0",
        "subprotocol=chat",
        "subprotocol=\"\" id=124",
        "age>1h",
        "age<1h",
        "idle<60s",
        "messages>1001",
        "bytes<=1MiB",
        "rtt>1s",
        "state=closing",
        "protocol=h2",
    ] {
        assert!(!holds(filter), "{filter}");
    }
}

#[test]
fn what_a_tunnel_does_not_have_is_neither_more_nor_less_than_anything() {
    let mut bare = row();
    bare.progress.frames = None;
    bare.client = None;
    for filter in ["rtt>0", "rtt<1h", "rtt!=1s", "messages<1", "messages!=5", "client=0.0.0.0/0"] {
        assert!(!Filter::parse(filter).expect(filter).matches(&bare), "{filter}");
    }
    assert!(Filter::parse("client=unix").expect("good").matches(&bare));
}

#[test]
fn a_wrong_term_is_named_with_what_would_be_right() {
    for (filter, term, help) in [
        ("id=1 rout=chat", "rout=chat", "did you mean `route`?"),
        ("chat", "chat", "write a comparison"),
        ("age>soon", "age>soon", "write a whole number and a unit"),
        ("age>10", "age>10", "write a whole number and a unit"),
        ("bytes>1MB", "bytes>1MB", "write \"1MiB\""),
        ("messages>many", "messages>many", "write a whole number"),
        ("route>chat", "route>chat", "write `route=chat` or `route!=chat`"),
        ("state=opened", "state=opened", "it is one of open, half-closed, closing"),
        ("client=example.com", "client=example.com", "write an address"),
        ("client>10.0.0.1", "client>10.0.0.1", "write `client=10.0.0.1`"),
        ("route=\"my chat", "route=my chat", "add a `\"`"),
        ("route!chat", "route!chat", "write `!=`"),
        ("=chat", "=chat", "a tunnel has route"),
    ] {
        let error = wrong(filter);
        assert_eq!(error.term, term, "{filter}");
        assert!(error.help.contains(help), "{filter}: {error:?}");
    }
    assert!(wrong(&"a".repeat(LONGEST + 1)).term.is_empty());
    assert!(wrong(&"id=1 ".repeat(MOST + 1)).message.contains("32 terms"));
}

/// The rule as it would be written down without a thought for its cost.
fn slowly(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
        Some((letter, rest)) => text.split_first().is_some_and(|(first, text)| first == letter && slowly(rest, text)),
    }
}

proptest! {
    #[test]
    fn a_wildcard_stands_for_anything(pattern in "[ab*é]{0,7}", text in "[abé]{0,9}") {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(Pattern::new(&pattern).matches(&text), slowly(&letters(&pattern), &letters(&text)));
    }

    #[test]
    fn no_text_makes_it_panic_and_errors_say_what_to_do(text in "\\PC{0,80}") {
        match Filter::parse(&text) {
            Ok(filter) => _ = filter.matches(&row()),
            Err(error) => prop_assert!(!error.message.is_empty() && !error.help.is_empty()),
        }
    }

    #[test]
    fn no_near_miss_makes_it_panic(terms in proptest::collection::vec(
        "(route|age|client|bytes|id|state|rtt|x)(=|!=|<|<=|>|>=|!|==)(|0|1h|99999999999999999999h|1MiB|10.0.0.0/99|\"|\\*|é)", 0..6,
    )) {
        if let Ok(filter) = Filter::parse(&terms.join(" ")) {
            let _ = filter.matches(&row());
        }
    }

    #[test]
    fn opposite_terms_never_agree_about_what_there_is(number in 0u64..300) {
        for (one, other) in [("=", "!="), ("<", ">="), (">", "<=")] {
            prop_assert_ne!(holds(&format!("id{one}{number}")), holds(&format!("id{other}{number}")));
        }
    }

    #[test]
    fn terms_hold_together_where_each_holds_alone(first in 0u64..300, second in 0u64..2000) {
        let (first, second) = (format!("id>{first}"), format!("messages<{second}"));
        prop_assert_eq!(holds(&format!("{first} {second}")), holds(&first) && holds(&second));
    }
}

#[test]
fn ipv4_in_the_clothes_of_ipv6_means_the_same_clients() {
    for (text, has) in [
        ("client=::ffff:10.1.2.3", true),
        ("client=::ffff:10.0.0.0/104", true),
        ("client=::ffff:10.1.2.4", false),
        ("client!=::ffff:10.1.2.3", false),
        ("client=::/0", false),
        ("client=0.0.0.0/0", true),
    ] {
        let filter = Filter::parse(text).expect(text);
        assert_eq!(filter.matches(&row()), has, "{text}");
    }
}
