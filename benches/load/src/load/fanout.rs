//! One message to everybody: a source, `--connections` subscribers, a rate of messages at the source.
//!
//! A unit is one delivery. The message begins with its intended time, so that each delivery can be timed.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::{Common, tunnels};
use crate::args::{Args, Problem};
use crate::dial::Stream;
use crate::measure::{Stats, Window};
use crate::pacer::Pacer;
use crate::ws::{self, Frames, Seen};

pub async fn run(args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let size: usize = args.or("size", 256)?;
    args.done()?;
    let rate = common.rate.ok_or("fanout wants --rate, the messages a second at its source")?;
    for stream in tunnels(common, common.connections, "/fanout").await? {
        spawn_local(subscribe(stream, Rc::clone(&common.stats)));
    }
    let mut source = tunnels(common, 1, "/fanout/source").await?.remove(0);
    let (mut pacer, stats) = (Pacer::new(rate)?, Rc::clone(&common.stats));
    let began = stats.now();
    let publish = spawn_local(async move {
        let mut payload = vec![b'x'; size.max(8)];
        loop {
            for _ in 0..pacer.tick().await.unwrap_or(0) {
                let intended = (began + pacer.intended()).as_nanos() as u64;
                payload[..8].copy_from_slice(&intended.to_be_bytes());
                if source.write_all(&ws::masked(ws::BINARY, &payload)).await.is_err() {
                    return;
                }
            }
            // Whether it failed shows at the next write.
            let _ = source.flush().await;
        }
    });
    // The window begins and ends midway between two messages, so that it has whole ones.
    let midway = ((common.warm.as_secs_f64() * rate).floor() + 0.5) / rate;
    let messages = (common.length.as_secs_f64() * rate).round().max(1.0);
    tokio::time::sleep(Duration::from_secs_f64(midway).saturating_sub(common.stats.now() - began)).await;
    let window = Window::open(&common.stats, &common.pids);
    tokio::time::sleep(Duration::from_secs_f64(messages / rate)).await;
    publish.abort();
    window.close(Some(rate * common.connections as f64))
}

async fn subscribe(mut stream: Stream, stats: Rc<Stats>) {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 4096];
    let mut stamp: Vec<u8> = Vec::with_capacity(8);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        frames.feed(&mut buffer[..read], |seen| match seen {
            Seen::Header(..) => stamp.clear(),
            Seen::Payload(piece) => {
                let wanted = 8 - stamp.len();
                stamp.extend(piece.iter().take(wanted));
            }
            Seen::End(opcode) if opcode < ws::CONTROL => {
                let intended = stamp.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
                stats.finished(Duration::from_nanos(intended));
            }
            Seen::End(_) => {}
        });
    }
    stats.failed("a subscription ended");
}
