//! What is told of upstreams and their servers.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::telemetry::metrics::names::{self, Metric};
use crate::telemetry::metrics::text::{Samples, Sheet, Value};
use crate::types::Name;
use crate::upstream::{
    Condition, Definition, FailureKind, QueueCounts, RetryCounts, Server, ServerCells, Standing, State,
};

/// What the label `state` says, one of them for each server.
const STATES: [&str; 5] = ["up", "trial", "ejected", "down", "draining"];

/// One server of one upstream.
struct Row {
    upstream: Name,
    server: Arc<Server>,
    condition: Condition,
    counts: ServerCells,
}

impl Row {
    fn labels(&self) -> [&str; 2] {
        [self.upstream.as_str(), self.server.url.as_str()]
    }

    /// Who is out is told before who drains: that cannot be seen otherwise.
    fn state(&self) -> &'static str {
        match self.condition.standing {
            Standing::Down => "down",
            Standing::Ejected => "ejected",
            _ if self.server.drains() => "draining",
            Standing::Trial | Standing::OnTrial => "trial",
            Standing::Up => "up",
        }
    }
}

pub fn write(sheet: &mut Sheet<'_>, snapshot: &Snapshot) -> fmt::Result {
    let rows: Vec<_> = snapshot.upstreams.iter().flat_map(|upstream| rows(upstream)).collect();
    sheet.metric(&names::SERVER_STATE, |samples| {
        for row in &rows {
            let ([upstream, server], is) = (row.labels(), row.state());
            STATES.iter().try_for_each(|state| samples.value(&[upstream, server, state], u64::from(*state == is)))?;
        }
        Ok(())
    })?;
    write_traffic(sheet, &rows)?;
    write_connections(sheet, &rows)?;
    of_each(sheet, &names::SERVER_EJECTIONS, &rows, |row| row.condition.ejections)?;
    sheet.metric(&names::SERVER_CHECKS, |samples| {
        for row in &rows {
            let ([upstream, server], checks) = (row.labels(), row.condition.checks);
            samples.count(&[upstream, server, "passed"], checks.passed)?;
            samples.count(&[upstream, server, "failed"], checks.failed)?;
        }
        Ok(())
    })?;
    write_upstreams(sheet, &snapshot.upstreams)
}

fn rows(upstream: &Definition) -> Vec<Row> {
    let (_, servers) = upstream.roster.read();
    // Two names may stand for one address.
    let mut seen = HashSet::new();
    let servers = servers.iter().filter(|server| seen.insert(server.url.clone()));
    let row = |server: &Arc<Server>| Row {
        upstream: upstream.name.clone(),
        server: server.clone(),
        condition: server.state.condition(upstream),
        counts: server.state.counts(),
    };
    servers.map(row).collect()
}

fn write_traffic(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_each(sheet, &names::SERVER_REQUESTS, rows, |row| row.counts.requests.get())?;
    sheet.metric(&names::SERVER_FAILURES, |samples| {
        for row in rows {
            let [upstream, server] = row.labels();
            for kind in FailureKind::ALL {
                samples.count(&[upstream, server, kind.as_str()], row.counts.failures[*kind as usize].get())?;
            }
        }
        Ok(())
    })?;
    of_each_state(sheet, &names::SERVER_REQUESTS_OPEN, rows, State::requests)?;
    of_each_state(sheet, &names::SERVER_TUNNELS_OPEN, rows, State::tunnels)
}

fn write_connections(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_each_state(sheet, &names::SERVER_CONNECTIONS_OPEN, rows, State::open)?;
    of_each_state(sheet, &names::SERVER_CONNECTIONS_IDLE, rows, State::idle)?;
    of_each_state(sheet, &names::SERVER_CONNECTIONS_OPENED, rows, State::opened)?;
    of_each(sheet, &names::SERVER_CONNECTIONS_REUSED, rows, |row| row.counts.reused.get())
}

fn write_upstreams(sheet: &mut Sheet<'_>, upstreams: &[Arc<Definition>]) -> fmt::Result {
    let rows: Vec<_> = upstreams
        .iter()
        .map(|upstream| (upstream.name.as_str(), upstream.retry_counts(), upstream.queue_counts()))
        .collect();
    let mut each = |metric: &Metric, value: &dyn Fn(&RetryCounts, &QueueCounts) -> Value| {
        sheet.metric(metric, |samples: &mut Samples<'_>| {
            rows.iter().try_for_each(|(name, retries, queue)| samples.value(&[name], value(retries, queue)))
        })
    };
    each(&names::UPSTREAM_RETRIES, &|retries, _| retries.taken.into())?;
    each(&names::UPSTREAM_RETRIES_REFUSED, &|retries, _| retries.refused.into())?;
    each(&names::UPSTREAM_QUEUE_LENGTH, &|_, queue| queue.length.into())?;
    each(&names::UPSTREAM_QUEUE_JOINED, &|_, queue| queue.joined.into())?;
    each(&names::UPSTREAM_QUEUE_REFUSED, &|_, queue| queue.refused.into())?;
    each(&names::UPSTREAM_QUEUE_TIMED_OUT, &|_, queue| queue.timed_out.into())?;
    each(&names::UPSTREAM_QUEUE_WAIT, &|_, queue| queue.waited.as_secs_f64().into())
}

fn of_each(sheet: &mut Sheet<'_>, metric: &Metric, rows: &[Row], value: impl Fn(&Row) -> u64) -> fmt::Result {
    sheet.metric(metric, |samples| rows.iter().try_for_each(|row| samples.value(&row.labels(), value(row))))
}

fn of_each_state<V: Into<Value>>(
    sheet: &mut Sheet<'_>,
    metric: &Metric,
    rows: &[Row],
    value: impl Fn(&State) -> V,
) -> fmt::Result {
    sheet.metric(metric, |samples| {
        rows.iter().try_for_each(|row| samples.value(&row.labels(), value(&row.server.state)))
    })
}
