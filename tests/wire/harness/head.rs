//! Heads of HTTP/1.1 messages as they stood on the wire, and whole answers of either version.

use std::fmt;

/// A start line and header fields, in the order and spelling of the wire; bytes above 127 as Latin-1.
#[derive(Clone)]
pub struct Head {
    pub raw: Vec<u8>,
    pub start: String,
    pub fields: Vec<(String, String)>,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

impl Head {
    /// `raw` ends with the empty line.
    pub fn parse(raw: &[u8]) -> Self {
        let text = latin1(raw);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Self { raw: raw.to_vec(), start, fields }
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The status of an answer, 0 where the start line has none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn is_websocket(&self) -> bool {
        self.lists("connection", "upgrade") && self.lists("upgrade", "websocket")
    }
}

/// Reading header fields, the same for heads and answers.
pub trait Fields {
    fn fields(&self) -> &[(String, String)];

    /// The values of every line with this name.
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields().iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }

    /// The value of the one line with this name; two lines fail the test.
    fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times: {all:?}", all.len());
        all.first().copied()
    }

    fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether the comma-separated lists under this name hold a token.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    }
}

impl Fields for Head {
    fn fields(&self) -> &[(String, String)] {
        &self.fields
    }
}

impl Fields for Answer {
    fn fields(&self) -> &[(String, String)] {
        &self.fields
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&latin1(&self.raw).escape_debug().to_string())
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// The code under which the gateway says why it answered itself.
    pub fn reason(&self) -> &str {
        self.get("x-portcullis-reason").unwrap_or("")
    }

    /// Fails unless the answer is a refusal by the gateway with this status and reason.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.reason()), (status, reason), "{self:?}");
    }
}
