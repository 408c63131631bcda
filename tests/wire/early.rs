//! Answers that come before their requests have ended, and answers that belong to nobody.

use std::time::Duration;

use crate::harness::{Backend, Peer, Request, Setup, Way, eventually, holds_within, pause, whole};

/// Answers as soon as a head is there and reads nothing more.
fn hasty() -> Backend {
    Backend::scripted(async |mut peer: Peer| {
        let head = peer.head().await?;
        peer.nonce(&head).await?;
        if head.method() == "POST" {
            return peer.until_over().await;
        }
        peer.serve().await
    })
}

#[tokio::test]
async fn smg_39_an_upload_that_was_answered_and_then_stops_holds_no_upstream() {
    for way in Way::ALL {
        for expect in [false, true] {
            let stage = Setup::new().b1(hasty()).start();
            let mut upload = Request::new("POST", "/n").body(vec![b'x'; 100_000]);
            if expect {
                upload = upload.field("Expect", "100-continue");
            }
            // Part of the body, then nothing: neither more of it nor an end.
            let mut h1 = None;
            let mut h2 = None;
            if way == Way::H2 {
                let mut client = stage.h2().await;
                let (answer, mut send) = client.begin(upload.to_h2(), false).await;
                send.send_data(vec![b'x'; 1000].into(), false).expect("a window");
                let answer = answer.await.expect("an answer");
                let answer = whole(answer).await.expect("a whole answer");
                assert_eq!((answer.status, answer.text()), (200, upload.nonce.clone()));
                h2 = Some((client, send));
            } else {
                let mut client = way.client(&stage).await;
                client.send(&upload.to_h1()[..1000]).await;
                let answer = client.answer().await;
                assert_eq!((answer.status, answer.text()), (200, upload.nonce.clone()));
                h1 = Some(client);
            }
            let record = stage.b1.records().remove(0);
            let over = holds_within(Duration::from_secs(2), || record.is_over()).await;
            assert!(over, "{way:?} {expect}: the upstream waits for the rest of an upload that was answered");
            // On HTTP/1.1 the connection ends, on h2 only the stream.
            if let Some(mut client) = h1 {
                client.expect_end().await;
            }
            if let Some((mut client, _send)) = h2 {
                let next = Request::get("/n");
                assert_eq!(client.ask(&next).await.text(), next.nonce);
            }
        }
    }
}

/// Holds a process still, and returns when every thread of it stands.
async fn stop(pid: u32) {
    signal(pid, rustix::process::Signal::STOP);
    let stands = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    };
    eventually("every thread stopped", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten().all(stands)
    })
    .await;
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("a living process");
}

/// More events than one look at the sockets brings, and none of the others wakes anybody: the client's request is seen
/// in the first look and sent on before the second, which alone would have told of the stray answer on the pooled
/// connection. What is known of the connection is out of date then, and only the socket itself can tell.
#[tokio::test]
async fn rsp_06_a_stray_answer_that_the_runtime_has_not_noticed_yet_is_given_to_nobody() {
    // The runtime takes 1024 events at once.
    const CROWD: usize = 1100;
    let (stray, wait) = tokio::sync::watch::channel(false);
    let (sent, mut written) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::scripted(move |mut peer: Peer| {
        let (mut wait, sent) = (wait.clone(), sent.clone());
        async move {
            let head = peer.head().await?;
            if head.target() == "/n/held" {
                return peer.until_over().await;
            }
            peer.nonce(&head).await?;
            if peer.number > CROWD {
                return peer.serve().await;
            }
            let _ = wait.wait_for(|go| *go).await;
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale").await?;
            let _ = sent.send(());
            peer.until_over().await
        }
    });
    let stage = Setup::new().b1(backend).start();
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut other = stage.clear().await;
        // Nobody reads what comes behind a request that is not answered yet.
        other.send(Request::get("/n/held").to_h1()).await;
        crowd.push(other);
    }
    eventually("the crowd at the backend", || stage.b1.requests().len() == CROWD).await;
    for other in &mut crowd {
        other.send("G").await;
    }
    let mut client = stage.clear().await;
    let first = Request::get("/n");
    assert_eq!(client.ask(&first).await.text(), first.nonce);
    assert_eq!(stage.b1.connections(), CROWD + 1);

    stop(stage.gateway.pid()).await;
    let second = Request::get("/n");
    client.send(second.to_h1()).await;
    for other in &mut crowd {
        other.send("E").await;
    }
    stray.send(true).expect("a waiting backend");
    written.recv().await.expect("the stray answer is out");
    // Loopback delivers at once; the pause is for the machine that does not.
    pause(50).await;
    signal(stage.gateway.pid(), rustix::process::Signal::CONT);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, second.nonce));
}
