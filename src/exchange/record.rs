//! What is kept of a tunnel for as long as it lives: what its closing line in the access log tells, and the list of live
//! tunnels does. Its opening and its end are counted here, too.
//!
//! There is one per tunnel, so it is small. What many have in common (where they came in, where they go) is one shared
//! [`Place`]; words of the client's lie in one block, cut to what a line shows and without the values of the query, and
//! are not kept at all where there is no access log. A client is kept beside its peer only where it is another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::counts::RouteCounts;
use super::live::LiveTunnels;
use crate::clock::Instant;
use crate::lifecycle::Phase;
use crate::telemetry::access::{AccessEvent, AccessLog, AccessRecord};
use crate::telemetry::end::EndReason;
use crate::tunnel::{TunnelEnd, TunnelTools};
use crate::types::{HttpVersion, Name, Peer, TraceContext};

/// Bytes of one word of a client's that are kept; the log shows no more of any.
const LONGEST: usize = 2048 + 1;

/// Where a tunnel came in and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    pub listener: Name,
    pub version: HttpVersion,
    pub tls: Option<&'static str>,
    pub route: Option<Name>,
    pub upstream: Option<Name>,
    pub server: Option<Name>,
    /// That the server chose.
    pub subprotocol: Option<Name>,
}

/// A [`Way`] with what is needed at its end, shared by all tunnels that go it.
pub struct Place {
    way: Arc<Way>,
    access: Rc<AccessLog>,
    live: Rc<LiveTunnels>,
    tunnels: TunnelTools,
    /// Keeps the route's book, so that a route that comes back goes on counting there.
    _counts: Rc<RouteCounts>,
}

impl Place {
    /// `tunnels`: those of `counts`.
    pub fn new(
        way: Arc<Way>,
        access: &Rc<AccessLog>,
        live: &Rc<LiveTunnels>,
        counts: Rc<RouteCounts>,
        tunnels: TunnelTools,
    ) -> Self {
        Self { way, access: access.clone(), live: live.clone(), tunnels, _counts: counts }
    }
}

/// The places of one worker's tunnels.
#[derive(Default)]
pub struct Places {
    places: RefCell<HashMap<Arc<Way>, Rc<Place>>>,
}

impl Places {
    pub fn find(&self, way: Way, make: impl FnOnce(Arc<Way>) -> Place) -> Rc<Place> {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get(&way) {
            return place.clone();
        }
        if places.len() == places.capacity() {
            // Those of configurations that are gone.
            places.retain(|_, place| Rc::strong_count(place) > 1);
        }
        let way = Arc::new(way);
        let place = Rc::new(make(way.clone()));
        places.insert(way, place.clone());
        place
    }
}

/// A word of the client's or about it.
#[derive(Clone, Copy)]
enum Word {
    Request,
    Host,
    Path,
    Query,
    Origin,
    UserAgent,
    /// Its address, where it is not the peer's: 4 or 16 bytes.
    Client,
    /// The trace that it belongs to.
    Trace,
}

const WORDS: usize = 8;

/// Words in one block. Bytes: a word's presence and length (two bytes each), then all words.
#[derive(Default)]
struct Words(Box<[u8]>);

impl Words {
    fn new(words: [Option<&[u8]>; WORDS]) -> Self {
        let words = words.map(|word| word.map(|word| &word[..word.len().min(LONGEST)]));
        let mut block = Vec::with_capacity(2 * WORDS + words.iter().flatten().map(|word| word.len()).sum::<usize>());
        for word in &words {
            // One more than its length, so that 0 is none.
            let mark = word.map_or(0, |word| word.len() as u16 + 1);
            block.extend_from_slice(&mark.to_ne_bytes());
        }
        words.iter().flatten().for_each(|word| block.extend_from_slice(word));
        Self(block.into_boxed_slice())
    }

    fn get(&self, word: Word) -> Option<&[u8]> {
        let mark = |index: usize| match self.0.get(2 * index..2 * index + 2) {
            Some(&[low, high]) => usize::from(u16::from_ne_bytes([low, high])),
            _ => 0,
        };
        let index = word as usize;
        let length = mark(index).checked_sub(1)?;
        let start = 2 * WORDS + (0..index).map(|before| mark(before).saturating_sub(1)).sum::<usize>();
        self.0.get(start..start + length)
    }
}

/// What the client said, as it stood in its request.
pub struct Said<'a> {
    pub request_id: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    pub origin: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub trace: Option<&'a TraceContext>,
}

