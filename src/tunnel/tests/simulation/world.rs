//! The world of one run: polls the tunnel when it was woken, and else lets one of its ends, or time, go on at random.
//!
//! There is no runtime: wakers are counted, time stands still unless it is moved, and whoever forgets to wake or to be
//! woken is found out, because once nobody has anything to do all that was said must have gone on.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::account::{Account, Closed, Heard};
use super::chance::Chance;
use super::plan::{ORDER_CODE, ORDER_REASON, Plan};
use super::side::{Found, Log, Side, Socket};
use crate::clock::{self, Instant, TICK, Wheel};
use crate::lifecycle::Lifecycle;
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::Own;
use crate::transport::{SCRATCH_SIZE, Scratch, Transport};
use crate::tunnel::{CloseOrder, Early, Splice, TunnelEnd, TunnelOptions, TunnelState, TunnelTools, splice};

/// More turns than any run needs.
const MOST_TURNS: u32 = 400_000;

/// Turns in a row that the tunnel may ask for itself without getting anywhere.
const MOST_IDLE_TURNS: u32 = 3;

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything but the tunnel.
pub(super) struct World {
    pub options: TunnelOptions,
    pub client: Rc<RefCell<Side>>,
    pub server: Rc<RefCell<Side>>,
    /// What the server gets, and what the client gets.
    pub up: Account,
    pub down: Account,
    /// When the process was told to end, if it was.
    pub drained: Option<Instant>,
    /// When it has begun to obey an order to close, if it has.
    pub ordered: Option<Instant>,
    pub opened: Instant,
    chance: Chance,
    log: Log,
    tools: TunnelTools,
    lifecycle: Lifecycle,
    follower: Pin<Box<dyn Future<Output = ()>>>,
    wakes: Arc<Count>,
    /// Wakes that have been followed by a poll.
    served: u64,
    may_drain: bool,
    may_order: bool,
    turns: u32,
    idle_turns: u32,
    /// When something went on, as far as that keeps a tunnel alive, and how far everything was then.
    pub moved_at: Instant,
    moved: (usize, u64),
    /// When a Close of the gateway's was first seen that is not the word for a server that has gone.
    closing_since: Option<Instant>,
}

/// How it has come out.
pub(super) struct Outcome {
    pub end: TunnelEnd,
    pub world: World,
}

/// Runs one plan to its end.
pub(super) fn run(plan: Plan, log: Log) -> Outcome {
    log.tell(|| format!("{:?}", plan.options));
    let lifecycle = Lifecycle::new();
    let (phase, follower) = lifecycle.follow();
    let (wheel, _) = Wheel::new();
    let tools = TunnelTools::new(Rc::new(Scratch::new()), wheel, Own::unread());
    let Plan { options, client, server, early, drains, is_ordered, mut chance } = plan;
    let side = |chance: &mut Chance, (tongue, habits, queue)| {
        let side = Side::new(chance.fork(), tongue, habits, queue, log.clone());
        log.tell(|| format!("{} {habits:?}", side.borrow().name()));
        side
    };
    let client = side(&mut chance, client);
    let server = side(&mut chance, server);
    let first = |side: &Rc<RefCell<Side>>, most: usize| side.borrow_mut().send_early(most);
    let early = Early { downstream: first(&client, early.0).into(), upstream: first(&server, early.1).into() };
    let sockets: (Box<dyn Transport>, Box<dyn Transport>) =
        (Box::new(Socket(client.clone())), Box::new(Socket(server.clone())));
    let mut tunnel = splice(sockets.0, sockets.1, early, options, &tools, phase.stop());
    let now = clock::now();
    let mut world = World {
        options,
        client,
        server,
        up: Account::default(),
        down: Account::default(),
        drained: None,
        ordered: None,
        opened: now,
        chance,
        log,
        tools,
        lifecycle,
        follower: Box::pin(follower),
        wakes: Arc::default(),
        served: 0,
        may_drain: drains,
        may_order: is_ordered,
        turns: 0,
        idle_turns: 0,
        moved_at: now,
        moved: (0, 0),
        closing_since: None,
    };
    let end = world.go(&mut tunnel);
    world.log.tell(|| format!("{end:?}"));
    drop(tunnel);
    assert!(world.tools.0.wheel.is_empty(), "no deadline stays behind");
    Outcome { end, world }
}

impl World {
    fn go<D: Transport, U: Transport>(&mut self, tunnel: &mut Splice<D, U>) -> TunnelEnd {
        let mut is_new = true;
        loop {
            if is_new || self.is_woken() && !self.chance.one_in(6) {
                is_new = false;
                if let Poll::Ready(end) = self.turn(tunnel) {
                    return end;
                }
                self.hear();
                if !self.is_woken() {
                    self.check_rest();
                }
                continue;
            }
            self.tell_drain();
            self.tell_order(tunnel);
            let acts = if self.chance.one_in(12) { self.spend_time() } else { self.act() };
            if acts || self.is_woken() {
                continue;
            }
            self.check_all_gone_on();
            self.wait();
        }
    }

