//! The papers against the program: what README shows is run, what it promises exists, and every name that a paper gives
//! (a file, a link, a test, a flag, an end reason) is one.
//!
//! In README a `toml` block below `<!-- file: NAME -->` is that file, a `console` block is run in a folder that has
//! those files, and its output must be what the block shows.

// The house rules about clocks, threads and tasks are for the gateway; this is the world outside it.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use regex::Regex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use portcullis::cli::cert;
use portcullis::config::{self, keys, render};
use portcullis::fault::Fault;
use portcullis::limits::NoTunnel;
use portcullis::proto::{fields, host, target, websocket};
use portcullis::telemetry::end::EndReason;
use portcullis::types::{HttpVersion, RequestBodyFault};
use portcullis::upgrade::Refusal;
use portcullis::upstream::Failure;

const PAPERS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "certs/README.md",
    "docs/protocol.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/packages.md",
    "docs/performance.md",
    "docs/socket-io.md",
];

/// Nothing here takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn paper(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

#[track_caller]
fn assert_none(found: &str, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{found}");
}

/// A fenced block of a paper.
struct Block {
    /// What the comment above it says: `file: portcullis.toml`.
    mark: Option<String>,
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut mark, mut lines) = (None, text.lines());
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: String =
                lines.by_ref().take_while(|line| !line.starts_with("```")).map(|line| format!("{line}\n")).collect();
            blocks.push(Block { mark: mark.take(), language: language.to_owned(), text });
        } else {
            mark = line
                .strip_prefix("<!-- ")
                .and_then(|line| line.strip_suffix(" -->"))
                .map(|mark: &str| mark.to_owned())
                .or(if line.is_empty() { mark } else { None });
        }
    }
    blocks
}

fn marked(text: &str, mark: &str) -> String {
    let found = blocks(text).into_iter().find(|block| block.mark.as_deref() == Some(mark));
    found.unwrap_or_else(|| panic!("no block is marked {mark:?}")).text
}

/// A folder with README's files and certificates for its names.
fn checkout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for block in blocks(&paper("README.md")) {
        if let Some(name) = block.mark.as_deref().and_then(|mark| mark.strip_prefix("file: ")) {
            fs::write(folder.path().join(name), block.text).expect("a file");
        }
    }
    cert::issue(&folder.path().join("certs"), &["app.example.com".to_owned()]).expect("a certificate");
    folder
}

/// What a shell prints, both streams as they come, and the exit code.
fn shell(folder: &Path, line: &str) -> (String, Option<i32>) {
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{line}")])
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    (String::from_utf8(output.stdout).expect("text"), output.status.code())
}

#[test]
fn the_readmes_examples_give_what_they_show() {
    let folder = checkout();
    let mut run = 0;
    for block in blocks(&paper("README.md")).into_iter().filter(|block| block.language == "console") {
        let (command, expected) = block.text.split_once('\n').expect("a command and its output");
        let command = command.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {command:?}"));
        let (output, _) = shell(folder.path(), command);
        assert_eq!(output, expected, "$ {command}");
        run += 1;
    }
    assert!(run >= 4, "{run} examples");
}

#[test]
fn every_configuration_in_the_papers_is_good() {
    let folder = checkout();
    let mut read = 0;
    for name in PAPERS {
        for block in blocks(&paper(name)).into_iter().filter(|block| block.language == "toml") {
            let (config, report) = config::read_text(name, &block.text, folder.path());
            assert!(report.problems.is_empty(), "{}", render::render(&report, false));
            assert!(config.is_some());
            read += 1;
        }
    }
    assert!(read >= 2, "{read} blocks");
    for file in ["portcullis.toml", "site.toml"] {
        let (output, code) = shell(folder.path(), &format!("portcullis check --config {file}"));
        assert!(code == Some(0) && output.starts_with(&format!("{file} is good: ")), "{output}");
    }
}

