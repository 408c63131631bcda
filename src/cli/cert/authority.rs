//! The CA: made, loaded and proven to be ours, and what it signs.
//!
//! A CA that is loaded signs a leaf on trial before it is used: only what `portcullis cert` has made passes.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{create, read_if_there};
use super::subject::{Subject, SubjectName};
use super::{CA_CERT, CA_KEY, DAY, Error};

/// For clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// A CA with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    /// The subject, DER: what stands as issuer in every leaf.
    pub subject: Vec<u8>,
    /// Seconds since the epoch.
    not_after: u64,
}

pub struct Leaf {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn create(life: Duration) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // A name of its own for each CA: trust stores look issuers up by name, and two of the same name confuse them.
        let tag: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut params = ca_params(&format!("Portcullis local CA {tag}"));
        let not_after = now() + life.as_secs();
        set_validity(&mut params, not_after);
        let certificate = params.self_signed(&key)?;
        let subject = read(certificate.der(), |parsed| parsed.subject().as_raw().to_vec())
            .ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let pem = certificate.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, subject, not_after })
    }

    /// `None`: `dir` holds neither part of a CA.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        let (pem, key) = match (read_if_there(&cert_path)?, read_if_there(&key_path)?) {
            (None, None) => return Ok(None),
            (Some(pem), Some(key)) => (pem, key),
            (Some(_), None) => {
                return Err(Error::files(&key_path, "missing beside ca.pem; move ca.pem away for a new CA"));
            }
            (None, Some(_)) => {
                return Err(Error::files(&cert_path, "missing beside ca.key; move ca.key away for a new CA"));
            }
        };
        let key = KeyPair::from_pem(&key).map_err(|_| Error::files(&key_path, "not a private key in PEM (PKCS#8)"))?;
        let der = der_of(&pem).ok_or_else(|| Error::files(&cert_path, "not a certificate in PEM"))?;
        let parsed = read(&der, |ca| {
            let name = ca.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
            let matches = ca.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
            (name, ca.subject().as_raw().to_vec(), matches, ca.validity().not_after.timestamp())
        });
        let Some((Some(name), subject, matches, not_after)) = parsed else {
            return Err(Error::files(&cert_path, "not a CA certificate that `portcullis cert` has made"));
        };
        if !matches {
            return Err(Error::files(&key_path, "this key does not belong to ca.pem"));
        }
        let not_after = u64::try_from(not_after).unwrap_or(0);
        if not_after <= now() {
            return Err(Error::files(&cert_path, "has expired; move ca.pem and ca.key away for a new CA"));
        }
        let authority = Self { issuer: Issuer::new(ca_params(&name), key), pem, subject, not_after };
        // Proof by doing: a CA of other make has a name that ours would not be spelled like.
        let trial = authority.sign(&Subject(vec![SubjectName::Dns("localhost".to_owned())]), DAY)?;
        let issuer = issuer_of(&trial.cert);
        if issuer.as_ref() != Some(&authority.subject) {
            return Err(Error::files(&cert_path, "not a CA certificate that `portcullis cert` has made"));
        }
        Ok(Some(authority))
    }

    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        create(&dir.join(CA_KEY), self.issuer.key().serialize_pem().as_bytes(), 0o600)?;
        create(&dir.join(CA_CERT), self.pem.as_bytes(), 0o644)
    }

    pub fn sign(&self, subject: &Subject, life: Duration) -> Result<Leaf, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Portcullis local certificate");
        params.subject_alt_names = subject.0.iter().map(SubjectName::san).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, (now() + life.as_secs()).min(self.not_after));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { cert: certificate.pem(), key: key.serialize_pem() })
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Portcullis, development only");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The issuer's name in a certificate (PEM), as DER.
pub fn issuer_of(pem: &str) -> Option<Vec<u8>> {
    read(&der_of(pem)?, |leaf| leaf.issuer().as_raw().to_vec())
}

pub(super) fn read<T>(der: &[u8], look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| look(&certificate))
}

pub(super) fn der_of(pem: &str) -> Option<Vec<u8>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

/// Seconds since the epoch; a clock before 1970 counts as that day.
fn now() -> u64 {
    crate::clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// From a little before now to `not_after` (seconds since the epoch).
fn set_validity(params: &mut CertificateParams, not_after: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now().saturating_sub(BACKDATED.as_secs()));
    params.not_after = epoch + Duration::from_secs(not_after);
}
