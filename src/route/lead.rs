//! The literal beginning of a regular expression: what a path must begin with to match it.

/// The text behind a leading `^` up to the first special character; empty where nothing is certain.
/// The second value tells whether everything that begins with it matches.
pub(super) fn lead(pattern: &str) -> (String, bool) {
    let none = (String::new(), matches!(pattern, "" | ".*" | "^" | "^.*" | ".*$" | "^.*$"));
    let Some(rest) = pattern.strip_prefix('^') else { return none };
    // With an alternative beside it, nothing behind `^` is certain. Alternatives within groups come after a special
    // character anyway, so taking every `|` for one only costs a longer lead.
    if rest.contains('|') {
        return none;
    }
    let mut lead = String::new();
    let mut chars = rest.char_indices().peekable();
    while let Some((at, mut literal)) = chars.next() {
        match literal {
            '\\' => match chars.peek() {
                // Escaped punctuation is literal; escaped letters are classes and assertions.
                Some((_, escaped)) if escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>') => {
                    literal = *escaped;
                    chars.next();
                }
                _ => return (lead, false),
            },
            '.' | '[' | '(' | '$' | '^' | '?' | '*' | '+' | '{' | ')' | ']' | '}' => {
                let open = matches!(&rest[at..], ".*" | ".*$");
                return (lead, open);
            }
            _ => {}
        }
        match chars.peek() {
            // The character before may be missing.
            Some((_, '?' | '*' | '{')) => return (lead, false),
            // So may what is repeated twice: `a+*` is `(a+)*`.
            Some((plus, '+')) if rest[plus + 1..].starts_with(['?', '*', '{', '+']) => return (lead, false),
            _ => lead.push(literal),
        }
    }
    (lead, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lead_ends_before_the_first_special_character() {
        for (pattern, expected, open) in [
            ("^/api/v[0-9]+/ws$", "/api/v", false),
            ("^/ws$", "/ws", false),
            ("^/ws", "/ws", true),
            ("^/ws.*", "/ws", true),
            ("^/ws.*$", "/ws", true),
            ("^/ws.", "/ws", false),
            (r"^/a\.b\-c/", "/a.b-c/", true),
            (r"^/a\d", "/a", false),
            (r"^/a\b", "/a", false),
            ("^/ab?c", "/a", false),
            ("^/ab*c", "/a", false),
            ("^/ab{2}c", "/a", false),
            ("^/ab+c", "/ab", false),
            ("^/ab+*c", "/a", false),
            ("^/ab+{0}c", "/a", false),
            ("^/(ws|chat)$", "", false),
            ("^/a|/b", "", false),
            ("(?i)^/ws", "", false),
            ("^(?:/a)", "", false),
            (r"\.png$", "", false),
            ("/ws", "", false),
            (".*", "", true),
            ("^", "", true),
        ] {
            assert_eq!(lead(pattern), (expected.to_owned(), open), "{pattern}");
        }
    }

    proptest! {
        /// Held against the regex crate: a match begins with the lead, and an open lead matches whatever follows.
        #[test]
        fn every_match_begins_with_the_lead(
            parts in prop::collection::vec(prop::sample::select(vec![
                "/", "a", "b", "\\.", ".", ".*", "[ab]", "(a)", "(a|b)", "?", "*", "+", "{2}", "$", "|", "\\d", "\\-",
            ]), 0..7),
            path in "/[ab./-]{0,6}",
        ) {
            let pattern = format!("^{}", parts.concat());
            if let Ok(regex) = regex::Regex::new(&pattern) {
                let (lead, open) = lead(&pattern);
                if regex.is_match(&path) {
                    prop_assert!(path.starts_with(&lead), "{pattern} {path} {lead}");
                }
                if open {
                    let below = format!("{lead}{path}");
                    prop_assert!(regex.is_match(&below), "{pattern} {below}");
                }
            }
        }
    }
}
