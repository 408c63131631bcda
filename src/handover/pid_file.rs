//! A file that says which process serves, for supervisors that look there.
//!
//! It is put in place whole, when the process serves; a successor puts its own in its place. At its end a process removes it
//! only where it still says its own number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Not yet in its place.
    draft: Option<PathBuf>,
}

impl PidFile {
    /// # Errors
    /// The folder is not there, or not writable.
    pub fn prepare(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let draft = Some(draft(&path)?);
        Ok(Self { path, draft })
    }

    /// # Errors
    /// What stands there cannot be replaced.
    pub fn publish(&mut self) -> io::Result<()> {
        match self.draft.take() {
            Some(draft) => fs::rename(draft, &self.path),
            None => Ok(()),
        }
    }

    /// After another process may have put its own there, and has not come to serve.
    ///
    /// # Errors
    /// Those of the other two.
    pub fn put_back(&self) -> io::Result<()> {
        match Self::read(&self.path) {
            Ok(pid) if pid == std::process::id() => Ok(()),
            _ => fs::rename(draft(&self.path)?, &self.path),
        }
    }

    /// The number in such a file.
    ///
    /// # Errors
    /// There is none.
    pub fn read(path: &Path) -> io::Result<u32> {
        let text = fs::read_to_string(path)?;
        text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no process number"))
    }
}

/// Our number in a file beside the other.
fn draft(path: &Path) -> io::Result<PathBuf> {
    let number = std::process::id();
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{number}"));
    fs::write(&draft, format!("{number}\n"))?;
    Ok(PathBuf::from(draft))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = match self.draft.take() {
            Some(draft) => Some(draft),
            None => Self::read(&self.path).is_ok_and(|pid| pid == std::process::id()).then(|| self.path.clone()),
        };
        // A folder that became read-only keeps it.
        ours.into_iter().for_each(|path| _ = fs::remove_file(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_once_it_is_published_and_removed_only_by_whom_it_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        let mut file = PidFile::prepare(&path).expect("writable");
        assert!(!path.exists());
        file.publish().expect("renamed");
        assert_eq!(PidFile::read(&path).expect("a number"), std::process::id());
        fs::write(&path, "1\n").expect("writable");
        file.put_back().expect("writable");
        assert_eq!(PidFile::read(&path).expect("a number"), std::process::id());
        fs::write(&path, "1\n").expect("writable");
        drop(file);
        assert_eq!(PidFile::read(&path).expect("left alone"), 1);
        drop(PidFile::prepare(&path).expect("writable"));
        let mut file = PidFile::prepare(&path).expect("writable");
        file.publish().expect("renamed");
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0);
    }
}
