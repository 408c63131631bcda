use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// Everything that gets through, as its message.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.0.lock().expect("no panic").push(message.0);
    }
}

fn heard(say: impl FnOnce(&Repeats)) -> Vec<String> {
    let (repeats, heard) = (Repeats::default(), Heard::default());
    let subscriber = tracing_subscriber::registry().with(repeats.clone()).with(heard.clone());
    tracing::subscriber::with_default(subscriber, || say(&repeats));
    std::mem::take(&mut *heard.0.lock().expect("no panic"))
}

#[test]
fn what_is_said_again_and_again_is_summed_up() {
    let said = heard(|repeats| {
        for number in 0..500 {
            tracing::warn!(server = "ws://a", number, "a server fails");
        }
        tracing::warn!(server = "ws://a", "another thing about it");
        assert!(repeats.say_sums(false), "the interval goes on");
        assert!(!repeats.say_sums(true));
        repeats.say_sums(true);
    });
    assert_eq!(said.len(), 12, "{said:?}");
    assert_eq!(said[11], "a server fails (and 490 more in 10 s)");
}

#[test]
fn each_server_has_its_own_lines_and_all_together_a_bound() {
    let said = heard(|repeats| {
        for server in 0..5_000 {
            for _ in 0..20 {
                tracing::warn!(server = format!("ws://{server}"), "a server fails");
            }
        }
        let said = repeats.shared.said.lock().expect("no panic");
        assert!(said.kinds.len() <= KINDS + 1, "{}", said.kinds.len());
        drop(said);
        repeats.say_sums(true);
    });
    let (sums, single): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.contains(" more in "));
    assert_eq!(single.len() as u64, MANY);
    let count = |line: &&String| line.split(' ').find_map(|word| word.parse::<u64>().ok()).expect("a count");
    assert_eq!(sums.iter().map(count).sum::<u64>() + MANY, 100_000, "everything is counted once");
}

#[test]
fn what_the_operator_asked_for_is_said_in_full() {
    let said = heard(|_| {
        for _ in 0..500 {
            tracing::error!(target: "portcullis::reload", "a problem");
            tracing::trace!("a detail");
        }
    });
    assert_eq!(said.len(), 1_000);
}

#[test]
fn an_interval_that_is_over_is_told_and_another_begins() {
    let mut said = Said::default();
    let kind = || {
        let metadata = tracing::callsite!(name: "test", kind: tracing::metadata::Kind::EVENT, fields: message);
        Kind { place: tracing::Callsite::metadata(metadata).callsite(), about: 7 }
    };
    let kind = kind();
    let start = clock::now();
    let tell = || (Level::WARN, "again".to_owned());
    let admitted = |said: &mut Said, now| (0..25).filter(|_| said.admit(kind.clone(), now, tell)).count() as u64;
    assert_eq!(admitted(&mut said, start), FEW);
    let (sums, waits) = said.sums(start + INTERVAL / 2, false);
    assert!(sums.is_empty() && waits);
    let (sums, waits) = said.sums(start + INTERVAL, false);
    assert_eq!(sums, [Sum { level: Level::WARN, message: "again".into(), unsaid: 15 }]);
    assert!(!waits);
    assert_eq!(admitted(&mut said, start + INTERVAL), FEW);
}