/// Lines that are there to be typed: each is one that works.
#[test]
fn every_command_in_the_papers_works() {
    let folder = checkout();
    let mut found = String::new();
    for name in PAPERS {
        for block in blocks(&paper(name)).into_iter().filter(|block| block.language == "sh") {
            for line in block.text.lines() {
                let words: Vec<_> = line.split_whitespace().collect();
                let works = match words.as_slice() {
                    // Said in the words of `the_demo_of_the_readme_starts_and_stops`.
                    ["cargo", "run", "--release", "--", "demo"] | ["cargo", "build"] => true,
                    ["cargo", "bench", "--bench", bench, ..] => root().join(format!("benches/{bench}.rs")).exists(),
                    [bench @ ("benches/compare" | "benches/spread" | "benches/operations"), rest @ ..] => {
                        let program = paper(bench);
                        let mut flags = rest.iter().filter(|word| word.starts_with("--"));
                        flags.all(|flag| program.contains(&format!("add_argument(\"{flag}\"")))
                    }
                    ["tests/run", parts @ ..] => {
                        let (usage, code) = shell(root(), "tests/run no-such-part");
                        code == Some(2) && parts.iter().all(|part| usage.contains(part))
                    }
                    // Serving is another test's business; whether it would serve is asked here.
                    ["portcullis", "run", rest @ ..] => {
                        shell(folder.path(), &format!("portcullis check {}", rest.join(" "))).1 == Some(0)
                    }
                    ["portcullis", "expose", ..] => shell(folder.path(), &format!("{line} --print")).1 == Some(0),
                    // What these do is the business of `tests/package/`, whose configuration is this one.
                    ["packaging/build"] => root().join("packaging/build").exists(),
                    ["apt", "install", package] => package.contains(concat!("_", env!("CARGO_PKG_VERSION"), "-1_")),
                    ["portcullis", "check", "--config", "/etc/portcullis/portcullis.toml"] => {
                        shell(root(), "portcullis check packaging/portcullis.toml").1 == Some(0)
                    }
                    ["install", "-m", "640", ..] | ["systemctl", "reload", "portcullis"] => true,
                    ["podman", "build", "-f", file, ..] => root().join(file).exists(),
                    ["portcullis", "check", ..] => shell(folder.path(), line).1 == Some(0),
                    // The packages do the same.
                    ["systemctl", "kill", ..] => paper("packaging/logrotate").contains(line),
                    // Nobody listens there (7), and none of its options is a wrong one (2).
                    ["curl", "--unix-socket", ..] => shell(folder.path(), line).1 == Some(7),
                    // What that does is the business of `tests/wire/reload.rs`.
                    ["kill", "-HUP", ..] => true,
                    // There is nobody to ask; a line that it does not understand would be a 2. Else: `tests/upgrade`.
                    ["portcullis", "upgrade", ..] => shell(folder.path(), line).1 == Some(1),
                    // What these do is the business of `tests/wire/admin.rs`; here, that there is such a thing to be asked.
                    ["portcullis", "reload" | "status" | "ps" | "kill" | "drain" | "log", ..] => {
                        let (said, code) = shell(folder.path(), line);
                        code == Some(2) && said.contains("has no [admin]")
                    }
                    ["portcullis", "cert", ..] => shell(folder.path(), line).1 == Some(0),
                    _ => false,
                };
                if !works {
                    let _ = writeln!(found, "{name}: {line}");
                }
            }
        }
    }
    assert_none(&found, "commands that do not work, or that nobody has taught this test");
}

