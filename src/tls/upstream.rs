//! TLS towards upstream servers: always verified, by name or by address, against the system's roots or a `ca` file.
//!
//! One rustls configuration per upstream and choice of files, and with it one session store: what one upstream resumes
//! says nothing to another. ALPN offers what the upstream's `protocols` say, or http/1.1 alone where a connection is for a
//! WebSocket of its own. There is no way to switch verification off: a server with a private certificate is trusted by
//! naming its CA.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::makeup::Anchors;
use super::policy::read_roots;
use super::stream::ClientTlsStream;
use super::{certificate, provider};
use crate::config::model::{Upstream, UpstreamServer};
use crate::config::report::{Report, Spot};
use crate::transport::Socket;

/// Server names whose sessions are kept for resumption, per upstream.
const STORED_SESSIONS: usize = 256;

/// The system's roots, read once however many upstreams want them. Made anew for each configuration, so that a reload
/// sees new roots.
#[derive(Debug, Default)]
pub struct SystemRoots {
    /// The outer `None`: not asked for yet. The inner: there are none.
    read: Option<Option<(Arc<RootCertStore>, Anchors)>>,
}

/// How an upstream's servers are reached over TLS. Clones share sessions.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Offers what the upstream's `protocols` say.
    pub(super) config: Arc<ClientConfig>,
    /// Offers http/1.1 alone.
    http1: Arc<ClientConfig>,
}

/// What a connection to a server is offered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Whatever the upstream's `protocols` say; the server chooses.
    Protocols,
    /// HTTP/1.1 alone.
    Http1,
}

/// Why a TLS handshake with an upstream server failed. The server has got the alert.
#[derive(Debug)]
pub enum UpstreamTlsError {
    /// The server's certificate does not verify: its issuer, its names, its dates, its purpose.
    Certificate(io::Error),
    /// The server closed or reset before the end.
    Closed(io::Error),
    /// Anything else that went wrong between us and the server, its refusal of our certificate included.
    Handshake(io::Error),
    /// Not a host name or an address. `build` refuses such names.
    BadName,
}

impl fmt::Display for UpstreamTlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Certificate(_) => "the server's certificate is not valid",
            Self::Closed(_) => "the server left during the TLS handshake",
            Self::Handshake(_) => "the TLS handshake with the server failed",
            Self::BadName => "the server's name cannot be used for TLS",
        })
    }
}

impl std::error::Error for UpstreamTlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificate(error) | Self::Closed(error) | Self::Handshake(error) => Some(error),
            Self::BadName => None,
        }
    }
}

impl ClientTls {
    /// One for each server of the upstream that uses TLS, `None` for the others; servers that name the same files share
    /// one. Several upstreams share the system's roots. `None`: there are errors in the report.
    pub fn build(upstream: &Upstream, system: &mut SystemRoots, report: &mut Report) -> Option<Vec<Option<Self>>> {
        let mut built: Vec<(&UpstreamServer, Option<Self>)> = Vec::new();
        let mut all = Vec::new();
        for server in &upstream.servers {
            let Some(name) = &server.tls_name else {
                all.push(Some(None));
                continue;
            };
            let named = server_name(&name.value).is_some();
            if !named {
                report.error("bad-tls-name", &name.spot, format_args!("{} cannot be verified by TLS", name.value));
            }
            let tls = match built.iter().find(|(other, _)| files(other) == files(server)) {
                Some((_, tls)) => tls.clone(),
                None => {
                    let tls = Self::build_one(server, upstream, system, report);
                    built.push((server, tls.clone()));
                    tls
                }
            };
            all.push(tls.filter(|_| named).map(Some));
        }
        all.into_iter().collect()
    }

    fn build_one(
        server: &UpstreamServer,
        upstream: &Upstream,
        system: &mut SystemRoots,
        report: &mut Report,
    ) -> Option<Self> {
        let Upstream { protocols, spot, .. } = upstream;
        let roots = match &server.ca {
            Some(ca) => read_roots(ca, report).map(Arc::new),
            None => system.get(spot, report),
        };
        let provider = provider();
        let own = match &server.client_certificate {
            None => Some(None),
            Some(files) => certificate::load_client(files, &provider, crate::clock::wall(), report).map(Some),
        };
        let http1 = Arc::new(client_config(provider, roots?, own?, spot, report)?);
        let config = if protocols.http2 {
            // Shares certificates and sessions.
            let mut config = ClientConfig::clone(&http1);
            config.alpn_protocols.insert(0, b"h2".to_vec());
            config.alpn_protocols.truncate(if protocols.http1 { 2 } else { 1 });
            Arc::new(config)
        } else {
            http1.clone()
        };
        Some(Self { config, http1 })
    }

    /// Runs the TLS handshake with a server that must prove to be `name`: a host name, or an address (with or without
    /// brackets), which must then stand in the certificate as such. Has no deadline of its own: it is part of the
    /// caller's connect timeout.
    ///
    /// # Errors
    /// See [`UpstreamTlsError`]; the connection is closed then, and no byte of a request has been sent.
    pub async fn connect(&self, name: &str, offer: Offer, socket: Socket) -> Result<ClientTlsStream, UpstreamTlsError> {
        let name = server_name(name).ok_or(UpstreamTlsError::BadName)?;
        let config = match offer {
            Offer::Protocols => &self.config,
            Offer::Http1 => &self.http1,
        };
        // Boxed: needed for milliseconds, while the request's own future would keep the room for it.
        let connect = Box::pin(TlsConnector::from(Arc::clone(config)).connect(name, socket));
        connect.await.map(ClientTlsStream::new).map_err(classify)
    }
}

impl SystemRoots {
    fn get(&mut self, spot: &Spot, report: &mut Report) -> Option<Arc<RootCertStore>> {
        let roots = self.read.get_or_insert_with(|| {
            let mut roots = RootCertStore::empty();
            // Single broken files or certificates are the system's business, as long as something is left.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let anchors = Anchors::of(&roots);
            (!roots.is_empty()).then(|| (Arc::new(roots), anchors))
        });
        let Some((roots, anchors)) = roots else {
            report
                .error("no-system-roots", spot, "this system has no CA certificates to verify the server with")
                .help("install the ca-certificates package, or name the server's CA with ca = \"…\"");
            return None;
        };
        report.note_read(anchors.as_bytes());
        Some(roots.clone())
    }
}

fn client_config(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Option<Arc<rustls::sign::CertifiedKey>>,
    spot: &Spot,
    report: &mut Report,
) -> Option<ClientConfig> {
    let builder = match ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]) {
        Ok(builder) => builder.with_root_certificates(roots),
        Err(error) => {
            report.error("tls-setup", spot, error);
            return None;
        }
    };
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(STORED_SESSIONS);
    config.enable_early_data = false;
    Some(config)
}

/// What a configuration is made from.
fn files(server: &UpstreamServer) -> [Option<&Path>; 3] {
    let own = server.client_certificate.as_ref();
    [server.ca.as_ref(), own.map(|files| &files.cert), own.map(|files| &files.key)]
        .map(|file| file.map(|file| file.value.as_path()))
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare).ok().map(|name| name.to_owned())
}

fn classify(error: io::Error) -> UpstreamTlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => UpstreamTlsError::Certificate(error),
        Some(_) => UpstreamTlsError::Handshake(error),
        None => UpstreamTlsError::Closed(error),
    }
}
