//! Keys, rates and rows, and what is drawn of them on terminals of any size.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::asker::{Kill, Told};
use super::shapes::{List, Status};
use super::state::{Action, Mode, SortBy, State};
use super::{interval, screen};

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

fn type_in(state: &mut State, text: &str) -> Action {
    text.chars().map(|letter| state.press(key(KeyCode::Char(letter)))).last().unwrap_or(Action::None)
}

fn status(uptime_ms: u64, messages: u64) -> Status {
    let status = json!({
        "version": "0.1.0", "phase": "running", "started": "2026-01-01T00:00:00Z", "uptime_ms": uptime_ms,
        "tunnels": 3, "connections": { "open": 5, "max": 100 }, "configuration": { "generation": 2, "refused": 0 },
        "totals": { "requests": 9, "messages_in": messages, "bytes_in": messages * 100 }, "what else": [1],
    });
    serde_json::from_value(status).expect("a status")
}

/// Tunnels with their ages, messages and bytes.
fn list(rows: &[(u64, u64, u64, u64)]) -> List {
    let rows = rows.iter().map(|(id, age_ms, messages, bytes)| {
        json!({
            "id": id, "state": "open", "client": format!("10.0.0.{id}"), "peer": "10.0.0.1:5", "route": "chat",
            "server": "ws://10.1.0.1:9000", "age_ms": age_ms, "idle_ms": 10 * id, "bytes_in": bytes, "bytes_out": 0,
            "messages_in": messages, "messages_out": 0, "rtt_us": 1500 * id,
        })
    });
    let list = json!({ "matched": rows.len(), "silent_workers": 0, "tunnels": rows.collect::<Vec<_>>() });
    serde_json::from_value(list).expect("a list")
}

fn told(state: &State, status: Status, list: List) -> Told {
    Told::Numbers { status: Box::new(status), list, turn: state.wanted().turn }
}

/// Two answers, a second apart: tunnel 2 talks most, 3 sends the most bytes.
fn busy() -> State {
    let mut state = State::new("http://127.0.0.1:9900".into(), String::new(), SortBy::Messages);
    let first = told(&state, status(10_000, 100), list(&[(1, 5000, 10, 100), (2, 4000, 10, 100), (3, 3000, 10, 100)]));
    state.note(first);
    let second =
        told(&state, status(11_000, 142), list(&[(1, 6000, 10, 100), (2, 5000, 50, 200), (3, 4000, 12, 90_100)]));
    state.note(second);
    state
}

