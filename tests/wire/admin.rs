//! ADM: what the admin listener is asked and told: tunnels, drains, reloads; by its API and by the commands that use it.

use serde_json::{Value, json};

use crate::harness::{
    Api, Frame, Gateway, Handshake, Request, Setup, Stage, Tunnel, Way, admin_table, eventually, within,
};

fn setup() -> Setup {
    Setup::new().more(&admin_table(""))
}

fn ids(list: &Value) -> Vec<u64> {
    let rows = list["tunnels"].as_array().expect("a list");
    rows.iter().map(|row| row["id"].as_u64().expect("a number")).collect()
}

/// A tunnel on each way in.
async fn tunnels(stage: &Stage) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for way in Way::ALL {
        let mut tunnel = way.tunnel(stage, &Handshake::to("/ws")).await;
        tunnel.echo("hello").await;
        tunnels.push(tunnel);
    }
    tunnels
}

#[tokio::test]
async fn adm_05_live_tunnels_are_listed_filtered_and_sorted_over_all_workers() {
    let stage = setup().server("workers = 2").start();
    let api = Api::of(&stage.gateway);
    assert_eq!(api.get("/api/v1/tunnels").await, json!({ "matched": 0, "silent_workers": 0, "tunnels": [] }));
    let mut tunnels = tunnels(&stage).await;
    tunnels[1].echo("and again").await;
    let list = api.get("/api/v1/tunnels").await;
    assert_eq!((&list["matched"], ids(&list).len()), (&3.into(), 3), "{list}");
    let row = &list["tunnels"][0];
    let server = format!("http://{}", stage.b1.address);
    for (name, value) in [
        ("state", json!("open")),
        ("route", json!("ws")),
        ("upstream", json!("b1")),
        ("server", json!(server)),
        ("client", json!("127.0.0.1")),
        ("subprotocol", Value::Null),
    ] {
        assert_eq!(row[name], value, "{row}");
    }
    let filtered = async |filter: &str| ids(&api.get(&format!("/api/v1/tunnels?filter={filter}")).await).len();
    assert_eq!(filtered("listener=clear").await, 1);
    assert_eq!(filtered("listener=tls+protocol=h2").await, 1);
    assert_eq!(filtered("protocol=h1").await, 2);
    assert_eq!(filtered("messages%3E2").await, 1);
    assert_eq!(filtered("client=127.0.0.0/8+age%3C1h+route=*s").await, 3);
    assert_eq!(filtered("route=other").await, 0);
    let most = api.get("/api/v1/tunnels?sort=bytes&limit=1").await;
    assert_eq!((&most["matched"], most["tunnels"][0]["messages_in"].as_u64()), (&3.into(), Some(2)), "{most}");
    let by_id = ids(&api.get("/api/v1/tunnels?sort=id").await);
    assert!(by_id.is_sorted());
    for (query, code) in [
        ("filter=rout=x", "bad-filter"),
        ("sort=size", "bad-sort"),
        ("limit=-1", "bad-query"),
        ("limit=99999", "bad-query"),
    ] {
        api.try_get(&format!("/api/v1/tunnels?{query}")).await.assert_api_error(400, code);
    }
    let error = api.try_get("/api/v1/tunnels?filter=rout=x").await;
    assert!(error.text().contains("did you mean `route`?"), "{}", error.text());
}

