//! `ejection`: when live traffic takes a server out.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use crate::config::keys;
use crate::config::model::Ejection;
use crate::config::read::tree::{Cx, Table};

const FAILURES: RangeInclusive<u32> = 1..=1000;
const PERCENT: RangeInclusive<u32> = 0..=100;

/// `None` for `false`.
pub(super) fn read(cx: &mut Cx<'_>, table: &mut Table<'_>) -> Option<Ejection> {
    let mut ejection = Ejection::default();
    let Some(node) = table.take("ejection") else { return Some(ejection) };
    match node.value {
        DeValue::Boolean(false) => return None,
        DeValue::Table(_) => {}
        _ => {
            node.mistyped(cx, "ejection", "a table, or false").help("leave this key out for the defaults");
            return Some(ejection);
        }
    }
    let mut table = table.table(cx, "ejection", &keys::EJECTION)?;
    ejection.failures = table.integer(cx, "failures", FAILURES).map_or(ejection.failures, |number| number.value);
    ejection.duration = table.duration(cx, "duration", ejection.duration);
    let longest = ejection.max_duration.max(ejection.duration);
    ejection.max_duration = table.duration(cx, "max_duration", longest);
    if ejection.max_duration < ejection.duration {
        let spot = table.key_spot("max_duration");
        cx.error("out-of-range", &spot, "`max_duration` cannot be less than `duration`")
            .help("write a longer one, or leave it out")
            .also(&table.key_spot("duration"), "already this long");
    }
    let percent = table.integer(cx, "max_ejected_percent", PERCENT);
    ejection.max_ejected_percent = percent.map_or(ejection.max_ejected_percent, |number| number.value);
    table.close(cx);
    Some(ejection)
}
