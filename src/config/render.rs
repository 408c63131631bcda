//! A report as the operator sees it: each problem with file, line and column, the line itself underlined, what is wrong
//! and what would be right; at the end one line that counts.
//!
//! Everything shown is made harmless first: control characters and characters that reorder text, from the file or its
//! name, never reach the terminal. Only the line that a problem begins on is shown, cut around the place if it is long,
//! so that the cost of a report grows with the number of problems and not with the size of the file.

use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Padding, Renderer, Snippet};

use super::report::{Problem, Report, Severity, Source, Spot};

/// More problems than this are counted and not shown.
const MOST: usize = 100;
/// Bytes of a line that are shown on either side of the place, where the line is longer than both.
const AROUND: usize = 100;

/// The whole report, ending in a line feed; empty where there is nothing to say. `color` writes ANSI escapes.
pub fn render(report: &Report, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut problems: Vec<&Problem> = report.problems.iter().collect();
    problems.sort_by_key(|problem| problem.spot.as_ref().map(|spot| (spot.file, spot.range.start)));
    let mut out = String::new();
    for problem in problems.iter().take(MOST) {
        out.push_str(&renderer.render(&[group(report, problem)]));
        out.push_str("\n\n");
    }
    if problems.len() > MOST {
        out.push_str(&format!("{} more are not shown\n\n", problems.len() - MOST));
    }
    if let Some(summary) = summary(report) {
        out.push_str(&summary);
        out.push('\n');
    }
    out
}

/// `3 errors, 1 warning in portcullis.toml`; `None` for an empty report.
pub fn summary(report: &Report) -> Option<String> {
    let count = |severity| report.problems.iter().filter(|problem| problem.severity == severity).count();
    let words = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let counts = [words(count(Severity::Error), "error"), words(count(Severity::Warning), "warning")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    if counts.is_empty() {
        return None;
    }
    let main = report.sources.first().map(|source| format!(" in {}", shown_path(source))).unwrap_or_default();
    let more = match report.sources.len() {
        0 | 1 => String::new(),
        2 => " and 1 included file".into(),
        many => format!(" and {} included files", many - 1),
    };
    Some(format!("{}{main}{more}", counts.join(", ")))
}

fn group<'a>(report: &Report, problem: &Problem) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(harmless(&problem.message)).id(problem.code));
    if let Some((spot, source)) = problem.spot.as_ref().and_then(|spot| Some((spot, source_of(report, spot)?))) {
        let line = Line::holding(&source.text, &spot.range);
        let also = problem.also.as_ref().and_then(|(also, label)| {
            let other = source_of(report, also)?;
            Some((also, other, Line::holding(&other.text, &also.range), harmless(label)))
        });
        group = group.elements(line.origin(source));
        let mut snippet = line.snippet(source).annotation(AnnotationKind::Primary.span(line.marked.clone()));
        match also {
            None => group = group.element(snippet),
            Some((also, _, other, label))
                if also.file == spot.file && other.text == line.text && other.number == line.number =>
            {
                snippet = snippet.annotation(AnnotationKind::Context.span(other.marked).label(label));
                group = group.element(snippet);
            }
            Some((_, other_source, other, label)) => {
                let second = other.snippet(other_source);
                let second = second.annotation(AnnotationKind::Context.span(other.marked.clone()).label(label));
                group = group.element(snippet).elements(other.origin(other_source)).element(second);
            }
        }
    }
    if let Some(help) = &problem.help {
        if problem.spot.is_some() {
            group = group.element(Padding);
        }
        group = group.element(Level::HELP.message(harmless(help)));
    }
    group
}

fn source_of<'r>(report: &'r Report, spot: &Spot) -> Option<&'r Source> {
    report.sources.get(spot.file)
}

/// The line that a place begins on, made harmless.
struct Line {
    /// From 1.
    number: usize,
    text: String,
    /// Characters of the line that are cut off before `text`.
    hidden: usize,
    /// The place within `text`.
    marked: Range<usize>,
}

