//! What the system says of this process. Read from /proc at each scrape; what cannot be read is left out.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// This process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub cpu: Duration,
    pub resident: Option<u64>,
    pub open_fds: Option<u64>,
    /// `None`: as many as it likes.
    pub max_fds: Option<u64>,
}

impl Process {
    pub fn look() -> Self {
        Self {
            cpu: cpu(),
            resident: fs::read_to_string("/proc/self/statm").ok().as_deref().and_then(resident_pages).map(in_bytes),
            // One of them is the listing's own.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }
}

/// As metrics write moments.
pub fn seconds_since_1970(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The second number.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

fn in_bytes(pages: u64) -> u64 {
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_descriptors_and_time() {
        let process = Process::look();
        assert!(process.resident.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_some_and(|open| open >= 3), "{process:?}");
        assert!(process.cpu > Duration::ZERO && seconds_since_1970(crate::clock::wall()) > 1.7e9);
        assert_eq!((resident_pages("100 42 7"), resident_pages("100"), resident_pages("a b")), (Some(42), None, None));
    }
}
