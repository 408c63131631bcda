//! Every Autobahn case ends the same directly and through the gateway: over ws, wss and HTTP/2, with frames checked and
//! with frames opaque.
//!
//! The cases are run by the package `kosoku` against an echo server, first directly, then through the gateway, and the
//! verdicts are compared case by case: what Autobahn thinks of the exchange, what of its end, and the close code that
//! arrived. kosoku speaks neither TLS nor HTTP/2; `bridge` carries it there. What ends otherwise fails the test, unless it
//! is the server that ends a case by chance as it does ([`CHANCE`]).
//!
//! Some cases have deadlines of half a second by kosoku's own clock, which a busy machine can miss. They run before the
//! heavy ones, one way after the other; and a case that took so long and differs is run once more, by itself.
//!
//! `PORTCULLIS_CONFORMANCE_MESSAGES` says how many messages each compression case exchanges: 20 unless told otherwise,
//! 1000 as Autobahn has it, which takes hours.

mod bridge;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use self::bridge::Road;
use crate::harness::{Gateway, Process, node, python, succeed_within};

/// How kosoku reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    name: &'static str,
    /// The route's; `None` is the direct way.
    frames: Option<&'static str>,
    /// `None` is clear.
    road: Option<Road>,
}

const DIRECT: Way = Way { name: "direct", frames: None, road: None };

const THROUGH: [Way; 6] = [
    Way { name: "ws checked", frames: Some("checked"), road: None },
    Way { name: "wss checked", frames: Some("checked"), road: Some(Road::Tls) },
    Way { name: "h2 checked", frames: Some("checked"), road: Some(Road::H2) },
    Way { name: "ws opaque", frames: Some("opaque"), road: None },
    Way { name: "wss opaque", frames: Some("opaque"), road: Some(Road::Tls) },
    Way { name: "h2 opaque", frames: Some("opaque"), road: Some(Road::H2) },
];

/// A server that every way of a comparison leads to.
#[derive(Clone, Copy)]
struct Server {
    name: &'static str,
    command: fn() -> Command,
}

/// Strict, and complete: permessage-deflate among it.
const WS: Server = Server { name: "ws", command: || node("backends/ws.js") };

const WEBSOCKETS: Server = Server { name: "websockets", command: || python("backends/python_websockets.py") };

/// Rules, with deadlines down to half a second.
const RULES: &[&str] = &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
/// Volume and compression, with deadlines of a minute and more.
const VOLUME: &[&str] = &["9.*", "12.*", "13.*"];

/// The shortest deadline of a case.
const SHORTEST: u64 = 500;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    behavior: String,
    close: String,
    code: Option<u64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} / {}", self.behavior, self.close)?;
        self.code.map_or(Ok(()), |code| write!(out, " {code}"))
    }
}

/// A case that was run.
#[derive(Clone, Debug)]
struct Case {
    outcome: Outcome,
    /// Autobahn's own.
    words: String,
    milliseconds: u64,
}

/// What one way's cases brought.
struct Run {
    server: Server,
    way: Way,
    cases: BTreeMap<String, Case>,
    took: Duration,
}

/// A case that a server ends in one of two ways by chance, and why. Both are right by Autobahn, and the end and its
/// close code are the same; with the other server it has no excuse.
struct Chance {
    server: &'static str,
    case: &'static str,
    reason: &'static str,
}

const fn echo_or_not(case: &'static str, reason: &'static str) -> Chance {
    Chance { server: "websockets", case, reason }
}

/// Good messages and then a bad frame: `websockets` fails the connection as soon as its parser meets the bad frame, and
/// whether its application has echoed the good ones by then is up to how they fall into reads. A gateway that checks
/// frames hands it the good ones without the bad one, which makes the echo (the stricter OK) likelier.
const CHANCE: &[Chance] = &[
    echo_or_not("3.2", "a good text, then one with a reserved bit"),
    echo_or_not("3.3", "the same, the two frames apart"),
    echo_or_not("3.4", "the same, octet by octet"),
    echo_or_not("4.1.3", "a good text, then a reserved data opcode"),
    echo_or_not("4.1.4", "the same with payload"),
    echo_or_not("4.1.5", "the same, octet by octet"),
    echo_or_not("4.2.3", "a good text, then a reserved control opcode"),
    echo_or_not("4.2.4", "the same with payload"),
    echo_or_not("4.2.5", "the same, octet by octet"),
    echo_or_not("5.15", "a good fragmented text, then a continuation of nothing"),
];

