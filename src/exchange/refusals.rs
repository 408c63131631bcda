//! The last refusals of one worker: what it would not serve, to whom, and why. For those who wonder why something does not
//! get through and have no log at hand.
//!
//! Kept beside the access log, whether there is one or not, and with as little: no credentials, no query, peers' words
//! cut short. The oldest one goes when there are too many.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::clock;
use crate::telemetry::access::AccessRecord;
use crate::telemetry::end::EndReason;
use crate::types::HttpVersion;

/// How many of a worker are kept.
pub const KEPT: usize = 128;

/// Bytes of a peer's word that are kept.
const LONGEST: usize = 256;

/// The last refusals of one worker.
#[derive(Debug, Default)]
pub struct Refusals {
    last: RefCell<VecDeque<Refused>>,
}

/// One request, handshake or connection that was refused. Words of a peer's are as they came, but for what is no text.
#[derive(Clone, Debug)]
pub struct Refused {
    pub time: SystemTime,
    pub reason: EndReason,
    /// `None`: there was nobody to answer.
    pub status: Option<u16>,
    /// The number of the connection, as in the access log.
    pub connection: u64,
    pub listener: Box<str>,
    pub client: Option<IpAddr>,
    pub protocol: Option<HttpVersion>,
    /// Empty where it did not get as far as a request.
    pub method: Box<str>,
    pub host: Option<Box<str>>,
    /// Without the query.
    pub path: Box<str>,
    pub route: Option<Box<str>>,
    pub upstream: Option<Box<str>>,
    pub server: Option<Box<str>>,
    pub origin: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
    /// What decided it, with its place in the configuration.
    pub rule: Option<Box<str>>,
    pub detail: Option<Box<str>>,
}

impl Refusals {
    pub fn note(&self, record: &AccessRecord<'_>) {
        let Some(reason) = record.end else { return };
        let word = |bytes: &[u8]| cut(&String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]));
        let refused = Refused {
            time: record.time.unwrap_or_else(clock::wall),
            reason,
            status: record.status,
            connection: record.connection,
            listener: record.listener.into(),
            client: record.client,
            protocol: record.protocol,
            method: cut(record.method),
            host: record.host.map(word),
            path: word(record.path),
            route: record.route.map(Box::from),
            upstream: record.upstream.map(Box::from),
            server: record.server.map(Box::from),
            origin: record.origin.map(word),
            user_agent: record.user_agent.map(word),
            rule: record.rule.map(cut),
            detail: record.detail.map(cut),
        };
        let mut last = self.last.borrow_mut();
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(refused);
    }

    /// The newest first.
    pub fn newest(&self, most: usize) -> Vec<Refused> {
        self.last.borrow().iter().rev().take(most).cloned().collect()
    }
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(LONGEST)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_newest_first_and_words_are_cut() {
        let refusals = Refusals::default();
        refusals.note(&AccessRecord::default());
        assert!(refusals.newest(9).is_empty(), "what has no end was not refused");
        for number in 0..KEPT as u64 + 10 {
            let path = [&b"/\xff"[..], &[b'a'; 1000]].concat();
            refusals.note(&AccessRecord {
                connection: number,
                end: Some(EndReason::NoRoute),
                path: &path,
                origin: Some("é".repeat(200).as_bytes()),
                ..AccessRecord::default()
            });
        }
        let newest = refusals.newest(3);
        assert_eq!(newest.iter().map(|refused| refused.connection).collect::<Vec<_>>(), [137, 136, 135]);
        assert!(newest[0].path.starts_with("/\u{fffd}aaa") && newest[0].path.len() <= LONGEST);
        assert_eq!(newest[0].origin.as_deref(), Some(&*"é".repeat(128)));
        assert_eq!(refusals.newest(usize::MAX).len(), KEPT);
    }
}
