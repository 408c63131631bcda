//! Certificates made in memory, once for each test process, and written where a configuration can name them.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::TlsOptions;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate with its key.
pub struct Leaf {
    pub cert_pem: String,
    pub key_pem: String,
    pub cert: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

/// What a client shows when asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    Good,
    OtherCa,
    Expired,
    NotYetValid,
    /// For servers only.
    WrongUsage,
}

/// What a TLS backend shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    Good,
    SelfSigned,
    WrongName,
    Expired,
}

pub struct Pki {
    authority_pem: String,
    authority: CertificateDer<'static>,
    pub a: Leaf,
    pub b: Leaf,
    pub mtls: Leaf,
    client_authority_pem: String,
    client_authority: CertificateDer<'static>,
    servers: Authority,
    strangers: Authority,
    clients: Vec<(ClientKind, Leaf)>,
    backends: Vec<(ServerKind, Leaf)>,
    provider: Arc<CryptoProvider>,
}

/// The one set of certificates of this test process.
pub fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(Pki::make)
}

type Authority = (Issuer<'static, KeyPair>, rcgen::Certificate);

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).expect("a certificate");
    (Issuer::new(params, key), cert)
}

fn params(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, "wire test");
    params.extended_key_usages = vec![usage];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

fn issue(params: CertificateParams, by: Option<&Authority>) -> Leaf {
    let key = KeyPair::generate().expect("a key");
    let cert = match by {
        Some((issuer, _)) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    }
    .expect("a certificate");
    Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem(), cert: cert.der().clone(), key: key.serialize_der() }
}

impl Pki {
    fn make() -> Self {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let servers = authority("wire servers");
        let visitors = authority("wire clients");
        let strangers = authority("wire strangers");
        let server = |name: &str| issue(params(&[name], ServerAuth), Some(&servers));
        let expired = |mut params: CertificateParams| {
            params.not_after = date_time_ymd(2021, 1, 1);
            params
        };
        let future = |mut params: CertificateParams| {
            params.not_before = date_time_ymd(2098, 1, 1);
            params
        };
        let client = || params(&["client.test"], ClientAuth);
        let clients = vec![
            (ClientKind::Good, issue(client(), Some(&visitors))),
            (ClientKind::OtherCa, issue(client(), Some(&strangers))),
            (ClientKind::Expired, issue(expired(client()), Some(&visitors))),
            (ClientKind::NotYetValid, issue(future(client()), Some(&visitors))),
            (ClientKind::WrongUsage, issue(params(&["client.test"], ServerAuth), Some(&visitors))),
        ];
        let backend = || params(&["localhost", "127.0.0.1"], ServerAuth);
        let backends = vec![
            (ServerKind::Good, issue(backend(), Some(&servers))),
            (ServerKind::SelfSigned, issue(backend(), None)),
            (ServerKind::WrongName, issue(params(&["other.test"], ServerAuth), Some(&servers))),
            (ServerKind::Expired, issue(expired(backend()), Some(&servers))),
        ];
        let (a, b, mtls) = (server("a.test"), server("b.test"), server("mtls.test"));
        let (authority_pem, authority) = (servers.1.pem(), servers.1.der().clone());
        Self {
            a,
            b,
            mtls,
            authority_pem,
            authority,
            client_authority_pem: visitors.1.pem(),
            client_authority: visitors.1.der().clone(),
            servers,
            strangers,
            clients,
            backends,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        }
    }

    /// Writes `ca.pem`, `clients.pem` and `a|b|mtls|client|backend.pem|key` into a folder.
    pub fn write_into(&self, folder: &Path) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a writable folder");
        write("ca.pem", &self.authority_pem);
        write("clients.pem", &self.client_authority_pem);
        let client = self.client(ClientKind::Good);
        let backend = self.backend(ServerKind::Good);
        let leaves = [("a", &self.a), ("b", &self.b), ("mtls", &self.mtls), ("client", client), ("backend", backend)];
        for (name, leaf) in leaves {
            write(&format!("{name}.pem"), &leaf.cert_pem);
            write(&format!("{name}.key"), &leaf.key_pem);
        }
    }

    /// A further certificate for a name, as after a renewal.
    pub fn renewed(&self, name: &str) -> Leaf {
        issue(params(&[name], ExtendedKeyUsagePurpose::ServerAuth), Some(&self.servers))
    }

    /// The authority of [`ClientKind::OtherCa`], which is not that of `clients.pem`.
    pub fn other_clients(&self) -> String {
        self.strangers.1.pem()
    }

    fn client(&self, kind: ClientKind) -> &Leaf {
        &self.clients.iter().find(|(other, _)| *other == kind).expect("every kind is made").1
    }

    fn backend(&self, kind: ServerKind) -> &Leaf {
        &self.backends.iter().find(|(other, _)| *other == kind).expect("every kind is made").1
    }

    /// A client that trusts the test authority.
    pub fn client_config(&self, options: &TlsOptions) -> rustls::ClientConfig {
        let versions = if options.tls12 { &[&rustls::version::TLS12][..] } else { rustls::DEFAULT_VERSIONS };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone()).expect("a root");
        let builder = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .expect("protocol versions")
            .with_root_certificates(roots);
        let mut config = match options.certificate.map(|kind| self.client(kind)) {
            Some(leaf) => builder.with_client_auth_cert(vec![leaf.cert.clone()], leaf.key()).expect("a client key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = options.send_sni;
        config
    }

    /// A backend's side of TLS; it offers to read a client certificate and accepts any of the test authority's.
    pub fn backend_config(&self, kind: ServerKind) -> rustls::ServerConfig {
        let leaf = self.backend(kind);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.client_authority.clone()).expect("a root");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .allow_unauthenticated()
                .build()
                .expect("a verifier");
        rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.cert.clone()], leaf.key())
            .expect("a server key")
    }
}
