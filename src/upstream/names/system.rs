//! What the system says about names: its name servers and search domains, and its hosts file.
//!
//! Both files are looked at before each question and read again once they have changed, as the system's own resolver
//! does; a broken or missing one is no reason to stop. Names in the hosts file are not searched for in domains, and what
//! stands there is not asked of anybody.

use std::fs::{self, Metadata};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// One name server may take so long to answer, however long the system says: the next one is asked then, and requests
/// wait for a first answer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Domains that a name is searched for in; further ones are ignored.
const SEARCH: usize = 8;

/// Name servers that are asked; further ones are ignored.
const NAME_SERVERS: usize = 8;

/// Where the two files are.
#[derive(Clone, Debug)]
pub struct Files {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// The two files as they were when they were last read, and what follows from them.
pub struct System {
    files: Files,
    /// Asked instead of the system's.
    name_servers: Option<Vec<SocketAddr>>,
    resolv_conf_read: Option<Stamp>,
    hosts_read: Option<Stamp>,
    view: Rc<View>,
}

/// Everything that one question needs.
#[derive(Clone)]
pub struct View {
    /// One for each name server, in the order in which they are asked. No cache: answers are kept where they are used.
    pub servers: Rc<[TokioResolver]>,
    search: Rc<[Name]>,
    /// A name with this many dots is asked as it stands before it is searched for.
    dots: usize,
    hosts: Rc<Hosts>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl System {
    pub fn new(files: Files, name_servers: Option<Vec<SocketAddr>>) -> Self {
        let empty = View { servers: Rc::new([]), search: Rc::new([]), dots: 1, hosts: Rc::default() };
        let mut system = Self { files, name_servers, resolv_conf_read: None, hosts_read: None, view: Rc::new(empty) };
        system.read_resolv_conf();
        system.read_hosts();
        system
    }

    /// What holds now.
    pub fn view(&mut self) -> Rc<View> {
        if stamp(&self.files.resolv_conf) != self.resolv_conf_read {
            self.read_resolv_conf();
        }
        if stamp(&self.files.hosts) != self.hosts_read {
            self.read_hosts();
        }
        self.view.clone()
    }

    fn read_resolv_conf(&mut self) {
        // Before reading: a change in between is seen the next time.
        self.resolv_conf_read = stamp(&self.files.resolv_conf);
        let text = fs::read(&self.files.resolv_conf).unwrap_or_default();
        let (config, options) = parse_resolv_conf(&text)
            // Without any name server the system's resolver asks this machine.
            .or_else(|_| parse_resolv_conf([&text[..], b"\nnameserver 127.0.0.1\n"].concat()))
            .unwrap_or_default();
        let (domain, mut search, system_servers) = config.into_parts();
        if search.is_empty() {
            search.extend(domain);
        }
        search.truncate(SEARCH);
        for name in &mut search {
            name.set_fqdn(true);
        }
        let servers: Vec<_> = match &self.name_servers {
            Some(addresses) => addresses.iter().copied().map(name_server).collect(),
            None => system_servers,
        };
        let timeout = options.timeout.min(LONGEST_TIMEOUT);
        self.view = Rc::new(View {
            servers: servers.into_iter().take(NAME_SERVERS).filter_map(|server| client(server, timeout)).collect(),
            search: search.into(),
            dots: options.ndots,
            hosts: self.view.hosts.clone(),
        });
    }

    fn read_hosts(&mut self) {
        self.hosts_read = stamp(&self.files.hosts);
        let mut hosts = Hosts::default();
        if let Ok(file) = fs::File::open(&self.files.hosts) {
            // What was read before an error stays.
            let _ = hosts.read_hosts_conf(file);
        }
        self.view = Rc::new(View { hosts: Rc::new(hosts), ..(*self.view).clone() });
    }
}

impl View {
    /// What the hosts file says; nothing where the name does not stand there.
    pub fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        let lookups = [RecordType::AAAA, RecordType::A]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        lookups
            .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect()
    }

    /// The names that `name` may stand for, in the order in which they are asked.
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut itself = name.clone();
        itself.set_fqdn(true);
        if name.is_fqdn() || name.is_localhost() {
            return vec![itself];
        }
        // A search domain that makes the name too long is left out.
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let (first, last) = if dots >= self.dots { (Some(itself), None) } else { (None, Some(itself)) };
        first.into_iter().chain(searched).chain(last).collect()
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn client(server: NameServerConfig, timeout: Duration) -> Option<TokioResolver> {
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    // A question over UDP is repeated within the timeout; beyond that the next server is asked.
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().ok()
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let read = |metadata: Metadata| Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    };
    fs::metadata(path).map(read).ok()
}
