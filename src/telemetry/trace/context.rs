//! The span within which code runs. Log lines name its trace, and what is sent from there carries it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

use crate::domain::trace_parent::TraceParent;

thread_local! {
    static CURRENT: Cell<Option<TraceParent>> = const { Cell::new(None) };
}

/// The span within which the calling code runs; `None` if it is not traced.
pub(crate) fn current() -> Option<TraceParent> {
    CURRENT.get()
}

/// Calls `work` within a span.
pub(crate) fn within<T>(span: Option<TraceParent>, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(CURRENT.replace(span));
    work()
}

/// Runs a future within a span, whichever thread polls it. Work that is not traced costs a branch.
pub(crate) async fn scope<F: Future>(span: Option<TraceParent>, future: F) -> F::Output {
    if span.is_none() {
        return future.await;
    }
    let mut future = pin!(future);
    poll_fn(move |context| within(span, || future.as_mut().poll(context))).await
}

/// Restores the previous span, also after a panic.
struct Restore(Option<TraceParent>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(number: u8) -> Option<TraceParent> {
        Some(TraceParent {
            trace_id: [number; 16],
            span_id: [number; 8],
            is_sampled: true,
        })
    }

    #[tokio::test]
    async fn interleaved_tasks_keep_their_spans() {
        let seen = |span| {
            scope(span, async {
                let mut seen = Vec::new();
                for _ in 0..3 {
                    seen.push(current());
                    tokio::task::yield_now().await;
                }
                seen
            })
        };
        let (one, other) = tokio::join!(seen(parent(1)), seen(parent(2)));
        assert_eq!(one, vec![parent(1); 3]);
        assert_eq!(other, vec![parent(2); 3]);
        assert_eq!(current(), None);
    }

    #[test]
    fn inner_span_ends_with_its_work() {
        within(parent(1), || {
            assert_eq!(within(parent(2), current), parent(2));
            assert_eq!(current(), parent(1));
            let panicked = std::panic::catch_unwind(|| within(parent(2), || panic!("test")));
            assert!(panicked.is_err());
            assert_eq!(current(), parent(1));
        });
        assert_eq!(current(), None);
    }
}
