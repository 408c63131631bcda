//! A request's head on its way upstream: what is removed, what is set, for plain requests and handshakes alike.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, LOCATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Uri, Version, request};

use super::downstream::Downstream;
use super::entry::Entry;
use super::tools::Generation;
use crate::fault::Fault;
use crate::proto::fields;
use crate::proto::forwarded::{self, ForwardedInput};
use crate::proto::host::Authority;
use crate::proto::location::{self, Public};
use crate::types::HttpVersion;
use crate::upstream::Asker;

/// What belongs to the request besides its head.
pub struct Errand<'a> {
    pub downstream: &'a Downstream,
    pub generation: &'a Generation,
    pub entry: &'a Entry,
    pub authority: Option<&'a Authority>,
    pub upstream: usize,
    /// Path and query for the server.
    pub onward: &'a str,
    /// What was cut from the front of the path.
    pub strip_prefix: Option<&'a str>,
}

impl Errand<'_> {
    /// Makes the head fit for the next hop. Framing fields are gone afterwards.
    pub fn prepare(&self, head: &mut request::Parts) -> Result<(), Fault> {
        let received = head.version;
        let host = client_host(head);
        head.uri = self.onward.parse::<Uri>().map_err(|_| Fault::Internal("the target cannot be sent on"))?;
        head.version = Version::HTTP_11;

        let headers = &mut head.headers;
        fields::scrub_hop_by_hop(headers)?;
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(EXPECT);
        if self.downstream.version == HttpVersion::Http2 {
            fields::join_cookies(headers);
        }
        self.forward(headers);
        self.entry.trace().settle(headers);
        let id = self.downstream.tools.request_ids.settle(headers);
        self.entry.set_request_id(&id);
        let definition = &self.generation.group(self.upstream).definition;
        if definition.via {
            self.generation.snapshot.via.append(headers, received);
        }
        match host {
            Some(host) => headers.insert(HOST, host),
            None => headers.remove(HOST),
        };
        Ok(())
    }

    /// Who asks, by a head that has been prepared.
    pub fn asker(&self, head: &request::Parts) -> Asker {
        let is_secure = head.headers.get(&forwarded::X_FORWARDED_PROTO).is_some_and(|scheme| scheme == "https");
        Asker { client: self.entry.client(), is_secure, addresses: self.downstream.addresses() }
    }

    /// A server that redirects to its own address means the name that the client knows.
    pub fn make_public(&self, answer: &mut HeaderMap) {
        let (Some(location), Some(authority)) = (answer.get(LOCATION), self.authority) else { return };
        let public = Public {
            scheme: self.downstream.scheme(),
            authority: &authority.to_string(),
            strip_prefix: self.strip_prefix,
        };
        let (_, servers) = self.generation.group(self.upstream).definition.roster.read();
        let names = servers.iter().filter_map(|server| server.authority.as_ref());
        if let Some(location) = location::rewrite(location, names, public) {
            answer.insert(LOCATION, location);
        }
    }

    fn forward(&self, headers: &mut HeaderMap) {
        let snapshot = &self.generation.snapshot;
        forwarded::set_forwarded(
            headers,
            &ForwardedInput {
                peer: self.downstream.peer.ip(),
                trusted: self.downstream.is_trusted(snapshot),
                client: self.downstream.client_address(snapshot, headers),
                scheme: self.downstream.scheme(),
                authority: self.authority,
                port: self.downstream.local.map(|local| local.port),
                emit_forwarded: snapshot.forwarded,
            },
        );
    }
}

/// The Host that the client sent: an absolute target's or `:authority`, else the field.
fn client_host(head: &request::Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(HOST).cloned(),
    }
}
