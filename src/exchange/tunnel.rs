//! A tunnel between its 101 and its end: waits for the client's side to be handed over, then runs in a task of its own
//! and writes its closing line. The bytes are the stage's business (`tunnel/`). Dropping it closes what it holds.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::live;
use super::record::TunnelRecord;
use super::tools::Tools;
use crate::http::OpenRequest;
use crate::lifecycle;
use crate::limits::TunnelPermit;
use crate::snapshot::Snapshot;
use crate::telemetry::end::EndReason;
use crate::transport::Transport;
use crate::tunnel::{self, CloseOrder, Early, Splice, TunnelOptions};
use crate::upstream::{TunnelShare, UpstreamStream};

/// A tunnel whose client side is about to be ready.
pub struct Tunnel {
    pub(super) tools: Rc<Tools>,
    pub(super) record: TunnelRecord,
    /// On HTTP/1.1: the request, until the connection is handed over.
    pub(super) open: Option<OpenRequest>,
    pub(super) upstream: UpstreamStream,
    /// What the server sent right behind its 101.
    pub(super) early: Bytes,
    pub(super) options: TunnelOptions,
    /// Where the route counts its tunnels.
    pub(super) permit: Option<TunnelPermit>,
    /// Where the server does.
    pub(super) share: TunnelShare,
    /// What it was opened under, where its route does not want to be outlived.
    pub(super) opened_under: Option<Arc<Snapshot>>,
}

impl Tunnel {
    /// Splices, in a small task of its own. `early` is what the client sent right behind its request; `held` is kept
    /// until the end.
    pub fn open<T: Transport + 'static, H: 'static>(mut self, downstream: T, early: Bytes, held: H) {
        match self.permit.take() {
            // Boxed with what is held anyway, so that tunnels which nobody counts have no room for it.
            Some(permit) => self.splice(downstream, early, Box::new((held, permit))),
            None => self.splice(downstream, early, held),
        }
    }

    fn splice<T: Transport + 'static, H: 'static>(self, downstream: T, early: Bytes, held: H) {
        let is_outlived = self.is_outlived();
        let Self { tools, record, open, upstream, early: from_upstream, options, share, .. } = self;
        drop(open);
        // hyper's buffer lives as long as a slice of it: keep a copy of the few early bytes, or nothing.
        let early = Early { downstream: Bytes::copy_from_slice(&early), upstream: from_upstream };
        let mut splice = tunnel::splice(downstream, upstream, early, options, record.tools(), tools.live.enter());
        if is_outlived {
            splice.obey(&Arc::new(CloseOrder::route_removed()));
        }
        lifecycle::spawn_local("tunnel", Running { splice, record, share, held });
    }

    /// A reload has taken its route out while it was being opened, and the tunnels of that one have been closed.
    fn is_outlived(&self) -> bool {
        let Some(opened_under) = &self.opened_under else { return false };
        let current = self.tools.generation();
        let has_route =
            || current.snapshot.routes.iter().any(|route| Some(&route.name) == self.record.way().route.as_ref());
        !Arc::ptr_eq(opened_under, &current.snapshot) && !has_route()
    }

    /// Its connection is being cut.
    pub(super) fn cut(&mut self, reason: EndReason) {
        self.record.cut(reason);
    }
}

/// A tunnel that runs. Written by hand: an `async` block would have room for the splice twice.
struct Running<T, H> {
    splice: Splice<T, UpstreamStream>,
    record: TunnelRecord,
    share: TunnelShare,
    #[expect(dead_code, reason = "held until the end")]
    held: H,
}

impl<T: Transport, H> Running<T, H> {
    /// Answers whoever asks this tunnel something: lists it, or begins to close it.
    fn answer(&mut self) {
        let (Some(place), Some(server)) = (self.splice.place(), self.share.state()) else { return };
        if let Some(ask) = self.record.live().asked(place) {
            let row = live::row(&self.record, place, self.splice.progress());
            ask.answer(row, server, |order| self.splice.obey(order));
        }
    }
}

impl<T: Transport, H> Unpin for Running<T, H> {}

impl<T: Transport, H> Future for Running<T, H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.answer();
        let end = ready!(Pin::new(&mut self.splice).poll(cx));
        self.record.end(end);
        Poll::Ready(())
    }
}
