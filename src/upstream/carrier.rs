//! By which HTTP a request or a handshake gets to its server, and on what: a stream of a connection that is shared, a
//! pooled connection, or a fresh one.
//!
//! With TLS the server chooses (ALPN), and what it has chosen last says what to expect of it; clear servers that
//! `protocols` knows to speak HTTP/2 are spoken to like that at once. A handshake goes over HTTP/2 where it may and the
//! server opens tunnels there (RFC 8441), else on an HTTP/1.1 connection of its own.

use std::sync::Arc;

use super::connection::Connection;
use super::definition::Definition;
use super::dial::{self, UpstreamStream};
use super::failure::Failure;
use super::group::{Asker, Group, Member, Picked};
use super::http2::{Channel, Obtained, Opened, Opening, Slot};
use super::server::Server;
use crate::clock;
use crate::proto::proxy_protocol::Sender;
use crate::tls::Offer;

/// A server that keeps changing its mind about what it speaks is asked so often.
const ROUNDS: usize = 3;

/// What a request is sent on.
pub(super) enum Carrier {
    Http1(Connection),
    Http2(Slot),
}

/// What a handshake is sent on.
pub(super) enum HandshakeCarrier {
    /// A connection of its own.
    Http1(UpstreamStream),
    Http2(Slot),
}

impl Carrier {
    /// Whether the connection has been of use before.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(slot) => slot.reused,
        }
    }
}

impl HandshakeCarrier {
    /// The same.
    pub(super) fn is_reused(&self) -> bool {
        matches!(self, Self::Http2(slot) if slot.reused)
    }
}

impl Group {
    /// For a request. `pooled`: on a connection that is open already, where there is one.
    pub(super) async fn carrier(&self, picked: &mut Picked, asker: Asker, pooled: bool) -> Result<Carrier, Failure> {
        let member = picked.member.clone();
        self.leave_old_addresses(&member);
        if let Some(slot) = member.channels.take() {
            return Ok(Carrier::Http2(slot));
        }
        if pooled && let Some(connection) = self.checkout(&member) {
            return Ok(Carrier::Http1(connection));
        }
        if !self.definition.protocols.http2 {
            let opened = self.open(&member.server, asker).await;
            return picked.share.dialled(opened).map(Carrier::Http1);
        }
        match picked.share.dialled(self.negotiate(&member).await)? {
            HandshakeCarrier::Http1(stream) => self.begin(stream).await.map(Carrier::Http1),
            HandshakeCarrier::Http2(slot) => Ok(Carrier::Http2(slot)),
        }
    }

    /// For a handshake.
    pub(super) async fn handshake_carrier(
        &self,
        picked: &mut Picked,
        asker: Asker,
    ) -> Result<HandshakeCarrier, Failure> {
        let member = picked.member.clone();
        self.leave_old_addresses(&member);
        let Definition { protocols, websocket_over_h2, .. } = *self.definition;
        let is_known_to_refuse = member.channels.speaks_http1() || member.channels.refuses_tunnels();
        let may_go_over_http2 = protocols.http2 && websocket_over_h2;
        if may_go_over_http2 && !(protocols.http1 && is_known_to_refuse) {
            match picked.share.dialled(self.negotiate(&member).await)? {
                HandshakeCarrier::Http2(slot) if !slot.opens_tunnels() => {}
                carrier => return Ok(carrier),
            }
        }
        if protocols.http1 {
            let dialled = self.dial(&member.server, asker, Offer::Http1).await;
            return picked.share.dialled(dialled).map(HandshakeCarrier::Http1);
        }
        Err(no_way(websocket_over_h2))
    }

    /// A server that has moved gets no more streams where it was.
    fn leave_old_addresses(&self, member: &Member) {
        if self.definition.protocols.http2 {
            member.channels.retire_unless(|destination| member.server.is_at(destination));
        }
    }

    /// A stream, or where the server has chosen HTTP/1.1 a fresh connection.
    async fn negotiate(&self, member: &Member) -> Result<HandshakeCarrier, Failure> {
        let channels = &member.channels;
        let (definition, server) = (&self.definition, &member.server);
        let opening = || -> Opening {
            let (definition, server) = (definition.clone(), server.clone());
            Box::pin(async move { open(&definition, &server).await })
        };
        for _ in 0..ROUNDS {
            if let Some(slot) = channels.take() {
                return Ok(HandshakeCarrier::Http2(slot));
            }
            // Nobody else could use such a connection, so that there is nothing to wait for together.
            if definition.protocols.http1 && channels.speaks_http1() {
                match open(definition, server).await? {
                    Opened::Http2(channel) => channels.adopt(channel),
                    Opened::Http1(stream) => {
                        channels.note_http1();
                        return Ok(HandshakeCarrier::Http1(stream));
                    }
                }
            }
            match channels.obtain(definition.connect_timeout, opening).await? {
                Obtained::Stream(slot) => return Ok(HandshakeCarrier::Http2(slot)),
                Obtained::Http1(stream) => return Ok(HandshakeCarrier::Http1(stream)),
                Obtained::Http1Elsewhere => {}
            }
        }
        Err(Failure::Protocol("the server does not keep to one version of HTTP".to_owned()))
    }
}

impl Definition {
    /// Whether HTTP/2 is spoken on a connection that was offered what `protocols` say.
    ///
    /// # Errors
    /// The server has chosen what they do not allow.
    pub(super) fn is_http2(&self, server: &Server, stream: &UpstreamStream) -> Result<bool, Failure> {
        if !self.protocols.http2 {
            return Ok(false);
        }
        let is_http2 = server.tls.is_none() || stream.has_chosen_http2();
        if !is_http2 && !self.protocols.http1 {
            let text = "the server has not chosen HTTP/2 (ALPN), and `protocols` allows nothing else";
            return Err(Failure::Protocol(text.to_owned()));
        }
        Ok(is_http2)
    }
}

/// A handshake can go neither over HTTP/2 nor over HTTP/1.1.
pub(super) fn no_way(websocket_over_h2: bool) -> Failure {
    let text = if websocket_over_h2 {
        "the server opens no WebSockets over HTTP/2 (its settings are without ENABLE_CONNECT_PROTOCOL), and `protocols` \
         does not allow HTTP/1.1"
    } else {
        "`websocket_over_h2` is off, and `protocols` does not allow HTTP/1.1"
    };
    Failure::Protocol(text.to_owned())
}

/// A connection of the kind that the server chooses. It may be shared, and so is nobody's: `check` refuses a PROXY header
/// on it.
async fn open(definition: &Arc<Definition>, server: &Arc<Server>) -> Result<Opened, Failure> {
    let deadline = clock::now() + definition.connect_timeout;
    let opening = async {
        let stream = dial::dial(definition, server, Sender::Local, Offer::Protocols, deadline).await?;
        if definition.is_http2(server, &stream)? {
            let destination = stream.destination();
            let opening = Channel::open(stream, destination);
            let late = "connected, but the server's HTTP/2 settings took too long";
            let opened = tokio::time::timeout_at(deadline, opening).await;
            return opened.unwrap_or(Err(Failure::ConnectTimeout(late.to_owned()))).map(Opened::Http2);
        }
        Ok(Opened::Http1(stream))
    };
    opening.await
}
