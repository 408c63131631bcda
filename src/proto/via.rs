//! `Via`: our own line on the way to an upstream, and finding it again in what arrives.
//!
//! The pseudonym holds an id of this process, so that two gateways in a row do not take each other for a loop.
//! RFC 9110 7.6.3.

use http::Version;
use http::header::{HeaderMap, HeaderValue, InvalidHeaderValue, VIA};

use super::fields::{members, trim};

/// The gateway's name in `Via`, with its lines made once.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// `pseudonym` has to be a token, for example `portcullis-7f3a`.
    pub fn new(pseudonym: impl Into<String>) -> Result<Self, InvalidHeaderValue> {
        let pseudonym = pseudonym.into();
        let line = |version: &str| HeaderValue::try_from(format!("{version} {pseudonym}"));
        Ok(Self { http10: line("1.0")?, http11: line("1.1")?, http2: line("2.0")?, pseudonym })
    }

    /// Whether a message has been here before.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        // A comma within a comment only makes more members; ours has no comment.
        headers.get_all(VIA).iter().flat_map(|line| members(line.as_bytes())).any(|member| {
            let received_by = member.iter().position(|byte| matches!(byte, b' ' | b'\t')).map(|at| trim(&member[at..]));
            received_by.is_some_and(|name| {
                let end = name.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(name.len());
                name[..end].eq_ignore_ascii_case(self.pseudonym.as_bytes())
            })
        })
    }

    /// Adds our line; `received` is the version in which the message came.
    pub fn append(&self, headers: &mut HeaderMap, received: Version) {
        let line = match received {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_11 => &self.http11,
            _ => &self.http10,
        };
        headers.append(VIA, line.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_line_is_found_again_and_others_are_not() {
        let via = Via::new("portcullis-7f3a").unwrap();
        for (line, ours) in [
            ("1.1 portcullis-7f3a", true),
            ("1.0 fred, HTTP/1.1\tPortcullis-7F3A (a comment)", true),
            ("1.1 portcullis-7f3b", false),
            ("1.1 fred (portcullis-7f3a)", false),
            ("portcullis-7f3a", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(VIA, HeaderValue::from_static("1.1 first"));
            headers.append(VIA, HeaderValue::from_static(line));
            assert_eq!(via.is_in(&headers), ours, "{line}");
        }
        let mut headers = HeaderMap::new();
        via.append(&mut headers, Version::HTTP_2);
        assert_eq!(headers[VIA], "2.0 portcullis-7f3a");
        assert!(via.is_in(&headers));
    }
}
