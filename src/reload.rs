//! From the file to another configuration in use, while the process serves. Whoever wants one asks `control/reloads.rs`.
//!
//! The road is that of `run` and `check`: text, model, snapshot, with all files read anew; then addresses that are new are
//! bound. Everything that can fail has failed before anything changes, and is told in the words of `check`. Then the
//! accept loop changes its listeners, and on its way tells the workers: so that each connection is served by a
//! configuration in which its listener stands.
//! Files are read on a thread of their own, since they may take their time, and signals must not wait for them.
//! Dropping the future gives a reload up; what the accept loop has been told then happens all the same, as a whole.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::admin::{self, Admin, Plane};
use crate::config::Document;
use crate::config::model::{Config, ListenAddress, ListenerKey, Server};
use crate::config::render::render;
use crate::config::report::{Report, Severity};
use crate::config::written::Changes;
use crate::control::{Outcome, Reloads, Told, Watch};
use crate::lifecycle::notify::Notifier;
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections};
use crate::listener::{self, Change, Door, Handle, Inherited, Order, Sockets};
use crate::snapshot::{AdminPlan, Snapshot};
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::events::{self, EventLog};
use crate::upstream::Upkeep;
use crate::worker::{Message, NextConfiguration};

/// Reading takes no longer than this, or is given up.
const READING: Duration = Duration::from_secs(60);
/// How often it is said that somebody has not got round to a new configuration.
const REMINDER: Duration = Duration::from_secs(10);

/// What the control plane goes by, and a reload changes.
pub struct Control {
    pub drain_timeout: Cell<Duration>,
    pub drain_rate: Cell<Option<u32>>,
    pub upgrade_timeout: Cell<Duration>,
    pub upgrade_drain_timeout: Cell<Option<Duration>>,
    /// Of the listeners in use.
    pub sockets: RefCell<Sockets>,
    pub notifier: Notifier,
    pub access: RefCell<AccessLogHandle>,
    pub events: EventLog,
    /// The admin listener, where there is one.
    pub admin: RefCell<Option<Admin>>,
    /// Over the files of the configuration, where it is switched on.
    pub watch: RefCell<Option<Watch>>,
}

/// Listeners on their way to the accept loop.
struct Doors {
    doors: Vec<Door>,
    /// The lines that announce those that are new, and a look at their sockets.
    added: Vec<String>,
    sockets: Vec<Handle>,
}

/// A gateway at work, as far as a reload has to do with it.
pub struct Running {
    pub document: Document,
    /// The one in use.
    pub snapshot: Arc<Snapshot>,
    /// Of the snapshot's upstreams.
    pub upkeep: Upkeep,
    /// As many as there are workers.
    pub inboxes: Vec<mpsc::UnboundedSender<Message>>,
    pub acceptor: mpsc::Sender<Order>,
    pub connections: Connections,
    /// What `server.max_connections` says, and how many descriptors the process may have for that.
    pub max_connections: (Option<usize>, u64),
    pub control: Rc<Control>,
    pub lifecycle: Lifecycle,
    /// What an admin listener asks and tells; of which a reload itself changes some.
    pub plane: Plane,
}

/// Reloads a gateway.
pub struct Reloader {
    running: Running,
    /// Has been given up, and may still be at it.
    slow_reading: Option<JoinHandle<()>>,
}

/// A configuration that was read, with what is wrong with it. Nothing that is built has errors in the report.
struct Draft {
    report: Report,
    built: Option<(Config, Snapshot)>,
}

impl Reloader {
    pub fn new(running: Running) -> Self {
        Self { running, slow_reading: None }
    }

    /// Reloads whenever it is asked to, until the process stops.
    pub async fn run(mut self) {
        let (lifecycle, reloads) = (self.running.lifecycle.clone(), self.running.plane.reloads.clone());
        loop {
            let asked = tokio::select! {
                biased;
                _ = lifecycle.stopping() => break,
                asked = reloads.asked() => asked,
            };
            tokio::select! {
                biased;
                _ = lifecycle.stopping() => {
                    tracing::warn!("no reload: the gateway stops");
                    break;
                }
                outcome = self.reload() => asked.tell(&outcome),
            }
        }
        reloads.close();
    }

