//! The file of a unix socket.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A unix socket's file, removed on drop if it still is the one that was made here, and ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    is_ours: AtomicBool,
}

impl SocketFile {
    pub(super) fn of(path: &Path, is_ours: bool) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)?, is_ours: AtomicBool::new(is_ours) })
    }

    /// Whether it is removed with its socket.
    pub(super) fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Ordering::Release);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = *self.is_ours.get_mut();
        if is_ours && identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing can be done about a folder that became read-only; the next start removes the file as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
