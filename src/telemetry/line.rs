//! One access record as one line: JSON, or text for people, or an entry of the journal with both.
//!
//! Keys are stable, and the same in JSON and in the journal, where they are in capitals; what is not known is left out.
//! Values of a peer's are cut at the limits below.

use super::end::EndReason;
use super::record::{AccessEvent, AccessRecord};
use super::text::{self, Quoting, Stamp};
use crate::types::HttpVersion;

/// Bytes of a peer's value that are shown.
const PATH: usize = 2048;
const QUERY: usize = 1024;
const HOST: usize = 256;
const WORD: usize = 64;
const AGENT: usize = 256;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Text,
    /// Lines of `KEY=value`, and an empty one at the end.
    Journal,
}

impl Form {
    /// Appends the record and its end.
    pub fn render(self, out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
        match self {
            Self::Json => json(out, stamp, record),
            Self::Text => readable(out, stamp, record),
            Self::Journal => journal(out, stamp, record),
        }
    }
}

fn json(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    stamp.append(out, record.time.unwrap_or_else(crate::clock::wall));
    out.push(b'"');
    fields(&mut Fields { out, is_journal: false }, record);
    out.extend_from_slice(b"}\n");
}

fn journal(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
    let priority: &[u8] = if record.end == Some(EndReason::Internal) { b"3" } else { b"6" };
    out.extend_from_slice(b"PRIORITY=");
    out.extend_from_slice(priority);
    out.extend_from_slice(b"\nSYSLOG_IDENTIFIER=portcullis\nMESSAGE=");
    told(out, record);
    out.extend_from_slice(b"\nPORTCULLIS_TIME=");
    stamp.append(out, record.time.unwrap_or_else(crate::clock::wall));
    out.push(b'\n');
    fields(&mut Fields { out, is_journal: true }, record);
    out.push(b'\n');
}

fn fields(line: &mut Fields<'_>, record: &AccessRecord<'_>) {
    line.string("event", record.event.as_str().as_bytes(), WORD);
    line.string("request", record.request.as_bytes(), 2 * WORD);
    line.hex("trace_id", record.trace.map(|context| &context.trace));
    line.number("connection", Some(record.connection));
    line.string("listener", record.listener.as_bytes(), HOST);
    line.display("client", record.client.as_ref());
    line.display("peer", record.peer);
    line.with("host", record.host, |out, host, quoting| text::host(out, host, HOST, quoting));
    line.string("method", record.method.as_bytes(), WORD);
    line.string("path", record.path, PATH);
    line.with("query", record.query, |out, query, quoting| text::masked_query(out, query, QUERY, quoting));
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
    line.string("rule", record.rule.unwrap_or_default().as_bytes(), AGENT);
    line.string("detail", record.detail.unwrap_or_default().as_bytes(), AGENT);
    line.with("origin", record.origin, |out, value, quoting| text::escaped(out, value, HOST, quoting));
    line.with("user_agent", record.user_agent, |out, value, quoting| text::escaped(out, value, AGENT, quoting));
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    is_journal: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        if self.is_journal {
            self.out.extend_from_slice(b"PORTCULLIS_");
            self.out.extend(key.bytes().map(|letter| letter.to_ascii_uppercase()));
            self.out.push(b'=');
        } else {
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        }
    }

    fn end(&mut self) {
        if self.is_journal {
            self.out.push(b'\n');
        }
    }

    fn with(&mut self, key: &str, value: Option<&[u8]>, append: impl FnOnce(&mut Vec<u8>, &[u8], Quoting)) {
        let Some(value) = value else { return };
        self.key(key);
        if self.is_journal {
            append(self.out, value, Quoting::Text);
        } else {
            self.out.push(b'"');
            append(self.out, value, Quoting::Json);
            self.out.push(b'"');
        }
        self.end();
    }

    /// Left out when empty.
    fn string(&mut self, key: &str, value: &[u8], limit: usize) {
        let value = (!value.is_empty()).then_some(value);
        self.with(key, value, |out, value, quoting| text::escaped(out, value, limit, quoting));
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        self.string(key, value.unwrap_or_default().as_bytes(), HOST);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(key);
            text::number(self.out, value);
            self.end();
        }
    }

    fn hex(&mut self, key: &str, value: Option<&[u8; 16]>) {
        let text = value.map(|bytes| u128::from_be_bytes(*bytes));
        self.display(key, text.map(|number| format!("{number:032x}")).as_ref());
    }

    /// For addresses, whose text needs no escaping.
    fn display(&mut self, key: &str, value: Option<&impl std::fmt::Display>) {
        if let Some(value) = value {
            self.key(key);
            if self.is_journal {
                display(self.out, format_args!("{value}"));
            } else {
                display(self.out, format_args!("\"{value}\""));
            }
            self.end();
        }
    }
}

fn readable(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AccessRecord<'_>) {
    stamp.append(out, record.time.unwrap_or_else(crate::clock::wall));
    out.push(b' ');
    told(out, record);
    out.push(b'\n');
}

/// Appends the record for people: client, what was asked, what came of it, and where it went.
fn told(out: &mut Vec<u8>, record: &AccessRecord<'_>) {
    let mut line = Text { out };
    match (&record.client, record.peer) {
        (Some(client), _) => display(line.out, format_args!("{client}")),
        (None, Some(peer)) => display(line.out, format_args!("{peer}")),
        (None, None) => line.out.push(b'-'),
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
    line.named("rule", record.rule.map(str::as_bytes), AGENT);
    line.named("detail", record.detail.map(str::as_bytes), AGENT);
    line.named("server", record.server.map(str::as_bytes), HOST);
    line.named("origin", record.origin, HOST);
    line.named("agent", record.user_agent, AGENT);
    if let Some(context) = record.trace {
        display(line.word(), format_args!("trace=\"{:032x}\"", u128::from_be_bytes(context.trace)));
    }
    line.named("request", Some(record.request.as_bytes()), 2 * WORD);
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
