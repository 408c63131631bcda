//! The life of the process as everything else sees it: which phase it is in, who still has to finish, which signals
//! ask for what, what the service manager is told, and the only place where tasks and threads are started.
//!
//! Nothing here decides what draining means for a connection or a tunnel; they are only told.

pub mod notify;
pub mod phase;
pub mod signals;
pub mod spawn;

pub use phase::{Follower, Guard, Lifecycle, Phase, Stop, WorkerPhase};
pub use spawn::{Held, spawn_held, spawn_local, thread};
