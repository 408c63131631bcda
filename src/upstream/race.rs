//! Which of a server's addresses to connect to: all of them, one after the other, and the first that answers
//! (RFC 8305, "Happy Eyeballs").
//!
//! Families take turns, IPv6 first. The next address is tried as soon as one fails, and after [`ATTEMPT_DELAY`] while
//! none has answered; those that were begun go on meanwhile. Whoever comes first wins, the others are closed. A single
//! address costs nothing more than connecting to it. Dropping the future closes everything.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;

use super::failure::is_ours;
use crate::clock::Instant;

/// RFC 8305 5: how long an address may take before the next one is tried beside it.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Attempts at a time: a name with hundreds of addresses is no reason to open hundreds of sockets.
const MOST_AT_ONCE: usize = 10;

/// Addresses that a failure names.
const MOST_NAMED: usize = 10;

/// Nobody answered.
#[derive(Debug, Default)]
pub struct Unreachable {
    failed: SmallVec<[(SocketAddr, io::Error); 1]>,
    /// Had not said anything when time ran out.
    silent: SmallVec<[SocketAddr; 1]>,
    /// How many had not been tried by then.
    untried: usize,
}

impl Unreachable {
    /// Whether any address has failed in a way that is not for what this machine lacks.
    pub(super) fn is_the_servers(&self) -> bool {
        self.timed_out() || self.failed.iter().any(|(_, error)| !is_ours(error))
    }

    /// The same, for others whom it concerns.
    pub(super) fn copy(&self) -> Self {
        let copy = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        let failed = self.failed.iter().map(|(address, error)| (*address, copy(error))).collect();
        Self { failed, silent: self.silent.clone(), untried: self.untried }
    }

    /// Whether time ran out, as against having been told that there is nobody.
    pub fn timed_out(&self) -> bool {
        !self.silent.is_empty()
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut write = |text: fmt::Arguments<'_>| {
            let separator = std::mem::replace(&mut separator, "; ");
            write!(out, "{separator}{text}")
        };
        for (address, error) in self.failed.iter().take(MOST_NAMED) {
            write(format_args!("{address}: {error}"))?;
        }
        if self.failed.len() > MOST_NAMED {
            write(format_args!("{} more failed", self.failed.len() - MOST_NAMED))?;
        }
        for address in &self.silent {
            write(format_args!("{address}: timed out"))?;
        }
        if self.untried > 0 {
            write(format_args!("{} more not tried", self.untried))?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failed.first().map(|(_, error)| error as _)
    }
}

/// The connection to the first of `addresses` that answers before `deadline`, and which one that is. `first` is the one
/// to begin with, where one of them has been quicker lately.
pub(super) async fn race<T, C, F>(
    addresses: &[SocketAddr],
    first: Option<usize>,
    deadline: Instant,
    mut connect: C,
) -> Result<(T, usize), Unreachable>
where
    C: FnMut(usize) -> F,
    F: Future<Output = io::Result<T>>,
{
    if let [address] = addresses {
        return match tokio::time::timeout_at(deadline, connect(0)).await {
            Ok(Ok(connected)) => Ok((connected, 0)),
            Ok(Err(error)) => {
                Err(Unreachable { failed: smallvec::smallvec![(*address, error)], ..Unreachable::default() })
            }
            Err(_) => Err(Unreachable { silent: smallvec::smallvec![*address], ..Unreachable::default() }),
        };
    }
    // Boxed: rare, and large.
    Box::pin(race_several(addresses, first, deadline, connect)).await
}

struct Attempt<F> {
    index: usize,
    connecting: Pin<Box<F>>,
}

/// What happens next in a race.
enum Event<T> {
    Connected(T, usize),
    Failed(usize, io::Error),
    /// It has taken long enough for another address to get its chance.
    Slow,
    TimedOut,
}

