//! A listener's TLS policies: one rustls configuration each, chosen by SNI.
//!
//! Each policy has a ticket key and a session store of its own: a session that was made under one policy can never be
//! resumed under another, where other clients are let in (CVE-2025-23419). The same table that chooses by SNI also says
//! to which policy the authority of a request belongs, so that the two can be compared (421).
//! A reload keeps the configuration of a policy that has not changed at all (`makeup`). What is still asked of a
//! connection that was made before it is [`ServerPolicies::admit`]'s business.
//! Unknown names and no name at all get the default policy and its first certificate: the connection may be for a
//! host that is reached by address, and refusing it would tell a scanner no less.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::certificate::{self, CertificateInfo, OwnCertificate};
use super::chooser::Chooser;
use super::makeup::{Anchors, Makeup};
use super::server::TlsInfo;
use super::{pem, provider};
use crate::config::model::{ClientAuth, HostPattern, ListenerTls, Protocols, TlsPolicy, TlsVersion};
use crate::config::report::{Located, Report, Severity};

/// Sessions kept for clients that resume without tickets, which hardly any does.
const STORED_SESSIONS: usize = 256;

/// Tickets for each TLS 1.3 handshake, full or resumed. A client that opens a connection is likely to open one like it
/// again, and gets its next ticket then; a second one costs 3 % of the TLS handshake, and mostly nobody uses it.
const TICKETS: usize = 1;

/// One TLS policy of a listener; comparable only within that listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyId(usize);

impl PolicyId {
    /// The policy for everything that no other one names.
    pub const DEFAULT: Self = Self(0);
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    None,
    /// Asked for; one that is sent must verify.
    Optional,
    Required,
}

/// All TLS policies of one listener.
#[derive(Debug)]
pub struct ServerPolicies {
    /// The default policy first. Never empty.
    policies: Vec<Policy>,
    exact: HashMap<String, PolicyId>,
    /// By the part after `*.`.
    wildcard: HashMap<String, PolicyId>,
    pub(super) protocols: Protocols,
}

#[derive(Debug)]
struct Policy {
    config: Arc<ServerConfig>,
    makeup: Makeup,
}

impl Policy {
    /// Whether a connection has proved what this policy asks for, whenever it was made. It must have been asked by the
    /// same CAs, or not at all: a certificate that others have vouched for says nothing here.
    fn admits(&self, info: &TlsInfo) -> bool {
        let Makeup { min_version, client_auth, anchors, .. } = &self.makeup;
        let is_new_enough = match min_version {
            TlsVersion::Tls12 => true,
            TlsVersion::Tls13 => info.version == super::server::TLS13,
        };
        let shows_what_it_must = *client_auth != ClientAuthMode::Required || info.client_certificate.is_some();
        is_new_enough && shows_what_it_must && info.anchors == *anchors
    }
}

impl ServerPolicies {
    /// Reads all files that the tables name and builds the policies. `previous`: those of the same listener before a
    /// reload, whose tickets and sessions live on under a policy that is the same. `None`: there are errors in the report.
    pub fn build(
        tls: &ListenerTls,
        protocols: Protocols,
        previous: Option<&Self>,
        report: &mut Report,
    ) -> Option<Self> {
        let provider = provider();
        let now = crate::clock::wall();
        let before = report.problems.len();
        let basis = Basis { protocols, provider: &provider, previous };
        let own = load_certificates(&tls.default, &provider, now, report).map(Arc::new);
        let mut policies = vec![build_policy(&tls.default, own.clone(), &basis, report)];
        let mut built = Self { policies: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new(), protocols };
        for (index, policy) in tls.policies.iter().enumerate() {
            let certificates = if policy.certificates.is_empty() {
                own.clone()
            } else {
                load_certificates(policy, &provider, now, report).map(Arc::new)
            };
            if let Some(certificates) = &certificates {
                check_policy_hosts(policy, certificates, report);
            }
            built.name_hosts(policy, PolicyId(index + 1), tls, report);
            policies.push(build_policy(policy, certificates, &basis, report));
        }
        // All were tried before any failure counts, so that one run names all problems.
        built.policies = policies.into_iter().collect::<Option<_>>()?;
        let failed = report.problems[before..].iter().any(|problem| problem.severity == Severity::Error);
        (!failed).then_some(built)
    }

