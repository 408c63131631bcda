//! Bytes into log lines: escaping, masking, numbers, time stamps. Appends to a `Vec<u8>`; no allocation of its own.
//!
//! Whatever goes in, what comes out is valid UTF-8 without control characters (C0, DEL, C1, U+2028, U+2029) and
//! bounded in length. A byte that is no UTF-8 becomes `\xHH`, in JSON as the text `\\xHH`.

use std::time::{Duration, SystemTime};

/// What stands for a value that must not be logged.
pub(super) const MASK: &[u8] = b"***";

/// How a value is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// A JSON string's inside (RFC 8259 section 7).
    Json,
    /// Readable text inside double quotes.
    Text,
}

/// Appends at most `limit` bytes of `value`, escaped; `…` says that there was more.
pub(super) fn escaped(out: &mut Vec<u8>, value: &[u8], limit: usize, quoting: Quoting) {
    let shown = &value[..value.len().min(limit)];
    // Nearly every value is plain.
    if shown.iter().all(|byte| matches!(byte, b' '..=b'~' if *byte != b'"' && *byte != b'\\')) {
        out.extend_from_slice(shown);
    } else {
        for chunk in shown.utf8_chunks() {
            chunk.valid().chars().for_each(|character| escaped_char(out, character, quoting));
            for byte in chunk.invalid() {
                out.extend_from_slice(if quoting == Quoting::Json { b"\\\\x" } else { b"\\x" });
                hex(out, u32::from(*byte), 2);
            }
        }
    }
    if shown.len() < value.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

fn escaped_char(out: &mut Vec<u8>, character: char, quoting: Quoting) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        ' '..='~' => out.push(character as u8),
        _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
            let code = u32::from(character);
            if quoting == Quoting::Text && code < 0x80 {
                out.extend_from_slice(b"\\x");
                hex(out, code, 2);
            } else {
                out.extend_from_slice(b"\\u");
                hex(out, code, 4);
            }
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn hex(out: &mut Vec<u8>, value: u32, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit)) as usize & 15]);
    }
}

/// Appends a query with its names and without its values. A part without `=` may be a bare token, so it is a value.
pub(super) fn masked_query(out: &mut Vec<u8>, query: &[u8], limit: usize, quoting: Quoting) {
    let from = out.len();
    for (index, part) in query.split(|byte| *byte == b'&').enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        if out.len() - from > limit {
            out.extend_from_slice("…".as_bytes());
            break;
        }
        match memchr::memchr(b'=', part) {
            None if part.is_empty() => {}
            None => out.extend_from_slice(MASK),
            Some(end) => {
                escaped(out, &part[..end], limit, quoting);
                out.push(b'=');
                out.extend_from_slice(MASK);
            }
        }
    }
}

/// Appends a host; what stands before an `@` may be a password.
pub(super) fn host(out: &mut Vec<u8>, host: &[u8], limit: usize, quoting: Quoting) {
    match memchr::memrchr(b'@', host) {
        None => escaped(out, host, limit, quoting),
        Some(at) => {
            out.extend_from_slice(MASK);
            escaped(out, &host[at..], limit, quoting);
        }
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// RFC 3339 in UTC with milliseconds. The part down to the second is made once a second.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<i64>,
    /// `2026-11-22T03:15:00`
    text: String,
}

impl Stamp {
    pub fn append(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        // A clock before 1970 is a broken clock; its lines say 1970.
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        if self.second != Some(second) {
            let timestamp = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            self.text = timestamp.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        let milliseconds = since.subsec_millis();
        out.extend_from_slice(&[
            b'.',
            b'0' + (milliseconds / 100) as u8,
            b'0' + (milliseconds / 10 % 10) as u8,
            b'0' + (milliseconds % 10) as u8,
            b'Z',
        ]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        append(&mut out);
        String::from_utf8(out).expect("always UTF-8")
    }

    #[test]
    fn names_of_a_query_stay_and_values_go() {
        for (query, shown) in [
            ("", ""),
            ("token=s3cret", "token=***"),
            ("a=1&token=s3cret&b=", "a=***&token=***&b=***"),
            ("s3cret", "***"),
            ("a=1&s3cret&&b=x=s3cret", "a=***&***&&b=***"),
            ("=s3cret", "=***"),
            ("token%3Ds3cret", "***"),
            ("a\"\r\n=s3cret", "a\\\"\\x0d\\x0a=***"),
        ] {
            let text = with(|out| masked_query(out, query.as_bytes(), 100, Quoting::Text));
            assert_eq!(text, shown, "{query}");
        }
    }

    #[test]
    fn a_password_before_a_host_is_masked() {
        assert_eq!(with(|out| host(out, b"a.test:443", 50, Quoting::Json)), "a.test:443");
        assert_eq!(with(|out| host(out, b"user:s3cret@a.test", 50, Quoting::Json)), "***@a.test");
    }

    #[test]
    fn stamps_are_rfc_3339_with_milliseconds() {
        let mut stamp = Stamp::default();
        for (milliseconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (951_782_400_070, "2000-02-29T00:00:00.070Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(with(|out| stamp.append(out, time)), shown);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_leave_a_control_character_or_break_json(
            value in prop::collection::vec(any::<u8>(), 0..60),
            text in ".{0,40}",
            limit in 0_usize..80,
        ) {
            for value in [&value[..], text.as_bytes()] {
                for quoting in [Quoting::Json, Quoting::Text] {
                    for line in [
                        with(|out| escaped(out, value, limit, quoting)),
                        with(|out| masked_query(out, value, limit, quoting)),
                        with(|out| host(out, value, limit, quoting)),
                    ] {
                        assert!(!line.chars().any(char::is_control), "{line:?}");
                        assert!(line.len() <= 6 * limit + 6 * value.len() + 10);
                        if quoting == Quoting::Json {
                            serde_json::from_str::<String>(&format!("\"{line}\"")).expect("a JSON string");
                        }
                    }
                }
            }
            let whole = with(|out| escaped(out, text.as_bytes(), usize::MAX, Quoting::Json));
            assert_eq!(serde_json::from_str::<String>(&format!("\"{whole}\"")).expect("JSON"), text);
        }
    }
}