async fn race_several<T, C, F>(
    addresses: &[SocketAddr],
    first: Option<usize>,
    deadline: Instant,
    mut connect: C,
) -> Result<(T, usize), Unreachable>
where
    C: FnMut(usize) -> F,
    F: Future<Output = io::Result<T>>,
{
    let order = order(addresses, first);
    let mut waiting = order.into_iter();
    let mut attempts = SmallVec::<[Attempt<F>; 2]>::new();
    let mut failed = SmallVec::new();
    let mut patience = Box::pin(tokio::time::sleep(ATTEMPT_DELAY));
    let mut end = Box::pin(tokio::time::sleep_until(deadline));
    let mut begin = true;
    loop {
        if std::mem::take(&mut begin)
            && let Some(index) = waiting.next()
        {
            attempts.push(Attempt { index, connecting: Box::pin(connect(index)) });
            patience.as_mut().reset(crate::clock::now() + ATTEMPT_DELAY);
        }
        if attempts.is_empty() {
            return Err(Unreachable { failed, ..Unreachable::default() });
        }
        let more = waiting.len() > 0 && attempts.len() < MOST_AT_ONCE;
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = poll_attempts(&mut attempts, cx) {
                return Poll::Ready(event);
            }
            if end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::TimedOut);
            }
            if more { patience.as_mut().poll(cx).map(|()| Event::Slow) } else { Poll::Pending }
        });
        match event.await {
            Event::Connected(connected, index) => return Ok((connected, index)),
            Event::Failed(index, error) => {
                failed.push((addresses[index], error));
                begin = true;
            }
            Event::Slow => begin = true,
            Event::TimedOut => {
                let silent = attempts.iter().map(|attempt| addresses[attempt.index]).collect();
                return Err(Unreachable { failed, silent, untried: waiting.len() });
            }
        }
    }
}

fn poll_attempts<T, F>(attempts: &mut SmallVec<[Attempt<F>; 2]>, cx: &mut Context<'_>) -> Poll<Event<T>>
where
    F: Future<Output = io::Result<T>>,
{
    for at in 0..attempts.len() {
        let attempt = &mut attempts[at];
        let index = attempt.index;
        match attempt.connecting.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(connected)) => return Poll::Ready(Event::Connected(connected, index)),
            Poll::Ready(Err(error)) => {
                attempts.remove(at);
                return Poll::Ready(Event::Failed(index, error));
            }
        }
    }
    Poll::Pending
}