#[tokio::test]
async fn adm_06_tunnels_are_closed_by_what_they_have_in_common_and_the_others_stay() {
    let stage = setup().server("workers = 2").start();
    let api = Api::of(&stage.gateway);
    let mut tunnels = tunnels(&stage).await;
    let close = async |body: Value| api.send("POST", "/api/v1/tunnels/close", &body).await;
    let closed = close(json!({ "filter": "listener=clear", "code": 4001, "reason": "maintenance" })).await;
    assert_eq!(closed, json!({ "closed": 1, "silent_workers": 0 }));
    assert_eq!(tunnels[0].frame().await, Frame::close(4001, "maintenance"));
    let line = stage.gateway.logged(1).await.remove(0);
    assert_eq!((&line["end"], &line["close_code"]), (&"closed-by-operator".into(), &4001.into()), "{line}");
    for tunnel in &mut tunnels[1..] {
        tunnel.echo("still here").await;
    }
    let one = ids(&api.get("/api/v1/tunnels?filter=protocol=h2").await)[0];
    assert_eq!(close(json!({ "filter": format!("id={one}") })).await["closed"], 1);
    let last = tunnels.len() - 1;
    assert_eq!(tunnels[last].frame().await.close_code(), Some(1008));
    assert_eq!(close(json!({ "filter": format!("id={one} age>1h") })).await["closed"], 0);
    for (body, code) in [
        (json!({}), "bad-filter"),
        (json!({ "filter": "" }), "bad-filter"),
        (json!({ "filter": "  " }), "bad-filter"),
        (json!({ "filter": "route=ws", "all": true }), "bad-filter"),
        (json!({ "filter": "route>ws" }), "bad-filter"),
        (json!({ "filter": "route=ws", "code": 1006 }), "bad-close"),
        (json!({ "filter": "route=ws", "reason": "a".repeat(124) }), "bad-close"),
        (json!({ "filter": "route=ws", "force": true }), "bad-body"),
    ] {
        api.try_send("POST", "/api/v1/tunnels/close", &body).await.assert_api_error(400, code);
    }
    tunnels[1].echo("nothing of that closed anything").await;
    assert_eq!(close(json!({ "all": true })).await["closed"], 1);
    assert_eq!(tunnels[1].frame().await.close_code(), Some(1008));
}

/// Two servers that share the work.
fn two() -> Stage {
    setup().upstream_servers("\"http://{B1}\", \"http://{B2}\"").upstream("drain_rate = 1000").start()
}

async fn served_by(stage: &Stage, count: usize) -> (usize, usize) {
    let before = (stage.b1.requests().len(), stage.b2.requests().len());
    for _ in 0..count {
        assert_eq!(stage.clear().await.ask(&Request::get("/n")).await.status, 200);
    }
    (stage.b1.requests().len() - before.0, stage.b2.requests().len() - before.1)
}

#[tokio::test]
async fn adm_07_a_server_that_drains_by_name_gets_nothing_new_until_that_is_undone() {
    let stage = two();
    let api = Api::of(&stage.gateway);
    let url = format!("http://{}", stage.b1.address);
    let mut one = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    let mut other = Way::Tls.tunnel(&stage, &Handshake::to("/ws")).await;
    assert_eq!((stage.b1.connections(), stage.b2.connections()), (1, 1));
    let answer = api.send("POST", "/api/v1/drains", &json!({ "what": "server", "server": url })).await;
    let drain = &answer["drains"][0];
    assert_eq!((&drain["server"], &drain["upstream"], &drain["why"]), (&json!(url), &json!("b1"), &json!("asked")));
    assert_eq!((&drain["tunnels"], &drain["rate"]), (&1.into(), &1000.into()), "{drain}");
    let closed = within("a Close", async {
        tokio::select! { frame = one.frame() => frame, frame = other.frame() => frame }
    });
    assert_eq!(closed.await.close_code(), Some(1012));
    assert_eq!(served_by(&stage, 6).await, (0, 6));
    let servers = api.get("/api/v1/upstreams").await;
    let b1 =
        servers["upstreams"].as_array().expect("a list").iter().find(|row| row["name"] == "b1").expect("b1").clone();
    assert_eq!((&b1["servers"][0]["draining"], &b1["servers"][1]["draining"]), (&true.into(), &false.into()), "{b1}");
    // A reload changes nothing about it, also one that takes the server out and one that puts it back.
    let both = format!("servers = [\"http://{}\", \"http://{}\"]", stage.b1.address, stage.b2.address);
    let alone = format!("servers = [\"http://{}\"]", stage.b2.address);
    for servers in [&both, &alone, &both] {
        let toml = stage.toml.replace(&both, servers);
        assert_eq!(stage.gateway.reload_with(&toml).await["message"], "reloaded");
        let drains = api.get("/api/v1/drains").await;
        let by_name: Vec<_> =
            drains["drains"].as_array().expect("a list").iter().filter(|row| row["why"] == "asked").collect();
        assert_eq!(by_name.len(), 1, "{drains}");
        assert_eq!(served_by(&stage, 4).await, (0, 4), "{servers}");
    }
    let id = drain["id"].as_str().expect("an id");
    let ended = api.send("DELETE", &format!("/api/v1/drains/{id}"), &json!({})).await;
    assert_eq!(ended["server"], url, "{ended}");
    assert_eq!(api.get("/api/v1/drains").await["drains"], json!([]));
    let (first, second) = served_by(&stage, 10).await;
    assert!(first > 0 && second > 0, "{first} {second}");
    let again = api.try_send("DELETE", &format!("/api/v1/drains/{id}"), &json!({})).await;
    again.assert_api_error(404, "no-such-drain");
}

