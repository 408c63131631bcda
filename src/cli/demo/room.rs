//! The chat room: who is in it, under which name, and the queue in front of each of them.
//!
//! No IO and no waiting: a message is put into every member's bounded queue or that member is out. Invariant: whoever is
//! in `members` has a live queue; losing the place drops the queue's sender, which the member's task sees as its end.
//!
//! To the room: plain text; `/name NEW` renames. From the room: one JSON object a message, `type` first, one of
//! `welcome` (`you`, `members`), `joined`, `left` (`name`, `members`), `renamed` (`from`, `name`, `members`), `said`
//! (`name`, `text`).

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::json;

/// At most so many members.
pub const MAX_MEMBERS: usize = 64;
/// Messages waiting for one member; the next one costs the place.
pub const QUEUE: usize = 64;
/// Characters of a name.
const MAX_NAME: usize = 24;

#[derive(Default)]
pub struct Room {
    members: BTreeMap<u64, Member>,
    next_id: u64,
}

struct Member {
    name: String,
    queue: mpsc::Sender<Utf8Bytes>,
}

impl Room {
    /// A place and the queue that belongs to it; `None`: the room is full.
    pub fn join(&mut self) -> Option<(u64, mpsc::Receiver<Utf8Bytes>)> {
        if self.members.len() >= MAX_MEMBERS {
            return None;
        }
        self.next_id += 1;
        let id = self.next_id;
        let name = self.free_name(&format!("guest-{id}"), id);
        let (queue, receiver) = mpsc::channel(QUEUE);
        self.members.insert(id, Member { name: name.clone(), queue });
        let welcome = format!(r#"{{"type":"welcome","you":{},"members":{}}}"#, json::quote(&name), self.names());
        self.deliver(welcome, |member| member == id);
        let joined = format!(r#"{{"type":"joined","name":{},"members":{}}}"#, json::quote(&name), self.names());
        self.deliver(joined, |member| member != id);
        Some((id, receiver))
    }

    /// One line from a member; empty ones are ignored, and so is a line of someone who is out already.
    pub fn line(&mut self, id: u64, line: &str) {
        let Some(member) = self.members.get(&id) else { return };
        let name = member.name.clone();
        if let Some(wanted) = line.strip_prefix("/name ") {
            self.rename(id, &name, wanted);
        } else if !line.trim().is_empty() {
            let said = format!(r#"{{"type":"said","name":{},"text":{}}}"#, json::quote(&name), json::quote(line));
            self.deliver(said, |_| true);
        }
    }

    /// Gives the place back; a second call does nothing.
    pub fn leave(&mut self, id: u64) {
        if let Some(member) = self.members.remove(&id) {
            self.announce_left(&member.name);
        }
    }

    fn rename(&mut self, id: u64, from: &str, wanted: &str) {
        let wanted: String = wanted.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        if wanted.is_empty() || wanted == from {
            return;
        }
        let name = self.free_name(&wanted, id);
        if let Some(member) = self.members.get_mut(&id) {
            member.name.clone_from(&name);
        }
        let (from, name) = (json::quote(from), json::quote(&name));
        let renamed = format!(r#"{{"type":"renamed","from":{from},"name":{name},"members":{}}}"#, self.names());
        self.deliver(renamed, |_| true);
    }

    /// `wanted`, or the first of `wanted 2`, `wanted 3`, … that nobody else has.
    fn free_name(&self, wanted: &str, id: u64) -> String {
        let taken = |name: &str| self.members.iter().any(|(other, member)| *other != id && member.name == name);
        let numbered = (2..=MAX_MEMBERS + 1).map(|number| format!("{wanted} {number}"));
        std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| !taken(name))
            .unwrap_or_else(|| wanted.to_owned())
    }

    fn names(&self) -> String {
        json::array(self.members.values().map(|member| member.name.as_str()))
    }

    /// Whoever has no space left in the queue is out, and the others are told: a slow reader costs the room nothing.
    fn deliver(&mut self, message: String, to: impl Fn(u64) -> bool) {
        let message = Utf8Bytes::from(message);
        let slow: Vec<u64> = self
            .members
            .iter()
            .filter(|(id, member)| to(**id) && member.queue.try_send(message.clone()).is_err())
            .map(|(id, _)| *id)
            .collect();
        // Ends, because every round has fewer members.
        for id in slow {
            self.leave(id);
        }
    }

    fn announce_left(&mut self, name: &str) {
        let left = format!(r#"{{"type":"left","name":{},"members":{}}}"#, json::quote(name), self.names());
        self.deliver(left, |_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(queue: &mut mpsc::Receiver<Utf8Bytes>) -> serde_json::Value {
        serde_json::from_str(queue.try_recv().unwrap().as_str()).unwrap()
    }

    #[test]
    fn what_one_says_reaches_all_under_the_name_chosen() {
        let mut room = Room::default();
        let (ada, mut ada_queue) = room.join().unwrap();
        let (_bob, mut bob_queue) = room.join().unwrap();
        assert_eq!(next(&mut ada_queue)["type"], "welcome");
        assert_eq!(next(&mut ada_queue)["name"], "guest-2");
        assert_eq!(next(&mut bob_queue)["members"], serde_json::json!(["guest-1", "guest-2"]));
        room.line(ada, "/name Ada");
        room.line(ada, "good \"day\"");
        for queue in [&mut ada_queue, &mut bob_queue] {
            assert_eq!(next(queue)["from"], "guest-1");
            let said = next(queue);
            assert_eq!((&said["name"], &said["text"]), (&"Ada".into(), &"good \"day\"".into()));
        }
    }

    #[test]
    fn a_name_belongs_to_one_member_only() {
        let mut room = Room::default();
        let (_, mut watcher) = room.join().unwrap();
        let (second, _queue) = room.join().unwrap();
        let (third, _queue2) = room.join().unwrap();
        room.line(second, "/name guest-1");
        room.line(third, "/name guest-1");
        let last = std::iter::from_fn(|| watcher.try_recv().ok()).last().unwrap();
        let last: serde_json::Value = serde_json::from_str(&last).unwrap();
        assert_eq!(last["members"], serde_json::json!(["guest-1", "guest-1 2", "guest-1 3"]));
    }

    #[test]
    fn a_member_who_does_not_read_loses_the_place_and_nobody_else_does() {
        let mut room = Room::default();
        let (talker, mut talkers_queue) = room.join().unwrap();
        let (_, mut slow_queue) = room.join().unwrap();
        let mut heard_of_it = false;
        for _ in 0..QUEUE + 1 {
            room.line(talker, "hello");
            while let Ok(message) = talkers_queue.try_recv() {
                heard_of_it |= message.contains(r#""left""#);
            }
        }
        assert!(heard_of_it);
        assert_eq!(room.members.len(), 1);
        while slow_queue.try_recv().is_ok() {}
        assert!(slow_queue.is_closed());
    }

    #[test]
    fn the_room_is_never_fuller_than_it_may_be() {
        let mut room = Room::default();
        let places: Vec<_> = (0..MAX_MEMBERS).map(|_| room.join().unwrap()).collect();
        assert!(room.join().is_none());
        room.leave(places[0].0);
        room.leave(places[0].0);
        assert!(room.join().is_some());
    }
}
