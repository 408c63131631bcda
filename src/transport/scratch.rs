//! The read buffers of one worker.
//!
//! Reading goes through a buffer that is borrowed for one turn and given back before the task waits, so that ten
//! thousand silent streams need one buffer between them. A nested borrow (a TLS stream that reads ciphertext while the
//! tunnel above it holds its own buffer) gets a second one instead of a panic.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::Pipes;

/// What is read at once: four whole TLS records or a socket's usual fill, and small enough to stay in the cache.
pub const SCRATCH_SIZE: usize = 64 * 1024;

/// Room behind that, for a control frame that is put in.
const MARGIN: usize = 256;

/// Buffers that are kept for the next borrower: one for the tunnel, one for a TLS stream below it.
const KEPT: usize = 2;

/// The pool, shared within a worker as `Rc<Scratch>`.
#[derive(Debug, Default)]
pub struct Scratch {
    free: RefCell<Vec<Box<[u8]>>>,
    pipes: Rc<Pipes>,
}

impl Scratch {
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of [`SCRATCH_SIZE`] and 256 bytes more, with arbitrary content. Must not be held while waiting.
    pub fn borrow(&self) -> Lease<'_> {
        let free = self.free.borrow_mut().pop();
        Lease { scratch: self, buffer: free.unwrap_or_else(|| vec![0; SCRATCH_SIZE + MARGIN].into_boxed_slice()) }
    }

    /// The buffers that the kernel keeps for us.
    pub fn pipes(&self) -> &Rc<Pipes> {
        &self.pipes
    }

    /// Buffers that lie ready.
    pub fn idle(&self) -> usize {
        self.free.borrow().len()
    }
}

/// A borrowed buffer, given back on drop.
#[derive(Debug)]
pub struct Lease<'a> {
    scratch: &'a Scratch,
    buffer: Box<[u8]>,
}

impl Deref for Lease<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut free = self.scratch.free.borrow_mut();
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_a_nested_borrow_gets_its_own() {
        let scratch = Scratch::new();
        {
            let mut first = scratch.borrow();
            let second = scratch.borrow();
            let third = scratch.borrow();
            first[0] = 1;
            assert_eq!((first.len(), second[0], third[0]), (SCRATCH_SIZE + MARGIN, 0, 0));
        }
        assert_eq!(scratch.idle(), KEPT, "no more than that is kept");
        drop(scratch.borrow());
        assert_eq!(scratch.idle(), KEPT);
    }
}
