//! What `cert` writes, verified as a client would, and what it must leave alone.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::authority::{der_of, read};
use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn verifies(issued: &Issued, name: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&issued.ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let leaf = CertificateDer::from_pem_file(&issued.cert).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).is_ok()
}

#[test]
fn a_leaf_verifies_for_each_of_its_names_and_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue(dir.path(), &names(&["localhost", "App.Test.", "*.app.test", "[fd00::1]"])).unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "app.test", "x.app.test", "fd00::1"] {
        assert!(verifies(&issued, name), "{name}");
    }
    for name in ["other.test", "a.x.app.test", "127.0.0.2", "fd00::2"] {
        assert!(!verifies(&issued, name), "{name}");
    }
}

#[test]
fn the_key_belongs_to_the_leaf_and_lives_less_than_398_days() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue(dir.path(), &names(&["localhost"])).unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(&issued.key).unwrap()).unwrap();
    let der = der_of(&fs::read_to_string(&issued.cert).unwrap()).unwrap();
    let (public, life) = read(&der, |leaf| {
        let validity = leaf.validity();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        (leaf.public_key().subject_public_key.data.to_vec(), life)
    })
    .unwrap();
    assert_eq!(public, key.public_key_raw());
    assert!(life > 300 * 86_400 && life < 398 * 86_400, "{life}");
}

#[test]
fn a_second_call_reuses_the_ca_and_renews_the_leaf() {
    let dir = tempfile::tempdir().unwrap();
    let first = issue(dir.path(), &names(&["localhost"])).unwrap();
    let (ca, ca_key) = (fs::read(&first.ca).unwrap(), fs::read(dir.path().join(CA_KEY)).unwrap());
    let leaf = fs::read(&first.cert).unwrap();
    let second = issue(dir.path(), &names(&["localhost", "app.test"])).unwrap();
    assert!(first.ca_is_new && !second.ca_is_new);
    assert_eq!(fs::read(&second.ca).unwrap(), ca);
    assert_eq!(fs::read(dir.path().join(CA_KEY)).unwrap(), ca_key);
    assert_ne!(fs::read(&second.cert).unwrap(), leaf);
    assert!(verifies(&second, "app.test"));
}

#[test]
fn keys_are_readable_by_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue(dir.path(), &names(&["localhost"])).unwrap();
    for path in [issued.key, dir.path().join(CA_KEY)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn a_throw_away_ca_leaves_no_key_behind() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue_throw_away(&dir.path().join("new"), &names(&["localhost"])).unwrap();
    assert!(verifies(&issued, "::1"));
    let mut files: Vec<_> =
        fs::read_dir(dir.path().join("new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ca.pem", "localhost.key", "localhost.pem"]);
}

#[test]
fn half_a_ca_a_strangers_key_and_a_strangers_leaf_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    issue(dir.path(), &names(&["localhost"])).unwrap();
    issue(other.path(), &names(&["app.test"])).unwrap();

    fs::copy(other.path().join("app.test.pem"), dir.path().join("app.test.pem")).unwrap();
    let error = issue(dir.path(), &names(&["app.test"])).unwrap_err().to_string();
    assert!(error.contains("was not issued by the CA"), "{error}");

    fs::copy(other.path().join(CA_KEY), dir.path().join(CA_KEY)).unwrap();
    let error = issue(dir.path(), &names(&["localhost"])).unwrap_err().to_string();
    assert!(error.contains("does not belong to ca.pem"), "{error}");

    fs::remove_file(dir.path().join(CA_CERT)).unwrap();
    let error = issue(dir.path(), &names(&["localhost"])).unwrap_err().to_string();
    assert!(error.contains("missing beside ca.key"), "{error}");
}

#[test]
fn names_that_no_certificate_may_carry_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let long = "a".repeat(64);
    for bad in ["", "a b", "https://localhost", "localhost:8443", "bücher.test", "a..b", "-a.test", "a.*.test"]
        .into_iter()
        .chain(["*", "999.1.1.1", "a/../b", "_x.test", &long])
    {
        let error = issue(&dir.path().join("certs"), &names(&["localhost", bad])).unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{bad:?}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    assert!(!dir.path().join("certs").exists());
}

#[test]
fn a_host_named_ca_does_not_take_the_cas_file() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue(dir.path(), &names(&["ca"])).unwrap();
    assert_ne!(issued.cert, issued.ca);
    assert!(verifies(&issued, "ca"));
}
