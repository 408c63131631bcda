//! Hosts and origins as the configuration writes them.
//!
//! Pure. Owns the grammar of host patterns (`hosts`) and of entries of `origins`; what a request carries is parsed in
//! `proto/` and compared there. Both sides end in the same form: lower case, A-labels, no trailing dot, IPv6 in
//! brackets and compressed (RFC 5952), default ports filled in (RFC 6454, section 4).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::fault::Fault;
use crate::config::model::{HostPattern, OriginRule};

/// A host, as a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// As it stands in a URL: IPv6 in brackets.
    pub fn text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::V4(address) => address.to_string(),
            Self::V6(address) => format!("[{address}]"),
        }
    }
}

/// A host without port. Names are lower-cased; one trailing dot is dropped.
pub fn host(text: &str) -> Result<Host, Fault> {
    let bad = |message: String| Fault::new("bad-host", message);
    if text.is_empty() {
        return Err(bad("a host is missing".into()));
    }
    if let Some(inner) = text.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse().ok())
            .map(Host::V6)
            .ok_or_else(|| bad(format!("`{text}` is not an IPv6 address in brackets")));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(
            bad(format!("the IPv6 address `{text}` must stand in brackets")).help(format!("write \"[{text}]\""))
        );
    }
    if !text.is_ascii() {
        return Err(bad(format!("`{text}` is not in ASCII form"))
            .help("write international names as A-labels (`xn--…`), as browsers send them"));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.len() > 253 {
        return Err(bad("a host name has at most 253 characters".into()));
    }
    for label in name.split('.') {
        label_check(label).map_err(|why| bad(format!("`{text}` is not a host: {why}")))?;
    }
    // Browsers take a name whose last label is a number for an IPv4 address, and so do we, strictly.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return name
            .parse()
            .map(Host::V4)
            .map_err(|_| bad(format!("`{text}` is neither a host name nor an IPv4 address")));
    }
    Ok(Host::Name(name))
}

fn label_check(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        return Err("a label between dots is empty");
    }
    if label.len() > 63 {
        return Err("a label has at most 63 characters");
    }
    // An underscore is no letter of host names, but servers in closed networks do have it.
    if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err("labels consist of letters, digits and `-`");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label neither begins nor ends with `-`");
    }
    Ok(())
}

/// An entry of `hosts`: a host, or `*.` and a name.
pub fn host_pattern(text: &str) -> Result<HostPattern, Fault> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split(['/', ':']).next().unwrap_or_default();
        return Err(Fault::new("bad-host", format!("`hosts` has names without `{scheme}://`"))
            .help(format!("write \"{rest}\"")));
    }
    if text == "*" {
        return Err(Fault::new("bad-host", "`*` alone is no host pattern").help("leave `hosts` out to match any host"));
    }
    if let Some((name, path)) = text.split_once('/') {
        return Err(Fault::new("bad-host", "a host pattern has no path")
            .help(format!("write \"{name}\" here and put \"/{path}\" into `path`")));
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !name.is_empty()
        && !name.contains(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(Fault::new("bad-host", "a host pattern has no port: the listener decides that")
            .help(format!("write \"{name}\"")));
    }
    match wildcard(text)? {
        Some(suffix) => Ok(HostPattern::Wildcard(suffix)),
        None => host(text).map(|host| HostPattern::Exact(host.text())),
    }
}

/// The name after `*.`, or `None` where there is no `*` at all.
fn wildcard(text: &str) -> Result<Option<String>, Fault> {
    if !text.contains('*') {
        return Ok(None);
    }
    let Some(suffix) = text.strip_prefix("*.").filter(|suffix| !suffix.contains('*')) else {
        return Err(Fault::new("bad-host", format!("`{text}`: `*` may only be the whole first label"))
            .help("write \"*.example.com\" for all names below example.com"));
    };
    match host(suffix)? {
        Host::Name(name) => Ok(Some(name)),
        _ => Err(Fault::new("bad-host", format!("`{text}`: an address has no names below it"))),
    }
}

