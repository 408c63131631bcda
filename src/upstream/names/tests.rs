//! What is known of a name over time, and what the system's files say.

use std::net::IpAddr;
use std::time::Duration;

use super::book::{Book, DENIED_FOR, Entry, Known, LONGEST, News, SHORTEST};
use super::resolver::{Answer, Unresolved};
use crate::clock::{self, Instant};

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn answer(ttl: u64, lasts: &[u8]) -> Result<Answer<IpAddr>, Unresolved> {
    let records = lasts.iter().map(|last| address(*last)).collect();
    Ok(Answer { records, ttl: Duration::from_secs(ttl), cut_from: None, partial: None })
}

fn failed() -> Result<Answer<IpAddr>, Unresolved> {
    Err(Unresolved::Failed("SERVFAIL".into()))
}

fn denied() -> Result<Answer<IpAddr>, Unresolved> {
    Err(Unresolved::Denied("NXDOMAIN".into()))
}

/// A book that is written to at times counted from its beginning.
struct Story {
    book: Book<IpAddr>,
    start: Instant,
}

impl Story {
    fn new() -> Self {
        Self { book: Book::new(Known::Asking), start: clock::now() }
    }

    fn at(&mut self, seconds: u64, outcome: Result<Answer<IpAddr>, Unresolved>) -> Entry<IpAddr> {
        self.book.enter(self.start + Duration::from_secs(seconds), outcome, 0)
    }
}

#[test]
fn an_answer_is_told_once_and_asked_for_again_when_its_ttl_is_over() {
    let mut story = Story::new();
    let first = story.at(0, answer(60, &[1, 2]));
    assert_eq!(first.publish, Some(Known::Good(vec![address(1), address(2)])));
    assert_eq!(first.news, Some(News::Resolved(vec![address(1), address(2)])));
    assert_eq!(first.ask_again_in, Duration::from_secs(60));
    let same = story.at(60, answer(60, &[1, 2]));
    assert_eq!((same.publish, same.news), (None, None));
    let turned = story.at(120, answer(60, &[2, 1]));
    assert_eq!((turned.publish.is_some(), turned.news), (true, None), "another order is used, and is no news");
    let moved = story.at(180, answer(60, &[3]));
    assert_eq!(moved.publish, Some(Known::Good(vec![address(3)])));
    assert_eq!(moved.news, Some(News::Changed(vec![address(3)])));
}

#[test]
fn what_was_known_before_a_reload_is_taken_away_by_nothing_less_than_what_was_learnt_since() {
    for before in [vec![address(1)], Vec::new()] {
        let mut story = Story { book: Book::new(Known::Good(before.clone())), start: clock::now() };
        let first = story.at(0, failed());
        assert_eq!((first.publish, first.news.is_some()), (None, true));
        assert_eq!(story.at(1, denied()).publish, None);
        let gone = story.at(2 + DENIED_FOR.as_secs(), denied());
        assert!(matches!(gone.publish, Some(Known::Nothing(_))), "{gone:?}");
    }
    let mut story = Story { book: Book::new(Known::Good(vec![address(1)])), start: clock::now() };
    let same = story.at(0, answer(60, &[1]));
    assert_eq!((same.publish, same.news), (None, None));
    let mut story = Story { book: Book::new(Known::Good(Vec::new())), start: clock::now() };
    let first = story.at(0, answer(60, &[1]));
    assert_eq!(first.publish, Some(Known::Good(vec![address(1)])));
    assert_eq!(first.news, Some(News::Resolved(vec![address(1)])), "nobody knows what it was");
}

#[test]
fn a_ttl_is_kept_within_bounds_and_only_ever_lengthened_by_chance() {
    let mut story = Story::new();
    assert_eq!(story.at(0, answer(0, &[1])).ask_again_in, SHORTEST);
    assert_eq!(story.at(1, answer(u64::from(u32::MAX), &[1])).ask_again_in, LONGEST);
    for chance in [0, 1, u32::MAX / 2, u32::MAX] {
        let wait = story.book.enter(story.start, answer(60, &[1]), chance).ask_again_in;
        assert!((60_000..=66_000).contains(&wait.as_millis()), "{wait:?}");
    }
}

#[test]
fn the_last_good_answer_outlives_any_failure_and_both_ends_of_it_are_news_once() {
    let mut story = Story::new();
    story.at(0, answer(1, &[1]));
    let first = story.at(1, failed());
    assert_eq!((first.publish, first.news), (None, Some(News::Stale(Unresolved::Failed("SERVFAIL".into())))));
    for seconds in [2, 100, 100_000] {
        let next = story.at(seconds, failed());
        assert_eq!((next.publish, next.news), (None, None));
    }
    let again = story.at(100_001, answer(1, &[1]));
    assert_eq!((again.publish, again.news), (None, Some(News::Recovered)));
}

