//! From the file to another configuration in use, while the process serves. Whoever wants one asks [`Reloads`].
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

use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::Document;
use crate::config::model::{Config, ListenAddress, ListenerKey};
use crate::config::report::{Problem, Report, Severity};
use crate::config::written::Changes;
use crate::control::{Drains, Metrics, Tunnels};
use crate::lifecycle::{self, Lifecycle};
use crate::limits::{self, Connections};
use crate::listener::{self, Change, Door};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::events::{self, EventLog};
use crate::upstream::Upkeep;
use crate::worker::{Message, NextConfiguration};

/// Reading takes no longer than this, or is given up.
const READING: Duration = Duration::from_secs(60);
/// How often it is said that somebody has not got round to a new configuration.
const REMINDER: Duration = Duration::from_secs(10);
/// Problems of one reload that are logged one by one.
const MOST: usize = 100;

/// Asks for reloads. Clones ask the same gateway.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    asked: Rc<Notify>,
}

impl Reloads {
    /// Has the configuration read again. All who ask while one reload is under way get the next one between them.
    pub fn ask(&self) {
        self.asked.notify_one();
    }
}

/// What the control plane goes by, and a reload changes.
pub struct Control {
    pub drain_timeout: Cell<Duration>,
    pub access: RefCell<AccessLogHandle>,
    pub events: EventLog,
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
    pub acceptor: mpsc::Sender<Change>,
    pub connections: Connections,
    /// What `server.max_connections` says, and how many descriptors the process may have for that.
    pub max_connections: (Option<usize>, u64),
    pub control: Rc<Control>,
    pub lifecycle: Lifecycle,
    pub tunnels: Tunnels,
    pub drains: Drains,
    pub metrics: Metrics,
}

/// Reloads a gateway.
pub struct Reloader {
    running: Running,
    /// Has been given up, and may still be at it.
    slow_reading: Option<JoinHandle<()>>,
    /// Reloads that were refused.
    refused: u64,
}

/// A configuration that was read, with what is wrong with it. Nothing that is built has errors in the report.
struct Draft {
    report: Report,
    built: Option<(Config, Snapshot)>,
}

impl Reloader {
    pub fn new(running: Running) -> Self {
        Self { running, slow_reading: None, refused: 0 }
    }

    /// Reloads whenever it is asked to, until the process stops.
    pub async fn run(mut self, reloads: Reloads) {
        let lifecycle = self.running.lifecycle.clone();
        loop {
            reloads.asked.notified().await;
            tokio::select! {
                biased;
                _ = lifecycle.stopping() => return tracing::warn!("no reload: the gateway stops"),
                () = self.reload() => {}
            }
        }
    }

    /// One reload, and its lines in the log.
    async fn reload(&mut self) {
        let Draft { mut report, built } = self.read().await;
        let changes = match built {
            Some((config, snapshot)) => self.put_in_use(&config, snapshot, &mut report).await,
            None => None,
        };
        log_problems(&report);
        let generation = self.running.snapshot.number;
        if let Some(Changes { server, log, listeners, routes, upstreams }) = changes {
            tracing::info!(generation, %listeners, %routes, %upstreams, server, log, "reloaded");
        } else {
            self.refused += 1;
            self.running.metrics.note_refused();
            tracing::error!(generation, refused = self.refused, "no reload: the configuration in use stays");
        }
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
        let (doors, added) = self.doors(config, &snapshot, report);
        let access = self.running.control.access.borrow().renewed(&config.log.access, config.log.format);
        if let Err(error) = &access {
            report.error_anywhere("access-log", format_args!("cannot open the access log: {error}"));
        }
        let access = access.ok().filter(|_| !report.has_errors())?;
        let snapshot = Arc::new(snapshot);
        self.change(doors, &snapshot, &access, report).await?;

        let running = &mut self.running;
        events::announce(&added);
        let changes = snapshot.since(&running.snapshot);
        running.upkeep.follow(&snapshot.upstreams, config.server.name_servers.as_deref());
        running.drains.follow(&snapshot);
        running.metrics.follow(&snapshot);
        let before = std::mem::replace(&mut running.snapshot, snapshot);
        let closed = running.tunnels.close_removed(&before, &running.snapshot).await.tunnels;
        if closed > 0 {
            tracing::info!(tunnels = closed, "closed with their routes");
        }
        running.control.access.replace(access);
        running.control.events.follow(&config.log);
        running.control.drain_timeout.set(config.server.drain_timeout);
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

    /// Where to accept from now on, with new addresses bound, and the lines that announce those.
    fn doors(&self, config: &Config, snapshot: &Snapshot, report: &mut Report) -> (Vec<Door>, Vec<String>) {
        let open = &self.running.snapshot.listeners;
        let positions: HashMap<&ListenerKey, usize> = open.iter().map(|plan| (&plan.key, plan.index)).collect();
        let (mut doors, mut added) = (Vec::new(), Vec::new());
        for (listener, plan) in config.listeners.iter().zip(&snapshot.listeners) {
            let book = &plan.book;
            if let Some(&position) = positions.get(&listener.key()) {
                doors.push(Door::Kept { position, book: book.clone() });
                continue;
            }
            match listener::bind(listener, book) {
                Ok(bound) => {
                    added.push(bound.announcement(listener.tls.is_some()));
                    doors.push(Door::New(bound));
                }
                Err(error) => {
                    let problem = report.error("cannot-listen", &listener.address.spot, error);
                    if let Some(own) = open.iter().find(|own| overlap(&own.key.address, &listener.address)) {
                        problem.help(format!(
                            "`{}` listens there: take it out with one reload, and put this in with the next",
                            own.name
                        ));
                    }
                }
            }
        }
        (doors, added)
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
        let told = self.running.acceptor.send(Change { doors, between, done }).await;
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

/// Whether a listener of ours may be what keeps an address from being bound.
fn overlap(own: &ListenAddress, other: &ListenAddress) -> bool {
    match (own, other) {
        (ListenAddress::Tcp(own), ListenAddress::Tcp(other)) => {
            own.port() == other.port() && (own.ip().is_unspecified() || other.ip().is_unspecified())
        }
        _ => false,
    }
}

/// Each problem in a line of its own, in the words of `check`.
fn log_problems(report: &Report) {
    for problem in report.problems.iter().take(MOST) {
        let Problem { severity, code, spot, message, help, also } = problem;
        let place = spot.as_ref().and_then(|spot| report.place(spot));
        let also = also.as_ref().map(|(spot, words)| format!("{words}: {}", report.place(spot).unwrap_or_default()));
        let (place, help, also) = (place.as_deref(), help.as_deref(), also.as_deref());
        match severity {
            Severity::Error => tracing::error!(place, code, help, also, "{message}"),
            Severity::Warning => tracing::warn!(place, code, help, also, "{message}"),
        }
    }
    let unsaid = report.problems.len().saturating_sub(MOST);
    if unsaid > 0 {
        tracing::warn!(unsaid, "there are more problems; `portcullis check` names them all");
    }
}