/// One tunnel. Writes its line when it is dropped.
pub struct TunnelRecord {
    place: Rc<Place>,
    words: Words,
    /// Its own, and the connection's.
    number: u64,
    connection: u64,
    started: Instant,
    /// Until the server's answer, in microseconds.
    upstream_time: u32,
    /// `None`: on a unix socket.
    peer: Option<(IpAddr, u16)>,
    /// Why it ends, where it does not say so itself.
    cut: Option<EndReason>,
    is_told: bool,
}

/// Who asked, and when.
pub struct Asker {
    pub connection: u64,
    pub peer: Peer,
    pub client: Option<IpAddr>,
    pub started: Instant,
    pub upstream_time: Duration,
}

impl TunnelRecord {
    pub fn new(place: Rc<Place>, asker: Asker, said: &Said<'_>) -> Self {
        let Asker { connection, peer, client, started, upstream_time } = asker;
        let other = client.filter(|client| peer.ip() != Some(*client)).map(address_bytes);
        let client = other.as_deref();
        let words = if place.access.is_on() {
            let query = said.query.map(names_of);
            let &Said { request_id, host, path, origin, user_agent, .. } = said;
            let trace = said.trace.map(trace_bytes);
            let trace = trace.as_deref();
            Words::new([request_id, host, Some(path), query.as_deref(), origin, user_agent, client, trace])
        } else if client.is_some() {
            Words::new([None, None, None, None, None, None, client, None])
        } else {
            Words::default()
        };
        let upstream_time = u32::try_from(upstream_time.as_micros()).unwrap_or(u32::MAX);
        let peer = match peer {
            Peer::Tcp(address) => Some((address.ip().to_canonical(), address.port())),
            Peer::Unix => None,
        };
        let number = place.live.number();
        place.tunnels.cells().opened.add(1);
        Self { place, words, number, connection, started, upstream_time, peer, cut: None, is_told: false }
    }

    /// Where its worker asks it.
    pub fn live(&self) -> &LiveTunnels {
        &self.place.live
    }