    /// Warns about each host (of a route that this listener serves) which no certificate of its policy covers.
    pub fn check_hosts<'a>(&self, hosts: impl IntoIterator<Item = &'a Located<HostPattern>>, report: &mut Report) {
        for host in hosts {
            let policy = &self.policies[self.policy_of_pattern(&host.value).0];
            if !policy.makeup.certificates.iter().any(|own| own.names.cover(&host.value)) {
                report
                    .warning(
                        "host-not-covered",
                        &host.spot,
                        format_args!("no certificate of a listener for this route covers {}", written(&host.value)),
                    )
                    .help("add a certificate that names it, or limit the route to other listeners");
            }
        }
    }

    /// The certificates of each policy, the default one first, with the hosts that it is for.
    pub fn certificates(&self) -> Vec<(Vec<String>, Vec<CertificateInfo>)> {
        let of = |(index, policy): (usize, &Policy)| {
            let is_own = |id: &PolicyId| id.0 == index;
            let exact = self.exact.iter().filter(|(_, id)| is_own(id)).map(|(host, _)| host.clone());
            let wildcard = self.wildcard.iter().filter(|(_, id)| is_own(id)).map(|(suffix, _)| format!("*.{suffix}"));
            let mut hosts: Vec<_> = exact.chain(wildcard).collect();
            hosts.sort_unstable();
            (hosts, policy.makeup.certificates.iter().map(OwnCertificate::info).collect())
        };
        self.policies.iter().enumerate().map(of).collect()
    }

    /// The policy for a connection that asks for `sni`.
    pub fn select(&self, sni: Option<&str>) -> PolicyId {
        sni.map_or(PolicyId::DEFAULT, |name| self.policy_for_host(name))
    }

    /// Whether a connection that was made as `info` says may ask for `host`: it belongs to the policy that the client's
    /// SNI chooses, and the connection is one that this policy would let in. These may be other policies than the ones
    /// that it was made under; what they ask for counts from the reload on.
    pub fn admit(&self, info: &TlsInfo, host: Option<&str>) -> bool {
        let sni = info.sni.as_deref();
        let own = self.select(sni);
        // Nearly always the host is the SNI, which has just been looked up.
        let is_own = host.is_none_or(|host| sni == Some(host) || self.policy_for_host(host) == own);
        is_own && self.policies[own.0].admits(info)
    }

    /// Whether all policies are those of `previous`, with what their files hold, their tickets and their sessions.
    pub fn is_kept_from(&self, previous: &Self) -> bool {
        let mut pairs = self.policies.iter().zip(&previous.policies);
        self.policies.len() == previous.policies.len() && pairs.all(|(now, old)| Arc::ptr_eq(&now.config, &old.config))
    }

    /// Whether every connection that is good under one of the two is so under the other.
    pub fn ask_the_same(&self, other: &Self) -> bool {
        let asks = |policy: &Policy| {
            let Makeup { min_version, client_auth, anchors, .. } = &policy.makeup;
            (*min_version, *client_auth, anchors.clone())
        };
        self.exact == other.exact
            && self.wildcard == other.wildcard
            && self.policies.iter().map(asks).eq(other.policies.iter().map(asks))
    }

    /// The policy of a listener that has no other.
    pub(super) fn only(&self) -> Option<PolicyId> {
        (self.policies.len() == 1).then_some(PolicyId::DEFAULT)
    }

    /// The policy to which a host belongs: exact names first, then the longest wildcard, then the default. `host` has
    /// no port; case and one trailing dot do not matter.
    pub fn policy_for_host(&self, host: &str) -> PolicyId {
        if let Some(only) = self.only() {
            return only;
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Some(id) = self.exact.get(&host) {
            return *id;
        }
        self.longest_wildcard(&host)
    }

    /// The certificates that are shown, once each: their file, one of their names, and when they expire, in seconds since
    /// 1970.
    pub fn expiries(&self) -> Vec<(&Path, String, i64)> {
        let mut all: Vec<(&Path, String, i64)> = Vec::new();
        for own in self.policies.iter().flat_map(|policy| policy.makeup.certificates.iter()) {
            if !all.iter().any(|(file, ..)| *file == own.file) {
                all.push((&own.file, own.names.first(), own.validity.1));
            }
        }
        all
    }

    /// Whether this policy asks clients for a certificate.
    pub fn client_auth(&self, id: PolicyId) -> ClientAuthMode {
        self.policies[id.0].makeup.client_auth
    }

    /// Whether every connection of this listener has shown a verified client certificate.
    pub fn always_require_certificate(&self) -> bool {
        self.policies.iter().all(|policy| policy.makeup.client_auth == ClientAuthMode::Required)
    }

    /// The policy to which requests for a host of this pattern belong, as far as one policy can be named.
    pub fn policy_of_pattern(&self, host: &HostPattern) -> PolicyId {
        match host {
            HostPattern::Exact(host) => self.policy_for_host(host),
            HostPattern::Wildcard(suffix) => {
                self.wildcard.get(suffix).copied().unwrap_or_else(|| self.longest_wildcard(suffix))
            }
        }
    }

    /// The CAs by which a policy asks clients to prove themselves, where it does.
    pub(super) fn anchors(&self, id: PolicyId) -> Option<Anchors> {
        self.policies[id.0].makeup.anchors.clone()
    }

    pub(super) fn config(&self, id: PolicyId) -> &Arc<ServerConfig> {
        &self.policies[id.0].config
    }

    fn longest_wildcard(&self, host: &str) -> PolicyId {
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(id) = self.wildcard.get(suffix) {
                return *id;
            }
            rest = suffix;
        }
        PolicyId::DEFAULT
    }

    fn name_hosts(&mut self, policy: &TlsPolicy, id: PolicyId, tls: &ListenerTls, report: &mut Report) {
        for host in &policy.hosts {
            let (table, name) = match &host.value {
                HostPattern::Exact(name) => (&mut self.exact, name),
                HostPattern::Wildcard(suffix) => (&mut self.wildcard, suffix),
            };
            match table.entry(name.clone()) {
                Entry::Vacant(free) => {
                    free.insert(id);
                }
                Entry::Occupied(taken) => {
                    let text = format!("{} is in a TLS policy already", written(&host.value));
                    let problem = report.error("duplicate-tls-host", &host.spot, text);
                    problem.help("a host belongs to one TLS policy of a listener");
                    // The default policy has no hosts, so that 0 is never in the table.
                    problem.also(&tls.policies[taken.get().0 - 1].spot, "the other policy");
                }
            }
        }
    }
}