    /// One reload, and its lines in the log.
    async fn reload(&mut self) -> Arc<Outcome> {
        let notifier = self.running.control.notifier.clone();
        notifier.reloading();
        let Draft { mut report, built } = self.read().await;
        let changes = match built {
            Some((config, snapshot)) => self.put_in_use(&config, snapshot, &mut report).await,
            None => None,
        };
        if changes.is_none() {
            self.running.control.watch_also(&self.running.snapshot, &report);
        }
        let generation = self.running.snapshot.number;
        let problems = Told::of(&report);
        let unsaid = report.problems.len() - problems.len();
        log_problems(&problems, unsaid);
        let outcome = Arc::new(Outcome { generation, changes, problems, unsaid, report: render(&report, false) });
        let refused = self.running.plane.in_use.note(outcome.clone());
        if let Some(Changes { server, log, admin, listeners, routes, upstreams }) = &outcome.changes {
            tracing::info!(generation, %listeners, %routes, %upstreams, server, log, admin, "reloaded");
            notifier.ready(&format!("serving; configuration {generation}"));
        } else {
            notifier.ready(&format!("serving; the last reload was refused, configuration {generation} stays"));
            tracing::error!(generation, refused, "no reload: the configuration in use stays");
        }
        outcome
    }

    /// The configuration as its files are now.
    async fn read(&mut self) -> Draft {
        if self.slow_reading.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Draft::without("the files of an earlier reload are still being read");
        }
        let (document, previous) = (self.running.document.clone(), self.running.snapshot.clone());
        let (done, draft) = oneshot::channel();
        let thread = lifecycle::thread("reload", move || {
            let draft = Draft::read(&document, &previous);
            drop(previous);
            // Whoever waited may have given up.
            let _ = done.send(draft);
        });
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => return Draft::without(format_args!("there is no thread to read the files: {error}")),
        };
        match tokio::time::timeout(READING, draft).await {
            Ok(Ok(draft)) => draft,
            // It has told of its panic.
            Ok(Err(_)) => Draft::without("the files could not be read"),
            Err(_) => {
                self.slow_reading = Some(thread);
                Draft::without(format_args!("the files could not be read within {READING:?}"))
            }
        }
    }

    /// What has changed now that every worker serves by this snapshot. `None`: nothing has, and the report says why.
    async fn put_in_use(&mut self, config: &Config, snapshot: Snapshot, report: &mut Report) -> Option<Changes> {
        let Doors { doors, added, sockets } = self.doors(config, &snapshot, report);
        let admin = self.admin(&snapshot, config, report);
        let access = self.running.control.access.borrow().renewed(&config.log);
        if let Err(error) = &access {
            report.error_anywhere("access-log", format_args!("cannot open the access log: {error}"));
        }
        let access = access.ok().filter(|_| !report.has_errors())?;
        let snapshot = Arc::new(snapshot);
        self.change(doors, &snapshot, &access, report).await?;

        let running = &mut self.running;
        let admin = running.control.put_admin(admin?);
        events::announce(&added, admin.as_deref());
        running.plane.in_use.replace(snapshot.clone());
        let changes = snapshot.since(&running.snapshot);
        running.upkeep.follow(&snapshot.upstreams, config.server.name_servers.as_deref());
        running.plane.drains.follow(&snapshot);
        running.plane.metrics.follow(&snapshot);
        let before = std::mem::replace(&mut running.snapshot, snapshot);
        let closed = running.plane.tunnels.close_removed(&before, &running.snapshot).await.tunnels;
        if closed > 0 {
            tracing::info!(tunnels = closed, "closed with their routes");
        }
        running.control.access.replace(access);
        running.control.events.follow(&config.log);
        running.control.sockets.borrow_mut().follow(&config.listeners, sockets);
        running.control.follow(&config.server);
        running.control.watch(config.server.watch, &running.snapshot, &running.plane.reloads);
        let (max_connections, descriptors) = running.max_connections;
        if config.server.max_connections != max_connections {
            running.max_connections = (config.server.max_connections, descriptors);
            running.connections.set_max(limits::fit_connections(config.server.max_connections, descriptors));
        }
        let (workers, wanted) = (running.inboxes.len(), config.server.workers);
        if workers != wanted {
            tracing::warn!(workers, wanted, "`server.workers` needs a restart; all else is in use");
        }
        Some(changes)
    }

    /// Where to accept from now on, with new addresses bound.
    fn doors(&self, config: &Config, snapshot: &Snapshot, report: &mut Report) -> Doors {
        let open = &self.running.snapshot.listeners;
        let positions: HashMap<&ListenerKey, usize> = open.iter().map(|plan| (&plan.key, plan.index)).collect();
        let (mut doors, mut added, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        for (listener, plan) in config.listeners.iter().zip(&snapshot.listeners) {
            let book = &plan.book;
            if let Some(&position) = positions.get(&listener.key()) {
                doors.push(Door::Kept { position, book: book.clone() });
                continue;
            }
            match listener::bind(listener, book) {
                Ok(bound) => {
                    added.push(bound.announcement(listener.tls.is_some()));
                    sockets.push(bound.handle());
                    doors.push(Door::New(bound));
                }
                Err(error) => {
                    let problem = report.error("cannot-listen", &listener.address.spot, error);
                    if let Some(help) = self.in_the_way(&listener.address) {
                        problem.help(help);
                    }
                }
            }
        }
        Doors { doors, added, sockets }
    }

    /// What is to become of the admin listener, with a new address bound. `None`: there is an error in the report.
    fn admin(&self, snapshot: &Snapshot, config: &Config, report: &mut Report) -> Option<NextAdmin> {
        let Some((plan, admin)) = snapshot.admin.clone().zip(config.admin.as_ref()) else {
            return Some(NextAdmin::None);
        };
        if self.running.control.admin.borrow().as_ref().is_some_and(|admin| *admin.key() == plan.key) {
            return Some(NextAdmin::Same(plan));
        }
        let bound = match admin::bind(&plan, &mut Inherited::default()) {
            Ok(bound) => bound,
            Err(error) => {
                let problem = report.error("cannot-listen", &admin.address.spot, error);
                if let Some(help) = self.in_the_way(&admin.address) {
                    problem.help(help);
                }
                return None;
            }
        };
        let handle = bound.handle();
        match Admin::start(bound, plan, self.running.plane.clone()) {
            Ok(admin) => Some(NextAdmin::Other(Box::new((admin, handle)))),
            Err(error) => {
                report.error(
                    "cannot-listen",
                    &admin.address.spot,
                    format_args!("the admin listener cannot start: {error}"),
                );
                None
            }
        }
    }

    /// Who of ours may keep an address from being bound.
    fn in_the_way(&self, address: &ListenAddress) -> Option<String> {
        let running = &self.running;
        let mut open = running.snapshot.listeners.iter();
        let listener = open.find(|own| own.key.address.overlaps(address)).map(|own| format!("`{}`", own.name));
        let admin = running.snapshot.admin.as_ref().filter(|own| own.key.address.overlaps(address));
        let who = listener.or_else(|| admin.map(|_| "the admin listener".to_owned()))?;
        Some(format!("{who} listens there: take it out with one reload, and put this in with the next"))
    }

    /// The step that changes something: it happens as a whole, or not at all.
    async fn change(
        &self,
        doors: Vec<Door>,
        snapshot: &Arc<Snapshot>,
        access: &AccessLogHandle,
        report: &mut Report,
    ) -> Option<()> {
        let (done, changed) = oneshot::channel();
        let (held, mut all_serve) = mpsc::channel::<Infallible>(1);
        let (inboxes, snapshot, access) = (self.running.inboxes.clone(), snapshot.clone(), access.clone());
        let between = Box::new(move || {
            for inbox in inboxes {
                let (snapshot, access, done) = (snapshot.clone(), access.clone(), held.clone());
                // A worker that has gone serves nobody.
                let _ = inbox.send(Message::Configuration(NextConfiguration { snapshot, access, done }));
            }
        });
        let told = self.running.acceptor.send(Order::Change(Change { doors, between, done })).await;
        let changed = match told {
            Ok(()) => with_reminders("the accept loop", changed).await,
            Err(_) => return report_failure(report, "nothing is accepted any more"),
        };
        match changed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return report_failure(report, format_args!("cannot accept at the new addresses: {error}"));
            }
            Err(_) => return report_failure(report, "nothing is accepted any more"),
        }
        // Over when the last worker has let go of its end.
        let _ = with_reminders("a worker", all_serve.recv()).await;
        Some(())
    }
}

