//! Batches concurrent store calls. A request that arrives while a batch is running joins the next
//! one; a request that arrives alone is sent at once. A database executes many small operations
//! much faster in one call. If the database rejects a batch because of one of its requests, the
//! requests are retried one by one, so that no request receives the error of another.
//!
//! Several kinds of request share the connections in turn. A kind with more waiting requests sends
//! larger batches, so that a faster kind does not starve a slower one: bets are decided as fast as
//! they are placed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::StoreError;
use crate::telemetry::role;

/// Limits concurrent calls, over all kinds of request that share it. The longest-waiting call is
/// next.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit {
    permits: Arc<Semaphore>,
    /// Maximum number of concurrent calls of one kind.
    calls_per_kind: usize,
}

impl ConcurrencyLimit {
    /// Allows `calls` concurrent calls; half of them, at least one, may be of one kind.
    pub fn new(calls: usize) -> ConcurrencyLimit {
        ConcurrencyLimit {
            permits: Arc::new(Semaphore::new(calls.max(1))),
            calls_per_kind: (calls / 2).max(1),
        }
    }
}

/// Executes a batch and returns a response for each request, in order.
type Call<Q, A> = dyn Fn(&[Q]) -> Result<Vec<A>, StoreError> + Send + Sync;

/// Batches requests of one kind.
pub struct RequestBatcher<Q, A> {
    call: Box<Call<Q, A>>,
    limit: ConcurrencyLimit,
    max_batch: usize,
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
    /// Sends at most `max_batch` requests per call, on the runtime of the caller of this function.
    pub fn new(
        limit: &ConcurrencyLimit,
        max_batch: usize,
        call: impl Fn(&[Q]) -> Result<Vec<A>, StoreError> + Send + Sync + 'static,
    ) -> Arc<RequestBatcher<Q, A>> {
        let state = Mutex::new(State {
            waiting: VecDeque::new(),
            workers: 0,
        });
        Arc::new(RequestBatcher {
            call: Box::new(call),
            limit: limit.clone(),
            max_batch: max_batch.max(1),
            runtime: Handle::current(),
            state,
        })
    }

    /// Submits a request and returns its response. If the caller stops waiting, the request is
    /// still executed.
    pub async fn submit(self: &Arc<Self>, request: Q) -> Result<A, StoreError> {
        let (reply, response) = oneshot::channel();
        if self.enqueue(request, reply) {
            self.runtime.spawn(role::inherit(self.clone().work()));
        }
        response
            .await
            .unwrap_or_else(|_| Err(failed("no response was sent")))
    }

    /// Returns whether the caller must start another worker; that worker is already counted.
    fn enqueue(&self, request: Q, reply: ReplySender<A>) -> bool {
        let mut state = self.state();
        state.waiting.push_back((request, reply));
        let is_needed = state.workers < self.limit.calls_per_kind;
        state.workers += usize::from(is_needed);
        is_needed
    }

    /// Executes batches until no request is waiting.
    async fn work(self: Arc<Self>) {
        loop {
            // The semaphore is never closed.
            let permit = self.limit.permits.acquire().await;
            let Some((requests, replies)) = self.take() else {
                return;
            };
            let this = self.clone();
            let executing = role::carry(move || this.responses(&requests));
            let called = tokio::task::spawn_blocking(executing).await;
            drop(permit);
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
        let size = state.waiting.len().min(self.max_batch);
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
        self.state.lock()
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
mod tests;
