//! The life of the process: bind, start workers, announce, serve, drain, end.
//!
//! The order is fixed: everything that can fail has failed before the first address is announced. The calling thread
//! becomes the control plane (signals, health checks); each worker has its own; one further thread accepts, unless there is only one
//! worker, which then does that as well.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::config::model::{Config, ListenAddress, Listener};
use crate::control::{Drains, Tunnels};
use crate::lifecycle::signals::{Request, Signals};
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections};
use crate::listener::{self, BindError, BoundListener};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::events;
use crate::upstream::Upkeep;
use crate::worker::Worker;

/// How long workers may take to close what was cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Names of servers that checks look up at once.
const NAME_LOOKUPS: usize = 16;

/// Why the gateway did not come up, or did not stay up.
#[derive(Debug)]
pub enum RunError {
    /// An address could not be bound.
    Bind(BindError),
    /// The system refused something else that is needed (threads, descriptors, the access log's file).
    System(&'static str, io::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// See [`RunError`]; nothing has been announced when it is returned.
pub fn run(config: &Config, snapshot: Snapshot) -> Result<(), RunError> {
    let _events = events::start(&config.log).map_err(|error| RunError::System("start the event log", error))?;
    let (descriptors, _) = limits::raise_descriptor_limit();
    let connections = Connections::new(limits::fit_connections(config.server.max_connections, descriptors));
    let bound = config.listeners.iter().map(listener::bind).collect::<Result<Vec<_>, _>>().map_err(RunError::Bind)?;
    let access = AccessLogHandle::start(&config.log.access, config.log.format)
        .map_err(|error| RunError::System("open the access log", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(NAME_LOOKUPS)
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| RunError::System("start the control plane", error))?;

    // Before anything is announced: whoever waits for that may stop us the moment after.
    let signals =
        runtime.block_on(async { Signals::new() }).map_err(|error| RunError::System("receive signals", error))?;

    let lifecycle = Lifecycle::new();
    let snapshot = Arc::new(snapshot);
    let mut workers = (0..config.server.workers)
        .map(|number| {
            Worker::start((number, config.server.workers), snapshot.clone(), lifecycle.clone(), access.clone())
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| RunError::System("start a worker", error))?;

    let addresses =
        config.listeners.iter().zip(&bound).map(|(listener, bound)| address_line(listener, bound)).collect::<Vec<_>>();
    let (stop_accepting, acceptor) = start_accepting(bound, &mut workers, connections)
        .map_err(|error| RunError::System("start accepting", error))?;
    announce(&addresses);

    let tunnels = Tunnels::new(workers.iter().map(|worker| worker.commands.clone()).collect());
    let drains = Drains::new(&snapshot);
    runtime.block_on(async {
        // Until the very end: what drains may still have to connect.
        let _upkeep = Upkeep::start(&snapshot.upstreams, config.server.name_servers.as_deref());
        lifecycle::spawn_local("server drains", drains.run(tunnels));
        serve(signals, config.server.drain_timeout, &lifecycle, &stop_accepting, &access).await;
    });

    if let Some(acceptor) = acceptor {
        let _ = acceptor.join();
    }
    for worker in workers {
        worker.join();
    }
    access.flush(LAST_WORDS);
    Ok(())
}

/// The control plane: waits for what the operator wants, until the last connection has ended or been cut.
async fn serve(
    mut signals: Signals,
    drain_timeout: Duration,
    lifecycle: &Lifecycle,
    stop_accepting: &watch::Sender<bool>,
    access: &AccessLogHandle,
) {
    loop {
        match signals.next().await {
            Request::Drain => break,
            Request::End => return end(lifecycle, stop_accepting),
            Request::Reopen => access.reopen(),
            Request::Reload => tracing::warn!("a reload is not possible in this release; the configuration stays"),
        }
    }
    tracing::info!(open = lifecycle.open(), timeout = ?drain_timeout, "draining");
    let deadline = clock::now() + drain_timeout;
    let _ = stop_accepting.send(true);
    lifecycle.drain(deadline);
    let drained = async {
        let left = lifecycle.wait_empty(deadline).await;
        if left > 0 {
            tracing::warn!(connections = left, "cut at the end of the drain");
        }
    };
    tokio::select! {
        () = drained => {}
        () = second_stop(&mut signals) => tracing::warn!(connections = lifecycle.open(), "cut by a second signal"),
    }
    end(lifecycle, stop_accepting);
    lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
    tracing::info!("stopped");
}

async fn second_stop(signals: &mut Signals) {
    while signals.next().await != Request::End {}
}

fn end(lifecycle: &Lifecycle, stop_accepting: &watch::Sender<bool>) {
    let _ = stop_accepting.send(true);
    lifecycle.end();
}

/// On a thread of its own, or by the only worker: a connection then wakes one thread instead of two, and there is no
/// other worker whom a busy one could keep waiting.
fn start_accepting(
    bound: Vec<BoundListener>,
    workers: &mut [Worker],
    connections: Connections,
) -> io::Result<(watch::Sender<bool>, Option<std::thread::JoinHandle<()>>)> {
    let (sender, stop) = watch::channel(false);
    let ports = workers.iter().map(|worker| worker.port.clone()).collect();
    let accepting = async {
        if let Err(error) = listener::accept_loop(bound, ports, connections, stop).await {
            tracing::error!(%error, "cannot accept");
        }
    };
    if let [worker] = workers {
        worker.accept(Box::pin(accepting));
        return Ok((sender, None));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = lifecycle::thread("acceptor", move || runtime.block_on(accepting))?;
    Ok((sender, Some(thread)))
}

/// `listening on https://127.0.0.1:8443 (public)`, once the address really listens.
fn announce(addresses: &[String]) {
    let mut out = io::stdout().lock();
    for address in addresses {
        // Whoever started us may not care for our output.
        let _ = writeln!(out, "listening on {address}");
    }
    let _ = out.flush();
}

fn address_line(listener: &Listener, bound: &BoundListener) -> String {
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    match &bound.address {
        ListenAddress::Tcp(address) => format!("{scheme}://{address} ({})", listener.name),
        ListenAddress::Unix(path) => format!("unix:{} ({})", path.display(), listener.name),
    }
}