impl Draft {
    /// On a thread of its own.
    fn read(document: &Document, previous: &Snapshot) -> Self {
        if !document.can_be_read_again() {
            return Self::without("the configuration came through a pipe and cannot be read again");
        }
        let (config, mut report) = document.read();
        let built = config.and_then(|config| {
            let snapshot = Snapshot::build(&config, Some(previous), &mut report)?;
            Some((config, snapshot))
        });
        let built = built.filter(|_| !report.has_errors());
        Self { report, built }
    }

    fn without(message: impl Display) -> Self {
        let mut report = Report::default();
        report_failure(&mut report, message);
        Self { report, built: None }
    }
}

/// What is no fault of the configuration's.
fn report_failure(report: &mut Report, message: impl Display) -> Option<()> {
    report.error_anywhere("reload-failed", message);
    None
}

/// Waits for as long as it takes, and says so from time to time: who has been told cannot be untold.
async fn with_reminders<F: Future>(whom: &str, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        match tokio::time::timeout(REMINDER, &mut future).await {
            Ok(output) => return output,
            Err(_) => tracing::warn!("a reload waits for {whom}"),
        }
    }
}

impl Control {
    /// What `[server]` says now.
    pub fn follow(&self, server: &Server) {
        self.drain_timeout.set(server.drain_timeout);
        self.drain_rate.set(server.drain_rate);
        self.upgrade_timeout.set(server.upgrade_timeout);
        self.upgrade_drain_timeout.set(server.upgrade_drain_timeout);
    }

