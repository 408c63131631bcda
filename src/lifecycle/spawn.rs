//! The only place that starts tasks and threads.
//!
//! Every task has a name, and a panic in it is reported with that name and goes no further: the worker and its other
//! tasks live on. `clippy.toml` bans the other ways to spawn. The wrapper adds no second copy of the future (an
//! `async` block around it would), because an idle tunnel is mostly its task.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

/// Runs `future` on this worker. The handle may be dropped; aborting through it drops the future.
///
/// # Panics
/// Outside of a worker's runtime, which is a mistake in the program.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + 'static,
{
    tokio::task::spawn_local(Named { name, future })
}

/// A task that ends when this is dropped, wherever it is then.
#[derive(Debug)]
#[must_use = "dropping it ends the task"]
pub struct Held {
    task: JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Like [`spawn_local`], for as long as the answer is held.
pub fn spawn_held<F>(name: &'static str, future: F) -> Held
where
    F: Future<Output = ()> + 'static,
{
    Held { task: spawn_local(name, future) }
}

/// Starts a thread whose panic is reported with its name.
///
/// # Errors
/// The system has no thread to give.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn thread<F>(name: &str, run: F) -> io::Result<thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let reported = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            tracing::error!(thread = reported, panic = message(&*panic), "a thread has panicked");
        }
    })
}

pin_project! {
    struct Named<F> {
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future<Output = ()>> Future for Named<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // After a panic the future is not polled again, only dropped, so nobody sees it half changed.
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                tracing::error!(task = *this.name, panic = message(&*panic), "a task has panicked");
                Poll::Ready(())
            }
        }
    }
}

/// The text of a panic, where it has one.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "local")]
    async fn a_panicking_task_is_named_in_the_log_and_the_others_go_on() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).with_ansi(false).finish();
        let _default = tracing::subscriber::set_default(subscriber);
        let dropped = Rc::new(());
        let held = dropped.clone();
        spawn_local("unlucky", async move {
            let _held = held;
            tokio::task::yield_now().await;
            panic!("number {}", 13);
        })
        .await
        .expect("the panic stays inside");
        assert_eq!(Rc::strong_count(&dropped), 1, "what the task held is gone");
        spawn_local("lucky", async {}).await.expect("the worker lives");
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        assert!(text.contains("task=\"unlucky\"") && text.contains("number 13"), "{text}");
    }

    #[tokio::test(flavor = "local")]
    async fn a_held_task_ends_with_its_holder() {
        let dropped = Rc::new(());
        let held = dropped.clone();
        let task = spawn_held("held", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&dropped), 2);
        drop(task);
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&dropped), 1);
    }

    #[test]
    fn naming_a_task_costs_two_words() {
        assert_eq!(size_of::<Named<[u64; 20]>>(), 160 + 16);
    }
}
