//! ADM: who gets through the door of the admin listener, and how it holds when it is pushed.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};

use crate::harness::{
    Api, Client, End, Fields, Gateway, Handshake, NameServer, Request, Says, Setup, Stage, TlsOptions, Way,
    admin_table, eventually, holds_within, within,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn stage(admin: &str) -> Stage {
    Setup::new().more(&admin_table(admin)).start()
}

/// A gateway whose `[admin]` may name files that are there before it starts.
fn gateway_with(admin: &str, prepare: impl FnOnce(&std::path::Path)) -> Gateway {
    let toml = format!(
        "{admin}\n[[listener]]\nname = \"x\"\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = {{ status = 200 }}\n"
    );
    Gateway::start_prepared(&toml, prepare)
}

#[tokio::test]
async fn adm_01_it_is_asked_under_its_own_names_alone() {
    let stage = stage("hosts = [\"gateway.internal\"]");
    let api = Api::of(&stage.gateway);
    let ask = async |host: &str| api.raw(format!("GET /api/v1/status HTTP/1.1\r\n{host}\r\n")).await;
    for host in ["Host: localhost\r\n", "Host: 127.0.0.1:1\r\n", "Host: [::1]\r\n", "Host: Gateway.Internal:99\r\n"] {
        assert_eq!(ask(host).await.status, 200, "{host}");
    }
    for host in ["Host: evil.example\r\n", "Host: localhost.evil.example:9900\r\n", "Host: 10.0.0.1\r\n"] {
        ask(host).await.assert_api_error(403, "unknown-host");
    }
    for host in ["", "Host:\r\n", "Host: a\r\nHost: localhost\r\n", "Host: local host\r\n"] {
        let answer = ask(host).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
    api.raw("GET http://localhost/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .assert_api_error(400, "bad-target");
    let told = || stage.gateway.events().iter().any(|event| event["reason"] == "unknown-host");
    eventually("those who are not let in are in the log", told).await;
}

#[tokio::test]
async fn adm_01_pages_of_other_origins_are_turned_away_and_forms_cannot_change_anything() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    for origin in ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"] {
        let head = api.head("POST", "/api/v1/reload", &format!("Origin: {origin}\r\nContent-Length: 0\r\n"));
        api.raw(head).await.assert_api_error(403, "foreign-origin");
    }
    let head = api.head("GET", "/api/v1/tunnels", "Sec-Fetch-Site: cross-site\r\n");
    api.raw(head).await.assert_api_error(403, "foreign-origin");
    let own = api.head("GET", "/api/v1/status", &format!("Origin: http://{}\r\n", api.address));
    let answer = api.raw(own).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.has("access-control-allow-origin"), "{answer:?}");
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"] {
        for body in ["", "{\"all\":true}"] {
            let fields = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
            let head = api.head("POST", "/api/v1/tunnels/close", &fields);
            api.raw(head + body).await.assert_api_error(415, "not-json");
        }
    }
    let preflight = api.head("OPTIONS", "/api/v1/tunnels/close", "Access-Control-Request-Method: POST\r\n");
    api.raw(preflight).await.assert_api_error(405, "method-not-allowed");
    assert!(stage.gateway.reloads().is_empty());
}

