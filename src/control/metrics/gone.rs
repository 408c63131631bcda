//! Books of what a reload has taken out: kept until the next reload but one, and for as long as something is open.

use std::collections::HashSet;
use std::sync::Arc;

/// See the module.
pub struct Gone<B> {
    /// With the reloads since each was taken out.
    books: Vec<(Arc<B>, u32)>,
}

impl<B> Default for Gone<B> {
    fn default() -> Self {
        Self { books: Vec::new() }
    }
}

impl<B> Gone<B> {
    /// A reload has put `now` in the place of `before`.
    pub fn follow(&mut self, before: &[Arc<B>], now: &[Arc<B>], is_open: impl Fn(&B) -> bool) {
        let in_use: HashSet<_> = now.iter().map(Arc::as_ptr).collect();
        self.books.iter_mut().for_each(|(_, reloads)| *reloads += 1);
        // What is back is in use again, under the same book.
        self.books.retain(|(book, reloads)| !in_use.contains(&Arc::as_ptr(book)) && (*reloads < 1 || is_open(book)));
        let taken_out = before.iter().filter(|book| !in_use.contains(&Arc::as_ptr(book)));
        self.books.extend(taken_out.map(|book| (book.clone(), 0)));
    }

    pub fn books(&self) -> Vec<Arc<B>> {
        self.books.iter().map(|(book, _)| book.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_leaves_with_the_reload_after_the_one_that_took_it_out_unless_something_is_open() {
        let [kept, idle, busy] = ["kept", "idle", "busy"].map(|name| vec![Arc::new(name)]);
        let (all, with_busy) = ([&*kept, &idle, &busy].concat(), [&*kept, &busy].concat());
        let mut gone = Gone::default();
        let is_busy = |name: &&str| *name == "busy";
        gone.follow(&all, &kept, is_busy);
        assert_eq!(gone.books(), [&*idle, &busy].concat());
        for _ in 0..2 {
            gone.follow(&kept, &kept, is_busy);
            assert_eq!(gone.books(), busy);
        }
        gone.follow(&kept, &with_busy, is_busy);
        assert!(gone.books().is_empty(), "it is in use again");
    }
}
