//! What is shown of a drain, whatever it is of. What one kind has not is `null`.

use serde::Serialize;

use super::{millis, moment};
use crate::clock;
use crate::control::sweeps::{Speed, Subject, Sweep};
use crate::control::{ServerDrain, WhyDrains};
use crate::types::Name;
use crate::upstream::ServerId;

/// Ids of servers begin with it.
pub(super) const SERVER: &str = "server-";

#[derive(Serialize)]
pub(super) struct List {
    pub drains: Vec<Row>,
}

#[derive(Default, Serialize)]
pub(super) struct Row {
    id: String,
    what: &'static str,
    /// Of a listener, or a route.
    name: Option<String>,
    upstream: Option<String>,
    server: Option<String>,
    filter: Option<String>,
    /// `asked`: by an operator, or a signal; `no-weight`: by the configuration; `gone`: its upstream does not have it any
    /// more.
    why: &'static str,
    since: Option<String>,
    /// Of a server.
    requests: Option<u32>,
    tunnels: Option<u32>,
    /// Tunnels that were found; of a server only where they have a pace of their own.
    total: Option<usize>,
    /// Tunnels that have been told to close for it.
    closed: usize,
    /// Tunnels that have not yet.
    left: Option<usize>,
    /// How many are closed in a second.
    rate: Option<u32>,
    /// The time that they are spread over instead.
    over_ms: Option<u64>,
    /// Whether nothing is left to close.
    done: bool,
}

impl Row {
    pub(super) fn of_sweep(sweep: &Sweep) -> Self {
        let (name, filter) = match &sweep.subject {
            Subject::Listener(name) | Subject::Route(name) => (Some(name.to_string()), None),
            Subject::Tunnels(filter) => (None, Some(filter.to_string())),
            Subject::Process | Subject::Server { .. } => (None, None),
        };
        let row = Self {
            id: Self::id_of(sweep),
            what: sweep.subject.what(),
            name,
            filter,
            why: "asked",
            since: moment(sweep.since),
            ..Self::default()
        };
        row.with_pace(Some(sweep.speed)).with_progress(sweep)
    }

    /// The process, which is about to begin.
    pub(super) fn of_process(speed: Option<Speed>) -> Self {
        let what = Subject::Process.what();
        let row = Self { id: what.to_owned(), what, why: "asked", since: moment(clock::now()), ..Self::default() };
        row.with_pace(speed)
    }

    /// `sweep`: how its tunnels are closed, where they have a pace of their own.
    pub(super) fn of_server(drain: &ServerDrain, sweep: Option<&Sweep>) -> Self {
        let row = Self {
            id: server_id(drain.id),
            what: "server",
            upstream: Some(drain.upstream.to_string()),
            server: Some(drain.server.to_string()),
            why: match drain.why {
                WhyDrains::Asked => "asked",
                WhyDrains::NoWeight => "no-weight",
                WhyDrains::Gone => "gone",
            },
            since: drain.since.and_then(moment),
            requests: Some(drain.requests),
            tunnels: Some(drain.tunnels),
            closed: drain.closed,
            done: drain.tunnels == 0,
            ..Self::default()
        };
        match sweep {
            Some(sweep) => row.with_pace(Some(sweep.speed)).with_progress(sweep),
            None => row.with_pace(drain.rate.map(Speed::Rate)),
        }
    }

    pub(super) fn id_of(sweep: &Sweep) -> String {
        match &sweep.subject {
            Subject::Process => sweep.subject.what().to_owned(),
            subject => format!("{}-{}", subject.what(), sweep.number),
        }
    }

    fn with_pace(mut self, speed: Option<Speed>) -> Self {
        match speed {
            Some(Speed::Rate(rate)) => self.rate = Some(rate),
            Some(Speed::Over(time)) => self.over_ms = Some(millis(time)),
            None => {}
        }
        self
    }

    fn with_progress(mut self, sweep: &Sweep) -> Self {
        let progress = sweep.progress;
        (self.total, self.left) = (Some(progress.total), Some(progress.left));
        (self.closed, self.done) = (progress.closed, progress.is_done);
        self
    }
}

/// What does not drain any more.
#[derive(Serialize)]
pub(super) struct Ended {
    pub id: String,
    what: &'static str,
    name: Option<String>,
    upstream: Option<String>,
    server: Option<String>,
    filter: Option<String>,
}

impl Ended {
    pub(super) fn of_sweep(sweep: &Sweep) -> Self {
        let Row { id, what, name, filter, .. } = Row::of_sweep(sweep);
        Self { id, what, name, upstream: None, server: None, filter }
    }

    pub(super) fn of_server(id: ServerId, upstream: &Name, server: &Name) -> Self {
        let (upstream, server) = (Some(upstream.to_string()), Some(server.to_string()));
        Self { id: server_id(id), what: "server", name: None, upstream, server, filter: None }
    }
}

fn server_id(id: ServerId) -> String {
    format!("{SERVER}{:016x}", id.0)
}
