//! The thread: accepts, and serves HTTP/1.1 to few at a time.
//!
//! Everybody has to be quick: with the TLS handshake and the first head, with reading the answer, with the next request.
//! Where all places are taken, idle connections make room, and those that have not asked for anything in a while
//! (`fresh.rs`); where there are none, whoever comes is told so (503). A request
//! that is being answered when the listener retires gets its answer; when the process ends, for a moment.
//! Dropping a connection's future closes its socket.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::fresh::{Fresh, Stay};
use super::router::Desk;
use super::{Plane, Stage};
use crate::clock::{self, Instant};
use crate::config::model::ListenerLimits;
use crate::http::{Activity, Expiry, ServerConnection, Watched, serve_http1};
use crate::lifecycle;
use crate::listener::{BoundListener, SoloListener};
use crate::snapshot::AdminPlan;
use crate::telemetry::Throttle;
use crate::tls::{self, ClientStream};
use crate::transport::{self, Socket};
use crate::types::{HttpVersion, Peer};

/// Connections at once.
const PLACES: usize = 64;
/// How long somebody may wait for a place.
const ROOM: Duration = Duration::from_secs(1);
/// How long somebody who has not asked for anything is left in peace where all places are taken.
const GRACE: Duration = Duration::from_millis(250);
/// For the TLS handshake and the first head together, and for each later head.
const HEAD: Duration = Duration::from_secs(5);
/// Between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// For a client that does not read.
const STALL: Duration = Duration::from_secs(10);
/// What is left to write after the last request.
const FAREWELL: Duration = Duration::from_secs(5);
/// After our last byte: how long, and for how many bytes, what still comes is read and thrown away, so that no reset
/// overtakes the answer (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;
/// How long a listener that is retired goes on with what is being answered.
const RETIREMENT: Duration = Duration::from_secs(180);
/// The same for one whose process ends.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A pause after an error that would only repeat itself.
const PAUSE: Duration = Duration::from_millis(50);

const LIMITS: ListenerLimits = ListenerLimits { head_size: 16 << 10, fields: 64, target_size: 8 << 10 };

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 92\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n\
    {\"error\":{\"code\":\"busy\",\"message\":\"too many connections to the admin listener\",\"help\":null}}";

/// Serves until it is told to end.
pub(super) fn run(
    bound: BoundListener,
    plans: watch::Receiver<Arc<AdminPlan>>,
    stage: watch::Receiver<Stage>,
    plane: Plane,
    started: &SyncSender<io::Result<()>>,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let door = match SoloListener::new(bound) {
            Ok(door) => door,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        let desk = Rc::new(Desk { plane, plans, turned_away: Throttle::default() });
        let house = House {
            desk,
            stage,
            places: Arc::new(Semaphore::new(PLACES)),
            pressure: Rc::default(),
            fresh: Fresh::default(),
        };
        house.serve(door).await;
    });
}

/// What all connections share.
#[derive(Clone)]
struct House {
    desk: Rc<Desk>,
    stage: watch::Receiver<Stage>,
    places: Arc<Semaphore>,
    /// Told when idle connections are to make room.
    pressure: Rc<Notify>,
    fresh: Fresh,
}

