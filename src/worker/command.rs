//! What a worker is asked about its live tunnels, one command after the other.
//!
//! Each is bounded by itself: a list comes page by page, asked for one by one; closing goes on in chunks between which
//! the worker does other things. Who does not wait for the answer has asked for nothing.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::exchange::live::{CloseOrder, LiveTunnels, Matches, Page, Which};

/// One command.
pub enum Command {
    /// The next page of live tunnels that are meant, from the place `from` on, which is 0 or what the last page said.
    List { from: u32, matches: Matches, reply: oneshot::Sender<Page> },
    /// Closes tunnels; how many were still open.
    Close { which: Which, order: Arc<CloseOrder>, reply: oneshot::Sender<usize> },
}

/// Carries out commands as they come, until nobody can send one any more.
pub(super) async fn obey(mut commands: mpsc::Receiver<Command>, live: Rc<LiveTunnels>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::List { from, matches, reply } if !reply.is_closed() => {
                // Whoever has gone meanwhile does not miss it.
                let _ = reply.send(live.list(from, &matches).await);
            }
            Command::Close { which, order, reply } if !reply.is_closed() => {
                let _ = reply.send(live.close(which, order).await);
            }
            Command::List { .. } | Command::Close { .. } => {}
        }
    }
}
