//! The life of the process: bind, start workers, announce, serve (and reload), drain or hand over, end.
//!
//! The order is fixed: everything that can fail has failed before the first address is announced, and before the process
//! whose place this one takes lets go of its sockets. The calling thread
//! becomes the control plane (signals, health checks); each worker has its own; one further thread accepts, unless there is only one
//! worker, which then does that as well.

mod serving;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::admin::{self, Admin, Plane};
use crate::clock;
use crate::config::Document;
use crate::config::model::Config;
use crate::control::{self, Drains, Gauged, InUse, Metrics, Reloads, Sweeps, Tunnels};
use crate::handover::{Entrance, PidFile, Upgrades};
use crate::lifecycle::notify::Notifier;
use crate::lifecycle::signals::Signals;
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections, Shut};
use crate::listener::{self, BindError, BoundListener, Inherited, NotListening, Order, Sockets};
use crate::reload::{Control, Reloader, Running};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::events;
use crate::upstream::Upkeep;
use crate::worker::Worker;
use serving::Serving;

/// How long workers may take to close what was cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Names of servers that checks look up at once.
const NAME_LOOKUPS: usize = 16;

/// Why the gateway did not come up, or did not stay up.
#[derive(Debug)]
pub enum RunError {
    /// An address could not be bound.
    Bind(BindError),
    /// What was inherited is nothing to listen with.
    Inherited(NotListening),
    /// The system refused something else that is needed (threads, descriptors, the access log's file).
    System(&'static str, io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(out),
            Self::Inherited(error) => error.fmt(out),
            Self::System(what, error) => write!(out, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(error) => Some(error),
            Self::Inherited(error) => Some(error),
            Self::System(_, error) => Some(error),
        }
    }
}

/// How the process was started.
#[derive(Debug)]
pub struct Launch {
    pub entrance: Entrance,
    pub pid_file: Option<PathBuf>,
}