/// A process with its output, line by line; ended by its own id.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Everything it has printed, up to the first line that begins so.
    fn until(&self, beginning: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|line: &String| !line.starts_with(beginning)) {
            let next = self.lines.recv_timeout(PATIENCE);
            seen.push(next.unwrap_or_else(|_| panic!("no line begins with {beginning:?}: {seen:#?}")));
        }
        seen
    }

    /// Asks it to stop, and waits for its exit code.
    fn stop(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("its end").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_of_the_readme_starts_and_stops() {
    let demo = Process::start(
        Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["demo", "--listen", "127.0.0.1:0"]).stderr(Stdio::null()),
    );
    let seen = demo.until("listening on https://127.0.0.1:").join("\n");
    let port = seen.rsplit("https://127.0.0.1:").next().and_then(|rest| rest.split(' ').next()).expect("a port");
    assert!(seen.contains(&format!("open        https://localhost:{port}/")), "{seen}");
    TcpStream::connect(format!("127.0.0.1:{port}")).expect("it listens");
    assert_eq!(demo.stop(), Some(0));
    // What README says of the usual address.
    let (text, _) = shell(root(), "portcullis demo --help");
    assert!(text.contains("[default: 127.0.0.1:8443]"), "{text}");
    assert!(paper("README.md").contains("<https://localhost:8443/>"));
}

