//! Whole sessions: connect, TLS handshake, WebSocket handshake, Close both ways, end.
//!
//! With a rate: each begins at its intended time, however long others take. With `--count`: a storm, as many at once as
//! `--connections` says, until so many are done; the figures then are those of the storm.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, spawn_local};

use super::{Common, with};
use crate::args::{Args, Problem};
use crate::dial::Dial;
use crate::measure::{Stats, Window};
use crate::pacer::Pacer;
use crate::ws;

const PATIENCE: Duration = Duration::from_secs(20);

pub async fn run(args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let count: Option<u64> = args.optional("count")?;
    args.done()?;
    match (count, common.rate) {
        (Some(count), _) => storm(common, count).await,
        (None, Some(rate)) => paced(common, rate).await,
        (None, None) => Err("sessions want --rate or --count".into()),
    }
}

async fn paced(common: &Common, rate: f64) -> Result<Value, Problem> {
    let (mut pacer, began) = (Pacer::new(rate)?, common.stats.now());
    let (dial, stats) = (common.dial.clone(), Rc::clone(&common.stats));
    spawn_local(async move {
        while let Ok(due) = pacer.tick().await {
            for _ in 0..due {
                spawn_local(counted(dial.clone(), Rc::clone(&stats), began + pacer.intended(), || ()));
            }
        }
    });
    common.window().await
}

/// How long it took until each could be used is told apart from how long the whole session took.
async fn storm(common: &Common, count: u64) -> Result<Value, Problem> {
    let opened = Rc::new(Stats::new()?);
    let window = Window::open(&common.stats, &common.pids);
    let mut running = JoinSet::new();
    for _ in 0..count {
        if running.len() >= common.connections {
            running.join_next().await;
        }
        let (dial, stats, opened) = (common.dial.clone(), Rc::clone(&common.stats), Rc::clone(&opened));
        running.spawn_local(async move {
            let (began, from) = (stats.now(), opened.now());
            counted(dial, stats, began, || opened.finished(from)).await;
        });
    }
    while running.join_next().await.is_some() {}
    let figures = with(window.close(None)?, "connect_us", opened.latencies());
    Ok(with(figures, "storm", count))
}

async fn counted(dial: Dial, stats: Rc<Stats>, intended: Duration, opened: impl FnOnce()) {
    match tokio::time::timeout(PATIENCE, session(&dial, opened)).await {
        Ok(Ok(())) => stats.finished(intended),
        Ok(Err(problem)) => stats.failed(problem),
        Err(late) => stats.failed(late),
    }
}

async fn session(dial: &Dial, opened: impl FnOnce()) -> io::Result<()> {
    let mut stream = dial.tunnel("/echo").await?;
    opened();
    stream.write_all(&ws::masked(ws::CLOSE, &1000u16.to_be_bytes())).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer != [0x88, 2, 3, 232] {
        return Err(io::Error::other("not the Close frame that was sent"));
    }
    // The server ends the connection (RFC 6455, 7.1.1); a client that is refused its last words does not mind.
    let mut rest = [0; 16];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
    let _ = stream.shutdown().await;
    Ok(())
}
