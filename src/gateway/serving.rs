//! What the control plane does while the process serves: it waits for what the operator wants, until the last connection
//! has ended or been cut. Does not build anything: that is done when it begins.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::LAST_WORDS;
use crate::clock::{self, Instant};
use crate::config;
use crate::control::sweeps::{self, Speed, Subject};
use crate::control::{self, Drains, Reloads, Sweeps};
use crate::handover::{PidFile, Successor, Upgrades};
use crate::lifecycle::signals::{Request, Signals};
use crate::lifecycle::{self, Lifecycle};
use crate::reload::Control;
use crate::worker::Message;

/// How long a connection that has never asked for anything may take to do so once another process serves: for as long as
/// where a reload takes its listener away.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How often the service manager is asked for patience during a drain, and for how much.
const PATIENCE_EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to count what was accepted last; it is a matter of one turn.
const SETTLING: Duration = Duration::from_secs(1);

/// Drains that are named in one line.
const MOST_LISTED: usize = 20;

/// So far away that it does not come, and still a moment that can be counted.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The control plane: waits for what the operator wants, until the last connection has ended or been cut.
pub(super) struct Serving<'a> {
    pub(super) signals: Signals,
    pub(super) control: &'a Control,
    pub(super) reloads: Reloads,
    pub(super) drains: Drains,
    pub(super) sweeps: Sweeps,
    /// `None`: the configuration cannot be read by another process.
    pub(super) upgrades: Option<Upgrades>,
    pub(super) pid_file: Option<PidFile>,
    pub(super) inboxes: Vec<mpsc::UnboundedSender<Message>>,
    pub(super) lifecycle: &'a Lifecycle,
    pub(super) stop_accepting: watch::Sender<bool>,
}

/// Why the process takes no new work.
enum Stop {
    /// At the pace that somebody has asked for, or as the configuration says.
    Drain(Option<Speed>),
    End,
    /// Another process serves.
    Replaced(Successor),
}

impl Serving<'_> {
    pub(super) async fn run(mut self) {
        let stop = self.until_stop().await;
        self.upgrades.iter_mut().for_each(Upgrades::give_up);
        let lifecycle = self.lifecycle;
        if !matches!(stop, Stop::Replaced(_)) {
            self.control.sockets.borrow().leave();
        }
        let deadline = match stop {
            Stop::End => return self.end(),
            Stop::Drain(speed) => {
                let drain_timeout = self.control.drain_timeout.get();
                let limit = config::show_duration(drain_timeout);
                tracing::info!(open = lifecycle.open(), timeout = limit, "draining");
                self.control.notifier.stopping(&format!("draining for {limit} at most"));
                let deadline = clock::now() + drain_timeout;
                let _ = self.stop_accepting.send(true);
                lifecycle.drain(deadline);
                self.close_tunnels(speed, deadline);
                deadline
            }
            Stop::Replaced(successor) => {
                let timeout = self.control.upgrade_drain_timeout.get();
                let limit = timeout.map_or_else(|| "none".to_owned(), config::show_duration);
                tracing::info!(
                    open = lifecycle.open(),
                    timeout = limit,
                    successor = successor.pid,
                    "draining: replaced"
                );
                self.tell_forgotten();
                lifecycle::spawn_local("successor", successor.outlived());
                let now = clock::now();
                let deadline = now + timeout.unwrap_or(NEVER);
                let _ = self.stop_accepting.send(true);
                // Who asks from now on asks the process that serves.
                if let Some(admin) = self.control.admin.take() {
                    admin.retire();
                }
                lifecycle.hand_over(deadline, now + FIRST_REQUEST);
                self.close_tunnels(None, deadline);
                deadline
            }
        };
        // Before that an open connection may be one that nobody counts yet.
        let _ = tokio::time::timeout(SETTLING, self.settled()).await;
        self.drained(deadline).await;
        self.tell_end();
        self.end();
        lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
        tracing::info!("stopped");
    }

    async fn until_stop(&mut self) -> Stop {
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
                speed = self.sweeps.process_asked() => return Stop::Drain(Some(speed.unwrap_or(self.default_speed()))),
                successor = outcome => match successor {
                    Some(successor) => return Stop::Replaced(successor),
                    None => {
                        // It may have got as far as to name itself there.
                        if let Some(Err(error)) = self.pid_file.as_ref().map(PidFile::put_back) {
                            tracing::error!(%error, "the pid file may name another process");
                        }
                        self.reloads.release();
                        self.sweeps.shut_again();
                        continue;
                    }
                },
            };
            match request {
                Request::Drain => return Stop::Drain(None),
                Request::End => return Stop::End,
                Request::Reopen => self.control.access.borrow().reopen(),
                Request::Reload => self.reloads.ask(),
                Request::Upgrade => match &mut self.upgrades {
                    Some(upgrades) => {
                        self.reloads.hold();
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
                        let under_way = self.sweeps.find(&Subject::Process);
                        self.close_tunnels(under_way.map(|sweep| sweep.speed), deadline);
                        let limit = config::show_duration(drain_timeout);
                        tracing::info!(open = lifecycle.open(), timeout = limit, "told to stop: draining faster");
                    }
                    Request::Reopen => self.control.access.borrow().reopen(),
                    Request::Reload => tracing::warn!("no reload: the gateway stops"),
                    Request::Upgrade => tracing::warn!("no upgrade: the gateway stops"),
                },
                speed = self.sweeps.process_asked() => {
                    self.close_tunnels(Some(speed.unwrap_or(self.default_speed())), deadline);
                }
                _ = patience.tick() => self.tell(),
            }
        }
    }

    /// Has tunnels closed one after the other until the deadline, where somebody has said how fast.
    fn close_tunnels(&self, speed: Option<Speed>, deadline: Instant) {
        if let Some(speed) = speed.or(self.control.drain_rate.get().map(Speed::Rate)) {
            self.sweeps.drain_process(speed, deadline);
        }
    }

    fn default_speed(&self) -> Speed {
        self.control.drain_rate.get().map_or(sweeps::DEFAULT, Speed::Rate)
    }

    /// The process that serves now does not know what was asked to drain here, by name, and gives it work.
    fn tell_forgotten(&self) {
        let asked = control::asked_to_drain(&self.drains, &self.sweeps);
        if !asked.is_empty() {
            tracing::warn!(
                count = asked.len(),
                drains = listed(&asked),
                "drains end with this process: the new one begins without them"
            );
        }
    }

    /// How far the drain is.
    fn tell(&self) {
        let (notifier, open) = (&self.control.notifier, self.lifecycle.open());
        notifier.extend(PATIENCE);
        match self.sweeps.find(&Subject::Process).map(|sweep| sweep.progress) {
            Some(sweep) => notifier
                .status(&format!("draining: {open} open; {} of {} tunnels told to close", sweep.closed, sweep.total)),
            None => notifier.status(&format!("draining: {open} open")),
        }
    }

    /// What has become of it.
    fn tell_end(&self) {
        if let Some(sweep) = self.sweeps.find(&Subject::Process) {
            let (closed, left) = (sweep.progress.closed, sweep.progress.left);
            let took = config::show_duration(clock::now() - sweep.since);
            tracing::info!(tunnels_closed = closed, tunnels_left = left, took, "the drain is over");
        }
    }

    fn end(&self) {
        let _ = self.stop_accepting.send(true);
        self.lifecycle.end();
    }
}

/// As many as fit into a line.
fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(MOST_LISTED);
    let text = names[..names.len() - more].join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}
