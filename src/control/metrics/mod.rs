//! All metrics of the process, as text: whoever serves them asks [`Metrics::render`].
//!
//! Owns the books of routes and listeners that are gone. Those stay for one more reload, and for as long as they have tunnels
//! or connections, so that the last that was counted of them is read. Nothing here stops or asks a worker: their cells are
//! read as they stand.

mod gone;
mod routes;
mod servers;
mod totals;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gone::Gone;
pub use totals::Totals;

use super::InUse;
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::limits::Connections;
use crate::snapshot::Snapshot;
use crate::telemetry::LostLines;
use crate::telemetry::metrics::names;
use crate::telemetry::metrics::process::{Process, seconds_since_1970};
use crate::telemetry::metrics::text::{self, CONTENT_TYPE, Sheet, Source};
use crate::telemetry::metrics::{Closed, ListenerBook, Refused, RouteBook, TLS_VERSIONS, TlsResult};
use crate::upstream;
use crate::worker::WorkerView;

/// The metrics of one process. Clones are the same ones; any thread may ask.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

/// What is looked at.
pub struct Gauged {
    pub in_use: InUse,
    /// In the order of their numbers.
    pub workers: Vec<WorkerView>,
    pub connections: Connections,
    pub lifecycle: Lifecycle,
    pub access_log: LostLines,
    pub event_log: LostLines,
}

/// One scrape.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub body: String,
    pub content_type: &'static str,
}

struct Shared {
    gauged: Gauged,
    /// Seconds since 1970.
    started: f64,
    history: Mutex<History>,
}

/// The configuration that is told about, and what is gone since.
struct History {
    snapshot: Arc<Snapshot>,
    routes: Gone<RouteBook>,
    listeners: Gone<ListenerBook>,
}

impl Metrics {
    pub fn new(gauged: Gauged) -> Self {
        let snapshot = gauged.in_use.snapshot();
        let started = seconds_since_1970(clock::wall());
        let (routes, listeners) = (Gone::default(), Gone::default());
        let history = History { snapshot, routes, listeners };
        Self { shared: Arc::new(Shared { gauged, started, history: Mutex::new(history) }) }
    }

    /// A reload has put this snapshot in use.
    pub fn follow(&self, snapshot: &Arc<Snapshot>) {
        let history = &mut *self.shared.history();
        let before = std::mem::replace(&mut history.snapshot, snapshot.clone());
        history.routes.follow(&before.route_books, &snapshot.route_books, routes::has_open_tunnels);
        let books = |snapshot: &Snapshot| snapshot.listeners.iter().map(|plan| plan.book.clone()).collect::<Vec<_>>();
        history.listeners.follow(&books(&before), &books(snapshot), |book| book.connections.open() > 0);
    }

    /// Sums over all routes, as they stand now.
    pub fn totals(&self) -> Totals {
        let (snapshot, gone) = {
            let history = self.shared.history();
            (history.snapshot.clone(), history.routes.books())
        };
        let mut totals = Totals::default();
        let books = snapshot.route_books.iter().chain([&snapshot.unrouted]).chain(&gone);
        books.for_each(|book| totals.add(book));
        totals
    }

