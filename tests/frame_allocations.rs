//! The frame tracker allocates nothing for data, however the bytes come, and for control frames that come whole.
//!
//! A binary of its own, because it counts what the whole process allocates, and one test only.

// A global allocator cannot be written without it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portcullis::proto::frame::{Rules, Sender, Tracker, Until};

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

/// Feeds in pieces of `size` through one buffer, and says how often that allocated.
fn allocations(stream: &[u8], size: usize) -> u64 {
    let (rules, mut tracker) = (Rules::default(), Tracker::new(Sender::Server));
    let mut buffer = vec![0; size + 131];
    let before = ALLOCATIONS.get();
    for piece in stream.chunks(size) {
        let room = tracker.withheld();
        buffer[room..room + piece.len()].copy_from_slice(piece);
        let step = tracker.feed(&rules, &mut buffer[..room + piece.len()], Until::Input, &mut ());
        assert_eq!((step.consumed, step.end), (room + piece.len(), None));
    }
    assert_eq!(tracker.frames(), 300);
    ALLOCATIONS.get() - before
}

#[test]
fn data_frames_in_any_split_and_whole_control_frames_cost_no_allocation() {
    let data: Vec<u8> = [&[0x82, 126, 1, 0][..], &[7; 256], &[0x01, 1, 7], &[0x80, 0]].concat().repeat(100);
    for size in [1, 2, 3, 5, 64, 1000, 65_536] {
        assert_eq!(allocations(&data, size), 0, "pieces of {size}");
    }
    let pings = [&[0x89, 125][..], &[7; 125]].concat().repeat(300);
    assert_eq!(allocations(&pings, 127), 0);
    assert!(allocations(&pings, 100) > 0, "the counter counts");
}
