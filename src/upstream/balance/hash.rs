//! Consistent hashing with bounded load.
//!
//! Every server draws a number from the request's key and its own id, and the highest for its weight wins (rendezvous
//! hashing, Thaler and Ravishankar 1998, weighted as by Schindelhauer and Schomaker 2005): a server that leaves takes
//! away only its own keys, one that comes takes its share from all. Nothing is stored, so that every worker and every
//! gateway of the same configuration agrees. A server that already has more than its bound of all live work is passed
//! over (Mirrokni, Thorup and Zadimoghaddam 2018), so that one busy key cannot drown it.

use std::net::IpAddr;

use aws_lc_rs::digest;
use http::HeaderMap;

use super::{Candidate, ServerId};
use crate::config::model::HashBy;
use crate::proto::cookie;

/// What a choice may depend on.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// `None` behind a unix socket.
    pub client: Option<IpAddr>,
    /// As they go upstream.
    pub headers: &'a HeaderMap,
    /// Without the query.
    pub path: &'a str,
    /// The server that the client is with.
    pub home: Option<ServerId>,
}

impl Ask<'_> {
    pub(super) fn key(&self, by: &HashBy) -> Option<u64> {
        match by {
            HashBy::Address => match self.client?.to_canonical() {
                IpAddr::V4(address) => Some(digest(&address.octets())),
                IpAddr::V6(address) => Some(digest(&address.octets())),
            },
            HashBy::Header(name) => self.headers.get(name).map(|value| digest(value.as_bytes())),
            HashBy::Cookie(name) => cookie::find(self.headers, name).map(digest),
            HashBy::Path => Some(digest(self.path.as_bytes())),
        }
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let hash = digest::digest(&digest::SHA256, bytes);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_ref() else { return 0 };
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Requests and tunnels that any server may have: with so few it is not busy, however idle the others are.
const FREE: u128 = 10;

/// The key's first server that is within its bound. There is always one while `load` is over 100 percent; the first of
/// all otherwise.
pub(super) fn within_bound(candidates: &[Candidate<'_>], members: &[usize], key: u64, load: u32) -> usize {
    let live: u128 = members.iter().map(|&index| u128::from(candidates[index].live)).sum::<u128>() + 1;
    let weights: u128 = members.iter().map(|&index| u128::from(candidates[index].weight)).sum();
    let is_within = |server: &Candidate<'_>| {
        let bound = (live * u128::from(server.weight) * u128::from(load)).div_ceil(weights.max(1) * 100);
        u128::from(server.live) < bound.max(FREE)
    };
    let favourite = |within: &dyn Fn(&Candidate<'_>) -> bool| {
        let scored = members.iter().filter(|&&index| within(&candidates[index]));
        scored.map(|&index| (index, score(&candidates[index], key))).max_by(|one, other| one.1.total_cmp(&other.1))
    };
    favourite(&is_within).or_else(|| favourite(&|_| true)).map_or(members[0], |(index, _)| index)
}

/// `-weight / ln(u)` with `u` uniform in (0, 1).
fn score(server: &Candidate<'_>, key: u64) -> f64 {
    let drawn = mix(key ^ mix(server.id.0));
    // 53 bits, and never 0 or 1.
    let uniform = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(server.weight as f64) / uniform.ln()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output.
pub(in crate::upstream) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
