//! ADM: `portcullis top` at a real terminal.

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Frame, Handshake, Screen, Setup, Stage, Tunnel, Way, admin_table};

async fn stage_with(count: usize) -> (Stage, Vec<Tunnel>) {
    let stage = Setup::new().more(&admin_table("")).server("workers = 2").start();
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let mut tunnel = Way::ALL[0].tunnel(&stage, &Handshake::to("/ws")).await;
        tunnel.echo("hello").await;
        tunnels.push(tunnel);
    }
    (stage, tunnels)
}

fn top(stage: &Stage, more: &[&str]) -> Screen {
    let admin = stage.gateway.admin();
    let args = [&["top", "--every", "200ms", "--admin", &admin], more].concat();
    Screen::start(env!("CARGO_BIN_EXE_portcullis"), &args, 110, 30)
}

#[tokio::test]
async fn adm_16_top_shows_live_tunnels_closes_one_after_a_question_and_leaves_the_terminal_as_it_was() {
    let (stage, mut tunnels) = stage_with(3).await;
    let mut screen = top(&stage, &["--sort", "age"]);
    screen.shows("● running").await;
    screen.shows("3 tunnels").await;
    screen.shows("127.0.0.1").await;
    screen.shows("AGE↓").await;
    // Rates come with the second answer.
    tunnels[1].echo("and again").await;
    screen.keys("m");
    screen.shows("MSG/S↓").await;
    screen.keys("/rout=x\r");
    screen.shows("did you mean `route`?").await;
    screen.keys("\u{15}route=other\r");
    screen.shows("no tunnel matches").await;
    screen.keys("/\u{15}\r");
    screen.shows(" open ").await;
    screen.keys("?");
    screen.shows("close the chosen tunnel, after a question").await;
    screen.keys("?");
    // The oldest one.
    screen.keys("a");
    screen.shows("AGE↓").await;
    screen.keys("k");
    screen.shows("Close tunnel").await;
    screen.keys("\tlong enough\r");
    assert_eq!(tunnels[0].frame().await, Frame::close(1008, "long enough"));
    screen.shows("2 tunnels").await;
    screen.resize(60, 12);
    screen.shows_no_more("STATE").await;
    screen.shows("2 tunnels").await;
    screen.keys("q");
    assert_eq!(screen.ends().await, Some(0));
}

#[tokio::test]
async fn adm_16_top_gives_the_terminal_back_when_a_signal_ends_it() {
    let (stage, _tunnels) = stage_with(1).await;
    for (signal, keys) in
        [(Some(Signal::TERM), ""), (Some(Signal::HUP), ""), (Some(Signal::INT), "/x"), (None, "\u{3}")]
    {
        let mut screen = top(&stage, &[]);
        screen.shows("● running").await;
        screen.keys(keys);
        if let Some(signal) = signal {
            let pid = Pid::from_raw(screen.child.id().cast_signed()).expect("a process");
            kill_process(pid, signal).expect("it runs");
        }
        assert_eq!(screen.ends().await, Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn adm_16_top_ends_with_its_terminal() {
    let (stage, _tunnels) = stage_with(1).await;
    let mut screen = top(&stage, &[]);
    screen.shows("● running").await;
    screen.hang_up();
    let status = screen.is_over().await;
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    // Also one that is told to end while it waits for a terminal that takes nothing.
    let mut screen = top(&stage, &[]);
    screen.shows("● running").await;
    screen.stop();
    let pid = Pid::from_raw(screen.child.id().cast_signed()).expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    screen.is_over().await;
}

#[tokio::test]
async fn adm_16_top_says_that_the_gateway_is_away() {
    let (stage, _tunnels) = stage_with(1).await;
    let mut screen = top(&stage, &[]);
    screen.shows("● running").await;
    drop(stage);
    screen.shows("● no answer").await;
    screen.keys("q");
    assert_eq!(screen.ends().await, Some(0));
}

#[tokio::test]
async fn adm_16_top_without_a_terminal_or_a_gateway_says_so_and_takes_nothing() {
    let (stage, _tunnels) = stage_with(0).await;
    let (code, out, errors) = stage.gateway.operate(&["top"]).await;
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(errors.contains("stdout is no terminal") && errors.contains("portcullis ps"), "{errors}");
    let admin = stage.gateway.admin();
    for (args, status, words) in [
        (&["top", "--admin", "127.0.0.1:1"][..], 1, "cannot reach"),
        (&["top", "rout=x", "--admin", &admin], 2, "did you mean `route`?"),
        (&["top", "--sort", "size", "--admin", "127.0.0.1:1"], 2, "sort by one of"),
        (&["top", "--every", "1ms", "--admin", "127.0.0.1:1"], 2, "from 200ms"),
    ] {
        let mut screen = Screen::start(env!("CARGO_BIN_EXE_portcullis"), args, 80, 24);
        assert_eq!(screen.ends().await, Some(status), "{args:?}");
        assert!(screen.raw().contains(words) && !screen.raw().contains("\u{1b}[?1049h"), "{:?}", screen.raw());
    }
}