impl Chance {
    fn covers(&self, server: &str, case: &str, one: &Outcome, other: &Outcome) -> bool {
        let is_right = |outcome: &Outcome| ["OK", "NON-STRICT"].contains(&outcome.behavior.as_str());
        (self.server, self.case) == (server, case)
            && (&one.close, one.code) == (&other.close, other.code)
            && is_right(one)
            && is_right(other)
    }
}

/// Runs cases, so many at once, with a server and a gateway of their own.
fn run(server: Server, way: Way, selected: &[&str], parallel: u8) -> Run {
    let began = Instant::now();
    let (_backend, port) = Process::backend(server.name, (server.command)());
    let gateway = way.frames.map(|frames| gateway(port, frames));
    let address = match (&gateway, way.road) {
        (None, _) => port,
        (Some((_, clear)), None) => *clear,
        (Some((gateway, _)), Some(road)) => bridge::start(road, gateway.port),
    };
    let messages = std::env::var("PORTCULLIS_CONFORMANCE_MESSAGES").unwrap_or_else(|_| "20".to_owned());
    let mut command = python("clients/kosoku_cases.py");
    command.arg(format!("ws://127.0.0.1:{address}/")).args([messages, parallel.to_string()]).args(selected);
    let printed = succeed_within(Duration::from_secs(6 * 3600), command);
    let cases = printed.lines().map(case).collect();
    if let Some((gateway, _)) = gateway {
        let lines = gateway.process.lines.all();
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{}", lines.join("\n"));
        assert_eq!(gateway.process.terminate(), Some(0), "no tunnel is left that a drain would have to cut");
    }
    Run { server, way, cases, took: began.elapsed() }
}

/// A gateway with a TLS listener and a clear one, and the latter's port.
fn gateway(port: u16, frames: &str) -> (Gateway, u16) {
    let gateway = Gateway::start(&format!(
        "[[listener]]\nname = \"clear\"\naddress = \"127.0.0.1:0\"\n\n\
         [[route]]\nupstream = \"ws://127.0.0.1:{port}\"\nwebsocket = {{ frames = {frames:?} }}\n"
    ));
    let clear = gateway.process.lines.wait("the clear listener's port", |line| {
        let address = line.split_once("listening on http://")?.1.split([' ', '/']).next()?;
        address.rsplit_once(':')?.1.parse().ok()
    });
    (gateway, clear)
}

/// One line of the driver's output.
fn case(line: &str) -> (String, Case) {
    let read: serde_json::Value = serde_json::from_str(line).expect("a line of JSON per case");
    let text = |key: &str| read[key].as_str().unwrap_or_default().to_owned();
    let outcome = Outcome { behavior: text("behavior"), close: text("close"), code: read["code"].as_u64() };
    let words = format!("{} {}", text("result"), text("resultClose"));
    (text("case"), Case { outcome, words, milliseconds: read["milliseconds"].as_u64().unwrap_or(0) })
}

/// Runs jobs, so many at a time.
fn run_all(jobs: Vec<(Server, Way)>, threads: u8, cases: &[&str]) -> Vec<Run> {
    let (jobs, done) = (Mutex::new(VecDeque::from(jobs)), Mutex::new(Vec::new()));
    let next = || jobs.lock().expect("taking a job does not panic").pop_front();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((server, way)) = next() {
                    let run = run(server, way, cases, 4);
                    done.lock().expect("keeping a result does not panic").push(run);
                }
            });
        }
    });
    done.into_inner().expect("nobody is left who could panic")
}

/// All cases of `ws`, all but the heavy ones of the other server, in the order of the ways.
fn run_everything() -> Vec<Run> {
    let ways = || [DIRECT].into_iter().chain(THROUGH);
    let light = [WS, WEBSOCKETS].into_iter().flat_map(|server| ways().map(move |way| (server, way)));
    let mut runs = run_all(light.collect(), 1, RULES);
    for heavy in run_all(ways().map(|way| (WS, way)).collect(), 2, VOLUME) {
        let same = runs.iter_mut().find(|run| run.server.name == WS.name && run.way == heavy.way);
        let same = same.expect("every way has had the rules");
        same.cases.extend(heavy.cases);
        same.took += heavy.took;
    }
    runs
}

fn direct_of<'a>(runs: &'a [Run], run: &Run) -> &'a Run {
    let direct = runs.iter().find(|other| other.server.name == run.server.name && other.way == DIRECT);
    direct.expect("every server is reached directly too")
}

