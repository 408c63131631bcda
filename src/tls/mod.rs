//! Stage 2: TLS on both sides. The only home of rustls' types, and of rustls-pemfile (in `pem`).
//!
//! Downstream: [`ServerPolicies`] are built from a listener's tables, chosen by SNI, and [`accept`] runs one TLS
//! handshake under a deadline and gives a [`TlsStream`], over rustls' unbuffered connection (`engine`, `adapter`) so that
//! ten thousand silent clients hold no buffers. Upstream: [`ClientTls`] verifies the server, always, and gives a
//! [`ClientTlsStream`], over tokio-rustls.
//! RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 3 (SNI), RFC 7301 (ALPN), RFC 9525 (names in certificates).
//!
//! One crypto provider (aws-lc-rs) everywhere, passed explicitly: no process-wide default is installed or needed.
//! 0-RTT stays off: replayed requests are not worth a round trip.

mod adapter;
mod certificate;
mod chooser;
mod client;
mod engine;
mod hkdf;
mod makeup;
mod pem;
mod policy;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod turns;
mod upstream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};

pub use adapter::TlsStream;
pub use certificate::CertificateInfo;
pub use client::ClientStream;
pub use makeup::Anchors;
pub use policy::{ClientAuthMode, PolicyId, ServerPolicies};
pub use server::{TlsAccepted, TlsError, TlsInfo, VerifiedClient, accept};
pub use stream::ClientTlsStream;
pub use upstream::{ClientTls, Offer, SystemRoots, UpstreamTlsError};

/// aws-lc-rs with our order of key exchanges, the post-quantum hybrid first, then the curves by cost; and with a key
/// schedule that hashes less (see `hkdf`).
fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let theirs = aws_lc_rs::default_provider();
    Arc::new(CryptoProvider { kx_groups, cipher_suites: hkdf::with_kept_keys(&theirs.cipher_suites), ..theirs })
}
