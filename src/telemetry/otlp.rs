//! Spans to an OpenTelemetry collector: OTLP over HTTP with JSON, a request for each chunk of spans.
//!
//! A span is made of the same record as a line of the access log and takes the same road: a worker's buffer, a queue with
//! a bound, a thread that may wait (here at most [`PATIENCE`]), and a count of what was lost. The collector is one that
//! stands beside the gateway, in the clear: it is what speaks TLS to the world, repeats, and samples.
//! OTLP 1.x; trace semantic conventions for HTTP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, SystemTime};

use super::end::EndReason;
use super::record::{AccessEvent, AccessRecord};
use super::text::{self, Quoting};
use crate::config::model::Otlp;
use crate::types::HttpVersion;

/// How long a collector may take for each step of a request.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of an answer is looked at.
const ANSWER: usize = 1024;

/// Bytes of one attribute.
const LONGEST: usize = 512;

/// OTLP's kind of a span that serves.
const SERVER: &str = "2";

const SAMPLED: u8 = 1;

/// A collector.
#[derive(Debug)]
pub(super) struct Collector {
    otlp: Otlp,
}

impl Collector {
    pub fn new(otlp: Otlp) -> Self {
        Self { otlp }
    }

    /// Hands over lines of spans, in one request.
    pub fn send(&self, spans: &[u8]) -> io::Result<()> {
        let body = self.body(spans);
        let Otlp { host, port, path, .. } = &self.otlp;
        let address = (host.as_str(), *port).to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {shown}:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        let mut answer = Vec::new();
        // The status line is enough, and what comes in one piece with it does no harm.
        while answer.len() < ANSWER && !answer.contains(&b'\n') {
            let mut piece = [0; ANSWER];
            match stream.read(&mut piece)? {
                0 => break,
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).unwrap_or_default();
        if status.first() == Some(&b'2') {
            return Ok(());
        }
        Err(io::Error::other(format!("the collector answers {}", String::from_utf8_lossy(status).escape_default())))
    }

    fn body(&self, spans: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(spans.len() + 256);
        body.extend_from_slice(b"{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
        attribute(&mut body, true, "service.name", self.otlp.service.as_bytes());
        attribute(&mut body, false, "service.version", env!("CARGO_PKG_VERSION").as_bytes());
        body.extend_from_slice(b"]},\"scopeSpans\":[{\"scope\":{\"name\":\"portcullis\"},\"spans\":[");
        let spans = spans.strip_suffix(b"\n").unwrap_or(spans);
        body.extend(spans.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }));
        body.extend_from_slice(b"]}]}]}");
        body
    }
}

/// Appends the span of a request or a whole tunnel as one line; whether there is one: the gateway has a span of its own,
/// and whoever began the trace wants it recorded.
pub(super) fn span(out: &mut Vec<u8>, record: &AccessRecord<'_>) -> bool {
    let Some(context) = record.trace.filter(|context| context.is_own && context.flags & SAMPLED != 0) else {
        return false;
    };
    let (Some(duration), false) = (record.duration, record.event == AccessEvent::TunnelOpen) else { return false };
    let end = record.time.unwrap_or_else(crate::clock::wall);
    let start = end.checked_sub(duration).unwrap_or(end);
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    let mut put = |text: std::fmt::Arguments<'_>| drop(out.write_fmt(text));
    put(format_args!("{{\"traceId\":\"{:032x}\"", u128::from_be_bytes(context.trace)));
    put(format_args!(",\"spanId\":\"{:016x}\"", number(&context.span)));
    if let Some(parent) = &context.parent {
        put(format_args!(",\"parentSpanId\":\"{:016x}\"", number(parent)));
    }
    put(format_args!(
        ",\"flags\":{},\"kind\":{SERVER},\"startTimeUnixNano\":\"{}\"",
        context.flags,
        nanoseconds(start)
    ));
    put(format_args!(",\"endTimeUnixNano\":\"{}\",\"name\":\"", nanoseconds(end)));
    text::escaped(out, record.method.as_bytes(), LONGEST, Quoting::Json);
    if let Some(route) = record.route {
        out.push(b' ');
        text::escaped(out, route.as_bytes(), LONGEST, Quoting::Json);
    }
    out.extend_from_slice(b"\",\"attributes\":[");
    attributes(out, record);
    out.push(b']');
    if is_failure(record) {
        out.extend_from_slice(b",\"status\":{\"code\":2}");
    }
    out.extend_from_slice(b"}\n");
    true
}

fn attributes(out: &mut Vec<u8>, record: &AccessRecord<'_>) {
    attribute(out, true, "http.request.method", record.method.as_bytes());
    attribute(out, false, "url.path", record.path);
    let version = match record.protocol {
        Some(HttpVersion::Http1) => "1.1",
        Some(HttpVersion::Http2) => "2",
        None => "",
    };
    let client = record.client.map(|client| client.to_string()).unwrap_or_default();
    for (name, value) in [
        ("server.address", record.host.unwrap_or_default()),
        ("client.address", client.as_bytes()),
        ("user_agent.original", record.user_agent.unwrap_or_default()),
        ("network.protocol.version", version.as_bytes()),
        ("http.route", record.route.unwrap_or_default().as_bytes()),
        ("portcullis.event", record.event.as_str().as_bytes()),
        ("portcullis.listener", record.listener.as_bytes()),
        ("portcullis.upstream", record.upstream.unwrap_or_default().as_bytes()),
        ("portcullis.server", record.server.unwrap_or_default().as_bytes()),
        ("portcullis.request", record.request.as_bytes()),
        ("portcullis.end", record.end.map_or("", EndReason::code).as_bytes()),
        ("portcullis.rule", record.rule.unwrap_or_default().as_bytes()),
    ] {
        if !value.is_empty() {
            attribute(out, false, name, value);
        }
    }
    for (name, value) in [
        ("http.response.status_code", record.status.map(u64::from)),
        ("portcullis.bytes_in", record.bytes_in),
        ("portcullis.bytes_out", record.bytes_out),
        ("portcullis.messages_in", record.messages_in),
        ("portcullis.messages_out", record.messages_out),
        ("portcullis.close_code", record.close_code.map(u64::from)),
        ("portcullis.retries", record.retries.map(u64::from)),
    ] {
        if let Some(value) = value {
            // 64-bit numbers are strings in the JSON of protocol buffers.
            let _ = write!(out, ",{{\"key\":\"{name}\",\"value\":{{\"intValue\":\"{value}\"}}}}");
        }
    }
}

fn attribute(out: &mut Vec<u8>, is_first: bool, name: &str, value: &[u8]) {
    let _ = write!(out, "{}{{\"key\":\"{name}\",\"value\":{{\"stringValue\":\"", if is_first { "" } else { "," });
    text::escaped(out, value, LONGEST, Quoting::Json);
    out.extend_from_slice(b"\"}}");
}

/// What a server is to blame for; of a client's mistakes the conventions say that they are none.
fn is_failure(record: &AccessRecord<'_>) -> bool {
    record.status.is_some_and(|status| status >= 500) || record.end == Some(EndReason::Internal)
}

fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}
