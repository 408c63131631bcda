//! Where lines go: stderr, a file, syslog, the journal. One thread writes to each (`writer.rs`), and only that may wait
//! for it: for a disk or a pipe as long as those take, for a socket a moment at most.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::journal::Journal;
#[cfg(feature = "otel")]
use super::otlp::Collector;
use super::syslog::Syslog;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    File {
        path: PathBuf,
        file: File,
    },
    Syslog(Syslog),
    Journal(Journal),
    #[cfg(feature = "otel")]
    Collector(Collector),
    #[cfg(test)]
    Custom(Box<dyn WriteSend>),
}

#[cfg(test)]
pub(super) trait WriteSend: Write + Send + std::fmt::Debug {}

impl Sink {
    /// Appends; made with mode 0640.
    pub fn file(path: &Path) -> io::Result<Self> {
        // Whoever reports it knows which log it is, and not where that stands.
        let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        Ok(Self::File { path: path.to_owned(), file: open(path).map_err(with_path)? })
    }

    /// Writes some of it, at least one byte; a sink of messages takes one whole message.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Under one lock, since both logs may go there and a chunk must not be split by the other's line.
            Self::Stderr => io::stderr().lock().write_all(bytes).map(|()| bytes.len()),
            Self::File { file, .. } => file.write(bytes),
            Self::Syslog(syslog) => {
                let (line, taken) = up_to(bytes, b"\n");
                syslog.send(line).map(|()| taken)
            }
            Self::Journal(journal) => {
                let (entry, taken) = up_to(bytes, b"\n\n");
                journal.send(entry).map(|()| taken)
            }
            #[cfg(feature = "otel")]
            Self::Collector(collector) => collector.send(bytes).map(|()| bytes.len()),
            #[cfg(test)]
            Self::Custom(custom) => custom.write(bytes),
        }
    }

    /// How many lines there are in what was handed over.
    pub fn lines(&self, bytes: &[u8]) -> u64 {
        let end: &[u8] = if matches!(self, Self::Journal(_)) { b"\n\n" } else { b"\n" };
        memchr::memmem::find_iter(bytes, end).count() as u64
    }

    /// Whether what was written is a stream, in which a line may be torn.
    pub fn is_stream(&self) -> bool {
        match self {
            Self::Stderr | Self::File { .. } => true,
            Self::Syslog(_) | Self::Journal(_) => false,
            #[cfg(feature = "otel")]
            Self::Collector(_) => false,
            #[cfg(test)]
            Self::Custom(_) => true,
        }
    }

    /// Opens a file again, or a socket with the next line.
    pub fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File { path, file } => *file = open(path)?,
            Self::Syslog(syslog) => syslog.close(),
            Self::Journal(journal) => journal.close(),
            Self::Stderr => {}
            #[cfg(feature = "otel")]
            Self::Collector(_) => {}
            #[cfg(test)]
            Self::Custom(_) => {}
        }
        Ok(())
    }
}

/// What stands before `end`, and how long it is with that.
fn up_to<'a>(bytes: &'a [u8], end: &[u8]) -> (&'a [u8], usize) {
    memchr::memmem::find(bytes, end).map_or((bytes, bytes.len()), |at| (&bytes[..at], at + end.len()))
}

/// Never waits: a pipe that nobody reads is an error, instead of holding up whoever opens it.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(nonblocking).open(path);
    let file = file.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(error.kind(), "it is a pipe that nobody reads, or a socket"),
        _ => error,
    })?;
    // Writing may wait, on a thread that is there for it.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_one_that_somebody_reads_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("a pipe");
        let error = Sink::file(&path).expect_err("nobody reads");
        assert!(error.to_string().contains("a pipe that nobody reads"), "{error}");
        let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path);
        let mut sink = Sink::file(&path).expect("somebody reads");
        assert_eq!(sink.write(b"a line\n").expect("room"), 7);
        let Sink::File { file, .. } = &sink else { panic!("a file") };
        assert!(!rustix::fs::fcntl_getfl(file).expect("flags").contains(OFlags::NONBLOCK), "the writer may wait");
        drop(reader);
        assert!(sink.reopen().is_err());
    }
}
