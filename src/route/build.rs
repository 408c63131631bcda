//! From the configuration to a [`RouteTable`], with a word on every route that clashes or can never win.

use std::collections::HashSet;

use super::lead::lead;
use super::{HostTable, PathTable, RegexEntry, RouteTable};
use crate::config::model::{Config, HostPattern, PathPattern, Route, Target};
use crate::config::report::Report;
use crate::proto::target::normalise;

impl RouteTable {
    /// Arranges all routes. Ties are errors in the report; routes that can never win are warnings.
    pub fn build(config: &Config, report: &mut Report) -> Self {
        let mut builder =
            Builder { config, report, told: HashSet::new(), places: vec![Places::default(); config.routes.len()] };
        let listeners = (0..config.listeners.len()).map(|listener| builder.host_table(listener)).collect();
        builder.tell_unreachable();
        Self { listeners }
    }
}

struct Builder<'a> {
    config: &'a Config,
    report: &'a mut Report,
    /// Pairs of routes whose clash has been told.
    told: HashSet<(usize, usize)>,
    places: Vec<Places>,
}

/// In how many path tables a route stands, and in how many of them it can never win.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    all: usize,
    hidden: usize,
    /// A route that hides it.
    behind: Option<usize>,
}

impl Builder<'_> {
    fn host_table(&mut self, listener: usize) -> HostTable {
        let mut table = HostTable::default();
        let Some(here) = self.config.listeners.get(listener).filter(|here| !here.redirect_https) else { return table };
        for (index, route) in self.config.routes.iter().enumerate() {
            if !route.listeners.is_empty() && !route.listeners.iter().any(|name| name.value == here.name) {
                continue;
            }
            if route.hosts.is_empty() {
                self.add(table.any.get_or_insert_default(), index, None);
            }
            for host in &route.hosts {
                let paths = match &host.value {
                    HostPattern::Exact(name) => table.exact.entry(name.clone()).or_default(),
                    HostPattern::Wildcard(suffix) => table.wildcards.entry(suffix.clone()).or_default(),
                };
                self.add(paths, index, Some(&host.value));
            }
        }
        self.tell_overtaken(&table);
        for paths in table.exact.values_mut().chain(table.wildcards.values_mut()).chain(&mut table.any) {
            // Stable: equal leads stay in the order of the file.
            paths.regexes.sort_by_key(|entry| std::cmp::Reverse(entry.lead));
            self.count_hidden(paths);
        }
        table
    }

    fn add(&mut self, paths: &mut PathTable, index: usize, host: Option<&HostPattern>) {
        let route = &self.config.routes[index];
        self.places[index].all += 1;
        let earlier = match &route.path.value {
            PathPattern::Exact(path) => occupy(&mut paths.exact, normalise(path).into_owned(), index),
            PathPattern::Prefix(prefix) => {
                let prefix = prefix_key(prefix);
                paths.longest_prefix = paths.longest_prefix.max(prefix.len());
                occupy(&mut paths.prefixes, prefix, index)
            }
            PathPattern::Regex(regex) => {
                let same = paths.regexes.iter().find(|entry| entry.regex.as_str() == regex.as_str());
                let earlier = same.map(|entry| entry.route);
                if earlier.is_none() {
                    let lead = lead(regex.as_str()).0.len().max(1);
                    paths.regexes.push(RegexEntry { lead, regex: regex.clone(), route: index });
                }
                earlier
            }
        };
        // Routes of one name are told by the reader of the file, and one route may name a host twice.
        if let Some(earlier) = earlier
            && self.config.routes[earlier].name != route.name
            && self.told.insert((earlier, index))
        {
            self.tell_clash(earlier, index, host);
        }
    }

    fn tell_clash(&mut self, earlier: usize, index: usize, host: Option<&HostPattern>) {
        let (first, route) = (&self.config.routes[earlier], &self.config.routes[index]);
        let what = host.map_or("any host".to_owned(), |host| format!("`{}`", written(host)));
        self.report
            .error(
                "duplicate-route",
                &route.path.spot,
                format!("{} for {what} is already taken by the route `{}`", describe_path(route), first.name),
            )
            .help("remove one of the two, or give them different `hosts`, `path` or `listeners`")
            .also(&first.path.spot, "taken here");
    }

    /// An open-ended regex takes every path that a prefix of the same text, or a later regex with the same lead, could.
    fn count_hidden(&mut self, paths: &PathTable) {
        for (at, entry) in paths.regexes.iter().enumerate() {
            let (text, open) = lead(entry.regex.as_str());
            if !open {
                continue;
            }
            let text = if text.is_empty() { "/" } else { text.as_str() };
            let later = paths.regexes[at + 1..].iter().filter(|later| {
                let (other, _) = lead(later.regex.as_str());
                other == text || (text == "/" && other.is_empty())
            });
            let prefix = paths.prefixes.get(text).copied();
            for hidden in later.map(|later| later.route).chain(prefix).filter(|hidden| *hidden != entry.route) {
                self.places[hidden].hidden += 1;
                self.places[hidden].behind = Some(entry.route);
            }
        }
    }

    /// Hosts come before paths, which surprises whoever adds `/ws` without `hosts` beside a host's own `/`: the host's
    /// WebSockets then meet a route that refuses them. Told only where the routes without `hosts` have no `/` of their
    /// own, since with one they are a site for all other hosts, and where the host's route goes to a server.
    fn tell_overtaken(&mut self, table: &HostTable) {
        let Some(any) = table.any.as_ref().filter(|any| !any.prefixes.contains_key("/")) else { return };
        for (path, &index) in any.exact.iter().chain(&any.prefixes) {
            let route = &self.config.routes[index];
            let named = table.exact.values().chain(table.wildcards.values());
            let winners = named.filter_map(|paths| paths.find(path)).filter(|winner| {
                let winner = &self.config.routes[*winner];
                winner.websocket.is_none() && matches!(winner.target, Target::Upstream(_))
            });
            let Some(winner) = winners.min().filter(|_| route.websocket.is_some()) else { continue };
            if !self.told.insert((winner, index)) {
                continue;
            }
            let winner = &self.config.routes[winner];
            let host = winner.hosts.first().map_or("…".to_owned(), |host| written(&host.value));
            let message = format!(
                "{} is not used for `{host}`: a route that names the host comes first, and it has no `websocket` table",
                describe_path(route)
            );
            self.report
                .warning("overtaken-route", &route.path.spot, message)
                .help(format!("add `hosts = [\"{host}\"]` to this route if it is meant for that host too"))
                .also(&winner.path.spot, "this route wins there");
        }
    }

    fn tell_unreachable(&mut self) {
        for (route, places) in self.config.routes.iter().zip(&self.places) {
            if places.all == 0 && route.listeners.is_empty() && !self.config.listeners.is_empty() {
                self.report
                    .warning("unreachable-route", &route.spot, "no request reaches this route")
                    .help("every listener redirects to https; add one with a `tls` table");
            }
            let Some(behind) = places.behind.filter(|_| places.hidden >= places.all) else { continue };
            let winner = &self.config.routes[behind];
            let message = format!("{} never wins: {} takes all of it", describe_path(route), describe_path(winner));
            self.report
                .warning("unreachable-route", &route.path.spot, message)
                .help("make the regular expression narrower, or remove this route")
                .also(&winner.path.spot, "the route that wins");
        }
    }
}

/// Puts a route where none stands; else gives the one that does.
fn occupy(table: &mut std::collections::HashMap<String, usize>, key: String, route: usize) -> Option<usize> {
    let taken = *table.entry(key).or_insert(route);
    (taken != route).then_some(taken)
}

/// A prefix as requests are compared with it; without the slash that some write at its end.
pub(super) fn prefix_key(prefix: &str) -> String {
    let prefix = normalise(prefix);
    match prefix.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn written(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}

pub(super) fn describe_path(route: &Route) -> String {
    match &route.path.value {
        PathPattern::Exact(path) => format!("the exact path `{path}`"),
        PathPattern::Prefix(prefix) => format!("the prefix `{prefix}`"),
        PathPattern::Regex(regex) => format!("the regex `{}`", regex.as_str()),
    }
}
