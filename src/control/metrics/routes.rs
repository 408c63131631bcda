//! What is told of routes: their requests, handshakes and tunnels.
//!
//! Of a route that nobody has asked for yet only what is always there is told, so that a configuration with thousands of
//! routes does not make thousands of lines of zeros.

use std::fmt;
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::names::{self, Metric};
use crate::telemetry::metrics::text::{Samples, Sheet};
use crate::telemetry::metrics::{
    Cells, CloseCode, Direction, HandshakeResult, RouteBook, RouteCells, SIDES, StatusClass, TunnelCells, VERSIONS,
};

/// One route, as all workers together have counted it.
struct Row {
    book: Arc<RouteBook>,
    /// `None`: nobody has asked for it yet.
    requests: Option<Box<RouteCells>>,
    /// `None`: it has none, and can have none.
    tunnels: Option<Box<TunnelCells>>,
}

pub fn has_open_tunnels(book: &RouteBook) -> bool {
    book.tunnels.sum().open() > 0
}

pub fn write(sheet: &mut Sheet<'_>, snapshot: &Snapshot, gone: Vec<Arc<RouteBook>>) -> fmt::Result {
    let in_use = snapshot.routes.iter().zip(&snapshot.route_books);
    let in_use = in_use.map(|(route, book)| (book.clone(), route.websocket.is_some()));
    let others = std::iter::once(snapshot.unrouted.clone()).chain(gone).map(|book| (book, false));
    let rows: Vec<_> = in_use.chain(others).map(|(book, opens_tunnels)| row(book, opens_tunnels)).collect();
    write_requests(sheet, &rows)?;
    write_handshakes(sheet, &rows)?;
    write_tunnels(sheet, &rows)?;
    write_messages(sheet, &rows)
}

fn row(book: Arc<RouteBook>, opens_tunnels: bool) -> Row {
    let requests = book.requests.sum_if_any();
    let tunnels = book.tunnels.sum_if_any().or_else(|| opens_tunnels.then(|| Box::new(TunnelCells::zero())));
    Row { book, requests, tunnels }
}

fn write_requests(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_requests(sheet, &names::REQUESTS, rows, |samples, route, cells| {
        for (version, by_class) in VERSIONS.iter().zip(&cells.requests) {
            for class in StatusClass::ALL {
                samples.count(&[route, version.as_str(), class.as_str()], by_class[*class as usize].get())?;
            }
        }
        Ok(())
    })?;
    of_requests(sheet, &names::REQUESTS_ENDED, rows, |samples, route, cells| {
        let mut ends = EndReason::ALL.iter();
        ends.try_for_each(|end| samples.count(&[route, end.code()], cells.ends[*end as usize].get()))
    })?;
    of_requests(sheet, &names::REQUEST_DURATION, rows, |samples, route, cells| {
        samples.histogram(&[route], &cells.duration)
    })?;
    of_requests(sheet, &names::REQUEST_UPSTREAM_DURATION, rows, |samples, route, cells| {
        samples.histogram(&[route], &cells.upstream)
    })?;
    of_requests(sheet, &names::REQUEST_BODY_BYTES, rows, |samples, route, cells| {
        let mut ways = Direction::ALL.iter();
        ways.try_for_each(|way| samples.value(&[route, way.as_str()], cells.bytes[*way as usize].get()))
    })
}

fn write_handshakes(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_requests(sheet, &names::HANDSHAKES, rows, |samples, route, cells| {
        samples.count(&[route, HandshakeResult::Opened.as_str(), ""], cells.opened.get())?;
        for end in EndReason::ALL {
            let result = HandshakeResult::of(*end).as_str();
            samples.count(&[route, result, end.code()], cells.turned_down[*end as usize].get())?;
        }
        Ok(())
    })
}

fn write_tunnels(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_tunnels(sheet, &names::TUNNELS_OPEN, rows, |samples, route, cells| samples.value(&[route], cells.open()))?;
    of_tunnels(sheet, &names::TUNNELS_OPENED, rows, |samples, route, cells| {
        samples.value(&[route], cells.opened.get())
    })?;
    of_tunnels(sheet, &names::TUNNELS_ENDED, rows, |samples, route, cells| {
        let mut ends = EndReason::ALL.iter();
        ends.try_for_each(|end| samples.count(&[route, end.code()], cells.ended[*end as usize].get()))
    })
}

fn write_messages(sheet: &mut Sheet<'_>, rows: &[Row]) -> fmt::Result {
    of_tunnels(sheet, &names::TUNNEL_BYTES, rows, |samples, route, cells| {
        let mut ways = Direction::ALL.iter();
        ways.try_for_each(|way| samples.value(&[route, way.as_str()], cells.bytes[*way as usize].get()))
    })?;
    of_tunnels(sheet, &names::TUNNEL_MESSAGES, rows, |samples, route, cells| {
        let mut ways = Direction::ALL.iter();
        ways.try_for_each(|way| samples.value(&[route, way.as_str()], cells.messages[*way as usize].count()))
    })?;
    of_tunnels(sheet, &names::TUNNEL_MESSAGE_SIZE, rows, |samples, route, cells| {
        let mut ways = Direction::ALL.iter();
        ways.try_for_each(|way| samples.histogram(&[route, way.as_str()], &cells.messages[*way as usize]))
    })?;
    of_tunnels(sheet, &names::TUNNEL_CLOSE_CODES, rows, |samples, route, cells| {
        for (side, codes) in SIDES.iter().zip(&cells.codes) {
            for code in CloseCode::ALL {
                samples.count(&[route, side.as_str(), code.as_str()], codes[*code as usize].get())?;
            }
        }
        Ok(())
    })?;
    of_tunnels(sheet, &names::TUNNEL_PING_ROUND_TRIP, rows, |samples, route, cells| {
        // The sides from which pongs come, in the order of directions.
        let mut sides = SIDES.iter().zip(&cells.round_trips);
        sides.try_for_each(|(side, round_trips)| samples.histogram(&[route, side.as_str()], round_trips))
    })?;
    of_tunnels(sheet, &names::TUNNEL_DURATION, rows, |samples, route, cells| {
        samples.histogram(&[route], &cells.duration)
    })
}

/// One metric of all routes that were asked for.
fn of_requests(
    sheet: &mut Sheet<'_>,
    metric: &Metric,
    rows: &[Row],
    write: impl Fn(&mut Samples<'_>, &str, &RouteCells) -> fmt::Result,
) -> fmt::Result {
    sheet.metric(metric, |samples| {
        let mut asked = rows.iter().filter_map(|row| Some((row.book.name.as_str(), row.requests.as_deref()?)));
        asked.try_for_each(|(route, cells)| write(samples, route, cells))
    })
}

/// One metric of all routes that have tunnels, or could have.
fn of_tunnels(
    sheet: &mut Sheet<'_>,
    metric: &Metric,
    rows: &[Row],
    write: impl Fn(&mut Samples<'_>, &str, &TunnelCells) -> fmt::Result,
) -> fmt::Result {
    sheet.metric(metric, |samples| {
        let mut with = rows.iter().filter_map(|row| Some((row.book.name.as_str(), row.tunnels.as_deref()?)));
        with.try_for_each(|(route, cells)| write(samples, route, cells))
    })
}
