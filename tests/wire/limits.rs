//! LIM: what one peer may take, and that taking it costs the others nothing.

use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Client, End, Fields, Handshake, Peer, Request, Setup, Stage, Way, eventually, pause, percentile,
};

/// A GET whose head, the empty line included, has this many bytes.
fn head_of(bytes: usize) -> Vec<u8> {
    let base = b"GET /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\nX-Fill: \r\n\r\n".len();
    let fill = "x".repeat(bytes - base);
    format!("GET /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\nX-Fill: {fill}\r\n\r\n").into_bytes()
}

/// A GET with this many fields.
fn fields_of(count: usize) -> Vec<u8> {
    let more: String = (0..count - 2).map(|number| format!("X-{number}: 1\r\n")).collect();
    format!("GET /n HTTP/1.1\r\nHost: a.test\r\nX-Nonce: mine\r\n{more}\r\n").into_bytes()
}

#[tokio::test]
async fn lim_01_heads_beyond_the_limits_are_431_and_those_below_are_served() {
    for way in Way::H1 {
        let stage = Stage::standard().await;
        for bytes in [head_of(70 * 1024), head_of(16 * 1024 + 256), fields_of(101)] {
            let mut client = way.client(&stage).await;
            // The answer may come while the head is still being written.
            let _ = client.try_send(&bytes).await;
            let statuses = client.statuses_until_end().await;
            assert!(matches!(statuses[..], [431 | 400]), "{way:?} {} bytes: {statuses:?}", bytes.len());
        }
        stage.b1.assert_untouched();
        for bytes in [head_of(16 * 1024 - 256), fields_of(100)] {
            let mut client = way.client(&stage).await;
            client.send(&bytes).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.text()), (200, "mine".to_owned()), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn lim_01_limits_can_be_set() {
    let stage = Setup::new().listener_limits("head_size = \"9KiB\"\nfields = 10\ntarget_size = \"100B\"").start();
    for (bytes, status) in
        [(head_of(8 * 1024), 200), (head_of(10 * 1024), 431), (fields_of(10), 200), (fields_of(11), 431)]
    {
        let mut client = stage.clear().await;
        client.send(&bytes).await;
        assert_eq!(client.answer().await.status, status, "{}", bytes.len());
    }
    for way in Way::ALL {
        let long = Request::get(&format!("/n?{}", "x".repeat(100)));
        way.ask(&stage, &long).await.assert_refused(414, "target-too-long");
        way.refused(&stage, &Handshake::to(&format!("/ws?{}", "x".repeat(100))), 414, "target-too-long").await;
    }
}

#[tokio::test]
async fn lim_01_heads_over_h2_have_the_same_limits() {
    let stage = Setup::new().listener_limits("head_size = \"9KiB\"\nfields = 10").start();
    let mut many = Request::get("/n");
    for number in 0..12 {
        many = many.field(&format!("x-{number}"), "1");
    }
    let big = Request::get("/n").field("x-fill", &"x".repeat(12 * 1024));
    for request in [many, big] {
        // h2 itself may end the stream before a request is made of it.
        if let Ok(answer) = stage.h2().await.try_ask(&request).await {
            assert_eq!(answer.status, 431, "{} fields", request.fields.len());
        }
    }
    stage.b1.assert_untouched();
}

#[tokio::test]
async fn lim_01_a_target_beyond_its_limit_is_414() {
    let stage = Stage::standard().await;
    for way in Way::ALL {
        let fits = Request::get(&format!("/n?{}", "x".repeat(8 * 1024 - 16)));
        assert_eq!(way.ask(&stage, &fits).await.status, 200);
        let long = Request::get(&format!("/n?{}", "x".repeat(9 * 1024)));
        way.ask(&stage, &long).await.assert_refused(414, "target-too-long");
    }
}

#[tokio::test]
async fn lim_03_a_head_that_trickles_is_cut_at_its_deadline_from_the_first_byte() {
    for way in Way::H1 {
        let stage = Setup::new().listener_timeouts("request_head = \"1s\"").start();
        let client = way.client(&stage).await;
        let mut stream = client.into_stream();
        let start = Instant::now();
        let mut bytes = Request::get("/n").field("X-Slow", &"x".repeat(1000)).to_h1().into_iter();
        while stream.silent_for(100).await {
            assert!(start.elapsed() < Duration::from_secs(5), "each byte bought more time");
            let byte = bytes.next().expect("not so many bytes in that time");
            if stream.write(&[byte]).await.is_err() {
                break;
            }
        }
        assert!(start.elapsed() > Duration::from_millis(800), "{:?}", start.elapsed());
        stage.b1.assert_untouched();
        let lines = stage.gateway.logged(1).await;
        assert_eq!(
            (&lines[0]["end"], &lines[0]["side"]),
            (&"client-timeout".into(), &"downstream".into()),
            "{lines:?}"
        );
        assert!(lines[0].get("status").is_none(), "nothing was answered: {lines:?}");
        stage.assert_serving().await;
    }
}

#[tokio::test]
async fn lim_03_a_body_that_stops_is_cut_at_its_deadline() {
    for way in Way::H1 {
        let stage = Setup::new().route_timeouts("request_body_idle = \"500ms\"").start();
        let mut client = way.client(&stage).await;
        client.send("POST /n HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhalf").await;
        let statuses = client.statuses_until_end().await;
        assert!(matches!(statuses[..], [] | [408]), "{statuses:?}");
        let records = stage.b1.records();
        eventually("the end of the upstream's connection", || records.iter().all(|record| record.is_over())).await;
    }
}

#[tokio::test]
async fn lim_03_an_idle_connection_is_closed_without_a_word() {
    for way in Way::H1 {
        let stage = Setup::new().listener_timeouts("keep_alive = \"500ms\"").start();
        let mut client = way.client(&stage).await;
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
        let start = Instant::now();
        assert_eq!(client.expect_end().await, End::Fin);
        assert!(start.elapsed() > Duration::from_millis(300), "{:?}", start.elapsed());
    }
}

/// What ten requests over TLS take, a tenth of a second apart.
async fn canary(stage: &Stage) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        let request = Request::get("/n");
        assert_eq!(Way::Tls.ask(stage, &request).await.text(), request.nonce);
        times.push(start.elapsed());
        pause(100).await;
    }
    times
}

