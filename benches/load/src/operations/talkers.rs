//! Clients that talk through tunnels which are not meant to end: each sends messages of random bytes at random moments, and
//! holds what comes back against what it has sent, byte by byte. Told to close, a client answers, counts what it had
//! on the way, and comes back after a pause of its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::digest::{self, Context};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::dial::{Dial, Stream};
use crate::ws::{self, Frames, Seen};

const OPENING: usize = 32;
const PATIENCE: Duration = Duration::from_secs(20);
/// Payloads are between these.
const SIZES: (u64, u64) = (16, 2048);

/// What all clients have seen.
#[derive(Default)]
pub struct Totals {
    pub open: Cell<usize>,
    pub sent: Cell<u64>,
    pub sent_bytes: Cell<u64>,
    pub back: Cell<u64>,
    /// Bytes that came back as others than were sent.
    pub damaged: Cell<u64>,
    /// Tunnels that ended without a Close.
    pub lost: Cell<u64>,
    pub problem: RefCell<String>,
    /// Closes from the gateway, by code.
    pub closes: RefCell<BTreeMap<u16, u64>>,
    /// Messages that were on their way when a Close arrived.
    pub in_flight: Cell<u64>,
    /// Attempts to come back that failed.
    pub failed: Cell<u64>,
    /// Messages that have not come back yet.
    pub outstanding: Cell<i64>,
    /// SHA-256 of everything sent and of everything that came back differ, or one of them is not over.
    pub unequal: Cell<u64>,
}

pub struct Talkers {
    dials: [Dial; 2],
    pause: Duration,
    jitter: Duration,
    opening: Semaphore,
    talking: Cell<bool>,
    change: Notify,
    random: Cell<u64>,
    leaving: Cell<bool>,
    pub totals: Totals,
}

/// One tunnel.
struct Talk {
    frames: Frames,
    pending: VecDeque<u8>,
    /// Sizes of messages that are on the way.
    sizes: VecDeque<usize>,
    sent: Context,
    back: Context,
    opcode: u8,
    /// Payload of a Close.
    close: Vec<u8>,
}

enum End {
    Closed(u16),
    Left,
}

fn more<T: Copy + std::ops::Add<Output = T>>(cell: &Cell<T>, by: T) {
    cell.set(cell.get() + by);
}

impl Talkers {
    /// `rate`: messages a second of all together.
    pub fn new(dials: [Dial; 2], count: usize, rate: f64, jitter: Duration) -> Rc<Self> {
        let talkers = Rc::new(Self {
            dials,
            pause: Duration::from_secs_f64(count as f64 / rate),
            jitter,
            opening: Semaphore::new(OPENING),
            talking: Cell::new(false),
            change: Notify::new(),
            random: Cell::new(7),
            leaving: Cell::new(false),
            totals: Totals::default(),
        });
        for number in 0..count {
            spawn_local(Rc::clone(&talkers).live(number));
        }
        talkers
    }

    pub fn talk(&self, on: bool) {
        self.talking.set(on);
        self.change.notify_waiters();
    }

    /// Says good-bye.
    pub fn leave(&self) {
        self.leaving.set(true);
        self.change.notify_waiters();
    }

    async fn live(self: Rc<Self>, number: usize) {
        loop {
            let mut stream = self.reach(number).await;
            more(&self.totals.open, 1);
            let mut talk = Talk::new();
            let end = self.converse(&mut stream, &mut talk).await;
            self.totals.open.set(self.totals.open.get() - 1);
            self.totals.outstanding.set(self.totals.outstanding.get() - talk.sizes.len() as i64);
            match end {
                Ok(End::Left) => return self.judge(talk),
                Ok(End::Closed(code)) => {
                    *self.totals.closes.borrow_mut().entry(code).or_default() += 1;
                    more(&self.totals.in_flight, talk.sizes.len() as u64);
                }
                Err(problem) => {
                    more(&self.totals.lost, 1);
                    self.totals.problem.replace(problem.to_string());
                }
            }
            if self.leaving.get() {
                return;
            }
            tokio::time::sleep(self.jitter.mul_f64(self.chance())).await;
        }
    }

