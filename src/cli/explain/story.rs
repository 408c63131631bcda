//! What becomes of a request on one listener, line by line: TLS, route, the rule that decides, upstream, answer.
//!
//! Each line names its place in the file. Routes are listed where they had a part in the decision: the winner and those
//! it was preferred to; where nothing matched, the first few with the reason why. The others are counted.

use std::fmt::Write;

use http::header::SEC_WEBSOCKET_PROTOCOL;

use crate::config::model::{
    self, Config, HostPattern, OnExcess, OriginRule, Rates, Route, Target, TunnelCounts, WebSocketPolicy,
};
use crate::config::report::{Located, Report, Spot};
use crate::config::show_size;
use crate::exchange::plan::{self, Asked, Found, Plan};
use crate::fault::Fault;
use crate::proto::forwarded;
use crate::proto::origin::origin_of;
use crate::proto::target::parse_target;
use crate::route::{self, Candidate, Outcome, RouteTable};
use crate::snapshot::{ListenerPlan, Snapshot};
use crate::tls::{ClientAuthMode, TlsInfo, VerifiedClient};
use crate::types::HttpVersion;
use crate::upgrade::{EffectiveOrigin, Refusal, deciding_rule};

use super::super::check::count;
use super::question::Question;
use super::server;

/// Routes that are named with their reason where none matches.
const NEAR: usize = 5;

pub struct Story<'a> {
    pub question: &'a Question,
    pub config: &'a Config,
    pub snapshot: &'a Snapshot,
    /// For the places.
    pub report: &'a Report,
    pub out: &'a mut String,
}

