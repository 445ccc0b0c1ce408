//! Batches concurrent store calls. A request that arrives while a batch is running joins the next
//! one; a request that arrives alone is sent at once. A database executes many small operations
//! much faster in one call. If the database rejects a batch because of one of its requests, the
//! requests are retried one by one, so that no request receives the error of another.
//!
//! Several kinds of request share the connections in turn. A kind with more waiting requests sends
//! larger batches, so that a faster kind does not starve a slower one: bets are decided as fast as
//! they are placed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

/// Limits concurrent calls, over all kinds of request that share it. The longest-waiting call is
/// next.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit {
    turns: Arc<Semaphore>,
    /// Maximum number of concurrent calls of one kind.
    calls: usize,
}

impl ConcurrencyLimit {
    /// Allows `turns` concurrent calls; half of them, at least one, may be of one kind.
    pub fn new(turns: usize) -> ConcurrencyLimit {
        ConcurrencyLimit {
            turns: Arc::new(Semaphore::new(turns.max(1))),
            calls: (turns / 2).max(1),
        }
    }
}

/// Executes a batch and returns a response for each request, in order.
type Call<Q, A> = dyn Fn(&[Q]) -> Result<Vec<A>, StoreError> + Send + Sync;

/// Batches requests of one kind.
pub struct RequestBatcher<Q, A> {
    call: Box<Call<Q, A>>,
    turns: ConcurrencyLimit,
    most: usize,
    /// The runtime that executes batches. Not that of the submitting thread, which may stop
    /// earlier.
    runtime: Handle,
    state: Mutex<State<Q, A>>,
}

struct State<Q, A> {
    waiting: VecDeque<(Q, ReplySender<A>)>,
    workers: usize,
}

type ReplySender<A> = oneshot::Sender<Result<A, StoreError>>;

impl<Q: Send + 'static, A: Send + 'static> RequestBatcher<Q, A> {
    /// Sends at most `most` requests per call, on the runtime of the caller of this function.
    pub fn new(
        turns: &ConcurrencyLimit,
        most: usize,
        call: impl Fn(&[Q]) -> Result<Vec<A>, StoreError> + Send + Sync + 'static,
    ) -> Arc<RequestBatcher<Q, A>> {
        let state = Mutex::new(State {
            waiting: VecDeque::new(),
            workers: 0,
        });
        let (turns, runtime) = (turns.clone(), Handle::current());
        Arc::new(RequestBatcher {
            call: Box::new(call),
            turns,
            most: most.max(1),
            runtime,
            state,
        })
    }

    /// Submits a request and returns its response. If the caller stops waiting, the request is
    /// still executed.
    pub async fn submit(self: &Arc<Self>, request: Q) -> Result<A, StoreError> {
        let (reply, response) = oneshot::channel();
        if self.enqueue(request, reply) {
            self.runtime.spawn(self.clone().work());
        }
        response
            .await
            .unwrap_or_else(|_| Err(failed("no response was sent")))
    }

    /// Returns whether the caller must start another worker; that worker is already counted.
    fn enqueue(&self, request: Q, reply: ReplySender<A>) -> bool {
        let mut state = self.state();
        state.waiting.push_back((request, reply));
        let is_needed = state.workers < self.turns.calls;
        state.workers += usize::from(is_needed);
        is_needed
    }

    /// Executes batches until no request is waiting.
    async fn work(self: Arc<Self>) {
        loop {
            // The semaphore is never closed.
            let turn = self.turns.turns.acquire().await;
            let Some((requests, replies)) = self.take() else {
                return;
            };
            let this = self.clone();
            let called = tokio::task::spawn_blocking(move || this.responses(&requests)).await;
            drop(turn);
            match called {
                Ok(responses) => replies
                    .into_iter()
                    .zip(responses)
                    .for_each(|(reply, response)| send_reply(reply, response)),
                Err(failure) => replies
                    .into_iter()
                    .for_each(|reply| send_reply(reply, Err(failed(&failure.to_string())))),
            }
        }
    }

    /// The next batch. If no request is waiting, the worker is no longer counted, so the next
    /// request starts a new one.
    fn take(&self) -> Option<(Vec<Q>, Vec<ReplySender<A>>)> {
        let mut state = self.state();
        let size = state.waiting.len().min(self.most);
        if size == 0 {
            state.workers -= 1;
            return None;
        }
        Some(state.waiting.drain(..size).unzip())
    }

