//! `Location` in an upstream's answer: its own address put back into the name that the client knows.
//!
//! A server behind the gateway may redirect to itself by the address it listens on, and one that only knows `ws://`
//! cannot say `wss://`. Nothing else is touched: redirects to other hosts, relative ones, and `http` to the public
//! name (which may be meant) pass as they are. RFC 9110 10.2.2.

use http::HeaderValue;

use super::host::{Authority, parse_authority};
use crate::types::Scheme;

/// How the client reached us.
#[derive(Clone, Copy, Debug)]
pub struct Public<'a> {
    pub scheme: Scheme,
    /// As the client wrote it, port included.
    pub authority: &'a str,
    /// What was cut from the front of the path on its way to the server.
    pub strip_prefix: Option<&'a str>,
}

/// The rewritten field, or `None` where it stays as it is. `servers` are the upstream's own names,
/// ports included.
pub fn rewrite<'a>(
    location: &HeaderValue,
    servers: impl IntoIterator<Item = &'a Authority>,
    public: Public<'_>,
) -> Option<HeaderValue> {
    let text = location.to_str().ok()?;
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_socket = match scheme.as_str() {
        "ws" | "wss" => true,
        "http" | "https" => false,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let target = with_port(parse_authority(authority).ok()?, &scheme);
    let is_server = servers.into_iter().any(|server| *server == target);
    let scheme = match (is_socket, public.scheme) {
        (true, Scheme::Https) => "wss",
        (true, Scheme::Http) => "ws",
        (false, scheme) => scheme.as_str(),
    };
    if is_server {
        let prefix = public.strip_prefix.filter(|prefix| *prefix != "/").unwrap_or("");
        let path = if path.starts_with('/') || prefix.is_empty() { path.to_owned() } else { format!("/{path}") };
        return HeaderValue::try_from(format!("{scheme}://{}{prefix}{path}", public.authority)).ok();
    }
    // The public name, but a scheme that the page of a TLS site may not open.
    let is_public = parse_authority(public.authority).is_ok_and(|public| public.host == target.host);
    if is_socket && is_public && scheme == "wss" && text.starts_with("ws:") {
        return HeaderValue::try_from(format!("wss://{authority}{path}")).ok();
    }
    None
}

fn with_port(mut authority: Authority, scheme: &str) -> Authority {
    let default = if matches!(scheme, "https" | "wss") { 443 } else { 80 };
    authority.port.get_or_insert(default);
    authority
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(location: &str, scheme: Scheme, strip_prefix: Option<&str>) -> Option<String> {
        let servers = ["10.0.0.5:9000", "backend.internal:80"].map(|server| parse_authority(server).unwrap());
        let public = Public { scheme, authority: "chat.example:8443", strip_prefix };
        let value = HeaderValue::from_str(location).unwrap();
        rewrite(&value, &servers, public).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_servers_own_address_becomes_the_name_that_the_client_knows() {
        for (location, expected) in [
            ("ws://10.0.0.5:9000/ws;e/x?y=%20", "wss://chat.example:8443/ws;e/x?y=%20"),
            ("WS://10.0.0.5:9000", "wss://chat.example:8443"),
            ("http://backend.internal/login", "https://chat.example:8443/login"),
            ("http://backend.internal:80/", "https://chat.example:8443/"),
        ] {
            assert_eq!(rewritten(location, Scheme::Https, None).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(rewritten("ws://10.0.0.5:9000/a", Scheme::Http, None).as_deref(), Some("ws://chat.example:8443/a"));
    }

    #[test]
    fn what_was_cut_from_the_path_is_put_back() {
        let expected = Some("wss://chat.example:8443/api/ws".to_owned());
        assert_eq!(rewritten("ws://10.0.0.5:9000/ws", Scheme::Https, Some("/api")), expected);
        let expected = Some("https://chat.example:8443/api/?q".to_owned());
        assert_eq!(rewritten("http://10.0.0.5:9000?q", Scheme::Https, Some("/api")), expected);
    }

    #[test]
    fn a_clear_socket_under_the_public_name_becomes_a_secure_one() {
        let expected = Some("wss://chat.example:8443/ws".to_owned());
        assert_eq!(rewritten("ws://chat.example:8443/ws", Scheme::Https, None), expected);
        assert_eq!(rewritten("ws://chat.example:8443/ws", Scheme::Http, None), None);
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        for location in [
            "/relative",
            "//10.0.0.5:9000/scheme-relative",
            "https://elsewhere.example/",
            "http://10.0.0.5:9001/another-port",
            "http://chat.example:8443/may-be-meant",
            "https://backend.internal/another-default-port",
            "ftp://10.0.0.5:9000/",
            "http://user@10.0.0.5:9000/",
            "http://[::1/",
            "",
        ] {
            assert_eq!(rewritten(location, Scheme::Https, None), None, "{location}");
        }
    }
}
