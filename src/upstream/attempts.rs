//! The attempts of one request or handshake: where the next one may go, and whether there may be one.
//!
//! A further attempt needs `retries` left, a server to go to, and room in the upstream's retry budget; what it then needs
//! like the first is a place at that server. Where all servers that may be asked have as much as they may, it waits in the
//! upstream's queue. Dropping the future leaves the queue.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::balance::{Ask, Lack};
use super::capacity::Place;
use super::failure::Failure;
use super::group::{Group, Member, Picked, Tried};
use super::queue::{Ticket, Wants};
use super::send::Failed;
use super::trail::Trail;
use crate::clock::{self, Instant};

/// Whoever waits looks for room by himself every so often: a server that was passed over for a while comes back without
/// anybody's word.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The attempts of one request.
pub(super) struct Attempts<'a> {
    group: &'a Rc<Group>,
    trail: &'a Trail,
    tried: Tried,
    left: u32,
    /// The one before this one; `None`: none has been made.
    last: Option<Failed>,
    /// May be asked once more where nobody is left that was not tried, or nobody else has room.
    again: Option<Rc<Member>>,
}

impl<'a> Attempts<'a> {
    pub fn new(group: &'a Rc<Group>, trail: &'a Trail) -> Self {
        group.definition.budget.note_request();
        let left = group.definition.retries;
        Self { group, trail, tried: Tried::new(), left, last: None, again: None }
    }

    pub fn is_first(&self) -> bool {
        self.last.is_none()
    }

    /// Whether another may follow the one under way.
    pub fn may_retry(&self) -> bool {
        self.left > 0
    }

    /// An attempt has failed; others go elsewhere.
    ///
    /// # Errors
    /// It was the last one.
    pub fn failed(&mut self, member: &Rc<Member>, failure: Failure) -> Result<(), Failed> {
        let failed = Failed::at(member, failure);
        let Some(left) = self.left.checked_sub(1) else { return Err(failed) };
        self.left = left;
        self.last = Some(failed);
        self.tried.push(member.clone());
        Ok(())
    }

    /// An attempt has failed in a way that does not speak against the server.
    ///
    /// # Errors
    /// It was the last one.
    pub fn interrupted(&mut self, member: &Rc<Member>, failure: Failure) -> Result<(), Failed> {
        self.failed(member, failure)?;
        self.again = Some(member.clone());
        Ok(())
    }

    /// The server for the next attempt.
    ///
    /// # Errors
    /// There is none, there may be none, or its turn did not come.
    pub async fn next(&mut self, ask: &Ask<'_>) -> Result<Picked, Failed> {
        let mut picked = self.group.pick(ask, &self.tried);
        if picked.is_err()
            && let Some(member) = self.again.take()
        {
            self.tried.retain(|tried| !Rc::ptr_eq(tried, &member));
            picked = self.group.pick(ask, &self.tried);
        }
        let is_retry = !self.is_first();
        if matches!(picked, Err(Lack::Server)) && !is_retry {
            // Boxed: rare, and large.
            let known = Box::pin(self.group.wait_for_names()).await;
            known.map_err(|failure| Failed { failure, server: None })?;
            picked = self.group.pick(ask, &self.tried);
        }
        if is_retry && !matches!(picked, Err(Lack::Server)) && !self.has_budget() {
            return Err(self.give_up(Failure::NoServer));
        }
        let picked = match picked {
            // Boxed: rare, and large.
            Err(Lack::Room) => Box::pin(self.wait(ask)).await?,
            Err(Lack::Server) => return Err(self.give_up(Failure::NoServer)),
            Ok(picked) => picked,
        };
        if is_retry {
            self.trail.note_retry();
        }
        Ok(picked)
    }

    fn has_budget(&self) -> bool {
        let definition = &self.group.definition;
        definition.budget.try_take(definition.name.as_str(), definition.retry_budget)
    }

    /// What was wrong with the attempt before, or `otherwise`.
    fn give_up(&mut self, otherwise: Failure) -> Failed {
        self.last.take().unwrap_or(Failed { failure: otherwise, server: None })
    }

    /// Waits until a server has room that may be asked.
    async fn wait(&mut self, ask: &Ask<'_>) -> Result<Picked, Failed> {
        let server = self.last.as_ref().and_then(|last| last.server.clone());
        let refused = |failure| Failed { failure, server };
        let definition = &self.group.definition;
        let tried = self.tried.iter().map(|member| member.server.id).collect();
        let wants = Wants { definition: definition.clone(), tried };
        let size = usize::try_from(definition.queue.size).unwrap_or(usize::MAX);
        let Some(mut ticket) = definition.roster.queue().join(size, wants) else {
            return Err(refused(Failure::Overloaded));
        };
        // All attempts of a request together wait no longer than one.
        let deadline = clock::now() + definition.queue.timeout.saturating_sub(self.trail.queued());
        let _waiting = self.trail.wait();
        loop {
            match self.group.pick(ask, &self.tried) {
                Ok(picked) => return Ok(picked),
                Err(Lack::Server) => return Err(self.give_up(Failure::NoServer)),
                Err(Lack::Room) => {}
            }
            let (place, is_over) = match called(&mut ticket, deadline).await {
                Call::Place(place) => (Some(place), false),
                Call::Look => (None, false),
                Call::Over => (ticket.give_up(), true),
            };
            // A server that has left the list meanwhile gets nothing new; its place goes on to others.
            if let Some(picked) = place.and_then(|place| self.group.pick_with(place)) {
                return Ok(picked);
            }
            if is_over {
                return Err(refused(Failure::QueueTimeout));
            }
        }
    }
}

/// What ends a wait.
enum Call {
    Place(Place),
    /// There may be room.
    Look,
    /// The time is up.
    Over,
}

async fn called(ticket: &mut Ticket, deadline: Instant) -> Call {
    let mut pause = pin!(tokio::time::sleep_until(deadline.min(clock::now() + LOOK_AGAIN)));
    poll_fn(|cx| {
        if let Poll::Ready(place) = ticket.poll_called(cx) {
            return Poll::Ready(place.map_or(Call::Look, Call::Place));
        }
        let is_over = || clock::now() >= deadline;
        pause.as_mut().poll(cx).map(|()| if is_over() { Call::Over } else { Call::Look })
    })
    .await
}
