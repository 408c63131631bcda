use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use proptest::prelude::*;

use super::super::sink::WriteSend;
use super::*;
use crate::config::report::Spot;
use crate::telemetry::end::EndReason;
use crate::types::{HttpVersion, Peer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A target that collects, and can be made to stand still or to be full.
#[derive(Clone, Debug, Default)]
struct Target(Arc<State>);

#[derive(Debug, Default)]
struct State {
    text: Mutex<Vec<u8>>,
    held: Mutex<bool>,
    released: Condvar,
    full: AtomicBool,
}

impl Target {
    fn text(&self) -> String {
        String::from_utf8(self.0.text.lock().expect("no panic").clone()).expect("UTF-8")
    }

    fn hold(&self, held: bool) {
        *self.0.held.lock().expect("no panic") = held;
        self.0.released.notify_all();
    }

    fn handle(&self, json: bool) -> AccessLogHandle {
        self.handle_as(if json { Form::Json } else { Form::Text }, None)
    }

    fn handle_as(&self, form: Form, most: Option<u32>) -> AccessLogHandle {
        let mut handle = AccessLogHandle::off();
        let lost = handle.lost.clone();
        let writer = Writer::start("test-log", Sink::Custom(Box::new(self.clone())), lost).expect("a thread");
        handle.target = AccessTarget::Stderr;
        handle.output =
            Output { writer: Some(writer), form, prefix: "", most, refusals: Arc::new(Refusals::new()), spans: None };
        handle
    }
}

impl WriteSend for Target {}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let held = self.0.held.lock().expect("no panic");
        drop(self.0.released.wait_while(held, |held| *held).expect("no panic"));
        if self.0.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // As a nearly full disk does it: a piece at a time.
        let taken = bytes.len().min(1_000);
        self.0.text.lock().expect("no panic").extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn full<'a>(peer: &'a Peer) -> AccessRecord<'a> {
    AccessRecord {
        event: AccessEvent::Request,
        time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_007)),
        request: "r-1",
        trace: None,
        connection: 17,
        listener: "public",
        client: Some(Ipv4Addr::new(203, 0, 113, 9).into()),
        peer: Some(peer),
        host: Some(b"a.test"),
        method: "GET",
        path: b"/chat",
        query: Some(b"room=7&token=s3cret"),
        protocol: Some(HttpVersion::Http2),
        tls: Some("1.3"),
        route: Some("chat"),
        upstream: Some("backend"),
        server: Some("ws://127.0.0.1:9000"),
        status: Some(502),
        bytes_in: Some(0),
        bytes_out: Some(11),
        messages_in: None,
        messages_out: None,
        closed_by: None,
        close_code: None,
        round_trip: None,
        duration: Some(Duration::from_micros(1_250)),
        upstream_time: Some(Duration::from_micros(900)),
        retries: Some(1),
        queued: Some(Duration::from_micros(250)),
        rule: Some("route.timeouts (a.toml:7)"),
        detail: None,
        end: Some(EndReason::BadUpgrade),
        origin: Some(b"https://app.example"),
        user_agent: Some(b"curl/8"),
    }
}

fn to(access: AccessTarget) -> Log {
    let (level, format) = (crate::config::model::LogLevel::Info, LogFormat::Auto);
    Log { level, access, access_spot: Spot::default(), format, refusals_per_second: None, otlp: None }
}

fn peer() -> Peer {
    Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)))
}

#[tokio::test(flavor = "local")]
async fn a_record_is_one_line_of_json_with_stable_keys() {
    let target = Target::default();
    let handle = target.handle(true);
    let (log, _flusher) = handle.worker();
    log.record(&full(&peer()));
    drop((log, _flusher));
    assert!(handle.flush(PATIENCE));
    assert_eq!(
        target.text(),
        concat!(
            r#"{"time":"2000-02-29T00:00:00.007Z","event":"request","request":"r-1","connection":17,"listener":"public","#,
            r#""client":"203.0.113.9","peer":"127.0.0.1:40000","host":"a.test","method":"GET","path":"/chat","#,
            r#""query":"room=***&token=***","protocol":"h2","tls":"1.3","route":"chat","upstream":"backend","#,
            r#""server":"ws://127.0.0.1:9000","status":502,"bytes_in":0,"bytes_out":11,"duration_us":1250,"#,
            r#""upstream_us":900,"retries":1,"queued_us":250,"end":"bad-upgrade","side":"upstream","#,
            r#""rule":"route.timeouts (a.toml:7)","origin":"https://app.example","user_agent":"curl/8"}"#,
            "\n"
        )
    );
}

