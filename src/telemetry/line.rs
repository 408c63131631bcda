//! One access record as one line: JSON, or text for people.
//!
//! Keys of the JSON form are stable; what is not known is left out. Values of a peer's are cut at the limits below.

use super::record::{AccessEvent, AccessRecord};
use super::text::{self, Quoting, Stamp};
use crate::types::HttpVersion;

/// Bytes of a peer's value that are shown.
const PATH: usize = 2048;
const QUERY: usize = 1024;
const HOST: usize = 256;
const WORD: usize = 64;
const AGENT: usize = 256;

/// Appends the record and its line end.
pub(super) fn json(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    stamp.append(out, record.time.unwrap_or_else(crate::clock::wall));
    out.push(b'"');
    let mut line = Json { out };
    line.string("event", record.event.as_str().as_bytes(), WORD);
    line.string("request", record.request.as_bytes(), 2 * WORD);
    line.number("connection", Some(record.connection));
    line.string("listener", record.listener.as_bytes(), HOST);
    line.display("client", record.client.as_ref());
    line.display("peer", record.peer);
    line.with("host", record.host, |out, host| text::host(out, host, HOST, Quoting::Json));
    line.string("method", record.method.as_bytes(), WORD);
    line.string("path", record.path, PATH);
    line.with("query", record.query, |out, query| text::masked_query(out, query, QUERY, Quoting::Json));
    line.optional("protocol", record.protocol.map(HttpVersion::as_str));
    line.optional("tls", record.tls);
    line.optional("route", record.route);
    line.optional("upstream", record.upstream);
    line.optional("server", record.server);
    line.number("status", record.status.map(u64::from));
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.number("messages_in", record.messages_in);
    line.number("messages_out", record.messages_out);
    line.optional("closed_by", record.closed_by.map(|side| side.as_str()));
    line.number("close_code", record.close_code.map(u64::from));
    line.number("rtt_us", record.round_trip.map(microseconds));
    line.number("duration_us", record.duration.map(microseconds));
    line.number("upstream_us", record.upstream_time.map(microseconds));
    line.number("retries", record.retries.map(u64::from));
    line.number("queued_us", record.queued.map(microseconds));
    line.optional("end", record.end.map(|end| end.code()));
    line.optional("side", record.end.map(|end| end.side().as_str()));
    line.with("detail", record.detail.map(str::as_bytes), |out, value| text::escaped(out, value, AGENT, Quoting::Json));
    line.with("origin", record.origin, |out, value| text::escaped(out, value, HOST, Quoting::Json));
    line.with("user_agent", record.user_agent, |out, value| text::escaped(out, value, AGENT, Quoting::Json));
    out.extend_from_slice(b"}\n");
}

struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl Json<'_> {
    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn with(&mut self, key: &str, value: Option<&[u8]>, append: impl FnOnce(&mut Vec<u8>, &[u8])) {
        if let Some(value) = value {
            self.key(key);
            self.out.push(b'"');
            append(self.out, value);
            self.out.push(b'"');
        }
    }

    /// Left out when empty.
    fn string(&mut self, key: &str, value: &[u8], limit: usize) {
        let value = (!value.is_empty()).then_some(value);
        self.with(key, value, |out, value| text::escaped(out, value, limit, Quoting::Json));
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        self.string(key, value.unwrap_or_default().as_bytes(), HOST);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(key);
            text::number(self.out, value);
        }
    }

    /// For addresses, whose text needs no escaping.
    fn display(&mut self, key: &str, value: Option<&impl std::fmt::Display>) {
        if let Some(value) = value {
            self.key(key);
            display(self.out, format_args!("\"{value}\""));
        }
    }
}

/// Appends the record for people: time, client, what was asked, what came of it, and where it went.
pub(super) fn readable(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
    stamp.append(out, record.time.unwrap_or_else(crate::clock::wall));
    let mut line = Text { out };
    match (&record.client, record.peer) {
        (Some(client), _) => display(line.word(), format_args!("{client}")),
        (None, Some(peer)) => display(line.word(), format_args!("{peer}")),
        (None, None) => line.word().push(b'-'),
    }
    line.word().push(b'"');
    let quoted = &mut *line.out;
    text::escaped(quoted, record.method.as_bytes(), WORD, Quoting::Text);
    quoted.push(b' ');
    text::host(quoted, record.host.unwrap_or_default(), HOST, Quoting::Text);
    text::escaped(quoted, record.path, PATH, Quoting::Text);
    if let Some(query) = record.query {
        quoted.push(b'?');
        text::masked_query(quoted, query, QUERY, Quoting::Text);
    }
    quoted.push(b'"');
    line.plain(record.protocol.map_or("-", HttpVersion::as_str));
    if record.event == AccessEvent::Request {
        text::number(line.word(), u64::from(record.status.unwrap_or(0)));
    } else {
        line.plain(record.event.as_str());
    }
    line.number("in", record.bytes_in);
    line.number("out", record.bytes_out);
    line.number("messages_in", record.messages_in);
    line.number("messages_out", record.messages_out);
    line.number("close", record.close_code.map(u64::from));
    if let Some(side) = record.closed_by {
        line.plain("by=");
        line.out.extend_from_slice(side.as_str().as_bytes());
    }
    if let Some(duration) = record.duration {
        display(line.word(), format_args!("{:.1}ms", duration.as_secs_f64() * 1_000.0));
    }
    line.number("retries", record.retries.map(u64::from));
    if let Some(queued) = record.queued {
        display(line.word(), format_args!("queued={:.1}ms", queued.as_secs_f64() * 1_000.0));
    }
    if let Some(end) = record.end {
        line.plain(end.code());
    }
    line.named("route", record.route.map(str::as_bytes), HOST);
    line.named("detail", record.detail.map(str::as_bytes), AGENT);
    line.named("server", record.server.map(str::as_bytes), HOST);
    line.named("origin", record.origin, HOST);
    line.named("agent", record.user_agent, AGENT);
    line.named("request", Some(record.request.as_bytes()), 2 * WORD);
    out.push(b'\n');
}

struct Text<'a> {
    out: &'a mut Vec<u8>,
}

impl Text<'_> {
    fn word(&mut self) -> &mut Vec<u8> {
        self.out.push(b' ');
        self.out
    }

    /// A word of ours.
    fn plain(&mut self, word: &str) {
        self.word().extend_from_slice(word.as_bytes());
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.plain(name);
            self.out.push(b'=');
            text::number(self.out, value);
        }
    }

    fn named(&mut self, name: &str, value: Option<&[u8]>, limit: usize) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.plain(name);
            self.out.extend_from_slice(b"=\"");
            text::escaped(self.out, value, limit, Quoting::Text);
            self.out.push(b'"');
        }
    }
}

fn display(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // A vector takes everything.
    let _ = out.write_fmt(arguments);
}

fn microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
