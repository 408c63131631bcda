//! The PROXY protocol with those who speak it: HAProxy in front of the gateway and behind it, nginx behind it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Gateway, Process, folder, free_port, program, succeed, suite};

/// Where the clients of this suite come from: not where HAProxy does.
const CLIENT: &str = "127.0.0.2";

/// A program with a configuration of the suite in which words have been filled in.
fn configured(name: &str, file: &str, words: &[(&str, u16)]) -> (tempfile::TempDir, String) {
    let folder = folder();
    let mut text = fs::read_to_string(suite(file)).expect("the suite's file");
    for (word, port) in words {
        text = text.replace(word, &port.to_string());
    }
    let place = folder.path().join(name);
    fs::write(&place, text.replace("FOLDER", folder.path().to_str().expect("a path in UTF-8"))).expect("a file");
    let place = place.to_str().expect("a path in UTF-8").to_owned();
    (folder, place)
}

#[test]
fn haproxy_in_front_and_haproxy_and_nginx_behind_are_told_the_same_client() {
    let [v1, v2, tlvs, haproxy_port, nginx_port] = [(); 5].map(|()| free_port());
    let mut routes = String::new();
    for (name, port) in [("haproxy", haproxy_port), ("nginx", nginx_port)] {
        for version in ["v1", "v2"] {
            routes += &format!("[[route]]\npath = \"/{name}/{version}\"\nupstream = \"{name}-{version}\"\n");
            routes += &format!("[upstream.{name}-{version}]\nservers = [\"http://127.0.0.1:{port}\"]\n");
            routes += &format!("proxy_protocol = \"{version}\"\n");
        }
    }
    let gateway = Gateway::with_listener("proxy_protocol = { from = [\"127.0.0.1\"] }", &routes);

    let (_nginx_folder, file) = configured("nginx.conf", "backends/nginx_told.conf", &[("PORT", nginx_port)]);
    let mut command = Command::new(program("nginx"));
    command.args(["-e", "stderr", "-c", &file]);
    let mut nginx = Process::start("nginx", command);
    nginx.accepting(nginx_port);

    let ports = [("SEND_V1", v1), ("SEND_V2", v2), ("SEND_TLVS", tlvs), ("RECEIVE", haproxy_port)];
    let words = [&ports[..], &[("GATEWAY", gateway.port)]].concat();
    let (_haproxy_folder, file) = configured("haproxy.cfg", "backends/haproxy.cfg", &words);
    let mut command = Command::new(program("haproxy"));
    command.args(["-db", "-f", &file]);
    let mut haproxy = Process::start("haproxy", command);
    haproxy.accepting(tlvs);

    for sender in [v1, v2, tlvs] {
        for path in ["/haproxy/v1", "/haproxy/v2", "/nginx/v1", "/nginx/v2"] {
            for protocol in ["--http1.1", "--http2"] {
                let mut curl = gateway.curl_at(sender, path);
                curl.args([protocol, "--fail", "--interface", CLIENT, "--write-out", "\n%{local_port}"]);
                let said = succeed(curl);
                let (told, port) = said.split_once('\n').expect("the answer and the port");
                assert_eq!(told, format!("{CLIENT}:{port} 127.0.0.1:{sender}"), "{path} {protocol}");
            }
        }
    }
    // HAProxy's health checks are of the kind LOCAL, or a line with its own addresses.
    std::thread::sleep(Duration::from_millis(500));
    let refused: Vec<_> =
        gateway.process.lines.all().into_iter().filter(|line| line.contains("proxy-header")).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let down: Vec<_> = haproxy.lines.all().into_iter().filter(|line| line.contains("DOWN")).collect();
    assert!(down.is_empty(), "{down:?}");
}
