//! How this process was started, so that it can be started again: the program's path and its arguments.
//!
//! The path is what the operator said and not what the kernel made of it, since behind a link another program may stand by
//! then, which is the point of an upgrade. It is taken for the program's only where it leads to it now.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{VARIABLE, VERSION};

/// What is said to this process alone.
const PERSONAL: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

#[derive(Clone, Debug)]
pub struct Program {
    pub(super) path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    pub fn of_this_process() -> Self {
        let mut arguments = env::args_os();
        let called = arguments.next().unwrap_or_default();
        let candidates = match called.as_bytes() {
            [] => Vec::new(),
            name if name.contains(&b'/') => std::path::absolute(&called).into_iter().collect(),
            _ => in_search_path(&called),
        };
        let path = candidates.into_iter().find(|path| is_this_program(path)).unwrap_or_else(kernels_path);
        Self { path, arguments: arguments.collect() }
    }

    /// Starts it as it is on disk now, with `channel` as its standard input.
    pub(super) fn start(&self, channel: OwnedFd) -> io::Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.arguments).stdin(channel).env(VARIABLE, VERSION);
        for name in PERSONAL {
            command.env_remove(name);
        }
        command.spawn()
    }
}

fn in_search_path(name: &OsStr) -> Vec<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).filter_map(|folder| std::path::absolute(folder.join(name)).ok()).collect()
}

fn is_this_program(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(path).is_some_and(|there| identity(Path::new("/proc/self/exe")) == Some(there))
}

/// Without the note that the kernel adds to the path of a file that was replaced.
fn kernels_path() -> PathBuf {
    let path = env::current_exe().unwrap_or_default();
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => PathBuf::from(OsStr::from_bytes(path)),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_one_that_leads_to_this_program() {
        let program = Program::of_this_process();
        assert!(is_this_program(&program.path) && program.path.is_absolute(), "{}", program.path.display());
        assert!(!is_this_program(Path::new("/dev/null")) && !is_this_program(Path::new("/nowhere")));
        assert!(is_this_program(&kernels_path()));
    }
}