impl House {
    async fn serve(mut self, mut door: SoloListener) {
        let mut stage = self.stage.clone();
        // A handle that is gone without a word is not wanted any more.
        let opened = stage.wait_for(|stage| *stage != Stage::Waiting).await.map_or(Stage::Ended, |stage| *stage);
        if opened == Stage::Open {
            tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage != Stage::Open) => {}
                never = self.accept(&mut door) => match never {},
            }
        }
        drop(door);
        let over = self.places.acquire_many(PLACES as u32);
        // Also where its handle has gone, which it has once it is retired: then for as long as an answer may take.
        let ended = async {
            match stage.wait_for(|stage| *stage == Stage::Ended).await.is_ok() {
                true => tokio::time::sleep(LAST_WORDS).await,
                false => tokio::time::sleep(RETIREMENT).await,
            }
        };
        tokio::select! {
            _ = over => {}
            () = ended => {}
        }
    }

    async fn accept(&mut self, door: &mut SoloListener) -> Infallible {
        loop {
            match poll_fn(|cx| door.poll_accept(cx)).await {
                Ok((socket, peer)) => self.admit(socket, peer).await,
                Err(error) => {
                    // Most concern one client alone; what concerns us passes, or is told by the accept loop as well.
                    tracing::debug!(%error, "the admin listener cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, socket: Socket, peer: Peer) {
        if is_our_own(&socket) {
            return tracing::error!("a route leads to the admin listener; take it out of the configuration");
        }
        let Some(permit) = self.place().await else { return turn_away(socket).await };
        let since = clock::now();
        let (house, stay) = (self.clone(), Rc::new(self.fresh.enter(since)));
        lifecycle::spawn_local("admin connection", async move {
            tokio::select! {
                () = stay.dismissed() => {}
                () = connection(house, socket, peer, since, stay.clone()) => {}
            }
            drop(permit);
        });
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.pressure.notify_waiters();
        let end = clock::now() + ROOM;
        loop {
            let now = clock::now();
            let polite = self.fresh.oldest().map(|oldest| oldest + GRACE);
            if polite.is_some_and(|polite| polite <= now) {
                self.fresh.dismiss_oldest();
            }
            let until = polite.filter(|polite| *polite > now).map_or(end, |polite| polite.min(end));
            match tokio::time::timeout_at(until, self.places.clone().acquire_owned()).await {
                Ok(permit) => return permit.ok(),
                Err(_) if clock::now() >= end => return None,
                Err(_) => {}
            }
        }
    }
}

/// Whether it comes out of this very process: through the gateway. Over TCP that is found out where it is dialled.
fn is_our_own(socket: &Socket) -> bool {
    let Socket::Unix(stream) = socket else { return false };
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    pid.is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()))
}

/// Says why, where that costs no waiting.
async fn turn_away(mut socket: Socket) {
    let _ = tokio::time::timeout(PAUSE, async {
        socket.write_all(FULL).await?;
        socket.shutdown().await
    })
    .await;
}

async fn connection(house: House, socket: Socket, peer: Peer, since: Instant, stay: Rc<Stay>) {
    let tls = house.desk.plans.borrow().tls.clone();
    let (stream, is_tls) = match tls {
        None => (ClientStream::Clear(socket), false),
        Some(policies) => match tls::accept(&policies, socket, since + HEAD).await {
            Ok(accepted) => (ClientStream::Tls(accepted.stream), true),
            Err(error) => return tracing::debug!(%peer, %error, "no TLS with the admin listener"),
        },
    };
    let activity = Rc::new(Activity::new(HttpVersion::Http1, since, STALL));
    let serve = {
        let (desk, activity) = (house.desk.clone(), activity.clone());
        move |inbound| {
            stay.has_asked();
            let (desk, open) = (desk.clone(), activity.open_request());
            let peer = peer.clone();
            async move {
                let answer = desk.answer(inbound, &peer, is_tls).await;
                drop(open);
                answer
            }
        }
    };
    let http = serve_http1(Watched::new(stream, Bytes::new(), activity.clone()), &LIMITS, serve);
    if let Some((stream, patience)) = drive(http, &house, &activity, since).await {
        close(stream, patience).await;
    }
}

/// Runs HTTP until no further request will come, or a deadline cuts it. How long its end may take, where it is to end well.
async fn drive<C>(mut http: C, house: &House, activity: &Activity, since: Instant) -> Option<(ClientStream, Duration)>
where
    C: ServerConnection<Stream = ClientStream>,
{
    let mut stage = house.stage.clone();
    let mut over = std::pin::pin!(async move {
        let _ = stage.wait_for(|stage| !matches!(stage, Stage::Waiting | Stage::Open)).await;
    });
    let mut pressure = std::pin::pin!(house.pressure.notified());
    let mut timer = std::pin::pin!(tokio::time::sleep_until(since + HEAD));
    let (mut is_over, mut is_pressed, mut farewell) = (false, false, None::<Instant>);
    let is_cut = poll_fn(|cx| {
        loop {
            if http.poll_served(cx).is_ready() {
                return Poll::Ready(false);
            }
            is_over = is_over || over.as_mut().poll(cx).is_ready();
            is_pressed = is_pressed || pressure.as_mut().poll(cx).is_ready();
            // Nothing was asked yet: the TLS handshake's deadline is the first head's too.
            let is_fresh = activity.idle_since() == since;
            let patience = if is_fresh { HEAD } else { KEEP_ALIVE };
            let due = activity.deadline(HEAD, patience);
            let is_idle = matches!(due, Some((_, Expiry::KeepAlive))) && !is_fresh;
            if farewell.is_none() && (is_over || is_pressed && is_idle) {
                farewell = Some(clock::now() + FAREWELL);
                http.finish();
                continue;
            }
            let Some((deadline, expiry)) = due else { return Poll::Pending };
            let deadline = if is_fresh { deadline.min(since + HEAD) } else { deadline };
            let deadline = farewell.unwrap_or(deadline);
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if farewell.is_some() || expiry != Expiry::KeepAlive {
                return Poll::Ready(true);
            }
            farewell = Some(clock::now() + FAREWELL);
            http.finish();
        }
    })
    .await;
    // One that was idle has nothing under way that a reset could overtake, and somebody waits for its place.
    let patience = if is_pressed { PAUSE } else { LINGER };
    if is_cut { None } else { http.into_stream().map(|(stream, _)| (stream, patience)) }
}

/// close_notify and FIN, then what still comes is read and thrown away for a while.
async fn close(mut stream: ClientStream, patience: Duration) {
    // Whether the client listened or not: the connection is over.
    let _ = tokio::time::timeout(patience, transport::linger(&mut stream, LINGER_BYTES)).await;
}

#[cfg(test)]
mod tests {
    use super::FULL;

    #[test]
    fn the_answer_to_those_who_find_no_place_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{} bytes", body.len());
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], "busy");
    }
}
