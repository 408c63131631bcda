//! Answers over h2 whose client opens no window for them: given up after the route's `client_stall`.
//!
//! hyper asks an answer's body for its next piece only when the last one has found room in the stream's window, and
//! has no limit for how long that may take; meanwhile the body would hold its connection to the server. Here each
//! answer notes when it handed a piece over, and `connection.rs` turns the one timer of the connection. What is given
//! up frees the server at once; the stream is reset when hyper next asks. (HTTP/1.1 needs none of this: there a client
//! that does not read is a socket that takes nothing.)

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use slab::Slab;

use crate::clock::{self, Instant};
use crate::http::BodyError;

/// The answers that one connection has open.
#[derive(Default)]
pub struct Stalls {
    answers: RefCell<Slab<Rc<dyn Waiting>>>,
    /// No answer can have stalled before; `None` while nobody waits for a window.
    due: Cell<Option<Instant>>,
    timer: RefCell<Option<Pin<Box<tokio::time::Sleep>>>>,
    /// The connection's task.
    waker: RefCell<Option<Waker>>,
}

/// A body that says so when it is given up.
pub(super) trait Delivered: Body<Data = Bytes, Error = BodyError> + Unpin {
    /// The client does not read it.
    fn give_up(self);
}

/// An answer, whatever its body is.
trait Waiting {
    /// When it has waited for too long, if it waits.
    fn deadline(&self) -> Option<Instant>;
    fn give_up(&self);
}

struct Answer<B> {
    /// `None` once it has been given up.
    delivery: RefCell<Option<B>>,
    /// When the piece was handed over that hyper has not come back from.
    handed_over: Cell<Option<Instant>>,
    limit: Duration,
}

impl Stalls {
    /// Gives up what has stalled. To be called whenever the connection's task runs; wakes it when there is more to do.
    pub fn poll(&self, cx: &mut Context<'_>) {
        loop {
            let Some(due) = self.due.get() else {
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return;
            };
            let mut timer = self.timer.borrow_mut();
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.due.set(self.give_up(clock::now()));
        }
    }

    /// When the next one can have stalled.
    fn give_up(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut stalled = Vec::new();
        for (_, answer) in &*self.answers.borrow() {
            let Some(deadline) = answer.deadline() else { continue };
            if deadline <= now {
                stalled.push(answer.clone());
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        for answer in stalled {
            answer.give_up();
        }
        next
    }

    fn expect(&self, deadline: Instant) {
        if self.due.get().is_none_or(|due| deadline < due) {
            self.due.set(Some(deadline));
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

impl<B: Delivered> Waiting for Answer<B> {
    fn deadline(&self) -> Option<Instant> {
        self.handed_over.get().map(|since| since + self.limit)
    }

    fn give_up(&self) {
        self.handed_over.set(None);
        if let Some(delivery) = self.delivery.take() {
            delivery.give_up();
        }
    }
}

/// A delivery that may be given up while nobody asks for it.
pub(super) struct Stallable<B> {
    answer: Rc<Answer<B>>,
    stalls: Rc<Stalls>,
    key: usize,
}

impl<B: Delivered + 'static> Stallable<B> {
    pub(super) fn new(delivery: B, stalls: Rc<Stalls>, limit: Duration) -> Self {
        let (delivery, handed_over) = (RefCell::new(Some(delivery)), Cell::new(None));
        let answer = Rc::new(Answer { delivery, handed_over, limit });
        let key = stalls.answers.borrow_mut().insert(answer.clone());
        Self { answer, stalls, key }
    }
}

impl<B: Delivered> Body for Stallable<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let answer = &self.answer;
        let mut delivery = answer.delivery.borrow_mut();
        let Some(delivery) = delivery.as_mut() else {
            return Poll::Ready(Some(Err("given up: the client did not read".into())));
        };
        let polled = Pin::new(delivery).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => {
                let now = clock::now();
                answer.handed_over.set(Some(now));
                self.stalls.expect(now + answer.limit);
            }
            // The upstream's turn, or the end.
            Poll::Pending | Poll::Ready(_) => answer.handed_over.set(None),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.answer.delivery.borrow().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.delivery.borrow().as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B> Drop for Stallable<B> {
    fn drop(&mut self) {
        let answer = self.stalls.answers.borrow_mut().try_remove(self.key);
        drop(answer);
    }
}
