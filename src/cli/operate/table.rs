//! A table that fits a terminal: columns as wide as they must be, the widest cut where there is not room for all.

use std::io::IsTerminal;

use super::plain;

/// Where nobody knows how wide the terminal is.
const USUAL: usize = 80;
/// No column is cut further.
const NARROW: usize = 8;

/// Rows beneath their heads.
pub struct Table {
    heads: Vec<&'static str>,
    /// Whether a column holds numbers, which stand to the right.
    is_number: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A head that begins with `#` is one of numbers.
    pub fn new(heads: &[&'static str]) -> Self {
        let is_number = heads.iter().map(|head| head.starts_with('#')).collect();
        Self { heads: heads.iter().map(|head| head.trim_start_matches('#')).collect(), is_number, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// No wider than `width`, where there is one.
    pub fn render(&self, width: Option<usize>) -> String {
        let columns = self.heads.len();
        let length = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| length(cell)).chain([length(self.heads[column])]).max().unwrap_or(0)
            })
            .collect();
        if let Some(width) = width {
            let mut total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            while total > width {
                let widest =
                    (0..columns).filter(|column| !self.is_number[*column]).max_by_key(|column| widths[*column]);
                let Some(widest) = widest.filter(|column| widths[*column] > NARROW) else { break };
                widths[widest] -= 1;
                total -= 1;
            }
        }
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate().take(columns) {
                let width = widths[column];
                let cell = cut(cell, width);
                if column > 0 {
                    line.push_str("  ");
                }
                line += &if self.is_number[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Of the terminal that stdout is; `None` where it is none, and nothing has to be cut.
pub fn width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
    Some(size.filter(|columns| *columns > 0).unwrap_or(USUAL))
}

/// `1.5KiB`
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{count}B") } else { format!("{size:.1}{unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1}TiB")
}

/// `12ms`, `3.4s`, `5m06s`, `7h08m`, `9d10h`
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}.{}s", millis % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["#ID", "SERVER", "#BYTES"]);
        table.row(vec!["1".into(), "ws://a-server-with-a-long-name.internal:9000".into(), "12".into()]);
        table.row(vec!["123".into(), "ws\u{1b}[2J://é".into(), "7".into()]);
        table
    }

    #[test]
    fn a_table_is_as_wide_as_it_must_be_and_no_wider_than_the_terminal() {
        let whole = table().render(None);
        assert!(whole.contains("  1  ws://a-server-with-a-long-name.internal:9000     12\n"), "{whole}");
        let cut = table().render(Some(30));
        assert!(cut.lines().all(|line| line.chars().count() <= 30), "{cut}");
        assert!(cut.contains("…") && !cut.contains('\u{1b}'), "{cut}");
        assert_eq!(cut.lines().next(), Some(" ID  SERVER              BYTES"), "{cut}");
        table().render(Some(0));
        Table::new(&[]).render(Some(10));
    }

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!([0, 1023, 1536, 1 << 20, u64::MAX].map(bytes), ["0B", "1023B", "1.5KiB", "1.0MiB", "16777216.0TiB"]);
        let shown = [12, 3_450, 306_000, 25_680_000, 813_600_000].map(duration);
        assert_eq!(shown, ["12ms", "3.4s", "5m06s", "7h08m", "9d10h"]);
    }
}