/// RFC 8305 4: families in turn, IPv6 first, each in the order of its list; before all of them the one that is to be
/// `first`.
fn order(addresses: &[SocketAddr], first: Option<usize>) -> SmallVec<[usize; 4]> {
    let first = first.filter(|index| *index < addresses.len());
    let of = |v6| (0..addresses.len()).filter(move |at| addresses[*at].is_ipv6() == v6 && Some(*at) != first);
    let (mut v6, mut v4) = (of(true), of(false));
    let mut order: SmallVec<[usize; 4]> = first.into_iter().collect();
    // The family of the first one has had its turn.
    let mut next_is_v6 = first.is_none_or(|index| addresses[index].is_ipv4());
    loop {
        let next = if next_is_v6 { v6.next().or_else(|| v4.next()) } else { v4.next().or_else(|| v6.next()) };
        let Some(next) = next else { return order };
        order.push(next);
        next_is_v6 = !next_is_v6;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::clock;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 80)).collect()
    }

    #[test]
    fn families_take_turns_and_ipv6_is_first() {
        let all = addresses(&["10.0.0.1", "10.0.0.2", "::1", "10.0.0.3", "::2"]);
        assert_eq!(order(&all, None)[..], [2, 0, 4, 1, 3]);
        assert_eq!(order(&all, Some(1))[..], [1, 2, 0, 4, 3]);
        assert_eq!(order(&all, Some(4))[..], [4, 0, 2, 1, 3]);
        assert_eq!(order(&all, Some(99))[..], [2, 0, 4, 1, 3], "an index of another list");
    }

    /// What an address does, after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Answers(u64),
        Refuses(u64),
        Nothing,
    }

    struct Told {
        outcome: Result<usize, String>,
        /// When each attempt began, in milliseconds.
        begun: Vec<(usize, u128)>,
        ended_after: u128,
    }

    async fn run(does: &[Does], first: Option<usize>, timeout: u64) -> Told {
        let start = clock::now();
        let all: Vec<_> = (1..=does.len()).map(|last| SocketAddr::from(([10, 0, 0, last as u8], 80))).collect();
        let begun = Rc::new(RefCell::new(Vec::new()));
        let outcome = race(&all, first, start + Duration::from_millis(timeout), |index| {
            begun.borrow_mut().push((index, start.elapsed().as_millis()));
            let does = does[index];
            async move {
                match does {
                    Does::Answers(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Ok(())
                    }
                    Does::Refuses(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        Err(io::ErrorKind::ConnectionRefused.into())
                    }
                    Does::Nothing => std::future::pending().await,
                }
            }
        })
        .await;
        let outcome = outcome.map(|((), index)| index).map_err(|error| error.to_string());
        Told { outcome, begun: begun.take(), ended_after: start.elapsed().as_millis() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_holds_up_the_next_one_for_a_quarter_of_a_second() {
        let told = run(&[Does::Nothing, Does::Answers(10)], None, 5_000).await;
        assert_eq!((told.outcome, told.begun), (Ok(1), vec![(0, 0), (1, 250)]));
        assert!((260..270).contains(&told.ended_after), "{}", told.ended_after);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_is_tried_at_once_when_one_refuses() {
        let told = run(&[Does::Refuses(3), Does::Refuses(3), Does::Answers(3)], None, 5_000).await;
        assert_eq!(told.outcome, Ok(2));
        assert!(told.ended_after < 20, "{}", told.ended_after);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_begun_may_still_win() {
        let told = run(&[Does::Answers(300), Does::Answers(200)], None, 5_000).await;
        assert_eq!((told.outcome, told.begun.len()), (Ok(0), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_was_quicker_lately_is_tried_first() {
        let told = run(&[Does::Nothing, Does::Answers(10)], Some(1), 5_000).await;
        assert_eq!((told.outcome, told.begun), (Ok(1), vec![(1, 0)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_names_every_address_and_comes_when_the_last_one_has_failed() {
        let told = run(&[Does::Refuses(1), Does::Refuses(2)], None, 5_000).await;
        let error = told.outcome.expect_err("nobody answers");
        assert!(error.contains("10.0.0.1:80: ") && error.contains("10.0.0.2:80: "), "{error}");
        assert!(told.ended_after < 20);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_them_share_one_deadline() {
        for count in [1, 2, 9, 12] {
            let told = run(&vec![Does::Nothing; count], None, 1_000).await;
            let error = told.outcome.expect_err("nobody answers");
            assert!((1_000..1_010).contains(&told.ended_after), "{}", told.ended_after);
            assert!(error.contains("10.0.0.1:80: timed out"), "{error}");
            assert_eq!(told.begun.len(), count.min(4));
            assert_eq!(error.contains("more not tried"), count > 4, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_addresses_all_are_tried_and_few_at_a_time() {
        let told = run(&[vec![Does::Refuses(1); 199], vec![Does::Answers(1)]].concat(), None, 5_000).await;
        assert_eq!((told.outcome, told.begun.len()), (Ok(199), 200));
        let told = run(&vec![Does::Nothing; 200], None, 60_000).await;
        assert_eq!(told.begun.len(), MOST_AT_ONCE);
        let told = run(&vec![Does::Refuses(1); 200], None, 60_000).await;
        assert!(told.outcome.expect_err("nobody answers").ends_with("; 190 more failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn losers_are_dropped_when_one_has_won() {
        struct Held(Rc<RefCell<usize>>);
        impl Drop for Held {
            fn drop(&mut self) {
                *self.0.borrow_mut() -= 1;
            }
        }
        let open = Rc::new(RefCell::new(0));
        let all = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let deadline = clock::now() + Duration::from_secs(5);
        let won = race(&all, None, deadline, |index| {
            *open.borrow_mut() += 1;
            let held = Held(open.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(if index == 2 { 1 } else { 10_000 })).await;
                Ok(held)
            }
        });
        let (held, index) = won.await.expect("one answers");
        assert_eq!((index, *open.borrow()), (2, 1));
        drop(held);
        assert_eq!(*open.borrow(), 0);
    }
}
