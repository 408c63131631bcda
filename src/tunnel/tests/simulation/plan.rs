//! What a seed stands for: the options, what both ends will say, and what kind of ends they are.

use std::io::ErrorKind;
use std::time::Duration;

use super::chance::Chance;
use super::side::{End, Habits};
use super::traffic::{Tongue, Unit, stream};
use crate::config::model::{OnExcess, Rates};
use crate::proto::frame::{Rsv, Rules};
use crate::tunnel::TunnelOptions;

/// What an order to close says: a code that is nobody else's, and as much as fits behind it.
pub(super) const ORDER_CODE: u16 = 4321;
pub(super) const ORDER_REASON: &str = "Ende, ganz gewiß: das Tor wird nun geschlossen, und wer noch etwas zu sagen hat, \
    der sage es an einem anderen Tor…";

/// One end: how it speaks, how it behaves, what it says.
type Party = (Tongue, Habits, Vec<Unit>);

pub(super) struct Plan {
    pub options: TunnelOptions,
    pub client: Party,
    pub server: Party,
    /// Bytes that come early, at most.
    pub early: (usize, usize),
    /// The process may end while the tunnel is open.
    pub drains: bool,
    /// Somebody may order it to close.
    pub is_ordered: bool,
    pub chance: Chance,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let chance = &mut chance;
        let frames = (!chance.one_in(4)).then(|| rules(chance));
        let options = options(chance, frames);
        let mut end = |client| {
            let tongue = Tongue { client, rules: frames };
            let queue = stream(chance, tongue);
            let size = queue.iter().map(|unit| unit.bytes.len()).sum();
            (tongue, habits(chance, size), queue)
        };
        let client = end(true);
        let server = end(false);
        let mut early = || if chance.one_in(3) { chance.skewed(20_000) } else { 0 };
        let early = (early(), early());
        let (drains, is_ordered) = (chance.one_in(6), chance.one_in(4));
        Self { options, client, server, early, drains, is_ordered, chance: chance.fork() }
    }
}

fn rules(chance: &mut Chance) -> Rules {
    let rsv = chance.pick(&[Rsv::None, Rsv::None, Rsv::Deflate, Rsv::Any]);
    let mut limit = || if chance.one_in(3) { 1 + chance.skewed(5_000) as u64 } else { u64::MAX };
    Rules { rsv, max_frame_size: limit(), max_message_size: limit() }
}

fn options(chance: &mut Chance, frames: Option<Rules>) -> TunnelOptions {
    let seconds = |chance: &mut Chance, choices: &[u64]| Duration::from_millis(chance.pick(choices));
    let is_pinging = frames.is_some() && chance.one_in(2);
    TunnelOptions {
        idle_timeout: seconds(chance, &[1_000, 5_000, 10_000, 20_000, 20_000, 40_000, 60_000]),
        half_close_timeout: seconds(chance, &[500, 3_000, 10_000, 30_000]),
        max_lifetime: chance.one_in(5).then(|| seconds(chance, &[100, 1_000, 5_000, 30_000])),
        ping_interval: is_pinging.then(|| seconds(chance, &[300, 1_000, 3_000, 5_000])),
        ping_upstream: chance.one_in(2),
        frames,
        // An opaque tunnel that is cut ends well, whatever a delayed client still had to say.
        rates: (frames.is_some() && chance.one_in(5)).then(|| rates(chance)),
    }
}

/// The client is delayed, so that nothing that it says is lost.
fn rates(chance: &mut Chance) -> Rates {
    let is_counted = chance.one_in(2);
    let messages_per_second = is_counted.then(|| chance.pick(&[1, 5, 50, 1_000]));
    let is_measured = !is_counted || chance.one_in(2);
    let bytes_per_second = is_measured.then(|| chance.pick(&[300, 3_000, 100_000, 1 << 20]));
    Rates { messages_per_second, bytes_per_second, on_excess: OnExcess::Delay }
}

fn habits(chance: &mut Chance, size: usize) -> Habits {
    let resets = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::TimedOut, ErrorKind::Other];
    let piece = match chance.below(4) {
        0 => 1 + chance.skewed(40),
        1 => 1 + chance.skewed(3_000),
        _ => usize::MAX,
    };
    let end = match chance.below(8) {
        0..3 => Some(End::Fin),
        3 => Some(End::Eof),
        4 => Some(End::Reset(chance.pick(&resets))),
        // It stays.
        _ => None,
    };
    Habits {
        // Small pieces of much would take long.
        piece: piece.max(size / 50),
        waits: chance.pick(&[0, 0, 3, 10]),
        buffers: chance.one_in(2),
        stalls_at: if chance.one_in(12) { chance.skewed(100_000) } else { usize::MAX },
        end,
        ends_at: if end.is_some() && chance.one_in(3) { chance.below(size + 1) } else { usize::MAX },
        gone: match chance.below(6) {
            0 => Some(ErrorKind::BrokenPipe),
            1 => Some(ErrorKind::ConnectionReset),
            _ => None,
        },
        pongs: chance.pick(&[0, 0, 100, 80]),
        closes: !chance.one_in(4),
        hangs_up: !chance.one_in(3),
    }
}
