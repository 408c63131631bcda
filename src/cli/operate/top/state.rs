//! What is known of the gateway, what is meant by the keys, and what becomes of both. Pure: nothing here asks or draws.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::asker::{Kill, Told, Wanted};
use super::line::Line;
use super::shapes::{List, Row, Status, Totals};

/// Tunnels that are asked for: of those, and of no others, rates are known.
const MOST: usize = 2000;

/// Values of a small plot.
pub const PAST: usize = 240;

/// What a Close says where nobody says otherwise.
const CODE: &str = "1008";

/// By what the table is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// In a second, as is the next.
    Messages,
    Bytes,
    Age,
    Idle,
    RoundTrip,
}

impl SortBy {
    pub const ALL: [Self; 5] = [Self::Messages, Self::Bytes, Self::Age, Self::Idle, Self::RoundTrip];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::RoundTrip => "rtt",
        }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| known.as_str() == text);
        known.ok_or_else(|| format!("sort by one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }

    /// The order in which the gateway is asked. It does not know rates; those that have them are not idle.
    fn asked(self) -> &'static str {
        match self {
            Self::Messages | Self::Bytes => "idle:asc",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::RoundTrip => "rtt",
        }
    }
}

/// In a second; `None`: not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub messages: Option<f64>,
    pub bytes: Option<f64>,
}

/// What the keys mean at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Looking,
    Help,
    /// What is typed, and what is wrong with it.
    Filter(Line, String),
    Kill(Closing),
}

/// A tunnel that is about to be closed, if somebody says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    pub id: u64,
    pub who: String,
    pub code: Line,
    pub reason: Line,
    pub is_at_reason: bool,
    pub wrong: String,
}

/// What has to be done for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Quit,
    /// Something else is wanted.
    Ask,
    Kill(Kill),
}

/// The numbers above the table.
pub const NUMBERS: [&str; 6] = ["tunnels", "connections", "requests/s", "messages/s", "bytes/s", "refused/s"];

pub struct State {
    pub place: String,
    pub status: Status,
    pub rows: Vec<(Row, Rates)>,
    pub matched: u64,
    pub silent_workers: u64,
    pub filter: String,
    /// The last one that the gateway has understood.
    understood: String,
    pub sort: SortBy,
    pub mode: Mode,
    pub is_paused: bool,
    /// The id of the tunnel that is chosen.
    pub chosen: Option<u64>,
    /// Rows that fit on a page, as drawn last.
    pub page: usize,
    /// What has happened last, and whether it is bad news.
    pub news: Option<(String, bool)>,
    /// Nobody answers; what is shown is old.
    pub is_stale: bool,
    /// The last values of each number; `None`: not known.
    pub numbers: [Option<f64>; 6],
    pub past: [VecDeque<u64>; 6],
    before: HashMap<u64, Row>,
    turn: u64,
}

impl State {
    pub fn new(place: String, filter: String, sort: SortBy) -> Self {
        Self {
            place,
            status: Status::default(),
            rows: Vec::new(),
            matched: 0,
            silent_workers: 0,
            understood: filter.clone(),
            filter,
            sort,
            mode: Mode::Looking,
            is_paused: false,
            chosen: None,
            page: 1,
            news: None,
            is_stale: false,
            numbers: [None; 6],
            past: Default::default(),
            before: HashMap::new(),
            turn: 0,
        }
    }

    pub fn wanted(&self) -> Wanted {
        Wanted { filter: self.filter.clone(), sort: self.sort.asked(), limit: MOST, turn: self.turn }
    }

    pub fn note(&mut self, told: Told) {
        match told {
            Told::Numbers { status, list, turn } => self.note_numbers(*status, list, turn),
            Told::Trouble(why) => {
                self.is_stale = true;
                self.news = Some((why, true));
            }
            Told::Misunderstood { why, turn } if turn == self.turn => self.doubt(&why),
            Told::Misunderstood { .. } => {}
            Told::Killed { id, closed: 0 } => self.news = Some((format!("tunnel {id} had ended already"), true)),
            Told::Killed { id, .. } => self.news = Some((format!("tunnel {id} is being closed"), false)),
            Told::NotKilled(why) => self.news = Some((why, true)),
        }
    }

