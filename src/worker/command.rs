//! What a worker is asked about its live tunnels and its last refusals, one command after the other.
//!
//! Each is bounded by itself: a list comes page by page, asked for one by one; closing goes on in chunks between which
//! the worker does other things. Who does not wait for the answer has asked for nothing.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::exchange::live::{CloseOrder, LiveTunnels, Matches, Page, Which};
use crate::exchange::refusals::{Refusals, Refused};

/// One command.
pub enum Command {
    /// The next page of live tunnels that are meant, from the place `from` on, which is 0 or what the last page said.
    List { from: u32, matches: Matches, reply: oneshot::Sender<Page> },
    /// Closes tunnels; how many were still open.
    Close { which: Which, order: Arc<CloseOrder>, reply: oneshot::Sender<usize> },
    /// How many tunnels there are.
    Count { reply: oneshot::Sender<usize> },
    /// The last refusals, the newest first, at most so many.
    Refusals { most: usize, reply: oneshot::Sender<Vec<Refused>> },
}

/// Carries out commands as they come, until nobody can send one any more.
pub(super) async fn obey(mut commands: mpsc::Receiver<Command>, live: Rc<LiveTunnels>, refusals: Rc<Refusals>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::List { from, matches, reply } if !reply.is_closed() => {
                // Whoever has gone meanwhile does not miss it.
                let _ = reply.send(live.list(from, &matches).await);
            }
            Command::Close { which, order, reply } if !reply.is_closed() => {
                let _ = reply.send(live.close(which, order).await);
            }
            Command::Count { reply } => _ = reply.send(live.count()),
            Command::Refusals { most, reply } => _ = reply.send(refusals.newest(most)),
            Command::List { .. } | Command::Close { .. } => {}
        }
    }
}
