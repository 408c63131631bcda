//! A CA and a P-256 leaf for `localhost` and 127.0.0.1: every proxy in a comparison serves this one leaf.
//!
//! Files: `ca.pem`, `leaf.pem`, `leaf.key`, and `leaf-and-key.pem` (HAProxy wants both in one file).

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::args::{Args, Problem};

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let directory = Path::new(args.positional(1).ok_or("which directory?")?).to_owned();
    args.done()?;
    make(&directory)
}

/// Writes the files.
pub fn make(directory: &Path) -> Result<(), Problem> {
    std::fs::create_dir_all(directory)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Portcullis load CA");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let leaf = params.signed_by(&key, &ca)?;
    std::fs::write(directory.join("ca.pem"), ca.pem())?;
    std::fs::write(directory.join("leaf.pem"), leaf.pem())?;
    std::fs::write(directory.join("leaf.key"), key.serialize_pem())?;
    std::fs::write(directory.join("leaf-and-key.pem"), leaf.pem() + &key.serialize_pem())?;
    Ok(())
}
