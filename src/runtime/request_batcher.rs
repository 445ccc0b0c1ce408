//! Calls to the store that come at the same time, made as one. A database does many small things
//! much sooner together than one by one; so whoever comes while others are at it waits for them
//! with all who come meanwhile, and goes in one call with those. Whoever comes alone goes at once.
//! Where the database refuses a call because of one of its questions, each is asked by itself, so
//! that nobody is told of another's.
//!
//! Questions of several kinds take turns at the database. A kind of which more wait asks more of
//! them in its turn, so that none is left behind by another that comes faster: bets are decided as
//! fast as they are placed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

/// Calls that may be under way at once, of all kinds that share these turns. Whoever waits longest
/// is next.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit {
    turns: Arc<Semaphore>,
    /// Of one kind.
    calls: usize,
}

impl ConcurrencyLimit {
    /// So many calls at once; half of them, at least one, may be of one kind.
    pub fn new(turns: usize) -> ConcurrencyLimit {
        ConcurrencyLimit {
            turns: Arc::new(Semaphore::new(turns.max(1))),
            calls: (turns / 2).max(1),
        }
    }
}

/// Does many at once; gives an answer for each, in the same order.
type Call<Q, A> = dyn Fn(&[Q]) -> Result<Vec<A>, StoreError> + Send + Sync;

/// Questions of one kind.
pub struct RequestBatcher<Q, A> {
    call: Box<Call<Q, A>>,
    turns: ConcurrencyLimit,
    most: usize,
    /// Whose questions are asked does not depend on the thread that asked first, which may end
    /// before them.
    runtime: Handle,
    state: Mutex<State<Q, A>>,
}

struct State<Q, A> {
    waiting: VecDeque<(Q, Asker<A>)>,
    workers: usize,
}

type Asker<A> = oneshot::Sender<Result<A, StoreError>>;

impl<Q: Send + 'static, A: Send + 'static> RequestBatcher<Q, A> {
    /// Asks at most `most` questions in a call, on the runtime that this is called on.
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

    /// The answer to a question. Whoever does not wait for it has it asked all the same.
    pub async fn submit(self: &Arc<Self>, question: Q) -> Result<A, StoreError> {
        let (asker, answer) = oneshot::channel();
        if self.enqueue(question, asker) {
            self.runtime.spawn(self.clone().work());
        }
        answer
            .await
            .unwrap_or_else(|_| Err(failed("it gave no answer")))
    }

    /// Says whether another worker is needed, which is counted already.
    fn enqueue(&self, question: Q, asker: Asker<A>) -> bool {
        let mut state = self.state();
        state.waiting.push_back((question, asker));
        let is_needed = state.workers < self.turns.calls;
        state.workers += usize::from(is_needed);
        is_needed
    }

    /// Asks what waits, until nothing does.
    async fn work(self: Arc<Self>) {
        loop {
            // Never closed.
            let turn = self.turns.turns.acquire().await;
            let Some((questions, askers)) = self.take() else {
                return;
            };
            let this = self.clone();
            let called = tokio::task::spawn_blocking(move || this.answers(&questions)).await;
            drop(turn);
            match called {
                Ok(answers) => askers
                    .into_iter()
                    .zip(answers)
                    .for_each(|(asker, answer)| tell(asker, answer)),
                Err(failure) => askers
                    .into_iter()
                    .for_each(|asker| tell(asker, Err(failed(&failure.to_string())))),
            }
        }
    }

    /// As much of what waits as goes into a call. Where that is nothing the worker is counted no
    /// more: who comes now needs another.
    fn take(&self) -> Option<(Vec<Q>, Vec<Asker<A>>)> {
        let mut state = self.state();
        let size = state.waiting.len().min(self.most);
        if size == 0 {
            state.workers -= 1;
            return None;
        }
        Some(state.waiting.drain(..size).unzip())
    }

