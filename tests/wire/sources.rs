//! SRC: the local addresses that connections to servers come from.

use std::net::IpAddr;

use crate::harness::{Handshake, Request, Setup, Way};

fn peers(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[tokio::test]
async fn src_01_connections_come_from_the_configured_addresses_in_turn() {
    let stage = Setup::new().upstream("source = [\"127.0.0.7\", \"127.0.0.8\", \"::1\"]").start();
    for way in [Way::Clear, Way::Tls, Way::H2, Way::Clear] {
        way.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    }
    assert_eq!(stage.b1.peers(), peers(&["127.0.0.7", "127.0.0.8", "127.0.0.7", "127.0.0.8"]));
    assert_eq!(Way::H2.ask(&stage, &Request::get("/n")).await.status, 200);
    assert_eq!(stage.b1.peers().pop(), peers(&["127.0.0.7"]).pop());
}

#[tokio::test]
async fn src_02_an_address_that_this_machine_does_not_have_is_passed_over() {
    // From the block for documentation (RFC 5737).
    let stage = Setup::new().upstream("source = [\"203.0.113.77\", \"127.0.0.8\"]").start();
    for _ in 0..4 {
        Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await.echo("x").await;
    }
    assert_eq!(stage.b1.peers(), peers(&["127.0.0.8"; 4]));

    let stage = Setup::new().upstream("source = [\"203.0.113.77\", \"203.0.113.78\"]").start();
    for way in Way::ALL {
        way.ask(&stage, &Request::get("/n")).await.assert_refused(502, "upstream-unreachable");
    }
    let lines = stage.gateway.logged(1).await;
    let detail = lines[0]["detail"].as_str().expect("a detail");
    assert!(detail.contains("from 203.0.113.77: ") && detail.contains("from 203.0.113.78: "), "{detail}");
    stage.b1.assert_untouched();
}
