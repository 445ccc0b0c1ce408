//! Random operations, in any order and with repetitions, have the same effect on a store as on a
//! simple model made of maps. The model is written independently of the databases.

mod operations;
mod state;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::operations::{Operation, any_operations};
use self::state::Model;
use super::*;

/// The names of a test case, unique so that one database serves all cases.
#[derive(Clone)]
pub(crate) struct Names {
    case: u64,
    ids: Vec<BetId>,
}

impl Names {
    fn of(case: u64) -> Names {
        Names {
            case,
            ids: (0..operations::BETS).map(|_| BetId::new()).collect(),
        }
    }

    fn user(&self, number: u8) -> String {
        format!("CASE_{}_{number}", self.case)
    }

    fn bet(&self, number: u8) -> BetId {
        self.ids[usize::from(number)]
    }
}

pub(crate) fn random_operations_follow_the_model(store: &dyn MoneyStore) {
    let case = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&any_operations(), |operations| {
        case.set(case.get() + 1);
        let outcome = follow(store, &Names::of(case.get()), &operations);
        // Also after a failure, because the next case must start without pending rows.
        finish(store);
        outcome?;
        let found = store.verify(at(0), Duration::ZERO).map_err(fail)?;
        prop_assert_eq!(found.violations(), 0, "{:#?}", found);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn fail(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}"))
}

/// Runs the operations on both, and compares each answer and the final state.
fn follow(
    store: &dyn MoneyStore,
    names: &Names,
    operations: &[Operation],
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut now = 0;
    for operation in operations {
        // Some operations happen at the same time.
        now += i64::from(operation.pause);
        let expected = model.does(&operation.what, now);
        let answer = operation.what.on(store, names, now).map_err(fail)?;
        prop_assert_eq!(answer, expected, "{:?} at {}", operation.what, now);
    }
    model.compare(store, names)
}

/// Ends all pending bets and reservations, and completes all deliveries.
fn finish(store: &dyn MoneyStore) {
    let late = at(1_000_000);
    for bet in store.overdue_bets(late, 1_000).unwrap() {
        store
            .decide_bet(bet.id, &BetOutcome::TimedOut, &notice(""), late)
            .unwrap();
    }
    store.expire_reservations(late, 1_000, late).unwrap();
    let rows: Vec<_> = store
        .take_outbox(late, late, 10_000)
        .unwrap()
        .into_iter()
        .map(|row| row.id)
        .collect();
    store.published(&rows).unwrap();
    for cancel in store.take_cancels(late, late, 10_000).unwrap() {
        store.cancelled(cancel.bet_id, late).unwrap();
    }
    assert_eq!(
        (
            store.outbox_depth().unwrap().rows,
            store.open_cancels().unwrap()
        ),
        (0, 0)
    );
}