#[tokio::test]
async fn lim_06_silent_connections_on_the_tls_port_slow_nobody_and_are_cut() {
    let stage = Setup::new().listener_timeouts("tls_handshake = \"2s\"").start();
    let quiet = percentile(canary(&stage).await, 80);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Client::clear(stage.gateway.address("tls")).await);
    }
    let slow = percentile(canary(&stage).await, 80);
    assert!(slow < (quiet * 3).max(Duration::from_millis(100)), "{slow:?}, {quiet:?} before");
    for mut client in silent {
        // An alert may be said before the end.
        client.rest().await;
    }
}

#[tokio::test]
async fn lim_10_connections_beyond_the_limit_are_closed_at_once_and_room_is_used_again() {
    let stage = Setup::new().server("max_connections = 20").start();
    let mut inside = Vec::new();
    for _ in 0..20 {
        let mut client = stage.clear().await;
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
        inside.push(client);
    }
    let start = Instant::now();
    for _ in 0..20 {
        let mut client = stage.clear().await;
        let (rest, _) = client.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503"), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for client in &mut inside {
        assert_eq!(client.ask(&Request::get("/n")).await.status, 200);
    }
    inside.truncate(10);
    let mut recovered = false;
    let start = Instant::now();
    while !recovered && start.elapsed() < Duration::from_secs(2) {
        let mut client = stage.clear().await;
        let sent = client.try_send(Request::get("/n").to_h1()).await.is_ok();
        recovered = sent && client.try_answer("GET").await.is_ok_and(|answer| answer.status == 200);
    }
    assert!(recovered);
}

#[tokio::test]
async fn lim_11_running_out_of_descriptors_is_survived_without_spinning() {
    let mut stage = Setup::new().descriptors(64).start();
    stage.assert_serving().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(stage.clear().await);
    }
    pause(500).await;
    let (cpu, start) = (stage.gateway.cpu(), Instant::now());
    pause(2000).await;
    let share = (stage.gateway.cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.3, "{:.0} % of a core while starved", share * 100.0);
    assert!(stage.gateway.is_alive());
    let lines = stage.gateway.stderr().lines().count();
    assert!(lines < 60, "{lines} lines of log");
    drop(held);
    let start = Instant::now();
    loop {
        let mut client = stage.clear().await;
        let sent = client.try_send(Request::get("/n").to_h1()).await.is_ok();
        if sent && client.try_answer("GET").await.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(4), "does not serve again");
        pause(50).await;
    }
}

#[tokio::test]
async fn lim_13_a_client_that_pipelines_and_does_not_read_is_held_back() {
    let backend = Backend::scripted(async |mut peer: Peer| {
        let body = "y".repeat(16 * 1024);
        loop {
            peer.head().await?;
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
        }
    });
    let stage = Setup::new().b1(backend).start();
    let before = stage.gateway.rss();
    let mut stream = stage.clear().await.into_stream();
    let batch: Vec<u8> = (0..100).flat_map(|_| Request::get("/n").to_h1()).collect();
    for _ in 0..100 {
        if tokio::time::timeout(Duration::from_secs(1), stream.write(&batch)).await.is_err() {
            break;
        }
    }
    let mut last = 0;
    loop {
        pause(300).await;
        let now = stage.b1.requests().len();
        if now == last {
            break;
        }
        last = now;
    }
    assert!(last < 5000, "{last} requests were served to nobody");
    let grown = stage.gateway.rss().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    let head =
        tokio::time::timeout(Duration::from_secs(5), stream.head()).await.expect("an answer").expect("an answer");
    assert_eq!((head.status(), head.get("content-length")), (200, Some("16384")));
}
