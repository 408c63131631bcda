//! Where to listen, and where upstream servers are.
//!
//! Pure. Listen addresses are literal (`0.0.0.0:443`, `[::]:443`, `unix:/path`, `fd:NAME`), since a name may mean another address
//! tomorrow. Upstream URLs hold scheme, host and port and nothing else: the path that goes upstream is the request's.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::fault::Fault;
use super::names::{self, Host};
use super::suggest::nearest;

/// What to do about an address that is a part of another one.
pub(super) const OVERLAP: &str =
    "0.0.0.0 and [::] are all addresses of their family: leave one of the two out, or change its port";

/// The longest path that fits into a unix socket's address, in bytes, without the NUL at its end.
pub const UNIX_PATH: usize = 107;

#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    /// As written; relative paths are for the caller to resolve.
    Unix(String),
    /// By the name of a socket that the process is started with.
    Inherited(String),
}

/// The longest name of an inherited socket, in bytes: that of systemd.
const FD_NAME: usize = 255;

pub fn listen(text: &str) -> Result<Listen, Fault> {
    let bad = |message: String| Fault::new("bad-address", message);
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Listen::Unix);
    }
    if let Some(name) = text.strip_prefix("fd:") {
        return fd_name(name).map(Listen::Inherited);
    }
    if let Ok(address) = text.parse() {
        return Ok(Listen::Tcp(address));
    }
    let help = if let Some(port) = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()) {
        format!(
            "write \"0.0.0.0:{port}\" for IPv4, \"[::]:{port}\" for IPv6, \"127.0.0.1:{port}\" for this machine only"
        )
    } else if text.parse::<u16>().is_ok() {
        format!(
            "write \"0.0.0.0:{text}\" for IPv4, \"[::]:{text}\" for IPv6, \"127.0.0.1:{text}\" for this machine only"
        )
    } else if let Ok(address) = text.parse::<IpAddr>() {
        format!("add the port: \"{}\"", SocketAddr::new(address, 443))
    } else if let Some(port) = text.strip_prefix("localhost:") {
        format!("write the address: \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
    } else if text.rsplit_once(':').is_some_and(|(_, port)| is_number(port) && port.parse::<u16>().is_err()) {
        "a port is a number up to 65535".into()
    } else if text.contains("://") {
        "write address and port without a scheme: \"0.0.0.0:443\"".into()
    } else if text.starts_with('/') {
        format!("write \"unix:{text}\"")
    } else {
        "write an address and a port, \"0.0.0.0:443\" or \"[::]:443\", or \"unix:/run/portcullis.sock\"".into()
    };
    Err(bad(format!("`{text}` is not an address to listen on")).help(help))
}