fn load_certificates(
    policy: &TlsPolicy,
    provider: &CryptoProvider,
    now: SystemTime,
    report: &mut Report,
) -> Option<Vec<OwnCertificate>> {
    if policy.certificates.is_empty() {
        report.error("no-certificate", &policy.spot, "TLS without a certificate").help("add cert and key");
        return None;
    }
    let loaded: Vec<_> =
        policy.certificates.iter().map(|files| certificate::load(files, provider, now, report)).collect();
    loaded.into_iter().collect()
}

/// A name in a TLS policy that its certificates do not have can never be reached by a client that verifies.
fn check_policy_hosts(policy: &TlsPolicy, certificates: &[OwnCertificate], report: &mut Report) {
    for host in &policy.hosts {
        let name = written(&host.value);
        if is_address(&host.value) {
            report
                .error("address-as-tls-host", &host.spot, format_args!("{name} cannot choose a TLS policy"))
                .help("clients send no SNI for an address; put it on a listener of its own");
        } else if !certificates.iter().any(|own| own.names.cover(&host.value)) {
            report
                .error("host-not-covered", &host.spot, format_args!("no certificate of this TLS policy covers {name}"))
                .help("clients would refuse the certificate; add one that names the host");
        }
    }
}

/// What all policies of a listener are built on.
struct Basis<'a> {
    protocols: Protocols,
    provider: &'a Arc<CryptoProvider>,
    previous: Option<&'a ServerPolicies>,
}

