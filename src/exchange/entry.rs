//! The entry of one request in the access log: filled in as the request goes its way, written when its last holder
//! lets go of it. Whoever ends the request says why; where nobody did, the client has left.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, ORIGIN, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::plan::Found;
use super::tools::{Downstream, Generation};
use crate::clock::{self, Instant};
use crate::config::model::Target;
use crate::fault::Fault;
use crate::http::Inbound;
use crate::lifecycle::Phase;
use crate::snapshot::Snapshot;
use crate::telemetry::access::{AccessEvent, AccessRecord};
use crate::telemetry::end::EndReason;
use crate::tunnel::TunnelEnd;
use crate::types::Name;

/// One request, or the tunnel it became.
pub struct Entry {
    downstream: Rc<Downstream>,
    started: Instant,
    event: Cell<AccessEvent>,
    status: Cell<Option<StatusCode>>,
    end: Cell<Option<EndReason>>,
    sent: Cell<u64>,
    received: RefCell<Rc<Cell<u64>>>,
    upstream_time: Cell<Option<Duration>>,
    client_stall: Cell<Duration>,
    tunnel: Cell<Option<TunnelEnd>>,
    said: RefCell<Said>,
    learned: RefCell<Learned>,
}

/// What the client said.
struct Said {
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    origin: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    client: Option<IpAddr>,
}

impl Said {
    /// Field values are slices of the 8 KiB that hyper read the head into; a tunnel must not keep those alive.
    fn detach(&mut self) {
        for value in [&mut self.host, &mut self.origin, &mut self.user_agent].into_iter().flatten() {
            *value = copy(value);
        }
        let target = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        self.uri = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes())).unwrap_or_default();
    }
}

fn copy(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes())).unwrap_or(HeaderValue::from_static("-"))
}

/// What was found out on the way.
#[derive(Default)]
struct Learned {
    request_id: Option<HeaderValue>,
    authority: Option<String>,
    route: Option<Name>,
    upstream: Option<Name>,
    server: Option<Name>,
    detail: Option<String>,
}

impl Entry {
    /// Opens the entry; the request counts as open on its connection until the entry is written.
    pub fn open(downstream: &Rc<Downstream>, generation: &Generation, inbound: &Inbound) -> Rc<Self> {
        downstream.activity.request_opened();
        let head = &inbound.head;
        let client = downstream.client_address(&generation.snapshot, &head.headers);
        let said = Said {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            host: head.headers.get(HOST).cloned(),
            origin: head.headers.get(ORIGIN).cloned(),
            user_agent: head.headers.get(USER_AGENT).cloned(),
            client,
        };
        Rc::new(Self {
            downstream: downstream.clone(),
            started: clock::now(),
            event: Cell::default(),
            status: Cell::default(),
            end: Cell::default(),
            sent: Cell::default(),
            received: RefCell::default(),
            upstream_time: Cell::default(),
            client_stall: Cell::new(Duration::from_secs(30)),
            tunnel: Cell::default(),
            said: RefCell::new(said),
            learned: RefCell::default(),
        })
    }

    pub fn found(&self, found: &Found, snapshot: &Snapshot) {
        let mut learned = self.learned.borrow_mut();
        learned.authority = found.authority.as_ref().map(ToString::to_string);
        if let Some(route) = found.route.map(|route| &snapshot.routes[route]) {
            learned.route = Some(route.name.clone());
            if let Target::Upstream(upstream) = route.target {
                learned.upstream = Some(snapshot.upstreams[upstream].name.clone());
            }
        }
    }

    pub fn set_request_id(&self, id: &HeaderValue) {
        self.learned.borrow_mut().request_id = Some(id.clone());
    }

    pub fn set_server(&self, server: &Name) {
        self.learned.borrow_mut().server = Some(server.clone());
    }

    /// Body bytes from the client are counted there.
    pub fn count_received_by(&self, counter: Rc<Cell<u64>>) {
        *self.received.borrow_mut() = counter;
    }

    pub fn count_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// The client behind trusted proxies, or the peer.
    pub fn client(&self) -> Option<IpAddr> {
        self.said.borrow().client
    }

    pub fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    /// The route's limit for a client that does not read.
    pub fn set_client_stall(&self, limit: Duration) {
        self.client_stall.set(limit);
        self.downstream.activity.set_client_stall(limit);
    }

