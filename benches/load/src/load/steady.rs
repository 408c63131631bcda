//! Open connections that do the same thing over and over: messages through tunnels, or GETs.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_local;

use super::lane::{Answers, Http, Lane, Runner};
use super::{Common, open, tunnels, with};
use crate::args::{Args, Problem};
use crate::pacer::Pacer;
use crate::ws::{self, Frames};

/// How long it takes until every buffer on the way to a client that has stopped is full.
const FILLING: Duration = Duration::from_millis(700);

pub async fn run(scenario: &str, args: &mut Args, common: &Common) -> Result<Value, Problem> {
    let mut stalled = 0;
    let (request, streams) = if scenario == "echo" {
        let size: usize = args.or("size", 64)?;
        stalled = args.or("stalled", 0)?;
        args.done()?;
        (ws::masked(ws::BINARY, &vec![b'x'; size]), tunnels(common, common.connections, "/echo").await?)
    } else {
        let path: String = args.or("path", "/1k".to_owned())?;
        args.done()?;
        let dial = common.dial.clone();
        let connect = move || {
            let dial = dial.clone();
            async move { dial.connect().await }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", common.dial.host());
        (request.into_bytes(), open(common.connections, connect).await?)
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
    drive(common, lanes)?;
    let figures = common.window().await?;
    if stalled == 0 {
        return Ok(figures);
    }
    // The same again, beside tunnels whose client never reads what is pumped into them.
    let without = figures["latency_us"].clone();
    let stalled = tunnels(common, stalled, "/pump?65536").await?;
    tokio::time::sleep(FILLING).await;
    let figures = with(common.window().await?, "latency_without_us", without);
    Ok(with(figures, "stalled", stalled.len()))
}

/// Begins units on the lanes, at the rate or as the answers come, for as long as the program runs.
fn drive(common: &Common, lanes: Vec<Rc<Lane>>) -> Result<(), Problem> {
    let Some(rate) = common.rate else {
        lanes.iter().for_each(|lane| lane.begin(common.stats.now()));
        return Ok(());
    };
    let (mut pacer, began) = (Pacer::new(rate)?, common.stats.now());
    spawn_local(async move {
        let mut next = 0;
        while let Ok(due) = pacer.tick().await {
            for _ in 0..due {
                lanes[next % lanes.len()].begin(began + pacer.intended());
                next += 1;
            }
        }
    });
    Ok(())
}