/// Serves until it is told to stop. `document` is where configuration and snapshot come from.
///
/// # Errors
/// See [`RunError`]; nothing has been announced when it is returned.
pub fn run(document: Document, config: Config, snapshot: Snapshot, launch: &mut Launch) -> Result<(), RunError> {
    let events = events::start(&config.log).map_err(|error| RunError::System("start the event log", error))?;
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "the service manager cannot be reached");
        Notifier::default()
    });
    let (descriptors, _) = limits::raise_descriptor_limit();
    let connections = Connections::new(limits::fit_connections(config.server.max_connections, descriptors));
    let entrance = &mut launch.entrance;
    let mut inherited = Inherited::new(entrance.take_given()).map_err(RunError::Inherited)?;
    let with_books = config.listeners.iter().zip(&snapshot.listeners);
    let bound = with_books.map(|(listener, plan)| listener::open(listener, &plan.book, &mut inherited));
    let bound = bound.collect::<Result<Vec<_>, _>>().map_err(RunError::Bind)?;
    let admin = snapshot.admin.as_ref().map(|plan| admin::bind(plan, &mut inherited));
    let admin = admin.transpose().map_err(RunError::Bind)?;
    let access = AccessLogHandle::start(&config.log).map_err(|error| RunError::System("open the access log", error))?;
    let mut pid_file = launch
        .pid_file
        .as_deref()
        .map(PidFile::prepare)
        .transpose()
        .map_err(|error| RunError::System("write the pid file", error))?;
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
    let in_use = InUse::new(snapshot.clone());
    let gauged = Gauged {
        in_use: in_use.clone(),
        workers: workers.iter().map(Worker::view).collect(),
        connections: connections.clone(),
        lifecycle: lifecycle.clone(),
        access_log: access.lost(),
        event_log: events.lost(),
    };
    let plane = Plane {
        drains: Drains::new(&snapshot),
        sweeps: Sweeps::new(&snapshot),
        tunnels,
        reloads: Reloads::default(),
        in_use,
        metrics: Metrics::new(gauged),
        loads: workers.iter().map(|worker| worker.port.load.clone()).collect(),
        connections: connections.clone(),
        lifecycle: lifecycle.clone(),
        log: events.switches(),
        started: (clock::now(), clock::wall()),
    };
    let handles = bound.iter().map(BoundListener::handle).collect();
    let admin_handle = admin.as_ref().map(BoundListener::handle);
    let admin = snapshot.admin.clone().zip(admin);
    let admin = admin
        .map(|(plan, bound)| Admin::start(bound, plan, plane.clone()))
        .transpose()
        .map_err(|error| RunError::System("start the admin listener", error))?;
    let unused = close_unused(inherited);
    entrance.wait_for_go(&unused).map_err(|error| RunError::System("take the other process's place", error))?;
    let accepting = start_accepting(bound, snapshot.shut_listeners.clone(), &mut workers, connections.clone())
        .map_err(|error| RunError::System("start accepting", error))?;
    // Before the other process can be gone, which removes a file that still names it.
    pid_file
        .as_mut()
        .map_or(Ok(()), PidFile::publish)
        .map_err(|error| RunError::System("put the pid file in its place", error))?;
    entrance.serving();
    let sockets = Sockets::new(handles, admin_handle, notifier.clone());
    sockets.claim();
    unused.iter().for_each(|name| notifier.forget_socket(name));
    events::announce(&addresses, admin.as_ref().map(Admin::open).as_deref());
    notifier.ready(&format!("serving at {} addresses", addresses.len()));

    let (repeats, refusals) = (events.repeats(), access.tell_refusals());
    let control = Rc::new(Control {
        drain_timeout: Cell::default(),
        drain_rate: Cell::default(),
        upgrade_timeout: Cell::default(),
        upgrade_drain_timeout: Cell::default(),
        sockets: RefCell::new(sockets),
        notifier: notifier.clone(),
        access: RefCell::new(access),
        events,
        admin: RefCell::new(admin),
        watch: RefCell::default(),
    });
    control.follow(&config.server);
    control.watch(config.server.watch && document.can_be_read_again(), &snapshot, &plane.reloads);
    let max_connections = (config.server.max_connections, descriptors);
    let name_servers = config.server.name_servers.clone();
    // What was read is in the snapshot, and that is another one after a reload.
    drop((config, addresses));
    runtime.block_on(async {
        let inboxes: Vec<_> = workers.iter().map(|worker| worker.port.inbox.clone()).collect();
        let upgrades = document.can_be_read_again().then(|| Upgrades::new(entrance.program(), notifier.clone()));
        let reloader = Reloader::new(Running {
            // Until the very end: what drains may still have to connect.
            upkeep: Upkeep::start(&snapshot.upstreams, name_servers.as_deref()),
            document,
            snapshot,
            inboxes: inboxes.clone(),
            acceptor: accepting.orders.clone(),
            connections,
            max_connections,
            control: control.clone(),
            lifecycle: lifecycle.clone(),
            plane: plane.clone(),
        });
        lifecycle::spawn_local("repeated events", repeats.run());
        lifecycle::spawn_local("refusals without a line", refusals);
        lifecycle::spawn_local("server drains", plane.drains.clone().run(plane.tunnels.clone()));
        lifecycle::spawn_local("sweeps", plane.sweeps.clone().run(plane.tunnels.clone()));
        lifecycle::spawn_local("reload", reloader.run());
        lifecycle::spawn_local(
            "watchdog",
            control::watchdog(notifier, lifecycle.clone(), inboxes.clone(), accepting.orders),
        );
        Serving {
            signals,
            control: &control,
            reloads: plane.reloads,
            drains: plane.drains,
            sweeps: plane.sweeps,
            upgrades,
            pid_file,
            inboxes,
            lifecycle: &lifecycle,
            stop_accepting: accepting.stop,
        }
        .run()
        .await;
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

/// Closes what no listener has a use for; the names.
fn close_unused(inherited: Inherited) -> Vec<String> {
    let closed = inherited.close();
    for (name, address) in &closed {
        tracing::warn!(
            name,
            address,
            "an inherited socket is closed: no listener of this configuration has its address"
        );
    }
    closed.into_iter().map(|(name, _)| name).collect()
}

/// The accept loop at work.
struct Accepting {
    stop: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    /// `None`: the only worker runs it.
    thread: Option<std::thread::JoinHandle<()>>,
}

/// On a thread of its own, or by the only worker: a connection then wakes one thread instead of two, and there is no
/// other worker whom a busy one could keep waiting.
fn start_accepting(
    bound: Vec<BoundListener>,
    shut: Arc<Shut>,
    workers: &mut [Worker],
    connections: Connections,
) -> io::Result<Accepting> {
    let (stop, stopped) = watch::channel(false);
    // One for a reload, and one for the watchdog.
    let (orders, told) = mpsc::channel(2);
    let ports = workers.iter().map(|worker| worker.port.clone()).collect();
    let accepting = async {
        if let Err(error) = listener::accept_loop(bound, shut, ports, connections, stopped, told).await {
            tracing::error!(%error, "cannot accept");
        }
    };
    if let [worker] = workers {
        worker.accept(Box::pin(accepting));
        return Ok(Accepting { stop, orders, thread: None });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = lifecycle::thread("acceptor", move || runtime.block_on(accepting))?;
    Ok(Accepting { stop, orders, thread: Some(thread) })
}