fn drawn(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend that cannot fail");
    terminal.draw(|frame| screen::draw(frame, state)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(line).collect()
}

fn ids(state: &State) -> Vec<u64> {
    state.rows.iter().map(|(row, _)| row.id).collect()
}

#[test]
fn two_answers_make_rates_and_the_key_sorts_by_them() {
    let mut state = busy();
    assert_eq!(ids(&state), [2, 3, 1]);
    let rates = state.rows[0].1;
    assert_eq!((rates.messages, rates.bytes), (Some(40.0), Some(100.0)));
    assert_eq!(state.numbers, [Some(3.0), Some(5.0), Some(0.0), Some(42.0), Some(4200.0), Some(0.0)]);
    for (letter, order) in [('b', [3, 2, 1]), ('a', [1, 2, 3]), ('i', [3, 2, 1]), ('r', [3, 2, 1]), ('m', [2, 3, 1])] {
        assert_eq!(state.press(key(KeyCode::Char(letter))), Action::Ask);
        assert_eq!(ids(&state), order, "{letter}");
    }
    assert_eq!(state.wanted().sort, "idle:asc");
    // A gateway that was started again has counted from the beginning.
    let other: Status =
        serde_json::from_value(json!({ "started": "later", "uptime_ms": 20_000, "totals": {} })).expect("a status");
    let restarted = told(&state, other, list(&[(1, 10, 0, 0)]));
    state.note(restarted);
    assert_eq!(state.numbers[3], None);
    assert_eq!(state.rows[0].1.messages, None, "this is another tunnel with the same number");
}

#[test]
fn the_screen_shows_numbers_rows_and_keys() {
    let lines = drawn(&mut busy(), 120, 16);
    let all = lines.join("\n");
    assert!(
        lines[0].starts_with("portcullis 0.1.0  ● running  up 11.0s  generation 2  http://127.0.0.1:9900"),
        "{all}"
    );
    assert!(
        lines[1].starts_with("3 tunnels") && lines[1].contains("42 messages/s") && lines[1].contains("4.1KiB bytes/s"),
        "{all}"
    );
    let head = lines.iter().position(|line| line.contains("MSG/S↓")).expect("the table's head");
    assert!(lines[head + 1].contains("10.0.0.2") && lines[head + 1].contains("ws://10.1.0.1:9000"), "{all}");
    assert!(lines[head + 1].contains("40") && lines[head + 1].contains("3.0ms"), "{all}");
    assert!(lines[15].starts_with("3 tunnels") && lines[15].contains("q quit"), "{all}");
}

#[test]
fn a_terminal_of_any_size_is_drawn_upon_in_every_mode() {
    let mut state = busy();
    for mode in ["", "?", "/route=x", "k"] {
        type_in(&mut state, mode);
        for width in [0, 1, 2, 5, 9, 20, 33, 34, 44, 54, 62, 71, 80, 100, 110, 300] {
            for height in [0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 24, 60] {
                drawn(&mut state, width, height);
            }
        }
        state.press(key(KeyCode::Esc));
        assert_eq!(state.mode, Mode::Looking);
    }
}

#[test]
fn what_strangers_have_chosen_moves_no_cursor() {
    let mut state = State::new("unix:/run/a".into(), String::new(), SortBy::Age);
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{202e}\u{9b}31m";
    let row =
        json!({ "id": 1, "state": evil, "client": evil, "peer": evil, "route": evil, "server": evil, "age_ms": 1 });
    let list: List = serde_json::from_value(json!({ "matched": 1, "tunnels": [row] })).expect("a list");
    let status: Status = serde_json::from_value(json!({ "phase": evil, "version": evil })).expect("a status");
    let numbers = told(&state, status, list);
    state.note(numbers);
    state.note(Told::Trouble(super::super::plain(evil)));
    for mode in ["", "k"] {
        type_in(&mut state, mode);
        for line in drawn(&mut state, 130, 20) {
            assert!(!line.chars().any(|letter| letter.is_control() || letter == '\u{202e}'), "{line:?}");
        }
    }
}

#[test]
fn a_filter_is_taken_when_it_is_one_and_explained_when_it_is_none() {
    let mut state = busy();
    type_in(&mut state, "/rout=chat");
    assert_eq!(state.press(key(KeyCode::Enter)), Action::Ask);
    let turn = state.wanted().turn;
    state.note(Told::Misunderstood { why: "no `rout`\n  did you mean `route`?".into(), turn: turn - 1 });
    assert_eq!(state.mode, Mode::Looking, "that was about another one");
    state.note(Told::Misunderstood { why: "no `rout`\n  did you mean `route`?".into(), turn });
    let lines = drawn(&mut state, 140, 16);
    assert!(lines[15].starts_with("filter: rout=chat   no `rout`: did you mean `route`?"), "{:?}", lines[15]);
    assert_eq!(state.wanted().filter, "", "what was understood is asked for meanwhile");
    state.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    type_in(&mut state, "route=chat age>1h");
    assert_eq!(state.press(key(KeyCode::Enter)), Action::Ask);
    assert_eq!((state.wanted().filter.as_str(), &state.mode), ("route=chat age>1h", &Mode::Looking));
    // What was asked before the filter is not shown any more.
    let old = Told::Numbers { status: Box::new(status(12_000, 142)), list: list(&[]), turn: 0 };
    state.note(old);
    assert_eq!(ids(&state).len(), 3);
    let new = told(&state, status(13_000, 142), list(&[(1, 7000, 10, 100)]));
    state.note(new);
    assert_eq!(ids(&state), [1]);
    type_in(&mut state, "/");
    type_in(&mut state, " nonsense");
    assert_eq!(state.press(key(KeyCode::Esc)), Action::None);
    assert_eq!(state.filter, "route=chat age>1h", "Escape keeps what was");
}

#[test]
fn a_tunnel_is_closed_after_a_question_only() {
    let mut state = busy();
    state.press(key(KeyCode::Down));
    type_in(&mut state, "k");
    let all = drawn(&mut state, 100, 24).join("\n");
    assert!(all.contains("Close tunnel 3?") && all.contains("10.0.0.3 → chat"), "{all}");
    assert_eq!(state.press(key(KeyCode::Esc)), Action::None);
    type_in(&mut state, "k");
    (0..4).for_each(|_| drop(state.press(key(KeyCode::Backspace))));
    type_in(&mut state, "10o1");
    assert_eq!(state.press(key(KeyCode::Enter)), Action::None, "that is no number");
    (0..2).for_each(|_| drop(state.press(key(KeyCode::Backspace))));
    type_in(&mut state, "01");
    state.press(key(KeyCode::Tab));
    type_in(&mut state, "quit it");
    let order = Kill { id: 3, code: 1001, reason: "quit it".into() };
    assert_eq!(state.press(key(KeyCode::Enter)), Action::Kill(order), "letters are letters there, not keys");
    state.note(Told::Killed { id: 3, closed: 1 });
    assert!(drawn(&mut state, 100, 24)[23].starts_with("tunnel 3 is being closed"));
    state.note(Told::NotKilled("no".into()));
    assert!(drawn(&mut state, 100, 24)[23].starts_with("no "));
}

#[test]
fn what_is_held_still_stays_while_the_numbers_go_on() {
    let mut state = busy();
    state.press(KeyEvent::new(KeyCode::Char(' '), KeyModifiers::CONTROL));
    assert!(!state.is_paused, "that is another key");
    assert_eq!(type_in(&mut state, "p"), Action::None);
    let later = told(&state, status(12_000, 150), list(&[(9, 1, 1, 1)]));
    state.note(later);
    assert_eq!((ids(&state), state.numbers[3]), (vec![2, 3, 1], Some(8.0)));
    assert!(drawn(&mut state, 100, 24)[23].starts_with(" held still "));
    assert_eq!(type_in(&mut state, "p"), Action::Ask);
}

#[test]
fn the_chosen_tunnel_stays_chosen_wherever_it_goes() {
    let mut state = busy();
    assert_eq!(state.place(), 0);
    state.press(key(KeyCode::Down));
    assert_eq!((state.chosen, state.place()), (Some(3), 1));
    type_in(&mut state, "b");
    assert_eq!(state.place(), 0, "3 comes first by bytes");
    state.press(key(KeyCode::End));
    assert_eq!(state.chosen, Some(1));
    state.press(key(KeyCode::PageUp));
    state.press(key(KeyCode::Home));
    assert_eq!((state.chosen, state.place()), (None, 0));
    let none = told(&state, status(13_000, 150), list(&[]));
    state.note(none);
    for code in [KeyCode::Down, KeyCode::Up, KeyCode::End, KeyCode::PageDown, KeyCode::Char('k')] {
        assert_eq!(state.press(key(code)), Action::None);
    }
    assert!(drawn(&mut state, 80, 24).join("\n").contains("no tunnels"));
}

#[test]
fn a_gateway_that_is_away_is_said_to_be_and_its_return_too() {
    let mut state = busy();
    state.note(Told::Trouble("cannot reach it\n  does it run?".into()));
    let lines = drawn(&mut state, 100, 24);
    assert!(lines[0].contains("● no answer") && lines[23].starts_with("cannot reach it  3 tunnels"), "{lines:?}");
    let back = told(&state, status(14_000, 150), list(&[]));
    state.note(back);
    assert!(drawn(&mut state, 100, 24)[23].starts_with("the gateway answers again"));
}

#[test]
fn it_ends_when_asked() {
    let quits = [key(KeyCode::Char('q')), key(KeyCode::Esc), KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)];
    for quit in quits {
        assert_eq!(busy().press(quit), Action::Quit);
    }
    let mut state = busy();
    type_in(&mut state, "/q");
    assert_eq!(state.press(quits[2]), Action::Quit, "also while something is typed");
    assert!(
        interval("1s").is_ok() && interval("100ms").is_err() && interval("2h").is_err() && interval("soon").is_err()
    );
}