/// A server that knows only `ws://`: agrees to the RFC's sample handshake, answers one message, hangs up after the client.
fn ws_only_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        read_head(&mut socket);
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        socket.write_all(head).expect("the answer goes out");
        socket.read_exact(&mut [0; 11]).expect("a message");
        socket.write_all(b"\x81\x05hello").expect("the echo goes out");
        let _ = socket.read(&mut [0]);
    });
    port
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// The RFC's sample handshake for `/ws`, from a page of `origin`; a message there and back where it opens.
fn visit(port: u16, authority: &Path, origin: &str) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("the CA")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("app.example.com").expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut stream = rustls::StreamOwned::new(connection, socket);
    let request = format!(
        "GET /ws?token=secret HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {origin}\r\n\
         User-Agent: Mozilla/5.0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the request goes out");
    if read_head(&mut stream).starts_with("HTTP/1.1 101") {
        stream.write_all(b"\x81\x85\0\0\0\0hello").expect("the message goes out");
        stream.read_exact(&mut [0; 7]).expect("the echo");
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// The lines of the access log that README's configuration gives for a foreign page and then the right one.
fn log(format: &str) -> Vec<String> {
    let folder = checkout();
    let (errors, server) = (folder.path().join("stderr"), ws_only_server());
    let listener = "name = \"0.0.0.0:443\"\naddress = \"127.0.0.1:0\"";
    let text = marked(&paper("README.md"), "file: portcullis.toml")
        .replace("address = \"0.0.0.0:443\"", listener)
        .replace(":9000\"", &format!(":{server}\""));
    let text = format!("[server]\nworkers = 1\n\n[log]\nformat = {format:?}\n\n{text}");
    let file = folder.path().join("log.toml");
    fs::write(&file, text).expect("a file");
    let gateway = Process::start(
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--config"])
            .arg(&file)
            .stderr(fs::File::create(&errors).expect("a file")),
    );
    let line = gateway.until("listening on ").pop().expect("the last line");
    let port = pattern(r":(\d+) ").captures(&line).and_then(|found| found[1].parse().ok()).expect("a port");
    for origin in ["https://evil.example", "https://app.example.com"] {
        visit(port, &folder.path().join("certs/ca.pem"), origin);
    }
    assert_eq!(gateway.stop(), Some(0));
    let lines = fs::read_to_string(errors).expect("its log");
    lines.lines().filter(|line| line.contains("/ws")).map(str::to_owned).collect()
}

/// Without what differs from run to run.
fn masked(line: &str) -> String {
    let mut line = line.to_owned();
    for (what, mask) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
        (r"\b\d+\.\dms\b", "DURATION"),
        (r#""duration_us":\d+"#, "DURATION"),
        (r#"request="[0-9a-f]{32}""#, "REQUEST"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        // The file has another name there, and more in front of the route.
        (r"\([^() ]*\.toml:\d+\)", "PLACE"),
    ] {
        line = pattern(what).replace_all(&line, mask).into_owned();
    }
    line
}

#[test]
fn the_log_looks_as_the_readme_shows() {
    let readme = paper("README.md");
    let shown = |mark| marked(&readme, mark).lines().map(masked).collect::<Vec<_>>();
    let text: Vec<_> = log("text").iter().map(|line| masked(line)).collect();
    assert_eq!(text, shown("log: text"));
    let json: Vec<_> = log("json").iter().map(|line| masked(line)).collect();
    assert_eq!(json.len(), 3, "{json:#?}");
    assert_eq!(json[..1], shown("log: json"));
}

#[test]
fn the_tables_of_commands_are_what_help_says() {
    let (readme, cli) = (paper("README.md"), paper("src/cli/mod.rs"));
    let flag = pattern(r"--[a-z][a-z-]*");
    let flags = |text: &str| flag.find_iter(text).map(|found| found.as_str().to_owned()).collect::<BTreeSet<_>>();
    let (help, code) = shell(root(), "portcullis --help");
    assert_eq!(code, Some(0));
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
    for command in commands.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `portcullis {command}")));
        let row = row.unwrap_or_else(|| panic!("README has no row for `{command}`"));
        let (usage, _) = shell(root(), &format!("portcullis {command} --help"));
        let options = usage.split("Options:").nth(1).and_then(|rest| rest.split("\nExample").next()).expect("options");
        let mut offered = BTreeSet::new();
        for line in options.lines() {
            offered.extend(
                flag.find(line.split("  ").find(|part| part.contains("--")).unwrap_or_default())
                    .map(|f| f.as_str().to_owned()),
            );
        }
        offered.remove("--help");
        assert_eq!(flags(row.split(" | ").next().unwrap_or(row)), offered, "{command}");
    }
    for code in ["0", "1", "2", "3"] {
        assert!(readme.contains(&format!("\n| {code} | ")), "exit code {code}");
        assert!(cli.contains(&format!("=> {code},")), "exit code {code}");
    }
}

#[test]
fn exit_codes_are_those_of_the_readme() {
    let folder = checkout();
    let exit = |line: &str| shell(folder.path(), line).1;
    assert_eq!(exit("portcullis check"), Some(0));
    assert_eq!(exit("portcullis check --config no-such.toml"), Some(2));
    assert_eq!(exit("portcullis no-such-command"), Some(2));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    assert_eq!(exit(&format!("portcullis expose ws://127.0.0.1:1 --listen {address}")), Some(3));
}

/// Links and pictures of a paper: `[text](to)`, `![text](to)` and `src="to"`.
fn links(text: &str) -> Vec<String> {
    let link = pattern(r#"\]\(([^)\s]+)\)|src="([^"]+)""#);
    let found = link.captures_iter(text).filter_map(|found| found.get(1).or(found.get(2)));
    found.map(|found| found.as_str().to_owned()).collect()
}

/// The anchors that a renderer makes of a paper's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(letter).collect()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut found, mut seen) = (String::new(), 0);
    for name in PAPERS.iter().chain(&["docs/config.md"]) {
        let folder = root().join(name).parent().expect("a folder").to_owned();
        for link in links(&paper(name)).iter().filter(|link| !link.starts_with("https://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, at)| (file, Some(at)));
            let target = if file.is_empty() { root().join(name) } else { folder.join(file) };
            let leads = match anchor {
                None => target.exists(),
                Some(anchor) => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)),
            };
            if !leads {
                let _ = writeln!(found, "{name}: {link}");
            }
        }
    }
    assert!(seen > 20, "{seen} links");
    assert_none(&found, "links that lead nowhere");
}

/// The rows of a table in `docs/protocol.md` whose first cell is a code: code → status, side, meaning.
fn end_reason_rows() -> BTreeMap<String, [String; 3]> {
    let text = paper("docs/protocol.md");
    let section = text.split("\n## End reasons\n").nth(1).expect("the section");
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let [code, status, side, meaning] = <[String; 4]>::try_from(cells).expect("four cells");
        let row = rows.insert(code.trim_matches('`').to_owned(), [status, side, meaning]);
        assert!(row.is_none(), "{code} stands twice");
    }
    rows
}

#[test]
fn every_end_reason_is_explained_and_no_other() {
    let rows = end_reason_rows();
    let documented: Vec<_> = rows.iter().map(|(code, row)| (code.as_str(), row[1].as_str())).collect();
    let mut real: Vec<_> = EndReason::ALL.iter().map(|reason| (reason.code(), reason.side().as_str())).collect();
    real.sort_unstable();
    assert_eq!(documented, real);
    assert!(rows.values().all(|[_, _, meaning]| meaning.ends_with('.') && meaning.len() > 15));
}

/// One fault of every kind that can be made without a network.
fn faults() -> Vec<Fault> {
    let mut listed = http::HeaderMap::new();
    listed.insert(http::header::CONNECTION, http::HeaderValue::from_static("host"));
    let mut long = http::HeaderMap::new();
    long.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("x"));
    let bodies = || [RequestBodyFault::Broken, RequestBodyFault::Timeout, RequestBodyFault::TooLarge];
    let mut all = vec![
        Fault::Authority(host::parse_authority("").expect_err("no host")),
        Fault::Target(target::parse_target("/../").expect_err("a dot segment")),
        Fault::TargetTooLong,
        Fault::TooManyFields,
        Fault::Connection(fields::check_connection(&listed).expect_err("not hop-by-hop")),
        Fault::TransferEncoding,
        Fault::ContentLength(fields::content_length(&long).expect_err("no length")),
        Fault::Expectation,
        Fault::MethodNotAllowed,
        Fault::UnknownProtocol,
        Fault::Loop,
        Fault::Misdirected,
        Fault::NoRoute,
        Fault::ClientCertificateRequired,
        Fault::BodyTooLarge,
        Fault::WebSocketOnly,
        Fault::UpgradeNotAllowed,
        Fault::BadUpgrade(websocket::BadUpgrade::Status),
        Fault::UnexpectedUpgrade,
        Fault::Internal("a test"),
        Fault::Tunnels(NoTunnel::Route),
        Fault::Tunnels(NoTunnel::Address),
        Fault::Upstream(Failure::Connect(std::io::Error::other("refused"))),
        Fault::Upstream(Failure::ConnectTimeout("10.0.0.1:80: timed out".to_owned())),
        Fault::Upstream(Failure::Tls(String::new())),
        Fault::Upstream(Failure::Malformed(String::new())),
        Fault::Upstream(Failure::Timeout),
        Fault::Upstream(Failure::Overloaded),
        Fault::Upstream(Failure::QueueTimeout),
    ];
    all.extend(bodies().map(Fault::RequestBody));
    all.extend(bodies().map(|fault| Fault::Upstream(Failure::RequestBody(fault))));
    all.extend(
        [
            Refusal::DuplicateHeader,
            Refusal::BadVersion,
            Refusal::BadKey,
            Refusal::Body,
            Refusal::OriginField,
            Refusal::OriginMalformed,
            Refusal::OriginMissing,
            Refusal::OriginNotAllowed,
            Refusal::BadOffer,
            Refusal::SubprotocolRequired,
        ]
        .map(Fault::Handshake),
    );
    all
}

