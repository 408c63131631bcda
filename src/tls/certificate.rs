//! What a certificate says about itself: names, dates, subject. And the pair of certificate and key, checked.
//!
//! Verification of peers is rustls'; here only our own certificates are judged, for the report, and a verified
//! client's is described. RFC 5280 (fields), RFC 9525 (a wildcard stands for exactly one label), RFC 4514 (subjects).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pem;
use crate::config::model::{CertificateFiles, HostPattern};
use crate::config::report::{Located, Report};

/// A certificate chain with its key, and the names it is good for.
#[derive(Clone, Debug)]
pub(super) struct OwnCertificate {
    pub key: Arc<CertifiedKey>,
    pub names: Names,
    /// Where it was read from.
    pub file: PathBuf,
    /// From when to when it is valid, in seconds since 1970.
    pub validity: (i64, i64),
}

/// Whether the two are one. Keys belong to their chains, so that the same chain has the same key; unless one is of a kind
/// that does not tell.
pub(super) fn is_same(own: &CertifiedKey, other: &CertifiedKey) -> bool {
    own.cert == other.cert && own.keys_match().is_ok() && other.keys_match().is_ok()
}

/// The names in a certificate's SANs, in lower case.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub exact: Vec<String>,
    /// `*.example.com` as `example.com`.
    pub wildcard: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Names {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    let name = name.to_ascii_lowercase();
                    match name.strip_prefix("*.") {
                        Some(suffix) => names.wildcard.push(suffix.to_owned()),
                        None => names.exact.push(name),
                    }
                }
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    names.addresses.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok());
                }
                _ => {}
            }
        }
        names
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.addresses.is_empty()
    }

    /// One of them, to tell certificates apart by.
    pub fn first(&self) -> String {
        let exact = self.exact.first().cloned();
        let wildcard = || self.wildcard.first().map(|suffix| format!("*.{suffix}"));
        exact.or_else(wildcard).or_else(|| self.addresses.first().map(IpAddr::to_string)).unwrap_or_default()
    }

    /// Whether a client that asks for a host of this pattern would accept the certificate's names. For a wildcard
    /// pattern the wildcard of one label is enough: more cannot be had in one certificate.
    pub fn cover(&self, host: &HostPattern) -> bool {
        match host {
            HostPattern::Exact(host) => {
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                if let Ok(address) = bare.parse::<IpAddr>() {
                    return self.addresses.contains(&address);
                }
                self.exact.contains(host)
                    || host.split_once('.').is_some_and(|(_, suffix)| self.wildcard.iter().any(|name| name == suffix))
            }
            HostPattern::Wildcard(suffix) => self.wildcard.contains(suffix),
        }
    }
}

/// Reads a server's certificate and its key, and checks that they belong together. Dates and missing names are
/// warnings.
pub(super) fn load(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now: SystemTime,
    report: &mut Report,
) -> Option<OwnCertificate> {
    let own = load_pair(files, provider, now, report)?;
    if own.names.is_empty() {
        let file = files.cert.value.display();
        let text = format!("the certificate in {file} names no host in its subject alternative names");
        report
            .warning("certificate-without-names", &files.cert.spot, text)
            .help("clients have not looked at the common name for years");
    }
    Some(own)
}

/// The same for a certificate that we show as a client, where names do not matter.
pub(super) fn load_client(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now: SystemTime,
    report: &mut Report,
) -> Option<Arc<CertifiedKey>> {
    load_pair(files, provider, now, report).map(|own| own.key)
}

fn load_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now: SystemTime,
    report: &mut Report,
) -> Option<OwnCertificate> {
    // Both are read before giving up, so that one run names all problems.
    let chain = pem::certificates(&files.cert, report);
    let key = pem::private_key(&files.key, report);
    let chain = chain?;
    let names = inspect(&files.cert, chain.first()?, now, report);
    let key = match provider.key_provider.load_private_key(key?) {
        Ok(key) => key,
        Err(error) => {
            let file = files.key.value.display();
            report
                .error("bad-key", &files.key.spot, format_args!("the key in {file} cannot be used: {error}"))
                .help("RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519");
            return None;
        }
    };
    let (names, validity) = names?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        // Unknown: a kind of key that does not tell its public half; the TLS handshake would fail, nothing opens.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Some(OwnCertificate { key: Arc::new(pair), names, file: files.cert.value.clone(), validity })
        }
        Err(error) => {
            report_mismatch(files, &pair, &error, report);
            None
        }
    }
}

fn report_mismatch(files: &CertificateFiles, pair: &CertifiedKey, error: &Error, report: &mut Report) {
    let cert = files.cert.value.display();
    if !matches!(error, Error::InconsistentKeys(_)) {
        report.error("bad-certificate", &files.cert.spot, format_args!("the certificate in {cert} is broken: {error}"));
        return;
    }
    let belongs_to_another = (1..pair.cert.len()).any(|index| {
        let alone = CertifiedKey::new(vec![pair.cert[index].clone()], Arc::clone(&pair.key));
        alone.keys_match().is_ok()
    });
    let message = format!("this key does not belong to the first certificate in {cert}");
    let problem = report.error("key-mismatch", &files.key.spot, message);
    problem.also(&files.cert.spot, "the certificate");
    problem.help(if belongs_to_another {
        "it belongs to a later certificate of that file: the server's own must come first, then its issuers"
    } else {
        "the two files may come from different renewals"
    });
}