#[tokio::test]
async fn adm_01_what_comes_through_the_gateway_in_a_roundabout_way_is_not_let_in() {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = probe.local_addr().expect("an address").port();
    drop(probe);
    let stage = Setup::new()
        .more(&format!(
            "[admin]\naddress = \"127.0.0.1:{port}\"\nhosts = [\"a.test\"]\n[[route]]\nhosts = [\"a.test\"]\npath = \"/api\"\n\
             upstream = \"unix:hop.sock\"\n"
        ))
        .start();
    // Somebody lets a socket lead there.
    let path = stage.gateway.folder().join("hop.sock");
    let hop = tokio::net::UnixListener::bind(&path).expect("a socket");
    let hopping = tokio::spawn(async move {
        while let Ok((mut near, _)) = hop.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.expect("the admin listener");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let answer = stage.clear().await.ask(&Request::get("/api/v1/status")).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("came-through-the-gateway"), "{}", answer.text());
    hopping.abort();
}

#[tokio::test]
async fn ops_16_nothing_administrative_answers_on_a_public_listener_beside_an_admin_listener() {
    let stage = stage("");
    for path in ["/api/v1/status", "/api/v1/tunnels", "/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"] {
        for host in ["a.test", "localhost", "127.0.0.1"] {
            let request = Request::get(path).host(host).field("X-Forwarded-For", "127.0.0.1");
            stage.clear().await.ask(&request).await.assert_refused(404, "no-route");
        }
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn adm_01_no_spelling_of_its_address_leads_there_through_the_gateway_even_without_via() {
    let names = NameServer::start().await;
    names.say("admin.test", Says::addresses(60, &["127.0.0.1"]));
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    for (admin, server) in [
        (format!("127.0.0.1:{}", address.port()), format!("http://admin.test:{}", address.port())),
        ("unix:admin.sock".to_owned(), "unix:link.sock".to_owned()),
    ] {
        let more = format!(
            "[admin]\naddress = \"{admin}\"\n[[route]]\nhosts = [\"localhost\"]\nupstream = \"around\"\n\
             [upstream.around]\nservers = [\"{server}\"]\nvia = false\n"
        );
        let stage = Setup::new().server(&names.toml()).more(&more).start();
        if server.contains("link") {
            let folder = stage.gateway.folder();
            std::os::unix::fs::symlink(folder.join("admin.sock"), folder.join("link.sock")).expect("a link");
        }
        let answer = stage.clear().await.ask(&Request::get("/healthz").host("localhost")).await;
        assert_eq!(answer.status, 502, "{admin} {server}: {}", answer.text());
        stage.assert_serving().await;
    }
}

#[tokio::test]
async fn adm_02_without_the_token_there_is_nothing_but_whether_it_is_well_and_a_bare_page() {
    let gateway = gateway_with(&admin_table("token_file = \"token\""), |folder| {
        let file = folder.join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    });
    let mut api = Api::of(&gateway);
    for path in ["/api/v1/status", "/api/v1/nothing", "/metrics", "/api/v1/openapi.json", "/dashboard/"] {
        let answer = api.try_get(path).await;
        answer.assert_api_error(401, "no-token");
        assert_eq!(answer.get("www-authenticate"), Some("Bearer realm=\"portcullis\""));
    }
    // The dashboard's page tells nothing: it asks whoever opens it for the token.
    for path in ["/healthz", "/readyz", "/", "/dashboard/main.js"] {
        assert_eq!(api.try_get(path).await.status, 200);
    }
    let start = Instant::now();
    for guess in ["x", &TOKEN[1..], &format!("{TOKEN}0"), ""] {
        api.token = Some(guess.to_owned());
        api.try_get("/api/v1/status").await.assert_api_error(401, "wrong-token");
    }
    assert!(start.elapsed() >= Duration::from_millis(300), "guesses cost time");
    api.token = Some(TOKEN.to_owned());
    assert_eq!(api.get("/api/v1/status").await["phase"], "running");
    let lines = gateway.stderr();
    assert!(!lines.contains(TOKEN) && lines.contains("not let in"), "{lines}");
    // A reload reads it again.
    let other = "f".repeat(32);
    gateway.replace("token", &other);
    assert_eq!(gateway.reload().await["admin"], true);
    api.try_get("/api/v1/status").await.assert_api_error(401, "wrong-token");
    api.token = Some(other);
    api.get("/api/v1/status").await;
}

#[tokio::test]
async fn adm_03_a_path_has_one_spelling_and_a_method_its_place() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    for path in [
        "/api/v1/status/",
        "//api/v1/status",
        "/api/v1/./status",
        "/api/../api/v1/status",
        "/api/v1/%73tatus",
        "/api/v1/status%00",
        "/api/v1/status;a=b",
        "/api/v2/status",
        "/api/v1/drains/../status",
        "/etc/passwd",
    ] {
        api.try_get(path).await.assert_api_error(404, "not-found");
    }
    api.try_get("/api/v1/status?pretty=1").await.assert_api_error(400, "bad-query");
    let answer = api.raw(api.head("DELETE", "/api/v1/status", "")).await;
    answer.assert_api_error(405, "method-not-allowed");
    assert_eq!(answer.get("allow"), Some("GET, HEAD"));
    api.raw(api.head("GET", "/api/v1/status", "Content-Length: 2\r\n") + "{}")
        .await
        .assert_api_error(400, "unexpected-body");
    let mut client = Client::clear(api.address).await;
    client.send(api.head("HEAD", "/api/v1/status", "")).await;
    let head = client.try_answer("HEAD").await.expect("a head");
    assert!(head.status == 200 && head.get("content-length").is_some_and(|length| length != "0"), "{head:?}");
    for (name, value) in
        [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")]
    {
        assert_eq!(head.get(name), Some(value));
    }
    assert!(head.get("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    // The same connection goes on.
    client.send(api.head("GET", "/healthz", "")).await;
    assert_eq!(client.answer().await.text(), "ok\n");
}

#[tokio::test]
async fn adm_03_bodies_that_are_no_json_too_long_or_say_too_much_are_refused() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    let close = "/api/v1/tunnels/close";
    let send = async |body: &str| {
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        api.raw(api.head("POST", close, &fields) + body).await
    };
    for body in [
        "",
        "{",
        "[]",
        "null",
        "[\"id=1\",false,1000,\"x\"]",
        "{\"filter\":1}",
        "{\"fliter\":\"route=x\"}",
        "{\"filter\":\"route=x\",\"code\":70000}",
    ] {
        let answer = send(body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    send(&format!("{{\"filter\":\"{}\"}}", "a".repeat(70_000))).await.assert_api_error(413, "body-too-large");
    let nested = "[".repeat(20_000);
    send(&nested).await.assert_api_error(400, "bad-body");
}

#[tokio::test]
async fn adm_04_heads_that_are_huge_or_slow_hold_nobody_up() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    let huge = api.head("GET", "/healthz", &format!("X: {}\r\n", "a".repeat(20_000)));
    assert_eq!(api.raw(huge).await.status, 431);
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    assert_eq!(api.raw(api.head("GET", "/healthz", &many)).await.status, 431);
    assert_eq!(api.raw("nonsense\r\n\r\n").await.status, 400);
    let mut silent = Client::clear(api.address).await;
    let mut slow = Client::clear(api.address).await;
    slow.send("GET /healthz HTT").await;
    let mut unfinished = Client::clear(api.address).await;
    let head = "Content-Type: application/json\r\nContent-Length: 10\r\n";
    unfinished.send(api.head("POST", "/api/v1/tunnels/close", head) + "{").await;
    let start = Instant::now();
    assert_eq!(api.try_get("/healthz").await.status, 200);
    silent.rest().await;
    slow.rest().await;
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let answer = unfinished.answer().await;
    answer.assert_api_error(408, "slow-body");
}

#[tokio::test]
async fn adm_04_idle_connections_make_room_and_a_full_house_says_so() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut client = Client::clear(api.address).await;
        client.send(api.head("GET", "/healthz", "")).await;
        assert_eq!(client.answer().await.status, 200);
        idle.push(client);
    }
    let start = Instant::now();
    assert_eq!(api.try_get("/healthz").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(idle);
    // Those who only hold their place, whether they have begun or not, give way as well: to many, one after the other.
    let mut stuck = Vec::new();
    for number in 0..150 {
        let mut client = Client::clear(api.address).await;
        if number % 2 == 0 {
            let _ = client.try_send("GET ").await;
        }
        stuck.push(client);
    }
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(api.try_get("/healthz").await.status, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // Those who are being answered keep their place.
    let mut busy = Vec::new();
    for _ in 0..64 {
        let mut client = Client::clear(api.address).await;
        let fields = "Content-Type: application/json\r\nContent-Length: 10\r\n";
        client.send(api.head("PUT", "/api/v1/log", fields)).await;
        busy.push(client);
    }
    let mut turned_away = 0;
    for _ in 0..3 {
        let mut client = Client::clear(api.address).await;
        let _ = client.try_send(api.head("GET", "/healthz", "")).await;
        let answered = client.try_answer("GET").await;
        turned_away += usize::from(answered.is_ok_and(|answer| answer.status == 503));
    }
    assert!(turned_away > 0, "nobody was told");
    let asked = within("room again", async {
        loop {
            let mut client = Client::clear(api.address).await;
            let _ = client.try_send(api.head("GET", "/healthz", "")).await;
            if client.try_answer("GET").await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
        }
    });
    asked.await;
}

#[tokio::test]
async fn adm_12_a_unix_socket_is_its_owners_alone_and_outlives_a_crash() {
    let admin = "[admin]\naddress = \"unix:admin.sock\"\n";
    let gateway = gateway_with(admin, |folder| {
        // What a process leaves behind that was killed.
        drop(std::os::unix::net::UnixListener::bind(folder.join("admin.sock")).expect("a socket"));
    });
    let path = gateway.folder().join("admin.sock");
    assert_eq!(gateway.admin(), format!("unix:{}", path.display()));
    let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut socket = UnixStream::connect(&path).await.expect("it listens");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("taken");
    let mut answer = String::new();
    within("an answer", socket.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    let (code, out, errors) = gateway.command(&["status"]).await;
    assert!(code == Some(0) && out.contains("running"), "{out}{errors}");
    let mut gateway = gateway;
    gateway.terminate();
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn adm_12_an_address_that_is_taken_or_open_to_all_keeps_the_gateway_from_starting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let rest = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 200 }\n";
    let (code, said) = Gateway::refused(&format!("[admin]\naddress = \"{address}\"\n{rest}"), |_| {});
    assert!(code == Some(3) && said.contains(&address.to_string()), "{said}");
    let (code, said) = Gateway::refused(&format!("[admin]\naddress = \"unix:admin.sock\"\n{rest}"), |folder| {
        std::fs::write(folder.join("admin.sock"), "no socket").expect("written");
    });
    assert!(code == Some(3) && said.contains("no socket"), "{said}");
    let (code, said) = Gateway::refused(&format!("[admin]\naddress = \"0.0.0.0:0\"\n{rest}"), |_| {});
    assert!(code == Some(2) && said.contains("admin-in-public"), "{said}");
    let (code, said) =
        Gateway::refused(&format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"t\"\n{rest}"), |folder| {
            std::fs::write(folder.join("t"), "\n").expect("written");
        });
    assert!(code == Some(2) && said.contains("bad-token"), "{said}");
}

#[tokio::test]
async fn adm_12_it_speaks_tls_where_it_is_told_to() {
    let stage = stage("hosts = [\"a.test\"]\ntls = { cert = \"a.pem\", key = \"a.key\" }");
    let url = stage.gateway.admin();
    let address =
        url.strip_prefix("https://").and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{url}"));
    let mut client = Client::tls(address, &TlsOptions::new("a.test")).await;
    client.send(format!("GET /api/v1/certificates HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", address.port())).await;
    let answer = client.answer().await;
    let told: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
    let own = told["certificates"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["file"].as_str().is_some_and(|file| file.ends_with("a.pem")));
    let own = own.unwrap_or_else(|| panic!("{told}"));
    assert!(own["names"].as_array().expect("a list").contains(&"a.test".into()), "{own}");
    let uses = own["used_by"].as_array().expect("a list");
    assert!(
        uses.iter().any(|used| used["listener"].is_null()) && uses.iter().any(|used| used["listener"] == "tls"),
        "{own}"
    );
    assert!(own["expires_in_s"].as_i64().is_some_and(|left| left > 0), "{own}");
    let mut clear = Client::clear(address).await;
    clear.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(clear.answer().await.status, 400);
}

#[tokio::test]
async fn adm_09_a_reload_takes_it_out_puts_it_in_and_moves_it_without_losing_an_answer() {
    let stage = stage("");
    let api = Api::of(&stage.gateway);
    let mut kept = Client::clear(api.address).await;
    kept.send(api.head("GET", "/healthz", "")).await;
    assert_eq!(kept.answer().await.status, 200);
    // A change beside it keeps the socket and its connections.
    let names = format!("{}hosts = [\"gateway.internal\"]\n", admin_table(""));
    let event = stage.reload_with(&admin_table(""), &names).await;
    assert_eq!((&event["admin"], stage.gateway.admins()), (&true.into(), 1), "{event}");
    kept.send("GET /healthz HTTP/1.1\r\nHost: gateway.internal\r\n\r\n").await;
    assert_eq!(kept.answer().await.status, 200);
    // Taken out: the one who asks for that gets the answer all the same.
    stage.gateway.replace("portcullis.toml", &stage.toml.replace(&admin_table(""), ""));
    let answer = api.send("POST", "/api/v1/reload", &serde_json::json!({})).await;
    assert_eq!((&answer["reloaded"], &answer["changes"]["admin"]), (&true.into(), &true.into()), "{answer}");
    assert_eq!(kept.expect_end().await, End::Fin);
    let refused = async { while TcpStream::connect(api.address).await.is_ok() {} };
    within("refused connections", refused).await;
    // Put in again, elsewhere.
    assert_eq!(stage.gateway.reload_with(&stage.toml).await["message"], "reloaded");
    eventually("another announcement", || stage.gateway.admins() == 2).await;
    let again = Api::of(&stage.gateway);
    assert_eq!(again.get("/api/v1/status").await["configuration"]["generation"], 4);
    // And moved.
    let socket = "[admin]\naddress = \"unix:admin.sock\"\n";
    assert_eq!(stage.gateway.reload_with(&stage.toml.replace(&admin_table(""), socket)).await["message"], "reloaded");
    let (code, out, errors) = stage.gateway.command(&["status"]).await;
    assert!(code == Some(0) && out.contains("running"), "{out}{errors}");
    assert!(holds_within(Duration::from_secs(5), || std::net::TcpStream::connect(again.address).is_err()).await);
}

#[tokio::test]
async fn adm_09_an_address_that_cannot_be_bound_refuses_the_whole_reload() {
    let stage = stage("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let other = admin_table("").replace("127.0.0.1:0", &address.to_string());
    let toml = stage.toml.replace(&admin_table(""), &other).replace("path = \"/public\"", "path = \"/other\"");
    stage.gateway.replace("portcullis.toml", &toml);
    let api = Api::of(&stage.gateway);
    let answer = api.try_send("POST", "/api/v1/reload", &serde_json::json!({})).await;
    answer.assert_api_error(422, "not-reloaded");
    assert!(
        answer.text().contains("cannot-listen") && answer.text().contains(&address.to_string()),
        "{}",
        answer.text()
    );
    assert_eq!(stage.clear().await.ask(&Request::get("/public")).await.status, 200, "nothing else has changed");
    // Where a listener of its own is in the way, it says what to do.
    let own = stage.gateway.address("clear");
    let toml = stage.toml.replace(&admin_table(""), &admin_table("").replace("127.0.0.1:0", &own.to_string()));
    stage.gateway.replace("portcullis.toml", &toml);
    let answer = api.try_send("POST", "/api/v1/reload", &serde_json::json!({})).await;
    answer.assert_api_error(422, "not-reloaded");
}

#[tokio::test]
async fn adm_11_it_answers_while_the_gateway_drains_and_to_the_end() {
    let mut stage = Setup::new().server("drain_timeout = \"3s\"").more(&admin_table("")).start();
    let api = Api::of(&stage.gateway);
    let mut tunnel = Way::Clear.tunnel(&stage, &Handshake::to("/ws")).await;
    tunnel.echo("before").await;
    assert_eq!(api.try_get("/readyz").await.text(), "ready\n");
    stage.gateway.terminate();
    let address = stage.gateway.address("clear");
    within("refused connections", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    api.try_get("/readyz").await.assert_api_error(503, "draining");
    assert_eq!(api.try_get("/healthz").await.status, 200);
    let status = api.get("/api/v1/status").await;
    assert_eq!((&status["phase"], &status["tunnels"]), (&"draining".into(), &1.into()), "{status}");
    assert!(status["drain_left_ms"].as_u64().is_some_and(|left| left <= 3000), "{status}");
    let answer = api.try_send("POST", "/api/v1/reload", &serde_json::json!({})).await;
    answer.assert_api_error(503, "stopping");
    let closed = api.send("POST", "/api/v1/tunnels/close", &serde_json::json!({ "all": true, "code": 1001 })).await;
    assert_eq!(closed["closed"], 1, "{closed}");
    assert_eq!(tunnel.frame().await.close_code(), Some(1001));
    drop(tunnel);
    assert_eq!(stage.gateway.exit().await.code(), Some(0));
}
