//! An upstream and its servers as configured: immutable, shared by all workers.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::config::model::{self, HostHeader, ServerAddress};
use crate::config::report::Report;
use crate::proto::host::{Authority, parse_authority};
use crate::tls::{ClientTls, SystemRoots};
use crate::types::Name;

/// An upstream as configured: immutable, shared by all workers.
pub struct Definition {
    pub name: Name,
    pub servers: Vec<ServerDefinition>,
    /// Plain requests are refused; the servers speak only WebSocket.
    pub websocket_only: bool,
    pub host: HostHeader,
    pub via: bool,
    pub retries: u32,
    pub connect_timeout: Duration,
    /// Present when any server is reached over TLS.
    pub(super) tls: Option<ClientTls>,
}

/// One server as configured.
pub struct ServerDefinition {
    pub address: ServerAddress,
    /// TLS with this name, or none.
    pub tls_name: Option<Arc<str>>,
    /// As written, for logs.
    pub url: Name,
    /// What `host = "upstream"` sends.
    pub host: HeaderValue,
    /// The same, parsed, with its port in any case; `None` for a unix socket.
    pub authority: Option<Authority>,
}

impl Definition {
    /// `None` after an error was reported.
    pub fn build(upstream: &model::Upstream, roots: &mut SystemRoots, report: &mut Report) -> Option<Self> {
        let tls = if upstream.servers.iter().any(|server| server.tls_name.is_some()) {
            Some(ClientTls::build_with(upstream, roots, report)?)
        } else {
            None
        };
        Some(Self {
            name: upstream.name.clone(),
            servers: upstream.servers.iter().map(ServerDefinition::build).collect(),
            websocket_only: upstream.websocket_only,
            host: upstream.host,
            via: upstream.via,
            retries: upstream.retries,
            connect_timeout: upstream.connect_timeout,
            tls,
        })
    }
}

impl ServerDefinition {
    fn build(server: &model::UpstreamServer) -> Self {
        let default_port = if server.tls_name.is_some() { 443 } else { 80 };
        let host = match &server.address {
            ServerAddress::Ip(address) if address.port() == default_port => match address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            },
            ServerAddress::Ip(address) => address.to_string(),
            ServerAddress::Name(name, port) if *port == default_port => name.to_string(),
            ServerAddress::Name(name, port) => format!("{name}:{port}"),
            ServerAddress::Unix(_) => "localhost".to_owned(),
        };
        Self {
            address: server.address.clone(),
            tls_name: server.tls_name.as_ref().map(|name| name.value.clone()),
            url: server.url.clone(),
            authority: match server.address {
                ServerAddress::Unix(_) => None,
                _ => parse_authority(&host).ok().map(|mut authority| {
                    authority.port.get_or_insert(default_port);
                    authority
                }),
            },
            host: HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("localhost")),
        }
    }
}