    fn note_numbers(&mut self, status: Status, list: List, turn: u64) {
        if self.is_stale {
            self.is_stale = false;
            let is_other = status.started != self.status.started;
            let words = if is_other { "the gateway was started again" } else { "the gateway answers again" };
            self.news = Some((words.to_owned(), false));
        }
        self.count(&status);
        self.status = status;
        // An answer to what is not asked any more, or that nobody wants to see now.
        if turn == self.turn {
            self.understood.clone_from(&self.filter);
            if !self.is_paused {
                self.note_tunnels(list);
            }
        }
    }

    fn count(&mut self, status: &Status) {
        let before = &self.status;
        let is_same = before.started == status.started && before.uptime_ms < status.uptime_ms;
        let seconds = status.uptime_ms.saturating_sub(before.uptime_ms) as f64 / 1000.0;
        let totals = before.totals.zip(status.totals).filter(|_| is_same);
        let rate = |of: fn(&Totals) -> u64| {
            let (before, now) = totals?;
            of(&now).checked_sub(of(&before)).map(|more| more as f64 / seconds)
        };
        self.numbers = [
            Some(status.tunnels as f64),
            Some(status.connections.open as f64),
            rate(|totals| totals.requests),
            rate(|totals| totals.messages_in.saturating_add(totals.messages_out)),
            rate(|totals| totals.bytes_in.saturating_add(totals.bytes_out)),
            rate(|totals| totals.handshakes_refused),
        ];
        for (past, number) in self.past.iter_mut().zip(self.numbers) {
            if past.len() >= PAST {
                past.pop_front();
            }
            // With tenths: what is drawn has no digits.
            past.push_back(number.map_or(0, |number| (number * 10.0) as u64));
        }
    }

    fn note_tunnels(&mut self, list: List) {
        let rates = |row: &Row| {
            let Some(before) = self.before.get(&row.id).filter(|before| before.age_ms < row.age_ms) else {
                return Rates::default();
            };
            let seconds = (row.age_ms - before.age_ms) as f64 / 1000.0;
            let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            Rates {
                messages: row.messages().zip(before.messages()).map(|(now, before)| per_second(now, before)),
                bytes: Some(per_second(row.bytes(), before.bytes())),
            }
        };
        let rows: Vec<_> =
            list.tunnels.into_iter().map(|row| (rates(&row), row)).map(|(rates, row)| (row, rates)).collect();
        self.before = rows.iter().map(|(row, _)| (row.id, row.clone())).collect();
        self.rows = rows;
        (self.matched, self.silent_workers) = (list.matched, list.silent_workers);
        self.order();
    }

    fn order(&mut self) {
        // Tenths: what differs by less is in the order of the numbers, and stays there.
        let tenths = |rate: Option<f64>| rate.map(|rate| (rate * 10.0) as u64);
        match self.sort {
            SortBy::Messages => self.rows.sort_by_key(|(row, rates)| (Reverse(tenths(rates.messages)), row.id)),
            SortBy::Bytes => self.rows.sort_by_key(|(row, rates)| (Reverse(tenths(rates.bytes)), row.id)),
            SortBy::Age => self.rows.sort_by_key(|(row, _)| (Reverse(row.age_ms), row.id)),
            SortBy::Idle => self.rows.sort_by_key(|(row, _)| (Reverse(row.idle_ms), row.id)),
            SortBy::RoundTrip => self.rows.sort_by_key(|(row, _)| (Reverse(row.rtt_us), row.id)),
        }
    }

    /// Where the chosen tunnel stands; the first one where it is gone.
    pub fn place(&self) -> usize {
        let chosen = self.chosen.and_then(|id| self.rows.iter().position(|(row, _)| row.id == id));
        chosen.unwrap_or(0)
    }

