//! Where the admin listener is, and what it wants to hear: by the command line, or by the configuration file.
//!
//! A token goes nowhere that its file does not say: not to an address that only the command line knows, unless that names
//! the token as well, and never over a network in the clear.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{Failure, Where};
use crate::cli::run::DEFAULT_FILE;
use crate::config;
use crate::config::model::{Admin, ListenAddress};
use crate::config::render;

/// A token's file is no longer.
const TOKEN_FILE: u64 = 64 << 10;

/// The admin listener of a gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub place: Place,
    /// For `Host`, and for what a certificate has to name.
    pub host: String,
    pub tls: Option<Tls>,
    pub token: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `None`: the system's roots.
    pub ca: Option<PathBuf>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(out, "unix:{}", path.display()),
            Place::Tcp(host, port) => {
                write!(out, "{}://{host}:{port}", if self.tls.is_some() { "https" } else { "http" })
            }
        }
    }
}

pub fn find(at: &Where) -> Result<Target, Failure> {
    let mut target = match &at.admin {
        Some(address) => {
            let mut target = parse(address)?;
            // Nobody has named that file: whatever is wrong with it does not matter here.
            let configured = config::read_admin(&at.config).0.and_then(|admin| Some((of(&admin).ok()?, admin)));
            if let Some((_, admin)) = configured.filter(|(known, _)| known.place == target.place) {
                target.token = at.token_file.is_none().then(|| token_of(&admin)).transpose()?.flatten();
            }
            target
        }
        None => {
            let admin = configured(&at.config)?;
            let mut target = of(&admin)?;
            target.token = at.token_file.is_none().then(|| token_of(&admin)).transpose()?.flatten();
            target
        }
    };
    if let Some(file) = &at.token_file {
        target.token = Some(read_token(file)?);
    }
    if let (Some(tls), Some(ca)) = (&mut target.tls, &at.ca) {
        tls.ca = Some(ca.clone());
    }
    if target.tls.is_none() && target.token.is_some() && !is_near(&target.place) {
        return Err(Failure::Usage(format!(
            "the token would go to {target} in the clear\n  write https:// for a listener with TLS"
        )));
    }
    Ok(target)
}

fn is_near(place: &Place) -> bool {
    match place {
        Place::Unix(_) => true,
        Place::Tcp(host, _) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        }
    }
}

fn configured(path: &Path) -> Result<Admin, Failure> {
    let (admin, report) = config::read_admin(path);
    if let Some(admin) = admin {
        return Ok(admin);
    }
    if report.has_errors() {
        let help = if path == Path::new(DEFAULT_FILE) {
            "\n  name a file with --config, or a gateway with --admin"
        } else {
            ""
        };
        let words = match report.problems.iter().find(|problem| problem.spot.is_none()) {
            Some(problem) => problem.message.clone(),
            None => format!("its [admin] cannot be read\n{}", render::render(&report, false).trim_end()),
        };
        return Err(Failure::Usage(words + help));
    }
    Err(Failure::Usage(format!(
        "{} has no [admin]: its gateway cannot be asked\n  add [admin] with `address = \"127.0.0.1:9900\"`, or name a \
         gateway with --admin",
        path.display()
    )))
}

/// The listener of a configuration.
fn of(admin: &Admin) -> Result<Target, Failure> {
    let tls = admin.tls.as_ref().map(|_| Tls::default());
    let (place, host) = match &admin.address.value {
        ListenAddress::Unix(path) => (Place::Unix(path.clone()), "localhost".to_owned()),
        ListenAddress::Tcp(address) if address.port() == 0 => {
            return Err(Failure::Usage(
                "the configuration leaves the port to the system\n  name the address with --admin; the gateway has \
                 announced it"
                    .into(),
            ));
        }
        ListenAddress::Inherited(_) => {
            return Err(Failure::Usage(
                "the configuration names a socket and no address\n  name it with --admin".into(),
            ));
        }
        ListenAddress::Tcp(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let host = SocketAddr::new(ip, 0).to_string();
            let host = host.strip_suffix(":0").unwrap_or(&host).to_owned();
            (Place::Tcp(host.clone(), address.port()), host)
        }
    };
    // A certificate names names.
    let host = admin.hosts.first().filter(|_| tls.is_some()).cloned().unwrap_or(host);
    Ok(Target { place, host, tls, token: None })
}

