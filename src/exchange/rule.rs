//! The name of the rule by which something was refused, for the log: a key of the configuration with its place, as
//! `explain` has it, or the clause that everybody has to keep to.

use std::borrow::Cow;

use crate::config::model::Target;
use crate::config::places::Within;
use crate::fault::Rule;
use crate::snapshot::Snapshot;

/// `None`: there is none, or what it stands in was not found out. `listener` and `route`: by their places.
pub fn name(rule: Rule, snapshot: &Snapshot, listener: usize, route: Option<usize>) -> Option<Cow<'static, str>> {
    let upstream = || match snapshot.routes[route?].target {
        Target::Upstream(upstream) => Some(upstream),
        Target::Redirect { .. } | Target::Respond { .. } => None,
    };
    let (within, keys) = match rule {
        Rule::Listener(keys) => (Within::Listener(listener), keys),
        Rule::Route(keys) => (Within::Route(route?), keys),
        Rule::Upstream(keys) => (Within::Upstream(upstream()?), keys),
        Rule::Specification(clause) => return Some(clause.into()),
        Rule::None => return None,
    };
    Some(snapshot.rules.name(within, keys).into())
}
