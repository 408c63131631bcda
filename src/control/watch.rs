//! Reloads by themselves, where files change that the configuration is made of.
//!
//! A thread of its own waits for the kernel to say that something has happened in a folder that matters (inotify): that of
//! each file, and of each symbolic link on the way to it, so that renames are seen, and links that are put elsewhere. What
//! has happened does not matter: a moment after the last news all files are looked at, and where one of them is another
//! than at the last look (device, inode, size, times), a reload is asked for. So a burst of events is one reload, what is
//! refused is refused once, and a log that is written beside the configuration is none at all. Where the kernel says
//! nothing (file systems of a network, no watches left), there is a look from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::reloads::Reloads;
use crate::clock;
use crate::config::report::LookedAt;
use crate::lifecycle;

/// So long nothing more must happen before files are looked at.
const QUIET: Duration = Duration::from_millis(200);
/// Where something happens all the time, they are looked at all the same.
const RESTLESS: Duration = Duration::from_secs(2);
/// A look without news from the kernel; and where it can give none.
const UNASKED: Duration = Duration::from_secs(30);
const UNWATCHED: Duration = Duration::from_secs(2);
/// How soon it is noticed that the watch is over, or that there are other files.
const PULSE: Duration = Duration::from_millis(500);
/// Symbolic links on one way; more is a loop.
const LINKS: usize = 40;

/// The watch over some files. Dropped, it ends within a moment.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Mutex<LookedAt>,
    is_over: AtomicBool,
}

impl Watch {
    /// # Errors
    /// There is no thread.
    pub fn start(files: LookedAt, reloads: Reloads) -> io::Result<Self> {
        let shared = Arc::new(Shared { files: Mutex::new(files), is_over: AtomicBool::new(false) });
        let told = shared.clone();
        let mut eye = Eye::new(shared.files());
        // Nobody waits for its end: it holds nothing that is missed.
        drop(lifecycle::thread("watch", move || eye.watch(&told, &reloads))?);
        Ok(Self { shared })
    }

    /// These are the files from now on.
    pub fn follow(&self, files: LookedAt) {
        *self.shared.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn files(&self) -> LookedAt {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What tells one state of a file, or of a folder's list, from another. `None`: it is not there.
type Mark = Option<(u64, u64, u64, i64, i64, Vec<std::ffi::OsString>)>;

/// The files as they were at the last look.
struct Eye {
    files: LookedAt,
    marks: BTreeMap<PathBuf, Mark>,
    /// `None`: the kernel gives no news.
    news: Option<OwnedFd>,
}

impl Eye {
    fn new(files: LookedAt) -> Self {
        let mut eye = Self { marks: marks(&files), news: None, files };
        eye.listen();
        eye
    }

    fn watch(&mut self, shared: &Shared, reloads: &Reloads) {
        let mut looked = clock::now();
        while !shared.is_over.load(Ordering::Relaxed) {
            let files = shared.files();
            if files != self.files {
                // Those that were there before are compared with what they were then.
                let fresh = marks(&files);
                self.marks = fresh
                    .into_iter()
                    .map(|(path, now)| match self.marks.remove(&path) {
                        Some(before) => (path, before),
                        None => (path, now),
                    })
                    .collect();
                self.files = files;
                self.listen();
            }
            let unasked = if self.news.is_some() { UNASKED } else { UNWATCHED };
            if self.wait(PULSE) {
                self.calm_down();
            } else if looked.elapsed() < unasked {
                continue;
            }
            if shared.is_over.load(Ordering::Relaxed) {
                return;
            }
            looked = clock::now();
            let marks = marks(&self.files);
            if marks != self.marks {
                self.marks = marks;
                // Links may lead elsewhere by now.
                self.listen();
                tracing::info!("files have changed");
                reloads.ask();
            }
        }
    }

    /// Asks the kernel for news from all folders that matter.
    fn listen(&mut self) {
        self.news = None;
        let heard = folders(&self.files);
        let news = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|news| {
            let what = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF;
            for folder in &heard {
                match inotify::add_watch(&news, folder, what) {
                    // What is not there has a parent that is heard as well.
                    Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::ACCESS) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(news)
        });
        match news {
            Ok(news) => self.news = Some(news),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not watch files: they are looked at every other second")
            }
        }
    }

    /// Whether there are news before the time is up.
    fn wait(&self, time: Duration) -> bool {
        let Some(news) = &self.news else {
            std::thread::park_timeout(time);
            return false;
        };
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut polled = [PollFd::new(news, PollFlags::IN)];
        let is_ready = poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0);
        if is_ready {
            let mut sink = [0_u8; 4096];
            // What they are does not matter.
            while rustix::io::read(news, &mut sink).is_ok_and(|count| count > 0) {}
        }
        is_ready
    }

    /// Waits until nothing happens for a moment.
    fn calm_down(&self) {
        let begun = clock::now();
        while begun.elapsed() < RESTLESS && self.wait(QUIET) {}
    }
}

fn marks(files: &LookedAt) -> BTreeMap<PathBuf, Mark> {
    let of_file = files.files.iter().map(|path| (path.clone(), mark(path, Vec::new())));
    let of_folder = files.folders.iter().map(|path| {
        let mut names: Vec<_> =
            fs::read_dir(or_here(path)).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        // Of a folder its names count, not when others in it were written.
        let there = (!names.is_empty()).then_some((0, 0, 0, 0, 0, names));
        (path.join("*"), there)
    });
    of_file.chain(of_folder).collect()
}

fn mark(path: &Path, names: Vec<std::ffi::OsString>) -> Mark {
    let about = fs::metadata(path).ok()?;
    let changed = about.ctime().wrapping_mul(1_000_000_000).wrapping_add(about.ctime_nsec());
    let written = about.mtime().wrapping_mul(1_000_000_000).wrapping_add(about.mtime_nsec());
    Some((about.dev(), about.ino(), about.len(), written, changed, names))
}

/// Every folder in which something may happen to one of the files: its own, and those of all symbolic links on the way.
fn folders(files: &LookedAt) -> BTreeSet<PathBuf> {
    let mut folders: BTreeSet<PathBuf> = files.folders.iter().map(|folder| or_here(folder).to_owned()).collect();
    for file in files.files.iter().chain(&files.folders) {
        let mut left = LINKS;
        follow(file, &mut folders, &mut left);
    }
    folders
}

fn follow(path: &Path, folders: &mut BTreeSet<PathBuf>, left: &mut usize) {
    let mut way = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let before = way.clone();
        way.push(part);
        if !matches!(part, Component::Normal(_)) {
            continue;
        }
        if let Ok(target) = fs::read_link(&way) {
            folders.insert(or_here(&before).to_owned());
            if *left > 0 {
                *left -= 1;
                follow(&before.join(target).join(parts.as_path()), folders, left);
            }
            return;
        }
    }
    // The nearest that is there: a file may come together with its folder.
    let mut folder = path.parent();
    while let Some(parent) = folder {
        folders.insert(or_here(parent).to_owned());
        if or_here(parent).is_dir() {
            return;
        }
        folder = parent.parent();
    }
}