/// `127.0.0.1:9900`, `http://…`, `https://…`, `unix:/path`.
fn parse(address: &str) -> Result<Target, Failure> {
    let bad = || {
        Failure::Usage(format!(
            "`{}` is no address\n  write HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:PATH",
            super::plain(address)
        ))
    };
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        if path.is_empty() {
            return Err(bad());
        }
        return Ok(Target { place: Place::Unix(path.into()), host: "localhost".into(), tls: None, token: None });
    }
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let tls = match scheme {
        "http" => None,
        "https" => Some(Tls::default()),
        _ => return Err(bad()),
    };
    let authority = crate::proto::host::parse_authority(rest.strip_suffix('/').unwrap_or(rest)).map_err(|_| bad())?;
    let port = authority.port.or(tls.is_some().then_some(443)).ok_or_else(bad)?;
    Ok(Target { place: Place::Tcp(authority.host.clone(), port), host: authority.host, tls, token: None })
}

fn token_of(admin: &Admin) -> Result<Option<String>, Failure> {
    admin.token_file.as_ref().map(|file| read_token(&file.value)).transpose()
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::Failed(format!("cannot read the token in {}: {why}", path.display()));
    let text = config::file::read_small(path, TOKEN_FILE).map_err(|error| failed(error.to_string()))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    match std::str::from_utf8(line) {
        Ok(line) if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(line.to_owned()),
        _ => Err(failed("its first line is no token".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn where_to(toml: &str, args: &[(&str, &str)]) -> Result<Target, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), "0123456789abcdef\n").expect("written");
        std::fs::write(folder.path().join("p.toml"), toml).expect("written");
        let said = |name: &str| args.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        find(&Where {
            admin: said("admin"),
            config: folder.path().join("p.toml"),
            token_file: said("token_file").map(|file| folder.path().join(file)),
            ca: said("ca").map(PathBuf::from),
        })
    }

    fn shown(target: &Target) -> (String, &str, bool) {
        (target.to_string(), &target.host, target.token.is_some())
    }

    #[test]
    fn the_file_says_where_however_broken_the_rest_of_it_is() {
        for (toml, place, host, has_token) in [
            (
                "[admin]\naddress = \"127.0.0.1:9900\"\n[[route]]\nnonsense = 1\n",
                "http://127.0.0.1:9900",
                "127.0.0.1",
                false,
            ),
            ("[admin]\naddress = \"[::1]:9\"\ntoken_file = \"token\"\n[x\n", "http://[::1]:9", "[::1]", true),
            ("[admin]\naddress = \"unix:/run/a.sock\"\n", "unix:/run/a.sock", "localhost", false),
            (
                "[admin]\naddress = \"0.0.0.0:9900\"\nhosts = [\"gw.test\"]\ntoken_file = \"token\"\ntls = { cert = \"c\", key = \"k\" }\n",
                "https://127.0.0.1:9900",
                "gw.test",
                true,
            ),
        ] {
            let target = where_to(toml, &[]).unwrap_or_else(|error| panic!("{toml}: {error:?}"));
            assert_eq!(shown(&target), (place.to_owned(), host, has_token), "{toml}");
        }
        for (toml, words) in [
            ("", "has no [admin]"),
            ("[admin]\naddress = \"nowhere\"\n", "nowhere"),
            ("[admin]\naddress = \"127.0.0.1:0\"\n", "name the address with --admin"),
            ("[admin]\naddress = \"127.0.0.1:1\"\ntoken_file = \"missing\"\n", "cannot read the token"),
        ] {
            let (Failure::Usage(why) | Failure::Failed(why)) = where_to(toml, &[]).expect_err(toml);
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_token_goes_nowhere_that_its_file_does_not_say() {
        let toml = "[admin]\naddress = \"127.0.0.1:9900\"\ntoken_file = \"token\"\n";
        let has_token = |args: &[(&str, &str)]| where_to(toml, args).map(|target| target.token.is_some());
        assert!(matches!(has_token(&[("admin", "127.0.0.1:9900")]), Ok(true)));
        assert!(matches!(has_token(&[("admin", "127.0.0.1:9901")]), Ok(false)));
        assert!(matches!(has_token(&[("admin", "https://gw.test:9900"), ("token_file", "token")]), Ok(true)));
        for clear in ["gw.test:9900", "http://10.0.0.1:9900"] {
            let refused = has_token(&[("admin", clear), ("token_file", "token")]);
            assert!(matches!(refused, Err(Failure::Usage(why)) if why.contains("in the clear")), "{clear}");
        }
    }

    #[test]
    fn an_address_is_host_and_port_a_url_or_a_socket() {
        for address in ["", "9900", "localhost", "ftp://a:1", "http://a", "http://a:1/path", "http://u@a:1", "unix:"] {
            assert!(parse(address).is_err(), "{address}");
        }
        for (address, shown) in [
            ("localhost:9900", "http://localhost:9900"),
            ("https://gw.test", "https://gw.test:443"),
            ("http://[::1]:9/", "http://[::1]:9"),
            ("unix:a.sock", "unix:a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(parse(address).map(|target| target.to_string()).ok().as_deref(), Some(shown), "{address}");
        }
    }
}
