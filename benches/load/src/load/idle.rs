//! Holding connections: what each costs in memory while nothing happens, what all of them cost in CPU, and what is left
//! of them when they have gone.
//!
//! Memory for each is the difference between the first and the last level, so that what a program needs by itself does
//! not count. A tunnel has carried one small message before it rests, a connection that is kept alive one request, as
//! real ones would have. `--kind`: `tunnel`, `h2` (tunnels over HTTP/2), `tcp` (a connection that says nothing), `tls`
//! (nothing after the TLS handshake), `keepalive`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Common, open, tunnels};
use crate::args::{Args, Problem};
use crate::dial::Stream;
use crate::h2;
use crate::measure::{Peak, cpu, pss};

/// What a connection does before it rests.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tunnel,
    H2,
    Tcp,
    Tls,
    KeepAlive,
}

pub async fn run(args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let levels: Vec<usize> = args.list("levels")?;
    let settle = Duration::from_secs_f64(args.or("settle", 3.0)?);
    let again = args.flag("again");
    let kind: String = args.or("kind", "tunnel".to_owned())?;
    args.done()?;
    let kind = match kind.as_str() {
        "tunnel" => Kind::Tunnel,
        "h2" => Kind::H2,
        "tcp" => Kind::Tcp,
        "tls" => Kind::Tls,
        "keepalive" => Kind::KeepAlive,
        _ => return Err("--kind is tunnel, h2, tcp, tls or keepalive".into()),
    };
    if levels.is_empty() || !levels.is_sorted_by(|one, next| one < next) {
        return Err("idle wants --levels, each higher than the one before".into());
    }
    if kind == Kind::H2 {
        multiplexed(common, &levels, settle).await
    } else {
        held(common, kind, &levels, settle, again).await
    }
}

async fn held(common: &Common, kind: Kind, levels: &[usize], settle: Duration, again: bool) -> Result<Value, Problem> {
    let before = pss(&common.pids);
    let (mut measured, mut idle_share) = (Vec::new(), 0.0);
    let (mut peaks, mut after) = (Vec::new(), Vec::new());
    let last = levels[levels.len() - 1];
    for burst in 0..=usize::from(again) {
        let peak = Peak::watch(&common.pids);
        let mut streams = Vec::with_capacity(last);
        for &level in if burst == 0 { levels } else { &levels[levels.len() - 1..] } {
            streams.extend(rest(common, kind, level - streams.len()).await?);
            tokio::time::sleep(settle).await;
            let (began, spent) = (Instant::now(), cpu(&common.pids));
            tokio::time::sleep(settle).await;
            idle_share = (cpu(&common.pids) - spent) as f64 / 1e9 / began.elapsed().as_secs_f64();
            if burst == 0 {
                measured.push(pss(&common.pids));
            }
        }
        peaks.push(peak.stop());
        streams.clear();
        // Twice as long: an allocator gives pages back in steps.
        tokio::time::sleep(settle * 2).await;
        after.push(pss(&common.pids));
    }
    let grown = measured[measured.len() - 1] as f64 - measured[0] as f64;
    Ok(json!({
        "units": last,
        "levels": levels,
        "start_kib": before,
        "pss_kib": measured,
        "peak_kib": peaks,
        "after_kib": after,
        "kib_per_unit": grown / (last - levels[0]).max(1) as f64,
        "idle_cpu_share": idle_share,
        "sustained": true,
    }))
}

/// So many connections that have done what `kind` says.
async fn rest(common: &Common, kind: Kind, count: usize) -> Result<Vec<Stream>, Problem> {
    if kind == Kind::Tunnel {
        let mut streams = tunnels(common, count, "/echo").await?;
        for stream in &mut streams {
            stream.one_message().await?;
        }
        return Ok(streams);
    }
    let (dial, host) = (common.dial.clone(), common.dial.host().to_owned());
    let mut streams = open(count, || {
        let dial = dial.clone();
        async move { if kind == Kind::Tcp { dial.tcp().await.map(Stream::Tcp) } else { dial.connect().await } }
    })
    .await?;
    if kind == Kind::KeepAlive {
        let request = format!("GET /1k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for stream in &mut streams {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            let mut answer = Vec::with_capacity(2048);
            while answer.len() < 1024 || !answer.ends_with(&[b'x'; 1024]) {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err("a connection ended before its answer".into());
                }
            }
        }
    }
    Ok(streams)
}

/// HTTP/2 connections: what one with a tunnel costs, and what each further tunnel on it does, up to 10 and up to 100.
/// The levels are numbers of connections; a quarter of the last one gets 100 tunnels.
async fn multiplexed(common: &Common, levels: &[usize], settle: Duration) -> Result<Value, Problem> {
    let (first, last) = (levels[0], levels[levels.len() - 1]);
    let mut sessions: Vec<Rc<h2::Session>> = Vec::with_capacity(last);
    let (mut tunnels, mut measured) = (Vec::new(), Vec::new());
    let before = pss(&common.pids);
    for (connections, on_each) in [(first, 1), (last, 1), (last, 9), (last / 4, 90)] {
        while sessions.len() < connections {
            sessions.push(Rc::new(h2::Session::open(&common.dial).await?));
        }
        let from = if (connections, on_each) == (last, 1) { first } else { 0 };
        let mut opening = tokio::task::JoinSet::new();
        for session in &sessions[from..connections] {
            let session = Rc::clone(session);
            opening.spawn_local(async move {
                let mut opened = Vec::with_capacity(on_each);
                for _ in 0..on_each {
                    let mut tunnel = session.tunnel("/echo").await.map_err(|problem| problem.to_string())?;
                    tunnel.one_message().await.map_err(|problem| problem.to_string())?;
                    opened.push(tunnel);
                }
                Ok::<_, String>(opened)
            });
        }
        while let Some(opened) = opening.join_next().await {
            tunnels.extend(opened??);
        }
        tokio::time::sleep(settle).await;
        measured.push(pss(&common.pids));
    }
    let grown = |at: usize, count: usize| (measured[at] as f64 - measured[at - 1] as f64) / count.max(1) as f64;
    let figures = json!({
        "units": tunnels.len(),
        "start_kib": before,
        "pss_kib": measured,
        "kib_per_unit": grown(1, last - first),
        "kib_per_further_10": grown(2, last * 9),
        "kib_per_further_100": grown(3, last / 4 * 90),
        "sustained": true,
    });
    drop((tunnels, sessions));
    tokio::time::sleep(settle).await;
    Ok(figures)
}
