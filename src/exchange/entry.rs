//! The entry of one request in the access log: filled in as the request goes its way, written when its last holder
//! lets go of it. Whoever ends the request says why; where nobody did, the client has left. A request that becomes a
//! tunnel leaves a [`TunnelRecord`], which writes the line of the tunnel's end.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, ORIGIN, USER_AGENT};
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::counts::RouteCounts;
use super::downstream::Downstream;
use super::live_listener::Serving;
use super::plan::Found;
use super::record::{self, Asker, TunnelRecord, Way};
use super::rule;
use super::tools::{self, Generation};
use crate::clock::{self, Instant};
use crate::config::model::{Target, TraceMode};
use crate::fault::Fault;
use crate::http::{Inbound, OpenRequest};
use crate::lifecycle::Phase;
use crate::proto::trace::Trace;
use crate::telemetry::access::{AccessEvent, AccessRecord};
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::RequestEnd;
use crate::types::Name;
use crate::upstream::Trail;

/// One request.
pub struct Entry {
    downstream: Rc<Downstream>,
    /// `None` once a tunnel has taken it over.
    open: Cell<Option<OpenRequest>>,
    is_tunnel: Cell<bool>,
    /// The gateway has answered with a fault.
    is_refused: Cell<bool>,
    started: Instant,
    trace: Trace,
    status: Cell<Option<StatusCode>>,
    end: Cell<Option<EndReason>>,
    sent: Cell<u64>,
    received: RefCell<Rc<Cell<u64>>>,
    upstream_time: Cell<Option<Duration>>,
    client_stall: Cell<Duration>,
    /// The way to a server.
    trail: Trail,
    /// Where it is counted.
    counts: RefCell<Rc<RouteCounts>>,
    is_handshake: Cell<bool>,
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

/// What was found out on the way.
#[derive(Default)]
struct Learned {
    request_id: Option<HeaderValue>,
    authority: Option<String>,
    /// Its place in the configuration that serves the request.
    route_index: Option<usize>,
    route: Option<Name>,
    upstream: Option<Name>,
    server: Option<Name>,
    rule: Option<Cow<'static, str>>,
    detail: Option<String>,
}

impl Entry {
    /// Opens the entry; the request counts as open on its connection until the entry is written.
    pub fn open(downstream: &Rc<Downstream>, generation: &Generation, inbound: &Inbound) -> Rc<Self> {
        let open = Cell::new(Some(downstream.activity.open_request()));
        let head = &inbound.head;
        let client = downstream.client_address(&generation.snapshot, &head.headers);
        let trace = match generation.snapshot.trace {
            TraceMode::Pass => Trace::pass(&head.headers),
            TraceMode::Start => {
                Trace::join(&head.headers, downstream.is_trusted(&generation.snapshot), tools::random_bytes())
            }
        };
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
            open,
            is_tunnel: Cell::default(),
            is_refused: Cell::default(),
            started: clock::now(),
            trace,
            status: Cell::default(),
            end: Cell::default(),
            sent: Cell::default(),
            received: RefCell::default(),
            upstream_time: Cell::default(),
            client_stall: Cell::new(Duration::from_secs(30)),
            trail: Trail::default(),
            counts: RefCell::new(generation.unrouted.clone()),
            is_handshake: Cell::default(),
            said: RefCell::new(said),
            learned: RefCell::default(),
        })
    }

    pub fn found(&self, found: &Found, generation: &Generation) {
        let snapshot = &*generation.snapshot;
        self.is_handshake.set(found.is_handshake);
        if let Some(route) = found.route {
            self.counts.replace(generation.counts_of(route).clone());
        }
        let mut learned = self.learned.borrow_mut();
        learned.route_index = found.route;
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

    /// Whose trace the request belongs to.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The client behind trusted proxies, or the peer.
    pub fn client(&self) -> Option<IpAddr> {
        self.said.borrow().client
    }

    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The output of a future that leaves its way in the trail; while that waits in a queue, it counts as leaving if the
    /// client ends its side.
    pub async fn follow<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            self.downstream.activity.set_queued(self.trail.is_waiting());
            polled
        })
        .await
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

    /// The gateway answers with a fault. `serving`: what served the request, if anything did.
    pub fn failed(&self, fault: &Fault, serving: Option<&Serving>) {
        self.is_refused.set(true);
        self.status.set(Some(fault.status()));
        let learned = &mut *self.learned.borrow_mut();
        learned.detail = Some(fault.to_string());
        learned.rule = serving.and_then(|serving| {
            rule::name(fault.rule(), serving.snapshot(), serving.listener().index, learned.route_index)
        });
        if fault.is_ours() {
            tracing::error!(connection = self.downstream.number, %fault, "a request failed by our own mistake");
        }
        self.end(fault.end());
    }

    /// The handshake has succeeded: one line now, one at the tunnel's end.
    pub fn tunnel_opened(&self, status: StatusCode, subprotocol: Option<Name>) -> (TunnelRecord, Option<OpenRequest>) {
        self.answered(status);
        self.close(AccessEvent::TunnelOpen, None);
        self.is_tunnel.set(true);
        let (said, learned) = (self.said.borrow(), self.learned.borrow());
        let downstream = &*self.downstream;
        let way = Way {
            listener: downstream.listener.name().clone(),
            version: downstream.version,
            tls: downstream.tls.as_ref().map(|tls| tls.version),
            route: learned.route.clone(),
            upstream: learned.upstream.clone(),
            server: learned.server.clone(),
            subprotocol,
        };
        let place = downstream.tools.place(way, &self.counts.borrow());
        let asker = Asker {
            connection: downstream.number,
            peer: downstream.peer.clone(),
            client: said.client,
            started: self.started,
            upstream_time: self.upstream_time.get().unwrap_or_default(),
        };
        let record = TunnelRecord::new(
            place,
            asker,
            &record::Said {
                request_id: learned.request_id.as_ref().map(HeaderValue::as_bytes),
                host: host(&learned, &said),
                path: said.uri.path().as_bytes(),
                query: said.uri.query().map(str::as_bytes),
                origin: said.origin.as_ref().map(HeaderValue::as_bytes),
                user_agent: said.user_agent.as_ref().map(HeaderValue::as_bytes),
                trace: self.trace.context(),
            },
        );
        (record, self.open.take())
    }

    /// Counts it, and writes its line.
    fn close(&self, event: AccessEvent, end: Option<EndReason>) {
        let duration = self.started.elapsed();
        self.counts.borrow().requests.note(&RequestEnd {
            version: self.downstream.version,
            status: self.status.get().map(|status| status.as_u16()),
            end,
            is_handshake: self.is_handshake.get(),
            duration: Some(duration),
            upstream: self.upstream_time.get().filter(|_| self.learned.borrow().server.is_some()),
            received: self.received.borrow().get(),
            sent: self.sent.get(),
        });
        self.write(event, end, duration);
    }

    fn write(&self, event: AccessEvent, end: Option<EndReason>, duration: Duration) {
        let downstream = &*self.downstream;
        let is_refused = self.is_refused.get();
        if !downstream.tools.access.is_on() && !is_refused {
            return;
        }
        let (said, learned) = (self.said.borrow(), self.learned.borrow());
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let request_id = text(&learned.request_id).unwrap_or_default();
        let is_open = event == AccessEvent::TunnelOpen;
        let listener = downstream.listener.name();
        let record = AccessRecord {
            event,
            time: None,
            request: &request_id,
            trace: self.trace.context(),
            connection: downstream.number,
            listener: listener.as_str(),
            client: said.client,
            peer: Some(&downstream.peer),
            host: host(&learned, &said),
            method: said.method.as_str(),
            path: said.uri.path().as_bytes(),
            query: said.uri.query().map(str::as_bytes),
            protocol: Some(downstream.version),
            tls: downstream.tls.as_ref().map(|tls| tls.version),
            route: learned.route.as_ref().map(Name::as_str),
            upstream: learned.upstream.as_ref().map(Name::as_str),
            server: learned.server.as_ref().map(Name::as_str),
            status: self.status.get().map(|status| status.as_u16()),
            bytes_in: (!is_open).then(|| self.received.borrow().get()),
            bytes_out: (!is_open).then_some(self.sent.get()),
            duration: Some(duration),
            upstream_time: self.upstream_time.get().filter(|_| learned.server.is_some()),
            retries: Some(self.trail.retries()).filter(|retries| *retries > 0),
            queued: Some(self.trail.queued()).filter(|queued| !queued.is_zero()),
            end,
            origin: said.origin.as_ref().map(HeaderValue::as_bytes),
            user_agent: said.user_agent.as_ref().map(HeaderValue::as_bytes),
            rule: learned.rule.as_deref(),
            detail: learned.detail.as_deref(),
            ..AccessRecord::default()
        };
        if is_refused {
            downstream.tools.note_refused(&record);
        } else {
            downstream.tools.access.record(&record);
        }
    }
}

/// The host that was understood, else as it was said.
fn host<'a>(learned: &'a Learned, said: &'a Said) -> Option<&'a [u8]> {
    match &learned.authority {
        Some(authority) => Some(authority.as_bytes()),
        None => said.host.as_ref().map(HeaderValue::as_bytes),
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.is_tunnel.get() {
            return;
        }
        let silent_end = || match self.downstream.cut_reason() {
            Some(reason) => reason,
            None if self.downstream.tools.phase.phase() == Phase::Ended => EndReason::Drained,
            None => EndReason::ClientClosed,
        };
        let end = self.end.get().unwrap_or_else(silent_end);
        self.close(AccessEvent::Request, Some(end));
    }
}
