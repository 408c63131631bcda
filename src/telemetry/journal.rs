//! The systemd journal: entries with fields over its own socket, and the priorities of lines on a stderr that it reads.
//!
//! An entry is a datagram of `KEY=value` lines. Values have no line ends in them (`text.rs`), so that the binary form of a
//! field is never needed; the longest entry is well below what a datagram holds, so nor is a memory file.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::Level;

use super::syslog::{Line, Socket};

const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal's socket.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    line: Line,
}

impl Journal {
    /// Its socket is opened with the first entry.
    pub fn new() -> Self {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), line: Line::default() }
    }

    pub fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        self.line.send(entry, || Socket::unix(&self.path))
    }

    pub fn close(&mut self) {
        self.line = Line::default();
    }
}

/// Whether stderr goes to the journal: systemd says which stream that is.
pub(super) fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// What stands before a line there (sd-daemon(3)).
pub(super) fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::super::sink::Sink;
    use super::*;

    #[test]
    fn each_entry_is_a_datagram() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("socket");
        let server = UnixDatagram::bind(&path).expect("a socket");
        server.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut sink = Sink::Journal(Journal::at(&path));
        let chunk = b"MESSAGE=a\nPRIORITY=6\n\nMESSAGE=b\nPRIORITY=6\n\n";
        assert_eq!(sink.lines(chunk), 2);
        let first = sink.write(chunk).expect("sent");
        assert_eq!(sink.write(&chunk[first..]).expect("sent") + first, chunk.len());
        for expected in ["MESSAGE=a\nPRIORITY=6", "MESSAGE=b\nPRIORITY=6"] {
            let mut message = [0; 256];
            let length = server.recv(&mut message).expect("an entry");
            assert_eq!(String::from_utf8_lossy(&message[..length]), expected);
        }
    }
}
