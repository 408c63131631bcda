//! Just enough JSON for the demo: strings written with their escapes (RFC 8259 7). Nothing here reads JSON; what the
//! page sends is plain text. TOML reads the same escapes in its basic strings, which is why DEL is escaped too.

/// `text` as a JSON string, quotes included.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control < ' ' || control == '\u{7f}' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The elements as a JSON array of strings.
pub fn array<'a>(elements: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = elements.into_iter().map(quote).collect();
    format!("[{}]", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::{array, quote};

    #[test]
    fn what_is_written_reads_back_the_same() {
        let hostile: String =
            (0..0x300).filter_map(char::from_u32).chain("\u{2028}\u{1f600}\"\\</script>".chars()).collect();
        assert_eq!(serde_json::from_str::<String>(&quote(&hostile)).unwrap(), hostile);
        assert_eq!(serde_json::from_str::<Vec<String>>(&array(["a", "\"", ""])).unwrap(), ["a", "\"", ""]);
    }
}
