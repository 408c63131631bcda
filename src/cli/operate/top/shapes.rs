//! The part of the API's answers that is shown. What is not there counts as nothing, so that gateways of other versions
//! can be looked at.

use serde::Deserialize;

use crate::cli::operate::plain;

/// `GET status`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: Word,
    pub phase: Word,
    pub started: Word,
    pub uptime_ms: u64,
    pub drain_left_ms: Option<u64>,
    pub tunnels: u64,
    pub connections: Connections,
    pub configuration: Configuration,
    /// `None`: the gateway does not count.
    pub totals: Option<Totals>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connections {
    pub open: u64,
    pub max: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Configuration {
    pub generation: u64,
    pub refused: u64,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub requests: u64,
    pub handshakes_refused: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// `GET tunnels`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct List {
    pub matched: u64,
    pub silent_workers: u64,
    pub tunnels: Vec<Row>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Row {
    pub id: u64,
    pub state: Word,
    pub client: Option<Word>,
    pub peer: Word,
    pub route: Option<Word>,
    pub server: Option<Word>,
    pub age_ms: u64,
    pub idle_ms: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: Option<u64>,
    pub messages_out: Option<u64>,
    pub rtt_us: Option<u64>,
}

impl Row {
    pub fn bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }

    /// `None`: its frames are not looked at.
    pub fn messages(&self) -> Option<u64> {
        Some(self.messages_in?.saturating_add(self.messages_out?))
    }

    pub fn who(&self) -> &str {
        self.client.as_ref().map_or(&self.peer.0, |client| &client.0)
    }
}

/// Words that may go to a terminal: whoever chose them, they stay on their line and move no cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Word(String);

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(plain(&text))
    }
}

impl Word {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
