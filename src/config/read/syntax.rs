//! TOML's own grammar: text → spanned tree, with all syntax errors at once.
//!
//! The parser recovers after an error and goes on, and so its later errors are often echoes of the first. One error
//! per line is kept; an array or inline table that is never closed hides everything that it swallowed.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::report::{Report, Spot};

/// More syntax errors than this are not worth listing: the file is no TOML.
const MOST: usize = 20;

/// The tree as far as it could be read, and the parts of the text that are damaged.
pub fn parse<'t>(text: &'t str, file: usize, report: &mut Report) -> (Spanned<DeTable<'t>>, Vec<Range<usize>>) {
    let (tree, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut damaged: Vec<Range<usize>> = Vec::new();
    // What is never closed swallows all that follows, so that only the end of the text needs a look.
    let end_of = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let unclosed = errors.iter().find(|error| {
        error.message().starts_with("unclosed") && text.get(end_of(error)..).is_some_and(|rest| rest.trim().is_empty())
    });
    let swallowed = unclosed.and_then(|error| opening(tree.get_ref(), end_of(error)));
    if let Some(open) = &swallowed {
        let spot = Spot { file, range: open.start..open.start + 1 };
        report
            .error("syntax", &spot, "this bracket is never closed")
            .help("the rest of the file was read as part of it");
    }
    let mut listed = 0;
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let span = span.start.min(text.len())..span.end.min(text.len());
        let line = line_of(text, span.start);
        let echo = damaged.last().is_some_and(|last| line.start < last.end.max(last.start + 1))
            || swallowed.as_ref().is_some_and(|open| span.start >= open.start);
        if echo {
            continue;
        }
        damaged.push(line.start..line.end.max(span.end));
        listed += 1;
        if listed <= MOST {
            let span = whole_value(text, error.message(), span);
            let raw = text.get(span.clone()).unwrap_or_default();
            let (message, help) = words(error.message(), raw);
            let help = help.or_else(|| many(error.message(), raw, text.get(line).unwrap_or_default()));
            report.error("syntax", &Spot { file, range: span }, message).help = help;
        }
    }
    if listed > MOST {
        report.error_anywhere("syntax", format!("{} more syntax errors are not listed", listed - MOST));
    }
    damaged.extend(swallowed);
    (tree, damaged)
}

/// Whether a range touches one of the others, which are in order; ranges without length count as one byte.
pub fn overlaps(ranges: &[Range<usize>], range: &Range<usize>) -> bool {
    let after = ranges.partition_point(|other| other.end.max(other.start + 1) <= range.start);
    ranges.get(after).is_some_and(|other| other.start < range.end.max(range.start + 1))
}

/// The line that holds the byte, without its end.
fn line_of(text: &str, at: usize) -> Range<usize> {
    let start = text.as_bytes()[..at].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let end = text.as_bytes()[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// The outermost bracketed value that runs up to `end`.
fn opening(table: &DeTable<'_>, end: usize) -> Option<Range<usize>> {
    table.iter().find_map(|(_, value)| value_opening(value, end))
}

fn value_opening(value: &Spanned<DeValue<'_>>, end: usize) -> Option<Range<usize>> {
    let span = value.span();
    match value.get_ref() {
        // Tables with a header have the header's span, which says nothing about their end.
        DeValue::Table(table) => {
            let here =
                (span.end == end && table.iter().any(|(key, _)| span.contains(&key.span().start))).then_some(span);
            here.or_else(|| opening(table, end))
        }
        DeValue::Array(_) if span.end == end => Some(span),
        DeValue::Array(items) => items.iter().find_map(|item| value_opening(item, end)),
        _ => None,
    }
}

/// The parser takes `0.0.0.0:443` for a number that goes wrong in the middle; what is meant begins earlier.
fn whole_value(text: &str, message: &str, span: Range<usize>) -> Range<usize> {
    if !message.starts_with("invalid") || message.contains("string") || message.contains("key") {
        return span;
    }
    let before = text.get(..span.start).unwrap_or_default();
    let start = before.rfind([' ', '\t', '\n', '=', ',', '[', '{', '"', '\'']).map_or(0, |at| at + 1);
    start..span.end
}

/// `[route]` where another one stands before it.
fn many(message: &str, raw: &str, line: &str) -> Option<String> {
    let is_header = message == "duplicate key" && line.trim_start().starts_with('[');
    (is_header && matches!(raw, "route" | "listener")).then(|| format!("write [[{raw}]]: there may be several"))
}

fn words(message: &str, raw: &str) -> (String, Option<String>) {
    let quoted = || {
        (!raw.is_empty() && !raw.contains(|letter: char| letter == '"' || letter.is_control()))
            .then(|| format!("write \"{raw}\""))
    };
    if message.starts_with("string values must be quoted") {
        return ("a string must stand in quotes".into(), quoted());
    }
    for kind in ["float", "integer", "date", "time"] {
        if message.starts_with("invalid") && message.split([' ', ',', '-']).any(|word| word == kind) {
            return (format!("this is no {kind}, and a string must stand in quotes"), quoted());
        }
    }
    (message.to_owned(), None)
}
