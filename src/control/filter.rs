//! Which live tunnels are meant: a few terms, all of which have to hold.
//!
//! `route=chat client=10.0.0.0/8 age>1h`: terms stand between spaces; values with spaces stand in double quotes. Words are
//! compared with `=` and `!=`, `*` in them standing for anything; numbers, durations and sizes also with `<`, `<=`, `>`
//! and `>=`. What a tunnel does not have (no subprotocol, no round trip yet) is the empty word, and no number at all.
//!
//! Pure, and cheap for whoever is asked: a filter is parsed once, and matched on the tunnel's worker in the tunnel's turn.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config;
use crate::exchange::live::TunnelRow;
use crate::types::Name;

/// Bytes of a filter.
pub const LONGEST: usize = 4096;

/// Terms of a filter.
pub const MOST: usize = 32;

/// Some terms. The default has none, and means every tunnel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    /// As it was written; empty where it is the filter as a whole.
    pub term: String,
    pub message: String,
    pub help: String,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for BadFilter {}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Word { word: Word, pattern: Pattern, is_not: bool },
    Number { number: Number, comparison: Comparison, value: u64 },
    Client { clients: Clients, is_not: bool },
}

/// What is compared letter by letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Route,
    Upstream,
    Server,
    Listener,
    Subprotocol,
    Protocol,
    State,
}

/// What is compared by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Id,
    Connection,
    Worker,
    Age,
    Idle,
    Messages,
    Bytes,
    RoundTrip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Clients {
    Network(IpNet),
    /// Those without an address.
    Unix,
}

/// The longer ones first, so that none is taken for the beginning of another.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

const WORDS: [(&str, Word); 7] = [
    ("route", Word::Route),
    ("upstream", Word::Upstream),
    ("server", Word::Server),
    ("listener", Word::Listener),
    ("subprotocol", Word::Subprotocol),
    ("protocol", Word::Protocol),
    ("state", Word::State),
];

const NUMBERS: [(&str, Number); 8] = [
    ("id", Number::Id),
    ("connection", Number::Connection),
    ("worker", Number::Worker),
    ("age", Number::Age),
    ("idle", Number::Idle),
    ("messages", Number::Messages),
    ("bytes", Number::Bytes),
    ("rtt", Number::RoundTrip),
];

const CLIENT: &str = "client";

impl Filter {
    /// # Errors
    /// A term that is none, with what would be right.
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        if text.len() > LONGEST {
            return Err(whole(format!("a filter has at most {LONGEST} bytes"), "say it with fewer terms"));
        }
        let mut terms = Vec::new();
        for written in split(text)? {
            if terms.len() == MOST {
                return Err(whole(format!("a filter has at most {MOST} terms"), "say it with fewer of them"));
            }
            terms.push(Term::parse(&written)?);
        }
        Ok(Self { terms })
    }

    /// Every tunnel is meant.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether this tunnel is meant.
    pub fn matches(&self, row: &TunnelRow) -> bool {
        self.terms.iter().all(|term| term.matches(row))
    }
}

/// The terms as they are written, but without quotes.
fn split(text: &str) -> Result<Vec<String>, BadFilter> {
    let mut terms = Vec::new();
    let (mut term, mut has_begun, mut is_quoted) = (String::new(), false, false);
    for letter in text.chars() {
        match letter {
            '"' => (is_quoted, has_begun) = (!is_quoted, true),
            letter if letter.is_whitespace() && !is_quoted => {
                if std::mem::take(&mut has_begun) {
                    terms.push(std::mem::take(&mut term));
                }
            }
            letter => {
                has_begun = true;
                term.push(letter);
            }
        }
    }
    if is_quoted {
        return Err(BadFilter { term, message: "a quote is not closed".into(), help: "add a `\"` at its end".into() });
    }
    if has_begun {
        terms.push(term);
    }
    Ok(terms)
}

fn whole(message: String, help: &str) -> BadFilter {
    BadFilter { term: String::new(), message, help: help.into() }
}

impl Term {
    fn parse(term: &str) -> Result<Self, BadFilter> {
        let bad = |message: String, help: String| BadFilter { term: term.to_owned(), message, help };
        let Some(at) = term.find(['!', '<', '>', '=']) else {
            let help = format!("write a comparison, such as `route=chat` or `age>1h`; {}", known());
            return Err(bad(format!("`{term}` compares nothing"), help));
        };
        let (key, rest) = term.split_at(at);
        let Some((sign, comparison)) = COMPARISONS.iter().find(|(sign, _)| rest.starts_with(sign)) else {
            return Err(bad(format!("`{term}` compares nothing"), "write `!=` for what is not to be so".into()));
        };
        let value = &rest[sign.len()..];
        let is_not = match comparison {
            Comparison::Equal => Some(false),
            Comparison::NotEqual => Some(true),
            _ => None,
        };
        let needs_equality = || {
            let help = format!("write `{key}={value}` or `{key}!={value}`");
            bad(format!("`{key}` is neither more nor less than something"), help)
        };
        if key == CLIENT {
            let clients = clients(value).map_err(|help| bad(format!("`{value}` is nobody's address"), help))?;
            return Ok(Self::Client { clients, is_not: is_not.ok_or_else(needs_equality)? });
        }
        if let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == key) {
            let is_not = is_not.ok_or_else(needs_equality)?;
            if let Some(choices) = word.choices()
                && !choices.contains(&value)
                && !value.contains('*')
            {
                return Err(bad(format!("`{key}` is never `{value}`"), format!("it is one of {}", choices.join(", "))));
            }
            return Ok(Self::Word { word: *word, pattern: Pattern::new(value), is_not });
        }
        if let Some((_, number)) = NUMBERS.iter().find(|(name, _)| *name == key) {
            let value = number.read(value).map_err(|help| bad(format!("`{value}` is no value for `{key}`"), help))?;
            return Ok(Self::Number { number: *number, comparison: *comparison, value });
        }
        let names = keys();
        let help =
            config::nearest(key, names.iter().copied()).map_or_else(known, |near| format!("did you mean `{near}`?"));
        Err(bad(format!("tunnels have no `{key}`"), help))
    }

    fn matches(&self, row: &TunnelRow) -> bool {
        match self {
            Self::Word { word, pattern, is_not } => pattern.matches(word.of(row)) != *is_not,
            Self::Number { number, comparison, value } => {
                number.of(row).is_some_and(|actual| comparison.holds(actual, *value))
            }
            Self::Client { clients, is_not } => clients.have(row.client) != *is_not,
        }
    }
}

