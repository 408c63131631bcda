//! What checks have found of a server, and what follows from it.
//!
//! [`Tally`] counts, purely. [`Checks`] is what all see of it: workers one flag, people the last check.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ask::Checked;
use crate::clock::Instant;
use crate::config::model::Health;
use crate::upstream::definition::Definition;
use crate::upstream::server::Server;

/// What checks have found of one server.
#[derive(Debug, Default)]
pub struct Checks {
    down: AtomicBool,
    passed: AtomicU64,
    failed: AtomicU64,
    falls: AtomicU64,
    /// No worker takes it.
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    tally: Tally,
    last: Option<LastCheck>,
    /// The last attempt could not even be made, and that has been told.
    is_hindered: bool,
}

/// How often checks had which result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    pub passed: u64,
    pub failed: u64,
    /// How often they have taken the server out.
    pub falls: u64,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    pub at: Instant,
    pub took: Duration,
    /// `None`: it passed.
    pub failure: Option<String>,
}

impl Checks {
    /// Whether they have taken the server out.
    pub(in crate::upstream) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> CheckCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CheckCounts { passed: read(&self.passed), failed: read(&self.failed), falls: read(&self.falls) }
    }

    pub fn last(&self) -> Option<LastCheck> {
        self.with_book(|book| book.last.clone())
    }

    /// Whether there was one.
    pub(super) fn is_known(&self) -> bool {
        self.with_book(|book| book.tally != Tally::Unknown)
    }

    /// The server is not checked any more, or was not for a while.
    pub(in crate::upstream) fn forget(&self) {
        self.with_book(|book| *book = Book::default());
        self.down.store(false, Ordering::Relaxed);
    }

    fn enter(&self, health: &Health, check: LastCheck) -> Option<News> {
        let passed = check.failure.is_none();
        if passed { &self.passed } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
        let news = self.with_book(|book| {
            book.last = Some(check);
            book.is_hindered = false;
            book.tally.enter(passed, health.rise, health.fall)
        });
        match news {
            Some(News::Fell { .. }) => {
                self.falls.fetch_add(1, Ordering::Relaxed);
                self.down.store(true, Ordering::Relaxed);
            }
            Some(News::Rose { .. }) => self.down.store(false, Ordering::Relaxed),
            None => {}
        }
        news
    }

    /// Something that is not the server's keeps it from being asked. Whether that is news.
    pub(super) fn hinder(&self) -> bool {
        self.with_book(|book| !std::mem::replace(&mut book.is_hindered, true))
    }

    fn with_book<T>(&self, with: impl FnOnce(&mut Book) -> T) -> T {
        with(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the checks of a server stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tally {
    /// There was none yet; the server counts as up.
    #[default]
    Unknown,
    /// With so many failed in a row.
    Up { failed: u32 },
    /// With so many passed in a row.
    Down { passed: u32 },
}

/// What a check has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It is down, after so many failed checks in a row.
    Fell { failed: u32, first: bool },
    /// It is up, after so many passed ones.
    Rose { passed: u32 },
}

impl Tally {
    fn enter(&mut self, passed: bool, rise: u32, fall: u32) -> Option<News> {
        let (next, news) = match (*self, passed) {
            (Self::Unknown | Self::Up { .. }, true) => (Self::Up { failed: 0 }, None),
            // Nothing good is known of it yet: once is enough.
            (Self::Unknown, false) => (Self::Down { passed: 0 }, Some(News::Fell { failed: 1, first: true })),
            (Self::Up { failed }, false) if failed + 1 < fall => (Self::Up { failed: failed + 1 }, None),
            (Self::Up { failed }, false) => {
                (Self::Down { passed: 0 }, Some(News::Fell { failed: failed + 1, first: false }))
            }
            (Self::Down { .. }, false) => (Self::Down { passed: 0 }, None),
            (Self::Down { passed }, true) if passed + 1 < rise => (Self::Down { passed: passed + 1 }, None),
            (Self::Down { passed }, true) => (Self::Up { failed: 0 }, Some(News::Rose { passed: passed + 1 })),
        };
        *self = next;
        news
    }
}

/// Writes a check down, and says so where it has changed something.
pub(super) fn enter(upstream: &Definition, server: &Server, health: &Health, checked: &Checked) {
    let (name, url, state) = (&upstream.name, &server.url, &server.state);
    let failure = match &checked.result {
        Ok(()) => None,
        // What this machine lacks says nothing of the server.
        Err(failure) if !failure.is_the_servers() => {
            if state.checks.hinder() {
                tracing::warn!(upstream = %name, server = %url, "{name}: {url} cannot be checked: {failure}");
            }
            return;
        }
        Err(failure) => Some(failure.to_string()),
    };
    let last = failure.clone().unwrap_or_default();
    let passed = failure.is_none();
    match state.checks.enter(health, LastCheck { at: checked.at, took: checked.took, failure }) {
        Some(News::Fell { failed, first }) => {
            state.note_departure();
            let which = if first { "its first check failed".to_owned() } else { format!("{} failed", checks(failed)) };
            let colon = if first { ": " } else { ", the last: " };
            tracing::warn!(upstream = %name, server = %url, "{name}: {url} is down: {which}{colon}{last}");
        }
        Some(News::Rose { passed }) => {
            if let Some(rules) = &upstream.ejection {
                // Whatever live traffic had against it was before.
                state.breaker.change(|circuit| Some(circuit.closed(rules, checked.at)));
            }
            state.note_arrival();
            tracing::info!(upstream = %name, server = %url, "{name}: {url} is up again: {} passed", checks(passed));
        }
        None if passed => disprove(upstream, server, checked.at),
        None => {}
    }
}

/// Live traffic may have found that the server cannot be reached.
fn disprove(upstream: &Definition, server: &Server, now: Instant) {
    let (name, url, state) = (&upstream.name, &server.url, &server.state);
    let Some(rules) = &upstream.ejection else { return };
    if state.breaker.change(|circuit| circuit.proved_reachable(rules, now)).is_some() {
        state.note_arrival();
        tracing::info!(upstream = %name, server = %url, "{name}: {url} is back: a check has reached it");
    }
}

fn checks(count: u32) -> String {
    if count == 1 { "1 check".to_owned() } else { format!("{count} checks") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_check_decides_alone() {
        let mut tally = Tally::Unknown;
        assert_eq!(tally.enter(false, 2, 3), Some(News::Fell { failed: 1, first: true }));
        let mut tally = Tally::Unknown;
        assert_eq!(tally.enter(true, 2, 3), None);
        assert_eq!(tally.enter(false, 2, 3), None);
    }

    #[test]
    fn so_many_in_a_row_take_a_server_out_and_bring_it_back() {
        let mut tally = Tally::Unknown;
        let news = |tally: &mut Tally, results: &str| -> Vec<_> {
            results.chars().map(|result| tally.enter(result == '+', 2, 3)).collect()
        };
        assert_eq!(news(&mut tally, "+--+--"), [None; 6]);
        assert_eq!(news(&mut tally, "-"), [Some(News::Fell { failed: 3, first: false })]);
        assert_eq!(news(&mut tally, "-+-+"), [None; 4]);
        assert_eq!(news(&mut tally, "+"), [Some(News::Rose { passed: 2 })]);
        assert_eq!(news(&mut tally, "--"), [None; 2]);
    }

    proptest! {
        #[test]
        fn it_changes_sides_exactly_after_as_many_in_a_row_as_are_asked_for(
            results in prop::collection::vec(any::<bool>(), 1..60),
            rise in 1..5_u32,
            fall in 1..5_u32,
        ) {
            let mut tally = Tally::Unknown;
            let mut up = true;
            for (index, passed) in results.iter().enumerate() {
                let row = results[..=index].iter().rev().take_while(|other| *other == passed).count() as u32;
                let news = tally.enter(*passed, rise, fall);
                let enough = index == 0 || row >= if *passed { rise } else { fall };
                let turns = up != *passed && enough;
                prop_assert_eq!(news.is_some(), turns);
                up ^= turns;
                prop_assert_eq!(matches!(tally, Tally::Up { .. }), up);
            }
        }
    }
}
