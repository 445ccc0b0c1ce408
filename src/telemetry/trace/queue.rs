//! The spans that wait for their export. Nobody waits for room: what does not fit is dropped and
//! counted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;

/// Maximum number of spans in the queue.
pub(super) const MAX_WAITING: usize = 2_048;
/// Maximum number of spans in one request.
pub(super) const MAX_BATCH: usize = 512;

/// A bounded queue of spans.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue. What does not fit is counted in `dropped`.
    pub(super) fn new(dropped: IntCounter) -> Queue<T> {
        Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                is_closed: false,
            }),
            changed: Condvar::new(),
            dropped,
        }
    }

    /// Adds a span, or drops it if the queue is full or closed.
    pub(super) fn push(&self, span: T) {
        let mut state = self.state.lock();
        if state.is_closed || state.waiting.len() >= MAX_WAITING {
            self.dropped.inc();
            return;
        }
        state.waiting.push_back(span);
        if state.waiting.len() == MAX_BATCH {
            self.changed.notify_one();
        }
    }

    /// Waits until there is a full batch, but no longer than `linger`. The batch may be empty. `None`
    /// once the queue is closed and empty.
    pub(super) fn next_batch(&self, linger: Duration) -> Option<Vec<T>> {
        let until = Instant::now() + linger;
        let mut state = self.state.lock();
        while state.waiting.len() < MAX_BATCH && !state.is_closed {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        if state.is_closed && state.waiting.is_empty() {
            return None;
        }
        let size = state.waiting.len().min(MAX_BATCH);
        Some(state.waiting.drain(..size).collect())
    }

    /// Accepts no more spans. Those that wait are still handed out.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Spans that wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Queue<usize>, IntCounter) {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        (Queue::new(dropped.clone()), dropped)
    }

    #[test]
    fn full_queue_drops_and_counts() {
        let (queue, dropped) = queue();
        (0..MAX_WAITING + 3).for_each(|number| queue.push(number));
        assert_eq!(dropped.get(), 3);
        assert_eq!(queue.len(), MAX_WAITING);
        let batch = queue.next_batch(Duration::ZERO).unwrap();
        assert_eq!(batch, (0..MAX_BATCH).collect::<Vec<_>>());
    }

    #[test]
    fn closed_queue_hands_out_the_rest() {
        let (queue, dropped) = queue();
        queue.push(1);
        queue.close();
        queue.push(2);
        assert_eq!(queue.next_batch(Duration::from_secs(60)), Some(vec![1]));
        assert_eq!(queue.next_batch(Duration::from_secs(60)), None);
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn few_spans_are_handed_out_after_the_delay() {
        let (queue, _) = queue();
        queue.push(1);
        assert_eq!(queue.next_batch(Duration::from_millis(1)), Some(vec![1]));
        assert_eq!(queue.next_batch(Duration::from_millis(1)), Some(vec![]));
    }
}
