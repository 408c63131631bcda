//! A message through a tunnel between plain sockets asks the allocator for nothing, whatever its length.
//!
//! A binary of its own, because it counts what the whole thread allocates, and one test only.

// A global allocator cannot be written without it.
#![allow(unsafe_code)]
// A test may start tasks.
#![allow(clippy::disallowed_methods)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use portcullis::clock::Wheel;
use portcullis::lifecycle::Lifecycle;
use portcullis::telemetry::metrics::Own;
use portcullis::transport::{Scratch, Socket};
use portcullis::tunnel::{Early, TunnelOptions, TunnelTools, splice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator; the counter is a plain cell that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A binary frame of a server's.
fn frame(length: usize) -> Vec<u8> {
    let head = match length {
        short @ 0..126 => vec![0x82, short as u8],
        medium @ 126..65_536 => [&[0x82, 126][..], &(medium as u16).to_be_bytes()].concat(),
        long => [&[0x82, 127][..], &(long as u64).to_be_bytes()].concat(),
    };
    [head, vec![7; length]].concat()
}

/// What `count` messages of a server's cost after the first few.
async fn allocations(length: usize, count: usize) -> u64 {
    let (lifecycle, (wheel, ticker)) = (Lifecycle::new(), Wheel::new());
    let (phase, _follower) = lifecycle.follow();
    tokio::task::spawn_local(ticker);
    let tools = TunnelTools::new(Rc::new(Scratch::new()), wheel, Own::unread());
    let (mut client, downstream) = UnixStream::pair().expect("a pair");
    let (upstream, mut server) = UnixStream::pair().expect("a pair");
    let (downstream, upstream) = (Box::new(Socket::Unix(downstream)), Box::new(Socket::Unix(upstream)));
    let options = TunnelOptions::default();
    let tunnel = splice(downstream, upstream, Early::default(), options, &tools, phase.stop());
    let tunnel = tokio::task::spawn_local(async {
        tunnel.await;
    });
    let (message, mut got) = (frame(length), vec![0; frame(length).len()]);
    let mut before = 0;
    for round in 0..count + 8 {
        if round == 8 {
            before = ALLOCATIONS.get();
        }
        // As much as a unix socket takes at once, so that nothing is left over.
        for (said, heard) in message.chunks(32 * 1024).zip(got.chunks_mut(32 * 1024)) {
            server.write_all(said).await.expect("taken");
            client.read_exact(heard).await.expect("it comes");
        }
        assert!(got == message);
    }
    let made = ALLOCATIONS.get() - before;
    tunnel.abort();
    made
}

#[test]
fn a_message_between_plain_sockets_costs_no_allocation() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        for length in [64, 4_096, 16_384, 1 << 20] {
            let made = allocations(length, 100).await;
            println!("{made} allocations for 100 messages of {length} bytes");
            // The wheel's turn may make one.
            assert!(made <= 2, "{length}: {made}");
        }
    });
    assert!(ALLOCATIONS.get() > 100, "the counter counts");
}
