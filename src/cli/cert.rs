//! `portcullis cert localhost [NAME…]`: a local certificate authority and a leaf it signs, for development only.
//!
//! Owns the files it writes and nothing else: `ca.pem` and `ca.key` are made once and then reused, a leaf is renewed on
//! every call. A CA key is never overwritten, and a leaf only when this CA has issued it. Keys are ECDSA P-256, their
//! files 0600. What a gateway presents and how it is verified is `tls/`'s business.
//!
//! Rules behind the shape of the leaf: names stand in the SAN alone (RFC 6125 6.4.4), wildcards are one whole leftmost
//! label (RFC 6125 6.4.3), its life stays under the 398 days that browsers accept (CA/Browser Forum BR 6.3.2).

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Makes a local CA and a certificate signed by it, for development only.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  portcullis cert localhost app.test '*.app.test' 192.168.1.20")]
pub struct Args {
    /// Host names, `*.` names and IP addresses; `localhost` brings 127.0.0.1 and ::1 along. The first names the files.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Where the files go; a CA that is already there is used again.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
}

/// Runs the command: 0 done, 1 the files could not be read or written, 2 a name that cannot stand in a certificate.
pub fn run(args: &Args) -> ExitCode {
    match issue(&args.dir, &args.names) {
        Ok(issued) => {
            // A closed pipe on stdout is no reason to call the certificate a failure.
            let _ = io::stdout().write_all(issued.summary().as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "portcullis cert: {error}");
            error.exit_code()
        }
    }
}

/// What [`issue`] has written.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, PEM.
    pub cert: PathBuf,
    /// The leaf's key, PEM (PKCS#8), 0600.
    pub key: PathBuf,
    /// The CA's certificate, PEM: what a client has to trust.
    pub ca: PathBuf,
    /// The names in the leaf, in the order of its SAN.
    pub names: Vec<String>,
    /// This call made the CA; false: it was there already.
    pub ca_is_new: bool,
}

/// Issues a leaf for `names` under the CA in `dir`, which is made where there is none.
///
/// # Errors
/// A name that cannot stand in a certificate; files that cannot be read or written; a CA in `dir` that is half there,
/// expired or of other make; a leaf of that name which this CA has not issued.
pub fn issue(dir: &Path, names: &[String]) -> Result<Issued, Error> {
    issue_into(dir, dir, names)
}

/// Like [`issue`], with the leaf in another folder than the CA.
///
/// # Errors
/// As for [`issue`].
pub fn issue_into(leaf_dir: &Path, ca_dir: &Path, names: &[String]) -> Result<Issued, Error> {
    let subject = Subject::parse(names)?;
    for dir in [ca_dir, leaf_dir] {
        fs::DirBuilder::new().recursive(true).create(dir).map_err(|error| Error::io(dir, error))?;
    }
    let (authority, ca_is_new) = match Authority::load(ca_dir)? {
        Some(authority) => (authority, false),
        None => (Authority::create(CA_LIFE)?, true),
    };
    let (cert, key) = leaf_paths(leaf_dir, &subject);
    refuse_foreign_leaf(&cert, &key, &authority)?;
    let leaf = authority.sign(&subject, LEAF_LIFE)?;
    if ca_is_new {
        authority.save(ca_dir)?;
    }
    replace(&key, leaf.key.as_bytes(), 0o600)?;
    replace(&cert, leaf.cert.as_bytes(), 0o644)?;
    Ok(Issued { cert, key, ca: ca_dir.join(CA_CERT), names: subject.to_strings(), ca_is_new })
}

