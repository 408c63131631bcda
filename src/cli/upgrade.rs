//! `portcullis upgrade`: has a running gateway start its program as it is on disk now, and let that one go on.
//!
//! Asks with SIGUSR2 and watches from outside what comes of it: the process shows in its name that another is to take its
//! place (`portcullis-upgr`), and that one has (`portcullis-old`). Why nothing came of it stands in the gateway's log.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Exit, complain, say};
use crate::clock;
use crate::handover::PidFile;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  portcullis upgrade --pid-file /run/portcullis.pid\n\n\
                        The running process starts its program again, as it is on disk now, with the\n\
                        arguments that it was given, and serves on unless that one is ready in time\n\
                        (`server.upgrade_timeout`). Its log says why not.")]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The process that serves
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// A file with its number, as `run --pid-file` writes it
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Look on for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
}

pub fn run(args: &Args) -> ExitCode {
    match upgrade(args) {
        Ok(words) => {
            say(&format!("{words}\n"));
            Exit::Stopped.into()
        }
        Err(words) => {
            complain(&format!("portcullis upgrade: {words}\n"));
            Exit::Failed.into()
        }
    }
}

fn upgrade(args: &Args) -> Result<String, String> {
    let number = match (args.which.pid, &args.which.pid_file) {
        (Some(pid), _) => pid,
        (None, Some(path)) => PidFile::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
        (None, None) => return Err("say which process: --pid or --pid-file".to_owned()),
    };
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{number} is no process number"))?;
    // First a handle on it, so that what is looked at below and what is signalled are one and the same.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("process {number}: {error}"))?;
    if !catches_user2(number) {
        return Err(format!(
            "process {number} does not listen to SIGUSR2, which would end it: it is no gateway that serves"
        ));
    }
    if let Some(name) = comm(number).filter(|name| !is_ours(number, name)) {
        return Err(format!("process {number} is `{}`, and no portcullis", printable(&name)));
    }
    match comm(number).as_deref() {
        Some("portcullis-old") => return Err(format!("process {number} has been replaced already, and only drains")),
        Some("portcullis-upgr") => return Err(format!("process {number} is being replaced already")),
        _ => {}
    }
    pidfd_send_signal(&process, Signal::USR2).map_err(|error| format!("process {number}: {error}"))?;
    watch(number, Duration::from_secs(args.wait))
}

/// Looks at the process until it is known what has come of it.
fn watch(number: u32, patience: Duration) -> Result<String, String> {
    let start = clock::now();
    let mut children = Vec::new();
    let mut has_begun = false;
    while clock::now() - start < patience {
        let name = comm(number);
        match name.as_deref() {
            Some("portcullis-old") => return Ok(format!("another process serves now; {number} finishes what is open")),
            Some("portcullis-upgr") => {
                has_begun = true;
                children = children_of(number);
            }
            Some(_) if has_begun => {
                return Err(format!("no upgrade: process {number} serves on, and its log says why"));
            }
            // It may have failed quicker than one can look, or be busy.
            Some(_) if clock::now() - start > BEGINNING => {
                return Err(format!("process {number} serves on as before, and its log says why"));
            }
            Some(_) => {}
            // With nothing open the old one ends at once.
            None => {
                return match children.iter().find(|child| comm(**child).is_some()) {
                    Some(child) => Ok(format!("process {child} serves now; {number} has ended")),
                    None => Err(format!("process {number} has ended")),
                };
            }
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("process {number} is still at it after {patience:?}, and its log will say what comes of it"))
}

const PROGRAM: &str = "portcullis";

/// How often is looked.
const LOOK: Duration = Duration::from_millis(2);
/// How long a process may take to begin.
const BEGINNING: Duration = Duration::from_secs(5);

/// Whether it has a handler for SIGUSR2, whose default is the end of the process.
fn catches_user2(number: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (Signal::USR2.as_raw() - 1)) != 0
}

/// Whether it runs this program: by the name that it shows, or by that of its file, which may have been replaced since, or
/// be out of our sight. An installation may have given the program another name, and then calls this one by it.
fn is_ours(number: u32, comm: &str) -> bool {
    let file_name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let exe = fs::read_link(format!("/proc/{number}/exe")).ok().and_then(file_name);
    let exe = exe.as_deref().map(|name| name.strip_suffix(" (deleted)").unwrap_or(name));
    let own = std::env::current_exe().ok().and_then(file_name);
    comm.starts_with(PROGRAM) || exe.is_some_and(|exe| exe.starts_with(PROGRAM) || own.as_deref() == Some(exe))
}

/// A process is called what it likes.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// What it is called; `None` where there is no such process any more.
fn comm(number: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
    // One that nobody has waited for yet still has a name.
    let status = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let is_dead = status.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
    (!is_dead).then(|| name.trim_end().to_owned())
}

fn children_of(number: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_handler_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it is there");
        let args = Args { which: Which { pid: Some(child.id()), pid_file: None }, wait: 1 };
        let words = upgrade(&args).expect_err("it would have died of it");
        assert!(words.contains("does not listen to SIGUSR2"), "{words}");
        assert!(child.try_wait().expect("a child").is_none());
        child.kill().expect("a child");
        child.wait().expect("a child");
        assert!(comm(child.id()).is_none());
    }

    #[test]
    fn another_program_that_has_a_handler_is_not_signalled() {
        // The wait is for the handler, and its end for the signal that does not come.
        let script = "trap 'exit 7' USR2; echo ready; read -r word";
        let mut child = std::process::Command::new("bash")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it is there");
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut ready).expect("a word");
        let args = Args { which: Which { pid: Some(child.id()), pid_file: None }, wait: 1 };
        let words = upgrade(&args).expect_err("it is no gateway");
        assert!(words.ends_with("is `bash`, and no portcullis"), "{words}");
        drop(child.stdin.take());
        // `read` found the end, and nothing else.
        assert_eq!(child.wait().expect("a child").code(), Some(1));
    }

    #[test]
    fn a_name_that_moves_the_cursor_is_printed_without_doing_so() {
        assert_eq!(printable("a\u{1b}[2J"), "a\u{fffd}[2J");
    }
}
