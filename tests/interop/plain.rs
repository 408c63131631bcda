//! Plain HTTP through the gateway: nginx and Python's file server as origins, and a source of server-sent events.

use std::fs;
use std::io::BufReader;
use std::process::{Command, Stdio};

use crate::harness::{Gateway, Process, Tap, field, folder, free_port, program, python, read_until, succeed, suite};
use crate::websocket::noise;

/// nginx serving `docroot` in a folder of its own.
pub fn nginx() -> (Process, u16, tempfile::TempDir) {
    nginx_with("")
}

/// The same, with more words behind `listen`.
pub fn nginx_with(options: &str) -> (Process, u16, tempfile::TempDir) {
    let (folder, port) = (folder(), free_port());
    for name in ["docroot/upload", "docroot/trailers"] {
        fs::create_dir_all(folder.path().join(name)).expect("a folder");
    }
    let place = folder.path().to_str().expect("a path in UTF-8");
    let text = fs::read_to_string(suite("backends/nginx.conf")).expect("the suite's file");
    let file = folder.path().join("nginx.conf");
    fs::write(&file, text.replace("PORT", &port.to_string()).replace("FOLDER", place).replace("OPTIONS", options))
        .expect("a file");
    let mut command = Command::new(program("nginx"));
    command.args(["-e", "stderr", "-p"]).arg(folder.path()).arg("-c").arg(&file);
    let mut server = Process::start("nginx", command);
    server.accepting(port);
    (server, port, folder)
}

const PROTOCOLS: [&str; 2] = ["--http1.1", "--http2"];

fn behind(port: u16) -> (Tap, Gateway) {
    let tap = Tap::before(port);
    let gateway = Gateway::start(&format!("[[route]]\nupstream = \"http://127.0.0.1:{}\"\n", tap.port));
    (tap, gateway)
}

