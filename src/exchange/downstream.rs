//! A downstream connection as its requests see it: who is there, how, and what the connection has to be told.
//! `connection.rs` reads what is noted here.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::HeaderMap;

use crate::clock::Instant;
use crate::config::model::ListenerTimeouts;
use crate::fault::Rule;
use crate::http::Activity;
use crate::proto::forwarded;
use crate::proto::proxy_protocol::Addresses;
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::telemetry::access::AccessRecord;
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::RequestEnd;
use crate::tls::TlsInfo;
use crate::types::{Ends, HttpVersion, Local, Peer, Scheme};

use super::live_listener::LiveListener;
use super::promise::{Promise, Standing};
use super::rule;
use super::stalls::Stalls;
use super::tools::Tools;
use super::tunnel::Tunnel;

/// A downstream connection as its requests see it.
pub struct Downstream {
    pub tools: Rc<Tools>,
    pub listener: Rc<LiveListener>,
    pub peer: Peer,
    /// Where the client reached us; `None` on a unix socket.
    pub local: Option<Local>,
    pub tls: Option<TlsInfo>,
    pub version: HttpVersion,
    pub activity: Rc<Activity>,
    /// Unique in this process, for logs.
    pub number: u64,
    promise: Cell<Promise>,
    /// A request has come on it.
    has_asked: Cell<bool>,
    stalls: OnceCell<Rc<Stalls>>,
    ends_by_close: Cell<bool>,
    is_opening: Cell<bool>,
    tunnel: RefCell<Option<Box<Tunnel>>>,
    cut: Cell<Option<EndReason>>,
    tunnels: Cell<usize>,
}

/// A tunnel on a stream of a connection, for as long as it is held.
pub struct OpenTunnel(Rc<Downstream>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
    }
}

impl Downstream {
    pub fn new(
        tools: Rc<Tools>,
        (listener, promise): (Rc<LiveListener>, Promise),
        Ends { peer, local }: Ends,
        tls: Option<TlsInfo>,
        version: HttpVersion,
        activity: Rc<Activity>,
    ) -> Self {
        let number = tools.numbers.take();
        Self {
            tools,
            listener,
            peer,
            local,
            tls,
            version,
            activity,
            number,
            promise: Cell::new(promise),
            has_asked: Cell::default(),
            stalls: OnceCell::new(),
            ends_by_close: Cell::default(),
            is_opening: Cell::default(),
            tunnel: RefCell::default(),
            cut: Cell::default(),
            tunnels: Cell::default(),
        }
    }

    /// On HTTP/2: answers that wait for a window.
    pub fn stalls(&self) -> &Rc<Stalls> {
        self.stalls.get_or_init(Rc::default)
    }

    /// Until when the client may say nothing while no request is open.
    pub fn keep_alive_deadline(&self) -> Instant {
        self.activity.idle_since() + self.timeouts().keep_alive
    }

    pub fn timeouts(&self) -> ListenerTimeouts {
        self.listener.timeouts()
    }

    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// HTTP is set up on the connection once more, by this plan.
    pub fn renew_promise(&self, plan: &ListenerPlan) {
        self.promise.set(self.promise.get().renewed(plan));
    }

    /// How the connection stands with its listener since the last reload.
    pub fn standing(&self) -> Standing {
        let promise = self.promise.get().reviewed(&self.listener, self.tls.as_ref(), self.version);
        self.promise.set(promise);
        promise.standing()
    }

    /// Whether a reload has left it behind. It takes no further requests then.
    pub fn is_outdated(&self) -> bool {
        self.standing() != Standing::Good
    }

    /// Whether a request has ever come.
    pub fn has_asked(&self) -> bool {
        self.has_asked.get()
    }

    pub(super) fn note_asked(&self) {
        self.has_asked.set(true);
    }

    pub(super) fn hold_tunnel(self: &Rc<Self>) -> OpenTunnel {
        self.tunnels.set(self.tunnels.get() + 1);
        OpenTunnel(self.clone())
    }