fn keys() -> Vec<&'static str> {
    let words = WORDS.iter().map(|(name, _)| *name);
    words.chain(NUMBERS.iter().map(|(name, _)| *name)).chain([CLIENT]).collect()
}

fn known() -> String {
    format!("a tunnel has {}", keys().join(", "))
}

impl Comparison {
    fn holds(self, actual: u64, value: u64) -> bool {
        match self {
            Self::Equal => actual == value,
            Self::NotEqual => actual != value,
            Self::Less => actual < value,
            Self::LessOrEqual => actual <= value,
            Self::Greater => actual > value,
            Self::GreaterOrEqual => actual >= value,
        }
    }
}

impl Word {
    /// All that it can be, where that is known.
    fn choices(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Protocol => Some(&["h1", "h2"]),
            Self::State => Some(&["open", "half-closed", "closing"]),
            _ => None,
        }
    }

    /// Of a tunnel; empty where it has none.
    pub(super) fn of(self, row: &TunnelRow) -> &str {
        let way = &row.way;
        let optional = match self {
            Self::Route => &way.route,
            Self::Upstream => &way.upstream,
            Self::Server => &way.server,
            Self::Subprotocol => &way.subprotocol,
            Self::Listener => return way.listener.as_str(),
            Self::Protocol => return way.version.as_str(),
            Self::State => return row.progress.state.as_str(),
        };
        optional.as_ref().map(Name::as_str).unwrap_or_default()
    }
}

impl Number {
    fn read(self, value: &str) -> Result<u64, String> {
        let plain = || value.parse().map_err(|_| "write a whole number".to_owned());
        match self {
            _ if value == "0" => Ok(0),
            Self::Id | Self::Connection | Self::Worker | Self::Messages => plain(),
            Self::Age | Self::Idle | Self::RoundTrip => config::duration(value).map(nanos),
            Self::Bytes if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => plain(),
            Self::Bytes => config::size(value),
        }
    }

    /// Of a tunnel: times in nanoseconds, sizes in bytes. `None`: it has none.
    pub(super) fn of(self, row: &TunnelRow) -> Option<u64> {
        let progress = &row.progress;
        Some(match self {
            Self::Id => row.tunnel.number,
            Self::Connection => row.connection,
            Self::Worker => row.tunnel.worker() as u64,
            Self::Age => nanos(row.age),
            Self::Idle => nanos(progress.idle),
            Self::Messages => progress.frames.map(|frames| frames.messages_up.saturating_add(frames.messages_down))?,
            Self::Bytes => progress.bytes_up.saturating_add(progress.bytes_down),
            Self::RoundTrip => nanos(progress.frames?.round_trip?),
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn clients(value: &str) -> Result<Clients, String> {
    if value == "unix" {
        return Ok(Clients::Unix);
    }
    let network = value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
    network
        .map(|network| Clients::Network(canonical(network)))
        .map_err(|_| "write an address, a network such as 10.0.0.0/8, or unix for those who have none".into())
}

/// IPv4 in the clothes of IPv6 is IPv4, as it is in rows.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let inner = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    inner.and_then(|(address, length)| IpNet::new(address.into(), length).ok()).unwrap_or(network)
}

impl Clients {
    fn have(&self, client: Option<IpAddr>) -> bool {
        match (self, client) {
            (Self::Unix, client) => client.is_none(),
            (Self::Network(network), Some(client)) => network.contains(&client.to_canonical()),
            (Self::Network(_), None) => false,
        }
    }
}

/// A word in which `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// What stands between the asterisks; never empty.
    parts: Vec<Box<str>>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self { parts: text.split('*').map(Box::from).collect() }
    }

    /// Takes the first place for each part, which is as good as any later one.
    fn matches(&self, text: &str) -> bool {
        let [first, rest @ ..] = &*self.parts else { return false };
        let Some((last, middle)) = rest.split_last() else { return text == &**first };
        let Some(mut text) = text.strip_prefix(&**first) else { return false };
        for part in middle {
            match text.find(&**part) {
                Some(at) => text = &text[at + part.len()..],
                None => return false,
            }
        }
        text.ends_with(&**last)
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
