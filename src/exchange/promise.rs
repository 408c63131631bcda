//! What a connection was made with, held against what its listener would make of it today.
//!
//! A connection outlives configurations. What it was offered, and what its client had to prove, was settled when it was
//! made; where a reload has changed that, the connection takes no further requests, and where the client would have to
//! prove something else now, none is served any more (421: it may come again, RFC 9110 15.5.20).

use std::net::IpAddr;

use crate::snapshot::ListenerPlan;
use crate::tls::TlsInfo;
use crate::types::HttpVersion;

use super::live_listener::LiveListener;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// The listener's, when the standing was last looked at.
    revision: u32,
    standing: Standing,
    /// Who really is at the other end of the socket.
    socket: Option<IpAddr>,
    /// It was asked to say by a PROXY header whose connection it is.
    is_introduced: bool,
    websocket_over_h2: bool,
    /// What hyper lets through of a head.
    head: (usize, usize),
}

/// How a connection stands after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its listener would make the same today.
    Good,
    /// It would be offered something else: what is under way is finished, and what is asked for until then is served.
    Outdated,
    /// It would have to prove something else.
    Void,
}

impl Promise {
    /// Of a connection with `socket` at its other end, as the listener makes it now.
    pub fn of(listener: &LiveListener, plan: &ListenerPlan, socket: Option<IpAddr>) -> Self {
        Self {
            revision: listener.revision(),
            standing: Standing::Good,
            socket,
            is_introduced: is_introduced(plan, socket),
            websocket_over_h2: plan.websocket_over_h2,
            head: head(plan),
        }
    }

    /// HTTP is set up on the connection once more, by this plan.
    pub(super) fn renewed(self, plan: &ListenerPlan) -> Self {
        Self { websocket_over_h2: plan.websocket_over_h2, head: head(plan), ..self }
    }

    /// The same with the standing that the connection has now. A standing that was lost does not come back.
    pub(super) fn reviewed(self, listener: &LiveListener, tls: Option<&TlsInfo>, version: HttpVersion) -> Self {
        let revision = listener.revision();
        if self.revision == revision {
            return self;
        }
        let standing = match listener.serving() {
            Some(serving) => self.standing.max(self.under(serving.listener(), tls, version)),
            None => Standing::Void,
        };
        Self { revision, standing, ..self }
    }

    pub(super) fn standing(self) -> Standing {
        self.standing
    }

    fn under(self, plan: &ListenerPlan, tls: Option<&TlsInfo>, version: HttpVersion) -> Standing {
        let is_let_in = match (tls, &plan.tls) {
            (None, None) => true,
            (Some(tls), Some(policies)) => policies.admit(tls, None),
            _ => false,
        };
        if !is_let_in || is_introduced(plan, self.socket) != self.is_introduced {
            return Standing::Void;
        }
        let is_spoken = match version {
            HttpVersion::Http1 => plan.protocols.http1,
            HttpVersion::Http2 => plan.protocols.http2 && (plan.websocket_over_h2 || !self.websocket_over_h2),
        };
        if is_spoken && self.head == head(plan) { Standing::Good } else { Standing::Outdated }
    }
}

fn is_introduced(plan: &ListenerPlan, socket: Option<IpAddr>) -> bool {
    plan.proxy_protocol.as_ref().is_some_and(|from| from.has(socket))
}

fn head(plan: &ListenerPlan) -> (usize, usize) {
    (plan.limits.head_size, plan.limits.fields)
}
