//! The life of the process: bind, start workers, announce, serve (and reload), drain, end.
//!
//! The order is fixed: everything that can fail has failed before the first address is announced. The calling thread
//! becomes the control plane (signals, health checks); each worker has its own; one further thread accepts, unless there is only one
//! worker, which then does that as well.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::admin::{self, Admin, Plane};
use crate::clock;
use crate::config::Document;
use crate::config::model::Config;
use crate::control::{Drains, Gauged, InUse, Metrics, Reloads, Tunnels};
use crate::lifecycle::signals::{Request, Signals};
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections};
use crate::listener::{self, BindError, BoundListener, Change};
use crate::reload::{Control, Reloader, Running};
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

/// Serves until it is told to stop. `document` is where configuration and snapshot come from.
///
/// # Errors
/// See [`RunError`]; nothing has been announced when it is returned.
pub fn run(document: Document, config: Config, snapshot: Snapshot) -> Result<(), RunError> {
    let events = events::start(&config.log).map_err(|error| RunError::System("start the event log", error))?;
    let (descriptors, _) = limits::raise_descriptor_limit();
    let connections = Connections::new(limits::fit_connections(config.server.max_connections, descriptors));
    let with_books = config.listeners.iter().zip(&snapshot.listeners);
    let bound = with_books.map(|(listener, plan)| listener::bind(listener, &plan.book));
    let bound = bound.collect::<Result<Vec<_>, _>>().map_err(RunError::Bind)?;
    let admin = snapshot.admin.as_ref().map(|plan| admin::bind(plan)).transpose().map_err(RunError::Bind)?;
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

    let addresses: Vec<_> = config
        .listeners
        .iter()
        .zip(&bound)
        .map(|(listener, bound)| bound.announcement(listener.tls.is_some()))
        .collect();
    let tunnels = Tunnels::new(workers.iter().map(|worker| worker.commands.clone()).collect());
    let gauged = Gauged {
        workers: workers.iter().map(Worker::view).collect(),
        connections: connections.clone(),
        lifecycle: lifecycle.clone(),
        access_log: access.lost(),
        event_log: events.lost(),
    };
    let plane = Plane {
        drains: Drains::new(&snapshot),
        tunnels,
        reloads: Reloads::default(),
        in_use: InUse::new(snapshot.clone()),
        metrics: Metrics::new(gauged, snapshot.clone()),
        loads: workers.iter().map(|worker| worker.port.load.clone()).collect(),
        connections: connections.clone(),
        lifecycle: lifecycle.clone(),
        log: events.switches(),
        started: (clock::now(), clock::wall()),
    };
    let admin = snapshot.admin.clone().zip(admin);
    let admin = admin
        .map(|(plan, bound)| Admin::start(bound, plan, plane.clone()))
        .transpose()
        .map_err(|error| RunError::System("start the admin listener", error))?;
    let accepting = start_accepting(bound, &mut workers, connections.clone())
        .map_err(|error| RunError::System("start accepting", error))?;
    events::announce(&addresses, admin.as_ref().map(Admin::open).as_deref());

    let control = Rc::new(Control {
        drain_timeout: Cell::new(config.server.drain_timeout),
        access: RefCell::new(access),
        events,
        admin: RefCell::new(admin),
    });
    let max_connections = (config.server.max_connections, descriptors);
    let name_servers = config.server.name_servers.clone();
    // What was read is in the snapshot, and that is another one after a reload.
    drop((config, addresses));
    runtime.block_on(async {
        let reloader = Reloader::new(Running {
            // Until the very end: what drains may still have to connect.
            upkeep: Upkeep::start(&snapshot.upstreams, name_servers.as_deref()),
            document,
            snapshot,
            inboxes: workers.iter().map(|worker| worker.port.inbox.clone()).collect(),
            acceptor: accepting.changes,
            connections,
            max_connections,
            control: control.clone(),
            lifecycle: lifecycle.clone(),
            plane: plane.clone(),
        });
        lifecycle::spawn_local("server drains", plane.drains.clone().run(plane.tunnels.clone()));
        lifecycle::spawn_local("reload", reloader.run());
        serve(signals, &control, &plane.reloads, &lifecycle, &accepting.stop).await;
    });
    // To the last: whoever waits for the end of a drain is told of it.
    if let Some(admin) = control.admin.take() {
        admin.end();
    }

    if let Some(thread) = accepting.thread {
        let _ = thread.join();
    }
    for worker in workers {
        worker.join();
    }
    control.access.borrow().flush(LAST_WORDS);
    Ok(())
}

/// The control plane: waits for what the operator wants, until the last connection has ended or been cut.
async fn serve(
    mut signals: Signals,
    control: &Control,
    reloads: &Reloads,
    lifecycle: &Lifecycle,
    stop_accepting: &watch::Sender<bool>,
) {
    loop {
        match signals.next().await {
            Request::Drain => break,
            Request::End => return end(lifecycle, stop_accepting),
            Request::Reopen => control.access.borrow().reopen(),
            Request::Reload => reloads.ask(),
        }
    }
    let drain_timeout = control.drain_timeout.get();
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
        () = second_stop(&mut signals, control) => tracing::warn!(connections = lifecycle.open(), "cut by a second signal"),
    }
    end(lifecycle, stop_accepting);
    lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
    tracing::info!("stopped");
}

async fn second_stop(signals: &mut Signals, control: &Control) {
    loop {
        match signals.next().await {
            Request::End => return,
            // A first one has been there.
            Request::Drain => {}
            Request::Reopen => control.access.borrow().reopen(),
            Request::Reload => tracing::warn!("no reload: the gateway stops"),
        }
    }
}

fn end(lifecycle: &Lifecycle, stop_accepting: &watch::Sender<bool>) {
    let _ = stop_accepting.send(true);
    lifecycle.end();
}

/// The accept loop at work.
struct Accepting {
    stop: watch::Sender<bool>,
    changes: mpsc::Sender<Change>,
    /// `None`: the only worker runs it.
    thread: Option<std::thread::JoinHandle<()>>,
}

/// On a thread of its own, or by the only worker: a connection then wakes one thread instead of two, and there is no
/// other worker whom a busy one could keep waiting.
fn start_accepting(
    bound: Vec<BoundListener>,
    workers: &mut [Worker],
    connections: Connections,
) -> io::Result<Accepting> {
    let (stop, stopped) = watch::channel(false);
    let (changes, changed) = mpsc::channel(1);
    let ports = workers.iter().map(|worker| worker.port.clone()).collect();
    let accepting = async {
        if let Err(error) = listener::accept_loop(bound, ports, connections, stopped, changed).await {
            tracing::error!(%error, "cannot accept");
        }
    };
    if let [worker] = workers {
        worker.accept(Box::pin(accepting));
        return Ok(Accepting { stop, changes, thread: None });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = lifecycle::thread("acceptor", move || runtime.block_on(accepting))?;
    Ok(Accepting { stop, changes, thread: Some(thread) })
}
