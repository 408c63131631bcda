//! One thread with its own runtime: it takes arrivals and runs connections; nothing of a connection ever leaves it.
//!
//! Owns the tools that the worker's requests share without locks: the snapshot in use, pools, scratch buffer, timer
//! wheel, access log. Ends when the process has ended.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::clock::{self, Wheel};
use crate::connection;
use crate::exchange::{Numbers, Tools};
use crate::lifecycle::{self, Lifecycle};
use crate::listener::{Arrival, WorkerLoad, WorkerPort};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;

/// How long those who are cut may take to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Names of servers that one worker looks up at once; further ones wait, within their connect timeout.
const NAME_LOOKUPS: usize = 16;

/// A worker that has been started.
pub struct Worker {
    pub port: WorkerPort,
    thread: std::thread::JoinHandle<()>,
}

impl Worker {
    /// # Errors
    /// The system has no thread, or no descriptors for its runtime.
    pub fn start(
        (number, workers): (usize, usize),
        snapshot: Arc<Snapshot>,
        lifecycle: Lifecycle,
        access: AccessLogHandle,
    ) -> io::Result<Self> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let thread = lifecycle::thread(&format!("worker-{number}"), move || {
            if let Err(error) = run(Numbers::new(number, workers), snapshot, &lifecycle, &access, inbox) {
                tracing::error!(worker = number, %error, "a worker could not start");
                lifecycle.end();
            }
        })?;
        Ok(Self { port: WorkerPort { load: Arc::new(WorkerLoad::default()), inbox: sender }, thread })
    }

    /// Waits for its thread. The process must have been told to end.
    pub fn join(self) {
        let Self { port, thread } = self;
        drop(port);
        // A panic has been reported by the thread itself.
        let _ = thread.join();
    }
}

fn run(
    numbers: Numbers,
    snapshot: Arc<Snapshot>,
    lifecycle: &Lifecycle,
    access: &AccessLogHandle,
    inbox: UnboundedReceiver<Arrival>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(NAME_LOOKUPS)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(numbers, snapshot, lifecycle, access, inbox));
    Ok(())
}

async fn serve(
    numbers: Numbers,
    snapshot: Arc<Snapshot>,
    lifecycle: &Lifecycle,
    access: &AccessLogHandle,
    mut inbox: UnboundedReceiver<Arrival>,
) {
    let (phase, follower) = lifecycle.follow();
    lifecycle::spawn_local("phase follower", follower);
    let (log, flusher) = access.worker();
    lifecycle::spawn_local("access log flusher", flusher);
    let (wheel, ticker) = Wheel::new();
    lifecycle::spawn_local("timer wheel", ticker.on_descriptor());
    let tools = Rc::new(Tools::new(snapshot, lifecycle.clone(), phase.clone(), log, wheel, numbers));
    let mut stop = phase.stop();
    loop {
        tokio::select! {
            biased;
            () = stop.ended() => break,
            arrival = inbox.recv() => match arrival {
                Some(arrival) => {
                    lifecycle::spawn_local("connection", connection::run(arrival, tools.clone()));
                }
                None => {
                    stop.ended().await;
                    break;
                }
            },
        }
    }
    // Tunnels say Close, and wait a moment for the answer.
    lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
    // Everyone who was cut gets a turn to say so in the log.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
