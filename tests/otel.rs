//! Spans as a collector gets them, from the real binary. Only in builds with the feature `otel`.

#![allow(clippy::disallowed_methods)] // tests may start threads

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads an HTTP message with its body; the head's first line, and the body.
fn message(stream: TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
        let line = head[start..].trim_end().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

/// Answers everything with this status and passes on what came: heads and bodies.
fn server(status: &'static str) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (came, coming) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if let Some(message) = message(stream.try_clone().expect("a socket")) {
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes());
                let _ = came.send(message);
            }
        }
    });
    (port, coming)
}

struct Gateway {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start(collector: u16, backend: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!(
            "[server]\nworkers = 1\ntrusted_proxies = [\"127.0.0.1\"]\n\
             [log]\naccess = \"off\"\notlp = {{ endpoint = \"http://127.0.0.1:{collector}\", service = \"edge\" }}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nname = \"all\"\nupstream = \"http://127.0.0.1:{backend}\"\n"
        );
        std::fs::write(folder.path().join("portcullis.toml"), text).expect("a file");
        let errors = std::fs::File::create(folder.path().join("stderr")).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let port = line.split(':').nth(2).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let port = port.unwrap_or_else(|| panic!("{line}"));
        Self { child, port, folder }
    }

    fn get(&self, path: &str, fields: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).expect("a log")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spans(body: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let resource = &all["resourceSpans"][0];
    assert_eq!(attribute(&resource["resource"], "service.name"), "edge");
    resource["scopeSpans"][0]["spans"].as_array().expect("a list").clone()
}

fn attribute(of: &Value, name: &str) -> String {
    let all = of["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|attribute| attribute["key"] == name).unwrap_or_else(|| panic!("{name}: {of}"));
    let value = &found["value"];
    value["stringValue"].as_str().or(value["intValue"].as_str()).expect("a value").to_owned()
}

#[test]
fn a_request_is_a_span_whose_id_its_server_heard() {
    let ((collector, exported), (backend, asked)) = (server("200 OK"), server("503 Service Unavailable"));
    let gateway = Gateway::start(collector, backend);
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    assert!(gateway.get("/a?secret=1", &format!("traceparent: 00-{trace}-{parent}-01\r\n")).contains("503"));
    let (head, body) = exported.recv_timeout(PATIENCE).expect("an export");
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("application/json"), "{head}");
    let spans = spans(&body);
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&trace.into(), &parent.into()));
    assert_eq!((&span["name"], &span["kind"], &span["status"]["code"]), (&"GET all".into(), &2.into(), &2.into()));
    let (heard, _) = asked.recv_timeout(PATIENCE).expect("a request");
    let id = span["spanId"].as_str().expect("an id");
    assert!(heard.to_lowercase().contains(&format!("traceparent: 00-{trace}-{id}-01\r\n")), "{heard}");
    for (name, value) in [
        ("http.response.status_code", "503"),
        ("url.path", "/a"),
        ("client.address", "127.0.0.1"),
        ("portcullis.end", "completed"),
    ] {
        assert_eq!(attribute(span, name), value);
    }
    let time = |key: &str| span[key].as_str().and_then(|text| text.parse::<u128>().ok()).expect("nanoseconds");
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano") && !body.contains("secret"), "{body}");

    // Not sampled by who began it: nobody wants it recorded.
    gateway.get("/not", &format!("traceparent: 00-{trace}-{parent}-00\r\n"));
    gateway.get("/last", "");
    let mut paths = Vec::new();
    while !paths.contains(&"/last".to_owned()) {
        let (_, body) = exported.recv_timeout(PATIENCE).expect("an export");
        paths.extend(self::spans(&body).iter().map(|span| attribute(span, "url.path")));
    }
    assert_eq!(paths, ["/last"]);
}

#[test]
fn a_collector_that_is_away_or_refuses_costs_spans_which_are_counted_and_no_request() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("an address").port();
    // It accepts nothing, and the kernel does for it: nobody ever answers.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let silent_port = silent.local_addr().expect("an address").port();
    let (refusing, _kept) = server("500 Internal Server Error");
    let (backend, _asked) = server("200 OK");
    for collector in [closed, silent_port, refusing] {
        let gateway = Gateway::start(collector, backend);
        let start = Instant::now();
        for _ in 0..20 {
            assert!(gateway.get("/", "").contains("200 OK"));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let deadline = Instant::now() + PATIENCE;
        while !gateway.log().contains("log lines are lost") {
            assert!(Instant::now() < deadline, "{}", gateway.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(gateway.log().contains("\"log\":\"spans\""), "{}", gateway.log());
    }
}