fn sha256(file: &std::path::Path) -> String {
    let mut command = Command::new(program("sha256sum"));
    command.arg(file);
    succeed(command).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn big_downloads_and_uploads_arrive_byte_for_byte() {
    let (_server, port, folder) = nginx();
    let (_tap, gateway) = behind(port);
    let source = folder.path().join("docroot/big");
    fs::write(&source, noise(24 * 1024 * 1024 + 3)).expect("a file");
    let wanted = sha256(&source);
    for protocol in PROTOCOLS {
        let got = folder.path().join("downloaded");
        let mut curl = gateway.curl("/big");
        curl.args([protocol, "--fail", "--output"]).arg(&got);
        succeed(curl);
        assert_eq!(sha256(&got), wanted, "download over {protocol}");

        let target = format!("/upload/by{protocol}");
        let mut curl = gateway.curl(&target);
        curl.args([protocol, "--fail", "--upload-file"]).arg(&source);
        succeed(curl);
        assert_eq!(sha256(&folder.path().join("docroot").join(&target[1..])), wanted, "upload over {protocol}");

        // Of unknown length: chunked on HTTP/1.1, without a content-length on HTTP/2.
        let target = format!("/upload/chunked{protocol}");
        let mut curl = gateway.curl(&target);
        curl.args([protocol, "--fail", "--request", "PUT", "--header", "Transfer-Encoding: chunked", "--data-binary"]);
        curl.arg(format!("@{}", source.display()));
        succeed(curl);
        assert_eq!(sha256(&folder.path().join("docroot").join(&target[1..])), wanted, "chunked upload over {protocol}");
    }
}

#[test]
fn ranges_conditions_and_head_requests_pass() {
    let (_server, port, folder) = nginx();
    let (_tap, gateway) = behind(port);
    fs::write(folder.path().join("docroot/alphabet"), "abcdefghijklmnopqrstuvwxyz").expect("a file");
    for protocol in PROTOCOLS {
        let ask = |arguments: &[&str]| {
            let mut curl = gateway.curl("/alphabet");
            curl.args([protocol, "--include"]).args(arguments);
            succeed(curl)
        };
        let part = ask(&["--range", "3-7"]);
        assert!(part.lines().next().is_some_and(|line| line.contains(" 206")), "{part}");
        assert_eq!(field(&part, "content-range"), ["bytes 3-7/26"], "{part}");
        assert!(part.ends_with("\r\n\r\ndefgh"), "{part}");
        let parts = ask(&["--range", "0-1,24-25"]);
        assert!(field(&parts, "content-type")[0].starts_with("multipart/byteranges"), "{parts}");
        let beyond = ask(&["--range", "100-"]);
        assert!(beyond.lines().next().is_some_and(|line| line.contains(" 416")), "{beyond}");

        let head = ask(&["--head"]);
        assert_eq!(field(&head, "content-length"), ["26"], "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let tag = field(&head, "etag")[0].to_owned();
        let known = ask(&["--header", &format!("If-None-Match: {tag}")]);
        assert!(known.lines().next().is_some_and(|line| line.contains(" 304")), "{known}");
    }
}

#[test]
fn answers_that_are_no_success_pass_with_their_bodies() {
    let (_server, port, _folder) = nginx();
    let (_tap, gateway) = behind(port);
    for protocol in PROTOCOLS {
        let mut curl = gateway.curl("/denied");
        curl.args([protocol, "--write-out", "%{http_code}"]);
        assert_eq!(succeed(curl), "not for you\n403");
    }
}

#[test]
fn trailers_of_the_origin_reach_the_client() {
    let (_server, port, folder) = nginx();
    let (tap, gateway) = behind(port);
    fs::write(folder.path().join("docroot/trailers/page"), "a page <!--#echo var=\"request_method\" -->\n")
        .expect("a file");
    let mut curl = gateway.curl("/trailers/page");
    curl.args(["--http1.1", "--include", "--header", "TE: trailers"]);
    let answer = succeed(curl);
    assert!(answer.contains("a page GET\n"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("x-checksum: sha256-of-nothing"), "{answer}");
    tap.head("/trailers/page");

    let mut nghttp = Command::new(program("nghttp"));
    nghttp.args([
        "--verbose",
        "--header",
        &format!(":authority: gate.test:{}", gateway.port),
        "--header",
        "te: trailers",
    ]);
    nghttp.arg(format!("https://127.0.0.1:{}/trailers/page", gateway.port));
    let seen = succeed(nghttp);
    assert!(seen.contains("a page GET"), "{seen}");
    assert!(seen.contains("x-checksum: sha256-of-nothing"), "{seen}");
}

#[test]
fn pythons_file_server_of_http_1_0_serves_files_and_listings() {
    let folder = folder();
    fs::create_dir(folder.path().join("sub")).expect("a folder");
    fs::write(folder.path().join("sub/file.bin"), noise(300_000)).expect("a file");
    let port = free_port();
    let mut command = Command::new(program("python3"));
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(folder.path()).arg(port.to_string());
    let mut server = Process::start("http.server", command);
    server.accepting(port);
    let (_tap, gateway) = behind(port);
    for protocol in PROTOCOLS {
        let mut list = gateway.curl("/sub/");
        list.args([protocol, "--fail"]);
        assert!(succeed(list).contains("file.bin"));
        let got = folder.path().join("got");
        let mut get = gateway.curl("/sub/file.bin");
        get.args([protocol, "--fail", "--output"]).arg(&got);
        succeed(get);
        assert!(fs::read(&got).expect("the download") == noise(300_000), "over {protocol}");
        // Its redirect to the folder's own name passes as it is.
        let mut moved = gateway.curl("/sub");
        moved.args([protocol, "--output", "/dev/null", "--write-out", "%{http_code} %header{location}"]);
        assert_eq!(succeed(moved), "301 /sub/");
        let mut missing = gateway.curl("/missing");
        missing.args([protocol, "--output", "/dev/null", "--write-out", "%{http_code}"]);
        assert_eq!(succeed(missing), "404");
    }
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let (_server, port) = Process::backend("the source of events", python("backends/events.py"));
    let (_tap, gateway) = behind(port);
    for protocol in PROTOCOLS {
        let mut curl = gateway.curl("/events");
        curl.args([protocol, "--no-buffer"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = curl.spawn().expect("curl starts");
        let mut events = BufReader::new(child.stdout.take().expect("stdout is piped"));
        read_until(&mut events, "data: first");
        for number in 2..5 {
            // The next event does not exist before this request, so it cannot have been held back with others.
            succeed(gateway.curl("/go"));
            read_until(&mut events, &format!("id: {number}"));
        }
        succeed(gateway.curl("/stop"));
        read_until(&mut events, "event: end");
        assert!(child.wait().expect("curl ends").success(), "the end of the answer over {protocol} was not clean");
    }
}
