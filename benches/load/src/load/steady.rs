//! Open connections that do the same thing over and over: messages through tunnels, or GETs.

use std::rc::Rc;

use serde_json::Value;
use tokio::task::spawn_local;

use super::lane::{Answers, Http, Lane, Runner};
use super::{Common, open, tunnels, with};
use crate::args::{Args, Problem};
use crate::measure::Window;
use crate::pacer::Pacer;
use crate::ws::{self, Frames};

pub async fn run(scenario: &str, args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let (request, streams, stalled) = if scenario == "echo" {
        let size: usize = args.or("size", 64)?;
        let stalled: usize = args.or("stalled", 0)?;
        args.done()?;
        let stalled = tunnels(&common.dial, stalled, "/pump?65536").await?;
        let streams = tunnels(&common.dial, common.connections, "/echo").await?;
        (ws::masked(ws::BINARY, &vec![b'x'; size]), streams, stalled)
    } else {
        let path: String = args.or("path", "/1k".to_owned())?;
        args.done()?;
        let dial = common.dial.clone();
        let connect = move || {
            let dial = dial.clone();
            async move { dial.connect().await }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", common.dial.host());
        (request.into_bytes(), open(common.connections, connect).await?, Vec::new())
    };
    let request: Rc<[u8]> = request.into();
    let mut lanes = Vec::with_capacity(streams.len());
    for stream in streams {
        let lane = Rc::new(Lane::default());
        let answers = match scenario {
            "echo" => Answers::Messages(Frames::default()),
            _ => Answers::Http(Http::default()),
        };
        let runner = Runner {
            stream,
            lane: Rc::clone(&lane),
            stats: Rc::clone(&common.stats),
            request: Rc::clone(&request),
            answers,
            closed_loop: common.rate.is_none(),
        };
        spawn_local(runner.run());
        lanes.push(lane);
    }
    let figures = measure(common, lanes).await?;
    Ok(with(figures, "stalled", stalled.len()))
}

/// Drives the lanes through warm-up and window.
async fn measure(common: &Common, lanes: Vec<Rc<Lane>>) -> Result<Value, Problem> {
    match common.rate {
        None => lanes.iter().for_each(|lane| lane.begin(common.stats.now())),
        Some(rate) => {
            let stats = Rc::clone(&common.stats);
            let (mut pacer, began) = (Pacer::new(rate)?, stats.now());
            spawn_local(async move {
                let mut next = 0;
                while let Ok(due) = pacer.tick().await {
                    for _ in 0..due {
                        lanes[next % lanes.len()].begin(began + pacer.intended());
                        next += 1;
                    }
                }
            });
        }
    }
    tokio::time::sleep(common.warm).await;
    let window = Window::open(&common.stats, &common.pids);
    tokio::time::sleep(common.length).await;
    Ok(window.close(common.rate))
}
