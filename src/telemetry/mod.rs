//! What the gateway says about its work: end reasons, access log, event log.

pub mod end;