    async fn reach(&self, number: usize) -> Stream {
        loop {
            let attempt = async {
                // Never closed.
                let _turn = self.opening.acquire().await;
                self.dials[number % 2].tunnel("/echo").await
            };
            match tokio::time::timeout(PATIENCE, attempt).await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(problem)) => _ = self.totals.problem.replace(problem.to_string()),
                Err(late) => _ = self.totals.problem.replace(late.to_string()),
            }
            more(&self.totals.failed, 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn converse(&self, stream: &mut Stream, talk: &mut Talk) -> io::Result<End> {
        let mut buffer = [0; 4096];
        let mut next = Instant::now() + self.pause.mul_f64(self.chance());
        loop {
            if self.leaving.get() {
                stream.write_all(&ws::masked(ws::CLOSE, &1000u16.to_be_bytes())).await?;
                let _ = tokio::time::timeout(PATIENCE, rest(stream)).await;
                return Ok(End::Left);
            }
            let change = self.change.notified();
            tokio::select! {
                read = stream.read(&mut buffer) => {
                    let read = read?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if let Some(code) = talk.hear(&mut buffer[..read], &self.totals) {
                        stream.write_all(&ws::masked(ws::CLOSE, &code.to_be_bytes())).await?;
                        stream.flush().await?;
                        let _ = tokio::time::timeout(PATIENCE, rest(stream)).await;
                        return Ok(End::Closed(code));
                    }
                }
                () = tokio::time::sleep_until(next), if self.talking.get() => {
                    next += self.pause.mul_f64(0.5 + self.chance());
                    if self.talking.get() {
                        let message = self.message();
                        talk.say(&message, &self.totals);
                        stream.write_all(&ws::masked(ws::BINARY, &message)).await?;
                        stream.flush().await?;
                    }
                }
                () = change => next = next.max(Instant::now()),
            }
        }
    }

    fn message(&self) -> Vec<u8> {
        let size = SIZES.0 + self.random() % (SIZES.1 - SIZES.0 + 1);
        let mut message = Vec::with_capacity(size as usize + 8);
        while message.len() < size as usize {
            message.extend(self.random().to_le_bytes());
        }
        message.truncate(size as usize);
        message
    }

    /// Whether all that was sent has come back.
    fn judge(&self, talk: Talk) {
        if talk.sent.finish().as_ref() != talk.back.finish().as_ref() {
            more(&self.totals.unequal, 1);
        }
    }

    /// 0 to 1.
    fn chance(&self) -> f64 {
        (self.random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Talk {
    fn new() -> Self {
        let hash = || Context::new(&digest::SHA256);
        Self {
            frames: Frames::default(),
            pending: VecDeque::new(),
            sizes: VecDeque::new(),
            sent: hash(),
            back: hash(),
            opcode: 0,
            close: Vec::new(),
        }
    }

    fn say(&mut self, message: &[u8], totals: &Totals) {
        self.pending.extend(message);
        self.sizes.push_back(message.len());
        self.sent.update(message);
        more(&totals.sent, 1);
        more(&totals.sent_bytes, message.len() as u64);
        more(&totals.outstanding, 1);
    }

    /// The code of a Close, if there is one.
    fn hear(&mut self, bytes: &mut [u8], totals: &Totals) -> Option<u16> {
        let Self { frames, pending, sizes, back, opcode, close, .. } = self;
        let mut code = None;
        frames.feed(bytes, |seen| match seen {
            Seen::Header(first, _) => *opcode = first & 0x0f,
            Seen::Payload(piece) if *opcode == ws::CLOSE => close.extend_from_slice(piece),
            Seen::Payload(piece) => {
                back.update(piece);
                let damaged = piece.iter().filter(|byte| pending.pop_front() != Some(**byte)).count();
                more(&totals.damaged, damaged as u64);
            }
            Seen::End(ws::CLOSE) => {
                code = Some(close.get(..2).map_or(1005, |two| u16::from_be_bytes([two[0], two[1]])))
            }
            Seen::End(_) => {
                sizes.pop_front();
                more(&totals.back, 1);
                more(&totals.outstanding, -1);
            }
        });
        code
    }
}

async fn rest(stream: &mut Stream) -> io::Result<()> {
    let mut rest = [0; 256];
    while stream.read(&mut rest).await? > 0 {}
    stream.shutdown().await
}
