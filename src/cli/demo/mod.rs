//! `portcullis demo`: everything in one process, to try it in a browser.
//!
//! Makes a throw-away certificate, starts a backend that speaks only `ws://` ([`backend`]) with a page to try it from
//! ([`page`]), writes the configuration for it and runs the gateway with that. The gateway gets nothing but the text
//! that `--print` shows: the demo knows no short cuts. Listens on loopback only.

pub mod backend;
mod json;
mod page;
mod room;
mod socket;

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::backend::{Backend, Facts};
use super::cert;

/// Starts an example backend and page with the gateway in front of them, to try in a browser.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  portcullis demo                  then open https://localhost:8443/\n  \
    portcullis demo --certs certs    with a CA that is trusted already")]
pub struct Args {
    /// On this machine only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443", value_parser = loopback)]
    pub listen: SocketAddr,
    /// A folder of `portcullis cert`, used and kept
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Print the file that this stands for, and stop
    #[arg(long)]
    pub print: bool,
}

/// Runs the command. `serve` is the gateway: it gets the configuration's text and the file it also stands in, which is
/// what relative paths and messages refer to, and returns when it was asked to stop.
///
/// Exit codes: 1 files or backend could not be had, 3 the address is taken, otherwise what `serve` says.
pub fn run(args: &Args, serve: impl FnOnce(&str, &Path) -> ExitCode) -> ExitCode {
    run_to(&mut io::stdout(), args, serve)
}

/// A closed `out` stops nothing: what is written there is a courtesy.
fn run_to(out: &mut dyn Write, args: &Args, serve: impl FnOnce(&str, &Path) -> ExitCode) -> ExitCode {
    if args.print {
        let _ = out.write_all(config_text(&Plan::example(args.listen)).as_bytes());
        return ExitCode::SUCCESS;
    }
    let demo = match Demo::prepare(args) {
        Ok(demo) => demo,
        Err((code, problem)) => {
            let _ = writeln!(io::stderr(), "portcullis demo: {problem}");
            return ExitCode::from(code);
        }
    };
    let _ = out.write_all(demo.introduction().as_bytes());
    serve(&demo.text, &demo.config)
}

/// What the configuration is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub listen: Vec<SocketAddr>,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Where the ws-only server listens.
    pub sockets: SocketAddr,
    /// Where the page's HTTP server listens.
    pub pages: SocketAddr,
}

/// The configuration, as TOML, that the demo stands for.
pub fn config_text(plan: &Plan) -> String {
    let cert = json::quote(&plan.cert.to_string_lossy());
    let key = json::quote(&plan.key.to_string_lossy());
    let mut hosts = vec!["localhost".to_owned()];
    let mut text = String::from("# What `portcullis demo` runs.\n");
    for address in &plan.listen {
        hosts.push(match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        text.push_str(&format!("\n[[listener]]\naddress = \"{address}\"\ntls = {{ cert = {cert}, key = {key} }}\n"));
    }
    let hosts = json::array(hosts.iter().map(String::as_str)).replace(',', ", ");
    text.push_str(&format!(
        r#"
# The backend knows only ws:// and lets everybody in. What stands here is what protects it.
[[route]]
name = "echo"
hosts = {hosts}
path = "/echo"
upstream = "ws://{sockets}"
[route.websocket]
origins = ["same-origin"]                 # pages of this very host and port
subprotocols = {{ allow = ["echo-protocol", "chat"] }}

[[route]]
name = "chat"
hosts = {hosts}
path = "/chat"
upstream = "ws://{sockets}"
[route.websocket]
origins = ["same-origin"]
subprotocols = {{ allow = ["chat"], require = true }}

# Everything else is the page, over plain HTTP; no `websocket` table, so nothing upgrades here.
[[route]]
name = "page"
hosts = {hosts}
upstream = "http://{pages}"
"#,
        sockets = plan.sockets,
        pages = plan.pages,
    ));
    text
}

impl Plan {
    /// With ports and paths as one would write them by hand, for `--print`.
    fn example(listen: SocketAddr) -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut addresses = vec![listen];
        addresses.extend(twin(listen));
        Self {
            listen: addresses,
            cert: PathBuf::from("certs/localhost.pem"),
            key: PathBuf::from("certs/localhost.key"),
            sockets: local(9000),
            pages: local(8080),
        }
    }
}

