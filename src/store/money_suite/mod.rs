//! What every store of money must do: written against the trait, run for each database by
//! [`money_suite`].

pub mod at_once;
pub mod bets;
pub mod delivery;
pub mod keys;
pub mod model;
pub mod rules;
pub mod together;
pub mod wallets;

use std::time::Duration;

use uuid::Uuid;

use super::money::*;
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::ids::{EventId, MarketKey, MarketName, Reference, SelectionId, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Balance, HoldResolution, ReservationStatus};

/// A database, beside the store.
pub trait Raw {
    /// SQL that takes away, for its connection or for good, what keeps rows from contradicting
    /// themselves.
    const UNGUARD: &'static str;

    /// Runs statements on a connection of its own.
    fn run(&self, sql: &str) -> Result<(), String>;
}

/// Makes a test of each check. `$open` gives a migrated store, and what must live as long as it and
/// is its [`Raw`]. Attributes behind it are those of the tests.
macro_rules! money_suite {
    ($open:expr $(, #[$attribute:meta])*) => {
        #[rstest::rstest]
        #[case::no_wallet($crate::store::money_suite::wallets::without_a_wallet_nothing_moves)]
        #[case::deposit($crate::store::money_suite::wallets::a_deposit_makes_the_wallet_and_is_made_once)]
        #[case::withdraw($crate::store::money_suite::wallets::a_withdrawal_is_made_once_and_never_of_more_than_there_is)]
        #[case::reserve($crate::store::money_suite::wallets::a_reservation_is_made_once_and_told_as_it_stands)]
        #[case::settle($crate::store::money_suite::wallets::a_reservation_ends_in_one_way)]
        #[case::references($crate::store::money_suite::wallets::a_reference_is_of_one_user_and_one_kind)]
        #[case::largest($crate::store::money_suite::wallets::the_largest_balance_is_held_and_nothing_above)]
        #[case::expiry($crate::store::money_suite::wallets::what_is_old_expires_but_never_what_a_bet_holds)]
        #[case::transfer_pages($crate::store::money_suite::wallets::transfers_are_read_in_pages)]
        #[case::reservation_pages($crate::store::money_suite::wallets::reservations_are_read_in_pages)]
        #[case::wallet_key($crate::store::money_suite::keys::wallet_key_gets_its_first_answer)]
        #[case::wallet_key_refused($crate::store::money_suite::keys::wallet_key_keeps_a_refusal)]
        #[case::wallet_keys($crate::store::money_suite::keys::wallet_keys_do_not_collide)]
        #[case::wallet_key_reference($crate::store::money_suite::keys::wallet_key_and_reference_work_together)]
        #[case::one_wallet_key($crate::store::money_suite::keys::one_wallet_key_at_once_is_one_movement)]
        #[case::place($crate::store::money_suite::bets::a_bet_is_placed_with_all_that_belongs_to_it)]
        #[case::key($crate::store::money_suite::bets::a_key_gets_its_first_answer_for_ever)]
        #[case::refused($crate::store::money_suite::bets::what_the_wallet_refuses_is_kept_with_the_key)]
        #[case::refusal($crate::store::money_suite::bets::a_refusal_is_kept_unless_there_is_an_answer)]
        #[case::twice($crate::store::money_suite::bets::the_same_bet_is_not_placed_twice)]
        #[case::taken_reference($crate::store::money_suite::bets::a_bet_never_takes_over_a_reservation)]
        #[case::decide($crate::store::money_suite::bets::a_bet_is_decided_once)]
        #[case::timed_out($crate::store::money_suite::bets::a_bet_that_timed_out_is_to_be_cancelled)]
        #[case::held_by_bet($crate::store::money_suite::bets::only_the_bet_ends_its_reservation)]
        #[case::bet_pages($crate::store::money_suite::bets::bets_are_read_in_pages)]
        #[case::overdue($crate::store::money_suite::bets::overdue_are_the_pending_whose_time_is_over)]
        #[case::exact($crate::store::money_suite::bets::every_bet_reads_back_exactly)]
        #[case::outbox($crate::store::money_suite::delivery::a_row_of_the_outbox_has_one_owner_at_a_time)]
        #[case::outbox_ids($crate::store::money_suite::delivery::a_number_of_the_outbox_is_never_given_again)]
        #[case::cancels($crate::store::money_suite::delivery::a_cancel_is_tried_until_it_is_done)]
        #[case::takers($crate::store::money_suite::at_once::takers_at_once_share_the_outbox)]
        #[case::hot_wallet($crate::store::money_suite::at_once::one_wallet_under_64_threads_never_goes_below_zero)]
        #[case::one_reference($crate::store::money_suite::at_once::one_reference_at_once_is_one_movement)]
        #[case::one_key($crate::store::money_suite::at_once::one_key_100_times_at_once_is_one_bet)]
        #[case::commit_or_refund($crate::store::money_suite::at_once::of_commit_and_refund_at_once_one_wins)]
        #[case::deciders($crate::store::money_suite::at_once::of_two_verdicts_at_once_one_wins)]
        #[case::new_wallet($crate::store::money_suite::at_once::first_deposits_at_once_make_one_wallet)]
        #[case::anything($crate::store::money_suite::at_once::anything_at_once_leaves_nothing_amiss)]
        #[case::place_together($crate::store::money_suite::together::bets_are_placed_together_each_with_its_own_answer)]
        #[case::all_or_none($crate::store::money_suite::together::of_bets_in_one_call_all_are_placed_or_none)]
        #[case::decide_together($crate::store::money_suite::together::bets_are_decided_together_each_with_its_own_outcome)]
        #[case::calls_at_once($crate::store::money_suite::together::calls_at_once_get_in_nobodys_way)]
        #[case::like_the_model($crate::store::money_suite::model::any_operations_do_what_the_model_does)]
        $(#[$attribute])*
        fn every_money_store(#[case] check: fn(&dyn $crate::store::money::MoneyStore)) {
            let (store, _kept) = $open;
            check(&store);
            $crate::store::money_suite::assert_clean(&store);
        }

        #[test]
        $(#[$attribute])*
        fn every_rule_is_held_against_the_tables() {
            let (store, raw) = $open;
            $crate::store::money_suite::rules::are_found(&store, &raw);
        }

        #[test]
        $(#[$attribute])*
        fn transfers_stay_as_they_are() {
            let (store, raw) = $open;
            $crate::store::money_suite::rules::transfers_stay(&store, &raw);
        }
    };
}
pub(crate) use money_suite;

/// No rule is broken, and every rule was looked at.
pub fn assert_clean(store: &dyn MoneyStore) {
    let found = store.verify(at(0), Duration::ZERO).unwrap();
    assert!(found.checks.len() >= 14, "{found:?}");
    let broken: Vec<_> = found
        .checks
        .iter()
        .filter(|check| check.violations > 0)
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// So many seconds behind the moment that the tests begin at.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + seconds * 1_000_000).unwrap()
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub fn reference(text: &str) -> Reference {
    Reference::new(text).unwrap()
}

pub fn amount(cents: i64) -> Amount {
    Amount::new(cents).unwrap()
}

pub fn order(name: &str, cents: i64, text: &str) -> TransferRequest {
    TransferRequest {
        user_id: user(name),
        amount: amount(cents),
        reference: reference(text),
        at: at(0),
    }
}

pub fn key(key: &str, fingerprint: &str) -> RequestKey {
    RequestKey {
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
    }
}

pub fn notice(payload: &str) -> OutboxMessage {
    OutboxMessage {
        payload: payload.to_owned(),
        leased_until: at(5),
    }
}

/// A pending bet, with ten seconds to be decided.
pub fn bet(name: &str, id: BetId, cents: i64) -> Bet {
    Bet {
        id,
        user_id: user(name),
        event_id: EventId::new("MATCH_001").unwrap(),
        market: MarketKey {
            name: MarketName::new("1x2").unwrap(),
            line: None,
        },
        selection: SelectionId::new("home").unwrap(),
        stake: amount(cents),
        price: "1.528".parse().unwrap(),
        status: BetStatus::Pending,
        reason: None,
        provider_ref: None,
        placed_at: at(0),
        decide_by: at(10),
        decided_at: None,
    }
}

/// Ids of bets that grow with their number.
pub fn bet_id(number: u128) -> BetId {
    BetId(Uuid::from_u128(
        0x0199_0000_0000_7000_8000_0000_0000_0000 + number,
    ))
}

pub fn confirmed() -> BetOutcome {
    BetOutcome::Confirmed {
        provider_ref: "P-1".to_owned(),
    }
}

pub fn rejected() -> BetOutcome {
    BetOutcome::Rejected {
        reason: "LIMIT_EXCEEDED".to_owned(),
        provider_ref: "P-2".to_owned(),
    }
}

/// The balances of a wallet, as (available, reserved).
pub fn balances(store: &dyn MoneyStore, name: &str) -> (i64, i64) {
    let Balance {
        available,
        reserved,
    } = store.wallet(&user(name)).unwrap().unwrap().balance;
    (available, reserved)
}

/// All transfers of a user, the oldest first.
pub fn transfers(store: &dyn MoneyStore, name: &str) -> Vec<Transfer> {
    let mut all = store
        .transfers(
            &user(name),
            Page {
                before: None,
                limit: 100_000,
            },
        )
        .unwrap();
    all.reverse();
    all
}

/// All reservations of a user, the oldest first.
pub fn reservations(store: &dyn MoneyStore, name: &str) -> Vec<Reservation> {
    let mut all = store
        .reservations(
            &user(name),
            None,
            Page {
                before: None,
                limit: 100_000,
            },
        )
        .unwrap();
    all.reverse();
    all
}

pub fn settle(
    store: &dyn MoneyStore,
    name: &str,
    text: &str,
    settlement: HoldResolution,
) -> Result<ReservationStatus, WalletError> {
    store
        .settle(&user(name), &reference(text), settlement, at(2))
        .map(|reservation| reservation.status)
}