impl Line {
    fn holding(text: &str, range: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(range.start.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line_end = line_start + text[line_start..line_end].trim_end_matches('\r').len();
        let start = start.min(line_end);
        let end = text.floor_char_boundary(range.end.clamp(start, line_end));
        let from = if start - line_start > 2 * AROUND { text.floor_char_boundary(start - AROUND) } else { line_start };
        let end = end.min(text.floor_char_boundary(start + AROUND));
        let to = if line_end - end > 2 * AROUND { text.floor_char_boundary(end + AROUND) } else { line_end };
        let before = format!("{}{}", if from > line_start { "…" } else { "" }, harmless(&text[from..start]));
        let marked = harmless(&text[start..end]);
        let after = format!("{}{}", harmless(&text[end..to]), if to < line_end { "…" } else { "" });
        Self {
            number: 1 + text.as_bytes()[..line_start].iter().filter(|byte| **byte == b'\n').count(),
            hidden: text[line_start..from].chars().count(),
            marked: before.len()..before.len() + marked.len(),
            text: before + &marked + &after,
        }
    }
}

impl Line {
    fn snippet<'a>(&self, source: &Source) -> Snippet<'a, Annotation<'a>> {
        let snippet = Snippet::source(self.text.clone()).line_start(self.number);
        // Of a line that is cut, the column would count from the cut: its place is given by `origin`.
        if self.hidden == 0 { snippet.path(shown_path(source)) } else { snippet }
    }

    fn origin<'a>(&self, source: &Source) -> Option<Origin<'a>> {
        // The ellipsis counts for the one that columns begin with.
        let column = self.hidden + self.text[..self.marked.start].chars().count();
        (self.hidden > 0).then(|| Origin::path(shown_path(source)).line(self.number).char_column(column))
    }
}

fn shown_path(source: &Source) -> String {
    harmless(&source.path.to_string_lossy())
}

/// Replaces what a terminal would obey or a reader could not see: control characters (C0 but for the tab, DEL, C1),
/// line separators, zero-width and bidirectional formatting.
fn harmless(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::config::report::{Report, Source, Spot};

    fn shown(text: &str, range: std::ops::Range<usize>) -> String {
        let mut report = Report::default();
        report.sources.push(Source { path: "a\u{1b}.toml".into(), text: text.to_owned() });
        report.error("test", &Spot { file: 0, range }, "message \u{1b}[31m\nx").help("help\u{9b}");
        render(&report, false)
    }

    #[test]
    fn what_a_terminal_would_obey_never_reaches_it() {
        let out = shown("key = \"\u{1b}[2J\u{9b}\u{202e}\u{7f}\u{0}\" # \u{200b}\r\n", 0..3);
        assert!(
            !out.chars().any(|c| (c.is_control() && c != '\n') || ('\u{200b}'..='\u{202e}').contains(&c)),
            "{out:?}"
        );
    }

    #[test]
    fn a_place_may_be_anywhere_even_where_the_text_has_none() {
        for text in ["", "é", "a\r\nb", "\n\n", &"é".repeat(5000)] {
            for start in [0, 1, 2, 3, 4999, 5000, 9999, usize::MAX] {
                for end in [start, start.saturating_add(1), start.saturating_add(300), 0] {
                    assert!(!shown(text, start..end).is_empty());
                }
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("a = \"{}\" x \"{}\"", "b".repeat(10_000), "c".repeat(10_000));
        let out = shown(&text, 10_007..10_008);
        assert!(out.len() < 1500 && out.contains(":1:10008"), "{out}");
    }

    #[test]
    fn a_flood_of_problems_is_counted_and_not_shown() {
        let mut report = Report::default();
        for _ in 0..1000 {
            report.error_anywhere("test", "flood");
        }
        let out = render(&report, false);
        assert!(out.contains("900 more are not shown") && out.contains("1000 errors"), "{out}");
    }
}
