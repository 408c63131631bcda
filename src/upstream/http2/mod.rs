//! HTTP/2 towards servers: many requests and tunnels on few connections.
//!
//! [`Channels`] are the connections of one worker to one server; a [`Slot`] is the right to a stream on one of them, and
//! [`send`] and [`connect`] use it, for a request or for a handshake (RFC 8441). Which protocol is spoken with a server,
//! and whether something may be tried again, is decided above. The h2 crate is used as it is rather than through
//! hyper's client: a reset that is no clean end, a reset of our own, windows that follow the reader, and whether a server
//! has processed a request are all told there, and hidden behind hyper.
//! RFC 9113, RFC 8441.

mod channel;
mod channels;
mod driver;
mod exchange;
mod head;
mod inlet;
mod stream;
#[cfg(test)]
mod tests;
mod upload;
mod wire;

pub(super) use channel::{Channel, Slot};
pub(super) use channels::{Channels, Obtained, Opened, Opening};
pub(super) use exchange::{Broken, Download, send};
pub(super) use head::Origin;
pub use stream::StreamTransport;
pub(super) use stream::{Connected, connect};
