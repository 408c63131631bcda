//! Stage 1: addresses that accept, and the choice of the worker for each connection.
//!
//! Owns listening sockets (`bind`, `inherited`, `sockets`), the accept loop (`accept`, `doors`) and the load of the workers
//! (`load`). The loop speaks no protocol: what arrives is handed on as a plain socket together with the permit and the load guard that it holds
//! for as long as it lives. The PROXY header in front of a connection is read on its worker (`proxy_header`).

mod accept;
mod bind;
mod doors;
mod inherited;
mod load;
mod place;
mod proxy_header;
mod socket_file;
mod sockets;
mod solo;
#[cfg(test)]
mod tests;

pub use accept::{Arrival, ArrivedSocket, Shutting, WorkerPort, accept_loop};
pub use bind::{BindError, BoundListener, bind, open, open_at};
pub use doors::{Change, Door, Order};
pub use inherited::{Inherited, NotListening};
pub use load::{LoadGuard, WorkerLoad};
pub use place::{Access, BoundTo};
pub use proxy_header::{NoHeader, read_header};
pub use sockets::{Handle, OpenSocket, Sockets};
pub use solo::SoloListener;
