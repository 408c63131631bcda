//! One question to the name servers, and what is taken from the answer.
//!
//! Owns the client side of DNS (hickory's resolver, which has no cache here) and runs on the control plane alone. Name
//! servers are asked in their order, the next one when one fails or says nothing in time; that a name does not exist is
//! an answer. A name is searched for in the system's domains, but never past one that could not be asked: another host
//! of the same name elsewhere is not the one that was meant. Every question has a deadline, every answer a bound.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::system::{Files, System, View};

/// Addresses or services of one name that are used; of more, the first ones in their own order are, so that the choice
/// is always the same.
pub const MOST: usize = 256;

/// A question in all, name servers, search domains and aliases together.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the other family may keep addresses that are there already.
const FAMILY_PATIENCE: Duration = Duration::from_millis(500);

/// After an answer of one family alone it takes no longer than this until the other is asked for again.
const PARTIAL_TTL: Duration = Duration::from_secs(30);

/// The hosts file costs nothing to look at.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// What a name stands for, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// In the order of the answer, each once; never empty.
    pub records: Vec<T>,
    pub ttl: Duration,
    /// How many there were, if they were too many.
    pub cut_from: Option<usize>,
    /// A part of the question failed: what was known of it before still holds.
    pub partial: Option<Family>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One server of a service (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Lower case, without a dot at its end; it is never searched for.
    pub target: String,
}

impl fmt::Display for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.target, self.port)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The name servers say that there is no such thing.
    Denied(String),
    /// They could not be asked, or could not say.
    Failed(String),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(cause) | Self::Failed(cause) => out.write_str(cause),
        }
    }
}

/// Who asks. Clones share what has been read of the system.
#[derive(Clone)]
pub struct Resolver {
    system: Rc<RefCell<System>>,
}

impl Resolver {
    /// `name_servers` are asked instead of the system's. Tasks of the current runtime carry the questions.
    pub fn new(files: Files, name_servers: Option<Vec<SocketAddr>>) -> Self {
        Self { system: Rc::new(RefCell::new(System::new(files, name_servers))) }
    }

    /// The addresses of a host; one that ends in a dot is not searched for.
    pub async fn addresses(&self, host: &str) -> Result<Answer<IpAddr>, Unresolved> {
        let name = parse(host)?;
        let view = self.system.borrow_mut().view();
        let in_hosts = view.in_hosts(&name);
        if !in_hosts.is_empty() {
            return Ok(Answer::new(in_hosts, HOSTS_TTL));
        }
        let asking = async {
            for candidate in view.candidates(&name) {
                match both_families(&view, &candidate).await {
                    Err(Unresolved::Denied(_)) => {}
                    other => return other,
                }
            }
            Err(Unresolved::Denied(format!("{host} has no address")))
        };
        tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// The servers of a service; its name is not searched for.
    pub async fn services(&self, service: &str) -> Result<Answer<Service>, Unresolved> {
        let mut name = parse(service)?;
        name.set_fqdn(true);
        let view = self.system.borrow_mut().view();
        let asking = ask(&view, &name, RecordType::SRV);
        let found = tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| Err(no_answer()))?;
        // A root as the target says that there is no such service here (RFC 2782).
        let services: Vec<_> =
            found.answers().iter().filter_map(service_of).filter(|service| !service.target.is_empty()).collect();
        if services.is_empty() {
            return Err(Unresolved::Denied(format!("{service} has no server")));
        }
        Ok(Answer::new(services, ttl_of(found.answers())))
    }
}

impl<T: Clone + Ord> Answer<T> {
    fn new(records: Vec<T>, ttl: Duration) -> Self {
        let mut once = Vec::with_capacity(records.len().min(MOST));
        let mut seen = std::collections::BTreeSet::new();
        once.extend(records.into_iter().filter(|record| seen.insert(record.clone())));
        let cut_from = (once.len() > MOST).then_some(once.len());
        if cut_from.is_some() {
            once.sort();
            once.truncate(MOST);
        }
        Self { records: once, ttl, cut_from, partial: None }
    }
}