/// Parses the leaf and reports what its dates and names say.
fn inspect(path: &Located<PathBuf>, der: &[u8], now: SystemTime, report: &mut Report) -> Option<(Names, (i64, i64))> {
    let file = path.value.display();
    let certificate = match X509Certificate::from_der(der) {
        Ok((_, certificate)) => certificate,
        Err(error) => {
            report.error(
                "bad-certificate",
                &path.spot,
                format_args!("the certificate in {file} cannot be parsed: {error}"),
            );
            return None;
        }
    };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let validity = certificate.validity();
    if validity.not_after.timestamp() < now {
        report
            .warning(
                "certificate-expired",
                &path.spot,
                format_args!("the certificate in {file} expired on {}", validity.not_after),
            )
            .help("whoever verifies it will refuse it; renew it");
    } else if validity.not_before.timestamp() > now {
        report
            .warning(
                "certificate-not-yet-valid",
                &path.spot,
                format_args!("the certificate in {file} is not valid before {}", validity.not_before),
            )
            .help("whoever verifies it will refuse it until then; is the clock of this machine right?");
    }
    let dates = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some((Names::of(&certificate), dates))
}

/// A certificate of the gateway's own, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    pub file: PathBuf,
    /// What it is good for: names, wildcards as they are written, addresses.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// RFC 4514.
    pub subject: String,
    /// SHA-256 of it in DER, in lower-case hexadecimal digits.
    pub fingerprint: String,
}

impl OwnCertificate {
    pub fn info(&self) -> CertificateInfo {
        let der = self.key.cert.first().map(|der| der.as_ref()).unwrap_or_default();
        let Names { exact, wildcard, addresses } = &self.names;
        let wildcards = wildcard.iter().map(|suffix| format!("*.{suffix}"));
        let names = exact.iter().cloned().chain(wildcards).chain(addresses.iter().map(ToString::to_string)).collect();
        let (not_before, not_after) = self.validity;
        let (subject, fingerprint) = (subject(der), fingerprint(der));
        CertificateInfo { file: self.file.clone(), names, not_before, not_after, subject, fingerprint }
    }
}

/// SHA-256, in lower-case hexadecimal digits.
pub(super) fn fingerprint(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The subject of a certificate after RFC 4514: most specific part first, special and control characters escaped, so
/// that it is one line and one part cannot pose as another. Empty if it has none or cannot be parsed.
pub(super) fn subject(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return String::new() };
    let mut text = String::new();
    let parts: Vec<_> = certificate.subject().iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            text.push_str(short_name(&oid).unwrap_or(&oid));
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                // Not a string: the RFC's form for anything else.
                Err(_) => {
                    text.push('#');
                    attribute.as_slice().iter().for_each(|byte| push_hex(*byte, &mut text));
                }
            }
        }
    }
    text
}

/// RFC 4514 section 3's table.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}

fn escape(value: &str, out: &mut String) {
    let last = value.len().saturating_sub(1);
    for (index, character) in value.char_indices() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => {
                out.push('\\');
                out.push(character);
            }
            '#' | ' ' if index == 0 => {
                out.push('\\');
                out.push(character);
            }
            ' ' if index == last => out.push_str("\\ "),
            // Also everything beyond ASCII: the text may go into a header field.
            ' '..='~' => out.push(character),
            _ => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    out.push('\\');
                    push_hex(byte, out);
                }
            }
        }
    }
}

fn push_hex(byte: u8, out: &mut String) {
    write!(out, "{byte:02x}").expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_name_covers_exactly_one_label() {
        let names = Names {
            exact: vec!["a.test".into()],
            wildcard: vec!["b.test".into()],
            addresses: vec![[10, 0, 0, 1].into()],
        };
        let exact = |host: &str| names.cover(&HostPattern::Exact(host.into()));
        assert!(exact("a.test") && exact("x.b.test") && exact("10.0.0.1"));
        assert!(!exact("b.test") && !exact("x.y.b.test") && !exact("x.a.test") && !exact("10.0.0.2"));
        assert!(names.cover(&HostPattern::Wildcard("b.test".into())));
        assert!(!names.cover(&HostPattern::Wildcard("a.test".into())));
    }

    #[test]
    fn a_bracketed_v6_host_is_covered_by_its_address() {
        let names = Names { addresses: vec!["2001:db8::1".parse().expect("an address")], ..Names::default() };
        assert!(names.cover(&HostPattern::Exact("[2001:db8::1]".into())));
        assert!(!names.cover(&HostPattern::Exact("[2001:db8::2]".into())));
    }

    #[test]
    fn a_subject_cannot_smuggle_parts_or_lines() {
        let mut out = String::new();
        escape(" a,CN=root\r\nX: y\u{e9} ", &mut out);
        assert_eq!(out, "\\ a\\,CN\\=root\\0d\\0aX: y\\c3\\a9\\ ");
    }
}
