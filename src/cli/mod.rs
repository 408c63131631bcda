//! cli
pub mod cert;