/// Like [`issue`], but under a CA whose key is never written anywhere, and for seven days. `dir` is made with 0700.
///
/// # Errors
/// As for [`issue`]; `dir` must not hold anything of these names yet.
pub fn issue_throw_away(dir: &Path, names: &[String]) -> Result<Issued, Error> {
    let subject = Subject::parse(names)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| Error::io(dir, error))?;
    let authority = Authority::create(THROW_AWAY_LIFE)?;
    let leaf = authority.sign(&subject, THROW_AWAY_LIFE)?;
    let (cert, key) = leaf_paths(dir, &subject);
    let ca = dir.join(CA_CERT);
    create(&ca, authority.pem.as_bytes(), 0o644)?;
    create(&key, leaf.key.as_bytes(), 0o600)?;
    create(&cert, leaf.cert.as_bytes(), 0o644)?;
    Ok(Issued { cert, key, ca, names: subject.to_strings(), ca_is_new: true })
}

/// Why no certificate was made. One line each.
#[derive(Debug)]
pub enum Error {
    /// The operator asked for a name that no certificate may carry.
    Name {
        name: String,
        why: &'static str,
    },
    /// The folder holds something that must not be used or overwritten.
    Files {
        path: PathBuf,
        why: String,
    },
    Io {
        path: PathBuf,
        source: io::Error,
    },
    Sign(rcgen::Error),
}

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Name { .. } => ExitCode::from(2),
            Self::Files { .. } | Self::Io { .. } | Self::Sign(_) => ExitCode::from(1),
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn files(path: &Path, why: impl Into<String>) -> Self {
        Self::Files { path: path.to_owned(), why: why.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, why } => write!(f, "{name:?} cannot stand in a certificate: {why}"),
            Self::Files { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Sign(error) => write!(f, "the certificate could not be made: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name { .. } | Self::Files { .. } => None,
            Self::Io { source, .. } => Some(source),
            Self::Sign(error) => Some(error),
        }
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error)
    }
}

impl Issued {
    /// What `portcullis cert` prints: the files, how to trust the CA, the lines for the configuration.
    pub fn summary(&self) -> String {
        let (ca, cert, key) = (self.ca.display(), self.cert.display(), self.key.display());
        let origin = if self.ca_is_new { "new" } else { "already there, used again" };
        let names = self.names.join(", ");
        let days = LEAF_LIFE.as_secs() / DAY.as_secs();
        format!(
            r#"For development only: whoever has ca.key can pose as any site to a browser that trusts ca.pem.

CA            {ca} ({origin})
certificate   {cert}
              for {names}; {days} days
key           {key}

Trust the CA once:
  Debian, Ubuntu  sudo cp {ca} /usr/local/share/ca-certificates/portcullis-local-ca.crt && sudo update-ca-certificates
  Chromium        certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n "Portcullis local CA" -i {ca}    (package libnss3-tools)
  Firefox         Settings → Privacy & Security → View Certificates → Authorities → Import → {ca}
  macOS           sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {ca}
  curl            curl --cacert {ca} https://…

For portcullis.toml:
  [[listener]]
  address = "127.0.0.1:8443"
  tls = {{ cert = "{cert}", key = "{key}" }}
"#
        )
    }
}

/// The names of one leaf; never empty, no name twice.
struct Subject(Vec<SubjectName>);

#[derive(Clone, PartialEq, Eq)]
enum SubjectName {
    /// Lower case, perhaps `*.` in front.
    Dns(String),
    Ip(IpAddr),
}

impl Subject {
    fn parse(names: &[String]) -> Result<Self, Error> {
        let mut parsed: Vec<SubjectName> = Vec::new();
        let mut add = |name: SubjectName| {
            if !parsed.contains(&name) {
                parsed.push(name);
            }
        };
        for name in names {
            let one = SubjectName::parse(name).map_err(|why| Error::Name { name: name.clone(), why })?;
            let is_localhost = one == SubjectName::Dns("localhost".to_owned());
            add(one);
            if is_localhost {
                add(SubjectName::Ip(std::net::Ipv4Addr::LOCALHOST.into()));
                add(SubjectName::Ip(std::net::Ipv6Addr::LOCALHOST.into()));
            }
        }
        match parsed.len() {
            0 => Err(Error::Name { name: String::new(), why: "give at least one name" }),
            // More would not fit into what TLS stacks accept as one certificate with room to spare.
            101.. => Err(Error::Name { name: names[0].clone(), why: "at most 100 names go into one certificate" }),
            _ => Ok(Self(parsed)),
        }
    }

    fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl SubjectName {
    fn parse(name: &str) -> Result<Self, &'static str> {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Ip(address));
        }
        if name.contains("://") || name.contains('/') {
            return Err("a host name or an IP address is wanted, not a URL");
        }
        if name.contains(':') {
            return Err("neither an IPv6 address nor a host name; leave the port out");
        }
        if !name.is_ascii() {
            return Err("write an internationalised name as its A-labels (xn--…)");
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let host = name.strip_prefix("*.").unwrap_or(&name);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !host.split('.').all(is_label) {
            return Err("labels are 1 to 63 letters, digits and inner hyphens; `*` only as the whole first label");
        }
        // RFC 1123 2.1: what ends in digits alone would be read as an address elsewhere.
        if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err("the last label is a number, but this is no IP address");
        }
        Ok(Self::Dns(name))
    }

    fn san(&self) -> Result<SanType, Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// A CA with its key.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// The subject, DER: what stands as issuer in every leaf.
    subject: Vec<u8>,
    /// Seconds since the epoch.
    not_after: u64,
}

struct Leaf {
    cert: String,
    key: String,
}

impl Authority {
    fn create(life: Duration) -> Result<Self, Error> {
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
    fn load(dir: &Path) -> Result<Option<Self>, Error> {
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
        let issuer = der_of(&trial.cert).and_then(|der| read(&der, |leaf| leaf.issuer().as_raw().to_vec()));
        if issuer.as_ref() != Some(&authority.subject) {
            return Err(Error::files(&cert_path, "not a CA certificate that `portcullis cert` has made"));
        }
        Ok(Some(authority))
    }

    fn save(&self, dir: &Path) -> Result<(), Error> {
        create(&dir.join(CA_KEY), self.issuer.key().serialize_pem().as_bytes(), 0o600)?;
        create(&dir.join(CA_CERT), self.pem.as_bytes(), 0o644)
    }

    fn sign(&self, subject: &Subject, life: Duration) -> Result<Leaf, Error> {
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

/// Renewal is for our own leaves: a certificate from elsewhere under the same file name stays what it is.
fn refuse_foreign_leaf(cert: &Path, key: &Path, authority: &Authority) -> Result<(), Error> {
    let Some(pem) = read_if_there(cert)? else {
        return match read_if_there(key)? {
            None => Ok(()),
            Some(_) => Err(Error::files(key, "a key without its certificate is in the way; move it away first")),
        };
    };
    let issuer = der_of(&pem).and_then(|der| read(&der, |leaf| leaf.issuer().as_raw().to_vec()));
    if issuer.as_ref() == Some(&authority.subject) {
        return Ok(());
    }
    Err(Error::files(cert, "was not issued by the CA in this folder; move it away first"))
}

/// `*` and `:` would be a nuisance in a shell; `ca` is taken.
fn leaf_paths(dir: &Path, subject: &Subject) -> (PathBuf, PathBuf) {
    let mut stem = subject.0[0].to_string().replace('*', "_wildcard").replace(':', "_");
    if stem == "ca" {
        stem = "ca-leaf".to_owned();
    }
    (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")))
}

fn read<T>(der: &[u8], look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| look(&certificate))
}

fn der_of(pem: &str) -> Option<Vec<u8>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Writes a file that must not be there yet.
fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|error| Error::io(path, error))
}

/// Writes beside and renames, so that a gateway that reloads now reads the old file or the new one, never half of one.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    create(&beside, content, mode)?;
    fs::rename(&beside, path).map_err(|error| {
        let _ = fs::remove_file(&beside);
        Error::io(path, error)
    })
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

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// With the backdating this stays under 398 days.
const LEAF_LIFE: Duration = Duration::from_secs(396 * DAY.as_secs());
const THROW_AWAY_LIFE: Duration = Duration::from_secs(7 * DAY.as_secs());
/// For clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

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
}
