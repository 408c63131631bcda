//! `Expect: 100-continue` (RFC 9110 10.1.1): a request body that waits behind a gate.
//!
//! The gate opens when the server says 100, or one second after it could first have been read (servers that do not
//! know the expectation just wait for the body). A final answer leaves it shut: the body is then dropped unread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::request_body::{BodyError, RequestBody};

/// How long a server may take to say 100 before the body is sent all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// The side that opens. hyper's callback for interim answers must be `Sync`, hence the lock; it is never contended.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    open: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Gate {
    pub(super) fn open(&self) {
        self.0.open.store(true, Ordering::Release);
        if let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// The body that waits for this gate.
    pub(super) fn hold(&self, body: RequestBody) -> RequestBody {
        RequestBody::Stream(Box::pin(Gated { gate: self.clone(), patience: None, open: false, body }))
    }
}

struct Gated {
    gate: Gate,
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
    open: bool,
    body: RequestBody,
}

impl Gated {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.gate.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.gate.0.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE))).as_mut().poll(cx)
    }
}

impl Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if !this.open {
            std::task::ready!(this.poll_open(cx));
            this.open = true;
            this.patience = None;
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