/// What systemd takes for the name of a socket.
fn fd_name(name: &str) -> Result<String, Fault> {
    let is_fit = |byte: u8| byte == b' ' || (byte.is_ascii_graphic() && byte != b':');
    if !name.is_empty() && name.len() <= FD_NAME && name.bytes().all(is_fit) {
        return Ok(name.to_owned());
    }
    Err(Fault::new("bad-address", format!("`{name}` is not the name of an inherited socket"))
        .help("write \"fd:web\", the name that `FileDescriptorName=` of its socket unit says"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What an upstream URL's scheme says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub websocket_only: bool,
    pub tls: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Host(Host, u16),
    /// As written; relative paths are for the caller to resolve.
    Unix(String),
}

const SCHEMES: [(&str, Kind); 4] = [
    ("ws", Kind { websocket_only: true, tls: false }),
    ("wss", Kind { websocket_only: true, tls: true }),
    ("http", Kind { websocket_only: false, tls: false }),
    ("https", Kind { websocket_only: false, tls: true }),
];

/// Whether a route's `upstream` is meant as a URL: names of upstreams have neither colon nor slash.
pub fn is_url(text: &str) -> bool {
    text.contains([':', '/'])
}

/// `ws`, `wss`, `http`, `https` with host and port; `unix:/path` and `ws+unix:/path`.
pub fn upstream(text: &str) -> Result<(Kind, Place), Fault> {
    for (scheme, websocket_only) in [("unix:", false), ("ws+unix:", true)] {
        if let Some(path) = text.strip_prefix(scheme) {
            return unix_path(path).map(|path| (Kind { websocket_only, tls: false }, Place::Unix(path)));
        }
    }
    let forms = "write ws://, wss://, http:// or https:// with host and port, unix:/path or ws+unix:/path";
    let Some((scheme, rest)) = text.split_once("://") else {
        let fault = Fault::new("bad-url", format!("`{text}` is not a URL"));
        return Err(match names::split_port(text) {
            Ok((_, Some(_))) => fault.help(format!("write \"ws://{text}\" for a server that speaks only WebSocket, \"http://{text}\" for one that speaks HTTP")),
            _ => fault.help(forms),
        });
    };
    let scheme_text = scheme.to_ascii_lowercase();
    let Some((_, kind)) = SCHEMES.iter().find(|(known, _)| *known == scheme_text) else {
        let fault =
            Fault::new("bad-url", format!("`{scheme}` is not a scheme for an upstream")).within(0..scheme.len());
        return Err(match nearest(&scheme_text, SCHEMES.iter().map(|(known, _)| *known)) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help(forms),
        });
    };
    let start = scheme.len() + 3;
    if let Some(end) = rest.find(['/', '?', '#']) {
        let what = match rest.as_bytes()[end] {
            b'/' => "a path",
            b'?' => "a query",
            _ => "a fragment",
        };
        return Err(Fault::new("url-with-path", format!("an upstream URL cannot have {what}"))
            .within(start + end..text.len())
            .help(format!(
                "write \"{scheme_text}://{}\": the request's own path goes upstream (see `strip_prefix`)",
                rest[..end].rsplit('@').next().unwrap_or_default()
            )));
    }
    if let Some(at) = rest.rfind('@') {
        return Err(Fault::new("url-with-userinfo", "an upstream URL cannot have a user name or password")
            .within(start..start + at + 1)
            .help(format!("write \"{scheme_text}://{}\"", &rest[at + 1..])));
    }
    let inner = |fault: Fault| Fault { code: "bad-url", ..fault };
    let (host, port) = names::split_port(rest).map_err(inner)?;
    let port = port.unwrap_or(if kind.tls { 443 } else { 80 });
    Ok((*kind, Place::Host(names::host(host).map_err(inner)?, port)))
}

fn unix_path(path: &str) -> Result<String, Fault> {
    let bad = |message: String| Fault::new("bad-path", message);
    // `unix:///run/x` is how some others write it; with two slashes the first segment would be a host.
    let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
    if path.starts_with("//") {
        let single = path.trim_start_matches('/');
        return Err(bad("a unix socket has a path and no host".into()).help(format!("write \"unix:/{single}\"")));
    }
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(bad("this is not the path of a unix socket".into()).help("write \"unix:/run/app.sock\""));
    }
    Ok(path.to_owned())
}

/// An entry of `nameservers`: an address, and a port where it is not 53.
pub fn name_server(text: &str) -> Result<SocketAddr, Fault> {
    let address = text.parse().or_else(|_| text.parse().map(|address| SocketAddr::new(address, 53)));
    match address {
        Ok(address) if is_a_host(address.ip()) && address.port() != 0 => Ok(address),
        _ => Err(Fault::new("bad-address", format!("`{text}` is not the address of a name server"))
            .help("write \"10.0.0.53\", \"10.0.0.53:5353\", \"2001:db8::53\" or \"[2001:db8::53]:5353\"")),
    }
}

/// An entry of `source`: an address of this machine, without a port.
pub fn source(text: &str) -> Result<IpAddr, Fault> {
    let bad =
        |help: String| Err(Fault::new("bad-address", format!("`{text}` is not an address to connect from")).help(help));
    match text.parse::<IpAddr>() {
        Ok(address) if is_a_host(address) => Ok(address),
        Ok(_) => bad("write an address of this machine; without `source` the kernel chooses one".into()),
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => bad(format!("write \"{}\": each connection has a port of its own", address.ip())),
            Err(_) => bad("write an address of this machine: \"10.0.0.5\", \"2001:db8::5\"".into()),
        },
    }
}

/// One host's, as against no host's or many hosts'.
fn is_a_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

/// What a service (`_ws._tcp.chat.internal`) is one of, without its two first labels.
pub fn service_domain(name: &str) -> Option<&str> {
    let (service, rest) = name.split_once('.')?;
    let (protocol, domain) = rest.split_once('.')?;
    let is_label = |label: &str| label.len() > 1 && label.starts_with('_');
    (is_label(service) && is_label(protocol) && !domain.is_empty() && !domain.starts_with('_')).then_some(domain)
}

