//! The request that is asked about, from a URL and options: a head as a browser or a program would send it.

use std::fmt;
use std::net::IpAddr;

use http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, HeaderValue, Method, Request, Uri, request};

use super::Args;
use crate::proto::host::{Authority, parse_authority};
use crate::proto::websocket;
use crate::types::Scheme;

pub struct Question {
    pub scheme: Scheme,
    pub is_handshake: bool,
    pub authority: Authority,
    pub origin: Option<String>,
    pub client: Option<IpAddr>,
    pub client_certificate: bool,
    pub head: request::Parts,
}

impl Question {
    pub fn read(args: &Args) -> Result<Self, String> {
        let Some((scheme, rest)) = args.url.split_once("://") else {
            return Err(format!("`{0}` is not a URL; write wss://{0} or https://{0}", args.url.escape_debug()));
        };
        let (scheme, is_handshake) = match scheme.to_ascii_lowercase().as_str() {
            "wss" => (Scheme::Https, true),
            "https" => (Scheme::Https, false),
            "ws" => (Scheme::Http, true),
            "http" => (Scheme::Http, false),
            other => {
                let other = other.escape_debug();
                return Err(format!("`{other}` is not a scheme to ask with; use wss, ws, https or http"));
            }
        };
        if is_handshake && args.method.is_some() {
            return Err("--method is for http:// and https://; a WebSocket handshake is a GET".into());
        }
        let (host, target) = match rest.find(['/', '?', '#']) {
            Some(end) => (&rest[..end], &rest[end..]),
            None => (rest, "/"),
        };
        let authority = parse_authority(host).map_err(|why| format!("`{}`: {why}", host.escape_debug()))?;
        // A fragment never leaves the client.
        let target = target.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let uri: Uri = target.parse().map_err(|_| {
            let target = target.escape_debug();
            format!("`{target}` cannot stand in a request; write what is not ASCII as percent-escapes")
        })?;
        let method = args.method.clone().unwrap_or(Method::GET);
        let mut request = Request::builder().method(method).uri(uri).header(HOST, host);
        if is_handshake {
            request = request
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, websocket::new_key());
        }
        if let Some(origin) = &args.origin {
            request = request.header(ORIGIN, value("--origin", origin)?);
        }
        if !args.subprotocols.is_empty() {
            let offer = args.subprotocols.join(", ");
            request = request.header(SEC_WEBSOCKET_PROTOCOL, value("--subprotocol", &offer)?);
        }
        for field in &args.headers {
            let (name, value) = header(field)?;
            request = request.header(name, value);
        }
        let (head, ()) = request.body(()).map_err(|why| why.to_string())?.into_parts();
        let (origin, client, client_certificate) = (args.origin.clone(), args.client, args.client_certificate);
        Ok(Self { scheme, is_handshake, authority, origin, client, client_certificate, head })
    }

    /// The path and query, as they stand in the request.
    pub fn target(&self) -> &str {
        self.head.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    /// The URL, with one of two schemes.
    pub fn with_scheme(&self, handshake: &str, plain: &str) -> String {
        let scheme = if self.is_handshake { handshake } else { plain };
        format!("{scheme}://{}{}", self.authority, self.target())
    }
}

impl fmt::Display for Question {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match self.scheme {
            Scheme::Https => self.with_scheme("wss", "https"),
            Scheme::Http => self.with_scheme("ws", "http"),
        };
        write!(out, "{} {url}", self.head.method)?;
        match (&self.origin, self.is_handshake) {
            (Some(origin), _) => write!(out, ", Origin {origin}")?,
            (None, true) => out.write_str(", no Origin")?,
            (None, false) => {}
        }
        match self.head.headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|offer| offer.to_str().ok()) {
            Some(offer) => write!(out, ", subprotocols {offer}"),
            None => Ok(()),
        }
    }
}

fn header(field: &str) -> Result<(HeaderName, HeaderValue), String> {
    let named = field.split_once(':').map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()), value.trim()));
    match named {
        Some((Ok(name), text)) => Ok((name, value("--header", text)?)),
        _ => Err(format!("--header: `{}` is not a field; write \"X-User: 42\"", field.escape_debug())),
    }
}

fn value(flag: &str, text: &str) -> Result<HeaderValue, String> {
    // Stricter than a header value has to be: it is printed as well.
    let value = HeaderValue::from_str(text).ok().filter(|_| !text.chars().any(char::is_control));
    value.ok_or_else(|| format!("{flag}: `{}` cannot stand in a header", text.escape_debug()))
}