    pub fn press(&mut self, key: KeyEvent) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        match std::mem::replace(&mut self.mode, Mode::Looking) {
            Mode::Looking => self.press_looking(key),
            // Whatever is pressed.
            Mode::Help => Action::None,
            Mode::Filter(line, _) => self.press_filter(key, line),
            Mode::Kill(closing) => self.press_kill(key, closing),
        }
    }

    fn press_looking(&mut self, key: KeyEvent) -> Action {
        // Another key altogether, or none: at the end of its input a terminal may say so with one of these.
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            return Action::None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter(Line::new(&self.filter), String::new()),
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                return if self.is_paused { Action::None } else { Action::Ask };
            }
            KeyCode::Char('k') => self.begin_kill(),
            KeyCode::Char('s') => {
                let at = SortBy::ALL.iter().position(|known| *known == self.sort).unwrap_or(0);
                return self.sort_by(SortBy::ALL[(at + 1) % SortBy::ALL.len()]);
            }
            KeyCode::Char('m') => return self.sort_by(SortBy::Messages),
            KeyCode::Char('b') => return self.sort_by(SortBy::Bytes),
            KeyCode::Char('a') => return self.sort_by(SortBy::Age),
            KeyCode::Char('i') => return self.sort_by(SortBy::Idle),
            KeyCode::Char('r') => return self.sort_by(SortBy::RoundTrip),
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-(self.page.cast_signed())),
            KeyCode::PageDown => self.step(self.page.cast_signed()),
            KeyCode::Home => self.chosen = None,
            KeyCode::End => self.chosen = self.rows.last().map(|(row, _)| row.id),
            _ => {}
        }
        Action::None
    }

    fn step(&mut self, by: isize) {
        let to = self.place().saturating_add_signed(by).min(self.rows.len().saturating_sub(1));
        // The first place is nobody's: whoever comes first stands there.
        self.chosen = self.rows.get(to).filter(|_| to > 0).map(|(row, _)| row.id);
    }

    fn sort_by(&mut self, sort: SortBy) -> Action {
        self.sort = sort;
        self.order();
        self.ask_anew()
    }

    fn ask_anew(&mut self) -> Action {
        self.turn += 1;
        self.is_paused = false;
        Action::Ask
    }

    fn begin_kill(&mut self) {
        let Some((row, _)) = self.rows.get(self.place()) else { return };
        let way = [row.route.as_ref(), row.server.as_ref()].into_iter().flatten().map(|word| word.as_str());
        let way = way.fold(String::new(), |way, word| way + " → " + word);
        self.mode = Mode::Kill(Closing {
            id: row.id,
            who: format!("{}{way}", row.who()),
            code: Line::new(CODE),
            reason: Line::default(),
            is_at_reason: false,
            wrong: String::new(),
        });
    }

    /// Back to the filter that was, with the other one at hand to be mended.
    fn doubt(&mut self, why: &str) {
        let typed = std::mem::replace(&mut self.filter, self.understood.clone());
        self.turn += 1;
        if self.mode == Mode::Looking {
            let why = why.lines().map(str::trim).collect::<Vec<_>>().join(": ");
            self.mode = Mode::Filter(Line::new(&typed), why);
        }
    }

    fn press_filter(&mut self, key: KeyEvent, mut line: Line) -> Action {
        match key.code {
            KeyCode::Esc => Action::None,
            KeyCode::Enter => {
                self.filter = line.text().trim().to_owned();
                self.chosen = None;
                self.ask_anew()
            }
            _ => {
                line.press(key);
                self.mode = Mode::Filter(line, String::new());
                Action::None
            }
        }
    }

    fn press_kill(&mut self, key: KeyEvent, mut closing: Closing) -> Action {
        match key.code {
            KeyCode::Esc => return Action::None,
            KeyCode::Enter => match closing.code.text().parse() {
                Ok(code) => return Action::Kill(Kill { id: closing.id, code, reason: closing.reason.text() }),
                Err(_) => {
                    closing.wrong = "the code is a number: 1000, 1001, 1008, 1012, 1013, or 3000 to 4999".to_owned()
                }
            },
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Up | KeyCode::Down => {
                closing.is_at_reason = !closing.is_at_reason
            }
            _ if closing.is_at_reason => closing.reason.press(key),
            _ => closing.code.press(key),
        }
        self.mode = Mode::Kill(closing);
        Action::None
    }
}
