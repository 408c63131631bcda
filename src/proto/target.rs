//! The request target: what routes match, and what goes upstream byte for byte.
//!
//! Two views of one path. The raw one is never rewritten, because a backend may mean every byte of it; the normalised
//! one is what routes see: escapes of unreserved characters decoded, hex digits in upper case, runs of `/` as one.
//! A path whose meaning could differ between us and a backend (dot segments in any disguise, NUL and other controls,
//! broken escapes) is refused, so that the two views cannot be played against each other. `%2F` is never a `/`.
//!
//! RFC 3986 2.3, 6.2.2; RFC 9112 3.2.

use std::borrow::Cow;
use std::fmt;

/// A target that passed, without its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path and query as received.
    raw: &'a str,
    /// The path as received; begins with `/`.
    pub raw_path: &'a str,
    /// The query as received, without its `?`.
    pub raw_query: Option<&'a str>,
    /// What routes match.
    pub normalised: Cow<'a, str>,
}

/// Why a target is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTarget {
    /// It does not begin with `/`.
    NotAPath,
    /// A segment that decodes to `.` or `..`, with `;` parameters or without.
    DotSegment,
    /// A space, NUL or other control character, raw or (in the path) escaped.
    Control,
    /// `%` without two hex digits behind it, in the path.
    BrokenEscape,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NotAPath => "the target does not begin with a slash",
            Self::DotSegment => "the path has a dot segment",
            Self::Control => "the target has a control character",
            Self::BrokenEscape => "the path has a broken percent-escape",
        })
    }
}

impl std::error::Error for BadTarget {}

/// Judges path and query as they stand in the request.
///
/// A fragment is cut: what was matched is exactly what goes on. Escapes in the query are the backend's business;
/// only raw controls are refused there. `*` is not a path; the caller answers `OPTIONS *` before.
pub fn parse_target(raw: &str) -> Result<Target<'_>, BadTarget> {
    let raw = raw.find('#').map_or(raw, |fragment| &raw[..fragment]);
    let (raw_path, raw_query) = match raw.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw, None),
    };
    if !raw_path.starts_with('/') {
        return Err(BadTarget::NotAPath);
    }
    if raw_query.is_some_and(|query| query.bytes().any(is_control)) {
        return Err(BadTarget::Control);
    }
    check_path(raw_path)?;
    Ok(Target { raw, raw_path, raw_query, normalised: normalise(raw_path) })
}

impl<'a> Target<'a> {
    /// Path and query for the upstream, without the segments of `strip` where the path begins with them.
    pub fn onward(&self, strip: Option<&str>) -> Cow<'a, str> {
        let Some(path) = strip.and_then(|prefix| strip_prefix(self.raw_path, prefix)) else {
            return Cow::Borrowed(self.raw);
        };
        match self.raw_query {
            None => Cow::Borrowed(path),
            Some(query) => Cow::Owned(format!("{path}?{query}")),
        }
    }
}

/// Cuts whole segments from the front of a raw path; the rest begins with exactly one `/`.
///
/// Segments are compared in their normalised form, so `/%61pi//x` loses `/api` and leaves `/x`. `None`: the path does
/// not begin with these segments and stays as it is.
pub fn strip_prefix<'a>(raw_path: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = raw_path;
    for segment in prefix.split('/').filter(|segment| !segment.is_empty()) {
        let inner = rest.trim_start_matches('/');
        if inner.len() == rest.len() {
            return None;
        }
        let end = inner.find('/').unwrap_or(inner.len());
        if normalise(&inner[..end]) != normalise(segment) {
            return None;
        }
        rest = &inner[end..];
    }
    if rest.is_empty() {
        return Some("/");
    }
    // `//evil.test` would be an authority to whoever resolves it as a reference.
    let slashes = rest.len() - rest.trim_start_matches('/').len();
    rest.get(slashes.checked_sub(1)?..)
}

