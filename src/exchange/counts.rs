//! What one worker counts of one route, for metrics.
//!
//! Made with the route's first request, so that a configuration with many routes costs what is used of it, and kept from
//! one configuration to the next. Tunnels keep it for as long as they live, and with it the route's book.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Wheel;
use crate::telemetry::metrics::{Own, RouteBook, RouteCells};
use crate::transport::Scratch;
use crate::tunnel::TunnelTools;

/// See the module.
pub struct RouteCounts {
    book: Arc<RouteBook>,
    pub requests: Own<RouteCells>,
    /// What its tunnels share.
    tunnels: OnceCell<TunnelTools>,
}

impl RouteCounts {
    pub fn new(book: &Arc<RouteBook>) -> Rc<Self> {
        Rc::new(Self { book: book.clone(), requests: book.requests.join(), tunnels: OnceCell::new() })
    }

    pub fn is_of(&self, book: &Arc<RouteBook>) -> bool {
        Arc::ptr_eq(&self.book, book)
    }

    /// `scratch` and `wheel` are the worker's own.
    pub fn tunnels(&self, scratch: &Rc<Scratch>, wheel: &Rc<Wheel>) -> &TunnelTools {
        self.tunnels.get_or_init(|| TunnelTools::new(scratch.clone(), wheel.clone(), self.book.tunnels.join()))
    }
}