/// The empty path is the current folder.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        reloads: Reloads,
        _watch: Watch,
    }

    fn bench(files: &[&str], folders: &[&str], prepare: impl FnOnce(&Path)) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        let paths = |names: &[&str]| names.iter().map(|name| folder.path().join(name)).collect();
        let (reloads, looked_at) = (Reloads::default(), LookedAt { files: paths(files), folders: paths(folders) });
        let watch = Watch::start(looked_at, reloads.clone()).expect("a thread");
        Bench { folder, reloads, _watch: watch }
    }

    impl Bench {
        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        async fn reloads(&self, what: &str) {
            let asked = tokio::time::timeout(Duration::from_secs(10), self.reloads.asked()).await;
            assert!(asked.is_ok(), "no reload: {what}");
        }

        async fn stays(&self, what: &str) {
            let asked = tokio::time::timeout(Duration::from_millis(1500), self.reloads.asked()).await;
            assert!(asked.is_err(), "a reload: {what}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_taken_away_or_put_back_is_one_reload() {
        let bench =
            bench(&["a.toml", "later/b.pem"], &[], |folder| fs::write(folder.join("a.toml"), "1").expect("written"));
        for round in 0..20 {
            fs::write(bench.path("a.toml"), format!("{round}")).expect("written");
        }
        bench.reloads("written").await;
        fs::write(bench.path("new"), "3").expect("written");
        fs::rename(bench.path("new"), bench.path("a.toml")).expect("renamed");
        bench.reloads("renamed").await;
        bench.stays("all of it has been told").await;
        fs::remove_file(bench.path("a.toml")).expect("removed");
        bench.reloads("taken away").await;
        fs::create_dir(bench.path("later")).expect("made");
        fs::write(bench.path("later/b.pem"), "4").expect("written");
        bench.reloads("with its folder").await;
    }

    #[tokio::test]
    async fn what_happens_beside_the_files_is_no_reload_unless_the_folder_counts() {
        let prepare = |folder: &Path| {
            fs::write(folder.join("a.toml"), "1").expect("written");
            fs::create_dir(folder.join("sites")).expect("made");
        };
        let bench = bench(&["a.toml"], &["sites"], prepare);
        for round in 0..5 {
            fs::write(bench.path("access.log"), format!("{round}")).expect("written");
            fs::rename(bench.path("access.log"), bench.path("access.log.1")).expect("renamed");
        }
        bench.stays("a log").await;
        fs::write(bench.path("sites/b.toml"), "1").expect("written");
        bench.reloads("a new file of a pattern").await;
    }

    #[tokio::test]
    async fn links_that_are_put_elsewhere_are_seen_as_kubernetes_does_it() {
        let prepare = |folder: &Path| {
            for (name, text) in [("..1", "old"), ("..2", "new!")] {
                fs::create_dir(folder.join(name)).expect("made");
                fs::write(folder.join(name).join("tls.crt"), text).expect("written");
            }
            symlink("..1", folder.join("..data")).expect("linked");
            symlink("..data/tls.crt", folder.join("tls.crt")).expect("linked");
        };
        let bench = bench(&["tls.crt"], &[], prepare);
        symlink("..2", bench.path("..tmp")).expect("linked");
        fs::rename(bench.path("..tmp"), bench.path("..data")).expect("renamed");
        bench.reloads("a swap").await;
        fs::write(bench.path("..2/tls.crt"), "newer").expect("written");
        bench.reloads("where it leads now").await;
    }
}
