//! PEM files: certificate chains, private keys, CA bundles. The only caller of rustls-pemfile.
//!
//! Every failure is reported at the place in the configuration that names the file, with what to do about it. Nothing
//! is skipped in silence, and an empty file is an error, never "no restriction". Nothing of a key is ever printed.

use std::path::PathBuf;

use rustls_pemfile::Item;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::file;
use crate::config::report::{Located, Report};

/// Bytes of a PEM file at most. A bundle of all public CAs has about 300 KiB.
const MAX_FILE: u64 = 4 << 20;

/// The certificates of `path` in their order, at least one.
pub(super) fn certificates(path: &Located<PathBuf>, report: &mut Report) -> Option<Vec<CertificateDer<'static>>> {
    let text = file::read(path, "a PEM file", MAX_FILE, report)?;
    let items = sections(path, &text, report)?;
    let has_key = items.iter().any(is_key) || is_encrypted(&text);
    let certificates: Vec<_> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::X509Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let problem =
            report.error("no-certificate", &path.spot, format_args!("no certificate in {}", path.value.display()));
        if has_key {
            problem.help("it holds a private key: the certificate and the key may be swapped");
        } else {
            explain_garbage(problem, &text);
        }
        return None;
    }
    Some(certificates)
}

/// The one private key of `path`.
pub(super) fn private_key(path: &Located<PathBuf>, report: &mut Report) -> Option<PrivateKeyDer<'static>> {
    let text = file::read(path, "a PEM file", MAX_FILE, report)?;
    let file = path.value.display();
    // Before parsing: the headers of the old encrypted form look like broken base64.
    if is_encrypted(&text) {
        report
            .error("encrypted-key", &path.spot, format_args!("the key in {file} is encrypted"))
            .help(format!("write it unencrypted, readable by the gateway alone: openssl pkey -in {file} -out KEY"));
        return None;
    }
    let mut keys: Vec<_> = sections(path, &text, report)?
        .into_iter()
        .filter_map(|item| match item {
            Item::Pkcs1Key(key) => Some(key.into()),
            Item::Pkcs8Key(key) => Some(key.into()),
            Item::Sec1Key(key) => Some(PrivateKeyDer::from(key)),
            _ => None,
        })
        .collect();
    let key = keys.pop();
    match key {
        None => {
            let problem = report.error("no-key", &path.spot, format_args!("no private key in {file}"));
            if contains(&text, b"-----BEGIN CERTIFICATE-----") {
                problem.help("it holds a certificate: the certificate and the key may be swapped");
            } else {
                explain_garbage(problem, &text);
            }
        }
        Some(_) if !keys.is_empty() => {
            report
                .error("several-keys", &path.spot, format_args!("{} private keys in {file}", keys.len() + 1))
                .help("leave the one that belongs to the certificate");
            return None;
        }
        Some(_) => {}
    }
    key
}

/// All sections that mean something to us, or a report about the first broken one.
fn sections(path: &Located<PathBuf>, text: &[u8], report: &mut Report) -> Option<Vec<Item>> {
    let mut rest = text;
    let mut items = Vec::new();
    loop {
        match rustls_pemfile::read_one_from_slice(rest) {
            Ok(Some((item, after))) => {
                items.push(item);
                rest = after;
            }
            Ok(None) => return Some(items),
            Err(error) => {
                let what = match error {
                    rustls_pemfile::Error::MissingSectionEnd { .. } => "a section without its END line",
                    rustls_pemfile::Error::IllegalSectionStart { .. } => "a broken BEGIN line",
                    rustls_pemfile::Error::Base64Decode(_) => "a section that is not base64",
                };
                let file = path.value.display();
                report
                    .error("broken-pem", &path.spot, format_args!("{file} has {what}"))
                    .help("it may have been cut short or pasted incompletely");
                return None;
            }
        }
    }
}

fn explain_garbage(problem: &mut crate::config::report::Problem, text: &[u8]) {
    if text.iter().all(u8::is_ascii_whitespace) {
        problem.help("the file is empty");
    } else if text.first() == Some(&0x30) {
        // An ASN.1 SEQUENCE: DER, or a PKCS #12 container.
        problem.help("it looks like DER or PKCS #12; convert it to PEM with openssl");
    } else if !contains(text, b"-----BEGIN ") {
        problem.help("PEM begins with a line -----BEGIN …-----");
    }
}

fn is_key(item: &Item) -> bool {
    matches!(item, Item::Pkcs1Key(_) | Item::Pkcs8Key(_) | Item::Sec1Key(_))
}

/// PKCS #8's own form, and the older one with headers (RFC 1421).
fn is_encrypted(text: &[u8]) -> bool {
    contains(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(text, b"Proc-Type: 4,ENCRYPTED")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}
