//! TLS handshakes over loopback, with certificates made in memory and read from files like an operator's.

mod adapter;
mod downstream;
mod engine;
mod files;
mod reload;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::model::{CertificateFiles, ClientAuth, HostPattern, ListenerTls, Protocols, TlsPolicy, TlsVersion};
use crate::config::report::{Located, Report, Spot};
use crate::transport::Socket;

pub const PATIENCE: Duration = Duration::from_secs(10);
pub const BOTH: Protocols = Protocols { http1: true, http2: true };

/// A throw-away CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }

    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            cert: certificate.pem(),
            der: certificate.der().clone(),
            key: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }

    pub fn server(&self, names: &[&str]) -> Pair {
        self.issue(names, |_| {})
    }

    pub fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    /// A client that trusts this CA alone.
    pub fn trusting_client(&self, identity: Option<&Pair>, alpn: &[&str]) -> ClientConfig {
        self.client_of_version(identity, alpn, &[&TLS13, &TLS12])
    }

    pub fn client_of_version(
        &self,
        identity: Option<&Pair>,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a good CA");
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("good versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![pair.der.clone()],
                    PrivateKeyDer::try_from(pair.key_der.clone()).expect("a key"),
                )
                .expect("a good pair"),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// A leaf certificate with its key.
pub struct Pair {
    pub cert: String,
    pub der: CertificateDer<'static>,
    pub key: String,
    pub key_der: Vec<u8>,
}

/// A folder of PEM files.
pub struct Files {
    folder: TempDir,
    count: std::cell::Cell<usize>,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), count: Default::default() }
    }

    pub fn write(&self, text: impl AsRef<[u8]>) -> Located<PathBuf> {
        self.count.set(self.count.get() + 1);
        let path = self.folder.path().join(format!("{}.pem", self.count.get()));
        std::fs::write(&path, text).expect("writable");
        located(path)
    }

    pub fn pair(&self, pair: &Pair) -> CertificateFiles {
        CertificateFiles { cert: self.write(&pair.cert), key: self.write(&pair.key) }
    }

    pub fn missing(&self) -> Located<PathBuf> {
        located(self.folder.path().join("missing.pem"))
    }
}

pub fn located<T>(value: T) -> Located<T> {
    Located::new(value, Spot::default())
}

pub fn policy(certificates: Vec<CertificateFiles>, client_auth: ClientAuth) -> TlsPolicy {
    let min_version = TlsVersion::Tls12;
    TlsPolicy { hosts: Vec::new(), certificates, min_version, client_auth, spot: Spot::default() }
}

pub fn for_hosts(hosts: &[&str], mut policy: TlsPolicy) -> TlsPolicy {
    policy.hosts = hosts.iter().map(|host| located(pattern(host))).collect();
    policy
}

pub fn pattern(host: &str) -> HostPattern {
    match host.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
        None => HostPattern::Exact(host.to_owned()),
    }
}

/// Builds policies that must have no problem at all.
pub fn build(tls: &ListenerTls) -> Arc<ServerPolicies> {
    let mut report = Report::default();
    let built = ServerPolicies::build(tls, BOTH, None, &mut report);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    Arc::new(built.expect("no problems"))
}

/// One policy with one certificate for a.test.
pub fn simple(ca: &Ca) -> (Files, Arc<ServerPolicies>) {
    let files = Files::new();
    let certificate = files.pair(&ca.server(&["a.test"]));
    let tls = ListenerTls { default: policy(vec![certificate], ClientAuth::None), policies: Vec::new() };
    let built = build(&tls);
    (files, built)
}

/// Two ends of a loopback connection.
pub async fn sockets() -> (TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address"));
    let (client, server) = tokio::join!(client, listener.accept());
    (client.expect("connected"), Socket::Tcp(server.expect("accepted").0))
}

pub type Client = tokio_rustls::client::TlsStream<TcpStream>;

/// A TLS handshake of a client (asking for `name`) with policies; both outcomes.
pub async fn meet(
    policies: &Arc<ServerPolicies>,
    config: &Arc<ClientConfig>,
    name: &str,
) -> (Result<TlsAccepted, TlsError>, std::io::Result<Client>) {
    let (client, server) = sockets().await;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connect = TlsConnector::from(Arc::clone(config)).connect(name, client);
    tokio::join!(accept(policies, server, Instant::now() + PATIENCE), connect)
}

/// Bytes both ways, which also lets the client read its session tickets.
pub async fn talk(accepted: &mut TlsAccepted, client: &mut Client) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    client.write_all(b"ping").await.expect("written");
    let mut buffer = [0; 4];
    accepted.stream.read_exact(&mut buffer).await.expect("read");
    accepted.stream.write_all(&buffer).await.expect("written");
    accepted.stream.flush().await.expect("flushed");
    client.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"ping");
}
