//! cli
pub mod cert;
#[cfg(feature = "demo")]
pub mod demo;