/// A prepared demo; the backend and the throw-away folder end with it.
struct Demo {
    text: String,
    config: PathBuf,
    port: u16,
    issued: cert::Issued,
    backend: Backend,
    throw_away: bool,
    _folder: Folder,
}

impl Demo {
    fn prepare(args: &Args) -> Result<Self, (u8, String)> {
        let listen = free_addresses(args.listen)?;
        let folder = Folder::create().map_err(|error| (1, format!("no temporary folder to be had: {error}")))?;
        let mut names = vec!["localhost".to_owned()];
        names.push(args.listen.ip().to_string());
        let issued = match &args.certs {
            // The leaf goes elsewhere: one of that name in `dir` may carry more names than ours.
            Some(dir) => cert::issue_into(&folder.0, dir, &names),
            None => cert::issue_throw_away(&folder.0, &names),
        }
        .map_err(|error| (1, error.to_string()))?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let config = folder.0.join("demo.toml");
        let ca = absolute(&issued.ca);
        let facts = Facts { config: config.display().to_string(), ca: ca.display().to_string() };
        let backend = Backend::start(facts).map_err(|error| (1, format!("the backend did not start: {error}")))?;
        let plan = Plan {
            cert: absolute(&issued.cert),
            key: absolute(&issued.key),
            sockets: backend.sockets,
            pages: backend.pages,
            listen,
        };
        let text = config_text(&plan);
        fs::write(&config, &text).map_err(|error| (1, format!("{}: {error}", config.display())))?;
        let port = plan.listen[0].port();
        let issued = cert::Issued { ca, ..issued };
        Ok(Self { text, config, port, issued, backend, throw_away: args.certs.is_none(), _folder: folder })
    }

    fn introduction(&self) -> String {
        let Self { port, .. } = self;
        let (ca, config) = (self.issued.ca.display(), self.config.display());
        let trust = if self.throw_away {
            "new, for this run only; its key was never written\n              \
             (to trust one CA once: portcullis cert localhost, then portcullis demo --certs certs)"
        } else {
            "kept"
        };
        format!(
            r#"Portcullis demo, for this machine only.

  open        https://localhost:{port}/
              (the browser warns until it trusts the CA; accepting the warning is enough for a try)
  CA          {ca}
              {trust}
  backend     ws://{sockets} knows only ws:// and checks nothing; the page is at http://{pages}
  config      {config}

In another terminal:
  curl --cacert {ca} https://localhost:{port}/backend.json
  curl --http1.1 -i --cacert {ca} https://localhost:{port}/echo \
       -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
       -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H 'Origin: https://evil.example'
  portcullis explain wss://localhost:{port}/echo --origin https://evil.example --config {config}

Ctrl-C ends it.

"#,
            sockets = self.backend.sockets,
            pages = self.backend.pages,
        )
    }
}

/// The address, and its twin where there is one, if nobody listens there yet. The gateway binds them itself a moment
/// later; asking first gives a message that fits.
fn free_addresses(listen: SocketAddr) -> Result<Vec<SocketAddr>, (u8, String)> {
    let taken = |address: SocketAddr, error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there; try --listen 127.0.0.1:0 for a free port",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; try --listen 127.0.0.1:8443",
            _ => "try another --listen",
        };
        (3, format!("cannot listen on {address}: {error} ({remedy})"))
    };
    let first = TcpListener::bind(listen).map_err(|error| taken(listen, error))?;
    let listen = first.local_addr().map_err(|error| taken(listen, error))?;
    let mut addresses = vec![listen];
    if let Some(other) = twin(listen) {
        match TcpListener::bind(other) {
            Ok(_) => addresses.push(other),
            // Browsers try ::1 first for localhost: whoever sits there would get the visit.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(taken(other, error)),
            // No IPv6 on this machine.
            Err(_) => {}
        }
    }
    Ok(addresses)
}