#[tokio::test(flavor = "local")]
async fn a_record_is_one_readable_line_of_text() {
    let target = Target::default();
    let handle = target.handle(false);
    let (log, flusher) = handle.worker();
    let peer = peer();
    log.record(&full(&peer));
    log.record(&AccessRecord { event: AccessEvent::TunnelClose, end: Some(EndReason::IdleTimeout), ..full(&peer) });
    log.record(&AccessRecord::default());
    drop((log, flusher));
    assert!(handle.flush(PATIENCE));
    let text = target.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        concat!(
            r#"2000-02-29T00:00:00.007Z 203.0.113.9 "GET a.test/chat?room=***&token=***" h2 502 in=0 out=11 1.2ms "#,
            r#"retries=1 queued=0.2ms bad-upgrade route="chat" rule="route.timeouts (a.toml:7)" server="ws://127.0.0.1:9000" origin="https://app.example" agent="curl/8" "#,
            r#"request="r-1""#
        )
    );
    assert!(lines[1].contains(" tunnel-close ") && lines[1].contains(" idle-timeout "));
    assert_eq!(lines.len(), 3);
}

#[tokio::test(flavor = "local")]
async fn an_entry_of_the_journal_has_the_line_and_all_fields() {
    let target = Target::default();
    let handle = target.handle_as(Form::Journal, None);
    let (log, flusher) = handle.worker();
    log.record(&full(&peer()));
    drop((log, flusher));
    assert!(handle.flush(PATIENCE));
    let text = target.text();
    let start = concat!(
        "PRIORITY=6\nSYSLOG_IDENTIFIER=portcullis\n",
        r#"MESSAGE=203.0.113.9 "GET a.test/chat?room=***&token=***" h2 502 in=0"#
    );
    assert!(text.starts_with(start) && text.ends_with("\n\n"), "{text}");
    for field in ["PORTCULLIS_CLIENT=203.0.113.9", "PORTCULLIS_STATUS=502", "PORTCULLIS_END=bad-upgrade"] {
        assert!(text.lines().any(|line| line == field), "{field}: {text}");
    }
}