    /// Executes a batch. Blocks.
    fn responses(&self, requests: &[Q]) -> Vec<Result<A, StoreError>> {
        match (self.call)(requests) {
            Ok(responses) => responses.into_iter().map(Ok).collect(),
            Err(StoreError::Refused(_) | StoreError::Unreadable(_)) if requests.len() > 1 => {
                requests
                    .chunks(1)
                    .flat_map(|request| self.responses(request))
                    .collect()
            }
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_reply<A>(reply: ReplySender<A>, response: Result<A, StoreError>) {
    // The caller may have stopped waiting.
    let _ = reply.send(response);
}

fn failed(why: &str) -> StoreError {
    StoreError::Unavailable(format!("the database thread failed: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    /// Doubles numbers when released, and records each batch.
    struct Doubler {
        batcher: Arc<RequestBatcher<u32, u32>>,
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        release: mpsc::Sender<()>,
    }

    fn doubler(turns: usize, most: usize) -> Doubler {
        let (release, released) = mpsc::channel();
        let (noted, released): (Arc<Mutex<Vec<Vec<u32>>>>, _) =
            (Arc::default(), Mutex::new(released));
        let notes = noted.clone();
        let batcher = RequestBatcher::new(
            &ConcurrencyLimit::new(turns),
            most,
            move |numbers: &[u32]| {
                notes.lock().unwrap().push(numbers.to_vec());
                released.lock().unwrap().recv().unwrap();
                match numbers {
                    numbers if numbers.contains(&13) => panic!("thirteen"),
                    numbers if numbers.contains(&0) => {
                        Err(StoreError::Refused("nought".to_owned()))
                    }
                    numbers => Ok(numbers.iter().map(|number| number * 2).collect()),
                }
            },
        );
        Doubler {
            batcher,
            calls: noted,
            release,
        }
    }

    impl Doubler {
        async fn until_calls(&self, calls: usize) {
            while self.calls.lock().unwrap().len() < calls {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }

        fn submit(&self, number: u32) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
            let batcher = self.batcher.clone();
            tokio::spawn(async move { batcher.submit(number).await })
        }

        async fn until_waiting(&self, waiting: usize) {
            while self.batcher.state().waiting.len() < waiting {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }

    /// A lone request is sent at once; requests that arrive meanwhile are batched.
    #[tokio::test]
    async fn concurrent_requests_are_batched() {
        let doubler = doubler(1, 3);
        let first = doubler.submit(1);
        doubler.until_calls(1).await;
        let mut others = Vec::new();
        for number in 2..=6 {
            others.push(doubler.submit(number));
            doubler.until_waiting(others.len()).await;
        }
        (0..3).for_each(|_| doubler.release.send(()).unwrap());
        assert_eq!(first.await.unwrap(), Ok(2));
        let responses: Vec<_> = join_all(others)
            .await
            .into_iter()
            .map(|response| response.unwrap().unwrap())
            .collect();
        assert_eq!(responses, [4, 6, 8, 10, 12]);
        assert_eq!(
            *doubler.calls.lock().unwrap(),
            [vec![1], vec![2, 3, 4], vec![5, 6]]
        );
    }

    #[tokio::test]
    async fn one_kind_uses_half_of_calls() {
        let doubler = doubler(4, 1);
        let submitted: Vec<_> = (1..=3).map(|number| doubler.submit(number)).collect();
        doubler.until_calls(2).await;
        doubler.until_waiting(1).await;
        assert_eq!(
            (
                doubler.calls.lock().unwrap().len(),
                doubler.batcher.state().workers
            ),
            (2, 2)
        );
        (0..3).for_each(|_| doubler.release.send(()).unwrap());
        assert!(
            join_all(submitted)
                .await
                .into_iter()
                .all(|response| response.unwrap().is_ok())
        );
    }

    /// Two kinds share one call: as long as both have waiting requests they alternate, and the
    /// slower one sends all it has.
    #[tokio::test]
    async fn kinds_take_turns() {
        let (turns, calls) = (ConcurrencyLimit::new(1), Arc::new(Mutex::new(Vec::new())));
        let (release, released) = mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let kind = |name: &'static str, most| {
            let (calls, released) = (calls.clone(), released.clone());
            RequestBatcher::new(&turns, most, move |numbers: &[u32]| {
                released.lock().unwrap().recv().unwrap();
                calls.lock().unwrap().push((name, numbers.len()));
                Ok(numbers.to_vec())
            })
        };
        let (few, many) = (kind("few", 2), kind("many", 100));
        let submit_all = |of: &Arc<RequestBatcher<u32, u32>>, size| {
            let of = of.clone();
            tokio::spawn(async move { join_all((0..size).map(|number| of.submit(number))).await })
        };
        let submitted = [submit_all(&few, 4), submit_all(&many, 50)];
        while few.state().waiting.len() + many.state().waiting.len() < 52 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        (0..3).for_each(|_| release.send(()).unwrap());
        join_all(submitted)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .for_each(|response| assert!(response.is_ok()));
        assert_eq!(
            *calls.lock().unwrap(),
            [("few", 2), ("many", 50), ("few", 2)]
        );
    }

    /// A rejection is returned only to the request that caused it.
    #[tokio::test]
    async fn rejection_reaches_its_own_request() {
        let doubler = doubler(1, 3);
        let first = doubler.submit(1);
        doubler.until_calls(1).await;
        let mut others = Vec::new();
        for number in [5, 0, 7] {
            others.push(doubler.submit(number));
            doubler.until_waiting(others.len()).await;
        }
        (0..5).for_each(|_| doubler.release.send(()).unwrap());
        assert_eq!(first.await.unwrap(), Ok(2));
        let responses: Vec<_> = join_all(others)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            responses,
            [
                Ok(10),
                Err(StoreError::Refused("nought".to_owned())),
                Ok(14)
            ]
        );
        assert_eq!(
            doubler.calls.lock().unwrap()[1..],
            [vec![5, 0, 7], vec![5], vec![0], vec![7]]
        );
    }

    /// A panic is returned as an error, and later requests are still executed.
    #[tokio::test]
    async fn panic_does_not_stop_batcher() {
        let doubler = doubler(1, 3);
        (0..3).for_each(|_| doubler.release.send(()).unwrap());
        let panicked = doubler.batcher.submit(13).await.unwrap_err();
        assert!(panicked.to_string().contains("panicked"), "{panicked}");
        assert_eq!(doubler.batcher.submit(2).await, Ok(4));
        // The caller stops waiting for this request.
        drop(tokio::time::timeout(std::time::Duration::ZERO, doubler.batcher.submit(3)).await);
        doubler.until_calls(3).await;
        assert_eq!(doubler.calls.lock().unwrap()[2], [3]);
    }
}
