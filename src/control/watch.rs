//! Reloads by themselves, where files change that the configuration is made of.
//!
//! A thread of its own waits for the kernel to say that something has happened in a folder that matters (inotify): that of
//! each file, and of each symbolic link on the way to it, so that renames are seen, and links that are put elsewhere. What
//! has happened does not matter: a moment after the last news all files are looked at, and where one of them is another
//! than it was when it was read, or last looked at, a reload is asked for. So a burst of events is one reload, what is
//! refused is refused once, and a log that is written beside the configuration is none at all. Where the kernel says
//! nothing (file systems of a network, no watches left), there is a look from time to time.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::reloads::Reloads;
use crate::clock;
use crate::config::looked_at::LookedAt;
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

#[derive(Debug, Default)]
struct Shared {
    /// What is to be watched from now on.
    next: Mutex<Option<LookedAt>>,
    is_over: AtomicBool,
}

impl Watch {
    /// Watches files from the moment on in which they were looked at, which may be a while ago.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(files: LookedAt, reloads: Reloads) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        let mut eye = Eye { files, news: None };
        // Nobody waits for its end: it holds nothing that is missed.
        drop(lifecycle::thread("watch", move || eye.watch(&told, &reloads))?);
        Ok(Self { shared })
    }

    /// These are the files from now on, as they were when a reload looked at them.
    pub fn follow(&self, files: LookedAt) {
        *self.shared.next() = Some(files);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn next(&self) -> MutexGuard<'_, Option<LookedAt>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// The files as they were at the last look.
struct Eye {
    files: LookedAt,
    /// `None`: the kernel gives no news.
    news: Option<OwnedFd>,
}

impl Eye {
    fn watch(&mut self, shared: &Shared, reloads: &Reloads) {
        self.listen();
        // What has happened before anybody listened.
        let mut is_due = true;
        let mut looked = clock::now();
        while !shared.is_over() {
            if let Some(files) = shared.next().take() {
                self.files = files;
                self.listen();
                is_due = true;
            }
            let unasked = if self.news.is_some() { UNASKED } else { UNWATCHED };
            if is_due || self.wait(PULSE) {
                self.calm_down();
            } else if looked.elapsed() < unasked {
                continue;
            }
            (is_due, looked) = (false, clock::now());
            let now = self.files.again();
            // Whoever has told of other files meanwhile wants those compared.
            if now == self.files || shared.is_over() || shared.next().is_some() {
                continue;
            }
            self.files = now;
            // Links may lead elsewhere by now.
            self.listen();
            tracing::info!("files have changed");
            reloads.ask();
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

/// Every folder in which something may happen to one of the files: its own, and those of all symbolic links on the way.
fn folders(files: &LookedAt) -> BTreeSet<PathBuf> {
    let mut folders: BTreeSet<PathBuf> = files.folders().map(|folder| or_here(folder).to_owned()).collect();
    for path in files.files().chain(files.folders()) {
        follow(path, &mut folders, &mut { LINKS });
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
        watch: Watch,
    }

    fn bench(files: &[&str], folders: &[&str], prepare: impl FnOnce(&Path)) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        let (reloads, mut looked_at) = (Reloads::default(), LookedAt::default());
        files.iter().for_each(|name| looked_at.note_file(&folder.path().join(name)));
        folders.iter().for_each(|name| looked_at.note_folder(&folder.path().join(name)));
        let watch = Watch::start(looked_at, reloads.clone()).expect("a thread");
        Bench { folder, reloads, watch }
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
    async fn what_happens_between_the_reading_and_the_watch_is_not_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").expect("written");
        let look = || {
            let mut looked_at = LookedAt::default();
            looked_at.note_file(&file);
            looked_at
        };
        let (read, reloads) = (look(), Reloads::default());
        fs::write(&file, "22").expect("written");
        let watch = Watch::start(read, reloads.clone()).expect("a thread");
        let bench = Bench { folder, reloads, watch };
        bench.reloads("before the start").await;
        let read = look();
        fs::write(&file, "333").expect("written");
        bench.reloads("with the news of it").await;
        bench.watch.follow(read);
        bench.reloads("while a reload was reading").await;
        bench.watch.follow(look());
        bench.stays("all of it is known").await;
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
