//! Asks the gateway on a thread of its own, again and again, and tells what it has heard. The newest wish counts; nothing
//! piles up where answers are slow, and a gateway that is busy is asked less often.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::shapes::{List, Status};
use crate::cli::operate::whereabouts::Target;
use crate::cli::operate::{Failure, client, encode, refusal};
use crate::clock;
use crate::lifecycle;

/// Orders and answers on their way.
const QUEUE: usize = 16;

/// Of the time, this part at most is spent with asking.
const SHARE: u32 = 4;

/// Which tunnels, in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub filter: String,
    pub sort: &'static str,
    pub limit: usize,
    /// Keys that were pressed may have changed what is wanted since.
    pub turn: u64,
}

/// A tunnel that is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: u64,
    pub code: u16,
    pub reason: String,
}

/// What has come of it.
#[derive(Debug)]
pub enum Told {
    Numbers {
        status: Box<Status>,
        list: List,
        turn: u64,
    },
    /// In words; the rest stays as it was.
    Trouble(String),
    /// What was asked is nothing that the gateway understands, in words.
    Misunderstood {
        why: String,
        turn: u64,
    },
    Killed {
        id: u64,
        closed: u64,
    },
    NotKilled(String),
}

enum Order {
    Want(Wanted),
    Kill(Kill),
}

pub struct Asker {
    orders: SyncSender<Order>,
    told: Receiver<Told>,
}

impl Asker {
    pub fn start(target: Target, every: Duration, wanted: Wanted) -> io::Result<Self> {
        let (orders, heard) = sync_channel(QUEUE);
        let (tell, told) = sync_channel(QUEUE);
        lifecycle::thread("asker", move || Self::serve(&target, every, wanted, &heard, &tell))?;
        Ok(Self { orders, told })
    }

    /// A wish that finds the queue full is followed by the next one.
    pub fn want(&self, wanted: Wanted) {
        let _ = self.orders.try_send(Order::Want(wanted));
    }

    pub fn kill(&self, kill: Kill) {
        let _ = self.orders.try_send(Order::Kill(kill));
    }

    /// The first answer, which is waited for.
    pub fn first(&self) -> Result<Told, Failure> {
        match self.told.recv() {
            Ok(Told::Trouble(why)) => Err(Failure::Failed(why)),
            Ok(Told::Misunderstood { why, .. }) => Err(Failure::Usage(why)),
            Ok(told) => Ok(told),
            Err(_) => Err(gone()),
        }
    }

    pub fn told(&self) -> Result<Option<Told>, Failure> {
        match self.told.try_recv() {
            Ok(told) => Ok(Some(told)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    /// Ends when nobody listens any more.
    fn serve(target: &Target, every: Duration, mut wanted: Wanted, heard: &Receiver<Order>, tell: &SyncSender<Told>) {
        loop {
            let began = clock::now();
            let told = numbers(target, &wanted).unwrap_or_else(|failure| match failure {
                Failure::Usage(why) => Told::Misunderstood { why, turn: wanted.turn },
                Failure::Failed(why) => Told::Trouble(why),
            });
            let took = began.elapsed();
            if tell.send(told).is_err() {
                return;
            }
            let next = clock::now() + every.saturating_sub(took).max(took * SHARE);
            let mut order = match heard.recv_timeout(next.saturating_duration_since(clock::now())) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // All that has come meanwhile: of wishes the newest counts.
            while let Some(next) = order {
                match next {
                    Order::Want(newer) => wanted = newer,
                    Order::Kill(kill) => {
                        if tell.send(close(target, &kill)).is_err() {
                            return;
                        }
                    }
                }
                order = heard.try_recv().ok();
            }
        }
    }
}

fn gone() -> Failure {
    Failure::Failed("the thread that asks the gateway has ended".into())
}

fn words(failure: Failure) -> String {
    let (Failure::Usage(why) | Failure::Failed(why)) = failure;
    why
}

fn numbers(target: &Target, wanted: &Wanted) -> Result<Told, Failure> {
    let status = get(target, "/api/v1/status")?;
    let Wanted { filter, sort, limit, turn } = wanted;
    let list = get(target, &format!("/api/v1/tunnels?limit={limit}&sort={sort}&filter={}", encode(filter)))?;
    Ok(Told::Numbers { status: Box::new(status), list, turn: *turn })
}

fn get<T: DeserializeOwned>(target: &Target, path: &str) -> Result<T, Failure> {
    let answer = client::ask(target, Method::GET, path, None)?;
    if !answer.is_success() {
        return Err(refusal(&answer));
    }
    serde_json::from_value(answer.json)
        .map_err(|error| Failure::Failed(format!("{target} answers something else: {error}")))
}

fn close(target: &Target, kill: &Kill) -> Told {
    let body = json!({ "filter": format!("id={}", kill.id), "code": kill.code, "reason": kill.reason });
    match client::ask(target, Method::POST, "/api/v1/tunnels/close", Some(&body)) {
        Ok(answer) if answer.is_success() => {
            Told::Killed { id: kill.id, closed: answer.json["closed"].as_u64().unwrap_or_default() }
        }
        Ok(answer) => Told::NotKilled(words(refusal(&answer))),
        Err(failure) => Told::NotKilled(words(failure)),
    }
}
