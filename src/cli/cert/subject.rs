//! Which names may stand in a leaf: host names, `*.` in front of one, and IP addresses.
//!
//! RFC 1123 2.1 for labels, RFC 6125 6.4.3 for wildcards. Anything that a client could read in two ways is refused.

use std::fmt;
use std::net::IpAddr;

use rcgen::SanType;

use super::Error;

/// The names of one leaf; never empty, no name twice.
pub struct Subject(pub(super) Vec<SubjectName>);

#[derive(Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// Lower case, perhaps `*.` in front.
    Dns(String),
    Ip(IpAddr),
}

impl Subject {
    pub fn parse(names: &[String]) -> Result<Self, Error> {
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

    pub fn to_strings(&self) -> Vec<String> {
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

    pub fn san(&self) -> Result<SanType, Error> {
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
