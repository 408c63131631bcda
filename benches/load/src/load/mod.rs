//! The scenarios. Each opens what it needs, warms up, measures one window, and prints one line of JSON.

mod fanout;
mod idle;
mod lane;
mod sessions;
mod steady;

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinSet, LocalSet};

use crate::args::{Args, Problem};
use crate::dial::{Dial, Stream};
use crate::measure::Stats;

/// Connections that are being opened at the same time.
const OPENING: usize = 32;

/// What all scenarios share.
pub struct Common {
    pub dial: Dial,
    pub stats: Rc<Stats>,
    pub connections: usize,
    /// Units a second; none is a closed loop.
    pub rate: Option<f64>,
    pub warm: Duration,
    pub length: Duration,
    pub pids: Vec<u32>,
}

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let scenario = args.positional(1).unwrap_or_default().to_owned();
    let common = Common {
        dial: Dial::new(args)?,
        stats: Rc::new(Stats::new()?),
        connections: args.or("connections", 50)?,
        rate: args.optional("rate")?,
        warm: Duration::from_secs_f64(args.or("warm", 1.0)?),
        length: Duration::from_secs_f64(args.or("seconds", 5.0)?),
        pids: args.list("pids")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, async {
        match scenario.as_str() {
            "echo" | "get" => steady::run(&scenario, args, &common).await,
            "sessions" => sessions::run(args, &common).await,
            "idle" => idle::run(args, &common).await,
            "fanout" => fanout::run(args, &common).await,
            _ => Err("scenarios are echo, get, sessions, idle and fanout".into()),
        }
    })?;
    println!("{result}");
    Ok(())
}

/// Opens tunnels, a few at a time; one that fails ends the scenario.
async fn tunnels(dial: &Dial, count: usize, path: &str) -> Result<Vec<Stream>, Problem> {
    open(count, || {
        let (dial, path) = (dial.clone(), path.to_owned());
        async move { dial.tunnel(&path).await }
    })
    .await
}

async fn open<F>(count: usize, one: impl Fn() -> F) -> Result<Vec<Stream>, Problem>
where
    F: Future<Output = std::io::Result<Stream>> + 'static,
{
    let (mut opening, mut streams) = (JoinSet::new(), Vec::with_capacity(count));
    let mut begun = 0;
    while streams.len() < count {
        while begun < count && opening.len() < OPENING {
            opening.spawn_local(one());
            begun += 1;
        }
        match opening.join_next().await {
            Some(stream) => streams.push(stream??),
            None => return Err("connections got lost".into()),
        }
    }
    Ok(streams)
}

/// Adds to a scenario's figures.
fn with(mut figures: Value, name: &str, value: impl Into<Value>) -> Value {
    figures[name] = value.into();
    figures
}
