//! Reading the files that the configuration names: bounded, and every failure reported where it names them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::report::{Located, Report};

/// Reads a regular file of at most `max` bytes. Anything else (a folder, a pipe nobody writes to) could block or not
/// end. `what` it should be, for the message: "a PEM file".
pub fn read(path: &Located<PathBuf>, what: &str, max: u64, report: &mut Report) -> Option<Vec<u8>> {
    let file = path.value.display();
    report.note_file(&path.value);
    match read_bounded(&path.value, max) {
        Ok(Some(text)) => {
            report.note_read(&text);
            Some(text)
        }
        Ok(None) => {
            report
                .error("bad-file", &path.spot, format_args!("{file} is not {what}"))
                .help(format!("it must be a regular file of at most {}", super::show_size(max)));
            None
        }
        Err(error) => {
            report_unreadable(path, &error, report);
            None
        }
    }
}

/// Where a configuration has errors, nothing is built on the files that it names, and nobody reads them: whether they can
/// be read is found out here, so that this is said at once as well.
pub fn look_for_named(report: &mut Report) {
    for path in std::mem::take(&mut report.named) {
        let looked = std::fs::metadata(&path.value).and_then(|about| match about.is_file() {
            true => File::open(&path.value).map(drop),
            // Who builds on it says what it should have been.
            false => Ok(()),
        });
        if let Err(error) = looked {
            report_unreadable(&path, &error, report);
        }
    }
}

fn report_unreadable(path: &Located<PathBuf>, error: &io::Error, report: &mut Report) {
    let file = path.value.display();
    if error.kind() == io::ErrorKind::NotFound {
        report
            .error("missing-file", &path.spot, format_args!("{file} does not exist"))
            .help("paths are relative to the folder of the file that names them");
        return;
    }
    let problem = report.error("unreadable-file", &path.spot, format_args!("{file} cannot be read: {error}"));
    if error.kind() == io::ErrorKind::PermissionDenied {
        problem.help("the user that the gateway runs as must be able to read it");
    }
}

/// A small file for those who have no report.
///
/// # Errors
/// It cannot be read, is no regular file, or is larger than `max`.
pub fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_bounded(path, max)?.ok_or_else(|| io::Error::other("it is no regular file of a size that makes sense"))
}

/// `None`: not a regular file, or a larger one than any that makes sense.
fn read_bounded(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    // Looked at before it is opened: opening a pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= max).then_some(text))
}