#[tokio::test]
async fn adm_07_a_server_that_is_not_there_cannot_drain() {
    let stage = two();
    let api = Api::of(&stage.gateway);
    let near = format!("http://{}", stage.b1.address).replace("http", "htp");
    for (body, status, code) in [
        (json!({ "what": "server", "server": near }), 404, "no-such-server"),
        (
            json!({ "what": "server", "server": format!("http://{}", stage.b1.address), "upstream": "x" }),
            404,
            "no-such-server",
        ),
        (json!({ "what": "server" }), 400, "bad-body"),
        (json!({ "what": "planet", "server": "x" }), 400, "bad-body"),
        (json!({ "server": "x" }), 400, "bad-body"),
        (json!({ "what": "server", "server": "x", "more": 1 }), 400, "bad-body"),
    ] {
        api.try_send("POST", "/api/v1/drains", &body).await.assert_api_error(status, code);
    }
    let answer = api.try_send("POST", "/api/v1/drains", &json!({ "what": "server", "server": near })).await;
    assert!(answer.text().contains("did you mean"), "{}", answer.text());
    assert_eq!(api.get("/api/v1/drains").await["drains"], json!([]));
    for id in ["server-", "server-0", "server-zzzzzzzzzzzzzzzz", "server-00000000000000001", "process"] {
        let gone = api.try_send("DELETE", &format!("/api/v1/drains/{id}"), &json!({})).await;
        gone.assert_api_error(404, "no-such-drain");
    }
}

#[tokio::test]
async fn adm_08_a_reload_answers_with_what_has_changed_or_with_all_that_is_wrong() {
    let stage = setup().start();
    let api = Api::of(&stage.gateway);
    let answer = api.send("POST", "/api/v1/reload", &json!({})).await;
    assert_eq!((&answer["generation"], &answer["reloaded"]), (&2.into(), &true.into()), "{answer}");
    assert_eq!(answer["changes"]["routes"], json!({ "added": [], "removed": [], "changed": [], "renewed": [] }));
    stage.gateway.replace("portcullis.toml", &stage.toml.replace("name = \"public\"", "name = \"renamed\""));
    let answer = api.send("POST", "/api/v1/reload", &json!({})).await;
    assert_eq!(
        (&answer["changes"]["routes"]["added"], &answer["changes"]["routes"]["removed"]),
        (&json!(["renamed"]), &json!(["public"]))
    );
    let broken =
        stage.toml.replace("path = \"/public\"", "pfad = \"/public\"").replace("path = \"/denied\"", "path = 1");
    stage.gateway.replace("portcullis.toml", &broken);
    let answer = api.try_send("POST", "/api/v1/reload", &json!({})).await;
    answer.assert_api_error(422, "not-reloaded");
    let told: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!((&told["generation"], &told["reloaded"]), (&3.into(), &false.into()), "{told}");
    let problems = told["problems"].as_array().expect("a list");
    assert!(
        problems.iter().any(|problem| problem["code"] == "unknown-key")
            && problems.iter().any(|problem| problem["code"] == "wrong-type"),
        "{told}"
    );
    assert!(
        problems
            .iter()
            .all(|problem| problem["place"].as_str().is_some_and(|place| place.contains("portcullis.toml:")))
    );
    // Word for word what `check` says.
    let (code, _, said) = stage.gateway.command(&["check"]).await;
    let report = told["report"].as_str().expect("text").replace(&format!("{}/", stage.gateway.folder().display()), "");
    assert_eq!((code, said), (Some(2), report));
    let status = api.get("/api/v1/status").await;
    assert_eq!(
        (&status["configuration"]["refused"], &status["configuration"]["last_reload"]["reloaded"]),
        (&1.into(), &false.into())
    );
}

