//! A bet supplier with scripted behaviour.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::domain::bets::bet::{Bet, BetId};
use crate::domain::ids::UserId;
use crate::supplier::confirm::{Answer, BetSupplier, SupplierError};

/// How the supplier treats a request.
pub(crate) enum Behaviour {
    Answer(Answer),
    After(Duration, Answer),
    Fail(SupplierError),
    Silent,
}

pub(crate) fn confirmed() -> Behaviour {
    Behaviour::Answer(Answer::Confirmed {
        provider_ref: "SUP-1".to_owned(),
    })
}

pub(crate) fn rejected(reason: &str) -> Behaviour {
    Behaviour::Answer(Answer::Rejected {
        reason: reason.to_owned(),
        provider_ref: "SUP-1".to_owned(),
    })
}

type Behave = Box<dyn Fn(&Bet, usize) -> Behaviour + Send>;
type CancelWith = Box<dyn Fn(usize) -> Result<(), SupplierError> + Send>;

/// Records the number and times of requests.
pub(crate) struct ProbeSupplier {
    behave: Mutex<Behave>,
    cancel: Mutex<(CancelWith, Duration)>,
    confirm_requests: Mutex<Vec<(BetId, Instant)>>,
    cancels: Mutex<Vec<Instant>>,
    at_once: Arc<Mutex<(usize, usize)>>,
}

/// A request in flight, until it is dropped.
struct InFlight(Arc<Mutex<(usize, usize)>>);

impl InFlight {
    fn new(at_once: &Arc<Mutex<(usize, usize)>>) -> InFlight {
        let mut count = at_once.lock().unwrap();
        count.0 += 1;
        count.1 = count.1.max(count.0);
        InFlight(at_once.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

impl ProbeSupplier {
    /// A supplier whose behaviour depends on the bet and the number of earlier requests for it.
    pub(crate) fn new(behave: impl Fn(&Bet, usize) -> Behaviour + Send + 'static) -> ProbeSupplier {
        ProbeSupplier {
            behave: Mutex::new(Box::new(behave)),
            cancel: Mutex::new((Box::new(|_| Ok(())), Duration::ZERO)),
            confirm_requests: Mutex::default(),
            cancels: Mutex::default(),
            at_once: Arc::default(),
        }
    }

    pub(crate) fn behave(&self, behave: impl Fn(&Bet, usize) -> Behaviour + Send + 'static) {
        *self.behave.lock().unwrap() = Box::new(behave);
    }

    /// Sets the reply to cancels, by the number of earlier cancels, and its delay.
    pub(crate) fn cancel_with(
        &self,
        answer: impl Fn(usize) -> Result<(), SupplierError> + Send + 'static,
        delay: Duration,
    ) {
        *self.cancel.lock().unwrap() = (Box::new(answer), delay);
    }

    pub(crate) fn confirm_requests(&self) -> usize {
        self.confirm_requests.lock().unwrap().len()
    }

    pub(crate) fn asked_of(&self, bet: BetId) -> Vec<Instant> {
        self.confirm_requests
            .lock()
            .unwrap()
            .iter()
            .filter(|(id, _)| *id == bet)
            .map(|(_, at)| *at)
            .collect()
    }

    pub(crate) fn cancels(&self) -> usize {
        self.cancels.lock().unwrap().len()
    }

    pub(crate) fn cancel_times(&self) -> Vec<Instant> {
        self.cancels.lock().unwrap().clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.at_once.lock().unwrap().1
    }
}

impl BetSupplier for ProbeSupplier {
    fn confirm(&self, bet: &Bet) -> BoxFuture<'static, Result<Answer, SupplierError>> {
        let attempt = self.asked_of(bet.id).len();
        self.confirm_requests
            .lock()
            .unwrap()
            .push((bet.id, Instant::now()));
        let behaviour = (self.behave.lock().unwrap())(bet, attempt);
        let in_flight = InFlight::new(&self.at_once);
        async move {
            let _at_work = in_flight;
            match behaviour {
                Behaviour::Answer(answer) => Ok(answer),
                Behaviour::After(delay, answer) => {
                    tokio::time::sleep(delay).await;
                    Ok(answer)
                }
                Behaviour::Fail(error) => Err(error),
                Behaviour::Silent => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn cancel(&self, _: BetId, _: &UserId) -> BoxFuture<'static, Result<(), SupplierError>> {
        let (answer, delay) = {
            let mut cancels = self.cancels.lock().unwrap();
            let with = self.cancel.lock().unwrap();
            cancels.push(Instant::now());
            ((with.0)(cancels.len() - 1), with.1)
        };
        let in_flight = InFlight::new(&self.at_once);
        async move {
            let _at_work = in_flight;
            tokio::time::sleep(delay).await;
            answer
        }
        .boxed()
    }
}
