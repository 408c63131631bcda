//! What an upstream may cost its servers: `max_connections`, `queue`, `retry_budget`.

use std::time::Duration;

use crate::config::keys;
use crate::config::model::{Queue, RetryBudget, Upstream};
use crate::config::read::tree::{Cx, Table};

pub(super) const CONNECTIONS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
/// Each who waits holds a request and its connection.
const QUEUE_SIZES: std::ops::RangeInclusive<u32> = 0..=100_000;
/// As many as there can be: ten for each request.
const PERCENT: std::ops::RangeInclusive<u32> = 0..=1000;
const PER_SECOND: std::ops::RangeInclusive<u32> = 0..=1_000_000;

pub(super) const QUEUE: Queue = Queue { size: 100, timeout: Duration::from_secs(5) };
pub(super) const RETRY_BUDGET: RetryBudget = RetryBudget { percent: 20, min_per_second: 10 };

/// `queue` and `retry_budget`, once servers and `retries` are known.
pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>, upstream: &mut Upstream) {
    // A limit that could not be read is one all the same.
    let of_all = table.take("max_connections").is_some_and(|node| node.value.as_str() != Some("none"));
    let is_limited = of_all || upstream.servers.iter().any(|server| server.max_connections.is_some());
    if table.has("queue") && !is_limited && !upstream.servers.is_empty() {
        let spot = table.key_spot("queue");
        cx.error("no-effect", &spot, "`queue` has no effect: no server of this upstream has a `max_connections`")
            .help("add for example max_connections = 100, or remove this key");
    }
    if table.has("retry_budget") && upstream.retries == 0 {
        let spot = table.key_spot("retry_budget");
        cx.error("no-effect", &spot, "`retry_budget` has no effect with `retries = 0`")
            .help("write retries = 1 or more, or remove this key");
    }
    upstream.queue = queue(cx, table);
    upstream.retry_budget = retry_budget(cx, table);
}

fn queue(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Queue {
    let Some(mut table) = table.table(cx, "queue", &keys::QUEUE) else { return QUEUE };
    let size = table.integer(cx, "size", QUEUE_SIZES).map_or(QUEUE.size, |size| size.value);
    if size == 0 && table.has("timeout") {
        let spot = table.key_spot("timeout");
        cx.error("no-effect", &spot, "`timeout` has no effect with `size = 0`: nobody waits")
            .help("write a size, or remove this key");
    }
    let timeout = table.duration(cx, "timeout", QUEUE.timeout);
    table.close(cx);
    Queue { size, timeout }
}

fn retry_budget(cx: &mut Cx<'_>, table: &mut Table<'_>) -> RetryBudget {
    let Some(mut table) = table.table(cx, "retry_budget", &keys::RETRY_BUDGET) else { return RETRY_BUDGET };
    let percent = table.integer(cx, "percent", PERCENT);
    let floor = table.integer(cx, "min_per_second", PER_SECOND);
    if let (Some(percent), Some(floor)) = (&percent, &floor)
        && percent.value == 0
        && floor.value == 0
    {
        cx.error("no-retries", &percent.spot, "this budget allows no retry at all")
            .help("to retry nothing write retries = 0 and remove `retry_budget`")
            .also(&floor.spot, "and none here");
    }
    table.close(cx);
    RetryBudget {
        percent: percent.map_or(RETRY_BUDGET.percent, |percent| percent.value),
        min_per_second: floor.map_or(RETRY_BUDGET.min_per_second, |floor| floor.value),
    }
}
