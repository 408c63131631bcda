//! Those who have nothing to do with what is done to the gateway: newcomers who connect, send one message and go, again and
//! again; and bystanders, whose echo is timed from the moment at which it was due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior};

use crate::args::Problem;
use crate::dial::{Dial, Stream};
use crate::ws;

const PATIENCE: Duration = Duration::from_secs(20);
/// Between two visits of one newcomer.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two echoes of one bystander.
const PERIOD: Duration = Duration::from_millis(20);

pub struct Newcomers {
    /// To the clear listener and to the one with TLS.
    dials: [Dial; 2],
    /// What the gateway has to show of itself.
    certificate: RefCell<Option<Rc<[u8]>>>,
    outdated: Cell<u64>,
    came: Cell<u64>,
    refused: Cell<u64>,
    failed: Cell<u64>,
    problems: RefCell<BTreeMap<String, u64>>,
    longest: Cell<Duration>,
}

impl Newcomers {
    pub fn new(dials: [Dial; 2], count: usize) -> Rc<Self> {
        let newcomers = Rc::new(Self {
            dials,
            certificate: RefCell::default(),
            outdated: Cell::new(0),
            came: Cell::new(0),
            refused: Cell::new(0),
            failed: Cell::new(0),
            problems: RefCell::default(),
            longest: Cell::new(Duration::ZERO),
        });
        for number in 0..count {
            spawn_local(Rc::clone(&newcomers).come(number));
        }
        newcomers
    }

    /// From now on only this certificate is shown; whoever comes and sees another is counted.
    pub fn expect(&self, certificate: Vec<u8>) {
        self.certificate.replace(Some(certificate.into()));
    }

    /// What happened since this was asked last.
    pub fn told(&self) -> Value {
        json!({
            "came": self.came.take(),
            "refused": self.refused.take(),
            "failed": self.failed.take(),
            "outdated": self.outdated.take(),
            "problems": self.problems.take(),
            "longest_ms": self.longest.take().as_secs_f64() * 1000.0,
        })
    }

    async fn come(self: Rc<Self>, number: usize) {
        let mut visits = number;
        loop {
            let (expected, began) = (self.certificate.borrow().clone(), Instant::now());
            let visit = tokio::time::timeout(PATIENCE, visit(&self.dials[visits % 2])).await;
            match visit.unwrap_or_else(|late| Err(late.into())) {
                Ok(shown) => {
                    self.came.set(self.came.get() + 1);
                    let is_outdated = shown.zip(expected).is_some_and(|(shown, expected)| shown[..] != expected[..]);
                    self.outdated.set(self.outdated.get() + u64::from(is_outdated));
                }
                Err(problem) => {
                    let count =
                        if problem.kind() == io::ErrorKind::ConnectionRefused { &self.refused } else { &self.failed };
                    count.set(count.get() + 1);
                    *self.problems.borrow_mut().entry(problem.to_string()).or_default() += 1;
                }
            }
            self.longest.set(self.longest.get().max(began.elapsed()));
            visits += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The certificate that was seen.
async fn visit(dial: &Dial) -> io::Result<Option<Vec<u8>>> {
    let mut stream = dial.tunnel("/echo").await?;
    stream.one_message().await?;
    stream.write_all(&ws::masked(ws::CLOSE, &1000u16.to_be_bytes())).await?;
    stream.flush().await?;
    while stream.read(&mut [0; 128]).await? > 0 {}
    Ok(stream.certificate().map(<[u8]>::to_vec))
}

pub struct Bystanders {
    dials: [Dial; 2],
    latency: RefCell<Histogram<u64>>,
    /// Tunnels that had to be opened anew.
    again: Cell<u64>,
}

impl Bystanders {
    pub fn new(dials: [Dial; 2], count: usize) -> Result<Rc<Self>, Problem> {
        let latency = RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?);
        let bystanders = Rc::new(Self { dials, latency, again: Cell::new(0) });
        for number in 0..count {
            spawn_local(Rc::clone(&bystanders).stand(number));
        }
        Ok(bystanders)
    }

    /// Percentiles in microseconds since this was asked last.
    pub fn told(&self) -> Value {
        let mut latency = self.latency.borrow_mut();
        let at = |quantile| latency.value_at_quantile(quantile);
        let told = json!({
            "echoes": latency.len(), "p50": at(0.5), "p99": at(0.99), "max": latency.max(), "again": self.again.take(),
        });
        latency.reset();
        told
    }

    async fn stand(self: Rc<Self>, number: usize) {
        loop {
            if let Ok(stream) = self.dials[number % 2].tunnel("/echo").await {
                // Whatever ended it, another one follows.
                let _ = self.echo(stream).await;
            }
            self.again.set(self.again.get() + 1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn echo(&self, mut stream: Stream) -> io::Result<()> {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let due = ticks.tick().await;
            tokio::time::timeout(PATIENCE, stream.one_message()).await??;
            self.latency.borrow_mut().saturating_record(due.elapsed().as_micros() as u64);
        }
    }
}
