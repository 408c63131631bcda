//! What is seen: numbers with their past, the table, a line at the bottom, and what lies over them. Draws within whatever
//! there is, however small, in the terminal's own colours.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as Cells, Sparkline, Table, TableState, Wrap};

use super::line::Line;
use super::shapes::Row;
use super::state::{Closing, Mode, NUMBERS, PAST, Rates, SortBy, State};
use crate::cli::operate::table::{bytes, duration};

const ACCENT: Color = Color::Cyan;
const BAD: Color = Color::Red;
const SOFT: Style = Style::new().fg(Color::DarkGray);

/// Lines of the numbers, where there is room for them.
const NUMBERS_HEIGHT: u16 = 4;
/// Less than this is left to the table.
const LOW: u16 = 12;

const HELP: &[(&str, &str)] = &[
    ("↑ ↓ PgUp PgDn", "choose a tunnel"),
    ("m b a i r", "sort by messages/s, bytes/s, age, idle, rtt"),
    ("s", "the next of these"),
    ("/", "filter, as for portcullis ps"),
    ("k", "close the chosen tunnel, after a question"),
    ("p, space", "hold the table still"),
    ("?", "this help"),
    ("q, Esc", "end"),
];

pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    let numbers = if area.height >= LOW { NUMBERS_HEIGHT } else { 1.min(area.height.saturating_sub(3)) };
    let [head, plots, table, foot] = Layout::vertical([
        Constraint::Length(1.min(area.height)),
        Constraint::Length(numbers),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, state);
    if numbers == NUMBERS_HEIGHT {
        draw_numbers(frame, plots, state)
    } else {
        draw_numbers_in_brief(frame, plots, state)
    }
    draw_table(frame, table, state);
    match &state.mode {
        Mode::Filter(line, wrong) => draw_filter(frame, foot, line, wrong),
        _ => draw_foot(frame, foot, state),
    }
    match &state.mode {
        Mode::Help => draw_help(frame, area),
        Mode::Kill(closing) => draw_kill(frame, area, closing),
        Mode::Looking | Mode::Filter(..) => {}
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let status = &state.status;
    let phase = if state.is_stale { "no answer" } else { status.phase.as_str() };
    let colour = match phase {
        "running" => Color::Green,
        "draining" => Color::Yellow,
        _ => BAD,
    };
    let mut words = vec![
        Span::from("portcullis ").bold(),
        Span::from(status.version.as_str().to_owned()),
        Span::from("  ● ").fg(colour),
        Span::from(phase.to_owned()).fg(colour).bold(),
        Span::from(format!("  up {}  generation {}", duration(status.uptime_ms), status.configuration.generation)),
    ];
    if let Some(left) = status.drain_left_ms {
        words.push(Span::from(format!("  {} left", duration(left))).fg(Color::Yellow));
    }
    if status.configuration.refused > 0 {
        words.push(Span::from(format!("  {} reloads refused", status.configuration.refused)).fg(BAD));
    }
    words.push(Span::styled(format!("  {}", state.place), SOFT));
    frame.render_widget(Text::from(words), area);
}

fn draw_numbers(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let columns = Layout::horizontal([Constraint::Fill(1); 6]).spacing(2).split(area);
    for (at, column) in columns.iter().enumerate() {
        let [name, plot] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(*column);
        let shown = Text::from(vec![
            Span::from(format!("{} ", shown(at, state.numbers[at]))).bold(),
            Span::styled(NUMBERS[at], SOFT),
        ]);
        frame.render_widget(shown, name);
        let past = &state.past[at];
        let width = usize::from(plot.width).min(PAST);
        // The newest to the right.
        let mut values = vec![0; width.saturating_sub(past.len())];
        values.extend(past.iter().skip(past.len().saturating_sub(width)));
        let [plot, _] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(plot);
        let colour = if at == NUMBERS.len() - 1 { BAD } else { ACCENT };
        frame.render_widget(Sparkline::default().data(&values).style(Style::new().fg(colour)), plot);
    }
}

fn draw_numbers_in_brief(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let words = NUMBERS.iter().enumerate().flat_map(|(at, name)| {
        [Span::from(shown(at, state.numbers[at])).bold(), Span::styled(format!(" {name}  "), SOFT)]
    });
    frame.render_widget(Text::from(words.collect::<Vec<_>>()), area);
}

fn shown(which: usize, number: Option<f64>) -> String {
    match (which, number) {
        (_, None) => "-".to_owned(),
        (4, Some(rate)) => bytes(rate as u64),
        (_, Some(rate)) => short(rate),
    }
}

/// `0.3`, `12`, `4521`, `12.3k`
fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 10.0 || rate.fract() == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// Head, key where it sorts, width, from which width of the terminal on, whether of numbers.
type Column = (&'static str, Option<SortBy>, Constraint, u16, bool);

const COLUMNS: [Column; 11] = [
    ("ID", None, Constraint::Length(8), 0, true),
    ("CLIENT", None, Constraint::Fill(3), 0, false),
    ("ROUTE", None, Constraint::Fill(2), 44, false),
    ("SERVER", None, Constraint::Fill(4), 80, false),
    ("STATE", None, Constraint::Length(8), 104, false),
    ("MSG/S", Some(SortBy::Messages), Constraint::Length(7), 0, true),
    ("BYTES/S", Some(SortBy::Bytes), Constraint::Length(9), 34, true),
    ("AGE", Some(SortBy::Age), Constraint::Length(7), 54, true),
    ("IDLE", Some(SortBy::Idle), Constraint::Length(7), 62, true),
    ("RTT", Some(SortBy::RoundTrip), Constraint::Length(8), 70, true),
    ("MESSAGES", None, Constraint::Length(9), 120, true),
];

fn cells(row: &Row, rates: &Rates) -> [String; 11] {
    let word = |word: &Option<super::shapes::Word>| word.as_ref().map_or("-", |word| word.as_str()).to_owned();
    let nothing = || "-".to_owned();
    [
        row.id.to_string(),
        row.who().to_owned(),
        word(&row.route),
        word(&row.server),
        row.state.as_str().to_owned(),
        rates.messages.map_or_else(nothing, short),
        rates.bytes.map_or_else(nothing, |rate| bytes(rate as u64)),
        duration(row.age_ms),
        duration(row.idle_ms),
        row.rtt_us.map_or_else(nothing, |micros| format!("{:.1}ms", micros as f64 / 1000.0)),
        row.messages().map_or_else(nothing, |count| count.to_string()),
    ]
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &mut State) {
    let is_shown = |column: &Column| area.width >= column.3;
    let aligned = |text: String, is_number: bool| {
        Text::from(text).alignment(if is_number { Alignment::Right } else { Alignment::Left })
    };
    let heads = COLUMNS.iter().filter(|column| is_shown(column)).map(|(head, sort, _, _, is_number)| {
        let is_sorted = *sort == Some(state.sort);
        let text = if is_sorted { format!("{head}↓") } else { (*head).to_owned() };
        let style = if is_sorted { Style::new().fg(ACCENT).add_modifier(Modifier::BOLD) } else { SOFT };
        Cell::from(aligned(text, *is_number)).style(style)
    });
    // What does not fit is not made.
    state.page = usize::from(area.height.saturating_sub(1)).max(1);
    let at = state.place();
    let first = at.saturating_sub(state.page / 2).min(state.rows.len().saturating_sub(state.page));
    let rows = state.rows.iter().skip(first).take(state.page).map(|(row, rates)| {
        let cells = cells(row, rates).into_iter().zip(&COLUMNS).filter(|(_, column)| is_shown(column));
        let is_idle = rates.bytes.is_some_and(|rate| rate == 0.0);
        let style = if row.state.as_str() != "open" {
            Style::new().fg(Color::Yellow)
        } else if is_idle {
            SOFT
        } else {
            Style::new()
        };
        Cells::new(cells.map(|(text, column)| Cell::from(aligned(text, column.4))).collect::<Vec<_>>()).style(style)
    });
    let widths: Vec<_> = COLUMNS.iter().filter(|column| is_shown(column)).map(|column| column.2).collect();
    let table = Table::new(rows.collect::<Vec<_>>(), widths)
        .header(Cells::new(heads.collect::<Vec<_>>()))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let selected = (!state.rows.is_empty()).then(|| at - first);
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(selected));
    if state.rows.is_empty() && area.height > 1 {
        let words = if state.filter.is_empty() { "no tunnels" } else { "no tunnel matches" };
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new(words).style(SOFT), below);
    }
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let mut words = Vec::new();
    if state.is_paused {
        words.push(Span::from(" held still ").fg(Color::Black).bg(Color::Yellow));
        words.push(Span::from(" "));
    }
    if let Some((news, is_bad)) = &state.news {
        let first = news.lines().next().unwrap_or_default().to_owned();
        words.push(Span::from(first).fg(if *is_bad { BAD } else { Color::Green }));
        words.push(Span::from("  "));
    }
    let shown = state.rows.len() as u64;
    let more = if state.matched > shown {
        format!("{shown} of {} tunnels", state.matched)
    } else {
        format!("{shown} tunnels")
    };
    words.push(Span::from(more));
    if state.silent_workers > 0 {
        words.push(Span::from(format!("  {} workers have not answered", state.silent_workers)).fg(BAD));
    }
    if !state.filter.is_empty() {
        words.push(Span::from(format!("  {}", super::super::plain(&state.filter))).fg(ACCENT));
    }
    words.push(Span::styled("   / filter  s sort  k close  p hold  ? help  q quit", SOFT));
    frame.render_widget(Text::from(words), area);
}