    /// Watches the files of this configuration, or none.
    pub fn watch(&self, is_on: bool, snapshot: &Snapshot, reloads: &Reloads) {
        let mut watch = self.watch.borrow_mut();
        match &*watch {
            _ if !is_on => *watch = None,
            Some(watch) => watch.follow(snapshot.looked_at.clone()),
            None => match Watch::start(snapshot.looked_at.clone(), reloads.clone()) {
                Ok(started) => *watch = Some(started),
                Err(error) => tracing::error!(%error, "files are not watched"),
            },
        }
    }

    /// One has been refused: its files may be mended, as well as those of the one in use may change.
    fn watch_also(&self, in_use: &Snapshot, report: &Report) {
        if let Some(watch) = &*self.watch.borrow() {
            let mut files = report.looked_at();
            // What was not looked at this time is compared with what it is now: that it has changed before is known.
            files.add(&in_use.looked_at.again());
            watch.follow(files);
        }
    }

    /// Puts another admin listener in the place of the one that is there; the line that announces it.
    fn put_admin(&self, next: NextAdmin) -> Option<String> {
        let before = match next {
            NextAdmin::Same(plan) => {
                self.admin.borrow().as_ref().inspect(|admin| admin.follow(plan));
                return None;
            }
            NextAdmin::None => {
                self.sockets.borrow_mut().follow_admin(None);
                self.admin.take()
            }
            NextAdmin::Other(other) => {
                let (admin, handle) = *other;
                self.sockets.borrow_mut().follow_admin(Some(handle));
                self.admin.replace(Some(admin))
            }
        };
        if let Some(before) = before {
            before.retire();
        }
        self.admin.borrow().as_ref().map(Admin::open)
    }
}

/// What becomes of the admin listener.
enum NextAdmin {
    /// There is none from now on.
    None,
    /// It keeps its socket.
    Same(Arc<AdminPlan>),
    /// It listens elsewhere, and waits to be opened.
    Other(Box<(Admin, Handle)>),
}

/// Each problem in a line of its own, in the words of `check`.
fn log_problems(problems: &[Told], unsaid: usize) {
    for Told { severity, code, place, message, help, also } in problems {
        let (place, help, also) = (place.as_deref(), help.as_deref(), also.as_deref());
        match severity {
            Severity::Error => tracing::error!(place, code, help, also, "{message}"),
            Severity::Warning => tracing::warn!(place, code, help, also, "{message}"),
        }
    }
    if unsaid > 0 {
        tracing::warn!(unsaid, "there are more problems; `portcullis check` names them all");
    }
}
