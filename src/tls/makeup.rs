//! What a TLS policy consists of, to be compared with what it was before a reload: by what its files hold, never by
//! their names.
//!
//! A policy that is the same keeps its rustls configuration, and with it the keys of its tickets and its sessions; any
//! difference makes new ones. Of an open connection only its trust anchors are kept ([`Anchors`]): they tell whether a
//! client has been asked for what it would be asked for today.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;

use super::certificate::{OwnCertificate, is_same};
use super::policy::ClientAuthMode;
use crate::config::model::{HostPattern, Protocols, TlsPolicy, TlsVersion};

/// The CAs by which a peer was asked to prove itself. Equal where all of them are, in whatever order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors(Arc<[u8; 32]>);

impl Anchors {
    pub(super) fn of(roots: &RootCertStore) -> Self {
        let mut anchors: Vec<Vec<u8>> = roots
            .roots
            .iter()
            .map(|anchor| {
                let constraints = anchor.name_constraints.as_deref().unwrap_or_default();
                let mut all = Vec::new();
                for part in [&*anchor.subject, &*anchor.subject_public_key_info, constraints] {
                    all.extend_from_slice(&(part.len() as u64).to_be_bytes());
                    all.extend_from_slice(part);
                }
                all
            })
            .collect();
        anchors.sort_unstable();
        let mut context = Context::new(&SHA256);
        anchors.iter().for_each(|anchor| context.update(anchor));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(Arc::new(digest))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &*self.0
    }
}

/// Everything that two policies have to agree in to be one.
#[derive(Debug)]
pub(super) struct Makeup {
    /// In order.
    hosts: Vec<HostPattern>,
    protocols: Protocols,
    pub min_version: TlsVersion,
    pub client_auth: ClientAuthMode,
    /// `None`: clients are not asked for a certificate.
    pub anchors: Option<Anchors>,
    pub certificates: Arc<Vec<OwnCertificate>>,
}

impl Makeup {
    pub fn new(
        policy: &TlsPolicy,
        protocols: Protocols,
        (client_auth, anchors): (ClientAuthMode, Option<Anchors>),
        certificates: Arc<Vec<OwnCertificate>>,
    ) -> Self {
        let mut hosts: Vec<_> = policy.hosts.iter().map(|host| host.value.clone()).collect();
        hosts.sort_unstable();
        Self { hosts, protocols, min_version: policy.min_version, client_auth, anchors, certificates }
    }
}

impl PartialEq for Makeup {
    fn eq(&self, other: &Self) -> bool {
        let Self { hosts, protocols, min_version, client_auth, anchors, certificates } = self;
        *hosts == other.hosts
            && *protocols == other.protocols
            && *min_version == other.min_version
            && *client_auth == other.client_auth
            && *anchors == other.anchors
            && certificates.len() == other.certificates.len()
            && certificates.iter().zip(&*other.certificates).all(|(own, before)| is_same(&own.key, &before.key))
    }
}