#[tokio::test(flavor = "local")]
async fn of_refusals_only_so_many_get_a_line_and_the_others_are_counted() {
    let target = Target::default();
    let handle = target.handle_as(Form::Json, Some(5));
    let (log, flusher) = handle.worker();
    let refused = AccessRecord { end: Some(EndReason::OriginNotAllowed), ..AccessRecord::default() };
    for _ in 0..1_000 {
        log.record(&refused);
    }
    log.record(&AccessRecord { end: Some(EndReason::Completed), ..AccessRecord::default() });
    drop((log, flusher));
    assert!(handle.flush(PATIENCE));
    let lines = target.text().lines().count() as u64;
    assert_eq!(lines + handle.unsaid_refusals(), 1_001);
    assert!(lines < 100 && target.text().contains("completed"), "{lines}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_quiet_worker_hands_its_lines_over_after_a_tenth_of_a_second() {
    let target = Target::default();
    let handle = target.handle(true);
    let (log, flusher) = handle.worker();
    let task = tokio::task::spawn_local(flusher);
    for expected in 1..=3 {
        log.record(&AccessRecord::default());
        tokio::time::sleep(Duration::from_millis(99)).await;
        assert_eq!(log.buffer.borrow().lines, 1);
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(log.buffer.borrow().lines, 0);
        assert!(handle.flush(PATIENCE));
        assert_eq!(target.text().lines().count(), expected);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    task.abort();
}

#[tokio::test(flavor = "local")]
async fn a_target_that_stands_still_costs_lines_and_never_the_worker() {
    let target = Target::default();
    target.hold(true);
    let handle = target.handle(true);
    let (log, _flusher) = handle.worker();
    let path = vec![b'a'; 2_000];
    let records = 12_000;
    for _ in 0..records {
        log.record(&AccessRecord { path: &path, ..AccessRecord::default() });
    }
    let lost = handle.lost().get();
    assert!(lost > 0, "12,000 lines of 2 KiB do not fit into the queue");
    assert!(!handle.flush(Duration::from_millis(20)), "and a flush gives up in time");
    target.hold(false);
    drop((log, _flusher));
    // The last chunk finds room or not; what is not lost is whole.
    assert!(handle.flush(PATIENCE));
    let text = target.text();
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert!(text.lines().count() as u64 + lost <= records && text.ends_with('\n'));
    assert_eq!(text.lines().count() as u64 + handle.lost().get(), records, "what is lost is counted to the line");
}

#[tokio::test(flavor = "local")]
async fn a_full_disk_loses_lines_and_the_log_goes_on_afterwards() {
    let target = Target::default();
    let handle = target.handle(true);
    let (log, flusher) = handle.worker();
    target.0.full.store(true, Ordering::SeqCst);
    for _ in 0..1_000 {
        log.record(&full(&peer()));
    }
    assert!(handle.flush(PATIENCE));
    assert_eq!(target.text(), "");
    target.0.full.store(false, Ordering::SeqCst);
    drop((log, flusher));
    assert!(handle.flush(PATIENCE));
    assert!(target.text().lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert!(target.text().lines().count() > 0);
    assert_eq!(target.text().lines().count() as u64 + handle.lost().get(), 1_000);
}

#[tokio::test(flavor = "local")]
async fn a_rotated_file_is_opened_again_on_request() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("access.log");
    let handle = AccessLogHandle::start(&to(AccessTarget::File(path.clone()))).expect("a file");
    let write = |request: &str| {
        let (log, flusher) = handle.worker();
        log.record(&AccessRecord { request, ..AccessRecord::default() });
        drop((log, flusher));
        assert!(handle.flush(PATIENCE));
    };
    write("first");
    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&path, &rotated).expect("rename");
    write("second");
    handle.reopen();
    write("third");
    let old = std::fs::read_to_string(rotated).expect("old file");
    let new = std::fs::read_to_string(path).expect("new file");
    assert!(old.contains("first") && old.contains("second") && !old.contains("third"));
    assert!(new.contains("third") && new.starts_with('{'), "a file is JSON");
}

#[tokio::test(flavor = "local")]
async fn a_log_that_is_off_does_nothing() {
    let handle = AccessLogHandle::start(&to(AccessTarget::Off)).expect("nothing to open");
    let (log, _flusher) = handle.worker();
    log.record(&AccessRecord::default());
    assert!(!log.is_on() && log.buffer.borrow().bytes.is_empty());
    assert!(handle.flush(Duration::ZERO));
}

proptest! {
    #[test]
    fn whatever_a_peer_sends_is_one_line_and_valid_json(
        host in prop::collection::vec(any::<u8>(), 0..40),
        path in prop::collection::vec(any::<u8>(), 0..80),
        query in prop::collection::vec(any::<u8>(), 0..80),
        agent in prop::collection::vec(any::<u8>(), 0..80),
        method in ".{0,20}",
    ) {
        let record = AccessRecord {
            host: Some(&host), path: &path, query: Some(&query), user_agent: Some(&agent), origin: Some(&agent),
            method: &method, request: &method, listener: &method, route: Some(&method), server: Some(&method),
            ..AccessRecord::default()
        };
        for form in [Form::Json, Form::Text] {
            let mut out = Vec::new();
            form.render(&mut out, &mut Stamp::default(), &record);
            let text = String::from_utf8(out).expect("UTF-8");
            let line = text.strip_suffix('\n').expect("a line end");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let mut out = Vec::new();
        Form::Json.render(&mut out, &mut Stamp::default(), &record);
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["event"].as_str(), Some("request"));
        let mut out = Vec::new();
        Form::Journal.render(&mut out, &mut Stamp::default(), &record);
        let text = String::from_utf8(out).expect("UTF-8");
        let entry = text.strip_suffix("\n\n").expect("an empty line at the end");
        for line in entry.split('\n') {
            let (key, value) = line.split_once('=').expect("a field");
            assert!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{key:?}");
            assert!(!value.chars().any(char::is_control), "{value:?}");
        }
    }

    #[test]
    fn no_value_of_a_query_reaches_a_line(names in prop::collection::vec("[a-z]{1,5}", 1..6), bare in any::<bool>()) {
        let query: Vec<_> = names.iter().map(|name| format!("{name}=S3CRET%00&")).collect();
        let query = query.concat() + if bare { "S3CRET" } else { "" };
        for form in [Form::Json, Form::Text] {
            let mut out = Vec::new();
            form.render(&mut out, &mut Stamp::default(), &AccessRecord { query: Some(query.as_bytes()), ..AccessRecord::default() });
            let text = String::from_utf8(out).expect("UTF-8");
            assert!(!text.contains("S3CRET"));
            assert!(names.iter().all(|name| text.contains(&format!("{name}=***"))));
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_log_that_follows_another_loses_no_line_of_either() {
    let (before, after) = (Target::default(), Target::default());
    let (old, new) = (before.handle(true), after.handle(false));
    let (log, flusher) = old.worker();
    log.record(&full(&peer()));
    log.follow(&new);
    log.record(&full(&peer()));
    let off = AccessLogHandle::off();
    log.follow(&off);
    assert!(!log.is_on());
    log.record(&full(&peer()));
    log.follow(&new);
    log.record(&full(&peer()));
    drop((log, flusher));
    assert!(old.flush(PATIENCE) && new.flush(PATIENCE));
    assert_eq!((before.text().lines().count(), after.text().lines().count()), (1, 2));
    assert!(before.text().starts_with('{') && !after.text().starts_with('{'));
    assert!(off.renewed(&to(AccessTarget::Off)).expect("the same").output.writer.is_none());
    old.renewed(&to(AccessTarget::File("/no/such/folder/x".into()))).expect_err("no folder");
}
