//! Path patterns and `strip_prefix`.
//!
//! Pure. Requests are matched on a normalised path (unreserved characters decoded, slashes collapsed, dot segments
//! refused; RFC 3986, sections 5.2.4 and 6.2.2), so a pattern that is not in that form could never match: it is
//! refused here, with the form that would.

use super::fault::Fault;
use crate::config::model::PathPattern;

/// Compiled size of a regular expression, in bytes: far more than a path needs, far less than would hurt.
const REGEX_SIZE: usize = 1 << 20;

/// `/ws` (prefix), `= /ws` (exact), `~ ^/v[0-9]+/ws$` (regular expression).
pub fn pattern(text: &str) -> Result<PathPattern, Fault> {
    if let Some(rest) = text.strip_prefix('=') {
        let path = rest.trim_start_matches(' ');
        return normal(path).map(|()| PathPattern::Exact(path.to_owned()));
    }
    if let Some(rest) = text.strip_prefix('~') {
        return regex(text, rest.trim_start_matches(' ')).map(PathPattern::Regex);
    }
    prefix(text, "the path").map(|()| PathPattern::Prefix(text.to_owned()))
}

/// Whole segments: `/`, or `/a/b` without a slash at the end.
pub fn prefix(text: &str, what: &str) -> Result<(), Fault> {
    if let Some(stem) = text.strip_suffix("/*").or_else(|| text.strip_suffix("/**"))
        && !stem.contains('*')
    {
        let stem = if stem.is_empty() { "/" } else { stem };
        return Err(Fault::new("bad-path", format!("{what} has no wildcards"))
            .help(format!("write \"{stem}\": it matches everything below as well")));
    }
    normal(text)?;
    if text.len() > 1 && text.ends_with('/') {
        return Err(Fault::new("bad-path", format!("{what} ends with a slash")).help(format!(
            "write \"{}\": it matches whole segments and everything below",
            text.trim_end_matches('/')
        )));
    }
    Ok(())
}

/// Whether `prefix` cuts whole segments off the front of `path`.
pub fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path is in the form that requests are matched in.
fn normal(path: &str) -> Result<(), Fault> {
    let bad = |message: &str| Fault::new("bad-path", message);
    if !path.starts_with('/') {
        return Err(bad("a path begins with `/`")
            .help("write \"/ws\" for everything below, \"= /ws\" for exactly that, \"~ ^/v[0-9]+/ws$\" for a regular expression"));
    }
    if path.contains(['?', '#']) {
        return Err(bad("a path holds neither query nor fragment").help("routes are chosen by the path alone"));
    }
    if path.contains("//") {
        return Err(bad("a path with an empty segment never matches").help("write single slashes"));
    }
    characters(path)?;
    for segment in path.split('/').flat_map(|s| s.split("%2F")).flat_map(|s| s.split("%5C")) {
        if matches!(segment.split(';').next(), Some("." | "..")) {
            return Err(bad("a path with `.` or `..` as a segment never matches: such requests are refused"));
        }
    }
    Ok(())
}

fn characters(path: &str) -> Result<(), Fault> {
    let mut chars = path.char_indices();
    while let Some((at, c)) = chars.next() {
        let fault = |message: String| Fault::new("bad-path", message).within(at..at + c.len_utf8());
        match c {
            '%' => {
                escape(path, at)?;
                chars.nth(1);
            }
            '{' | '}' | '<' | '>' | '*' => {
                return Err(fault(format!("`{c}` is no placeholder in a path")).help(
                    "a path matches everything below it; for more write a regular expression: \"~ ^/v[0-9]+/ws$\"",
                ));
            }
            c if c.is_ascii_graphic() && !"\"\\^`|".contains(c) => {}
            c => {
                let mut buffer = [0; 4];
                let escaped: String = c.encode_utf8(&mut buffer).bytes().map(|b| format!("%{b:02X}")).collect();
                return Err(fault(format!("{c:?} cannot stand in a path as it is")).help(format!("write {escaped}")));
            }
        }
    }
    Ok(())
}