#[test]
fn a_name_that_does_not_resolve_is_asked_for_less_and_less() {
    let mut story = Story::new();
    let waits: Vec<_> = (0..9).map(|second| story.at(second, failed()).ask_again_in.as_millis()).collect();
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    story.at(10, answer(1, &[1]));
    assert_eq!(story.at(11, failed()).ask_again_in.as_millis(), 500);
}

#[test]
fn a_name_that_is_not_there_at_first_is_told_and_then_found() {
    let mut story = Story::new();
    let first = story.at(0, denied());
    let why = Unresolved::Denied("NXDOMAIN".into());
    assert_eq!(first.publish, Some(Known::Nothing(why.clone())));
    assert_eq!(first.news, Some(News::Unresolved(why)));
    assert_eq!(story.at(1, denied()).publish, None);
    let other = story.at(2, failed());
    assert_eq!((other.publish.is_some(), other.news), (true, None), "requests are told of the latest cause");
    assert_eq!(story.at(3, answer(60, &[1])).news, Some(News::Resolved(vec![address(1)])));
}

#[test]
fn a_known_name_is_gone_only_when_it_has_been_denied_for_a_while() {
    let hold = DENIED_FOR.as_secs();
    let mut story = Story::new();
    story.at(0, answer(1, &[1]));
    assert!(matches!(story.at(1, denied()).news, Some(News::Stale(_))));
    assert_eq!(story.at(hold, denied()).publish, None);
    let gone = story.at(1 + hold, denied());
    assert!(matches!((gone.publish, gone.news), (Some(Known::Nothing(_)), Some(News::Gone(_)))));
    // A name server that cannot say in between does not count as a denial.
    story.at(100, answer(1, &[1]));
    story.at(101, denied());
    story.at(102, failed());
    assert_eq!(story.at(102 + hold, denied()).publish, None);
    assert!(story.at(102 + 2 * hold, denied()).publish.is_some());
}

mod files {
    use std::path::Path;

    use hickory_resolver::proto::rr::Name;

    use super::super::system::{Files, System};

    fn system(folder: &Path) -> System {
        System::new(Files { resolv_conf: folder.join("resolv.conf"), hosts: folder.join("hosts") }, None)
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn candidates(system: &mut System, text: &str) -> Vec<String> {
        system.view().candidates(&name(text)).iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn names_are_searched_for_as_the_systems_resolver_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |text: &str| std::fs::write(folder.path().join("resolv.conf"), text).expect("writable");
        write("nameserver 10.0.0.53\nsearch a.test b.test\n");
        let mut system = system(folder.path());
        assert_eq!(candidates(&mut system, "chat"), ["chat.a.test.", "chat.b.test.", "chat."]);
        assert_eq!(
            candidates(&mut system, "chat.internal"),
            ["chat.internal.", "chat.internal.a.test.", "chat.internal.b.test."]
        );
        assert_eq!(candidates(&mut system, "chat.internal."), ["chat.internal."]);
        assert_eq!(candidates(&mut system, "localhost"), ["localhost."]);
        // What has changed is read again.
        write("nameserver 10.0.0.53\noptions ndots:2\ndomain longer.test\n");
        assert_eq!(candidates(&mut system, "chat.internal"), ["chat.internal.longer.test.", "chat.internal."]);
        let long = format!("{}.internal", vec!["x".repeat(60); 4].join("."));
        assert_eq!(candidates(&mut system, &long).len(), 1, "too long for a search domain");
    }

    #[test]
    fn missing_and_broken_files_leave_the_machine_itself_to_be_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut missing = system(folder.path());
        assert_eq!(missing.view().servers.len(), 1);
        assert!(missing.view().in_hosts(&name("a.test")).is_empty());
        for text in [&b"nonsense\nnameserver\nnameserver not-an-address\n"[..], b"\xff\xfe\0", b""] {
            std::fs::write(folder.path().join("resolv.conf"), text).expect("writable");
            std::fs::write(folder.path().join("hosts"), text).expect("writable");
            let mut broken = system(folder.path());
            assert_eq!(broken.view().servers.len(), 1);
            assert!(broken.view().in_hosts(&name("a.test")).is_empty());
        }
        std::fs::write(folder.path().join("resolv.conf"), "nameserver 10.0.0.1\n".repeat(99)).expect("writable");
        assert_eq!(missing.view().servers.len(), 8);
    }

    #[test]
    fn the_hosts_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |text: &str| std::fs::write(folder.path().join("hosts"), text).expect("writable");
        write("10.0.0.1 Chat chat.internal # ours\n::1 chat\n");
        let mut system = system(folder.path());
        let find = |system: &mut System, text: &str| -> Vec<String> {
            system.view().in_hosts(&name(text)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(find(&mut system, "chat"), ["::1", "10.0.0.1"]);
        assert_eq!(find(&mut system, "chat.internal."), ["10.0.0.1"]);
        assert!(find(&mut system, "other").is_empty());
        write("10.0.0.22 chat\n");
        assert_eq!(find(&mut system, "chat"), ["10.0.0.22"]);
        std::fs::remove_file(folder.path().join("hosts")).expect("there");
        assert!(find(&mut system, "chat").is_empty());
    }
}