    /// Blocks.
    fn answers(&self, questions: &[Q]) -> Vec<Result<A, StoreError>> {
        match (self.call)(questions) {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(StoreError::Refused(_) | StoreError::Unreadable(_)) if questions.len() > 1 => {
                questions
                    .chunks(1)
                    .flat_map(|question| self.answers(question))
                    .collect()
            }
            Err(error) => questions.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell<A>(asker: Asker<A>, answer: Result<A, StoreError>) {
    // Whoever does not wait any more needs none.
    let _ = asker.send(answer);
}

fn failed(why: &str) -> StoreError {
    StoreError::Unavailable(format!("the database thread failed: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    /// Doubles numbers, when it is let; notes what each call had.
    struct Doubler {
        together: Arc<RequestBatcher<u32, u32>>,
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        lets: mpsc::Sender<()>,
    }

    fn doubler(turns: usize, most: usize) -> Doubler {
        let (lets, is_let) = mpsc::channel();
        let (noted, is_let): (Arc<Mutex<Vec<Vec<u32>>>>, _) = (Arc::default(), Mutex::new(is_let));
        let notes = noted.clone();
        let together = RequestBatcher::new(
            &ConcurrencyLimit::new(turns),
            most,
            move |numbers: &[u32]| {
                notes.lock().unwrap().push(numbers.to_vec());
                is_let.lock().unwrap().recv().unwrap();
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
            together,
            calls: noted,
            lets,
        }
    }

    impl Doubler {
        async fn until_calls(&self, calls: usize) {
            while self.calls.lock().unwrap().len() < calls {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }

        fn submit(&self, number: u32) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
            let together = self.together.clone();
            tokio::spawn(async move { together.submit(number).await })
        }

        async fn until_waiting(&self, waiting: usize) {
            while self.together.state().waiting.len() < waiting {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test]
    async fn who_comes_alone_goes_at_once_and_who_comes_meanwhile_goes_together() {
        let doubler = doubler(1, 3);
        let first = doubler.submit(1);
        doubler.until_calls(1).await;
        let mut others = Vec::new();
        for number in 2..=6 {
            others.push(doubler.submit(number));
            doubler.until_waiting(others.len()).await;
        }
        (0..3).for_each(|_| doubler.lets.send(()).unwrap());
        assert_eq!(first.await.unwrap(), Ok(2));
        let answers: Vec<_> = join_all(others)
            .await
            .into_iter()
            .map(|answer| answer.unwrap().unwrap())
            .collect();
        assert_eq!(answers, [4, 6, 8, 10, 12]);
        assert_eq!(
            *doubler.calls.lock().unwrap(),
            [vec![1], vec![2, 3, 4], vec![5, 6]]
        );
    }

    #[tokio::test]
    async fn half_of_the_calls_are_of_one_kind_and_no_more() {
        let doubler = doubler(4, 1);
        let asked: Vec<_> = (1..=3).map(|number| doubler.submit(number)).collect();
        doubler.until_calls(2).await;
        doubler.until_waiting(1).await;
        assert_eq!(
            (
                doubler.calls.lock().unwrap().len(),
                doubler.together.state().workers
            ),
            (2, 2)
        );
        (0..3).for_each(|_| doubler.lets.send(()).unwrap());
        assert!(
            join_all(asked)
                .await
                .into_iter()
                .all(|answer| answer.unwrap().is_ok())
        );
    }

    /// Two kinds at one turn: as long as both have something to ask, they ask in turn, and the
    /// slower one asks all it has.
    #[tokio::test]
    async fn kinds_take_turns() {
        let (turns, calls) = (ConcurrencyLimit::new(1), Arc::new(Mutex::new(Vec::new())));
        let (lets, is_let) = mpsc::channel();
        let is_let = Arc::new(Mutex::new(is_let));
        let kind = |name: &'static str, most| {
            let (calls, is_let) = (calls.clone(), is_let.clone());
            RequestBatcher::new(&turns, most, move |numbers: &[u32]| {
                is_let.lock().unwrap().recv().unwrap();
                calls.lock().unwrap().push((name, numbers.len()));
                Ok(numbers.to_vec())
            })
        };
        let (few, many) = (kind("few", 2), kind("many", 100));
        let ask = |of: &Arc<RequestBatcher<u32, u32>>, size| {
            let of = of.clone();
            tokio::spawn(async move { join_all((0..size).map(|number| of.submit(number))).await })
        };
        let asked = [ask(&few, 4), ask(&many, 50)];
        while few.state().waiting.len() + many.state().waiting.len() < 52 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        (0..3).for_each(|_| lets.send(()).unwrap());
        join_all(asked)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .for_each(|answer| assert!(answer.is_ok()));
        assert_eq!(
            *calls.lock().unwrap(),
            [("few", 2), ("many", 50), ("few", 2)]
        );
    }

    #[tokio::test]
    async fn what_is_refused_is_told_to_whom_it_is_about() {
        let doubler = doubler(1, 3);
        let first = doubler.submit(1);
        doubler.until_calls(1).await;
        let mut others = Vec::new();
        for number in [5, 0, 7] {
            others.push(doubler.submit(number));
            doubler.until_waiting(others.len()).await;
        }
        (0..5).for_each(|_| doubler.lets.send(()).unwrap());
        assert_eq!(first.await.unwrap(), Ok(2));
        let answers: Vec<_> = join_all(others)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            answers,
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

    #[tokio::test]
    async fn a_panic_is_a_failure_and_the_next_is_asked_all_the_same() {
        let doubler = doubler(1, 3);
        (0..3).for_each(|_| doubler.lets.send(()).unwrap());
        let panicked = doubler.together.submit(13).await.unwrap_err();
        assert!(panicked.to_string().contains("panicked"), "{panicked}");
        assert_eq!(doubler.together.submit(2).await, Ok(4));
        // Nobody waits for this one.
        drop(tokio::time::timeout(std::time::Duration::ZERO, doubler.together.submit(3)).await);
        doubler.until_calls(3).await;
        assert_eq!(doubler.calls.lock().unwrap()[2], [3]);
    }
}