    pub fn client_stall(&self) -> Duration {
        self.client_stall.get()
    }

    /// The head of an answer is on its way to the client.
    pub fn answered(&self, status: StatusCode) {
        if self.said.borrow().version == Version::HTTP_10 {
            self.downstream.set_ends_by_close();
        }
        self.status.set(Some(status));
        self.upstream_time.set(Some(self.started.elapsed()));
    }

    /// The request ends for this reason; the first one counts.
    pub fn end(&self, reason: EndReason) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
        }
    }

    /// The gateway answers with a fault.
    pub fn failed(&self, fault: &Fault) {
        self.status.set(Some(fault.status()));
        self.learned.borrow_mut().detail = Some(fault.to_string());
        if fault.is_ours() {
            tracing::error!(connection = self.downstream.number, %fault, "a request failed by our own mistake");
        }
        self.end(fault.end());
    }

    /// The handshake has succeeded: one line now, one at the end.
    pub fn tunnel_opened(&self, status: StatusCode) {
        self.answered(status);
        self.write(AccessEvent::TunnelOpen, None);
        self.event.set(AccessEvent::TunnelClose);
        self.said.borrow_mut().detach();
        let mut learned = self.learned.borrow_mut();
        learned.request_id = learned.request_id.as_ref().map(copy);
    }

    pub fn tunnel_ended(&self, end: TunnelEnd) {
        self.tunnel.set(Some(end));
        if let Some(violation) = end.frames.and_then(|frames| frames.violation) {
            self.learned.borrow_mut().detail = Some(violation.to_string());
        }
        self.end(end.reason);
    }

    fn write(&self, event: AccessEvent, end: Option<EndReason>) {
        let downstream = &*self.downstream;
        if !downstream.tools.access.is_on() {
            return;
        }
        let (said, learned) = (self.said.borrow(), self.learned.borrow());
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let request_id = text(&learned.request_id).unwrap_or_default();
        let tunnel = self.tunnel.get();
        let frames = tunnel.and_then(|tunnel| tunnel.frames);
        let is_open = event == AccessEvent::TunnelOpen;
        let sent = tunnel.map_or(self.sent.get(), |tunnel| tunnel.bytes_down);
        let received = tunnel.map_or(self.received.borrow().get(), |tunnel| tunnel.bytes_up);
        downstream.tools.access.record(&AccessRecord {
            event,
            time: None,
            request: &request_id,
            connection: downstream.number,
            listener: downstream.listener.name.as_str(),
            client: said.client,
            peer: Some(&downstream.peer),
            host: match (&learned.authority, &said.host) {
                (Some(authority), _) => Some(authority.as_bytes()),
                (None, host) => host.as_ref().map(HeaderValue::as_bytes),
            },
            method: said.method.as_str(),
            path: said.uri.path().as_bytes(),
            query: said.uri.query().map(str::as_bytes),
            protocol: Some(downstream.version),
            tls: downstream.tls.as_ref().map(|tls| tls.version),
            route: learned.route.as_ref().map(Name::as_str),
            upstream: learned.upstream.as_ref().map(Name::as_str),
            server: learned.server.as_ref().map(Name::as_str),
            status: self.status.get().map(|status| status.as_u16()),
            bytes_in: (!is_open).then_some(received),
            bytes_out: (!is_open).then_some(sent),
            messages_in: frames.map(|frames| frames.messages_up),
            messages_out: frames.map(|frames| frames.messages_down),
            closed_by: frames.and_then(|frames| frames.closed_by),
            close_code: frames.and_then(|frames| frames.close_code),
            round_trip: frames.and_then(|frames| frames.round_trip),
            duration: Some(self.started.elapsed()),
            upstream_time: self.upstream_time.get().filter(|_| learned.server.is_some()),
            end,
            origin: said.origin.as_ref().map(HeaderValue::as_bytes),
            user_agent: said.user_agent.as_ref().map(HeaderValue::as_bytes),
            detail: learned.detail.as_deref(),
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let silent_end = || match self.downstream.cut_reason() {
            Some(reason) => reason,
            None if self.downstream.tools.phase.phase() == Phase::Ended => EndReason::Drained,
            None => EndReason::ClientClosed,
        };
        let end = self.end.get().unwrap_or_else(silent_end);
        self.write(self.event.get(), Some(end));
        self.downstream.activity.request_closed();
    }
}
