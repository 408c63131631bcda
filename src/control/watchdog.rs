//! The service manager's watchdog: it hears that the process lives only as long as every worker and the accept loop take
//! their turns.
//!
//! Each is asked through its inbox, like anything else it is told, and not again before it has answered: so that a worker
//! that is stuck has one question waiting, however long that lasts, and the manager does what it was told to do then. The same
//! question tells when all have come to a certain point ([`turn`]).

use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::MissedTickBehavior;

use crate::lifecycle::Lifecycle;
use crate::lifecycle::notify::Notifier;
use crate::listener::Order;
use crate::worker::Message;

/// Until the process ends; at once where no manager watches.
pub async fn watchdog(
    notifier: Notifier,
    lifecycle: Lifecycle,
    inboxes: Vec<UnboundedSender<Message>>,
    acceptor: mpsc::Sender<Order>,
) {
    let Some(patience) = notifier.watchdog() else { return };
    let mut pulses = Pulses { waiting: inboxes.iter().map(|_| None).collect(), inboxes, acceptor, accepts: None };
    // Half of it, as sd_watchdog_enabled(3) recommends: one message may be late.
    let mut ticks = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let worker = pulses.stuck();
        // It ends with the drain.
        let accepts = lifecycle.phase().is_stopping() || !pulses.is_acceptor_stuck();
        match worker {
            None if accepts => notifier.alive(),
            None => tracing::error!("the accept loop does not answer: the watchdog is not told that we live"),
            Some(worker) => tracing::error!(worker, "a worker does not answer: the watchdog is not told that we live"),
        }
        pulses.ask();
    }
}

/// Ready once every worker has done what it was told before.
pub async fn turn(inboxes: &[UnboundedSender<Message>]) {
    let asked: Vec<_> = inboxes
        .iter()
        .map(|inbox| {
            let (answer, answered) = oneshot::channel();
            let _ = inbox.send(Message::Pulse(answer));
            answered
        })
        .collect();
    for answered in asked {
        // A worker that has gone does nothing more.
        let _ = answered.await;
    }
}

struct Pulses {
    inboxes: Vec<UnboundedSender<Message>>,
    /// Answers that are still out.
    waiting: Vec<Option<oneshot::Receiver<()>>>,
    acceptor: mpsc::Sender<Order>,
    accepts: Option<oneshot::Receiver<()>>,
}

impl Pulses {
    /// A worker that has not answered since it was asked.
    fn stuck(&mut self) -> Option<usize> {
        for answer in &mut self.waiting {
            // One that has gone is as good as stuck: its connections are nobody's.
            if answer.as_mut().is_none_or(|answer| answer.try_recv() == Ok(())) {
                *answer = None;
            }
        }
        self.waiting.iter().position(Option::is_some)
    }

    /// Whether the accept loop has not answered since it was asked. One that has gone is stuck as well.
    fn is_acceptor_stuck(&mut self) -> bool {
        if self.accepts.as_mut().is_none_or(|answer| answer.try_recv() == Ok(())) {
            self.accepts = None;
        }
        self.accepts.is_some()
    }

    fn ask(&mut self) {
        if self.accepts.as_mut().is_none_or(|answer| answer.try_recv() != Err(TryRecvError::Empty)) {
            let (answer, answered) = oneshot::channel();
            // Where there is no room it does not take what it is told, which is an answer too.
            let _ = self.acceptor.try_send(Order::Pulse(answer));
            self.accepts = Some(answered);
        }
        for (inbox, waiting) in self.inboxes.iter().zip(&mut self.waiting) {
            if waiting.as_mut().is_none_or(|answer| answer.try_recv() != Err(TryRecvError::Empty)) {
                let (answer, answered) = oneshot::channel();
                // One that has gone drops it, which is an answer too.
                let _ = inbox.send(Message::Pulse(answer));
                *waiting = Some(answered);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_until_it_answers_and_has_one_question_waiting_meanwhile() {
        let (first, mut inbox) = mpsc::unbounded_channel();
        let (second, mut other) = mpsc::unbounded_channel();
        let (acceptor, _told) = mpsc::channel(1);
        let mut pulses = Pulses { inboxes: vec![first, second], waiting: vec![None, None], acceptor, accepts: None };
        assert_eq!(pulses.stuck(), None, "nobody has been asked");
        pulses.ask();
        let Ok(Message::Pulse(answer)) = inbox.try_recv() else { panic!("a question") };
        answer.send(()).expect("somebody waits");
        for _ in 0..3 {
            assert_eq!(pulses.stuck(), Some(1));
            pulses.ask();
            if let Ok(Message::Pulse(answer)) = inbox.try_recv() {
                answer.send(()).expect("somebody waits");
            }
        }
        let Ok(Message::Pulse(answer)) = other.try_recv() else { panic!("a question") };
        assert!(other.try_recv().is_err(), "only one");
        answer.send(()).expect("somebody waits");
        assert_eq!(pulses.stuck(), None);
    }

    #[test]
    fn a_worker_that_has_gone_is_stuck() {
        let (inbox, receiver) = mpsc::unbounded_channel();
        drop(receiver);
        let (acceptor, _told) = mpsc::channel(1);
        let mut pulses = Pulses { inboxes: vec![inbox], waiting: vec![None], acceptor, accepts: None };
        pulses.ask();
        assert_eq!(pulses.stuck(), Some(0));
        pulses.ask();
        assert_eq!(pulses.stuck(), Some(0));
    }

    #[test]
    fn an_accept_loop_that_does_not_answer_or_has_gone_is_stuck() {
        let (acceptor, mut told) = mpsc::channel(2);
        let mut pulses = Pulses { inboxes: Vec::new(), waiting: Vec::new(), acceptor, accepts: None };
        assert!(!pulses.is_acceptor_stuck(), "nobody has been asked");
        pulses.ask();
        pulses.ask();
        assert!(pulses.is_acceptor_stuck());
        let Ok(Order::Pulse(answer)) = told.try_recv() else { panic!("a question") };
        assert!(told.try_recv().is_err(), "only one");
        answer.send(()).expect("somebody waits");
        assert!(!pulses.is_acceptor_stuck());
        drop(told);
        pulses.ask();
        assert!(pulses.is_acceptor_stuck());
    }
}