fn draw_filter(frame: &mut Frame<'_>, area: Rect, line: &Line, wrong: &str) {
    let mut words = vec![Span::from("filter: ").fg(ACCENT).bold(), Span::from(line.text())];
    if !wrong.is_empty() {
        words.push(Span::from(format!("   {}", super::super::plain(wrong))).fg(BAD));
    }
    frame.render_widget(Text::from(words), area);
    set_cursor(frame, area, 8, line);
}

/// After what stands before the cursor, as wide as that is.
fn set_cursor(frame: &mut Frame<'_>, area: Rect, from: u16, line: &Line) {
    let typed = u16::try_from(Span::from(line.before()).width()).unwrap_or(u16::MAX);
    let x = area.x.saturating_add(from).saturating_add(typed).min(area.right().saturating_sub(1));
    if !area.is_empty() {
        frame.set_cursor_position(Position::new(x, area.y));
    }
}

/// A box in the middle, or as much of it as there is room for.
fn in_the_middle(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let place = in_the_middle(area, 64, HELP.len() as u16 + 2);
    let lines = HELP
        .iter()
        .map(|(keys, what)| Text::from(vec![Span::from(format!(" {keys:<15}")).fg(ACCENT).bold(), Span::from(*what)]));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(Block::bordered().title(" Keys ")), place);
}

fn draw_kill(frame: &mut Frame<'_>, area: Rect, closing: &Closing) {
    let place = in_the_middle(area, 72, 8);
    let block = Block::bordered().title(format!(" Close tunnel {}? ", closing.id)).border_style(Style::new().fg(BAD));
    let inside = block.inner(place);
    let marked = |is_here: bool| if is_here { Style::new().fg(ACCENT).bold() } else { SOFT };
    let lines = vec![
        Text::from(closing.who.clone()),
        Text::default(),
        Text::from(vec![Span::styled("code    ", marked(!closing.is_at_reason)), Span::from(closing.code.text())]),
        Text::from(vec![Span::styled("reason  ", marked(closing.is_at_reason)), Span::from(closing.reason.text())]),
        Text::from(closing.wrong.clone()).fg(BAD),
        Text::from("Enter closes it, Tab goes to the other field, Esc keeps it").style(SOFT),
    ];
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), place);
    let (line, row) = if closing.is_at_reason { (&closing.reason, 3) } else { (&closing.code, 2) };
    let field = Rect { y: inside.y.saturating_add(row), height: 1, ..inside }.intersection(inside);
    set_cursor(frame, field, 8, line);
}