/// `localhost` means both loopback addresses.
fn twin(listen: SocketAddr) -> Option<SocketAddr> {
    (listen.ip() == Ipv4Addr::LOCALHOST).then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port())))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "an IP address and a port are wanted, as in 127.0.0.1:8443")?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the demo is for this machine only; to publish a backend use `portcullis expose`".to_owned())
}

/// A new folder that only this user can enter, removed with all that is in it when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> io::Result<Self> {
        let base = std::env::temp_dir();
        let mut attempt = 0;
        loop {
            let path = base.join(format!("portcullis-demo-{}-{attempt}", std::process::id()));
            // Not recursive: a folder that somebody else has put there in advance is never used.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left in the temporary folder; it holds no CA key.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: SocketAddr) -> Args {
        Args { listen, certs: None, print: false }
    }

    #[test]
    fn the_configuration_is_toml_and_survives_strange_paths() {
        let strange = "/tmp/a \"b\" \\ \u{7f}é.pem";
        let plan = Plan { cert: PathBuf::from(strange), ..Plan::example("127.0.0.1:8443".parse().unwrap()) };
        let text = config_text(&plan);
        let table = toml::de::DeTable::parse(&text).unwrap().into_inner();
        let listeners = table["listener"].get_ref().as_array().unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listeners[1].get_ref()["address"].get_ref().as_str(), Some("[::1]:8443"));
        assert_eq!(listeners[0].get_ref()["tls"].get_ref()["cert"].get_ref().as_str(), Some(strange));
        let routes = table["route"].get_ref().as_array().unwrap();
        assert_eq!(routes[0].get_ref()["hosts"].get_ref().as_array().unwrap().len(), 3);
        let origins = routes[0].get_ref()["websocket"].get_ref()["origins"].get_ref().as_array().unwrap();
        assert_eq!(origins[0].get_ref().as_str(), Some("same-origin"));
        assert!(routes[2].get_ref().get("websocket").is_none());
    }

    #[test]
    fn the_gateway_gets_the_text_and_everything_is_gone_afterwards() {
        let mut seen = None;
        let mut out = Vec::new();
        let _ = run_to(&mut out, &args("127.0.0.1:0".parse().unwrap()), |text, file| {
            assert_eq!(fs::read_to_string(file).unwrap(), text);
            let folder = file.parent().unwrap().to_owned();
            assert!(folder.join("ca.pem").exists() && !folder.join("ca.key").exists());
            seen = Some(folder);
            ExitCode::SUCCESS
        });
        assert!(!seen.unwrap().exists());
        assert!(String::from_utf8(out).unwrap().contains("https://localhost:"));
    }

    #[test]
    fn a_kept_ca_signs_without_touching_the_leaves_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = cert::issue(dir.path(), &["localhost".to_owned(), "app.test".to_owned()]).unwrap();
        let before = fs::read(&kept.cert).unwrap();
        let args = Args { certs: Some(dir.path().to_owned()), ..args("127.0.0.1:0".parse().unwrap()) };
        let Ok(demo) = Demo::prepare(&args) else { panic!("not prepared") };
        assert_eq!(demo.issued.ca, dir.path().join("ca.pem"));
        assert_eq!(fs::read(&kept.cert).unwrap(), before);
    }

    #[test]
    fn a_taken_port_is_said_before_anything_is_started() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = holder.local_addr().unwrap();
        let Err((code, problem)) = Demo::prepare(&args(address)) else { panic!("prepared on a taken port") };
        assert_eq!(code, 3);
        assert!(problem.contains(&address.to_string()) && problem.contains("another program"), "{problem}");
    }

    #[test]
    fn only_loopback_is_listened_on() {
        assert!(loopback("127.0.0.9:1").is_ok() && loopback("[::1]:1").is_ok());
        for other in ["0.0.0.0:8443", "[::]:8443", "192.0.2.1:1", "localhost:8443", "8443", ""] {
            assert!(loopback(other).is_err(), "{other}");
        }
    }
}