impl Story<'_> {
    pub fn tell(&mut self, listener: &ListenerPlan) {
        let here = &self.config.listeners[listener.index];
        let address = super::address(here);
        let name = if address.ends_with(here.name.as_str()) { String::new() } else { format!("{}, ", here.name) };
        self.line("listener", format!("{name}{address} ({})", self.place(&here.spot)));
        let tls = self.tls(listener);
        let asked = Asked {
            listener,
            peer: self.question.client,
            tls: tls.as_ref(),
            version: HttpVersion::Http1,
            protocol: None,
            head: &self.question.head,
        };
        let mut found = Found::default();
        let planned = plan::plan(self.snapshot, &asked, &mut found);
        self.routes(listener, &planned, &found);
        if let Some(route) = found.route {
            self.rules(&self.config.routes[route], &planned);
        }
        match planned {
            Ok(plan) => self.plan(&plan, found.route),
            Err(fault) => self.refusal(&fault, found.route, listener),
        }
    }

    fn line(&mut self, label: &str, text: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{label:<11} {}", text.as_ref());
    }

    /// What is agreed before the request, and what a client would not accept.
    fn tls(&mut self, listener: &ListenerPlan) -> Option<TlsInfo> {
        let policies = listener.tls.as_ref()?;
        let host = &self.question.authority.host;
        let mut info = TlsInfo::assumed(host, policies);
        let mut uncovered = Report::default();
        let pattern = Located::new(HostPattern::Exact(host.clone()), Spot::default());
        policies.check_hosts([&pattern], &mut uncovered);
        if !uncovered.problems.is_empty() {
            self.line("tls", format!("no certificate covers {host}: clients that verify give up before they ask"));
        }
        let required = policies.client_auth(policies.select(Some(host))) == ClientAuthMode::Required;
        if required {
            let shown = if self.question.client_certificate { "is" } else { "is assumed to be" };
            self.line("tls", format!("a client certificate is required before any request; one {shown} shown"));
        }
        if required || self.question.client_certificate {
            info.client_certificate = Some(VerifiedClient { subject: "".into(), fingerprint: "".into() });
        }
        Some(info)
    }

    fn routes(&mut self, listener: &ListenerPlan, planned: &Result<Plan, Fault>, found: &Found) {
        if listener.redirect_https && planned.is_ok() {
            return self.line("route", "none is asked: the listener redirects everything to https");
        }
        if found.route.is_none() && !matches!(planned, Err(Fault::NoRoute | Fault::Misdirected)) {
            return;
        }
        let candidates = self.candidates(listener);
        let (matching, others): (Vec<_>, Vec<_>) =
            candidates.iter().partition(|candidate| candidate.outcome != Outcome::NoMatch);
        for candidate in &matching {
            let label = if candidate.outcome == Outcome::Wins { "route" } else { "beats" };
            self.line(label, format!("{}: {}", self.route_named(candidate), candidate.reason));
        }
        let mut rest = others.len();
        if matching.is_empty() {
            self.line("route", "none matches");
            for candidate in others.iter().take(NEAR) {
                self.line("", format!("{}: {}", self.route_named(candidate), candidate.reason));
            }
            rest = rest.saturating_sub(NEAR);
        }
        match rest {
            0 => {}
            1 => self.line("", "1 other does not match"),
            rest => self.line("", format!("{rest} others do not match")),
        }
    }

    fn candidates(&self, listener: &ListenerPlan) -> Vec<Candidate> {
        let Ok(target) = parse_target(self.question.target()) else { return Vec::new() };
        RouteTable::explain(self.config, listener.index, Some(&self.question.authority), &target.normalised)
    }

    /// The rules of the route's WebSocket table that had a say.
    fn rules(&mut self, route: &Route, planned: &Result<Plan, Fault>) {
        let Some(policy) = &route.websocket else { return };
        let refusal = match planned {
            Ok(Plan::Handshake { .. }) => None,
            Err(Fault::Handshake(refusal)) => Some(*refusal),
            _ => return,
        };
        let origin = self.origin(policy, route);
        self.line("origin", origin);
        if refusal == Some(Refusal::OriginNotAllowed) {
            return;
        }
        let offered = self.question.head.headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
        let allowed = policy.subprotocols.allow.as_ref().map(|names| names.join(", "));
        match (planned, allowed) {
            (Ok(Plan::Handshake { handshake, .. }), Some(allowed)) if offered => {
                let passed = handshake.subprotocols().join(", ");
                let passed = if passed.is_empty() { "none".to_owned() } else { passed };
                self.line("subprotocol", format!("{passed} of those offered; allowed: {allowed}"));
            }
            (Err(Fault::Handshake(Refusal::SubprotocolRequired)), allowed) => {
                let allowed = allowed.map(|allowed| format!(": {allowed}")).unwrap_or_default();
                let offered = if offered { "none of those offered is allowed" } else { "none is offered" };
                self.line("subprotocol", format!("{offered}, and the route requires one{allowed}"));
            }
            _ => {}
        }
    }

    /// Which rule lets the Origin pass, or that none does.
    fn origin(&self, policy: &WebSocketPolicy, route: &Route) -> String {
        let headers = &self.question.head.headers;
        let origin = match origin_of(headers) {
            Ok(Some(origin)) => origin,
            Ok(None) if policy.allow_missing_origin => {
                return "none: a program, since browsers always send one; allow_missing_origin lets it pass".into();
            }
            Ok(None) => return "none, and allow_missing_origin is false".into(),
            Err(_) => return "not an origin; write scheme, host and perhaps port, without a path".into(),
        };
        let effective = forwarded::effective(headers, false, self.question.scheme, Some(&self.question.authority));
        let same = EffectiveOrigin::of(&effective).filter(|_| route::names(route, &self.question.authority));
        let written = |rule: &OriginRule| match (rule, &same) {
            (OriginRule::SameOrigin, Some(same)) => {
                let port =
                    if same.port == same.scheme.default_port() { String::new() } else { format!(":{}", same.port) };
                format!("same-origin (here {}://{}{port})", same.scheme.as_str(), same.host)
            }
            (rule, _) => rule.to_string(),
        };
        match deciding_rule(&policy.origins, &origin, same.as_ref()) {
            Some(index) => {
                let rule = &policy.origins[index];
                format!("allowed by {} ({})", written(&rule.value), self.place(&rule.spot))
            }
            None => {
                let rules: Vec<_> = policy.origins.iter().map(|rule| written(&rule.value)).collect();
                let place = policy.origins.first().map(|rule| self.place(&rule.spot)).unwrap_or_default();
                format!("not allowed by {} ({place})", rules.join(", "))
            }
        }
    }

    fn plan(&mut self, plan: &Plan, route: Option<usize>) {
        match plan {
            Plan::Options => self.line("answer", "200, by the gateway itself"),
            Plan::Redirect { to, status } => self.line("answer", format!("{status}, Location: {to}")),
            Plan::Respond { status, body } => {
                self.line("answer", format!("{status}, by the gateway itself, {} of body", count(body.len(), "byte")));
            }
            Plan::Forward { upstream, onward, .. } => {
                self.upstream(*upstream, onward);
                self.line("answer", "the server's own");
            }
            Plan::Handshake { upstream, onward, .. } => {
                self.upstream(*upstream, onward);
                let counts = route.and_then(|route| self.config.routes[route].websocket.as_ref());
                let bounds = counts.map(bounds).unwrap_or_default();
                for (label, text) in bounds {
                    self.line(label, text);
                }
                self.line("answer", "101, if the server agrees");
            }
        }
    }

    fn upstream(&mut self, upstream: usize, onward: &str) {
        let model::Upstream { name, servers, .. } = &self.config.upstreams[upstream];
        let urls: Vec<_> = servers.iter().map(|server| server.url.as_str()).collect();
        let urls = urls.join(", ");
        let name = if urls == name.as_str() { String::new() } else { format!("{name}: ") };
        self.line("upstream", format!("{name}{urls}, asked for {onward}"));
        let Question { client, head, .. } = self.question;
        for (label, text) in server::lines(
            &self.config.upstreams[upstream],
            &self.snapshot.upstreams[upstream],
            *client,
            &head.headers,
            onward,
        ) {
            self.line(label, text);
        }
    }

    fn refusal(&mut self, fault: &Fault, route: Option<usize>, listener: &ListenerPlan) {
        self.line("answer", format!("{}, X-Portcullis-Reason: {}", fault.status(), fault.end().code()));
        if matches!(fault, Fault::Handshake(Refusal::OriginNotAllowed | Refusal::SubprotocolRequired)) {
            return;
        }
        let remedy = match fault {
            Fault::UpgradeNotAllowed if self.is_overtaken(listener) => {
                "; the one it beats has, but hosts come before paths: give that one `hosts`"
            }
            Fault::UpgradeNotAllowed => {
                let answers =
                    route.is_some_and(|route| !matches!(self.config.routes[route].target, Target::Upstream(_)));
                if answers {
                    "; it answers by itself and has no server"
                } else {
                    "; a [route.websocket] would allow it"
                }
            }
            Fault::WebSocketOnly => "; ws:// and wss:// ask for a WebSocket",
            Fault::ClientCertificateRequired => "; --client-certificate asks as if one were shown",
            _ => "",
        };
        self.line("because", format!("{fault}{remedy}"));
    }

    /// A route with a WebSocket table would have matched.
    fn is_overtaken(&self, listener: &ListenerPlan) -> bool {
        let candidates = self.candidates(listener);
        let mut beaten = candidates.iter().filter(|candidate| candidate.outcome == Outcome::Loses);
        beaten.any(|candidate| {
            let route = &self.config.routes[candidate.route];
            route.websocket.is_some() && route.hosts.is_empty()
        })
    }

    fn route_named(&self, candidate: &Candidate) -> String {
        let route = &self.config.routes[candidate.route];
        self.named(route.name.as_str(), &route.spot)
    }

    fn named(&self, name: &str, spot: &Spot) -> String {
        format!("{name} ({})", self.place(spot))
    }

    /// `portcullis.toml:7`
    fn place(&self, spot: &Spot) -> String {
        let Some(source) = self.report.sources.get(spot.file) else { return String::new() };
        let before = source.text.as_bytes().get(..spot.range.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("{}:{line}", source.path.display())
    }
}

/// What may keep a handshake out that the policy lets in, and what its tunnel is held to.
fn bounds(policy: &WebSocketPolicy) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let TunnelCounts { max, max_per_address } = policy.tunnels;
    let tunnels = [max.map(|max| max.to_string()), max_per_address.map(|max| format!("{max} of one address"))];
    let tunnels: Vec<_> = tunnels.into_iter().flatten().collect();
    if !tunnels.is_empty() {
        lines.push(("tunnels", format!("at most {}, else 429", tunnels.join(" and "))));
    }
    if let Some(Rates { messages_per_second, bytes_per_second, on_excess }) = policy.rates {
        let rates =
            [messages_per_second.map(|messages| count(messages as usize, "message")), bytes_per_second.map(show_size)];
        let rates: Vec<_> = rates.into_iter().flatten().collect();
        let then = match on_excess {
            OnExcess::Delay => "is delayed",
            OnExcess::Close => "is closed with 1008",
        };
        lines.push(("rates", format!("a client that sends more than {} a second {then}", rates.join(" or "))));
    }
    lines
}