    /// Everything as it stands now. Reads a few files of /proc, and takes time in proportion to what there is to tell: not
    /// for a worker's thread.
    ///
    /// # Errors
    /// None that a configuration, or anything that happens, could bring about.
    pub fn render(&self) -> Result<Rendered, fmt::Error> {
        let body = text::write(self.clone())?;
        Ok(Rendered { body, content_type: CONTENT_TYPE })
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Metrics {
    fn fill(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Shared { gauged, started, .. } = &*self.shared;
        // Held for no longer than it takes to copy.
        let (snapshot, gone_routes, gone_listeners) = {
            let history = self.shared.history();
            (history.snapshot.clone(), history.routes.books(), history.listeners.books())
        };
        let reloads = gauged.in_use.history();
        write_listeners(sheet, &snapshot, gone_listeners, gauged.connections.max())?;
        routes::write(sheet, &snapshot, gone_routes)?;
        servers::write(sheet, &snapshot)?;
        write_ports(sheet)?;

        sheet.value(&names::CONFIG_GENERATION, snapshot.number)?;
        sheet.value(&names::CONFIG_IN_USE_SINCE, seconds_since_1970(reloads.since))?;
        sheet.metric(&names::CONFIG_RELOADS, |samples| {
            // Each has put the next number in use.
            samples.value(&["done"], snapshot.number - 1)?;
            samples.value(&["refused"], reloads.refused)
        })?;
        write_certificates(sheet, &snapshot)?;
        sheet.metric(&names::LOG_LINES_LOST, |samples| {
            samples.value(&["access"], gauged.access_log.get())?;
            samples.value(&["events"], gauged.event_log.get())
        })?;
        write_workers(sheet, &gauged.workers)?;
        write_process(sheet, *started, gauged.lifecycle.phase().is_stopping())
    }
}

fn write_listeners(
    sheet: &mut Sheet<'_>,
    snapshot: &Snapshot,
    gone: Vec<Arc<ListenerBook>>,
    limit: usize,
) -> fmt::Result {
    let books: Vec<_> = snapshot.listeners.iter().map(|plan| plan.book.clone()).chain(gone).collect();
    sheet.metric(&names::CONNECTIONS_ACCEPTED, |samples| {
        books.iter().try_for_each(|book| samples.value(&[book.name.as_str()], book.connections.accepted()))
    })?;
    sheet.metric(&names::CONNECTIONS_REFUSED, |samples| {
        for (book, why) in pairs(&books, Refused::ALL) {
            samples.value(&[book.name.as_str(), why.as_str()], book.connections.refused(why))?;
        }
        Ok(())
    })?;
    sheet.metric(&names::CONNECTIONS_CLOSED, |samples| {
        for (book, how) in pairs(&books, Closed::ALL) {
            samples.count(&[book.name.as_str(), how.as_str()], book.connections.closed(how))?;
        }
        Ok(())
    })?;
    sheet.metric(&names::CONNECTIONS_OPEN, |samples| {
        books.iter().try_for_each(|book| samples.value(&[book.name.as_str()], book.connections.open()))
    })?;
    sheet.value(&names::CONNECTIONS_LIMIT, limit)?;

    let sums: Vec<_> = books.iter().map(|book| (book.name.as_str(), book.cells.sum())).collect();
    sheet.metric(&names::TLS_HANDSHAKES, |samples| {
        for (name, cells) in &sums {
            for (version, done) in TLS_VERSIONS.iter().zip(&cells.done) {
                for (resumed, done) in ["no", "yes"].iter().zip(done) {
                    samples.count(&[name, TlsResult::Done.as_str(), version, resumed], done.get())?;
                }
            }
            for why in TlsResult::ALL {
                samples.count(&[name, why.as_str(), "", ""], cells.failed[*why as usize].get())?;
            }
        }
        Ok(())
    })?;
    sheet.metric(&names::TLS_HANDSHAKE_DURATION, |samples| {
        sums.iter().try_for_each(|(name, cells)| samples.histogram(&[name], &cells.duration))
    })
}

fn pairs<'a, T: Copy>(books: &'a [Arc<ListenerBook>], kinds: &'a [T]) -> impl Iterator<Item = (&'a ListenerBook, T)> {
    books.iter().flat_map(|book| kinds.iter().map(|kind| (&**book, *kind)))
}

fn write_ports(sheet: &mut Sheet<'_>) -> fmt::Result {
    let (limit, pairs) = upstream::ports_in_use();
    sheet.metric(&names::SOURCE_PORTS_IN_USE, |samples| {
        for (pair, live) in pairs {
            let source = pair.source.map_or_else(|| "any".to_owned(), |source| source.to_string());
            samples.value(&[&source, &pair.destination.to_string()], live)?;
        }
        Ok(())
    })?;
    sheet.value(&names::SOURCE_PORTS_LIMIT, limit)
}

fn write_certificates(sheet: &mut Sheet<'_>, snapshot: &Snapshot) -> fmt::Result {
    sheet.metric(&names::CERTIFICATE_NOT_AFTER, |samples| {
        for plan in &snapshot.listeners {
            for (file, name, not_after) in plan.tls.iter().flat_map(|policies| policies.expiries()) {
                samples.value(&[plan.name.as_str(), &file.to_string_lossy(), &name], not_after as f64)?;
            }
        }
        Ok(())
    })
}

fn write_workers(sheet: &mut Sheet<'_>, workers: &[WorkerView]) -> fmt::Result {
    let numbered: Vec<_> = workers.iter().enumerate().map(|(number, view)| (number.to_string(), view)).collect();
    sheet.metric(&names::WORKER_CONNECTIONS, |samples| {
        numbered.iter().try_for_each(|(number, view)| samples.value(&[number], view.connections()))
    })?;
    sheet.metric(&names::WORKER_BUSY, |samples| {
        numbered.iter().try_for_each(|(number, view)| samples.value(&[number], seconds(view.busy())))
    })?;
    sheet.metric(&names::WORKER_LOOP_LAG, |samples| {
        numbered.iter().try_for_each(|(number, view)| samples.histogram(&[number], &view.cells().lag))
    })?;
    sheet.metric(&names::WORKER_INBOX_LENGTH, |samples| {
        for (number, view) in &numbered {
            let (connections, commands) = view.waiting();
            samples.value(&[number, "connections"], connections)?;
            samples.value(&[number, "commands"], commands)?;
        }
        Ok(())
    })
}

fn write_process(sheet: &mut Sheet<'_>, started: f64, is_draining: bool) -> fmt::Result {
    let process = Process::look();
    sheet.value(&names::PROCESS_START_TIME, started)?;
    sheet.value(&names::PROCESS_CPU, seconds(process.cpu))?;
    sheet.known(&names::PROCESS_RESIDENT_MEMORY, process.resident)?;
    sheet.known(&names::PROCESS_OPEN_FDS, process.open_fds)?;
    sheet.known(&names::PROCESS_MAX_FDS, process.max_fds)?;
    sheet.value(&names::PROCESS_DRAINING, u64::from(is_draining))?;
    sheet.metric(&names::BUILD, |samples| samples.value(&[env!("CARGO_PKG_VERSION")], 1_u64))
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
