//! Clients that want to have a tunnel: each opens one, and when it ends, or it is told to come anew, opens another after a
//! pause of his own, as reconnecting clients do; after a failure he waits longer each time.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;

use crate::dial::{Dial, Stream};
use crate::random::Random;
use crate::ws::{self, Frames, Seen};

/// First tunnels that are being opened at the same time.
const OPENING: usize = 32;
/// For one attempt, and for the end of a tunnel that is being closed.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a failed attempt; doubled with each further one, a quarter more or less.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub struct Crowd {
    dial: Dial,
    jitter: Duration,
    opening: Semaphore,
    open: Cell<usize>,
    cut: Cell<usize>,
    failed: Cell<usize>,
    last_opened: Cell<Instant>,
    problem: RefCell<String>,
    random: Random,
    clients: RefCell<Vec<Rc<Client>>>,
}

#[derive(Default)]
struct Client {
    order: Notify,
    leaves: Cell<bool>,
}

impl Crowd {
    pub fn new(dial: Dial, jitter: Duration) -> Self {
        Self {
            dial,
            jitter,
            opening: Semaphore::new(OPENING),
            open: Cell::new(0),
            cut: Cell::new(0),
            failed: Cell::new(0),
            last_opened: Cell::new(Instant::now()),
            problem: RefCell::default(),
            // The same crowd each time.
            random: Random::new(1),
            clients: RefCell::default(),
        }
    }

    /// Lets so many more clients come.
    pub fn open(self: &Rc<Self>, count: usize) {
        for _ in 0..count {
            let client = Rc::<Client>::default();
            self.clients.borrow_mut().push(Rc::clone(&client));
            spawn_local(Rc::clone(self).live(client));
        }
    }

    /// Lets so many of all clients close their tunnel and come anew.
    pub fn churn(&self, count: usize) {
        let clients = self.clients.borrow();
        let (mut left, mut wanted) = (clients.len(), count);
        for client in &*clients {
            // Each is taken with the same chance, and exactly so many are.
            if self.random.next() % (left as u64) < wanted as u64 {
                client.order.notify_one();
                wanted -= 1;
            }
            left -= 1;
        }
    }

    /// Lets all close their tunnels and stay away.
    pub fn leave(&self) {
        for client in &*self.clients.borrow() {
            client.leaves.set(true);
            client.order.notify_one();
        }
    }

    /// Tunnels that are open and have carried a message.
    pub fn open_now(&self) -> usize {
        self.open.get()
    }

    /// Tunnels that ended without their client's wish.
    pub fn cut(&self) -> usize {
        self.cut.get()
    }

    /// Attempts to open one.
    pub fn failed(&self) -> usize {
        self.failed.get()
    }

    pub fn last_opened(&self) -> Instant {
        self.last_opened.get()
    }

    /// Why the last attempt failed.
    pub fn problem(&self) -> String {
        self.problem.borrow().clone()
    }

    async fn live(self: Rc<Self>, client: Rc<Client>) {
        let mut stream = {
            // Never closed.
            let _turn = self.opening.acquire().await;
            self.reach().await
        };
        loop {
            self.open.set(self.open.get() + 1);
            self.last_opened.set(Instant::now());
            let is_cut = tokio::select! {
                () = ended(&mut stream) => true,
                () = client.order.notified() => false,
            };
            self.open.set(self.open.get() - 1);
            if is_cut {
                self.cut.set(self.cut.get() + 1);
            } else {
                // Whether it ends well shows in what the servers count.
                let _ = tokio::time::timeout(PATIENCE, close(&mut stream)).await;
            }
            drop(stream);
            if client.leaves.get() {
                return;
            }
            tokio::time::sleep(self.jitter.mul_f64(self.random.chance())).await;
            stream = self.reach().await;
        }
    }

    /// A tunnel that has carried one message.
    async fn reach(&self) -> Stream {
        let mut pause = FIRST_PAUSE;
        loop {
            let problem = match tokio::time::timeout(PATIENCE, attempt(&self.dial)).await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(problem)) => problem.to_string(),
                Err(late) => late.to_string(),
            };
            self.failed.set(self.failed.get() + 1);
            self.problem.replace(problem);
            tokio::time::sleep(pause.mul_f64(0.75 + self.random.chance() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn attempt(dial: &Dial) -> io::Result<Stream> {
    let mut stream = dial.tunnel("/echo").await?;
    stream.one_message().await?;
    Ok(stream)
}

/// Waits until the other side has ended it, and says good-bye where that one did.
async fn ended(stream: &mut Stream) {
    let (mut frames, mut closes, mut buffer) = (Frames::default(), false, [0; 128]);
    while !closes {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        frames.feed(&mut buffer[..read], |seen| closes |= matches!(seen, Seen::End(ws::CLOSE)));
    }
    let _ = tokio::time::timeout(PATIENCE, close(stream)).await;
}

/// Close, and the connection's end.
async fn close(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(&ws::masked(ws::CLOSE, &1000u16.to_be_bytes())).await?;
    stream.flush().await?;
    let mut rest = [0; 128];
    while stream.read(&mut rest).await? > 0 {}
    stream.shutdown().await
}