/// An entry of `trusted_proxies`: a network, or one address.
pub fn network(text: &str) -> Result<IpNet, Fault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(Fault::new("bad-network", format!("`{text}` is not an address or network"))
            .help("write \"10.0.0.0/8\", \"2001:db8::/32\", one address, or \"unix\" for peers on unix sockets"));
    };
    if net.trunc() != net {
        return Err(Fault::new("bad-network", format!("`{text}` has bits set outside its mask")).help(format!(
            "write \"{}\" for the network or \"{}\" for the one address",
            net.trunc(),
            net.addr()
        )));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Listen, Place, listen, name_server, network, service_domain, source, upstream};
    use crate::config::read::names::Host;

    #[test]
    fn listen_addresses_are_literal() {
        assert_eq!(listen("0.0.0.0:443"), Ok(Listen::Tcp(([0, 0, 0, 0], 443).into())));
        assert_eq!(listen("unix:/run/p.sock"), Ok(Listen::Unix("/run/p.sock".into())));
        assert!(matches!(listen("[::]:443"), Ok(Listen::Tcp(address)) if address.is_ipv6()));
        assert_eq!(listen("fd:web.socket"), Ok(Listen::Inherited("web.socket".into())));
        for text in [
            "",
            ":443",
            "443",
            "localhost:443",
            "0.0.0.0",
            "::",
            "https://0.0.0.0:443",
            "/run/x",
            "unix:",
            "1.2.3.4:70000",
            "fd:",
            "fd:a:b",
            "fd:ü",
            "fd:a\n",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_scheme_says_what_a_server_speaks() {
        let place = Place::Host(Host::V4([127, 0, 0, 1].into()), 9000);
        assert_eq!(upstream("ws://127.0.0.1:9000"), Ok((Kind { websocket_only: true, tls: false }, place)));
        let place = Place::Host(Host::Name("a.test".into()), 443);
        assert_eq!(upstream("HTTPS://A.test"), Ok((Kind { websocket_only: false, tls: true }, place)));
        let place = Place::Unix("/run/a.sock".into());
        assert_eq!(upstream("ws+unix:/run/a.sock"), Ok((Kind { websocket_only: true, tls: false }, place)));
        assert!(matches!(upstream("unix:///run/a"), Ok((_, Place::Unix(path))) if path == "/run/a"));
    }

    #[test]
    fn what_else_a_url_can_hold_is_refused() {
        for text in [
            "",
            "a",
            "a:80",
            "ws://",
            "ws://a/",
            "ws://a/x",
            "ws://a?x",
            "ws://u:p@a",
            "ftp://a",
            "ws://a:0",
            "ws://a:x",
            "ws://::1:80",
            "ws://a b",
            "unix:",
            "unix://host/x",
            "ws://*.a",
            "ws://é",
        ] {
            assert!(upstream(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_and_its_port_is_53_unless_it_says_so() {
        for (text, want) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ] {
            assert_eq!(name_server(text).map(|address| address.to_string()), Ok(want.into()));
        }
        for text in ["", "dns.example", "10.0.0.53:", "10.0.0.53:0", "0.0.0.0", "224.0.0.251", "::", "[::1]"] {
            assert!(name_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_an_address_of_one_host_and_has_no_port() {
        assert_eq!(source("10.0.0.5"), Ok([10, 0, 0, 5].into()));
        assert!(source("::1").is_ok());
        for text in ["", "10.0.0.5:80", "[::1]", "10.0.0.0/24", "0.0.0.0", "::", "255.255.255.255", "ff02::1", "eth0"] {
            assert!(source(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_has_two_labels_in_front_of_its_domain() {
        assert_eq!(service_domain("_ws._tcp.chat.internal"), Some("chat.internal"));
        assert_eq!(service_domain("_ws._tcp.chat"), Some("chat"));
        for text in ["chat.internal", "_ws.chat.internal", "_ws._tcp", "_ws._tcp._x.y", "_._tcp.a", "ws._tcp.a"] {
            assert_eq!(service_domain(text), None, "{text}");
        }
    }

    #[test]
    fn a_single_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.1").map(|net| net.to_string()), Ok("10.0.0.1/32".into()));
        assert_eq!(network("2001:db8::/32").map(|net| net.to_string()), Ok("2001:db8::/32".into()));
        assert!(network("10.0.0.1/8").is_err() && network("10.0.0.0/33").is_err() && network("a.test").is_err());
    }
}
