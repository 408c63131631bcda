//! The binary under test with one configuration, and the certificates that it shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::{NAME, Process, folder, program};

/// The certificates of a test run: one CA, one leaf for the names of these suites, made once and kept in files.
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca_der: Vec<u8>,
}

pub fn certificates() -> &'static Certificates {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    MADE.get_or_init(|| make_certificates().expect("test certificates can be made"))
}

fn make_certificates() -> Result<Certificates, Box<dyn std::error::Error>> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rcgen::{KeyUsagePurpose, date_time_ymd};

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("certificates-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis interop CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let names = [NAME, "pages.test", "other.test", "localhost", "127.0.0.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    // Browsers refuse leaves that live longer than about a year.
    let today = time_of_today();
    params.not_before = date_time_ymd(today.0, today.1, 1) - Duration::from_secs(86_400);
    params.not_after = params.not_before + Duration::from_secs(200 * 86_400);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &ca)?;

    let made = Certificates {
        ca: folder.join("ca.pem"),
        cert: folder.join("leaf.pem"),
        key: folder.join("leaf.key"),
        ca_der: ca.der().to_vec(),
    };
    std::fs::write(&made.ca, ca.pem())?;
    std::fs::write(&made.cert, leaf.pem())?;
    std::fs::write(&made.key, key.serialize_pem())?;
    Ok(made)
}

/// Year and month of now.
fn time_of_today() -> (i32, u8) {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    (i32::from(now.year()), now.month().cast_unsigned())
}

/// The gateway's own binary, serving one configuration with TLS on a port of its choice.
pub struct Gateway {
    pub process: Process,
    /// The first listener's port.
    pub port: u16,
    _folder: tempfile::TempDir,
}

/// The binary under test; `PORTCULLIS_BIN` names another one, such as a release build.
pub fn gateway_binary() -> PathBuf {
    std::env::var_os("PORTCULLIS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_portcullis").into(), PathBuf::from)
}

impl Gateway {
    /// `routes` is the part of the file after the listener.
    pub fn start(routes: &str) -> Self {
        Self::with_listener("", routes)
    }

    /// The same with more keys for the listener's table.
    pub fn with_listener(keys: &str, routes: &str) -> Self {
        let Certificates { cert, key, .. } = certificates();
        let text = format!(
            "[server]\nworkers = 2\ndrain_timeout = \"1s\"\n\n[log]\naccess = \"stderr\"\nformat = \"json\"\n\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n{keys}\n\n{routes}\n"
        );
        let folder = folder();
        let file = folder.path().join("portcullis.toml");
        std::fs::write(&file, &text).expect("the configuration can be written");
        let mut command = Command::new(gateway_binary());
        command.arg("run").arg("--config").arg(&file);
        let process = Process::start("the gateway", command);
        process.lines.push(format!("(configuration)\n{text}"));
        let port = process.lines.wait("the gateway's `listening on https://…` line", announced_port);
        Self { process, port, _folder: folder }
    }

    /// A curl that trusts the test CA and finds the gateway under [`NAME`]; the path is appended.
    pub fn curl(&self, path: &str) -> Command {
        self.curl_at(self.port, path)
    }

    /// The same through something that listens on `port` in front of the gateway.
    pub fn curl_at(&self, port: u16, path: &str) -> Command {
        let mut command = Command::new(program("curl"));
        command.args(["--silent", "--show-error", "--max-time", "15", "--path-as-is", "--cacert"]);
        command.arg(&certificates().ca);
        command.arg("--resolve").arg(format!("{NAME}:{port}:127.0.0.1"));
        command.arg(format!("https://{NAME}:{port}{path}"));
        command
    }

    /// `https://gate.test:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.port)
    }
}

/// `listening on https://127.0.0.1:8443 (public)` → 8443
pub fn announced_port(line: &str) -> Option<u16> {
    let rest = line.split_once("listening on https://")?.1;
    let address = rest.split([' ', '/']).next()?;
    address.rsplit_once(':')?.1.parse().ok()
}