fn build_policy(
    policy: &TlsPolicy,
    certificates: Option<Arc<Vec<OwnCertificate>>>,
    basis: &Basis<'_>,
    report: &mut Report,
) -> Option<Policy> {
    // Before the certificates are missed: a broken CA file is to be named in the same run.
    let verifier = client_verifier(&policy.client_auth, basis.provider, report)?;
    let makeup = Makeup::new(policy, basis.protocols, (verifier.mode, verifier.anchors), certificates?);
    let before = basis.previous.and_then(|previous| previous.policies.iter().find(|before| before.makeup == makeup));
    let config = match before {
        Some(before) => before.config.clone(),
        None => Arc::new(server_config(policy, verifier.verifier, &makeup, basis, report)?),
    };
    Some(Policy { config, makeup })
}

fn server_config(
    policy: &TlsPolicy,
    verifier: Arc<dyn ClientCertVerifier>,
    makeup: &Makeup,
    basis: &Basis<'_>,
    report: &mut Report,
) -> Option<ServerConfig> {
    let versions: &[_] = match policy.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(basis.provider)).with_protocol_versions(versions);
    let builder = match builder {
        Ok(builder) => builder,
        Err(error) => {
            report.error("tls-setup", &policy.spot, error);
            return None;
        }
    };
    let chooser = Arc::new(Chooser::new(&makeup.certificates)?);
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(chooser);
    config.ticketer = match Ticketer::new() {
        Ok(ticketer) => ticketer,
        Err(error) => {
            report.error("tls-setup", &policy.spot, format_args!("no key for session tickets: {error}"));
            return None;
        }
    };
    config.send_tls13_tickets = TICKETS;
    config.session_storage = ServerSessionMemoryCache::new(STORED_SESSIONS);
    config.max_early_data_size = 0;
    if basis.protocols.http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    if basis.protocols.http1 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    Some(config)
}

/// Who judges clients, how strictly, and by which CAs.
struct Verifier {
    verifier: Arc<dyn ClientCertVerifier>,
    mode: ClientAuthMode,
    anchors: Option<Anchors>,
}

fn client_verifier(client_auth: &ClientAuth, provider: &Arc<CryptoProvider>, report: &mut Report) -> Option<Verifier> {
    let (ca, mode) = match client_auth {
        ClientAuth::None => {
            let verifier = WebPkiClientVerifier::no_client_auth();
            return Some(Verifier { verifier, mode: ClientAuthMode::None, anchors: None });
        }
        ClientAuth::Optional { ca } => (ca, ClientAuthMode::Optional),
        ClientAuth::Required { ca } => (ca, ClientAuthMode::Required),
    };
    let roots = read_roots(ca, report)?;
    let anchors = Some(Anchors::of(&roots));
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if mode == ClientAuthMode::Optional { builder.allow_unauthenticated() } else { builder };
    match builder.build() {
        Ok(verifier) => Some(Verifier { verifier, mode, anchors }),
        Err(error) => {
            report.error("bad-ca", &ca.spot, error);
            None
        }
    }
}

/// The trust anchors of a CA file: at least one, and every one usable.
pub(super) fn read_roots(ca: &Located<PathBuf>, report: &mut Report) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in pem::certificates(ca, report)?.into_iter().enumerate() {
        if let Err(error) = roots.add(certificate) {
            let file = ca.value.display();
            let text = format!("certificate {} in {file} cannot be a trust anchor: {error}", index + 1);
            report.error("bad-ca", &ca.spot, text);
            return None;
        }
    }
    Some(roots)
}

fn is_address(host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => host.starts_with('[') || host.parse::<IpAddr>().is_ok(),
        HostPattern::Wildcard(_) => false,
    }
}

fn written(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}