#[test]
fn end_reasons_have_the_statuses_that_are_documented() {
    let rows = end_reason_rows();
    for fault in faults() {
        let (code, status) = (fault.end().code(), fault.status().as_u16().to_string());
        let documented = &rows[code][0];
        assert!(documented.split(", ").any(|word| word == status), "{code}: {status}, but documented is {documented}");
        let answer = fault.answer(HttpVersion::Http1);
        assert_eq!(answer.headers()["x-portcullis-reason"], code);
    }
}

fn files_under(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_under(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions in `src` and `tests` that are tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    files_under(&root().join("src"), &mut files);
    files_under(&root().join("tests"), &mut files);
    let test = pattern(r"#\[(?:tokio::)?test[^\n]*\n(?:\s*#[^\n]*\n)*\s*(?:pub )?(?:async )?fn (\w+)");
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        names.extend(test.captures_iter(&text).map(|found| found[1].to_owned()));
    }
    names
}

#[test]
fn the_files_and_tests_that_papers_name_exist() {
    let tests = tests();
    assert!(tests.len() > 200, "{} tests", tests.len());
    let word = pattern(r"`([\w./-]+)`");
    let (family, sentence) = (pattern(r"^[a-z][a-z0-9]{2}_\d\d$"), pattern(r"^[a-z0-9]+(_[a-z0-9]+){4,}$"));
    let mut found = String::new();
    for name in PAPERS {
        for captured in word.captures_iter(&paper(name)) {
            let word = &captured[1];
            // Metrics have long names, too; `metrics.rs` holds them to the paper.
            let exists = if word.starts_with("portcullis_") {
                true
            } else if family.is_match(word) {
                tests.iter().any(|test| test.starts_with(&format!("{word}_")))
            } else if sentence.is_match(word) {
                tests.contains(word)
            } else if word.ends_with(".rs")
                || ["src/", "tests/", "docs/", "conf/", "fuzz/"].iter().any(|f| word.starts_with(f))
            {
                [root().join(word), root().join("src").join(word), root().join("tests/wire").join(word)]
                    .iter()
                    .any(|path| path.exists())
                    || word == "tests/run"
            } else {
                true
            };
            if !exists {
                let _ = writeln!(found, "{name}: {word}");
            }
        }
    }
    assert_none(&found, "names of files and tests that are none");
}

