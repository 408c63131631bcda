//! Which server a request would go to if nothing were under way, and why: for `explain`.

use std::cell::Cell;
use std::sync::Arc;

use super::balance::{self, Ask, Balance, Candidate, Tier};
use super::definition::Definition;
use super::server::{Server, Standing};

/// The server that a request would go to.
pub struct Foreseen {
    pub server: Arc<Server>,
    pub how: How,
    /// No server that is no backup may get work.
    pub is_backup: bool,
    /// Those that may get work, it among them, weigh so much together.
    pub total_weight: u32,
    pub choices: usize,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// There is no other.
    Only,
    /// The client is with it.
    Sticky,
    Turns,
    LeastConnections,
    TwoChoices,
    Hash,
    /// By turns, because the request lacks what it would be hashed by.
    NothingToHash,
}

impl Definition {
    /// `None` where no server may get work. The head is one that goes upstream.
    pub fn foresee(&self, ask: &Ask<'_>) -> Option<Foreseen> {
        let (_, servers) = self.roster.read();
        let turns: Vec<_> = servers.iter().map(|_| Cell::new(0)).collect();
        let candidates: Vec<_> = servers.iter().zip(&turns).map(|(server, turn)| unused(server, turn)).collect();
        let homes = self.sticky.iter().flat_map(|sticky| sticky.find(ask.headers));
        let mut known = homes.filter_map(|home| servers.iter().position(|server| server.id == home));
        let home = known.find(|&home| self.keeps_clients(&servers[home]));
        let key = self.balance.key(ask);
        // Two choices are random: the first server stands for all.
        let chosen = balance::choose(&self.balance, &candidates, key, self.panic, || 0).ok();
        let tier = chosen.map_or(Tier::Primary, |(_, tier)| tier);
        let server = servers[home.or(chosen.map(|(chosen, _)| chosen))?].clone();
        let peers = || servers.iter().filter(|server| server.weight > 0 && server.backup == (tier == Tier::Backup));
        let how = match (&self.balance, key) {
            _ if home.is_some() => How::Sticky,
            _ if peers().count() == 1 => How::Only,
            (Balance::RoundRobin, _) => How::Turns,
            (Balance::LeastConnections, _) => How::LeastConnections,
            (Balance::TwoChoices, _) => How::TwoChoices,
            (Balance::Hash { .. }, Some(_)) => How::Hash,
            (Balance::Hash { .. }, None) => How::NothingToHash,
        };
        Some(Foreseen {
            server,
            how,
            is_backup: tier == Tier::Backup,
            total_weight: peers().map(|server| server.weight).sum(),
            choices: peers().count(),
        })
    }
}

/// A server with nothing to do.
fn unused<'a>(server: &Server, turn: &'a Cell<i64>) -> Candidate<'a> {
    let weight = u64::from(server.weight) * 1000;
    Candidate { id: server.id, weight, live: 0, backup: server.backup, standing: Standing::Up, is_full: false, turn }
}