#[tokio::test]
async fn adm_08_many_who_ask_at_once_share_a_reload() {
    let stage = setup().start();
    let api = Api::of(&stage.gateway);
    let nothing = json!({});
    let asked = (0..20).map(|_| api.send("POST", "/api/v1/reload", &nothing));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer["reloaded"] == true));
    let last = answers.iter().filter_map(|answer| answer["generation"].as_u64()).max();
    assert!(last.is_some_and(|last| last < 15), "{last:?}");
}

#[tokio::test]
async fn adm_10_refusals_are_told_newest_first_with_their_reason_and_without_secrets() {
    let stage = setup().server("workers = 2").start();
    let api = Api::of(&stage.gateway);
    Way::Tls
        .refused(&stage, &Handshake::to("/ws?token=secret").origin("https://evil.example"), 403, "origin-not-allowed")
        .await;
    stage.clear().await.ask(&Request::get("/nowhere")).await.assert_refused(404, "no-route");
    let list = api.get("/api/v1/refusals").await;
    let [newest, before] = &list["refusals"].as_array().expect("a list")[..] else { panic!("{list}") };
    assert_eq!(
        (&newest["reason"], &newest["status"], &newest["path"]),
        (&json!("no-route"), &json!(404), &json!("/nowhere"))
    );
    assert_eq!(
        (&before["reason"], &before["origin"], &before["route"]),
        (&json!("origin-not-allowed"), &json!("https://evil.example"), &json!("ws"))
    );
    assert!(!list.to_string().contains("secret"), "{list}");
    let mut client = crate::harness::Client::clear(stage.gateway.address("clear")).await;
    client.send("nonsense\r\n\r\n").await;
    client.rest().await;
    assert_eq!(api.get("/api/v1/refusals?limit=1").await["refusals"][0]["reason"], "malformed");
}

#[tokio::test]
async fn adm_10_the_log_says_more_or_less_until_the_next_reload() {
    let stage = setup().start();
    let api = Api::of(&stage.gateway);
    assert_eq!(api.get("/api/v1/log").await, json!({ "level": "info", "configured": "info" }));
    assert_eq!(api.send("PUT", "/api/v1/log", &json!({ "level": "debug" })).await["level"], "debug");
    let (code, out, _) = stage.gateway.operate(&["log"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "debug (info in the configuration)\n"));
    api.try_send("PUT", "/api/v1/log", &json!({ "level": "loud" })).await.assert_api_error(400, "bad-level");
    let (code, _, errors) = stage.gateway.operate(&["log", "loud"]).await;
    assert!(code == Some(2) && errors.contains("error, warn, info, debug, trace"), "{errors}");
    let (code, out, _) = stage.gateway.operate(&["log", "warn,upstream=trace"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "warn,upstream=trace (info in the configuration)\n"));
    let (code, _, errors) = stage.gateway.operate(&["log", "upsteam=debug"]).await;
    assert!(code == Some(2) && errors.contains("upstream"), "{errors}");
    assert_eq!(stage.gateway.reload().await["message"], "reloaded");
    assert_eq!(api.get("/api/v1/log").await["level"], "info");
}

