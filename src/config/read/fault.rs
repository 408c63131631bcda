//! What is wrong with one value, before anyone knows where it stands.

use std::ops::Range;

/// Something wrong with one value, found by a function that knows no places.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    /// The bytes of the value that are wrong; `None`: all of them.
    pub within: Option<Range<usize>>,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, within: None }
    }

    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    pub fn within(mut self, range: Range<usize>) -> Self {
        self.within = Some(range);
        self
    }
}
