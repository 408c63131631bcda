//! One thread with its own runtime: it takes arrivals and runs connections; nothing of a connection ever leaves it.
//!
//! Owns the tools that the worker's requests share without locks: the snapshot in use, pools, scratch buffer, timer
//! wheel, access log. Everything it is told comes through one inbox, in order: an arrival is served by the configuration
//! that stood before it. Ends when the process has ended.

mod command;
mod view;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;

use crate::clock::{self, Wheel};
use crate::connection;
use crate::exchange::live::LiveTunnels;
use crate::exchange::{Numbers, Tools};
use crate::lifecycle::{self, Lifecycle, Phase};
use crate::listener::{Arrival, Shutting, WorkerLoad, WorkerPort};
use crate::snapshot::Snapshot;
use crate::telemetry::access::AccessLogHandle;
use crate::telemetry::metrics::{Own, WorkerCells};
use view::Told;

pub use command::Command;
pub use view::WorkerView;

/// How long those who are cut may take to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Commands that wait for their turn; who has one more waits with it.
const COMMANDS: usize = 16;

/// The accept loop, as a worker may be given it.
pub type Accepting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a worker is told.
pub enum Message {
    Arrival(Arrival),
    /// Another configuration, for every request whose head is whole from now on.
    Configuration(NextConfiguration),
    Shutting(Shutting),
    /// Answered in its turn, which shows that turns come round.
    Pulse(oneshot::Sender<()>),
}

impl From<Arrival> for Message {
    fn from(arrival: Arrival) -> Self {
        Self::Arrival(arrival)
    }
}

impl From<Shutting> for Message {
    fn from(shutting: Shutting) -> Self {
        Self::Shutting(shutting)
    }
}

/// A configuration on its way to a worker.
pub struct NextConfiguration {
    pub snapshot: Arc<Snapshot>,
    pub access: AccessLogHandle,
    /// Dropped once the worker serves by it.
    pub done: mpsc::Sender<Infallible>,
}

/// A worker that has been started.
pub struct Worker {
    pub port: WorkerPort<Message>,
    /// Questions and orders about its tunnels.
    pub commands: mpsc::Sender<Command>,
    told: Arc<Told>,
    accepting: Option<oneshot::Sender<Accepting>>,
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
        let (commands, orders) = mpsc::channel(COMMANDS);
        let (accepting, given) = oneshot::channel();
        let told = Arc::<Told>::default();
        let tells = told.clone();
        let thread = lifecycle::thread(&format!("worker-{number}"), move || {
            let numbers = Numbers::new(number, workers);
            let given = Given { number, numbers, snapshot, inbox, orders, accepting: given, tells };
            if let Err(error) = run(given, &lifecycle, &access) {
                tracing::error!(worker = number, %error, "a worker could not start");
                lifecycle.end();
            }
        })?;
        let port = WorkerPort { load: Arc::new(WorkerLoad::default()), inbox: sender };
        Ok(Self { port, commands, told, accepting: Some(accepting), thread })
    }

    /// How it looks from outside.
    pub fn view(&self) -> WorkerView {
        WorkerView::new(self.port.load.clone(), self.commands.clone(), self.told.clone())
    }

    /// Lets the worker's own thread run the accept loop, beside its connections.
    pub fn accept(&mut self, accepting: Accepting) {
        if let Some(worker) = self.accepting.take() {
            // A worker that could not start has ended the process.
            let _ = worker.send(accepting);
        }
    }

    /// Waits for its thread. The process must have been told to end.
    pub fn join(self) {
        let Self { port, commands, accepting, thread, .. } = self;
        drop((port, commands, accepting));
        // A panic has been reported by the thread itself.
        let _ = thread.join();
    }
}

/// What a worker's thread begins with.
struct Given {
    number: usize,
    numbers: Numbers,
    snapshot: Arc<Snapshot>,
    inbox: UnboundedReceiver<Message>,
    orders: mpsc::Receiver<Command>,
    accepting: oneshot::Receiver<Accepting>,
    tells: Arc<Told>,
}

fn run(given: Given, lifecycle: &Lifecycle, access: &AccessLogHandle) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(given, lifecycle, access));
    Ok(())
}

async fn serve(given: Given, lifecycle: &Lifecycle, access: &AccessLogHandle) {
    let Given { number, numbers, snapshot, inbox, orders, accepting, tells } = given;
    let cells = tells.begin();
    lifecycle::spawn_local("loop lag", view::watch_lag(cells.clone()));
    let (phase, follower) = lifecycle.follow();
    lifecycle::spawn_local("phase follower", follower);
    // Tunnels wait for the end among themselves: whoever looks for them finds nobody else.
    let live = Rc::new(LiveTunnels::new(number, phase.part(), numbers.clone()));
    let (log, flusher) = access.worker();
    lifecycle::spawn_local("access log flusher", flusher);
    let (wheel, ticker) = Wheel::new();
    lifecycle::spawn_local("timer wheel", ticker.on_descriptor());
    let tools = Rc::new(Tools::new(snapshot, lifecycle.clone(), phase.clone(), live, log, wheel, numbers));
    lifecycle::spawn_local("commands", command::obey(orders, tools.live.clone(), tools.refusals.clone()));
    lifecycle::spawn_local("acceptor", async move {
        if let Ok(accepting) = accepting.await {
            accepting.await;
        }
    });
    // A task like any other: to wake the runtime's own future from within costs a system call.
    lifecycle::spawn_local("inbox", read_inbox(inbox, tools, cells));
    phase.stop().ended().await;
    // Tunnels say Close, and wait a moment for the answer.
    lifecycle.wait_gone(clock::now() + LAST_WORDS).await;
    // Everyone who was cut gets a turn to say so in the log.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn read_inbox(mut inbox: UnboundedReceiver<Message>, tools: Rc<Tools>, cells: Rc<Own<WorkerCells>>) {
    while let Some(message) = inbox.recv().await {
        if tools.phase.phase() == Phase::Ended {
            return;
        }
        match message {
            Message::Arrival(arrival) => {
                cells.taken.add(1);
                _ = lifecycle::spawn_local("connection", connection::run(arrival, tools.clone()))
            }
            Message::Configuration(NextConfiguration { snapshot, access, done }) => {
                tools.access.follow(&access);
                tools.change(snapshot);
                drop(done);
            }
            Message::Shutting(Shutting(listener)) => tools.part_with(listener),
            // Whoever asked may have gone.
            Message::Pulse(answer) => _ = answer.send(()),
        }
    }
}
