//! One line that is being typed. Pure.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Letters of a line.
const LONGEST: usize = 4096;

/// What was typed, and where the cursor stands in it, counted in letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    letters: Vec<char>,
    cursor: usize,
}

impl Line {
    pub fn new(text: &str) -> Self {
        let letters: Vec<char> = text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
        Self { cursor: letters.len(), letters }
    }

    pub fn text(&self) -> String {
        self.letters.iter().collect()
    }

    /// What stands before the cursor.
    pub fn before(&self) -> String {
        self.letters.iter().take(self.cursor).collect()
    }

    pub fn press(&mut self, key: KeyEvent) {
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if has_control => {
                self.letters.drain(..self.cursor);
                self.cursor = 0;
            }
            KeyCode::Char('a') if has_control => self.cursor = 0,
            KeyCode::Char('e') if has_control => self.cursor = self.letters.len(),
            KeyCode::Char(letter) if !has_control && !letter.is_control() && self.letters.len() < LONGEST => {
                self.letters.insert(self.cursor, letter);
                self.cursor += 1;
            }
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.letters.remove(self.cursor);
            }
            KeyCode::Delete if self.cursor < self.letters.len() => {
                self.letters.remove(self.cursor);
            }
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = self.letters.len().min(self.cursor + 1),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.letters.len(),
            _ => {}
        }
    }
}
