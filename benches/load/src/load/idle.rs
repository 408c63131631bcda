//! Holding tunnels: what each costs in memory while nothing happens, and what all of them cost in CPU.
//!
//! Each tunnel has carried one small message before it rests, as a real one would have. Memory per tunnel is the
//! difference between the first and the last level, so that what a program needs by itself does not count.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Common, tunnels};
use crate::args::{Args, Problem};
use crate::measure::{cpu, pss};
use crate::ws;

pub async fn run(args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let levels: Vec<usize> = args.list("levels")?;
    let settle = Duration::from_secs_f64(args.or("settle", 3.0)?);
    args.done()?;
    let (Some(first), Some(last)) = (levels.first().copied(), levels.last().copied()) else {
        return Err("idle wants --levels".into());
    };
    let before = pss(&common.pids);
    let (mut held, mut measured) = (Vec::new(), Vec::new());
    let mut idle_share = 0.0;
    for level in levels {
        for mut stream in tunnels(&common.dial, level - held.len(), "/echo").await? {
            stream.write_all(&ws::masked(ws::BINARY, &[b'x'; 64])).await?;
            stream.flush().await?;
            let mut answer = [0; 66];
            stream.read_exact(&mut answer).await?;
            held.push(stream);
        }
        tokio::time::sleep(settle).await;
        let (began, spent) = (Instant::now(), cpu(&common.pids));
        tokio::time::sleep(settle).await;
        idle_share = (cpu(&common.pids) - spent) as f64 / 1e9 / began.elapsed().as_secs_f64();
        measured.push(pss(&common.pids));
    }
    let grown = measured.last().copied().unwrap_or(0) as f64 - measured.first().copied().unwrap_or(0) as f64;
    drop(held);
    tokio::time::sleep(settle).await;
    Ok(json!({
        "units": last,
        "pss_before_kib": before,
        "pss_kib": measured,
        "pss_after_kib": pss(&common.pids),
        "kib_per_tunnel": grown / (last - first).max(1) as f64,
        "idle_cpu_share": idle_share,
        "sustained": true,
    }))
}
