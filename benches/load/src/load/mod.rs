//! The scenarios. Each opens what it needs, warms up, measures one window, and prints one line of JSON.

mod fanout;
mod idle;
mod lane;
mod sessions;
mod steady;

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, LocalSet};

use crate::args::{Args, Problem};
use crate::dial::{Dial, Stream};
use crate::h2;
use crate::measure::{Stats, Window};

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
    /// With `--h2`: tunnels on each connection.
    pub per: usize,
    /// The window ends when standard input does, or after `length`.
    pub until_eof: bool,
}

impl Common {
    /// Warm-up and one window.
    async fn window(&self) -> Result<Value, Problem> {
        tokio::time::sleep(self.warm).await;
        let window = Window::open(&self.stats, &self.pids);
        if self.until_eof {
            end_of_input(self.length).await?;
        } else {
            tokio::time::sleep(self.length).await;
        }
        window.close(self.rate)
    }
}

/// Waits until whoever started this closes its standard input, a pipe.
async fn end_of_input(at_most: Duration) -> Result<(), Problem> {
    // As in the pacer: sound for a descriptor that nobody replaces.
    #[allow(deprecated, reason = "the safe constructor")]
    let input = AsyncFd::new(std::io::stdin())?;
    // Nothing is ever written to it, so that it becomes readable at its end.
    let _ready_or_late = tokio::time::timeout(at_most, input.readable()).await;
    Ok(())
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
        per: args.or("per", 10)?,
        until_eof: args.flag("until-eof"),
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
async fn tunnels(common: &Common, count: usize, path: &str) -> Result<Vec<Stream>, Problem> {
    if common.dial.h2 {
        let mut streams = Vec::with_capacity(count);
        while streams.len() < count {
            let session = h2::Session::open(&common.dial).await?;
            for _ in 0..common.per.min(count - streams.len()) {
                streams.push(session.tunnel(path).await?);
            }
        }
        return Ok(streams);
    }
    open(count, || {
        let (dial, path) = (common.dial.clone(), path.to_owned());
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
