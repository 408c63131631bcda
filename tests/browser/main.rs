//! A real browser in front of the gateway.
#[path = "../interop/harness.rs"]
mod harness;
