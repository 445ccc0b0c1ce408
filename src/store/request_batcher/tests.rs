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
    let (noted, released): (Arc<Mutex<Vec<Vec<u32>>>>, _) = (Arc::default(), Mutex::new(released));
    let notes = noted.clone();
    let batcher = RequestBatcher::new(
        &ConcurrencyLimit::new(turns),
        most,
        move |numbers: &[u32]| {
            notes.lock().push(numbers.to_vec());
            released.lock().recv().unwrap();
            match numbers {
                numbers if numbers.contains(&13) => panic!("thirteen"),
                numbers if numbers.contains(&0) => Err(StoreError::Refused("nought".to_owned())),
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
        while self.calls.lock().len() < calls {
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
    assert_eq!(*doubler.calls.lock(), [vec![1], vec![2, 3, 4], vec![5, 6]]);
}

#[tokio::test]
async fn one_kind_uses_half_of_calls() {
    let doubler = doubler(4, 1);
    let submitted: Vec<_> = (1..=3).map(|number| doubler.submit(number)).collect();
    doubler.until_calls(2).await;
    doubler.until_waiting(1).await;
    assert_eq!(
        (doubler.calls.lock().len(), doubler.batcher.state().workers),
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
    let turns = ConcurrencyLimit::new(1);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (release, released) = mpsc::channel();
    let released = Arc::new(Mutex::new(released));
    let kind = |name: &'static str, most| {
        let calls = calls.clone();
        let released = released.clone();
        RequestBatcher::new(&turns, most, move |numbers: &[u32]| {
            released.lock().recv().unwrap();
            calls.lock().push((name, numbers.len()));
            Ok(numbers.to_vec())
        })
    };
    let few = kind("few", 2);
    let many = kind("many", 100);
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
    assert_eq!(*calls.lock(), [("few", 2), ("many", 50), ("few", 2)]);
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
        doubler.calls.lock()[1..],
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
    assert_eq!(doubler.calls.lock()[2], [3]);
}
