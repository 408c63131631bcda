//! One name followed through time: asked, written down, told, and asked again.

use std::fmt::Display;
use std::time::Duration;

use tokio::sync::Notify;

use super::book::{Book, Known, News, SHORTEST};
use super::resolver::{Answer, MOST, Unresolved};
use crate::clock::{self, Instant};
use crate::types::Name;

/// Records that a line of the log shows.
const SHOWN: usize = 8;

/// A name, and who cares for it.
pub struct Follow<'a> {
    upstream: &'a Name,
    name: &'a str,
    doubt: &'a Notify,
}

impl<'a> Follow<'a> {
    /// `doubt` is notified when what the name stood for could not be reached.
    pub fn new(upstream: &'a Name, name: &'a str, doubt: &'a Notify) -> Self {
        Self { upstream, name, doubt }
    }

    /// Never ends. `ask` is told what is known, which is `known` at first, and `tell` whenever that changes.
    pub async fn run<T, A, P>(&self, known: Known<T>, ask: A, tell: P)
    where
        T: Clone + Ord + Display,
        A: AsyncFn(&Known<T>) -> Result<Answer<T>, Unresolved>,
        P: Fn(&Known<T>),
    {
        let mut book = Book::new(known);
        let mut cut = false;
        loop {
            let asked_at = clock::now();
            let outcome = ask(book.known()).await;
            let cut_from = outcome.as_ref().ok().and_then(|answer| answer.cut_from);
            let entry = book.enter(clock::now(), outcome, chance());
            if let Some(known) = &entry.publish {
                tell(known);
            }
            if let Some(news) = entry.news {
                self.log(&news);
            }
            if let (Some(records), false) = (cut_from, cut) {
                let (upstream, name) = (self.upstream, self.name);
                tracing::warn!(%upstream, name, records, used = MOST, "a name stands for too much; a part of it is used");
            }
            cut = cut_from.is_some();
            self.rest(asked_at, entry.ask_again_in).await;
        }
    }

    async fn rest(&self, asked_at: Instant, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.doubt.notified() => tokio::time::sleep_until(asked_at + SHORTEST).await,
        }
    }

    fn log<T: Display>(&self, news: &News<T>) {
        let (upstream, name) = (self.upstream, self.name);
        match news {
            News::Resolved(records) => {
                tracing::info!(%upstream, name, answer = shown(records), "the name of a server is resolved");
            }
            News::Changed(records) => {
                tracing::info!(%upstream, name, answer = shown(records), "the name of a server has changed its meaning");
            }
            News::Recovered => tracing::info!(%upstream, name, "the name of a server is resolved again, as before"),
            News::Unresolved(why) => {
                tracing::warn!(%upstream, name, %why, "the name of a server does not resolve; it is asked for again and again");
            }
            News::Stale(why) => {
                tracing::warn!(%upstream, name, %why, "the name of a server does not resolve now; its last answer holds");
            }
            News::Gone(why) => tracing::warn!(%upstream, name, %why, "the name of a server does not exist any more"),
        }
    }
}

fn shown<T: Display>(records: &[T]) -> String {
    let mut text = records.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if records.len() > SHOWN {
        text.push_str(&format!(" and {} more", records.len() - SHOWN));
    }
    text
}

fn chance() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness many ask at the same time, which is only less kind.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
