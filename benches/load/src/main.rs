//! The load tool: `backend` and `relay` stand behind or beside a proxy, `load` drives it, `spread` and `operations` have a gateway and servers of
//! their own, `tls-limit` is a lower bound without any socket, `cert` makes what TLS needs. `benches/compare` puts them together; each also runs by hand.
//!
//! Every program is one thread, so that `taskset` decides where it runs and the proxy never shares a core with it.
//! What a unit of work costs is read from the proxy's own processes by the load (see `measure.rs`), inside the same
//! window in which the units are counted.

#![forbid(unsafe_code)]

mod args;
mod backend;
mod cert;
mod dial;
mod h2;
mod load;
mod measure;
mod operations;
mod pacer;
mod program;
mod relay;
mod spread;
mod tls_limit;
mod ws;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "usage: portcullis-load COMMAND [--NAME VALUE]…

  backend    --listen ADDRESS,ADDRESS…           WebSocket echo, pump, sink and fan-out; /1k and /1m over HTTP/1.1
  relay      --listen ADDRESS --to ADDRESS       accept, connect, copy both ways: what nobody can be cheaper than
  tls-limit  --certs DIRECTORY [--count 1000] [--kx hybrid]     TLS handshakes in memory: the server's CPU time for each
  cert       DIRECTORY                           a P-256 certificate for localhost, and the CA that signed it
  spread     --gateway PROGRAM [--balance NAME] [--tunnels 9000] [--churn 3000] [--jitter SECONDS] [--workers 2]
                                                 three servers behind it, of which one is killed and comes back
  operations --gateway PROGRAM [--tunnels 5000] [--reloads 50] [--rate 2000] [--seconds 5] [--over 20] [--workers 2]
                                                 reloads, another certificate, another program, a drain, under talking clients
  load echo      messages up and down open tunnels           --size BYTES [--stalled N]
  load get       GET over keep-alive connections             --path /1k
  load sessions  connect, upgrade, close, again and again    [--resume] [--count N: as fast as --connections allows]
  load idle      hold connections                            --levels 1000,9000 [--settle SECONDS] [--again]
                                                             [--kind tunnel|h2|tcp|tls|keepalive]
  load fanout    one message to every subscriber             --size BYTES --rate MESSAGES

load options: --target ADDRESS   --tls CA.pem   --name localhost   --kx x25519|hybrid   --connections N
  --rate PER_SECOND (open loop: counted from the intended send time; without it each connection waits for its answer)
  --warm SECONDS   --seconds SECONDS   --pids PID,PID (whose CPU time and memory to read)
  --until-eof (the window ends earlier, when standard input does)   --h2 [--per N: tunnels on each HTTP/2 connection]
  --stalled N (echo: a second window, beside so many more tunnels whose client never reads)
  --again (idle: all go, and come back at once)
";

fn main() -> ExitCode {
    let mut args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => return usage(&problem),
    };
    let command = args.positional(0).unwrap_or_default().to_owned();
    let result = match command.as_str() {
        "backend" => backend::run(&mut args),
        "relay" => relay::run(&mut args),
        "tls-limit" => tls_limit::run(&mut args),
        "cert" => cert::run(&mut args),
        "load" => load::run(&mut args),
        "operations" => operations::run(&mut args),
        "spread" => spread::run(&mut args),
        _ => return usage("no such command"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("portcullis-load {command}: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("portcullis-load: {problem}\n{USAGE}");
    ExitCode::from(2)
}