/// Runs cases once more that may have missed a deadline, directly or not. Their names, way by way.
fn run_again(runs: &mut [Run]) -> Vec<String> {
    let mut late: BTreeMap<String, (Server, Way, Vec<String>)> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.way != DIRECT) {
        for (name, case) in &run.cases {
            let direct = direct_of(runs, run);
            let Some(expected) = direct.cases.get(name).filter(|expected| expected.outcome != case.outcome) else {
                continue;
            };
            for (way, took) in [(run.way, case.milliseconds), (DIRECT, expected.milliseconds)] {
                let again = late.entry(format!("{}, {}", run.server.name, way.name));
                let (_, _, names) = again.or_insert((run.server, way, Vec::new()));
                if took >= SHORTEST && !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
    }
    late.retain(|_, (_, _, names)| !names.is_empty());
    for (server, way, names) in late.values() {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let again = run(*server, *way, &names, 1);
        let same = runs.iter_mut().find(|run| run.server.name == server.name && run.way == *way);
        same.expect("it was run before").cases.extend(again.cases);
    }
    late.into_iter().map(|(run, (_, _, names))| format!("{run}: {}", names.join(" "))).collect()
}

/// What is different from the direct way and not chance, and the cases of chance that were met.
fn differences(runs: &[Run], chances: &[Chance]) -> (Vec<String>, Vec<String>) {
    let (mut found, mut met) = (Vec::new(), Vec::new());
    for run in runs.iter().filter(|run| run.way != DIRECT) {
        let direct = &direct_of(runs, run).cases;
        let place = format!("{}, {}", run.server.name, run.way.name);
        if !run.cases.keys().eq(direct.keys()) {
            found.push(format!("{place}: {} cases instead of {}", run.cases.len(), direct.len()));
        }
        for (name, Case { outcome, words, .. }) in &run.cases {
            let expected = direct.get(name).map(|direct| &direct.outcome);
            let Some(expected) = expected.filter(|expected| *expected != outcome) else { continue };
            let told = format!("{place}, case {name}: {outcome} instead of {expected}");
            match chances.iter().find(|chance| chance.covers(run.server.name, name, expected, outcome)) {
                Some(chance) => met.push(format!("{told}: {}", chance.reason)),
                None => found.push(format!("{told} ({words})")),
            }
        }
    }
    (found, met)
}

/// How often each verdict was given, way by way.
fn summary(runs: &[Run]) -> String {
    let mut table = String::new();
    for run in runs {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for Case { outcome, .. } in run.cases.values() {
            *counts.entry(format!("{} / {}", outcome.behavior, outcome.close)).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        let (server, way, took) = (run.server.name, run.way.name, run.took.as_secs());
        let (cases, counts) = (run.cases.len(), counts.join(", "));
        table.push_str(&format!("{server:<11} {way:<12} {cases:>3} cases in {took:>4} s: {counts}\n"));
    }
    table
}

#[test]
fn every_autobahn_case_ends_the_same_directly_and_through_the_gateway() {
    let mut runs = run_everything();
    let again = run_again(&mut runs);
    println!("\n{}", summary(&runs));
    for late in &again {
        println!("run again after more than {SHORTEST} ms: {late}");
    }
    for run in &runs {
        // A case that was not run proves nothing.
        let expected = if run.server.name == WS.name { 517 } else { 247 };
        assert_eq!(run.cases.len(), expected, "cases of {}, {}", run.server.name, run.way.name);
    }
    let (found, met) = differences(&runs, CHANCE);
    for chance in &met {
        println!("by chance: {chance}");
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(way: Way, behavior: &str, code: u64) -> Run {
        let outcome = Outcome { behavior: behavior.to_owned(), close: "OK".to_owned(), code: Some(code) };
        let case = Case { outcome, words: String::new(), milliseconds: 1 };
        Run { server: WEBSOCKETS, way, cases: [("3.2".to_owned(), case)].into(), took: Duration::ZERO }
    }

    /// The comparison itself can fail.
    #[test]
    fn a_difference_is_found_unless_it_is_the_servers_chance() {
        let direct = || run_of(DIRECT, "NON-STRICT", 1002);
        let compare = |run, chances| {
            let (found, met) = differences(&[direct(), run], chances);
            (found.len(), met.len())
        };
        let [way, ..] = THROUGH;
        assert_eq!(compare(run_of(way, "NON-STRICT", 1002), &[]), (0, 0));
        assert_eq!(compare(run_of(way, "OK", 1002), &[]), (1, 0));
        assert_eq!(compare(run_of(way, "OK", 1002), CHANCE), (0, 1));
        assert_eq!(compare(run_of(way, "OK", 1000), CHANCE), (1, 0), "another close code");
        assert_eq!(compare(run_of(way, "FAILED", 1002), CHANCE), (1, 0), "a wrong exchange");
        let nothing = Run { cases: BTreeMap::new(), ..run_of(way, "OK", 1002) };
        assert_eq!(compare(nothing, CHANCE), (1, 0), "a case is missing");
    }
}
