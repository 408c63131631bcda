//! What is counted, and who may count: cells of one writer each, that anybody may add up.
//!
//! A worker has cells of its own for each thing that it counts (a route, a listener, a server), in cache lines of their
//! own. It alone writes them, with a load and a store: no lock, and nothing that another core would have to wait for.
//! [`Own`] is the right to do so; it may move to another thread, but not be used by two. All cells of one thing are in its
//! [`Ledger`], which adds them up when somebody asks. Those whose owner has gone (a worker has let go of a configuration)
//! go into one sum, so that counts never go back and nothing piles up.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Things that can be added up.
pub trait Cells: Send + Sync + 'static {
    /// Nothing counted yet.
    fn zero() -> Self;

    /// Adds what is counted here to `sum`, of which the caller is the only writer.
    fn add_to(&self, sum: &Self);
}

/// A number that only grows. One writer, any number of readers.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only for the one who owns it.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(out)
    }
}

impl Cells for Counter {
    fn zero() -> Self {
        Self::default()
    }

    fn add_to(&self, sum: &Self) {
        sum.add(self.get());
    }
}

impl<T: Cells, const N: usize> Cells for [T; N] {
    fn zero() -> Self {
        std::array::from_fn(|_| T::zero())
    }

    fn add_to(&self, sum: &Self) {
        self.iter().zip(sum).for_each(|(cell, sum)| cell.add_to(sum));
    }
}

/// Declares a struct of cells.
macro_rules! cells {
    ($(#[$doc:meta])* $visibility:vis struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        $visibility struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $crate::telemetry::metrics::Cells for $name {
            fn zero() -> Self {
                Self { $($field: $crate::telemetry::metrics::Cells::zero(),)* }
            }

            fn add_to(&self, sum: &Self) {
                $($crate::telemetry::metrics::Cells::add_to(&self.$field, &sum.$field);)*
            }
        }
    };
}
pub(crate) use cells;

/// In cache lines of its own: two, since processors fetch them in pairs.
#[repr(align(128))]
#[derive(Debug)]
struct Padded<T>(T);

/// Cells, and the right to write them.
#[derive(Debug)]
pub struct Own<T> {
    cells: Arc<Padded<T>>,
    /// Not to be shared between threads.
    one_writer: PhantomData<Cell<()>>,
}

impl<T: Cells> Own<T> {
    /// Cells that nobody adds up.
    pub fn unread() -> Self {
        Self { cells: Arc::new(Padded(T::zero())), one_writer: PhantomData }
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.cells.0
    }
}

/// All cells of one thing.
pub struct Ledger<T> {
    pages: Mutex<Pages<T>>,
}

struct Pages<T> {
    /// Of those who have gone.
    closed: Option<Box<T>>,
    open: Vec<Arc<Padded<T>>>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { pages: Mutex::new(Pages { closed: None, open: Vec::new() }) }
    }
}

impl<T: Cells> Ledger<T> {
    /// Cells of one more writer.
    pub fn join(&self) -> Own<T> {
        let own = Own::unread();
        self.with(|pages| {
            pages.close();
            pages.open.push(own.cells.clone());
        });
        own
    }

    /// Everything that was ever counted.
    pub fn sum(&self) -> T {
        let sum = T::zero();
        self.with(|pages| {
            pages.close();
            pages.closed.iter().for_each(|closed| closed.add_to(&sum));
            pages.open.iter().for_each(|cells| cells.0.add_to(&sum));
        });
        sum
    }

    /// The same; `None`: nobody has ever counted.
    pub fn sum_if_any(&self) -> Option<Box<T>> {
        let is_blank = self.with(|pages| pages.closed.is_none() && pages.open.is_empty());
        (!is_blank).then(|| Box::new(self.sum()))
    }

    fn with<R>(&self, with: impl FnOnce(&mut Pages<T>) -> R) -> R {
        with(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Cells> Pages<T> {
    fn close(&mut self) {
        let closed = &mut self.closed;
        self.open.retain_mut(|cells| match Arc::get_mut(cells) {
            // Nobody else holds them, and all that was written is seen.
            Some(cells) => {
                cells.0.add_to(closed.get_or_insert_with(|| Box::new(T::zero())));
                false
            }
            None => true,
        });
    }
}

impl<T> fmt::Debug for Ledger<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ledger").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    cells! {
        struct Two {
            pub one: Counter,
            pub many: [Counter; 40],
        }
    }

    #[test]
    fn what_several_have_counted_is_added_up_while_they_count_and_after_they_have_gone() {
        let ledger = Ledger::<Two>::default();
        let owns: Vec<_> = (0..4).map(|_| ledger.join()).collect();
        std::thread::scope(|scope| {
            for own in owns {
                scope.spawn(move || (0..10_000).for_each(|turn| _ = (own.one.add(2), own.many[turn % 40].add(1))));
            }
        });
        for _ in 0..2 {
            let sum = ledger.sum();
            assert_eq!(sum.one.get(), 80_000);
            assert!(sum.many.iter().all(|count| count.get() == 1_000));
        }
        assert!(ledger.with(|pages| pages.open.is_empty()), "those who have gone leave one sum");
        let late = ledger.join();
        late.one.add(1);
        assert_eq!(ledger.sum().one.get(), 80_001);
    }

    #[test]
    fn a_sum_never_goes_back_while_writers_come_and_go() {
        let ledger = Ledger::<Counter>::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..2_000 {
                    let own = ledger.join();
                    (0..10).for_each(|_| own.add(1));
                }
            });
            let mut before = 0;
            while !writer.is_finished() {
                let now = ledger.sum().get();
                assert!(now >= before, "{now} after {before}");
                before = now;
            }
        });
        assert_eq!(ledger.sum().get(), 20_000);
    }

    #[test]
    fn cells_of_two_writers_are_never_in_one_cache_line() {
        let ledger = Ledger::<Counter>::default();
        let address = |own: &Own<Counter>| std::ptr::from_ref::<Counter>(own).addr();
        let (one, other) = (ledger.join(), ledger.join());
        assert!(address(&one) % 128 == 0 && address(&one).abs_diff(address(&other)) >= 128);
    }
}