    /// Whether tunnels run on streams of this connection, which they need until they have said Close.
    pub fn has_tunnels(&self) -> bool {
        self.tunnels.get() > 0
    }

    /// Both ends, where they have addresses.
    pub fn addresses(&self) -> Option<Addresses> {
        match (&self.peer, self.local) {
            (Peer::Tcp(source), Some(Local { ip, port })) => {
                Some(Addresses { source: *source, destination: SocketAddr::new(ip, port) })
            }
            _ => None,
        }
    }

    /// Whether the peer's forwarded fields are believed.
    pub fn is_trusted(&self, snapshot: &Snapshot) -> bool {
        snapshot.trusted_proxies.has(self.peer.ip())
    }

    /// The client behind trusted proxies, or the peer; `None`: nobody but a peer on a unix socket is known.
    pub fn client_address(&self, snapshot: &Snapshot, headers: &HeaderMap) -> Option<IpAddr> {
        forwarded::client_address(headers, self.peer.ip(), |peer| snapshot.trusted_proxies.has(peer))
    }

    /// On HTTP/1.1: what is to become of the stream once the 101 has been written.
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.take()
    }

    pub(super) fn put_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// hyper has refused what came by itself: its one line in the access log.
    pub fn note_refused(&self, error: &hyper::Error) {
        let (status, end, rule) = match error {
            error if error.is_parse_too_large() => (431, EndReason::HeadTooLarge, Rule::Listener(&["limits"])),
            error if error.is_parse() => (400, EndReason::Malformed, Rule::Specification("RFC 9112 2.2")),
            // Gone in the middle of something; the open request, if any, says so.
            _ => return,
        };
        self.note_headless(Some(status), end, rule, &error.to_string());
    }

    /// A head did not arrive whole in time: its one line in the access log.
    pub fn note_late_head(&self) {
        let rule = Rule::Listener(&["timeouts", "request_head"]);
        self.note_headless(None, EndReason::ClientTimeout, rule, "the request's head did not arrive in time");
    }

    /// What never became a request.
    fn note_headless(&self, status: Option<u16>, end: EndReason, rule: Rule, detail: &str) {
        let serving = self.listener.serving();
        let rule = serving.and_then(|serving| rule::name(rule, serving.snapshot(), serving.listener().index, None));
        self.tools.generation().unrouted.requests.note(&RequestEnd {
            version: self.version,
            status,
            end: Some(end),
            is_handshake: false,
            duration: None,
            upstream: None,
            received: 0,
            sent: 0,
        });
        self.tools.note_refused(&AccessRecord {
            connection: self.number,
            listener: self.listener.name().as_str(),
            client: self.peer.ip(),
            peer: Some(&self.peer),
            protocol: Some(self.version),
            tls: self.tls.as_ref().map(|tls| tls.version),
            status,
            end: Some(end),
            rule: rule.as_deref(),
            detail: Some(detail),
            ..AccessRecord::default()
        });
    }

    /// On HTTP/1.1: a handshake waits for its server. Its 101 must not say that the connection closes.
    pub fn is_opening(&self) -> bool {
        self.is_opening.get()
    }

    pub(super) fn set_opening(&self, opening: bool) {
        self.is_opening.set(opening);
    }

    /// An answer has begun whose only mark of its end may be the connection's.
    pub(super) fn set_ends_by_close(&self) {
        self.ends_by_close.set(true);
    }

    /// Whether an orderly end of the connection would make a broken answer look whole.
    pub fn ends_by_close(&self) -> bool {
        self.ends_by_close.get()
    }

    /// The connection is being cut; its open requests end with this reason.
    pub fn cut(&self, reason: EndReason) {
        self.cut.set(Some(reason));
        if let Some(tunnel) = &mut *self.tunnel.borrow_mut() {
            tunnel.cut(reason);
        }
    }

    pub(super) fn cut_reason(&self) -> Option<EndReason> {
        self.cut.get()
    }
}