#[tokio::test]
async fn adm_13_ps_and_kill_find_the_tunnels_that_are_meant() {
    let stage = setup().start();
    let mut tunnels = tunnels(&stage).await;
    let gateway = &stage.gateway;
    let (code, out, errors) = gateway.operate(&["ps"]).await;
    assert_eq!((code, out.lines().count()), (Some(0), 4), "{out}{errors}");
    assert!(
        out.contains("127.0.0.1") && out.contains("open") && out.starts_with(" ") || out.starts_with("ID"),
        "{out}"
    );
    let (code, out, _) = gateway.operate(&["ps", "protocol=h2", "age<1h", "--json"]).await;
    let list: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &list["matched"]), (Some(0), &1.into()), "{list}");
    let (code, _, errors) = gateway.operate(&["ps", "rout=x"]).await;
    assert!(code == Some(2) && errors.contains("did you mean `route`?"), "{errors}");
    let (code, out, errors) = gateway.operate(&["kill", "protocol=h2", "--code", "1001", "--reason", "bye"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "1 tunnel closed\n"), "{errors}");
    let last = tunnels.len() - 1;
    assert_eq!(tunnels[last].frame().await, Frame::close(1001, "bye"));
    let (code, _, errors) = gateway.operate(&["kill"]).await;
    assert!(code == Some(2) && errors.contains("FILTER"), "{errors}");
    let (code, _, errors) = gateway.operate(&["kill", "route=ws", "--code", "1005"]).await;
    assert!(code == Some(2) && errors.contains("1005"), "{errors}");
    let (code, out, _) = gateway.operate(&["kill", "--all"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "2 tunnels closed\n"));
}

#[tokio::test]
async fn adm_13_reload_drain_and_status_say_what_they_have_done() {
    let stage = two();
    let gateway = &stage.gateway;
    let url = format!("http://{}", stage.b1.address);
    let (code, out, errors) = gateway.operate(&["drain", "server", &url]).await;
    assert!(code == Some(0) && out.contains("gets nothing new"), "{out}{errors}");
    assert_eq!(served_by(&stage, 4).await.0, 0);
    let (code, out, errors) = gateway.operate(&["drain", "server", &url, "--undo"]).await;
    assert!(code == Some(0) && out.contains("takes work again"), "{out}{errors}");
    let (code, _, errors) = gateway.operate(&["drain", "server", &url, "--undo"]).await;
    assert!(code == Some(1) && errors.contains("nobody has asked"), "{errors}");
    let (code, _, errors) = gateway.operate(&["drain", "server", "http://nobody:1"]).await;
    assert!(code == Some(1) && errors.contains("there is no server"), "{errors}");
    let (code, out, errors) = gateway.operate(&["reload"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "configuration 2 is in use: nothing has changed\n"), "{errors}");
    gateway.replace("portcullis.toml", &stage.toml.replace("path = \"/public\"", "pfad = \"/public\""));
    let (code, _, errors) = gateway.operate(&["reload"]).await;
    assert!(code == Some(1) && errors.contains("unknown key `pfad`") && errors.contains("stays"), "{errors}");
    let (code, out, _) = gateway.operate(&["status"]).await;
    assert!(code == Some(0) && out.contains("configuration 2") && out.contains("1 reloads refused"), "{out}");
}

