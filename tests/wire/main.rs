//! The gateway on the wire: the real binary between scripted backends and clients that see every byte.
mod harness;