/// A and AAAA at once. Whoever is first waits for the other only a little.
async fn both_families(view: &View, name: &Name) -> Result<Answer<IpAddr>, Unresolved> {
    let v4 = family(view, name, RecordType::A);
    let v6 = family(view, name, RecordType::AAAA);
    tokio::pin!(v4, v6);
    let late = || Err(no_answer());
    let (v4, v6) = tokio::select! {
        first = &mut v4 => {
            let second = if has_addresses(&first) {
                tokio::time::timeout(FAMILY_PATIENCE, v6).await.unwrap_or_else(|_| late())
            } else {
                v6.await
            };
            (first, second)
        }
        first = &mut v6 => {
            let second = if has_addresses(&first) {
                tokio::time::timeout(FAMILY_PATIENCE, v4).await.unwrap_or_else(|_| late())
            } else {
                v4.await
            };
            (second, first)
        }
    };
    merge(v4, v6)
}

type Found = Result<(Vec<IpAddr>, Duration), Unresolved>;

fn has_addresses(found: &Found) -> bool {
    found.as_ref().is_ok_and(|(addresses, _)| !addresses.is_empty())
}

/// One name's addresses of both families. A name that has addresses of one is not denied by the other.
fn merge(v4: Found, v6: Found) -> Result<Answer<IpAddr>, Unresolved> {
    let partial = match (&v4, &v6) {
        (Err(Unresolved::Failed(_)), Ok(_)) => Some(Family::V4),
        (Ok(_), Err(Unresolved::Failed(_))) => Some(Family::V6),
        _ => None,
    };
    let (addresses, ttl) = match (v6, v4) {
        (Ok((mut v6, v6_ttl)), Ok((v4, v4_ttl))) => {
            v6.extend(v4);
            (v6, v6_ttl.min(v4_ttl))
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => found,
        // Whether it exists is not known while one of them could not be asked.
        (Err(failed @ Unresolved::Failed(_)), Err(_)) | (Err(_), Err(failed)) => return Err(failed),
    };
    let ttl = if partial.is_some() { ttl.min(PARTIAL_TTL) } else { ttl };
    Ok(Answer { partial, ..Answer::new(addresses, ttl) })
}

async fn family(view: &View, name: &Name, kind: RecordType) -> Found {
    let found = ask(view, name, kind).await?;
    let addresses: Vec<_> = found
        .answers()
        .iter()
        .filter(|record| record.record_type() == kind)
        .filter_map(|record| record.data.ip_addr())
        .collect();
    if addresses.is_empty() {
        return Err(Unresolved::Denied(format!("{name} has no {kind} record")));
    }
    Ok((addresses, ttl_of(found.answers())))
}

/// One question to one name server after another, until one answers.
async fn ask(view: &View, name: &Name, kind: RecordType) -> Result<Lookup, Unresolved> {
    let mut failed = Unresolved::Failed("there is no name server to ask".into());
    for server in view.servers.iter() {
        match server.lookup(name.clone(), kind).await {
            Ok(found) => return Ok(found),
            Err(error) => match explain(name, kind, &error) {
                denied @ Unresolved::Denied(_) => return Err(denied),
                other => failed = other,
            },
        }
    }
    Err(failed)
}

fn explain(name: &Name, kind: RecordType, error: &NetError) -> Unresolved {
    match error {
        error if error.is_nx_domain() => Unresolved::Denied(format!("{name} does not exist")),
        NetError::Dns(DnsError::NoRecordsFound(_)) => Unresolved::Denied(format!("{name} has no {kind} record")),
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Unresolved::Failed(format!("the name server answers: {}", code.to_str()))
        }
        NetError::Timeout => no_answer(),
        error => Unresolved::Failed(format!("cannot ask the name server: {error}")),
    }
}

fn no_answer() -> Unresolved {
    Unresolved::Failed("no answer from the name server in time".into())
}

fn parse(name: &str) -> Result<Name, Unresolved> {
    // The configuration holds names to a stricter grammar; targets of services come from here.
    Name::from_ascii(name).map_err(|error| Unresolved::Denied(format!("{name} is not a name: {error}")))
}

fn service_of(record: &Record) -> Option<Service> {
    let RData::SRV(service) = &record.data else { return None };
    let target = service.target.to_ascii().to_ascii_lowercase();
    let target = target.trim_end_matches('.');
    // What no configuration could name is nothing to connect to, and has no place in a log.
    let sound = (service.port != 0 || target.is_empty())
        && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    sound.then(|| Service {
        priority: service.priority,
        weight: service.weight,
        port: service.port,
        target: target.to_owned(),
    })
}

/// The shortest, aliases on the way included.
fn ttl_of(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| record.ttl).min().unwrap_or_default().into())
}
