//! The first of many, by a key: the rest is forgotten while it comes, so that a list of a hundred thousand tunnels costs
//! the memory of those that are shown.
//!
//! Pure. Equals are told apart by their number, so that the same tunnels stand in the same order each time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::IpAddr;

use super::filter::{Number, Word};
use crate::exchange::live::TunnelRow;
use crate::types::Name;

/// What a list may be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    Number(Number),
    Word(Word),
    Client,
}

impl Default for SortBy {
    fn default() -> Self {
        Self::Number(Number::Id)
    }
}

/// A key, and whether the most or the least comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    pub by: SortBy,
    pub is_descending: bool,
}

const KEYS: [(&str, SortBy); 14] = [
    ("id", SortBy::Number(Number::Id)),
    ("age", SortBy::Number(Number::Age)),
    ("idle", SortBy::Number(Number::Idle)),
    ("messages", SortBy::Number(Number::Messages)),
    ("bytes", SortBy::Number(Number::Bytes)),
    ("rtt", SortBy::Number(Number::RoundTrip)),
    ("route", SortBy::Word(Word::Route)),
    ("upstream", SortBy::Word(Word::Upstream)),
    ("server", SortBy::Word(Word::Server)),
    ("listener", SortBy::Word(Word::Listener)),
    ("client", SortBy::Client),
    ("subprotocol", SortBy::Word(Word::Subprotocol)),
    ("protocol", SortBy::Word(Word::Protocol)),
    ("state", SortBy::Word(Word::State)),
];

impl Sort {
    /// `bytes`: the most first, as it is with all that is measured; words and numbers of tunnels from the front.
    /// `bytes:asc` and `route:desc` turn that round.
    ///
    /// # Errors
    /// There is no such key; in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, direction) = text.split_once(':').map_or((text, None), |(key, direction)| (key, Some(direction)));
        let Some((_, by)) = KEYS.iter().find(|(name, _)| *name == key) else {
            return Err(format!("sort by one of {}", KEYS.map(|(name, _)| name).join(", ")));
        };
        let is_descending = match direction {
            None => by.is_measure(),
            Some("asc") => false,
            Some("desc") => true,
            Some(_) => return Err(format!("write `{key}:asc` or `{key}:desc`")),
        };
        Ok(Self { by: *by, is_descending })
    }
}

impl SortBy {
    fn is_measure(self) -> bool {
        matches!(self, Self::Number(number) if number != Number::Id)
    }

    fn rank(self, row: &TunnelRow) -> Rank {
        match self {
            Self::Number(number) => Rank::Number(number.of(row).unwrap_or_default()),
            Self::Word(word) => Rank::Word(word.of(row).into()),
            Self::Client => match row.client.map(|client| client.to_canonical()) {
                None => Rank::Address(0, 0),
                Some(IpAddr::V4(address)) => Rank::Address(4, u128::from(u32::from(address))),
                Some(IpAddr::V6(address)) => Rank::Address(6, u128::from(address)),
            },
        }
    }
}

/// Comparable only with those of the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Number(u64),
    Address(u8, u128),
    Word(Name),
}

/// The first so many of all that come.
#[derive(Debug)]
pub struct Top {
    sort: Sort,
    most: usize,
    /// The last of those that are kept on top.
    kept: BinaryHeap<Placed>,
    seen: usize,
}

/// A row with its place in the order: less is nearer to the front.
#[derive(Debug)]
struct Placed {
    place: (Result<Rank, Reverse<Rank>>, u64),
    row: TunnelRow,
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Placed {}

impl Top {
    pub fn new(sort: Sort, most: usize) -> Self {
        Self { sort, most, kept: BinaryHeap::new(), seen: 0 }
    }

    pub fn add(&mut self, row: TunnelRow) {
        self.seen += 1;
        let rank = self.sort.by.rank(&row);
        let rank = if self.sort.is_descending { Err(Reverse(rank)) } else { Ok(rank) };
        let placed = Placed { place: (rank, row.tunnel.number), row };
        if self.kept.len() < self.most {
            self.kept.push(placed);
        } else if let Some(mut last) = self.kept.peek_mut()
            && placed < *last
        {
            *last = placed;
        }
    }

    /// How many have come.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// In order.
    pub fn into_rows(self) -> Vec<TunnelRow> {
        self.kept.into_sorted_vec().into_iter().map(|placed| placed.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::exchange::Way;
    use crate::exchange::live::{Progress, TunnelRef, TunnelState};
    use crate::types::{HttpVersion, Peer};

    fn row(number: u64, bytes: u64) -> TunnelRow {
        TunnelRow {
            tunnel: TunnelRef { number, worker: 0, place: 0 },
            connection: 0,
            way: Arc::new(Way {
                listener: "l".into(),
                version: HttpVersion::Http2,
                tls: None,
                route: Some(Name::new(format!("{bytes:03}"))),
                upstream: None,
                server: None,
                subprotocol: None,
            }),
            peer: Peer::Unix,
            client: Some(IpAddr::from([10, 0, 0, (bytes % 256) as u8])),
            age: Duration::from_secs(bytes),
            progress: Progress {
                state: TunnelState::Open,
                bytes_up: bytes,
                bytes_down: 0,
                age: Duration::ZERO,
                idle: Duration::ZERO,
                frames: None,
            },
        }
    }

    #[test]
    fn what_is_measured_comes_with_the_most_first_and_words_from_the_front() {
        for (text, is_descending) in
            [("bytes", true), ("route", false), ("id", false), ("bytes:asc", false), ("route:desc", true)]
        {
            assert_eq!(Sort::parse(text).map(|sort| sort.is_descending), Ok(is_descending), "{text}");
        }
        for text in ["", "size", "bytes:", "bytes:up", "BYTES"] {
            assert!(Sort::parse(text).is_err(), "{text}");
        }
        for (name, _) in KEYS {
            assert!(Sort::parse(name).is_ok());
        }
    }

    proptest! {
        #[test]
        fn the_first_of_many_are_those_of_the_whole_list_in_order(
            bytes in proptest::collection::vec(0u64..50, 0..60), most in 0usize..20, key in 0usize..5,
        ) {
            let sort = ["bytes", "bytes:asc", "route", "client", "age"].map(|key| Sort::parse(key).expect("a key"))[key];
            let mut top = Top::new(sort, most);
            bytes.iter().enumerate().for_each(|(number, bytes)| top.add(row(number as u64, *bytes)));
            prop_assert_eq!(top.seen(), bytes.len());
            let mut whole: Vec<_> = bytes.iter().enumerate().map(|(number, bytes)| (*bytes, number as u64)).collect();
            // `sort_by_key` keeps the order of equals.
            if sort.is_descending { whole.sort_by_key(|(bytes, _)| Reverse(*bytes)) } else { whole.sort_by_key(|(bytes, _)| *bytes) }
            whole.truncate(most);
            let rows: Vec<_> = top.into_rows().iter().map(|row| (row.progress.bytes_up, row.tunnel.number)).collect();
            prop_assert_eq!(rows, whole);
        }
    }
}
