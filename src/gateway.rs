//! The life of the process: bind, start workers, announce, serve (and reload), drain or hand over, end.
//!
//! The order is fixed: everything that can fail has failed before the first address is announced, and before the process
//! whose place this one takes lets go of its sockets. The calling thread
//! becomes the control plane (signals, health checks); each worker has its own; one further thread accepts, unless there is only one
//! worker, which then does that as well.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::admin::{self, Admin, Plane};
use crate::clock::{self, Instant};
use crate::config::Document;
use crate::config::model::Config;
use crate::control::{self, Drains, Gauged, InUse, Metrics, Reloads, Tunnels};
use crate::handover::{Entrance, PidFile, Successor, Upgrades};
use crate::lifecycle::notify::Notifier;
use crate::lifecycle::signals::{Request, Signals};
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections};
use crate::listener::{self, BindError, BoundListener, Change, Inherited, NotListening, Sockets};
use crate::reload::{Control, Reloader, Running};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::events;
use crate::upstream::Upkeep;
use crate::worker::{Message, Worker};

/// How long workers may take to close what was cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Names of servers that checks look up at once.
const NAME_LOOKUPS: usize = 16;

/// How long a connection that has never asked for anything may take to do so once another process serves: for as long as
/// where a reload takes its listener away.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How often the service manager is asked for patience during a drain, and for how much.
const PATIENCE_EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to count what was accepted last; it is a matter of one turn.
const SETTLING: Duration = Duration::from_secs(1);

/// So far away that it does not come, and still a moment that can be counted.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

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
    let access = AccessLogHandle::start(&config.log.access, config.log.format)
        .map_err(|error| RunError::System("open the access log", error))?;
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
    let handles = bound.iter().map(BoundListener::handle).collect();
    let admin_handle = admin.as_ref().map(BoundListener::handle);
    let admin = snapshot.admin.clone().zip(admin);
    let admin = admin
        .map(|(plan, bound)| Admin::start(bound, plan, plane.clone()))
        .transpose()
        .map_err(|error| RunError::System("start the admin listener", error))?;
    let unused = close_unused(inherited);
    entrance.wait_for_go(&unused).map_err(|error| RunError::System("take the other process's place", error))?;
    let accepting = start_accepting(bound, &mut workers, connections.clone())
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

    let control = Rc::new(Control {
        drain_timeout: Cell::default(),
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
            acceptor: accepting.changes,
            connections,
            max_connections,
            control: control.clone(),
            lifecycle: lifecycle.clone(),
            plane: plane.clone(),
        });
        lifecycle::spawn_local("server drains", plane.drains.clone().run(plane.tunnels.clone()));
        lifecycle::spawn_local("reload", reloader.run());
        lifecycle::spawn_local("watchdog", control::watchdog(notifier, inboxes.clone()));
        Serving {
            signals,
            control: &control,
            reloads: plane.reloads,
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

/// The control plane: waits for what the operator wants, until the last connection has ended or been cut.
struct Serving<'a> {
    signals: Signals,
    control: &'a Control,
    reloads: Reloads,
    /// `None`: the configuration cannot be read by another process.
    upgrades: Option<Upgrades>,
    pid_file: Option<PidFile>,
    inboxes: Vec<mpsc::UnboundedSender<Message>>,
    lifecycle: &'a Lifecycle,
    stop_accepting: watch::Sender<bool>,
}

/// Why the process takes no new work.
enum Stop {
    Drain,
    End,
    /// Another process serves.
    Replaced(Successor),
}

