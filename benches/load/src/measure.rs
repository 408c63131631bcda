//! What the kernel says about the proxy's processes, and what the load itself has seen.
//!
//! CPU time is the sum over all threads of `/proc/PID/task/*/schedstat` (nanoseconds on a core); memory is the
//! proportional set size of `/proc/PID/smaps_rollup`. A thread that ends inside a window takes its time with it; none
//! of the proxies measured here ends threads while it serves.

use std::cell::{Cell, RefCell};
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::args::Problem;

/// In an open loop at a rate that all sustain, half of the units are done after this at the latest.
const PROMPT: Duration = Duration::from_millis(20);

/// Nanoseconds on a core so far, over all threads of all these processes.
pub fn cpu(pids: &[u32]) -> u64 {
    let mut sum = 0;
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
        }
    }
    sum
}

/// Proportional set size in KiB, over all these processes.
pub fn pss(pids: &[u32]) -> u64 {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
        sum += line.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
    }
    sum
}

/// Descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The highest memory that is seen between two moments, looked at ten times a second.
pub struct Peak {
    seen: Rc<Cell<u64>>,
    pids: Vec<u32>,
    watching: tokio::task::JoinHandle<()>,
}

impl Peak {
    pub fn watch(pids: &[u32]) -> Self {
        let (seen, pids) = (Rc::new(Cell::new(0)), pids.to_vec());
        let (noted, watched) = (Rc::clone(&seen), pids.clone());
        let watching = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                noted.set(noted.get().max(pss(&watched)));
            }
        });
        Self { seen, pids, watching }
    }

    pub fn stop(self) -> u64 {
        self.watching.abort();
        self.seen.get().max(pss(&self.pids))
    }
}

/// Units of work that have been finished, with how long each took.
pub struct Stats {
    began: Instant,
    done: Cell<u64>,
    failed: Cell<u64>,
    problem: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
}

impl Stats {
    pub fn new() -> Result<Self, Problem> {
        // Microseconds up to a minute, three digits.
        let latency = RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?);
        Ok(Self {
            began: Instant::now(),
            done: Cell::new(0),
            failed: Cell::new(0),
            problem: RefCell::default(),
            latency,
        })
    }

    /// Time since the load began: the clock of intended send times.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn finished(&self, intended: Duration) {
        self.done.set(self.done.get() + 1);
        let took = self.now().saturating_sub(intended);
        self.latency.borrow_mut().saturating_record(took.as_micros() as u64);
    }

    pub fn failed(&self, problem: impl ToString) {
        self.failed.set(self.failed.get() + 1);
        self.problem.replace(Some(problem.to_string()));
    }

    /// Percentiles in microseconds since the window was opened.
    pub fn latencies(&self) -> Value {
        let latency = self.latency.borrow();
        let at = |quantile| latency.value_at_quantile(quantile);
        json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": latency.max() })
    }

    pub fn done(&self) -> u64 {
        self.done.get()
    }
}

/// Counts and CPU time between two moments.
pub struct Window<'a> {
    stats: &'a Stats,
    pids: &'a [u32],
    began: Instant,
    done: u64,
    cpu: u64,
    own: u64,
}

impl<'a> Window<'a> {
    /// Begins after the warm-up: latencies seen so far are forgotten.
    pub fn open(stats: &'a Stats, pids: &'a [u32]) -> Self {
        stats.latency.borrow_mut().reset();
        let own = cpu(&[std::process::id()]);
        Self { stats, pids, began: Instant::now(), done: stats.done(), cpu: cpu(pids), own }
    }

    /// The figures. `wanted` is the rate that was asked for; none in a closed loop. A window in which nothing was done is
    /// a failure, for the last reason that was seen.
    pub fn close(self, wanted: Option<f64>) -> Result<Value, Problem> {
        let cpu_ns = cpu(self.pids) - self.cpu;
        let own_ns = cpu(&[std::process::id()]) - self.own;
        let seconds = self.began.elapsed().as_secs_f64();
        let units = self.stats.done() - self.done;
        let rate = units as f64 / seconds;
        if units == 0 {
            return Err(self.stats.problem.take().unwrap_or("nothing was done in time".to_owned()).into());
        }
        // Where most wait for long, the proxy is not given its core; it then does many at once, which is cheaper.
        let prompt = self.stats.latency.borrow().value_at_quantile(0.5) < PROMPT.as_micros() as u64;
        Ok(json!({
            "units": units,
            "seconds": seconds,
            "rate": rate,
            "sustained": wanted.is_none_or(|wanted| rate > wanted * 0.98 && prompt),
            "failed": self.stats.failed.get(),
            "cpu_us_per_unit": cpu_ns as f64 / 1000.0 / units.max(1) as f64,
            "cpu_share": cpu_ns as f64 / 1e9 / seconds,
            "load_cpu_share": own_ns as f64 / 1e9 / seconds,
            "latency_us": self.stats.latencies(),
        }))
    }
}
