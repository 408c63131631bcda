//! The certificate of a policy for each ClientHello; and the name that was asked for, by the way.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::OwnCertificate;

thread_local! {
    /// An unbuffered connection of rustls' keeps its SNI to itself; but a certificate is always asked for.
    static ASKED_FOR: Cell<Option<Arc<str>>> = const { Cell::new(None) };
}

/// The SNI, in lower case, of the ClientHello that rustls has read on this thread since the last call. To be asked as
/// soon as rustls returns, before another connection has its turn.
pub(super) fn take_sni() -> Option<Arc<str>> {
    ASKED_FOR.take()
}

/// Chooses the certificate of a policy by SNI: exact name, wildcard of one label, else the first one. Where several
/// have the name (RSA beside ECDSA), the first that the client can verify.
#[derive(Debug)]
pub(super) struct Chooser {
    first: Arc<CertifiedKey>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Chooser {
    pub fn new(certificates: &[OwnCertificate]) -> Option<Self> {
        let first = Arc::clone(&certificates.first()?.key);
        let mut chooser = Self { first, exact: HashMap::new(), wildcard: HashMap::new() };
        for own in certificates {
            for name in &own.names.exact {
                chooser.exact.entry(name.clone()).or_default().push(Arc::clone(&own.key));
            }
            for suffix in &own.names.wildcard {
                chooser.wildcard.entry(suffix.clone()).or_default().push(Arc::clone(&own.key));
            }
        }
        Some(chooser)
    }

    fn named(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(&name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED_FOR.set(hello.server_name().map(|name| name.to_ascii_lowercase().into()));
        let candidates = hello.server_name().and_then(|name| self.named(name)).unwrap_or_default();
        let usable = |own: &&Arc<CertifiedKey>| own.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = candidates.iter().find(usable).or(candidates.first()).unwrap_or(&self.first);
        Some(Arc::clone(chosen))
    }
}