/// The form in which paths are compared; applied to requests and to the paths that routes name.
pub fn normalise(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| *byte == b'%' || !byte.is_ascii()) && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], escape(&bytes[at..])) {
            (b'%', Some(decoded)) => {
                if is_unreserved(decoded) {
                    out.push(char::from(decoded));
                } else {
                    push_escape(&mut out, decoded);
                }
                at += 3;
                continue;
            }
            (b'/', _) if out.ends_with('/') => {}
            (byte, _) if byte.is_ascii() => out.push(char::from(byte)),
            (byte, _) => push_escape(&mut out, byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

/// One pass over the decoded bytes. Backends decode before or after they split, some take `\` for `/`, and some drop
/// `;` parameters before they resolve dots, so every one of these readings is held against the segment.
fn check_path(path: &str) -> Result<(), BadTarget> {
    let bytes = path.as_bytes();
    let mut segment = Segment::default();
    let mut at = 0;
    while at < bytes.len() {
        let mut byte = bytes[at];
        at += 1;
        if byte == b'%' {
            byte = escape(&bytes[at - 1..]).ok_or(BadTarget::BrokenEscape)?;
            at += 2;
            // An escaped space is an ordinary character; a raw one is not.
            if byte != b' ' && is_control(byte) {
                return Err(BadTarget::Control);
            }
        } else if is_control(byte) {
            return Err(BadTarget::Control);
        }
        match byte {
            b'/' | b'\\' => {
                segment.judge()?;
                segment = Segment::default();
            }
            b';' => segment.in_parameters = true,
            _ if segment.in_parameters => {}
            b'.' => segment.dots = segment.dots.saturating_add(1),
            _ => segment.other = true,
        }
    }
    segment.judge()
}

#[derive(Default)]
struct Segment {
    dots: u8,
    other: bool,
    in_parameters: bool,
}

impl Segment {
    fn judge(&self) -> Result<(), BadTarget> {
        match self.dots {
            1 | 2 if !self.other => Err(BadTarget::DotSegment),
            _ => Ok(()),
        }
    }
}

/// The byte that a complete escape at the front stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let value = digit(1)? * 16 + digit(2)?;
    u8::try_from(value).ok()
}

fn push_escape(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_control(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalised(raw: &str) -> Result<String, BadTarget> {
        parse_target(raw).map(|target| target.normalised.into_owned())
    }

    #[test]
    fn routes_see_the_normalised_path_and_the_wire_keeps_the_raw_one() {
        for (raw, expected) in [
            ("/", "/"),
            ("/ws", "/ws"),
            ("/ws/?a=1&b=%20", "/ws/"),
            ("/%77s", "/ws"),
            ("/ws/http%3a%2F%2ftest%20x", "/ws/http%3A%2F%2Ftest%20x"),
            ("//admin///x", "/admin/x"),
            ("/ws%2Fx", "/ws%2Fx"),
            ("/WS", "/WS"),
            ("/admin;x/y", "/admin;x/y"),
            ("/a.b/..c/d../...", "/a.b/..c/d../..."),
            ("/%7euser", "/~user"),
            ("/b\u{fc}", "/b%C3%BC"),
            ("/x?..//%zz", "/x"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a@b:c", "/a@b:c"),
        ] {
            let target = parse_target(raw).unwrap();
            assert_eq!(target.normalised, expected, "{raw}");
            assert_eq!(target.onward(None), raw);
        }
    }

    #[test]
    fn dot_segments_are_refused_in_every_disguise() {
        for raw in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/public/%2e%2e/admin/x",
            "/public/.%2E/admin/x",
            "/public/..;/admin/x",
            "/public/..;a=b/admin",
            "/public/.;/admin",
            "/public/..%3b/admin",
            "/public\\..\\admin",
            "/public%5c..%5Cadmin",
            "/public%2f..%2Fadmin",
            "/public//../admin",
            "/a/..?x",
            "/a/..#x",
        ] {
            assert_eq!(normalised(raw), Err(BadTarget::DotSegment), "{raw}");
        }
    }

    #[test]
    fn controls_broken_escapes_and_what_is_no_path_are_refused() {
        use BadTarget::*;
        for (raw, expected) in [
            ("", NotAPath),
            ("*", NotAPath),
            ("?x", NotAPath),
            ("#x", NotAPath),
            ("hello", NotAPath),
            ("http://a.test/", NotAPath),
            ("\\x", NotAPath),
            ("/a b", Control),
            ("/a\r\nX: y", Control),
            ("/a\0", Control),
            ("/a\u{7f}", Control),
            ("/%00", Control),
            ("/a%0d%0aFAKE", Control),
            ("/%7f", Control),
            ("/x?a b", Control),
            ("/x?a\n", Control),
            ("/%", BrokenEscape),
            ("/%2", BrokenEscape),
            ("/%zz", BrokenEscape),
            ("/%+1", BrokenEscape),
            ("/%2\u{fc}", BrokenEscape),
        ] {
            assert_eq!(normalised(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn a_fragment_is_cut_and_what_was_matched_goes_on() {
        let target = parse_target("/public#/../admin").unwrap();
        assert_eq!((target.normalised.as_ref(), target.onward(None).as_ref()), ("/public", "/public"));
        assert_eq!(parse_target("/a?b#c").unwrap().onward(None), "/a?b");
    }

    #[test]
    fn a_stripped_path_begins_with_exactly_one_slash() {
        for (raw, expected) in [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api?q", "/?q"),
            ("/api/x?q=%zz", "/x?q=%zz"),
            ("/api//evil.test/x", "/evil.test/x"),
            ("//api///x//y", "/x//y"),
            ("/%61p%69/http%3A%2F%2F", "/http%3A%2F%2F"),
            ("/api@evil.test/x", "/api@evil.test/x"),
            ("/apix", "/apix"),
            ("/API/x", "/API/x"),
            ("/", "/"),
        ] {
            assert_eq!(parse_target(raw).unwrap().onward(Some("/api")), expected, "{raw}");
        }
        assert_eq!(strip_prefix("/a/b/c", "/a/b"), Some("/c"));
        assert_eq!(strip_prefix("/a/bb", "/a/b"), None);
        assert_eq!(strip_prefix("/b\u{fc}/c", "/b%c3%bc"), Some("/c"));
        assert_eq!(strip_prefix("", ""), Some("/"));
        assert_eq!(strip_prefix("x", ""), None);
    }

    /// The slow way: decode everything, split, look.
    fn naive_has_dots(path: &str) -> bool {
        let mut decoded = Vec::new();
        let bytes = path.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match escape(&bytes[at..]).filter(|_| bytes[at] == b'%') {
                Some(byte) => {
                    decoded.push(byte);
                    at += 3;
                }
                None => {
                    decoded.push(bytes[at]);
                    at += 1;
                }
            }
        }
        decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            matches!(name, b"." | b"..")
        })
    }

    proptest! {
        #[test]
        fn dot_segments_are_found_as_the_naive_way_finds_them(
            parts in prop::collection::vec(prop::sample::select(vec![
                "/", "\\", "%2f", "%2F", "%5c", ".", "%2e", "%2E", ";", "%3b", "a", "%61", "//", "%25",
            ]), 0..12),
        ) {
            let path = format!("/{}", parts.concat());
            prop_assert_eq!(parse_target(&path).is_err(), naive_has_dots(&path), "{}", path);
        }

        #[test]
        fn normalising_is_idempotent_and_leaves_no_double_slash(raw in "/[a-z/%0-9A-F.;\u{e0}-\u{ff}]{0,24}") {
            if let Ok(target) = parse_target(&raw) {
                prop_assert_eq!(normalise(&target.normalised), target.normalised.as_ref());
                prop_assert!(!target.normalised.contains("//"));
                prop_assert!(target.normalised.is_ascii());
                prop_assert!(parse_target(&target.normalised).is_ok());
            }
        }

        #[test]
        fn what_is_left_of_a_stripped_path_is_a_path_that_passes(raw in "/[ab/%61.]{0,16}", prefix in "(/[ab]{1,2}){1,2}") {
            if let Ok(target) = parse_target(&raw)
                && let Some(rest) = strip_prefix(target.raw_path, &prefix)
            {
                prop_assert!(rest.starts_with('/') && !rest.starts_with("//"));
                prop_assert!(parse_target(rest).is_ok());
                let whole = format!("{}{}", prefix, if rest == "/" { "" } else { rest });
                let whole = normalise(&whole).into_owned();
                prop_assert_eq!(whole.trim_end_matches('/'), target.normalised.trim_end_matches('/'));
            }
        }
    }
}
