//! A request's place in the count of its server, and what the request has to say of that server in the end.
//!
//! A [`Share`] is taken when a server is picked. It knows whether the request is the trial of a server that was ejected,
//! and passes its verdict on to the circuit breaker (`circuit.rs`): at most one failure, or success. Dropped without
//! one (the client left, the answer says nothing of the server) it only makes room for the next trial.
//!
//! Failures: no connection (alone enough to eject), a reset or an end before the answer, an answer that is none, none in
//! time, 500, 502, 503, 504, an answer whose body breaks off. Successes: a connection where that was what had failed, a
//! 101 that agrees to its handshake, the end of any other answer below 500. Everything else says nothing: answers to a
//! handshake that let it down, other statuses, what was the client's fault.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;

use super::capacity::{Place, TunnelShare};
use super::circuit::{Cause, Change, Circuit, Gate, Ticket};
use super::counts::FailureKind;
use super::failure::Failure;
use super::group::{Group, Member};
use super::server::{Server, State};
use crate::clock::{self, Instant};
use crate::config::model::Ejection;

/// One request's place in the count of its server.
pub struct Share {
    group: Rc<Group>,
    member: Rc<Member>,
    place: Place,
    ticket: Ticket,
    /// Nothing more is to be said.
    judged: bool,
}

impl Share {
    /// `None`: the server is due for a trial, somebody else was faster, and `force` is not set.
    pub(super) fn take(group: &Rc<Group>, member: &Rc<Member>, place: Place, force: bool) -> Option<Self> {
        let state = &member.server.state;
        let ticket = match group.definition.ejection {
            None => Some(state.breaker.get().ticket()),
            Some(_) => ticket(state, force),
        }?;
        member.cells.requests.add(1);
        Some(Self { group: group.clone(), member: member.clone(), place, ticket, judged: false })
    }

    /// The request has become a tunnel: its server is sound.
    pub fn into_tunnel(mut self) -> TunnelShare {
        self.completed();
        self.place.become_tunnel()
    }

    /// What came as a 101 is none.
    pub fn disagreed(mut self, cause: &dyn fmt::Display) {
        self.count(FailureKind::BadUpgrade);
        self.failed(cause);
    }

    /// Takes note of how connecting went.
    pub(super) fn dialled<T>(&mut self, connected: Result<T, Failure>) -> Result<T, Failure> {
        match &connected {
            Ok(_) => self.reached(),
            Err(failure) => self.unreachable(failure),
        }
        connected
    }

    /// A connection was made.
    pub(super) fn reached(&self) {
        self.change(|rules, circuit| circuit.reached(rules, clock::now(), self.ticket));
    }

    /// None could be made.
    pub(super) fn unreachable(&mut self, failure: &Failure) {
        let Some(rules) = self.rules().filter(|_| !self.judged && failure.is_the_servers()) else { return };
        self.judged = true;
        let (now, ticket) = (clock::now(), self.ticket);
        let ejected = self.server().state.breaker.change(|circuit| {
            circuit.is_due_unreachable(now, ticket).then(|| circuit.ejected(Cause::Unreachable, &rules, now))
        });
        if let Some(change) = ejected {
            self.note_ejection(change, now, failure);
        }
    }

    /// The head of an ordinary answer.
    pub(super) fn answered(&mut self, status: StatusCode) {
        match status.as_u16() {
            ..500 => self.change(|rules, circuit| circuit.answered(rules, clock::now(), self.ticket)),
            500 | 502..=504 => {
                self.count(FailureKind::Status);
                self.failed(&format_args!("the answer was {}", status.as_u16()));
            }
            _ => self.judged = true,
        }
    }

    /// The head of an answer to a handshake that is no 101.
    pub(super) fn let_down(&mut self, status: StatusCode) {
        match status.as_u16() {
            500 | 502..=504 => self.answered(status),
            _ => self.judged = true,
        }
    }

    /// Counts a failure, which need not take the server out.
    pub(super) fn count(&self, kind: FailureKind) {
        self.member.cells.note_failed(kind);
    }

    /// A good answer has come whole.
    pub(super) fn completed(&mut self) {
        if !std::mem::replace(&mut self.judged, true) {
            self.change(|rules, circuit| circuit.succeeded(rules, clock::now, self.ticket));
        }
    }

    /// No answer came, or none that is one, or not all of it.
    pub(super) fn failed(&mut self, cause: &dyn fmt::Display) {
        let Some(rules) = self.rules().filter(|_| !self.judged) else { return };
        self.judged = true;
        let breaker = &self.server().state.breaker;
        breaker.change(|circuit| circuit.failed(&rules, self.ticket));
        let now = clock::now();
        if breaker.get().is_due(&rules, now, self.ticket) {
            self.group.definition.eject_alone(|| self.eject(&rules, now, cause));
        }
    }

    /// Takes the server out, if not too many are already.
    fn eject(&self, rules: &Ejection, now: Instant, cause: &dyn fmt::Display) {
        if !self.group.has_room_for_an_ejection(rules, self.server()) {
            return;
        }
        let ejected = self.server().state.breaker.change(|circuit| {
            circuit.is_due(rules, now, self.ticket).then(|| circuit.ejected(Cause::Failures, rules, now))
        });
        let Some(change) = ejected else { return };
        if self.ticket.is_trial() {
            self.note_ejection(change, now, &format_args!("its trial failed: {cause}"));
        } else {
            let failures = change.before.failures();
            self.note_ejection(change, now, &format_args!("{failures} failures in a row, the last: {cause}"));
        }
    }

    fn note_ejection(&self, change: Change, now: Instant, cause: &dyn fmt::Display) {
        let Server { url, state, .. } = &**self.server();
        state.count_ejection();
        state.note_departure();
        let (upstream, lasts) = (&self.group.definition.name, change.after.left(now));
        tracing::warn!(%upstream, server = %url, "{upstream}: {url} is ejected for {lasts:?}: {cause}");
    }

    /// Changes the breaker, and says so where that brought the server back.
    fn change(&self, change: impl Fn(&Ejection, Circuit) -> Option<Circuit>) {
        let Some(rules) = self.rules() else { return };
        let Server { url, state, .. } = &**self.server();
        if state.breaker.change(|circuit| change(&rules, circuit)).is_some_and(Change::closed) {
            state.note_arrival();
            let upstream = &self.group.definition.name;
            tracing::info!(%upstream, server = %url, "{upstream}: {url} is back: it answers again");
        }
    }

    fn rules(&self) -> Option<Ejection> {
        self.group.definition.ejection
    }

    fn server(&self) -> &Arc<Server> {
        &self.member.server
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Share").field("server", self.server()).field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let state = &self.server().state;
        if self.ticket.is_trial() {
            state.breaker.change(|circuit| circuit.end_trial(self.ticket));
        }
    }
}

/// `None`: the server was due for a trial, and somebody else was faster.
fn ticket(state: &State, force: bool) -> Option<Ticket> {
    let circuit = state.breaker.get();
    if circuit.gate(clock::now) != Gate::Trial {
        return Some(circuit.ticket());
    }
    let now = clock::now();
    match state.breaker.change(|circuit| circuit.begin_trial(now)) {
        Some(change) => Some(change.after.trial_ticket()),
        None if force => Some(state.breaker.get().ticket()),
        None => None,
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