fn escape(path: &str, at: usize) -> Result<(), Fault> {
    let raw = path.get(at..at + 3).unwrap_or("%");
    let fault = |message: String| Fault::new("bad-path", message).within(at..at + raw.len());
    let digits = raw.get(1..).filter(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
        return Err(
            fault("`%` must be followed by two hexadecimal digits".into()).help("write %25 for the sign itself")
        );
    };
    if byte.is_ascii_control() {
        return Err(fault("a path with control characters never matches: such requests are refused".into()));
    }
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        return Err(
            fault(format!("`{raw}` needs no escape, so it never matches")).help(format!("write {}", char::from(byte)))
        );
    }
    if raw.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(
            fault("escapes are matched in upper case".into()).help(format!("write {}", raw.to_ascii_uppercase()))
        );
    }
    Ok(())
}

fn regex(text: &str, pattern: &str) -> Result<regex::Regex, Fault> {
    if pattern.is_empty() {
        return Err(Fault::new("bad-regex", "the regular expression is missing").help("write \"~ ^/v[0-9]+/ws$\""));
    }
    regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Fault::new("bad-regex", "the regular expression is too large")
            .help("use smaller repetition counts, or several routes"),
        error => {
            let shown = error.to_string();
            let why = shown.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it cannot be read");
            let fault = Fault::new("bad-regex", format!("not a regular expression: {why}"));
            match caret(&shown, pattern) {
                Some(place) => {
                    let start = text.len() - pattern.len();
                    fault.within(start + place.start..start + place.end)
                }
                None => fault,
            }
        }
    })
}

/// The bytes of the pattern that the regex crate's message underlines, where that can be told.
fn caret(shown: &str, pattern: &str) -> Option<std::ops::Range<usize>> {
    const INDENT: usize = 4;
    let mut lines = shown.lines().skip_while(|line| line.get(INDENT..) != Some(pattern));
    lines.next()?;
    let marks = lines.next()?;
    let first = marks.find('^')?.checked_sub(INDENT)?;
    let count = marks[first + INDENT..].bytes().take_while(|b| *b == b'^').count();
    // Columns are characters; in ASCII these are the bytes.
    (pattern.is_ascii() && first + count <= pattern.len()).then_some(first..first + count)
}

#[cfg(test)]
mod tests {
    use super::{is_prefix, pattern};
    use crate::config::model::PathPattern;

    #[test]
    fn the_three_kinds_of_pattern_are_told_apart() {
        assert!(matches!(pattern("/ws"), Ok(PathPattern::Prefix(path)) if path == "/ws"));
        assert!(matches!(pattern("= /ws/"), Ok(PathPattern::Exact(path)) if path == "/ws/"));
        assert!(matches!(pattern("=/ws"), Ok(PathPattern::Exact(path)) if path == "/ws"));
        assert!(matches!(pattern("~ ^/v[0-9]+/ws$"), Ok(PathPattern::Regex(regex)) if regex.is_match("/v2/ws")));
        assert!(matches!(pattern(r"~ ^/v\d+$"), Ok(PathPattern::Regex(regex)) if regex.is_match("/v2")));
        assert!(pattern("/a;b=c/@x:y/%2Fz%20").is_ok());
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for text in [
            "",
            "ws",
            "/ws/",
            "/a//b",
            "/a/../b",
            "/./a",
            "/a/..;x",
            "/a%2F..",
            "/a?x",
            "/a#x",
            "/é",
            "/a b",
            "/%zz",
            "/%4",
            "/%",
            "/%é",
            "/%41",
            "/%2f",
            "/%00",
            "/a\\b",
            "/*",
            "/api/*",
            "/users/{id}",
            "= ws",
            "~",
            "~ (",
            "~ [",
            "~ (a{9999}){9999}",
            "/a\u{0}",
        ] {
            assert!(pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_broken_expression_is_underlined_at_its_place() {
        let fault = pattern("~ ^/v(x").err();
        assert_eq!(fault.and_then(|fault| fault.within), Some(5..6));
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert!(is_prefix("/ws", "/ws") && is_prefix("/ws", "/ws/x"));
        assert!(!is_prefix("/ws", "/wsx") && !is_prefix("/ws/x", "/ws"));
    }
}