/// An entry of `origins`.
pub fn origin_rule(text: &str) -> Result<OriginRule, Fault> {
    match text {
        "*" => return Ok(OriginRule::Any),
        "same-origin" => return Ok(OriginRule::SameOrigin),
        "null" => return Ok(OriginRule::Null),
        "file://" => return Ok(OriginRule::File),
        _ => {}
    }
    let bad = |message: String| Fault::new("bad-origin", message);
    let forms = "write scheme and host, for example \"https://app.example.com\", or \"same-origin\", \"null\", \"file://\" or \"*\"";
    let Some((scheme, authority)) = text.split_once("://") else {
        let fault = bad(format!("`{text}` is not an origin"));
        return Err(match host_pattern(text) {
            Ok(_) => fault.help(format!("an origin has a scheme: write \"https://{text}\"")),
            Err(_) => fault.help(forms),
        });
    };
    let scheme = scheme.to_ascii_lowercase();
    if !is_scheme(&scheme) {
        return Err(bad(format!("`{scheme}` is not a URL scheme")).help(forms));
    }
    if let Some(end) = authority.find(['/', '?', '#']) {
        return Err(bad("an origin ends after host and port".into())
            .help(format!("write \"{scheme}://{}\"", &authority[..end])));
    }
    if authority.contains('@') {
        return Err(bad("an origin has no user name or password".into()).help(forms));
    }
    if authority == "*" {
        return Err(bad("`*` stands for the first labels of a host, not for any host".into())
            .help("write \"*\" alone to allow every origin"));
    }
    let (host_text, port) = split_port(authority).map_err(|fault| Fault { code: "bad-origin", ..fault })?;
    let port = port.or_else(|| default_port(&scheme));
    let named = |fault: Fault| Fault { code: "bad-origin", ..fault };
    match wildcard(host_text).map_err(named)? {
        Some(suffix) => Ok(OriginRule::Wildcard { scheme, suffix, port }),
        None => Ok(OriginRule::Exact { scheme, host: host(host_text).map_err(named)?.text(), port }),
    }
}

/// Splits `host:port`; the port is a number from 1 to 65535.
pub fn split_port(authority: &str) -> Result<(&str, Option<u16>), Fault> {
    let after_host = if authority.starts_with('[') { authority.find(']').map_or(0, |end| end + 1) } else { 0 };
    let Some(colon) = authority[after_host..].find(':').map(|at| after_host + at) else {
        return Ok((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok((host, Some(port))),
        _ if authority.parse::<Ipv6Addr>().is_ok() => {
            Err(Fault::new("bad-host", format!("the IPv6 address `{authority}` must stand in brackets"))
                .help(format!("write [{authority}]")))
        }
        _ => Err(Fault::new("bad-port", format!("`{port}` is not a port"))
            .help("write a number from 1 to 65535 after the colon, or leave both out")),
    }
}

fn is_scheme(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// RFC 9110, section 5.6.2: what a subprotocol's name consists of (RFC 6455, section 4.1).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::{host_pattern, origin_rule};
    use crate::config::model::{HostPattern, OriginRule};

    fn exact(scheme: &str, host: &str, port: Option<u16>) -> OriginRule {
        OriginRule::Exact { scheme: scheme.into(), host: host.into(), port }
    }

    #[test]
    fn host_patterns_end_in_one_form() {
        for (text, want) in [
            ("Chat.Example.COM", "chat.example.com"),
            ("example.com.", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("[0:0:0::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host_pattern(text), Ok(HostPattern::Exact(want.into())), "{text}");
        }
        assert_eq!(host_pattern("*.Example.com"), Ok(HostPattern::Wildcard("example.com".into())));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "*",
            "a.*.com",
            "*a.com",
            "*.*.com",
            "a..b",
            "-a.com",
            "a b",
            "bücher.example",
            "a:80",
            "https://a",
            "a/b",
            "::1",
            "[::1",
            "1.2.3",
            "1.2.3.256",
            "*.1.2.3.4",
            ".",
            "a\u{1b}",
        ] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins_are_compared_with_their_default_port() {
        assert_eq!(origin_rule("https://App.example"), Ok(exact("https", "app.example", Some(443))));
        assert_eq!(origin_rule("https://app.example:443"), Ok(exact("https", "app.example", Some(443))));
        assert_eq!(origin_rule("http://[0::1]:8080"), Ok(exact("http", "[::1]", Some(8080))));
        assert_eq!(origin_rule("capacitor://localhost"), Ok(exact("capacitor", "localhost", None)));
        let wildcard = OriginRule::Wildcard { scheme: "https".into(), suffix: "example.com".into(), port: Some(443) };
        assert_eq!(origin_rule("https://*.example.com"), Ok(wildcard));
        assert_eq!(origin_rule("null"), Ok(OriginRule::Null));
        assert_eq!(origin_rule("file://"), Ok(OriginRule::File));
    }

    #[test]
    fn what_no_browser_sends_as_an_origin_is_refused() {
        for text in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/x",
            "https://u@app.example",
            "https://*",
            "https://a.*.com",
            "https://app.example:0",
            "https://app.example:",
            "https://app.example:99999",
            "https://bücher.example",
            "https://::1",
            "file:///",
            "ht tp://a",
            "https://a, https://b",
            "https://a:+1",
        ] {
            assert!(origin_rule(text).is_err(), "{text}");
        }
    }
}
