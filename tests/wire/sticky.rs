//! STK: clients that stay with their server by the gateway's own cookie.

use crate::balance::{PLAIN, handshake, requests, three};
use crate::harness::{Answer, Backend, Fields, Peer, Request, Setup, Stage, Way};

const STICKY: &str = "sticky = { cookie = \"pcl\" }";

/// The cookie that an answer gives, as the client sends it back, and its attributes.
fn given(answer: &Answer) -> (String, String) {
    let line = answer.get("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    let (pair, attributes) = line.split_once("; ").expect("attributes");
    (pair.to_owned(), attributes.to_owned())
}

fn get(cookie: &str) -> Request {
    Request::get("/three/n").field("Cookie", cookie)
}

#[tokio::test]
async fn stk_01_polling_and_upgrade_stay_on_one_server() {
    let stage = three(Setup::new().server("workers = 2"), PLAIN, STICKY);
    for way in Way::ALL {
        let (cookie, attributes) = given(&way.ask(&stage, &Request::get("/three/n")).await);
        let secure = if way == Way::Clear { "" } else { "; Secure" };
        assert_eq!(attributes, format!("Path=/; HttpOnly; SameSite=Lax{secure}"), "{way:?}");
        let before = requests(&stage);
        for other in Way::ALL {
            let answer = other.ask(&stage, &get(&format!("a=b; {cookie}"))).await;
            assert!(answer.status == 200 && !answer.has("set-cookie"), "who knows is not told again: {answer:?}");
            let (answer, tunnel) = other.open(&stage, &handshake().add("Cookie", &cookie)).await;
            assert!(!answer.has("set-cookie"), "{answer:?}");
            tunnel.expect("a tunnel").echo("x").await;
        }
        let gains = requests(&stage).iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>();
        assert!(gains.contains(&6), "{way:?}: {gains:?}");
    }
}

#[tokio::test]
async fn stk_01_a_handshake_gives_the_cookie_as_well() {
    let stage = three(
        Setup::new(),
        PLAIN,
        "sticky = { cookie = \"pcl\", same_site = \"strict\", max_age = \"1h\", path = \"/three\", domain = \"a.test\" }",
    );
    for way in Way::ALL {
        let (answer, _) = way.open(&stage, &handshake()).await;
        let (cookie, attributes) = given(&answer);
        assert!(
            attributes.starts_with("Path=/three; HttpOnly; SameSite=Strict; Domain=a.test; Max-Age=3600"),
            "{attributes}"
        );
        // A cookie that ends is given anew as long as the client comes.
        assert_eq!(given(&way.ask(&stage, &get(&cookie)).await).0, cookie);
    }
}

/// Browsers that block cookies of third parties take those that say to keep apart what other sites would see of them.
#[tokio::test]
async fn stk_01_a_cookie_for_pages_of_other_sites_is_kept_apart_for_each_of_them() {
    let stage = three(Setup::new(), PLAIN, "sticky = { cookie = \"pcl\", same_site = \"none\" }");
    for way in Way::ALL {
        let attributes = "Path=/; HttpOnly; SameSite=None";
        // `Partitioned` says nothing without `Secure`.
        let wanted =
            if way == Way::Clear { attributes.to_owned() } else { format!("{attributes}; Secure; Partitioned") };
        assert_eq!(given(&way.ask(&stage, &Request::get("/three/n")).await).1, wanted, "{way:?}");
        assert_eq!(given(&way.open(&stage, &handshake()).await.0).1, wanted, "{way:?}");
    }
}

#[tokio::test]
async fn stk_01_gateways_with_one_secret_agree_and_a_restart_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("written");
    let sticky = format!("sticky = {{ cookie = \"pcl\", secret_file = \"{}\" }}", secret.display());
    let first = three(Setup::new(), PLAIN, &sticky);
    // Another gateway before the same servers.
    let servers = [&first.b1, &first.b2, &first.b3].map(|server| format!("\"http://{}\"", server.address)).join(", ");
    let second = three(Setup::new(), &servers, &sticky);
    for _ in 0..6 {
        let before = requests(&first);
        let (cookie, _) = given(&Way::Tls.ask(&first, &Request::get("/three/n")).await);
        let answer = Way::Tls.ask(&second, &get(&cookie)).await;
        assert!(answer.status == 200 && !answer.has("set-cookie"), "{answer:?}");
        let after = requests(&first);
        assert!([0, 1, 2].iter().any(|&server| after[server] - before[server] == 2), "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn stk_02_the_clients_of_a_server_that_dies_move_and_stay_where_they_moved() {
    let dead = format!("\"http://127.0.0.1:{}\"", Backend::refusing_port());
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("written");
    let sticky = format!("sticky = {{ cookie = \"pcl\", secret_file = \"{}\" }}", secret.display());
    for way in Way::ALL {
        // A client of B1, which a second gateway cannot reach: that one has B1's name on a port where nobody listens.
        let stage = three(Setup::new(), &format!("{dead}, \"http://{{B2}}\", \"http://{{B3}}\""), &sticky);
        let mut cookie = String::new();
        for _ in 0..4 {
            let answer = way.ask(&stage, &get(&cookie)).await;
            assert_eq!(answer.status, 200, "{way:?}");
            if answer.has("set-cookie") {
                assert!(cookie.is_empty(), "it moves once");
                cookie = given(&answer).0;
            }
        }
        let (_, tunnel) = way.open(&stage, &handshake().add("Cookie", &cookie)).await;
        tunnel.expect("a tunnel").echo("x").await;
        assert!(requests(&stage).contains(&5), "{way:?}: {:?}", requests(&stage));
    }
}

/// The first server has no weight any more.
async fn drain_first(stage: &Stage, upstream: &str) {
    let first = format!("\"http://{}\", ", stage.b1.address);
    assert!(stage.toml.contains(&first), "{}", stage.toml);
    let drained = format!("{{ url = \"http://{}\", weight = 0 }}, ", stage.b1.address);
    let toml = stage.toml.replace(&first, &drained).replace(STICKY, &format!("{STICKY}\n{upstream}"));
    assert_eq!(stage.gateway.reload_with(&toml).await["message"], "reloaded");
}

/// The cookie of a client that is with the first server.
async fn with_first(stage: &Stage) -> String {
    loop {
        let before = stage.b1.requests().len();
        let (cookie, _) = given(&Way::Clear.ask(stage, &Request::get("/three/n")).await);
        if stage.b1.requests().len() > before {
            return cookie;
        }
    }
}

#[tokio::test]
async fn stk_05_a_server_that_drains_keeps_its_clients_and_gets_no_new_ones() {
    let stage = three(Setup::new().server("workers = 2"), PLAIN, STICKY);
    let cookie = with_first(&stage).await;
    drain_first(&stage, "").await;
    let before = requests(&stage);
    for way in Way::ALL {
        let answer = way.ask(&stage, &get(&cookie)).await;
        assert!(answer.status == 200 && !answer.has("set-cookie"), "{way:?}: {answer:?}");
        let (answer, tunnel) = way.open(&stage, &handshake().add("Cookie", &cookie)).await;
        assert!(!answer.has("set-cookie"), "{way:?}: {answer:?}");
        tunnel.expect("a tunnel").echo("x").await;
        for _ in 0..3 {
            assert!(way.ask(&stage, &Request::get("/three/n")).await.has("set-cookie"));
        }
    }
    assert_eq!(requests(&stage)[0] - before[0], 6, "its own client, and nobody else");
}

#[tokio::test]
async fn stk_05_a_cookie_that_ends_is_not_given_anew_by_a_server_that_drains() {
    let sticky = STICKY.replace(" }", ", max_age = \"1h\" }");
    let stage = three(Setup::new(), PLAIN, &sticky);
    let cookie = with_first(&stage).await;
    assert_eq!(given(&Way::Clear.ask(&stage, &get(&cookie)).await).0, cookie);
    drain_first(&stage, "").await;
    for way in Way::ALL {
        assert!(!way.ask(&stage, &get(&cookie)).await.has("set-cookie"), "{way:?}");
    }
}

#[tokio::test]
async fn stk_05_who_is_sent_away_from_a_server_that_drains_is_not_sent_back_there() {
    let stage = three(Setup::new(), PLAIN, STICKY);
    let cookie = with_first(&stage).await;
    let mut tunnel = Way::Clear.tunnel(&stage, &handshake().add("Cookie", &cookie)).await;
    drain_first(&stage, "drain_rate = 1000").await;
    assert_eq!(tunnel.frame().await.close_code(), Some(1012));
    let before = requests(&stage);
    for way in Way::ALL {
        let (moved, _) = given(&way.open(&stage, &handshake().add("Cookie", &cookie)).await.0);
        assert!(!way.ask(&stage, &get(&moved)).await.has("set-cookie"), "{way:?}");
    }
    assert_eq!(requests(&stage)[0], before[0]);
}

#[tokio::test]
async fn stk_03_a_cookie_of_somebody_elses_does_not_hide_the_gateways() {
    let stage = three(Setup::new(), PLAIN, STICKY);
    let cookie = with_first(&stage).await;
    for way in Way::ALL {
        // A browser sends the one with the longer path first, whoever has set it.
        for more in ["pcl=x; ", "pcl=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; pcl=; "] {
            let before = requests(&stage);
            for _ in 0..3 {
                let answer = way.ask(&stage, &get(&format!("{more}{cookie}"))).await;
                assert!(answer.status == 200 && !answer.has("set-cookie"), "{way:?}: {answer:?}");
            }
            assert_eq!(requests(&stage)[0] - before[0], 3, "{way:?}");
        }
    }
    assert!(stage.b1.requests().iter().all(|head| !head.has("cookie")), "no server sees any of them");
}

#[tokio::test]
async fn stk_02_of_two_cookies_the_one_counts_whose_server_is_there() {
    let stage = three(Setup::new(), PLAIN, STICKY);
    let gone = with_first(&stage).await;
    drain_first(&stage, "drain_rate = 1000").await;
    let (here, _) = given(&Way::Clear.ask(&stage, &Request::get("/three/n")).await);
    for way in Way::ALL {
        for cookies in [format!("{gone}; {here}"), format!("{here}; {gone}")] {
            let answer = way.ask(&stage, &get(&cookies)).await;
            assert!(answer.status == 200 && !answer.has("set-cookie"), "{way:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn stk_02_a_client_whose_server_stops_listening_is_moved_with_its_cookie() {
    // A server that leaves no connection behind when it stops.
    let first = Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.handle(&head).await.map(drop)
    });
    let servers = format!("\"http://{}\", \"http://{{B2}}\"", first.address);
    let stage = three(Setup::new(), &servers, STICKY);
    let mut client = stage.clear().await;
    let mut cookie = String::new();
    while first.requests().is_empty() {
        cookie = given(&client.ask(&Request::get("/three/n")).await).0;
    }
    assert!(!client.ask(&get(&cookie)).await.has("set-cookie"), "it is with the first server");
    drop(first);
    let mut moved = None;
    for _ in 0..50 {
        let answer = client.ask(&get(&cookie)).await;
        if answer.status == 200 && answer.has("set-cookie") {
            moved = Some(given(&answer).0);
            break;
        }
    }
    let moved = moved.expect("the client is moved");
    assert_ne!(moved, cookie);
    for way in Way::ALL {
        let answer = way.ask(&stage, &get(&moved)).await;
        assert!(answer.status == 200 && !answer.has("set-cookie"), "{way:?}: {answer:?}");
    }
}

#[tokio::test]
async fn stk_03_a_cookie_that_the_gateway_has_not_given_is_worth_nothing() {
    let stage = three(Setup::new(), PLAIN, STICKY);
    let (cookie, _) = given(&Way::Tls.ask(&stage, &Request::get("/three/n")).await);
    let mut forged = cookie.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("text");
    for bad in [&*forged, "pcl=", "pcl=127.0.0.1:80", &format!("{cookie}A"), &cookie[..cookie.len() - 1]] {
        for way in Way::ALL {
            let before = requests(&stage);
            for _ in 0..3 {
                let answer = way.ask(&stage, &get(bad)).await;
                assert!(answer.status == 200 && answer.has("set-cookie"), "{way:?} {bad}: {answer:?}");
            }
            let after = requests(&stage);
            assert!([0, 1, 2].iter().all(|&server| after[server] - before[server] == 1), "{way:?} {bad}: turns go on");
        }
    }
}

#[tokio::test]
async fn stk_03_another_upstreams_cookie_is_worth_nothing() {
    let other = "[[route]]\nname = \"other\"\nhosts = [\"a.test\"]\npath = \"/other\"\nupstream = \"other\"\n\
                 [upstream.other]\nservers = [\"http://{B1}\", \"http://{B2}\"]\nsticky = { cookie = \"pcl\" }\n";
    let stage = three(Setup::new().more(other), PLAIN, STICKY);
    let (cookie, _) = given(&Way::Tls.ask(&stage, &Request::get("/other/n")).await);
    assert!(Way::Tls.ask(&stage, &get(&cookie)).await.has("set-cookie"));
}

#[tokio::test]
async fn stk_04_servers_do_not_see_the_cookie_and_it_does_not_show_them() {
    let stage: Stage = three(Setup::new(), PLAIN, STICKY);
    for way in Way::ALL {
        let (cookie, _) = given(&way.ask(&stage, &Request::get("/three/n")).await);
        let value = cookie.strip_prefix("pcl=").expect("the name");
        assert!(value.len() == 32 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        way.ask(&stage, &get(&format!("a=b; {cookie}; c=d"))).await;
        way.open(&stage, &handshake().add("Cookie", &format!("{cookie}; e=f"))).await;
        way.ask(&stage, &get(&cookie)).await;
    }
    let heads: Vec<_> = [&stage.b1, &stage.b2, &stage.b3].iter().flat_map(|server| server.requests()).collect();
    let cookies: Vec<_> = heads.iter().filter_map(|head| head.get("cookie")).collect();
    assert_eq!(cookies.iter().filter(|cookie| **cookie == "a=b; c=d").count(), 3, "{cookies:?}");
    assert_eq!(cookies.iter().filter(|cookie| **cookie == "e=f").count(), 3, "{cookies:?}");
    assert_eq!(cookies.len(), 6, "{cookies:?}");
}