#[tokio::test]
async fn adm_13_a_gateway_that_cannot_be_asked_is_a_clear_word() {
    let gateway = Gateway::start_with(
        "[[listener]]\nname = \"x\"\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 200, body = \"hello\" }\n",
        None,
    );
    let (code, _, errors) = gateway.command(&["status"]).await;
    assert!(code == Some(2) && errors.contains("has no [admin]"), "{errors}");
    let port = crate::harness::Backend::refusing_port();
    let (code, _, errors) = gateway.command(&["ps", "--admin", &format!("127.0.0.1:{port}")]).await;
    assert!(code == Some(1) && errors.contains("cannot reach http://127.0.0.1:"), "{errors}");
    let public = gateway.address("x").to_string();
    let (code, _, errors) = gateway.command(&["reload", "--admin", &public]).await;
    assert!(code == Some(1) && errors.contains("is no gateway"), "{errors}");
    let (code, _, errors) = gateway.command(&["kill", "--all", "--admin", "nonsense"]).await;
    assert!(code == Some(2) && errors.contains("is no address"), "{errors}");
    let (code, _, errors) = gateway.command(&["status", "--config", "missing.toml"]).await;
    assert!(code == Some(2) && errors.contains("cannot read missing.toml"), "{errors}");
    let told = || gateway.access_log().len() == 1;
    eventually("the request that a public listener got", told).await;
}

/// Where a value is not what a schema says: as much of JSON Schema as the description uses.
fn violations(schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    let kinds: Vec<_> = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        kinds => kinds.as_array().expect("a type").iter().filter_map(Value::as_str).collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        found.push(format!("{place}: {kind} instead of {kinds:?}"));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        found.push(format!("{place}: {value} is none of {choices:?}"));
    }
    if let Value::Array(items) = value {
        items
            .iter()
            .enumerate()
            .for_each(|(at, item)| violations(&schema["items"], item, &format!("{place}[{at}]"), found));
    }
    if let (Value::Object(fields), Some(properties)) = (value, schema["properties"].as_object()) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.push(format!("{place}.{name} is missing"));
            }
        }
        for (name, field) in fields {
            match properties.get(name) {
                Some(schema) => violations(schema, field, &format!("{place}.{name}"), found),
                None => found.push(format!("{place}.{name} is not described")),
            }
        }
    }
}

