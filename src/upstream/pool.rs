//! Keep-alive: idle connections of one server on one worker, last in, first out.
//!
//! A connection goes back only when its answer ended well and its request was sent whole. It is taken out only after
//! a look at the socket itself: whatever arrived while it was idle (an end, a stray answer) makes it unusable, and the
//! runtime's own notice of it may still be on its way. Idle ones are closed after [`MAX_IDLE`]; those to a server that
//! drains or has left its upstream, with the next sweep. A server with a limit has, over all workers, at most as many idle
//! ones beside those in use. Where connections begin with a PROXY header, each is of one client, and serves one request.

use std::rc::Rc;
use std::time::Duration;

use hyper_util::rt::TokioIo;

use super::connection::{Connection, Idle, SharedWire, client_builder};
use super::dial::UpstreamStream;
use super::failure::Failure;
use super::group::{Asker, Group, Member, Picked};
use super::server::Server;
use super::share::Share;
use crate::clock;
use crate::lifecycle;
use crate::tls::Offer;

/// Shorter than the keep-alive of common servers, so that we let go first.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE_PER_SERVER: usize = 64;
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// A connection in use for one exchange. Dropped before [`Lease::finish`], it takes the connection down.
pub(super) struct Lease {
    group: Rc<Group>,
    member: Rc<Member>,
    /// What is to be said of the server goes here.
    pub(super) share: Share,
    connection: Option<Connection>,
    /// Cleared by answers after which the connection cannot be trusted.
    pub(super) reusable: bool,
}

impl Lease {
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// The answer has ended well: the connection goes back to the pool if it can serve again.
    pub(super) fn finish(mut self) {
        self.share.completed();
        // The server has been told whose connection it is.
        if self.group.definition.proxy_protocol.is_some() {
            return;
        }
        // Not ready means that the request's body is still on its way: an early answer, never reused.
        if !self.reusable || !self.connection.as_ref().is_some_and(|connection| connection.sender.is_ready()) {
            return;
        }
        let mut idle = self.member.idle.borrow_mut();
        if idle.len() < MAX_IDLE_PER_SERVER
            && !self.member.server.drains()
            && let Some(kept) = self.member.server.try_keep()
            && let Some(mut connection) = self.connection.take()
        {
            connection.reused = true;
            idle.push(Idle { connection, since: clock::now(), kept });
            drop(idle);
            self.group.ensure_sweeping();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.task.abort();
        }
    }
}

impl Group {
    /// An idle connection that is still clean, and leads to where the server is now.
    pub(super) fn checkout(&self, member: &Member) -> Option<Connection> {
        let mut idle = member.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop() {
            if connection.is_clean() && member.server.is_at(connection.destination()) {
                return Some(connection);
            }
        }
        None
    }

    /// A fresh connection with hyper on it.
    pub(super) async fn open(&self, server: &Server, asker: Asker) -> Result<Connection, Failure> {
        self.begin(self.dial(server, asker, Offer::Http1).await?).await
    }

    /// Puts hyper on a connection.
    pub(super) async fn begin(&self, stream: UpstreamStream) -> Result<Connection, Failure> {
        let wire = SharedWire::new(stream);
        let watch = wire.watch();
        let (sender, connection) = client_builder().handshake(TokioIo::new(wire)).await.map_err(Failure::from_hyper)?;
        let task = lifecycle::spawn_local("upstream connection", async move {
            // Whoever waits for an answer is told of the error; an idle connection's end is no news.
            let _ = connection.await;
        });
        Ok(Connection::new(sender, watch, task.abort_handle()))
    }

    pub(super) fn lease(self: &Rc<Self>, picked: Picked, connection: Connection) -> Lease {
        let Picked { member, share } = picked;
        Lease { group: self.clone(), member, share, connection: Some(connection), reusable: true }
    }

    /// Runs the sweep while there is anything to sweep; an idle worker does not wake.
    fn ensure_sweeping(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let group = Rc::downgrade(self);
        lifecycle::spawn_local("upstream pool sweep", async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(group) = group.upgrade() else { return };
                if group.sweep() == 0 {
                    group.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Closes what has been idle for too long, has died or has no future; how many are left.
    fn sweep(&self) -> usize {
        let expired = clock::now().checked_sub(MAX_IDLE);
        let mut left = 0;
        // A server that has left is in the list no more, and takes its connections with it.
        for member in &*self.members() {
            let mut idle = member.idle.borrow_mut();
            let drains = member.server.drains();
            idle.retain(|idle| {
                !drains && !idle.connection.sender.is_closed() && expired.is_none_or(|expired| idle.since > expired)
            });
            left += idle.len();
        }
        left
    }
}
