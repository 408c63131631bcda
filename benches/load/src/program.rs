//! Processes of the load tool's own: gateways and servers that it starts, and that end with their value.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::args::Problem;

/// A process that ends with the value.
pub struct Program(Child);

impl Program {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        self.0.try_wait().ok().flatten().map(|status| status.code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The echo of this program, listening there.
pub fn serve(address: SocketAddr) -> Result<Program, Problem> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["backend", "--listen", &address.to_string()]);
    announced(command, "listening ").map(|(server, _)| server)
}

/// Starts a program that says where it listens; what it says behind `word`.
pub fn announced(mut command: Command, word: &str) -> Result<(Program, String), Problem> {
    let mut process = Program(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let out = process.0.stdout.take().ok_or("no output to read")?;
    for line in BufReader::new(out).lines() {
        if let Some((_, rest)) = line?.split_once(word) {
            return Ok((process, rest.to_owned()));
        }
    }
    Err(format!("{:?} ended before it listened", command.get_program()).into())
}