#[tokio::test]
async fn adm_10_every_answer_is_what_its_description_says() {
    let stage = setup()
        .server("workers = 2")
        .websocket("max_tunnels = 10\nping_interval = \"1s\"")
        .upstream("drain_rate = 1\nhealth = { tcp = true, interval = \"100ms\" }")
        .start();
    let api = Api::of(&stage.gateway);
    let _tunnels = tunnels(&stage).await;
    stage.clear().await.ask(&Request::get("/nowhere")).await.assert_refused(404, "no-route");
    assert_eq!(stage.clear().await.ask(&Request::get("/n")).await.status, 200);
    let description = api.get("/api/v1/openapi.json").await;
    assert_eq!(description["openapi"], "3.1.0");
    let server = format!("http://{}", stage.b1.address);
    let mut drain = String::new();
    let bodies = [
        ("/api/v1/log", json!({ "level": "warn" })),
        ("/api/v1/drains", json!({ "what": "server", "server": server })),
        ("/api/v1/reload", json!({})),
        ("/api/v1/tunnels/close", json!({ "filter": "id=0" })),
    ];
    let mut operations: Vec<_> = Vec::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            operations.push((path.clone(), method.to_ascii_uppercase(), operation.clone()));
        }
    }
    // What changes something comes first, so that there is something to be seen; and what is undone last.
    operations.sort_by_key(|(_, method, _)| match method.as_str() {
        "POST" | "PUT" => 0,
        "GET" => 1,
        _ => 2,
    });
    for (path, method, operation) in operations {
        let path = path.replace("{id}", &drain);
        let body = bodies.iter().find(|(of, _)| *of == path).map_or(json!({}), |(_, body)| body.clone());
        let answer = if method == "GET" { api.try_get(&path).await } else { api.try_send(&method, &path, &body).await };
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        let content = &operation["responses"]["200"]["content"];
        if !content["application/json"].is_object() {
            continue;
        }
        let (schema, value) = (&content["application/json"]["schema"], crate::harness::json(&answer));
        let mut found = Vec::new();
        violations(schema, &value, &format!("{method} {path}"), &mut found);
        assert!(found.is_empty(), "{found:#?}\n{value:#}");
        if method == "POST" && path == "/api/v1/drains" {
            value["drains"][0]["id"].as_str().expect("an id").clone_into(&mut drain);
        }
    }
    let error = &description["components"]["schemas"]["Error"];
    for path in ["/api/v1/nothing", "/api/v1/tunnels?filter=x", "/api/v1/status?x=1"] {
        let mut found = Vec::new();
        violations(error, &crate::harness::json(&api.try_get(path).await), path, &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
    stage.gateway.replace("portcullis.toml", "nonsense");
    let refused = crate::harness::json(&api.try_send("POST", "/api/v1/reload", &json!({})).await);
    let schema =
        &description["paths"]["/api/v1/reload"]["post"]["responses"]["422"]["content"]["application/json"]["schema"];
    let mut found = Vec::new();
    violations(schema, &refused, "reload", &mut found);
    assert!(found.is_empty() && refused["problems"] != json!([]), "{found:#?} {refused}");
}

#[tokio::test]
async fn adm_14_checks_of_servers_keep_their_pace_while_the_admin_listener_is_hammered() {
    let stage = setup().upstream("health = { tcp = true, interval = \"100ms\", timeout = \"1s\" }").start();
    let api = Api::of(&stage.gateway);
    let checks = async || {
        let list = api.get("/api/v1/upstreams").await;
        let b1 =
            list["upstreams"].as_array().expect("a list").iter().find(|row| row["name"] == "b1").expect("b1").clone();
        b1["servers"][0]["checks"]["passed"].as_u64().expect("a number")
    };
    let _tunnels = tunnels(&stage).await;
    let (before, start) = (checks().await, std::time::Instant::now());
    let hammer = async || {
        while start.elapsed() < std::time::Duration::from_secs(3) {
            let _ = api.try_get("/api/v1/tunnels").await;
            let _ = api.try_get("/api/v1/openapi.json").await;
        }
    };
    futures_util::future::join_all((0..8).map(|_| hammer())).await;
    let (made, took) = (checks().await - before, start.elapsed());
    let due = took.as_millis() as u64 / 100;
    assert!(made * 2 > due, "{made} checks in {took:?}");
}

#[tokio::test]
async fn adm_15_files_that_change_are_read_again_and_what_is_refused_is_refused_once() {
    let stage = setup().server("watch = true").start();
    let gateway = &stage.gateway;
    gateway.replace("portcullis.toml", &stage.toml.replace("name = \"public\"", "name = \"renamed\""));
    eventually("a reload by itself", || gateway.reloads().len() == 1).await;
    assert!(gateway.reloads()[0]["routes"].as_str().is_some_and(|routes| routes.contains("added renamed")));
    // A certificate that comes before its key is refused, and taken when both are there.
    let renewed = crate::harness::pki().renewed("a.test");
    gateway.replace("a.pem", &renewed.cert_pem);
    eventually("a refusal", || gateway.reloads().len() == 2).await;
    assert_eq!(gateway.reloads()[1]["refused"], 1);
    for round in 0..10 {
        gateway.replace("portcullis.toml", &format!("nonsense {round}"));
    }
    eventually("another refusal", || gateway.reloads().len() == 3).await;
    crate::harness::pause(1_500).await;
    assert_eq!(gateway.reloads().len(), 3, "one for all of them");
    gateway.replace_certificate("a", &renewed);
    gateway.replace("portcullis.toml", &stage.toml.replace("watch = true", "watch = false"));
    let is_in_use = || gateway.reloads().last().is_some_and(|event| event["message"] == "reloaded");
    eventually("what is whole again is in use", is_in_use).await;
    let before = gateway.reloads().len();
    gateway.replace("portcullis.toml", "nonsense");
    crate::harness::pause(1_500).await;
    assert_eq!(gateway.reloads().len(), before, "nobody watches any more");
}