#[test]
fn the_protocol_page_says_for_every_rule_where_it_is_done_and_what_holds_it() {
    let text = paper("docs/protocol.md");
    let rules = text.split("\n## Limits of this release").next().expect("the rules");
    let mut found = String::new();
    let rows = rules.lines().filter(|line| line.starts_with("| ") && !line.ends_with("held by |"));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [.., file, held] = cells.as_slice() else { panic!("no cells: {row}") };
        if !(file.contains(".rs`") || *file == "hyper") || !(held.starts_with('`') || *held == "–") {
            let _ = writeln!(found, "{row}");
        }
    }
    assert_none(&found, "rules without a file or a test");
}

#[test]
fn the_architecture_names_every_module() {
    let text = paper("ARCHITECTURE.md");
    let house = blocks(&text).into_iter().find(|block| block.text.starts_with("src/\n")).expect("the tree").text;
    let (inside, rest) = house.split_once("\n\nconf/").expect("what is beside src/");
    let mut named = BTreeSet::new();
    for line in inside.lines().skip(1).filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().expect("a name");
        assert!(root().join("src").join(name).exists(), "src/{name} does not exist");
        named.insert(name.trim_end_matches('/').trim_end_matches(".rs").to_owned());
    }
    let declared = pattern(r"(?m)^pub mod (\w+);");
    let lib = paper("src/lib.rs");
    let mut real: BTreeSet<_> = declared.captures_iter(&lib).map(|found| found[1].to_owned()).collect();
    real.extend(["main".to_owned(), "lib".to_owned()]);
    assert_eq!(named, real);
    let beside = rest.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for name in beside.filter_map(|line| line.split_whitespace().next()) {
        assert!(root().join("tests").join(name).exists(), "tests/{name} does not exist");
    }
}

#[test]
fn the_changelog_has_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(paper("CHANGELOG.md").contains(&format!("\n## [{version}] - ")), "{version}");
    assert!(shell(root(), "portcullis --version").0.starts_with(&format!("portcullis {version}\n")));
}

#[test]
fn the_licences_are_those_of_the_manifest() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "MIT OR Apache-2.0");
    assert!(paper("LICENSE-MIT").contains("Permission is hereby granted, free of charge"));
    assert!(paper("LICENSE-APACHE").contains("Version 2.0, January 2004"));
}

