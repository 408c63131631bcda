//! `portcullis cert localhost [NAME…]`: a local certificate authority and a leaf it signs, for development only.
//!
//! Owns the files it writes and nothing else: `ca.pem` and `ca.key` are made once and then reused, a leaf is renewed on
//! every call. A CA key is never overwritten, and a leaf only when this CA has issued it. Keys are ECDSA P-256, their
//! files 0600. What a gateway presents and how it is verified is `tls/`'s business.
//!
//! Rules behind the shape of the leaf: names stand in the SAN alone (RFC 6125 6.4.4), wildcards are one whole leftmost
//! label (RFC 6125 6.4.3), its life stays under the 398 days that browsers accept (CA/Browser Forum BR 6.3.2).

mod authority;
mod error;
mod files;
mod subject;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use authority::Authority;
pub use error::Error;
use files::{create, read_if_there, replace};
use subject::Subject;

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// With the backdating this stays under 398 days.
const LEAF_LIFE: Duration = Duration::from_secs(396 * DAY.as_secs());
const THROW_AWAY_LIFE: Duration = Duration::from_secs(7 * DAY.as_secs());

/// Makes a local CA and a certificate signed by it, for development only.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  portcullis cert localhost app.test '*.app.test' 192.168.1.20")]
pub struct Args {
    /// Host names, `*.` names, addresses; localhost brings its addresses
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Where the files go; a CA there is used again
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

/// Renewal is for our own leaves: a certificate from elsewhere under the same file name stays what it is.
fn refuse_foreign_leaf(cert: &Path, key: &Path, authority: &Authority) -> Result<(), Error> {
    let Some(pem) = read_if_there(cert)? else {
        return match read_if_there(key)? {
            None => Ok(()),
            Some(_) => Err(Error::files(key, "a key without its certificate is in the way; move it away first")),
        };
    };
    let issuer = authority::issuer_of(&pem);
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

#[cfg(test)]
mod tests;
