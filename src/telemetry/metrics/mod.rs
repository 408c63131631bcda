//! Metrics: what is counted, by whom, and how it is written down.
//!
//! `names` has every metric there is. Workers count into cells of their own (`cells`), which are added up when somebody
//! asks; nobody waits for that. `text` writes OpenMetrics. Where the numbers of all stages come together is
//! `control/metrics`. Labels say only what the configuration names and what closed lists hold (`kinds`, end reasons), never
//! what a peer has sent.

mod books;
mod cells;
mod histogram;
mod kinds;
mod listener;
pub mod names;
pub mod process;
mod route;
pub mod text;
mod worker;

pub use books::{Books, ConnectionCounts, ListenerBook, RouteBook};
pub(crate) use cells::cells;
pub use cells::{Cells, Counter, Ledger, Own};
pub use histogram::{Bounds, Histogram, Long, Short, Sizes};
pub(crate) use kinds::kinds;
pub use kinds::{CloseCode, Closed, HandshakeResult, Refused, StatusClass, TlsResult};
pub use listener::{ListenerCells, TLS_VERSIONS};
pub use route::{Direction, RequestEnd, RouteCells, SIDES, TunnelCells, VERSIONS};
pub use worker::WorkerCells;