#[test]
fn the_requirements_are_those_of_the_manifest() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    for name in ["README.md", "CONTRIBUTING.md"] {
        assert!(paper(name).contains(&format!("Rust {version} or later")), "{name}");
    }
}

#[test]
fn no_paper_names_a_registry_or_a_place_of_one_machine() {
    let forbidden =
        pattern(r#"crates\.io|docs\.rs|pypi\.org|npmjs|registry\.|(?:^|[\s"'`(])/(?:root|work|home|tmp|Users)/"#);
    let mut found = String::new();
    for name in PAPERS.iter().chain(&[
        "docs/pictures/make",
        "docs/pictures/demo.js",
        "docs/pictures/check-error.svg",
        "docs/pictures/scene.js",
        "docs/pictures/dashboard.js",
        "docs/pictures/screen.js",
        "docs/pictures/top.svg",
    ]) {
        for line in paper(name).lines().filter(|line| forbidden.is_match(line)) {
            let _ = writeln!(found, "{name}: {line}");
        }
    }
    assert_none(&found, "places that are not everybody's");
}

/// A paper without the sections that say what is missing.
fn promises(text: &str) -> String {
    let mut kept = String::new();
    let mut missing = false;
    for line in text.lines() {
        if line.starts_with("## ") {
            missing = ["What is not there yet", "What is not promised", "Limits of this release"]
                .iter()
                .any(|heading| line.ends_with(heading));
        }
        if !missing {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn what_later_releases_bring_is_promised_nowhere() {
    let later: BTreeSet<_> = keys::SECTIONS.iter().flat_map(|section| section.later).copied().collect();
    assert!(later.contains("acme"), "{later:?}");
    let words = pattern(r"(?i)\bhot swap\b");
    let code = pattern(r"`([a-z_]+)`");
    let mut found = String::new();
    for name in PAPERS {
        for line in promises(&paper(name)).lines() {
            if words.is_match(line) || code.captures_iter(line).any(|word| later.contains(&word[1])) {
                let _ = writeln!(found, "{name}: {line}");
            }
        }
    }
    assert_none(&found, "promises of what is not there");
    // And what README says is missing is refused in the words that it gives.
    let (output, code) = shell(
        root(),
        "printf '[[listener]]\\naddress = \"127.0.0.1:0\"\\ntls = { acme = {} }\\n[[route]]\\nupstream = \"http://127.0.0.1:1\"\\n' \
         | portcullis check --config /dev/stdin",
    );
    assert!(code == Some(2) && output.contains("is not in this release"), "{output}");
}

#[test]
fn the_picture_of_check_shows_what_check_says() {
    let picture = paper("docs/pictures/check-error.svg");
    let tag = pattern("<[^>]*>");
    let mut lines = picture.lines().filter(|line| line.starts_with("<text ")).map(|line| {
        let text = tag.replace_all(line, "").replace('\u{a0}', " ");
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    });
    let command = lines.next().expect("a prompt");
    let command = command.strip_prefix("$ ").expect("a prompt");
    let (output, code) = shell(&root().join("docs/pictures"), command);
    assert_eq!(code, Some(2));
    assert_eq!(lines.collect::<Vec<_>>(), output.trim_end().lines().collect::<Vec<_>>(), "run docs/pictures/make");
}

#[test]
fn pictures_are_pictures_and_not_too_heavy() {
    let papers = paper("README.md") + &paper("docs/performance.md") + &paper("docs/operations.md");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("docs/pictures")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(&path).expect("a file");
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") => assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{name}"),
            Some("svg") => assert!(bytes.starts_with(b"<svg "), "{name}"),
            _ => continue,
        }
        assert!(bytes.len() < 300 * 1024, "{name} has {} bytes", bytes.len());
        assert!(papers.contains(&format!("pictures/{name}")), "no page shows {name}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} pictures");
}
