//! BAL: which server of an upstream gets the next request or tunnel.

use crate::harness::{Backend, Fields, Handshake, Request, Setup, Stage, Tunnel, Way};

/// Three servers behind `/three`, plain and WebSocket; `upstream` are further keys of theirs.
pub fn three(setup: Setup, servers: &str, upstream: &str) -> Stage {
    setup
        .more(&format!(
            "[[route]]\nname = \"three\"\nhosts = [\"a.test\"]\npath = \"/three\"\nstrip_prefix = \"/three\"\n\
             upstream = \"three\"\nwebsocket = {{ origins = [\"https://app.example\"] }}\n\
             [upstream.three]\nservers = [{servers}]\n{upstream}\n"
        ))
        .start()
}

pub const PLAIN: &str = r#""http://{B1}", "http://{B2}", "http://{B3}""#;

pub fn handshake() -> Handshake {
    Handshake::to("/three/ws")
}

/// How many requests each server has read.
pub fn requests(stage: &Stage) -> [usize; 3] {
    [&stage.b1, &stage.b2, &stage.b3].map(|server| server.requests().len())
}

#[tokio::test]
async fn bal_01_tunnels_are_spread_evenly_over_all_workers_and_even_out_again() {
    let stage = three(Setup::new().server("workers = 2"), PLAIN, "balance = \"least-connections\"");
    let mut held: Vec<(usize, Tunnel)> = Vec::new();
    let mut before = requests(&stage);
    for round in 0..12 {
        let tunnel = Way::ALL[round % 3].tunnel(&stage, &handshake()).await;
        let after = requests(&stage);
        let server = (0..3).find(|&server| after[server] > before[server]).expect("one has it");
        before = after;
        held.push((server, tunnel));
    }
    let live = |held: &[(usize, Tunnel)]| [0, 1, 2].map(|one| held.iter().filter(|(server, _)| *server == one).count());
    assert_eq!(live(&held), [4, 4, 4]);
    // The tunnels of one server end, as if it were restarted: the next ones all go there.
    held.retain(|(server, _)| *server != 1);
    stage.gateway.logged(4).await;
    for round in 0..4 {
        held.push((1, Way::ALL[round % 3].tunnel(&stage, &handshake()).await));
    }
    let after = requests(&stage);
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [0, 4, 0]);
    for (_, tunnel) in &mut held {
        tunnel.echo("still here").await;
    }
}

#[tokio::test]
async fn bal_01_two_choices_leave_nobody_out() {
    let stage = three(Setup::new(), PLAIN, "balance = \"two-choices\"");
    let mut held = Vec::new();
    for round in 0..30 {
        held.push(Way::ALL[round % 3].tunnel(&stage, &handshake()).await);
    }
    assert!(requests(&stage).iter().all(|count| (7..=13).contains(count)), "{:?}", requests(&stage));
}

#[tokio::test]
async fn bal_02_requests_and_handshakes_take_turns_by_weight() {
    let servers = r#""http://{B1}", { url = "http://{B2}", weight = 2 }, { url = "http://{B3}", weight = 0 }"#;
    for way in Way::ALL {
        let stage = three(Setup::new(), servers, "");
        for _ in 0..6 {
            assert_eq!(way.ask(&stage, &Request::get("/three/n")).await.status, 200);
            way.tunnel(&stage, &handshake()).await;
        }
        assert_eq!(requests(&stage), [4, 8, 0], "{way:?}");
    }
}

#[tokio::test]
async fn bal_02_where_all_servers_drain_the_answer_is_503_and_says_so() {
    let stage = three(Setup::new(), r#"{ url = "http://{B1}", weight = 0 }"#, "");
    for way in Way::ALL {
        let answer = way.ask(&stage, &Request::get("/three/n")).await;
        answer.assert_refused(503, "upstream-unavailable");
        way.refused(&stage, &handshake(), 503, "upstream-unavailable").await;
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn bal_03_requests_with_one_header_go_to_one_server_whatever_way_they_come() {
    let stage = three(Setup::new(), PLAIN, "balance = \"hash\"\nhash = { by = \"header\", name = \"X-User\" }");
    // So many that it cannot be chance where one of three gets none: servers are told apart by their ports.
    for user in 0..40 {
        let before = requests(&stage);
        for way in Way::ALL {
            let user = user.to_string();
            way.ask(&stage, &Request::get("/three/n").field("X-User", &user)).await;
            way.tunnel(&stage, &handshake().add("X-User", &user)).await;
        }
        let after = requests(&stage);
        let gains = [0, 1, 2].map(|server| after[server] - before[server]);
        assert!(gains.contains(&6), "user {user}: {gains:?}");
    }
    assert!(requests(&stage).iter().all(|count| *count > 0), "{:?}", requests(&stage));
}

#[tokio::test]
async fn bal_03_cookies_paths_and_addresses_can_be_what_is_compared() {
    for (hash, cookie, path) in [
        ("{ by = \"cookie\", name = \"user\" }", "a=b; user=17", "/three/n"),
        ("{ by = \"path\" }", "a=b", "/three/n/17?x=1"),
        ("{ by = \"address\" }", "a=b", "/three/n"),
    ] {
        let stage = three(Setup::new(), PLAIN, &format!("balance = \"hash\"\nhash = {hash}"));
        for way in Way::ALL {
            for _ in 0..3 {
                way.ask(&stage, &Request::get(path).field("Cookie", cookie)).await;
            }
        }
        assert!(requests(&stage).contains(&9), "{hash}: {:?}", requests(&stage));
    }
}

#[tokio::test]
async fn bal_04_a_backup_gets_work_only_while_nobody_else_can() {
    let closed = Backend::refusing_port();
    for (first, expected) in [("http://{B1}", [6, 0, 0]), (&*format!("http://127.0.0.1:{closed}"), [0, 6, 0])] {
        let servers = format!("\"{first}\", {{ url = \"http://{{B2}}\", backup = true }}");
        let stage = three(Setup::new(), &servers, "");
        for way in Way::ALL {
            assert_eq!(way.ask(&stage, &Request::get("/three/n")).await.status, 200);
            way.tunnel(&stage, &handshake()).await.echo("x").await;
        }
        assert_eq!(requests(&stage), expected, "{first}");
    }
}

#[tokio::test]
async fn bal_05_each_server_is_called_by_its_own_name() {
    let stage = three(Setup::new(), PLAIN, "host = \"upstream\"");
    for way in Way::ALL {
        for _ in 0..3 {
            way.ask(&stage, &Request::get("/three/n")).await;
            way.tunnel(&stage, &handshake()).await;
        }
    }
    for server in [&stage.b1, &stage.b2, &stage.b3] {
        let own = server.address.to_string();
        assert!(server.requests().len() > 3);
        assert!(server.requests().iter().all(|head| head.get("host") == Some(&*own)));
    }
}