    fn is_woken(&self) -> bool {
        self.wakes.0.load(Ordering::Relaxed) > self.served
    }

    fn turn<D: Transport, U: Transport>(&mut self, tunnel: &mut Splice<D, U>) -> Poll<TunnelEnd> {
        self.served = self.wakes.0.load(Ordering::Relaxed);
        let sum = |world: &Self| {
            let (client, server) = (world.client.borrow(), world.server.borrow());
            let reads = client.read + server.read + client.flushed + server.flushed;
            let idle_wakes = client.idle_wakes + server.idle_wakes;
            (reads + client.got.len() + server.got.len(), client.turns + server.turns, idle_wakes)
        };
        let before = sum(self);
        let waker = Waker::from(self.wakes.clone());
        let poll = Pin::new(tunnel).poll(&mut Context::from_waker(&waker));
        self.turns += 1;
        assert!(self.turns < MOST_TURNS, "a tunnel that goes round and round");
        self.idle_turns = if sum(self) == before && self.is_woken() { self.idle_turns + 1 } else { 0 };
        assert!(self.idle_turns <= MOST_IDLE_TURNS, "a tunnel that wakes itself for nothing");
        self.keep_accounts();
        poll
    }

    fn keep_accounts(&mut self) {
        let (client, server) = (self.client.borrow(), self.server.borrow());
        self.up.answers(&server);
        self.down.answers(&client);
        self.up.follow(&client, &server, &self.down.pings);
        self.down.follow(&server, &client, &self.up.pings);
        let carried = client.got.len() + server.got.len() - self.up.ping_bytes - self.down.ping_bytes;
        let turns = client.turns + server.turns + self.up.closes_read + self.down.closes_read;
        let moved = (carried, turns);
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = clock::now();
        }
        let closes = |account: &Account| matches!(account.closed, Some(Closed::Ours(code)) if code != 1011);
        if self.closing_since.is_none() && (closes(&self.up) || closes(&self.down)) {
            self.closing_since = Some(clock::now());
        }
    }

    /// The peers hear what has reached them.
    fn hear(&mut self) {
        for (account, side) in [(&mut self.up, &self.server), (&mut self.down, &self.client)] {
            let mut side = side.borrow_mut();
            while account.heard.front().is_some_and(|(at, _)| *at <= side.flushed) {
                match account.heard.pop_front() {
                    Some((_, Heard::Ping(payload))) => side.hear_ping(&payload),
                    Some((_, Heard::Close(code))) => side.hear_close(code),
                    None => {}
                }
            }
        }
    }

    fn tell_drain(&mut self) {
        if !self.may_drain || !self.chance.one_in(40) {
            return;
        }
        self.log.tell(|| "the process ends".into());
        self.may_drain = false;
        self.drained = Some(clock::now());
        self.lifecycle.end();
        let _ = self.follower.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    fn tell_order<D: Transport, U: Transport>(&mut self, tunnel: &mut Splice<D, U>) {
        if !self.may_order || !self.chance.one_in(40) {
            return;
        }
        self.may_order = false;
        let order = CloseOrder::new(ORDER_CODE, ORDER_REASON, EndReason::ServerDrained).expect("a good order");
        let is_taken = tunnel.obey(&Arc::new(order.clone()));
        assert!(!tunnel.obey(&Arc::new(order)), "an order is obeyed once");
        assert_eq!(tunnel.progress().state, TunnelState::Closing);
        self.log.tell(|| format!("somebody orders it to close: {is_taken}"));
        self.ordered = is_taken.then(clock::now);
        self.wakes.wake_by_ref();
    }

    /// One of the peers does something, if one can.
    fn act(&mut self) -> bool {
        let first = self.chance.below(2);
        let order = [first, 1 - first];
        for side in order {
            let side = [&self.client, &self.server][side];
            let side = &mut *side.borrow_mut();
            let has_room_to_come = side.room < FULL_ROOM.min(side.habits.stalls_at.saturating_sub(side.got.len()));
            let skip = self.chance.one_in(2);
            if side.may_send() && !skip {
                let class = self.chance.pick(&[1, 20, 300, 5_000, 80_000]);
                let bytes = 1 + self.chance.below(class);
                side.send(bytes);
                return true;
            }
            if has_room_to_come && !self.chance.one_in(3) {
                let bytes = if self.chance.one_in(4) { FULL_ROOM } else { 1 + self.chance.skewed(100_000) };
                side.drain(bytes);
                return true;
            }
            if side.owes_wake {
                side.nudge();
                return true;
            }
            if side.may_send() || has_room_to_come {
                // Another time.
                return true;
            }
        }
        false
    }

    /// Lets some time go by, most often a little.
    fn spend_time(&mut self) -> bool {
        let most = if self.chance.one_in(12) { 20_000 } else { 300 };
        let mut left = Duration::from_millis(self.chance.below(most) as u64);
        self.log.tell(|| format!("{left:?} go by"));
        while !left.is_zero() && !self.is_woken() {
            let step = left.min(TICK);
            self.pass(step);
            left -= step;
        }
        true
    }

    /// Nobody has anything to do but the clock.
    fn wait(&mut self) {
        for _ in 0..4_000 {
            if self.is_woken() {
                return;
            }
            self.pass(TICK);
        }
        panic!("a tunnel that waits for ever");
    }

    fn pass(&mut self, time: Duration) {
        let advance = pin!(tokio::time::advance(time));
        let _ = advance.poll(&mut Context::from_waker(Waker::noop()));
        self.tools.0.wheel.advance(clock::now());
        if !self.is_woken() {
            self.check_deadlines();
        }
    }

    // What must hold.

    /// The tunnel waits: for something that will wake it, and with nothing in its hands.
    fn check_rest(&self) {
        assert_eq!(self.tools.0.wheel.len(), 1, "a tunnel that waits has a deadline");
        assert!(self.tools.0.scratch.idle() <= 1, "one buffer serves both directions");
        let (client, server) = (self.client.borrow(), self.server.borrow());
        let blocked = client.is_write_awaited() || server.is_write_awaited();
        for (source, sink) in [(&*client, &*server), (&*server, &*client)] {
            let news = source.has_news() && !source.is_read_awaited() && !self.is_paced(source.tongue.client);
            assert!(!news || blocked, "{}: nobody waits for what it says", source.name());
            if source.tongue.rules.is_none() && sink.lost.is_none() && source.found.is_none() {
                let held = source.read - sink.got.len();
                let is_given_up = sink.found == Some(Found::Broken) || sink.is_shutting;
                assert!(held <= SCRATCH_SIZE || is_given_up, "{}: {held} bytes are held", source.name());
            }
        }
    }

    /// Nobody has anything to say, and everybody listens: all that was said has gone on.
    fn check_all_gone_on(&mut self) {
        self.log.tell(|| "all is said".into());
        let is_paced = self.is_paced(true);
        let (client, server) = (self.client.borrow(), self.server.borrow());
        let (to_server, to_client) = (self.up.pings.clone(), self.down.pings.clone());
        for (account, source, sink, pings) in
            [(&mut self.up, &*client, &*server, to_client), (&mut self.down, &*server, &*client, to_server)]
        {
            if is_paced && source.tongue.client {
                continue;
            }
            assert!(!source.has_news() || sink.room == 0 || source.is_write_awaited(), "{}: unread", source.name());
            if !sink.is_healthy() {
                continue;
            }
            assert_eq!(sink.flushed, sink.got.len(), "{}: waits for a flush", sink.name());
            let missing = account.missing(source, sink, &pings);
            assert!(missing.is_none(), "{}: misses {}", sink.name(), missing.unwrap_or_default());
        }
    }

    /// Whether this end may have to wait with what it says although everybody listens.
    fn is_paced(&self, client: bool) -> bool {
        client && self.options.rates.is_some()
    }

    /// The tunnel still lives, and the clock has just been moved: may it?
    fn check_deadlines(&self) {
        let now = clock::now();
        let (client, server) = (self.client.borrow(), self.server.borrow());
        let is_half = [&*client, &*server].iter().any(|side| side.found.is_some() || side.lost.is_some());
        let half = self.options.half_close_timeout.min(self.options.idle_timeout);
        let limit = match (self.up.closed, self.down.closed) {
            (Some(_), Some(_)) => half.min(Duration::from_secs(5)),
            (None, None) if !is_half => self.options.idle_timeout,
            _ => half,
        };
        // Who is delayed is not silent, and never for much longer than a second.
        let delayed = if self.is_paced(true) { Duration::from_secs(1) + TICK } else { Duration::ZERO };
        let slack = 2 * TICK + delayed;
        // Violated, parting, leaving.
        let last_words = 3 * (Duration::from_secs(1) + TICK);
        let words = if self.options.frames.is_some() { last_words } else { Duration::ZERO };
        assert!(now <= self.moved_at + limit + words + slack, "a tunnel that outlives its silence");
        if let Some(age) = self.options.max_lifetime {
            assert!(now <= self.opened + age * 11 / 10 + words + slack, "a tunnel that is too old");
        }
        if let Some(since) = self.closing_since {
            assert!(now <= since + last_words + slack, "a tunnel that does not part");
        }
        if let Some(since) = self.ordered {
            assert!(now <= since + words + slack, "a tunnel that outlives its order");
        }
        if let Some(since) = self.drained {
            assert!(now <= since + words + slack, "a tunnel that outlives its process");
        }
    }
}

/// As much as anybody wants to write.
const FULL_ROOM: usize = 1 << 40;
