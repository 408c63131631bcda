//! The admin listener: where those who run the gateway ask it things and tell it some.
//!
//! A listener of its own, on a thread of its own with a runtime of its own: nothing that is asked here slows down a worker,
//! a health check or a signal, and it answers while the gateway drains. Public listeners lead nowhere near it, whatever a
//! request says about itself. `guard.rs` decides who is let in, `calls.rs` what may be asked, `api/` answers from a [`Plane`],
//! which is all of the gateway that is seen here. Knows nothing of how a configuration is put in use; it asks for that like
//! a signal does.
//!
//! [`Admin`] is the listener as whoever runs the gateway holds it: started (everything that can fail has failed then),
//! opened, given another plan, retired (what is being answered is answered), ended with the process.

mod answer;
pub mod api;
mod ask;
mod calls;
mod dashboard;
mod fresh;
mod guard;
mod openapi;
mod router;
mod server;

use std::io;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::clock::Instant;
use crate::config::model::ListenerKey;
use crate::control::{Drains, InUse, Metrics, Reloads, Sweeps, Tunnels};
use crate::lifecycle::{self, Lifecycle};
use crate::limits::Connections;
use crate::listener::{self, Access, BindError, BoundListener, BoundTo, Inherited, WorkerLoad};
use crate::snapshot::AdminPlan;
use crate::telemetry::events::Switches;
use crate::telemetry::metrics::ListenerBook;
use crate::types::Name;
use crate::upstream::OwnDoor;

/// The gateway as it is seen from here. Clones see the same one.
#[derive(Clone)]
pub struct Plane {
    pub tunnels: Tunnels,
    pub drains: Drains,
    pub sweeps: Sweeps,
    pub reloads: Reloads,
    pub in_use: InUse,
    pub metrics: Metrics,
    /// Of each worker.
    pub loads: Vec<Arc<WorkerLoad>>,
    pub connections: Connections,
    pub lifecycle: Lifecycle,
    pub log: Switches,
    /// When the process began, by both clocks.
    pub started: (Instant, SystemTime),
}

/// What the thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody is let in yet.
    Waiting,
    Open,
    /// Nobody is let in any more; what is being answered is answered.
    Retired,
    /// The process ends.
    Ended,
}

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    key: ListenerKey,
    announcement: String,
    plan: watch::Sender<Arc<AdminPlan>>,
    stage: watch::Sender<Stage>,
    thread: JoinHandle<()>,
    /// No upstream leads here.
    _door: Option<OwnDoor>,
}

/// Binds the address of an admin listener, or takes the socket that was inherited for it. The file of a unix socket is its owner's alone.
///
/// # Errors
/// When the address is taken, forbidden, not of this machine, or not usable as a unix socket's path.
pub fn bind(plan: &AdminPlan, inherited: &mut Inherited) -> Result<BoundListener, BindError> {
    // Nobody counts who comes here.
    let book = Arc::new(ListenerBook::from(Name::from("admin")));
    listener::open_at(plan.key.clone(), Access::Owner, &book, inherited)
}

impl Admin {
    /// Everything but letting anybody in.
    ///
    /// # Errors
    /// There is no thread, or no descriptors for its runtime.
    pub fn start(bound: BoundListener, plan: Arc<AdminPlan>, plane: Plane) -> io::Result<Self> {
        let key = plan.key.clone();
        let door = bound.tcp_address().map(OwnDoor::new);
        let announcement = announcement(&bound, plan.tls.is_some());
        let (stage, told) = watch::channel(Stage::Waiting);
        let (plan, plans) = watch::channel(plan);
        let (started, start) = std_mpsc::sync_channel(1);
        let thread = lifecycle::thread("admin", move || server::run(bound, plans, told, plane, &started))?;
        start.recv().map_err(|_| io::Error::other("its thread has panicked"))??;
        Ok(Self { key, announcement, plan, stage, thread, _door: door })
    }

    pub fn key(&self) -> &ListenerKey {
        &self.key
    }

    /// Lets people in from now on; where.
    pub fn open(&self) -> String {
        let _ = self.stage.send(Stage::Open);
        self.announcement.clone()
    }

    /// For every request from now on.
    pub fn follow(&self, plan: Arc<AdminPlan>) {
        // Without a receiver the thread has ended, and said why.
        let _ = self.plan.send(plan);
    }

    /// Lets nobody in any more. What is being answered is answered, without anybody waiting here for it.
    pub fn retire(self) {
        let _ = self.stage.send(Stage::Retired);
    }

    /// Ends it, and waits for the end, which is a matter of a second.
    pub fn end(self) {
        let _ = self.stage.send(Stage::Ended);
        // A panic has been reported by the thread itself.
        let _ = self.thread.join();
    }
}

/// `http://127.0.0.1:9900`
fn announcement(bound: &BoundListener, has_tls: bool) -> String {
    match &bound.bound_to {
        BoundTo::Tcp(_) if has_tls => format!("https://{bound}"),
        BoundTo::Tcp(_) => format!("http://{bound}"),
        BoundTo::Unix(_) => bound.to_string(),
    }
}
