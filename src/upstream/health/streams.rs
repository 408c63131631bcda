//! A check over HTTP/2: a stream of a connection that is opened for it and takes no other. As over HTTP/1.1 what is asked
//! is a request, or a handshake (RFC 8441) whose 200 is held to what a tunnel's is.
//! Dropping a future resets the stream, and the connection closes.

use std::rc::Rc;

use http::request;

use super::ask::CheckFailure;
use crate::proto::websocket::{Asked, check_200};
use crate::upstream::dial::UpstreamStream;
use crate::upstream::failure::Failure;
use crate::upstream::http2::{self, Broken, Channel, Connected, Download, Origin, Slot, StreamTransport};
use crate::upstream::request_body::RequestBody;
use crate::upstream::server::Server;

/// A connection of one check: it closes when its streams have ended.
pub(super) struct Single(Rc<Channel>);

impl Single {
    pub(super) async fn open(stream: UpstreamStream) -> Result<Self, CheckFailure> {
        Channel::open(stream, None).await.map(Self).map_err(CheckFailure::Upstream)
    }

    pub(super) fn opens_tunnels(&self) -> bool {
        self.0.opens_tunnels()
    }

    fn slot(&self) -> Result<Slot, CheckFailure> {
        let none = || Failure::Protocol("the server allows no HTTP/2 streams".to_owned());
        self.0.take().ok_or_else(|| CheckFailure::Upstream(none()))
    }

    pub(super) async fn get(
        &self,
        server: &Server,
        head: request::Parts,
    ) -> Result<http::Response<Download>, CheckFailure> {
        http2::send(self.slot()?, head, RequestBody::Empty, &origin(server)).await.map_err(broken)
    }

    pub(super) async fn shake(&self, server: &Server, head: request::Parts) -> Result<StreamTransport, CheckFailure> {
        match http2::connect(self.slot()?, head, &origin(server)).await.map_err(broken)? {
            Connected::Other(answer) => Err(CheckFailure::NotSwitched(answer.status().as_u16())),
            Connected::Open(answer, stream) => {
                let asked = Asked { accept: "", subprotocols: &[], extensions: &[] };
                check_200(&asked, answer.status, &answer.headers).map_err(CheckFailure::BadUpgrade)?;
                Ok(stream)
            }
        }
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.0.retire();
    }
}

fn origin(server: &Server) -> Origin<'_> {
    Origin { secure: server.tls.is_some(), host: &server.host }
}

fn broken(broken: Broken) -> CheckFailure {
    CheckFailure::Upstream(broken.failure)
}
