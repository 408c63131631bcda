//! The way of a request: guard, call (`calls.rs`), token, body, handler, answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::watch;

use super::answer::{ApiError, Reply, response};
use super::ask::{self, Ask};
use super::calls::{self, Access, Call, Route};
use super::{Plane, api, dashboard, guard, openapi};
use crate::http::{AnswerBody, Inbound};
use crate::snapshot::AdminPlan;
use crate::telemetry::Throttle;
use crate::types::Peer;

/// How long anything but a reload may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a reload may take: files that are read, and whoever has to follow.
const RELOAD_PATIENCE: Duration = Duration::from_secs(120);
/// Whoever guesses tokens waits.
const WRONG_TOKEN: Duration = Duration::from_millis(100);

/// Where all requests of the listener are answered.
pub struct Desk {
    pub plane: Plane,
    pub plans: watch::Receiver<Arc<AdminPlan>>,
    pub turned_away: Throttle,
}

impl Desk {
    pub async fn answer(self: &Rc<Self>, inbound: Inbound, peer: &Peer, is_tls: bool) -> Response<AnswerBody> {
        let is_head = inbound.head.method == Method::HEAD;
        let outcome = self.serve(inbound, peer, is_tls).await;
        if let Err(error) = &outcome
            && matches!(error.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
        {
            if let Some(unsaid) = self.turned_away.say() {
                tracing::warn!(%peer, reason = error.code, unsaid, "not let in at the admin listener");
            }
            if error.code == "wrong-token" {
                tokio::time::sleep(WRONG_TOKEN).await;
            }
        }
        response(outcome, is_head)
    }

    async fn serve(&self, inbound: Inbound, peer: &Peer, is_tls: bool) -> Result<Reply, ApiError> {
        let Inbound { head, body, .. } = inbound;
        let plan = self.plans.borrow().clone();
        let via = self.plane.in_use.snapshot().via.clone();
        guard::check(&plan, &via, is_tls, &head)?;
        let (path, method) = (head.uri.path(), if head.method == Method::HEAD { &Method::GET } else { &head.method });
        let found = calls::find(method, path);
        if !matches!(found, Ok((Route { access: Access::Anybody, .. }, _))) {
            guard::authenticate(&plan, &head.headers)?;
        }
        let (route, id) = found?;
        let query = ask::query(head.uri.query(), route.query)?;
        let takes_body = *method != Method::GET;
        if !takes_body && !body.is_end_stream() {
            return Err(ApiError::bad_request("unexpected-body", "a GET has no body here"));
        }
        let body = if takes_body {
            guard::check_body(&head.headers, body.is_end_stream())?;
            ask::body(body).await?
        } else {
            Vec::new()
        };
        let ask = Ask::new(query, body, id.to_owned(), peer.to_string());
        let patience = if route.call == Call::Reload { RELOAD_PATIENCE } else { PATIENCE };
        tokio::time::timeout(patience, call(route.call, &self.plane, &ask)).await.unwrap_or_else(|_| {
            let message = format!("this has taken longer than {patience:?}");
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "took-too-long", message)
                .help("it may go on; the event log tells what comes of it"))
        })
    }
}

async fn call(call: Call, plane: &Plane, ask: &Ask) -> Result<Reply, ApiError> {
    match call {
        Call::Dashboard => Ok(dashboard::page()),
        Call::DashboardFile => dashboard::file(&ask.tail),
        Call::Live => Ok(api::status::live()),
        Call::Ready => api::status::ready(plane),
        Call::Status => api::status::status(plane).await,
        Call::Tunnels => api::tunnels::list(plane, ask).await,
        Call::CloseTunnels => api::tunnels::close(plane, ask).await,
        Call::Listeners => api::listeners::listeners(plane),
        Call::Routes => api::routes::routes(plane),
        Call::Upstreams => api::upstreams::upstreams(plane),
        Call::Certificates => api::certificates::certificates(plane),
        Call::Config => api::config::config(plane),
        Call::Refusals => api::refusals::refusals(plane, ask).await,
        Call::Drains => api::drains::list(plane),
        Call::Drain => api::drains::drain(plane, ask),
        Call::Resume => api::drains::resume(plane, ask),
        Call::Reload => api::reload::reload(plane, ask).await,
        Call::Log => api::log::log(plane),
        Call::SetLog => api::log::set(plane, ask),
        Call::Metrics => api::metrics::metrics(plane),
        Call::OpenApi => Reply::json(&openapi::document()),
    }
}
