//! The program: argv → command → exit code.

// Only the allocator's configuration below needs it.
#![deny(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Pages that a burst has left behind go back to the system within a second or so, by one thread that sleeps otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "jemalloc reads its configuration from a symbol of this name; nothing else has it")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8] =
    b"background_thread:true,max_background_threads:1,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    portcullis::cli::main()
}
