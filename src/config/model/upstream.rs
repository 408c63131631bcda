//! Upstreams as the file describes them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{CertificateFiles, Ejection, Health, Panic, Protocols};
use crate::config::report::{Located, Spot};
use crate::proto::proxy_protocol::Version;
use crate::types::Name;

#[derive(Clone, Debug)]
pub struct Upstream {
    /// The table's name, or the URL of an inline one.
    pub name: Name,
    /// Never empty; all of one kind.
    pub servers: Vec<UpstreamServer>,
    /// Default round robin.
    pub balance: Balance,
    /// How long a server that comes new or back takes to get its full weight. `None`: no time.
    pub slow_start: Option<Duration>,
    /// Tunnels that are closed in a second, of all its servers that drain. `None`, the default: they stay.
    pub drain_rate: Option<u32>,
    /// Whether a client stays with its server. Default not.
    pub sticky: Option<Sticky>,
    /// How servers are checked. `None`, the default: not at all.
    pub health: Option<Health>,
    /// When live traffic takes a server out. `None`: never.
    pub ejection: Option<Ejection>,
    /// What happens when every server is out. Default: all are asked.
    pub panic: Panic,
    /// What the scheme says: `ws`, `wss`, `ws+unix` servers speak WebSocket only.
    pub websocket_only: bool,
    pub host: HostHeader,
    /// Adds `Via` to requests. Default true.
    pub via: bool,
    /// Further attempts after a failed one. Default 1.
    pub retries: u32,
    /// What all retries together may cost.
    pub retry_budget: RetryBudget,
    /// Who may wait where all servers have `max_connections`.
    pub queue: Queue,
    /// Default 5 s, TLS handshake included.
    pub connect_timeout: Duration,
    /// Local addresses to connect from, in turn. Empty, the default: the kernel's choice.
    pub sources: Vec<Located<IpAddr>>,
    /// The PROXY header that each connection to a server begins with. Default none.
    pub proxy_protocol: Option<Version>,
    /// What may be spoken with the servers. With those behind TLS ALPN chooses; with clear ones `http2` means prior
    /// knowledge, and stands alone. Default HTTP/1.1.
    pub protocols: Protocols,
    /// Handshakes go over HTTP/2 where the server opens tunnels there. Default true.
    pub websocket_over_h2: Located<bool>,
    pub spot: Spot,
}

/// One server of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamServer {
    pub address: ServerAddress,
    /// What its name stands for. Default one server; no effect without a name.
    pub resolve: Resolve,
    /// TLS to the server, with the name that is verified and, unless it is an address, sent as SNI. IPv6 without
    /// brackets.
    pub tls_name: Option<Located<Arc<str>>>,
    /// Where TLS is: who vouches for the server. `None`: the system's roots.
    pub ca: Option<Located<PathBuf>>,
    /// For a server that asks for a client certificate.
    pub client_certificate: Option<CertificateFiles>,
    /// As written, for logs.
    pub url: Name,
    /// Its share of new work beside the others'. Default 1; 0: it drains, and gets none.
    pub weight: u32,
    /// Asked only when no other can be. Default false.
    pub backup: bool,
    /// Requests and tunnels at a time, over all workers. `None`: as many as come. Default that of the upstream, which is
    /// none.
    pub max_connections: Option<u32>,
    pub spot: Spot,
}

/// A cookie of the gateway's own that says which server a client is with.
#[derive(Clone, Debug)]
pub struct Sticky {
    pub cookie: Arc<str>,
    /// A file with the keys that sign it, one a line; the first one signs. `None`: a key of this process.
    pub secret: Option<Located<PathBuf>>,
    /// Default lax.
    pub same_site: SameSite,
    /// `None`: until the browser is closed.
    pub max_age: Option<Duration>,
    /// Default `/`.
    pub path: String,
    /// `None`: the host that answered, and no other.
    pub domain: Option<String>,
    pub spot: Spot,
}

/// RFC 6265bis 5.6.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// Who waits for a server to have room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many. 0: nobody. Default 100.
    pub size: u32,
    /// How long each. Default 5 s.
    pub timeout: Duration,
}

/// How many retries an upstream may cost, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of its requests in the last ten seconds. Default 20.
    pub percent: u32,
    /// So many are allowed in any case. Default 10.
    pub min_per_second: u32,
}

/// How an upstream spreads its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// The fewest requests and tunnels for its weight.
    LeastConnections,
    /// Of two at random the one with fewer.
    TwoChoices,
    Hash(Hash),
}

/// Requests that are equal in one thing go to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Default the client's address.
    pub by: HashBy,
    /// A server may have this many percent of its share of all live work. Default 125.
    pub load: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// Of the client, behind trusted proxies too.
    Address,
    Header(HeaderName),
    Cookie(Arc<str>),
    /// As it goes upstream, without the query.
    Path,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// Kept resolved; ends in a dot where it must not be searched for. The port says nothing for a service.
    Name(Arc<str>, u16),
    Unix(PathBuf),
}

/// What the name of a server stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// One server; its addresses are ways to it.
    One,
    /// As many servers as it has addresses.
    Each,
    /// The servers of a service (SRV records).
    Service,
}

/// Which Host goes upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The server's own.
    Upstream,
}
