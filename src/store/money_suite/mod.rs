//! The contract of every money store: checks written against the trait, run for each database by
//! [`money_suite`].

pub(crate) mod batches;
pub(crate) mod bets;
pub(crate) mod concurrency;
pub(crate) mod delivery;
pub(crate) mod holds;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod model;
pub(crate) mod rules;
pub(crate) mod settlement_model;
pub(crate) mod settlements;
pub(super) mod settling;
pub(crate) mod wallets;

use std::time::Duration;

use uuid::Uuid;

use super::StoreError;
use super::money::*;
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::ids::{EventId, MarketKey, MarketName, Reference, SelectionId, Source, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Balance, HoldResolution, ReservationStatus};

/// Raw access to the database of a store.
pub(super) trait Raw {
    /// SQL that disables the integrity checks of the tables, for its connection or permanently.
    const UNGUARD: &'static str;

    /// Runs statements on a separate connection.
    fn run(&self, sql: &str) -> Result<(), String>;
}

/// Generates one test per check. `$open` returns a migrated store and a guard that lives as long as
/// the store and implements [`Raw`]. The attributes after it are added to the tests.
macro_rules! money_suite {
    ($open:expr $(, #[$attribute:meta])*) => {
        #[rstest::rstest]
        #[case::no_wallet($crate::store::money_suite::wallets::movements_require_a_wallet)]
        #[case::deposit($crate::store::money_suite::wallets::deposit_creates_wallet_and_is_idempotent)]
        #[case::withdraw($crate::store::money_suite::wallets::withdrawal_is_idempotent_and_never_overdraws)]
        #[case::reserve($crate::store::money_suite::wallets::reservation_is_idempotent_and_current)]
        #[case::settle($crate::store::money_suite::wallets::reservation_ends_only_once)]
        #[case::references($crate::store::money_suite::wallets::references_are_per_user_and_kind)]
        #[case::largest($crate::store::money_suite::wallets::balance_cannot_exceed_maximum)]
        #[case::expiry($crate::store::money_suite::wallets::old_reservations_expire_except_bets)]
        #[case::transfer_pages($crate::store::money_suite::wallets::transfers_are_read_in_pages)]
        #[case::reservation_pages($crate::store::money_suite::wallets::reservations_are_read_in_pages)]
        #[case::wallet_key($crate::store::money_suite::keys::wallet_key_gets_its_first_answer)]
        #[case::wallet_key_refused($crate::store::money_suite::keys::wallet_key_keeps_a_rejection)]
        #[case::wallet_keys($crate::store::money_suite::keys::wallet_keys_do_not_collide)]
        #[case::wallet_key_reference($crate::store::money_suite::keys::wallet_key_and_reference_work_together)]
        #[case::one_wallet_key($crate::store::money_suite::keys::concurrent_wallet_key_is_one_movement)]
        #[case::place($crate::store::money_suite::bets::placed_bet_has_all_its_records)]
        #[case::key($crate::store::money_suite::bets::bet_key_keeps_its_first_answer)]
        #[case::refused($crate::store::money_suite::bets::wallet_rejection_is_stored_with_key)]
        #[case::refusal($crate::store::money_suite::bets::first_rejection_is_stored_for_key)]
        #[case::twice($crate::store::money_suite::bets::same_bet_is_not_placed_twice)]
        #[case::taken_reference($crate::store::money_suite::bets::bet_never_takes_over_a_reservation)]
        #[case::decide($crate::store::money_suite::bets::bet_is_decided_once)]
        #[case::timed_out($crate::store::money_suite::bets::timed_out_bet_is_cancelled)]
        #[case::held_by_bet($crate::store::money_suite::bets::only_the_bet_ends_its_reservation)]
        #[case::bet_pages($crate::store::money_suite::bets::bets_are_read_in_pages)]
        #[case::overdue($crate::store::money_suite::bets::overdue_bets_are_past_their_deadline)]
        #[case::exact($crate::store::money_suite::bets::every_bet_reads_back_exactly)]
        #[case::outbox($crate::store::money_suite::delivery::outbox_row_has_one_owner)]
        #[case::outbox_trace($crate::store::money_suite::delivery::outbox_row_keeps_its_trace)]
        #[case::outbox_ids($crate::store::money_suite::delivery::outbox_ids_are_never_reused)]
        #[case::cancels($crate::store::money_suite::delivery::cancel_is_retried_until_done)]
        #[case::takers($crate::store::money_suite::concurrency::concurrent_takers_share_the_outbox)]
        #[case::hot_wallet($crate::store::money_suite::concurrency::contended_wallet_never_goes_negative)]
        #[case::one_reference($crate::store::money_suite::concurrency::concurrent_reference_is_one_movement)]
        #[case::one_key($crate::store::money_suite::concurrency::concurrent_bet_key_is_one_bet)]
        #[case::commit_or_refund($crate::store::money_suite::concurrency::one_of_commit_and_refund_wins)]
        #[case::deciders($crate::store::money_suite::concurrency::one_of_concurrent_decisions_wins)]
        #[case::new_wallet($crate::store::money_suite::concurrency::concurrent_first_deposits_create_one_wallet)]
        #[case::anything($crate::store::money_suite::concurrency::random_concurrent_operations_keep_the_rules)]
        #[case::place_batch($crate::store::money_suite::batches::batched_bets_get_their_own_answers)]
        #[case::all_or_none($crate::store::money_suite::batches::batched_bets_are_placed_atomically)]
        #[case::decide_batch($crate::store::money_suite::batches::batched_decisions_get_their_own_outcomes)]
        #[case::calls_at_once($crate::store::money_suite::batches::concurrent_batches_lose_nothing)]
        #[case::hold_scopes($crate::store::money_suite::holds::held_bets_are_refused)]
        #[case::holds_add_up($crate::store::money_suite::holds::each_hold_is_released_by_itself)]
        #[case::hold_ends($crate::store::money_suite::holds::hold_ends_at_its_time)]
        #[case::hold_keys($crate::store::money_suite::holds::refusal_by_hold_is_stored_with_key)]
        #[case::hold_batches($crate::store::money_suite::holds::held_bets_do_not_delay_their_batch)]
        #[case::hold_repeated($crate::store::money_suite::holds::repeated_hold_requests_count_once)]
        #[case::hold_at_once($crate::store::money_suite::holds::no_bet_is_placed_after_a_hold)]
        #[case::ledger_examples($crate::store::money_suite::settlements::ledger_examples_end_as_described)]
        #[case::settled_bet($crate::store::money_suite::settlements::settled_bet_has_all_its_records)]
        #[case::void_reasons($crate::store::money_suite::settlements::history_says_why_a_bet_is_void)]
        #[case::results($crate::store::money_suite::settlements::results_are_stored_once)]
        #[case::due_pages($crate::store::money_suite::settlements::due_bets_are_read_in_pages)]
        #[case::settle_batch($crate::store::money_suite::settlements::batched_settlements_get_their_own_answers)]
        #[case::payout_too_high($crate::store::money_suite::settlements::payout_above_64_bits_is_not_paid)]
        #[case::positions($crate::store::money_suite::settlements::open_bets_are_summed_up)]
        #[case::by_outcome($crate::store::money_suite::settlements::bets_are_filtered_by_outcome)]
        #[case::lease($crate::store::money_suite::leases::market_is_leased_to_one_settler)]
        #[case::lease_ends($crate::store::money_suite::leases::new_record_ends_a_lease)]
        #[case::held_and_missing($crate::store::money_suite::leases::held_and_missing_bets_are_counted)]
        #[case::late_bet($crate::store::money_suite::leases::late_confirmation_reopens_its_market)]
        #[case::reopened($crate::store::money_suite::leases::reopening_ends_a_lease)]
        #[case::other_rules($crate::store::money_suite::leases::other_rules_reopen_markets_with_open_bets)]
        #[case::slow_settler($crate::store::money_suite::leases::earlier_results_do_not_undo_later_ones)]
        #[case::not_finished($crate::store::money_suite::leases::market_with_due_bets_is_not_finished)]
        #[case::slow_late_bet($crate::store::money_suite::leases::late_bet_settled_by_earlier_results_is_due)]
        #[case::settled_like_the_records($crate::store::money_suite::settlement_model::bets_are_settled_by_their_records)]
        #[case::settlers($crate::store::money_suite::settlement_model::concurrent_settlers_settle_each_bet)]
        #[case::like_the_model($crate::store::money_suite::model::random_operations_follow_the_model)]
        $(#[$attribute])*
        fn every_money_store(#[case] check: fn(&dyn $crate::store::money::MoneyStore)) {
            let (store, _kept) = $open;
            check(&store);
            $crate::store::money_suite::assert_clean(&store);
        }

        #[test]
        $(#[$attribute])*
        fn every_rule_detects_violations() {
            let (store, raw) = $open;
            $crate::store::money_suite::rules::are_found(&store, &raw);
        }

        #[test]
        $(#[$attribute])*
        fn open_markets_of_a_hold_are_counted() {
            let (store, _kept) = $open;
            $crate::store::money_suite::holds::open_markets_are_counted(&store);
        }

        #[test]
        $(#[$attribute])*
        fn holds_and_their_audit_are_immutable() {
            let (store, raw) = $open;
            $crate::store::money_suite::holds::records_stay(&store, &raw);
        }

        #[test]
        $(#[$attribute])*
        fn results_and_settlements_are_immutable() {
            let (store, raw) = $open;
            $crate::store::money_suite::settlements::records_stay(&store, &raw);
        }

        #[test]
        $(#[$attribute])*
        fn unsettled_bets_are_reported_in_time() {
            let (store, raw) = $open;
            $crate::store::money_suite::leases::unsettled_bets_are_found(&store, &raw);
        }

        #[test]
        $(#[$attribute])*
        fn transfers_are_immutable() {
            let (store, raw) = $open;
            $crate::store::money_suite::rules::transfers_stay(&store, &raw);
        }
    };
}
pub(crate) use money_suite;

/// Asserts that no rule is violated, and that the rules were checked.
pub(super) fn assert_clean(store: &dyn MoneyStore) {
    let found = store.verify(at(0), Duration::ZERO).unwrap();
    assert!(found.checks.len() >= 29, "{found:?}");
    let broken: Vec<_> = found
        .checks
        .iter()
        .filter(|check| check.violations > 0)
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A time this many seconds after the start time of the tests.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + seconds * 1_000_000).unwrap()
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(super) fn reference(text: &str) -> Reference {
    Reference::new(text).unwrap()
}

pub(super) fn amount(cents: i64) -> Amount {
    Amount::new(cents).unwrap()
}

pub(super) fn order(name: &str, cents: i64, text: &str) -> TransferRequest {
    TransferRequest {
        user_id: user(name),
        amount: amount(cents),
        reference: reference(text),
        at: at(0),
    }
}

pub(super) fn key(key: &str, fingerprint: &str) -> RequestKey {
    RequestKey {
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
    }
}

pub(super) fn notice(payload: &str) -> OutboxMessage {
    OutboxMessage {
        payload: payload.to_owned(),
        leased_until: at(5),
        trace: None,
    }
}

/// A pending bet with a deadline ten seconds after its placement.
pub(super) fn bet(name: &str, id: BetId, cents: i64) -> Bet {
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
        settlement: None,
    }
}

/// The source of prices.
pub(super) fn source() -> Source {
    Source::new("a").unwrap()
}

/// Places a bet at a price of [`source`].
pub(super) fn place_bet(
    store: &dyn MoneyStore,
    bet: &Bet,
    key: Option<&RequestKey>,
    notice: &OutboxMessage,
) -> Result<BetAnswer, StoreError> {
    store.place_bet(&BetPlacement {
        bet: bet.clone(),
        source: source(),
        key: key.cloned(),
        notice: notice.clone(),
    })
}

/// Bet ids that increase with their number.
pub(super) fn bet_id(number: u128) -> BetId {
    BetId(Uuid::from_u128(
        0x0199_0000_0000_7000_8000_0000_0000_0000 + number,
    ))
}

pub(super) fn confirmed() -> BetOutcome {
    BetOutcome::Confirmed {
        provider_ref: "P-1".to_owned(),
    }
}

pub(super) fn rejected() -> BetOutcome {
    BetOutcome::Rejected {
        reason: "LIMIT_EXCEEDED".to_owned(),
        provider_ref: "P-2".to_owned(),
    }
}

/// The balances of a wallet, as (available, reserved).
pub(super) fn balances(store: &dyn MoneyStore, name: &str) -> (i64, i64) {
    let Balance {
        available,
        reserved,
    } = store.wallet(&user(name)).unwrap().unwrap().balance;
    (available, reserved)
}

/// All transfers of a user, oldest first.
pub(super) fn transfers(store: &dyn MoneyStore, name: &str) -> Vec<Transfer> {
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

/// All reservations of a user, oldest first.
pub(super) fn reservations(store: &dyn MoneyStore, name: &str) -> Vec<Reservation> {
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

pub(super) fn settle(
    store: &dyn MoneyStore,
    name: &str,
    text: &str,
    settlement: HoldResolution,
) -> Result<ReservationStatus, WalletError> {
    store
        .settle(&user(name), &reference(text), settlement, at(2))
        .map(|reservation| reservation.status)
}