    /// What it shares with the others of its route.
    pub fn tools(&self) -> &TunnelTools {
        &self.place.tunnels
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Of the connection that it came in on.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    pub fn way(&self) -> &Arc<Way> {
        &self.place.way
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn peer(&self) -> Peer {
        self.peer.map_or(Peer::Unix, |(ip, port)| Peer::Tcp(SocketAddr::new(ip, port)))
    }

    /// The client behind trusted proxies, or the peer.
    pub fn client(&self) -> Option<IpAddr> {
        self.words.get(Word::Client).and_then(address_of).or(self.peer.map(|(ip, _)| ip))
    }

    /// Its connection is being cut before the tunnel runs.
    pub fn cut(&mut self, reason: EndReason) {
        self.cut = Some(reason);
    }

    /// The tunnel has ended.
    pub fn end(&mut self, end: TunnelEnd) {
        self.tell(end.reason, Some(end));
    }

    fn tell(&mut self, reason: EndReason, end: Option<TunnelEnd>) {
        self.is_told = true;
        let Place { way, access, tunnels, .. } = &*self.place;
        let duration = self.started.elapsed();
        let frames = end.and_then(|end| end.frames);
        let close = frames.and_then(|frames| Some((frames.closed_by?, frames.close_code)));
        tunnels.cells().note_end(reason, duration, close);
        if !access.is_on() {
            return;
        }
        let word = |word| self.words.get(word);
        let detail = frames.and_then(|frames| frames.violation).map(|violation| violation.to_string());
        let is_h1 = way.version == HttpVersion::Http1;
        access.record(&AccessRecord {
            event: AccessEvent::TunnelClose,
            time: None,
            request: word(Word::Request).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default(),
            trace: word(Word::Trace).and_then(trace_of).as_ref(),
            connection: self.connection,
            listener: way.listener.as_str(),
            client: self.client(),
            peer: Some(&self.peer()),
            host: word(Word::Host),
            method: if is_h1 { "GET" } else { "CONNECT" },
            path: word(Word::Path).unwrap_or_default(),
            query: word(Word::Query),
            protocol: Some(way.version),
            tls: way.tls,
            route: way.route.as_ref().map(Name::as_str),
            upstream: way.upstream.as_ref().map(Name::as_str),
            server: way.server.as_ref().map(Name::as_str),
            status: Some(if is_h1 { 101 } else { 200 }),
            bytes_in: Some(end.map_or(0, |end| end.bytes_up)),
            bytes_out: Some(end.map_or(0, |end| end.bytes_down)),
            messages_in: frames.map(|frames| frames.messages_up),
            messages_out: frames.map(|frames| frames.messages_down),
            closed_by: frames.and_then(|frames| frames.closed_by),
            close_code: frames.and_then(|frames| frames.close_code),
            round_trip: frames.and_then(|frames| frames.round_trip),
            duration: Some(duration),
            upstream_time: Some(Duration::from_micros(u64::from(self.upstream_time))),
            // The line of the tunnel's opening has them.
            retries: None,
            queued: None,
            end: Some(reason),
            rule: None,
            detail: detail.as_deref(),
            origin: word(Word::Origin),
            user_agent: word(Word::UserAgent),
        });
    }
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        if !self.is_told {
            let drained = (self.place.live.phase() == Phase::Ended).then_some(EndReason::Drained);
            self.tell(self.cut.or(drained).unwrap_or(EndReason::ClientClosed), None);
        }
    }
}

fn address_bytes(address: IpAddr) -> Box<[u8]> {
    match address {
        IpAddr::V4(address) => Box::new(address.octets()),
        IpAddr::V6(address) => Box::new(address.octets()),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let long = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| long()).ok()
}

/// The trace, the span, the flags, whose it is, and the span's parent where it has one.
fn trace_bytes(context: &TraceContext) -> SmallVec<[u8; 34]> {
    let TraceContext { trace, span, parent, flags, is_own } = context;
    let marks = [*flags, u8::from(*is_own)];
    trace.iter().chain(span).chain(&marks).chain(parent.iter().flatten()).copied().collect()
}

fn trace_of(bytes: &[u8]) -> Option<TraceContext> {
    let (trace, rest) = bytes.split_first_chunk()?;
    let (span, rest) = rest.split_first_chunk()?;
    let ([flags, is_own], parent) = rest.split_first_chunk()?;
    let parent = parent.try_into().ok();
    Some(TraceContext { trace: *trace, span: *span, parent, flags: *flags, is_own: *is_own == 1 })
}

/// A query without its values: they may be secrets, and the log masks them.
fn names_of(query: &[u8]) -> Vec<u8> {
    let mut names = Vec::with_capacity(query.len().min(LONGEST));
    for (index, part) in query.split(|byte| *byte == b'&').enumerate() {
        if index > 0 {
            names.push(b'&');
        }
        match memchr::memchr(b'=', part) {
            Some(end) => names.extend_from_slice(&part[..=end]),
            // A bare token is a value.
            None if !part.is_empty() => names.push(b'*'),
            None => {}
        }
        if names.len() > LONGEST {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_and_those_that_were_not_there_stay_away() {
        let words = Words::new([Some(b"id"), None, Some(b"/path"), Some(b""), None, Some(b"agent"), None, None]);
        assert_eq!(words.get(Word::Request), Some(&b"id"[..]));
        assert_eq!(words.get(Word::Host), None);
        assert_eq!(words.get(Word::Path), Some(&b"/path"[..]));
        assert_eq!(words.get(Word::Query), Some(&b""[..]));
        assert_eq!(words.get(Word::Origin), None);
        assert_eq!(words.get(Word::UserAgent), Some(&b"agent"[..]));
        assert_eq!(Words::default().get(Word::Path), None);
        let long =
            Words::new([None, None, Some(&[b'a'; 70_000]), None, None, Some(b"agent"), Some(b"\x7f\0\0\x01"), None]);
        assert_eq!(long.get(Word::Path).map(<[u8]>::len), Some(LONGEST));
        assert_eq!(long.get(Word::UserAgent), Some(&b"agent"[..]));
        assert_eq!(long.get(Word::Client).and_then(address_of), Some(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn an_address_comes_back_from_its_bytes_whatever_its_kind() {
        for text in ["192.0.2.7", "2001:db8::7", "::"] {
            let address = text.parse().expect("an address");
            assert_eq!(address_of(&address_bytes(address)), Some(address));
        }
        assert_eq!(address_of(b"12345"), None);
    }

    #[test]
    fn a_trace_comes_back_from_its_bytes_with_and_without_a_parent() {
        for (parent, is_own) in [(None, false), (None, true), (Some([3; 8]), true)] {
            let context = TraceContext { trace: [1; 16], span: [2; 8], parent, flags: 1, is_own };
            assert_eq!(trace_of(&trace_bytes(&context)), Some(context));
        }
        assert_eq!(trace_of(b"short"), None);
    }

    #[test]
    fn of_a_query_only_what_a_line_shows_is_kept() {
        for (query, kept) in
            [("token=secret&a=", "token=&a="), ("secret", "*"), ("", ""), ("&a=1&secret&&b=2", "&a=&*&&b=")]
        {
            assert_eq!(String::from_utf8_lossy(&names_of(query.as_bytes())), kept, "{query}");
        }
    }
}