impl Serving<'_> {
    async fn run(mut self) {
        let stop = self.until_stop().await;
        self.upgrades.iter_mut().for_each(Upgrades::give_up);
        let lifecycle = self.lifecycle;
        if !matches!(stop, Stop::Replaced(_)) {
            self.control.sockets.borrow().leave();
        }
        let deadline = match stop {
            Stop::End => return self.end(),
            Stop::Drain => {
                let drain_timeout = self.control.drain_timeout.get();
                tracing::info!(open = lifecycle.open(), timeout = ?drain_timeout, "draining");
                self.control.notifier.stopping(&format!("draining for {drain_timeout:?} at most"));
                let deadline = clock::now() + drain_timeout;
                let _ = self.stop_accepting.send(true);
                lifecycle.drain(deadline);
                deadline
            }
            Stop::Replaced(successor) => {
                let timeout = self.control.upgrade_drain_timeout.get();
                tracing::info!(open = lifecycle.open(), ?timeout, successor = successor.pid, "draining: replaced");
                lifecycle::spawn_local("successor", successor.outlived());
                let now = clock::now();
                let deadline = now + timeout.unwrap_or(NEVER);
                let _ = self.stop_accepting.send(true);
                // Who asks from now on asks the process that serves.
                if let Some(admin) = self.control.admin.take() {
                    admin.retire();
                }
                lifecycle.hand_over(deadline, now + FIRST_REQUEST);
                deadline
            }
        };
        // Before that an open connection may be one that nobody counts yet.
        let _ = tokio::time::timeout(SETTLING, self.settled()).await;
        self.drained(deadline).await;
        self.end();
        lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
        tracing::info!("stopped");
    }

    async fn until_stop(&mut self) -> Stop {
        // A reload meanwhile would have the two processes serve two configurations.
        let mut reload_later = false;
        loop {
            let outcome = async {
                match &mut self.upgrades {
                    Some(upgrades) => upgrades.outcome().await,
                    None => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                biased;
                request = self.signals.next() => request,
                successor = outcome => match successor {
                    Some(successor) => return Stop::Replaced(successor),
                    None => {
                        // It may have got as far as to name itself there.
                        if let Some(Err(error)) = self.pid_file.as_ref().map(PidFile::put_back) {
                            tracing::error!(%error, "the pid file may name another process");
                        }
                        if std::mem::take(&mut reload_later) {
                            self.reloads.ask();
                        }
                        continue;
                    }
                },
            };
            match request {
                Request::Drain => return Stop::Drain,
                Request::End => return Stop::End,
                Request::Reopen => self.control.access.borrow().reopen(),
                Request::Reload if self.upgrades.as_ref().is_some_and(Upgrades::is_under_way) => {
                    tracing::warn!("no reload yet: an upgrade is under way, which reads the configuration as well");
                    reload_later = true;
                }
                Request::Reload => self.reloads.ask(),
                Request::Upgrade => match &mut self.upgrades {
                    Some(upgrades) => {
                        upgrades.ask(&self.control.sockets.borrow(), self.control.upgrade_timeout.get());
                    }
                    None => {
                        tracing::error!("no upgrade: the configuration came through a pipe and cannot be read again")
                    }
                },
            }
        }
    }

    /// Waits until nothing is accepted any more, and workers have taken all that was.
    async fn settled(&self) {
        self.stop_accepting.closed().await;
        control::turn(&self.inboxes).await;
    }

    /// Waits until nothing is open, until the deadline, or until somebody has lost patience.
    async fn drained(&mut self, mut deadline: Instant) {
        let lifecycle = self.lifecycle;
        let mut patience = tokio::time::interval(PATIENCE_EVERY);
        loop {
            tokio::select! {
                biased;
                left = lifecycle.wait_empty(deadline) => {
                    if left > 0 {
                        tracing::warn!(connections = left, "cut at the end of the drain");
                    }
                    return;
                }
                request = self.signals.next() => match request {
                    Request::End => {
                        return tracing::warn!(connections = lifecycle.open(), "cut by a second signal");
                    }
                    // The first one: until now the drain was that of a process whose place another has taken.
                    Request::Drain => {
                        let drain_timeout = self.control.drain_timeout.get();
                        deadline = deadline.min(clock::now() + drain_timeout);
                        tracing::info!(open = lifecycle.open(), timeout = ?drain_timeout, "told to stop: draining faster");
                    }
                    Request::Reopen => self.control.access.borrow().reopen(),
                    Request::Reload => tracing::warn!("no reload: the gateway stops"),
                    Request::Upgrade => tracing::warn!("no upgrade: the gateway stops"),
                },
                _ = patience.tick() => {
                    self.control.notifier.extend(PATIENCE);
                    self.control.notifier.status(&format!("draining: {} open", lifecycle.open()));
                }
            }
        }
    }

    fn end(&self) {
        let _ = self.stop_accepting.send(true);
        self.lifecycle.end();
    }
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
